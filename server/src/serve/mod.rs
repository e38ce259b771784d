//! The service: events in over HTTP, answers out in SQL.
//!
//! ```text
//! config   what it is told            keys      who may do what
//! imports  files to the store
//! ingest   calls to the store         queries   the statements that run
//! http     what is served where       metrics   figures of all that
//! space    bytes held for clients      service  what all of them share
//! fault    why a statement has no answer    answering  one that is answered piece by piece
//! pg       PostgreSQL's protocol            flight   Arrow Flight SQL
//! ```
//!
//! Reading and writing of requests has threads of its own, apart from those that statements run on
//! and those that write to the store: a long question keeps no event waiting.

mod answering;
pub mod config;
mod fault;
mod flight;
pub mod http;
pub mod imports;
pub mod ingest;
pub mod keys;
pub mod metrics;
pub mod pg;
pub mod queries;
mod service;
pub mod space;
mod tls;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pugmark_engine::{OpenError, Store};
use pugmark_query::sql::SqlError;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use self::config::{Config, ConfigError};
use self::ingest::writer::{Threads, Writer};
use self::keys::{Gate, KeyError, KeyFile};
use self::service::Service;

/// Why the service does not start.
#[derive(Debug, Error)]
pub enum ServeError {
    /// A setting.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The keys.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The store.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A setting of statements.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// The system.
    #[error("cannot {operation}: {source}")]
    System {
        /// What was tried.
        operation: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Anybody could do anything from anywhere.
    #[error(
        "{0} can be reached from other machines, but no keys are configured; make one with \
         `pugmark keys create`, or serve 127.0.0.1"
    )]
    NotLocked(SocketAddr),
}

/// A service that listens.
pub struct Server {
    service: Arc<Service>,
    listeners: Listeners,
    tls: Option<Encryption>,
    requests: Runtime,
    statements: Runtime,
    threads: Threads,
}

/// How long statements that run may go on when the service ends.
const GRACE: Duration = Duration::from_secs(20);
/// How long clients then have to take what they are told.
const LAST: Duration = Duration::from_secs(5);

/// What is listened on.
struct Listeners {
    http: std::net::TcpListener,
    pg: Option<std::net::TcpListener>,
    flight: Option<std::net::TcpListener>,
}

/// What encrypts the connections of each protocol.
struct Encryption {
    http: TlsAcceptor,
    pg: TlsAcceptor,
    flight: TlsAcceptor,
}

/// Expressions are evaluated as deep as they nest.
const STATEMENT_STACK: usize = 16 << 20;

impl Server {
    /// Opens the store and begins to listen.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub fn start(config: Config) -> Result<Self, ServeError> {
        let gate = Gate::open(KeyFile::new(&config.keys))?;
        let addresses = [
            Some(config.http),
            config.pg.address(),
            config.flight.address(),
        ];
        let outside = addresses
            .into_iter()
            .flatten()
            .find(|at| !at.ip().is_loopback());
        if let (false, Some(outside)) = (gate.is_locked(), outside) {
            return Err(ServeError::NotLocked(outside));
        }
        let settings = config.query_settings()?;
        let tls = match &config.tls {
            Some((cert, key)) => {
                let files = (cert.as_path(), key.as_path());
                Some(Encryption {
                    http: tls::acceptor(files, &[b"http/1.1"])?,
                    pg: tls::acceptor(files, &[b"postgresql"])?,
                    flight: tls::acceptor(files, &[b"h2"])?,
                })
            }
            None => None,
        };
        let listeners = Listeners {
            http: listen(config.http)?,
            pg: config.pg.address().map(listen).transpose()?,
            flight: config.flight.address().map(listen).transpose()?,
        };
        let system = |operation: &str| {
            let operation = operation.to_owned();
            move |source| ServeError::System { operation, source }
        };
        let store = Store::builder(&config.store).open()?;
        let (writer, threads) = Writer::start(&store).map_err(system("start threads"))?;
        let requests = runtime("pugmark-http").map_err(system("start threads"))?;
        let statements = runtime("pugmark-sql").map_err(system("start threads"))?;
        let handle = statements.handle().clone();
        let service = Service::new(config, (store, settings), gate, writer, handle);
        Ok(Self {
            service: Arc::new(service),
            listeners,
            tls,
            requests,
            statements,
            threads,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Where the system does not tell.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listeners.http.local_addr()
    }

    /// Where PostgreSQL's protocol is served, if it is.
    pub fn pg_address(&self) -> Option<SocketAddr> {
        self.listeners.pg.as_ref()?.local_addr().ok()
    }

    /// Where Arrow Flight SQL is served, if it is.
    pub fn flight_address(&self) -> Option<SocketAddr> {
        self.listeners.flight.as_ref()?.local_addr().ok()
    }

    /// True where connections are encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// True where everybody who reaches it may do anything.
    pub fn is_open(&self) -> bool {
        !self.service.gate.is_locked()
    }

    /// Serves until `end` is over; then requests finish, and what they brought is written.
    ///
    /// # Errors
    /// Where the system takes the listening back.
    pub fn run(self, end: impl Future<Output = ()>) -> Result<(), ServeError> {
        let Self {
            service,
            listeners,
            tls,
            requests,
            statements,
            threads,
        } = self;
        let (of_http, of_pg, of_flight) = match tls {
            Some(tls) => (Some(tls.http), Some(tls.pg), Some(tls.flight)),
            None => (None, None, None),
        };
        let router = http::router(&service);
        let shared = pg::listener::Shared::new(&service, of_pg)?;
        let (told, ending) = watch::channel(false);
        let served = requests.block_on(async {
            let http = TcpListener::from_std(listeners.http)?;
            let own = Arc::clone(&service);
            let http = http::connections::serve(http, of_http, router, own, ending.clone());
            let pg = listeners.pg.map(TcpListener::from_std).transpose()?;
            let of_pg = ending.clone();
            let pg = async {
                if let Some(pg) = pg {
                    pg::listener::serve(pg, Arc::new(shared), of_pg).await;
                }
            };
            let flight = listeners.flight.map(TcpListener::from_std).transpose()?;
            let own = Arc::clone(&service);
            let flight = async {
                if let Some(flight) = flight {
                    flight::listener::serve(flight, of_flight, own, ending).await;
                }
            };
            let serving = async { tokio::join!(http, pg, flight) };
            tokio::pin!(serving);
            tokio::select! {
                _never = &mut serving => {}
                () = end => {}
            }
            service.end();
            let _nobody_left = told.send(true);
            if tokio::time::timeout(GRACE, &mut serving).await.is_err() {
                service.queries.stop_all();
                let _in_time = tokio::time::timeout(LAST, serving).await;
            }
            Ok(())
        });
        service.close();
        requests.shutdown_background();
        statements.shutdown_background();
        threads.join();
        served.map_err(|source| ServeError::System {
            operation: "listen".to_owned(),
            source,
        })
    }
}

fn listen(address: SocketAddr) -> Result<std::net::TcpListener, ServeError> {
    let listener = std::net::TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listener.map_err(|source| ServeError::System {
        operation: format!("listen on {address}"),
        source,
    })
}

/// Ends when the service does.
async fn ended(ending: &mut watch::Receiver<bool>) {
    let _ended = ending.wait_for(|ending| *ending).await;
}

fn runtime(name: &str) -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .thread_name(name)
        .thread_stack_size(STATEMENT_STACK)
        .enable_all()
        .build()
}
