//! The service: events in over HTTP, answers out in SQL.
//!
//! ```text
//! config   what it is told            keys      who may do what
//! ingest   calls to the store         queries   the statements that run
//! http     what is served where       metrics   figures of all that
//! space    bytes held for clients      service  what all of them share
//! fault    why a statement has no answer
//! ```
//!
//! Reading and writing of requests has threads of its own, apart from those that statements run on
//! and those that write to the store: a long question keeps no event waiting.

pub mod config;
mod fault;
pub mod http;
pub mod ingest;
pub mod keys;
pub mod metrics;
pub mod queries;
mod service;
pub mod space;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use pugmark_engine::{OpenError, Store};
use pugmark_query::sql::SqlError;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

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
    listener: std::net::TcpListener,
    requests: Runtime,
    statements: Runtime,
    threads: Threads,
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
        if !gate.is_locked() && !config.http.ip().is_loopback() {
            return Err(ServeError::NotLocked(config.http));
        }
        let settings = config.query_settings()?;
        let system = |operation: &str| {
            let operation = operation.to_owned();
            move |source| ServeError::System { operation, source }
        };
        let listener = std::net::TcpListener::bind(config.http);
        let listener = listener.map_err(system(&format!("listen on {}", config.http)))?;
        listener
            .set_nonblocking(true)
            .map_err(system("listen without waiting"))?;
        let store = Store::builder(&config.store).open()?;
        let (writer, threads) = Writer::start(&store).map_err(system("start threads"))?;
        let requests = runtime("pugmark-http").map_err(system("start threads"))?;
        let statements = runtime("pugmark-sql").map_err(system("start threads"))?;
        let handle = statements.handle().clone();
        let service = Service::new(config, (store, settings), gate, writer, handle);
        Ok(Self {
            service: Arc::new(service),
            listener,
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
        self.listener.local_addr()
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
            listener,
            requests,
            statements,
            threads,
        } = self;
        let router = http::router(&service);
        let ending = Arc::clone(&service);
        let end = async move {
            end.await;
            ending.end();
        };
        let served = requests.block_on(async {
            let listener = TcpListener::from_std(listener)?;
            http::connections::serve(listener, router, Arc::clone(&service), end).await;
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

fn runtime(name: &str) -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .thread_name(name)
        .thread_stack_size(STATEMENT_STACK)
        .enable_all()
        .build()
}
