//! What the parts of one statement share: the snapshot, the settings, the remarks.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use datafusion::execution::SessionState;
use datafusion::execution::runtime_env::RuntimeEnv;
use pugmark_engine::{Snapshot, UserKey};
use roaring::RoaringBitmap;

use super::catalog::Catalog;
use super::constant::Constants;
use super::memory::batch_rows;
use super::settings::Settings;
use super::watch::Stop;
use crate::behaviour::Skipped;
use crate::exec::{CancelToken, Effort, Executor, MemoryBudget, QueryError, QueryOptions};

/// One statement's surroundings.
pub(super) struct Context {
    pub(super) snapshot: Snapshot,
    pub(super) catalog: Arc<Catalog>,
    pub(super) settings: Settings,
    pub(super) zone_name: Arc<str>,
    /// The present, in microseconds since 1970-01-01 UTC.
    pub(super) as_of: i64,
    /// When the statement must stop.
    pub(super) stop: Stop,
    /// What all parts of the statement hold together.
    pub(super) memory: MemoryBudget,
    /// For constants and expressions.
    pub(super) state: SessionState,
    /// What DataFusion's part of the statement holds.
    pub(super) runtime: Arc<RuntimeEnv>,
    /// Bytes of `memory` that are held until the statement ends.
    kept: AtomicUsize,
    remarks: Mutex<BTreeSet<String>>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Context")
            .field("as_of", &self.as_of)
            .finish_non_exhaustive()
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.memory.give_back(self.kept.load(Ordering::Relaxed));
    }
}

impl Context {
    /// Holds `bytes` until the statement ends.
    pub(super) fn keep(&self, bytes: usize) -> Result<(), QueryError> {
        self.memory.take(bytes)?;
        self.kept.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn new(
        snapshot: Snapshot,
        catalog: Arc<Catalog>,
        settings: Settings,
        as_of: i64,
        (stop, memory): (Stop, MemoryBudget),
        (state, runtime): (SessionState, Arc<RuntimeEnv>),
    ) -> Self {
        Self {
            snapshot,
            catalog,
            zone_name: Arc::from(settings.zone_name.as_str()),
            settings,
            as_of,
            stop,
            memory,
            state,
            runtime,
            kept: AtomicUsize::new(0),
            remarks: Mutex::new(BTreeSet::new()),
        }
    }

    /// What constants in filters are folded with.
    pub(super) fn constants(&self) -> Constants<'_> {
        Constants {
            state: &self.state,
            zone: &self.zone_name,
        }
    }

    /// The users of these ids; those that nobody has are left out.
    pub(super) fn users<I: AsRef<str>>(
        &self,
        ids: impl IntoIterator<Item = I>,
    ) -> Result<RoaringBitmap, QueryError> {
        let mut users = RoaringBitmap::new();
        for id in ids {
            if let Some(user) = self.snapshot.find(UserKey::from_text(id.as_ref()))? {
                users.insert(user.0);
            }
        }
        Ok(users)
    }

    /// Rows of a batch, at most.
    pub(super) fn batch_rows(&self) -> usize {
        batch_rows(self.settings.memory_bytes)
    }

    /// Threads of a query.
    pub(super) fn threads(&self) -> usize {
        let all = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.settings.threads.unwrap_or_else(all)
    }

    /// An executor for the present `as_of`, stopped by `cancel`, counted by `effort`.
    pub(super) fn executor(&self, as_of: i64, cancel: &CancelToken, effort: Effort) -> Executor {
        Executor::new(self.snapshot.clone()).with_options(QueryOptions {
            as_of: Some(as_of),
            threads: Some(self.threads()),
            memory: Some(self.memory.clone()),
            // What is left of the statement's time.
            deadline: self
                .stop
                .deadline
                .map(|(ends, _)| ends.saturating_duration_since(Instant::now())),
            cancel: cancel.clone(),
            effort,
            ..QueryOptions::default()
        })
    }

    /// What is told before anything runs, for EXPLAIN and the optimiser; nothing of a scan that cannot
    /// be prepared.
    pub(super) fn foreseen<T>(
        &self,
        ask: impl FnOnce(&Executor) -> Result<T, QueryError>,
    ) -> Option<T> {
        let executor = self.executor(self.as_of, &self.stop.cancel, Effort::new());
        ask(&executor).ok()
    }

    /// Keeps a remark, once.
    pub(super) fn remark(&self, remark: String) {
        let mut remarks = self.remarks.lock().unwrap_or_else(PoisonError::into_inner);
        remarks.insert(remark);
    }

    /// Remarks on values that comparisons could not use.
    pub(super) fn remark_skipped(&self, skipped: &Skipped) {
        for (name, count) in skipped.iter() {
            let values = if count == 1 { "value" } else { "values" };
            self.remark(format!(
                "{count} {values} of `{name}` could not be compared for their type, or not be computed, and were passed over"
            ));
        }
    }

    /// The remarks so far.
    pub(super) fn remarks(&self) -> Vec<String> {
        let remarks = self.remarks.lock().unwrap_or_else(PoisonError::into_inner);
        remarks.iter().cloned().collect()
    }
}
