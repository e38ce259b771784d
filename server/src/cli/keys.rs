//! `pugmark keys`.

use std::collections::BTreeSet;
use std::io::Write;
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use pugmark_engine::Clock;
use pugmark_query::sql::Settings;

use super::CliError;
use super::progress::say;
use crate::serve::ServeError;
use crate::serve::config::beside;
use crate::serve::keys::{KeyFile, Limits, Scope};

/// Make, list, limit and revoke the keys that clients of `pugmark serve` show.
#[derive(Debug, Args)]
#[command(after_help = "\
  pugmark keys create --store shop.pug --scope ingest --name web
  pugmark keys create --store shop.pug --scope query --name board --query-memory 128MB --queries 2
  pugmark keys list --store shop.pug
  pugmark keys limit --store shop.pug 3f9a01c2 --rate-limit 50 --query-deadline 10s
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
        #[command(flatten)]
        limits: LimitFlags,
    },
    /// List the keys
    List {
        #[command(flatten)]
        file: Where,
    },
    /// Change what a key may use
    Limit {
        #[command(flatten)]
        file: Where,
        /// Its id, as `list` tells it
        #[arg(value_name = "ID")]
        id: String,
        /// First forget the limits that it has
        #[arg(long)]
        reset: bool,
        #[command(flatten)]
        limits: LimitFlags,
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

/// Limits of a key; the service's own stand where nothing is said.
#[derive(Debug, Args)]
struct LimitFlags {
    /// Requests a second; 0 for any number
    #[arg(long, value_name = "N")]
    rate_limit: Option<u32>,
    /// Statements at a time; more wait
    #[arg(long, value_name = "N")]
    queries: Option<NonZero<u32>>,
    /// Memory of a statement, as 128MB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    query_memory: Option<usize>,
    /// Longest time of a statement, as 10s; 0 for any
    #[arg(long, value_name = "TIME", value_parser = time)]
    query_deadline: Option<u64>,
}

impl LimitFlags {
    fn limits(&self) -> Limits {
        Limits {
            rate_limit: self.rate_limit,
            queries: self.queries,
            query_memory_bytes: self.query_memory,
            query_deadline_ms: self.query_deadline,
        }
    }
}

/// Bytes of a size.
fn size(text: &str) -> Result<usize, String> {
    match setting("memory_limit", text)?.memory_bytes {
        0 => Err("a statement needs some memory".to_owned()),
        bytes => Ok(bytes),
    }
}

/// Milliseconds of a time; none for any.
fn time(text: &str) -> Result<u64, String> {
    let limit = setting("deadline", text)?.deadline;
    let millis = limit.map_or(0, |limit| limit.as_millis());
    u64::try_from(millis).map_err(|error| error.to_string())
}

/// Settings of which one is so.
fn setting(name: &str, text: &str) -> Result<Settings, String> {
    if text.eq_ignore_ascii_case("default") {
        return Err("leave it out, or --reset it, for the service's own".to_owned());
    }
    let mut settings = Settings::default();
    let assigned = settings.assign(name, text);
    assigned.map_err(|error| error.to_string())?;
    Ok(settings)
}

impl Where {
    fn file(&self) -> KeyFile {
        KeyFile::new(self.keys.as_ref().unwrap_or(&beside(&self.store)))
    }
}

impl KeysArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        match self.command {
            Command::Create {
                file,
                scopes,
                name,
                limits,
            } => {
                let scopes: BTreeSet<Scope> = scopes.into_iter().collect();
                let now = Clock::system().now();
                let created = file.file().create(&name, scopes, limits.limits(), now);
                let (key, text) = created.map_err(ServeError::from)?;
                say(&format!("key {}, which is not shown again:", key.id));
                print(&format!("{text}\n"))
            }
            Command::List { file } => list(&file.file()),
            Command::Limit {
                file,
                id,
                reset,
                limits,
            } => {
                let limits = limits.limits();
                let changed = file.file().limit(&id, |before| match reset {
                    true => limits,
                    false => limits.over(before),
                });
                let key = changed.map_err(ServeError::from)?;
                say(&format!(
                    "key {} ({}): {}",
                    key.id,
                    key.name,
                    told(&key.limits)
                ));
                Ok(())
            }
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
    table.set_header(["id", "name", "scopes", "created", "limits"]);
    for key in file.read().map_err(ServeError::from)? {
        let scopes = key
            .scopes
            .iter()
            .map(|scope| format!("{scope:?}").to_lowercase());
        let scopes = scopes.collect::<Vec<_>>().join(" ");
        let limits = told(&key.limits);
        table.add_row([key.id, key.name, scopes, key.created, limits]);
    }
    print(&format!("{table}\n"))
}

/// Limits for people.
fn told(limits: &Limits) -> String {
    let parts = [
        limits.rate_limit.map(|most| match most {
            0 => "any number of requests".to_owned(),
            most => format!("{most} requests/s"),
        }),
        limits
            .queries
            .map(|most| format!("{most} statements at a time")),
        limits
            .query_memory_bytes
            .map(|bytes| format!("{} each", indicatif::BinaryBytes(bytes as u64))),
        limits.query_deadline_ms.map(|millis| match millis {
            0 => "any time".to_owned(),
            millis => format!("{:.1} s each", Duration::from_millis(millis).as_secs_f64()),
        }),
    ];
    match parts.iter().flatten().next() {
        None => "the service's".to_owned(),
        Some(_) => parts.into_iter().flatten().collect::<Vec<_>>().join(", "),
    }
}

fn print(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|source| CliError::Output {
        path: PathBuf::from("standard output"),
        source,
    })
}
