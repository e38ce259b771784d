//! `pugmark keys`.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use pugmark_engine::Clock;

use super::CliError;
use super::progress::say;
use crate::serve::ServeError;
use crate::serve::config::beside;
use crate::serve::keys::{KeyFile, Scope};

/// Make, list and revoke the keys that clients of `pugmark serve` show.
#[derive(Debug, Args)]
#[command(after_help = "\
  pugmark keys create --store shop.pug --scope ingest --name web
  pugmark keys list --store shop.pug
  pugmark keys revoke --store shop.pug 3f9a01c2

A key is shown once, when it is made; only its hash is kept, in a file beside the store. A running
service notices within a second.")]
pub(super) struct KeysArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a key, and show it
    Create {
        #[command(flatten)]
        file: Where,
        /// What it allows; may be given several times
        #[arg(long = "scope", value_name = "SCOPE", required = true)]
        scopes: Vec<Scope>,
        /// Whose it is
        #[arg(long, value_name = "NAME", default_value = "")]
        name: String,
    },
    /// List the keys
    List {
        #[command(flatten)]
        file: Where,
    },
    /// Take a key back
    Revoke {
        #[command(flatten)]
        file: Where,
        /// Its id, as `list` tells it
        #[arg(value_name = "ID")]
        id: String,
    },
}

#[derive(Debug, Args)]
struct Where {
    /// The store
    #[arg(long, value_name = "DIR", env = "PUGMARK_STORE")]
    store: PathBuf,
    /// The file of keys [keys.json beside the store]
    #[arg(long, value_name = "FILE", env = "PUGMARK_KEYS")]
    keys: Option<PathBuf>,
}

impl Where {
    fn file(&self) -> KeyFile {
        KeyFile::new(self.keys.as_ref().unwrap_or(&beside(&self.store)))
    }
}

impl KeysArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        match self.command {
            Command::Create { file, scopes, name } => {
                let scopes: BTreeSet<Scope> = scopes.into_iter().collect();
                let now = Clock::system().now();
                let created = file.file().create(&name, scopes, now);
                let (key, text) = created.map_err(ServeError::from)?;
                say(&format!("key {}, which is not shown again:", key.id));
                print(&format!("{text}\n"))
            }
            Command::List { file } => list(&file.file()),
            Command::Revoke { file, id } => {
                let revoked = file.file().revoke(&id).map_err(ServeError::from)?;
                say(&format!("key {} ({}) is revoked", revoked.id, revoked.name));
                Ok(())
            }
        }
    }
}

fn list(file: &KeyFile) -> Result<(), CliError> {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(["id", "name", "scopes", "created"]);
    for key in file.read().map_err(ServeError::from)? {
        let scopes = key
            .scopes
            .iter()
            .map(|scope| format!("{scope:?}").to_lowercase());
        let scopes = scopes.collect::<Vec<_>>().join(" ");
        table.add_row([key.id, key.name, scopes, key.created]);
    }
    print(&format!("{table}\n"))
}

fn print(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|source| CliError::Output {
        path: PathBuf::from("standard output"),
        source,
    })
}
