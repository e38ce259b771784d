//! `pugmark serve`.

use clap::Args;
use tracing_subscriber::EnvFilter;

use super::CliError;
use super::progress::say;
use crate::serve::config::{Config, ConfigError, LogFormat, ServeFlags};
use crate::serve::{ServeError, Server};

/// Serve a store: events in over HTTP, answers out in SQL, also to psql and over Flight SQL.
#[derive(Debug, Args)]
#[command(after_help = "\
  pugmark serve --store shop.pug
  curl localhost:8686/v1/track -d '{\"userId\": \"ann\", \"event\": \"view\"}'
  curl localhost:8686/v1/sql -d 'SELECT event, count(*) FROM events GROUP BY event'
  psql postgresql://localhost:5439/pugmark

Events come in as Segment's SDKs send them. Without keys (`pugmark keys create`) only this machine
is served, and any key is taken. Settings come from --config, the environment and flags, each over
the one before. See docs/operations.md.")]
pub(super) struct ServeArgs {
    #[command(flatten)]
    flags: ServeFlags,
}

impl ServeArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let config = Config::new(&self.flags).map_err(ServeError::from)?;
        let filter = EnvFilter::try_new(&config.log).map_err(|error| ConfigError::Setting {
            setting: "log",
            problem: format!("is `{}`: {error}", config.log),
        });
        let filter = filter.map_err(ServeError::from)?;
        if self.flags.check {
            say(config.told().trim_end());
            return Ok(());
        }
        log(filter, config.log_format);
        let store = config.store.clone();
        let server = Server::start(config)?;
        if let Ok(address) = server.address() {
            let scheme = if server.is_encrypted() {
                "https"
            } else {
                "http"
            };
            tracing::info!(store = %store.display(), "serving {scheme}://{address}");
        }
        if let Some(address) = server.pg_address() {
            tracing::info!("serving postgresql://{address}/pugmark");
        }
        if let Some(address) = server.flight_address() {
            let scheme = if server.is_encrypted() {
                "grpc+tls"
            } else {
                "grpc"
            };
            tracing::info!("serving {scheme}://{address} (Arrow Flight SQL)");
        }
        if server.is_open() {
            tracing::warn!("no keys are configured: everybody on this machine may do anything");
        }
        server.run(interrupted())?;
        tracing::info!("everything is written; good-bye");
        Ok(())
    }
}

fn log(filter: EnvFilter, format: LogFormat) {
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr)
        .with_target(false);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

/// Ends when somebody asks the process to end.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminated) = signal(SignalKind::terminate()) else {
        let _told = tokio::signal::ctrl_c().await;
        return;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated.recv() => {}
    }
    tracing::info!("finishing what was begun");
}
