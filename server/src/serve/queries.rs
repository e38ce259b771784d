//! The statements that run: who asked what, and a way to stop them.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::Serialize;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::keys::Caller;

/// The statements that run.
#[derive(Debug)]
pub struct Queries {
    running: Mutex<BTreeMap<String, Arc<Running>>>,
    places: Arc<Semaphore>,
    /// Places of keys that have limits of their own.
    own: Mutex<HashMap<String, Own>>,
    /// Statements that may run or wait.
    most: usize,
}

/// Statements that may wait for each that may run.
const WAITING: usize = 32;

/// Places of a key's statements.
#[derive(Debug)]
struct Own {
    places: Arc<Semaphore>,
    most: usize,
    /// Places that are no more as soon as somebody gives them up.
    owed: usize,
}

impl Own {
    fn new(most: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(most)),
            most,
            owed: 0,
        }
    }

    /// From now on there are so many.
    fn change(&mut self, most: usize) {
        if most >= self.most {
            let more = most - self.most;
            let kept = more.min(self.owed);
            self.owed -= kept;
            self.places.add_permits(more - kept);
        } else {
            let fewer = self.most - most;
            self.owed += fewer - self.places.forget_permits(fewer);
        }
        self.most = most;
    }
}

/// A place among the statements that run, given up when it is dropped.
#[derive(Debug)]
pub struct Turn {
    _own: Option<OwnedSemaphorePermit>,
    _all: OwnedSemaphorePermit,
}

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
            own: Mutex::default(),
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
        if let Some((id, most)) = running.caller.places() {
            // What was listed before may know an older limit.
            if let Some(own) = self.own().get_mut(id) {
                own.change(most);
            }
            let own = listed
                .values()
                .filter(|other| other.caller.id() == running.caller.id());
            if own.count() >= most.saturating_mul(1 + WAITING) {
                return Err(NotListed::TooMany);
            }
        }
        listed.insert(running.id.clone(), Arc::clone(&running));
        drop(listed);
        Ok(Listed {
            queries: Arc::clone(self),
            running,
        })
    }

    /// Waits for a turn, first among the statements of the same key; `None` where the service ends.
    pub async fn turn(&self, caller: &Caller) -> Option<Turn> {
        let own = match caller.places() {
            Some((id, most)) => Some(self.own_turn(id, most).await?),
            None => None,
        };
        Some(Turn {
            _own: own,
            _all: Arc::clone(&self.places).acquire_owned().await.ok()?,
        })
    }

    async fn own_turn(&self, id: &str, most: usize) -> Option<OwnedSemaphorePermit> {
        loop {
            let places = {
                let mut own = self.own();
                own.retain(|other, own| other == id || Arc::strong_count(&own.places) > 1);
                let own = own.entry(id.to_owned()).or_insert_with(|| Own::new(most));
                Arc::clone(&own.places)
            };
            let place = places.acquire_owned().await.ok()?;
            match self.own().get_mut(id) {
                Some(own) if own.owed > 0 => own.owed -= 1,
                _ => return Some(place),
            }
            place.forget();
        }
    }

    fn own(&self) -> MutexGuard<'_, HashMap<String, Own>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The statements that a caller may see.
    pub fn all(&self, caller: &Caller) -> Vec<QueryInfo> {
        let listed = self.lock();
        let seen = listed
            .values()
            .filter(|running| caller.may_see(&running.caller));
        seen.map(|running| running.told()).collect()
    }

    /// Number of statements.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// True where none runs.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Stops a statement; false where this caller sees none of this id.
    pub fn stop(&self, id: &str, caller: &Caller) -> bool {
        let running = self.lock().get(id).cloned();
        match running.filter(|running| caller.may_see(&running.caller)) {
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

    /// Who asked.
    pub fn caller(&self) -> &Caller {
        &self.caller
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
            key: self.caller.id().map(str::to_owned),
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
    use std::num::NonZero;

    use super::super::keys::{Limits, Scope};
    use super::*;

    #[tokio::test]
    async fn statements_are_listed_while_they_run_and_stopped_by_id() {
        let queries = Arc::new(Queries::new(1));
        let listed = queries.list(Caller::Anybody, "SELECT 1").unwrap();
        let caller = |id, scope| Caller::sample(id, scope, Limits::default());
        let (own, admin) = (caller("k", Scope::Query), caller("a", Scope::Admin));
        let other = queries.list(own.clone(), "SELECT 2").unwrap();
        assert_eq!(queries.all(&admin).len(), 2);
        // A key's business is its own.
        assert_eq!(queries.all(&own).len(), 1);
        assert!(queries.all(&caller("l", Scope::Query)).is_empty());
        assert!(!queries.stop(other.running.id(), &caller("l", Scope::Query)));
        assert!(queries.stop(listed.running.id(), &admin));
        listed.running.stopped().await;
        assert!(!queries.stop("nothing", &admin));
        drop(listed);
        let all = queries.all(&own);
        assert_eq!(
            (all[0].key.as_deref(), all[0].sql.as_str()),
            (Some("k"), "SELECT 2")
        );
        queries.stop_all();
        other.running.stopped().await;
        let turn = queries.turn(&own).await.unwrap();
        let next = queries.turn(&own);
        tokio::pin!(next);
        assert!(futures::poll!(&mut next).is_pending());
        drop(turn);
        assert!(next.await.is_some());
        drop(other);
        assert!(queries.is_empty());
    }

    #[tokio::test]
    async fn a_key_has_no_more_turns_and_waiters_than_it_may_have() {
        let queries = Arc::new(Queries::new(8));
        let limits = |queries| Limits {
            queries: NonZero::new(queries),
            ..Limits::default()
        };
        let few = Caller::sample("few", Scope::Query, limits(1));
        let turn = queries.turn(&few).await.unwrap();
        let next = queries.turn(&few);
        tokio::pin!(next);
        assert!(futures::poll!(&mut next).is_pending());
        // Others do not wait for it.
        assert!(queries.turn(&Caller::Anybody).await.is_some());
        drop(turn);
        assert!(next.await.is_some());
        let listed = (0..=WAITING).map(|_| queries.list(few.clone(), "SELECT 1").unwrap());
        let listed: Vec<Listed> = listed.collect();
        let refused = queries.list(few.clone(), "SELECT 1");
        assert!(matches!(refused, Err(NotListed::TooMany)));
        assert!(queries.list(Caller::Anybody, "SELECT 1").is_ok());
        drop(listed);
        assert!(queries.list(few.clone(), "SELECT 1").is_ok());
    }

    #[tokio::test]
    async fn another_limit_of_a_key_holds_from_its_next_statement_on() {
        let queries = Arc::new(Queries::new(8));
        let caller = |queries| {
            let limits = Limits {
                queries: NonZero::new(queries),
                ..Limits::default()
            };
            Caller::sample("key", Scope::Query, limits)
        };
        let (two, one, three) = (caller(2), caller(1), caller(3));
        let first = queries.turn(&two).await.unwrap();
        let second = queries.turn(&two).await.unwrap();
        let listed = queries.list(one.clone(), "SELECT 1").unwrap();
        // Whoever knows the older limit brings it not back.
        let old = queries.turn(&two);
        tokio::pin!(old);
        assert!(futures::poll!(&mut old).is_pending());
        drop(first);
        assert!(futures::poll!(&mut old).is_pending());
        drop(second);
        let third = old.await.unwrap();
        let next = queries.turn(&one);
        tokio::pin!(next);
        assert!(futures::poll!(&mut next).is_pending());
        drop(listed);
        let _listed = queries.list(three.clone(), "SELECT 1").unwrap();
        let fourth = next.await.unwrap();
        let fifth = queries.turn(&three).await.unwrap();
        let sixth = queries.turn(&three);
        tokio::pin!(sixth);
        assert!(futures::poll!(&mut sixth).is_pending());
        drop((third, fourth, fifth));
        assert!(sixth.await.is_some());
    }
}
