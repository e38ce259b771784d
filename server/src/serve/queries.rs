//! The statements that run: who asked what, and a way to stop them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::Serialize;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::keys::Caller;

/// The statements that run.
#[derive(Debug)]
pub struct Queries {
    running: Mutex<BTreeMap<String, Arc<Running>>>,
    places: Arc<Semaphore>,
    /// Statements that may run or wait.
    most: usize,
}

/// Statements that may wait for each that may run.
const WAITING: usize = 32;

/// Why a statement is not listed.
#[derive(Clone, Copy, Debug)]
pub enum NotListed {
    /// Too many wait.
    TooMany,
    /// The system has no random numbers to make its id of.
    Random(getrandom::Error),
}

/// A statement that runs, or waits for its turn.
#[derive(Debug)]
pub struct Running {
    id: String,
    caller: Caller,
    sql: String,
    begun: Instant,
    /// Rows that were answered so far.
    pub rows: AtomicU64,
    stop: Notify,
}

/// A statement as it is told.
#[derive(Debug, Serialize)]
pub struct QueryInfo {
    /// What it is stopped by.
    pub query_id: String,
    /// The id of the key that asked; none where no keys are configured.
    pub key: Option<String>,
    /// Its text.
    pub sql: String,
    /// How long it has run.
    pub seconds: f64,
    /// Rows that were answered so far.
    pub rows: u64,
}

/// Takes a statement off the list when it is dropped.
#[derive(Debug)]
pub struct Listed {
    queries: Arc<Queries>,
    /// The statement.
    pub running: Arc<Running>,
}

impl Queries {
    /// A list of statements, of which `most` run at a time.
    pub fn new(most: usize) -> Self {
        Self {
            running: Mutex::default(),
            places: Arc::new(Semaphore::new(most)),
            most: most * (1 + WAITING),
        }
    }

    /// Lists a statement.
    ///
    /// # Errors
    /// See [`NotListed`].
    pub fn list(self: &Arc<Self>, caller: Caller, sql: &str) -> Result<Listed, NotListed> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(NotListed::Random)?;
        let running = Arc::new(Running {
            id: random.iter().map(|byte| format!("{byte:02x}")).collect(),
            caller,
            sql: sql.to_owned(),
            begun: Instant::now(),
            rows: AtomicU64::new(0),
            stop: Notify::new(),
        });
        let mut listed = self.lock();
        if listed.len() >= self.most {
            return Err(NotListed::TooMany);
        }
        listed.insert(running.id.clone(), Arc::clone(&running));
        drop(listed);
        Ok(Listed {
            queries: Arc::clone(self),
            running,
        })
    }

    /// Waits for a turn; `None` where the service ends.
    pub async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).acquire_owned().await.ok()
    }

    /// All statements.
    pub fn all(&self) -> Vec<QueryInfo> {
        self.lock().values().map(|running| running.told()).collect()
    }

    /// Number of statements.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// True where none runs.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Stops a statement; false where there is none of this id.
    pub fn stop(&self, id: &str) -> bool {
        let running = self.lock().get(id).cloned();
        match running {
            Some(running) => {
                running.stop.notify_one();
                true
            }
            None => false,
        }
    }

    /// Stops all.
    pub fn stop_all(&self) {
        for running in self.lock().values() {
            running.stop.notify_one();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Running>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    /// What it is stopped by.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// How long it has run.
    pub fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// Ends when somebody stops it.
    pub async fn stopped(&self) {
        self.stop.notified().await;
    }

    fn told(&self) -> QueryInfo {
        QueryInfo {
            query_id: self.id.clone(),
            key: match &self.caller {
                Caller::Anybody => None,
                Caller::Key(id) => Some(id.clone()),
            },
            sql: self.sql.clone(),
            seconds: self.seconds(),
            rows: self.rows.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.queries.lock().remove(&self.running.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn statements_are_listed_while_they_run_and_stopped_by_id() {
        let queries = Arc::new(Queries::new(1));
        let listed = queries.list(Caller::Anybody, "SELECT 1").unwrap();
        let other = queries
            .list(Caller::Key("k".to_owned()), "SELECT 2")
            .unwrap();
        assert_eq!(queries.all().len(), 2);
        assert!(queries.stop(listed.running.id()));
        listed.running.stopped().await;
        assert!(!queries.stop("nothing"));
        drop(listed);
        let all = queries.all();
        assert_eq!(
            (all[0].key.as_deref(), all[0].sql.as_str()),
            (Some("k"), "SELECT 2")
        );
        queries.stop_all();
        other.running.stopped().await;
        let turn = queries.turn().await.unwrap();
        let next = queries.turn();
        tokio::pin!(next);
        assert!(futures::poll!(&mut next).is_pending());
        drop(turn);
        assert!(next.await.is_some());
        drop(other);
        assert!(queries.is_empty());
    }
}
