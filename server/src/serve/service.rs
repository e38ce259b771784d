//! What everything that is served shares: the store, keys, statements and figures.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pugmark_engine::Store;
use pugmark_query::sql::{Session, Settings};
use socket2::{SockRef, TcpKeepalive};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::config::{Config, imports_beside};
use super::imports::Imports;
use super::ingest::writer::{IngestError, Stored, Writer, is_refusal};
use super::keys::{Caller, Denied, Gate, Scope};
use super::metrics::{Metrics, Numbers};
use super::queries::Queries;
use super::space::Space;

/// What all requests share.
pub struct Service {
    /// What the service was told.
    pub config: Config,
    /// The store.
    pub store: Store,
    /// Keys.
    pub gate: Gate,
    /// Figures.
    pub metrics: Metrics,
    /// The statements that run.
    pub queries: Arc<Queries>,
    /// What sessions are made beside.
    pub session: Session,
    /// What they begin with.
    pub settings: Settings,
    /// Where statements run: apart from the reading and writing of requests.
    pub statements: Handle,
    /// Files that are sent to be imported.
    pub imports: Imports,
    /// Numbers of requests.
    pub numbers: Numbers,
    /// Room for bodies of those who have shown no key yet.
    pub unknown: Space,
    /// Room for statements.
    pub asked: Space,
    /// Room for what connections keep: prepared statements and values for them.
    pub kept: Space,
    ending: AtomicBool,
    writer: Mutex<Option<Writer>>,
    rates: Mutex<HashMap<String, Bucket>>,
    failed: AtomicBool,
    /// Connections that may still come.
    places: Arc<Semaphore>,
}

/// How long accepting waits where the system has no descriptors left.
const WITHOUT_DESCRIPTORS: Duration = Duration::from_millis(100);
/// How long a connection is silent before the system asks whether anybody is there.
const SILENCE: Duration = Duration::from_secs(60);

/// Bytes of bodies of those who have shown no key yet.
const MOST_UNKNOWN_BYTES: usize = 32 << 20;
/// Bytes of statements that run or wait.
const MOST_ASKED_BYTES: usize = 64 << 20;
/// Bytes of what connections keep.
const MOST_KEPT_BYTES: usize = 256 << 20;

/// Why a request is not looked at.
#[derive(Clone, Copy, Debug, Error)]
pub enum Refused {
    /// By its key.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// There were too many of its key.
    #[error("this key may send {0} requests a second")]
    TooMany(u32),
}

/// Requests that a key may still send.
struct Bucket {
    left: f64,
    filled: Instant,
}

impl Service {
    /// A service over a store.
    pub fn new(
        config: Config,
        (store, settings): (Store, Settings),
        gate: Gate,
        writer: Writer,
        statements: Handle,
    ) -> Self {
        Self {
            session: Session::new(store.clone()),
            settings,
            queries: Arc::new(Queries::new(config.queries)),
            imports: Imports::new(imports_beside(&config.store)),
            places: Arc::new(Semaphore::new(config.max_connections)),
            config,
            store,
            gate,
            metrics: Metrics::default(),
            statements,
            numbers: Numbers::default(),
            unknown: Space::new(MOST_UNKNOWN_BYTES),
            asked: Space::new(MOST_ASKED_BYTES),
            kept: Space::new(MOST_KEPT_BYTES),
            ending: AtomicBool::new(false),
            writer: Mutex::new(Some(writer)),
            rates: Mutex::default(),
            failed: AtomicBool::new(false),
        }
    }

    /// The next connection, once there is a place for it.
    pub async fn accept(
        &self,
        listener: &TcpListener,
    ) -> Option<(TcpStream, OwnedSemaphorePermit)> {
        match listener.accept().await {
            Ok((stream, _)) => {
                let place = Arc::clone(&self.places).acquire_owned().await.ok()?;
                let _as_it_is = stream.set_nodelay(true);
                let alive = TcpKeepalive::new()
                    .with_time(SILENCE)
                    .with_interval(SILENCE / 4);
                let _as_it_is = SockRef::from(&stream).set_tcp_keepalive(&alive);
                Some((stream, place))
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(WITHOUT_DESCRIPTORS).await;
                None
            }
        }
    }

    /// Says that the service ends, so that nobody is sent here any more.
    pub fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    /// Takes nothing more; what waits is written.
    pub fn close(&self) {
        let writer = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(writer);
    }

    /// What writes events; `None` where the service ends.
    pub fn writer(&self) -> Option<Writer> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.clone()
    }

    /// True once the service ends.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// True where events could not be written.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Notes whether events can be written.
    pub fn note_health(&self, stored: &Result<Stored, IngestError>) {
        match stored {
            Ok(_) => self.failed.store(false, Ordering::Relaxed),
            Err(IngestError::Write(error) | IngestError::Partly(error)) if !is_refusal(error) => {
                self.failed.store(true, Ordering::Relaxed);
            }
            Err(_) => {}
        }
    }

    /// A session within what a caller may use.
    pub fn session_of(&self, caller: &Caller) -> Session {
        let session = self.session.another();
        session.change(|settings| *settings = caller.limits().settings(&self.settings));
        session
    }

    /// Microseconds since 1970-01-01 UTC.
    pub fn now(&self) -> i64 {
        pugmark_engine::Clock::system().now()
    }

    /// Who shows a key, and may do this now.
    ///
    /// # Errors
    /// Where the key does not allow it, or asked too often.
    pub fn admit(&self, shown: Option<&str>, scope: Scope) -> Result<Caller, Refused> {
        let caller = self.admit_quietly(shown, scope)?;
        if let Some(id) = caller.id() {
            let most = caller.limits().rate_limit;
            self.rate(id, most.unwrap_or(self.config.rate_limit))?;
        }
        Ok(caller)
    }

    /// The same, without counting it as a request.
    ///
    /// # Errors
    /// Where the key does not allow it.
    pub fn admit_quietly(&self, shown: Option<&str>, scope: Scope) -> Result<Caller, Denied> {
        self.gate.admit(shown, scope)
    }

    /// Takes a request of a key's: as many a second as it may send, and as many at once.
    fn rate(&self, id: &str, limit: u32) -> Result<(), Refused> {
        if limit == 0 {
            return Ok(());
        }
        let most = f64::from(limit);
        let now = Instant::now();
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = rates.entry(id.to_owned()).or_insert(Bucket {
            left: most,
            filled: now,
        });
        let more = now.duration_since(bucket.filled).as_secs_f64() * most;
        *bucket = Bucket {
            left: (bucket.left + more).min(most),
            filled: now,
        };
        if bucket.left < 1.0 {
            return Err(Refused::TooMany(limit));
        }
        bucket.left -= 1.0;
        Ok(())
    }
}
