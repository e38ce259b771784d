//! Background work: flushing full memory tables, compaction, retention, tidying runs.
//!
//! Three threads, so that a long compaction never keeps a memory table waiting, and neither keeps a
//! reader of what has just come. All stop when the last handle is dropped. An error of theirs
//! poisons the store: appends then tell what happened.

mod compact;
mod retention;
mod runs;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, TryRecvError, bounded};

use crate::error::{StorageError, WriteError};
use crate::store::shared::{Shared, lock};
use crate::write::group::Durability;

/// How often the compactor looks at retention and expired message ids without being woken.
const LOOK_AROUND: Duration = Duration::from_secs(30);

/// Shortest time between two looks at whether a sync is due.
const SHORTEST_TICK: Duration = Duration::from_millis(1);
/// A log that nobody has written to for this long is sealed.
const QUIET: Duration = Duration::from_secs(60);

/// Wakes the background threads. A wake-up that finds one pending already adds nothing.
#[derive(Debug)]
pub(crate) struct Wake {
    flusher: (Sender<()>, Receiver<()>),
    compactor: (Sender<()>, Receiver<()>),
    imager: (Sender<()>, Receiver<()>),
}

impl Default for Wake {
    fn default() -> Self {
        Self {
            flusher: bounded(1),
            compactor: bounded(1),
            imager: bounded(1),
        }
    }
}

/// The background threads of one writing store.
#[derive(Debug)]
pub(crate) struct Maintenance {
    stop: Option<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Shared {
    /// Asks the flusher to look at the frozen memory tables.
    pub(crate) fn wake_flusher(&self) {
        let _already_pending = self.wake.flusher.0.try_send(());
    }

    /// Asks the compactor to look for work.
    pub(crate) fn wake_compactor(&self) {
        let _already_pending = self.wake.compactor.0.try_send(());
    }

    /// Asks for images of published batches, where readers come.
    pub(crate) fn wake_imager(&self) {
        if self.ahead.load(Ordering::Relaxed) > 0 {
            let _already_pending = self.wake.imager.0.try_send(());
        }
    }

    /// Makes images of the active memory table's batches ahead of readers, and merges them, for as
    /// long as some came lately.
    fn image_ahead(&self) -> Result<(), WriteError> {
        let active = self.state().active;
        while active.is_behind() && self.ahead.load(Ordering::Relaxed) > 0 {
            self.ahead.fetch_sub(1, Ordering::Relaxed);
            active.image_ahead()?;
        }
        Ok(())
    }
}

impl Maintenance {
    /// Starts the threads.
    pub(crate) fn start(shared: &Arc<Shared>) -> Result<Self, StorageError> {
        let (stop, stopped) = bounded::<()>(0);
        let mut maintenance = Self {
            stop: Some(stop),
            threads: Vec::with_capacity(3),
        };
        let flusher = (Arc::clone(shared), stopped.clone());
        maintenance.spawn("pugmark-flush", move || {
            let (shared, stopped) = flusher;
            let tick = match shared.options.durability {
                Durability::Interval(interval) => interval.clamp(SHORTEST_TICK, LOOK_AROUND),
                Durability::EveryCommit | Durability::None => LOOK_AROUND,
            };
            let mut idle = Idle::default();
            run(&shared, &stopped, &shared.wake.flusher.1, tick, |shared| {
                shared.log.sync_if_due()?;
                while shared.flush_oldest()? {}
                shared.wake_compactor();
                idle.seal_log_when_quiet(shared)
            });
        })?;
        let imager = (Arc::clone(shared), stopped.clone());
        maintenance.spawn("pugmark-image", move || {
            let (shared, stopped) = imager;
            let wake = &shared.wake.imager.1;
            run(&shared, &stopped, wake, LOOK_AROUND, Shared::image_ahead);
        })?;
        let compactor = (Arc::clone(shared), stopped);
        maintenance.spawn("pugmark-compact", move || {
            let (shared, stopped) = compactor;
            run(
                &shared,
                &stopped,
                &shared.wake.compactor.1,
                LOOK_AROUND,
                |shared| {
                    shared.drop_expired()?;
                    shared.tidy_runs()?;
                    // A store that is closed does not wait for a merge; the next opening begins it
                    // again.
                    let stop = || stopped.try_recv() != Err(TryRecvError::Empty);
                    while shared.options.background_compaction && shared.compact_step(&stop)? {
                        if stop() {
                            break;
                        }
                    }
                    Ok(())
                },
            );
        })?;
        Ok(maintenance)
    }

    fn spawn(
        &mut self,
        name: &str,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<(), StorageError> {
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(body);
        let failed =
            |error| StorageError::new("start a thread for", std::path::Path::new(name), error);
        self.threads.push(thread.map_err(failed)?);
        Ok(())
    }

    /// Stops the threads and waits for what they are doing.
    pub(crate) fn stop(&mut self) {
        self.stop = None;
        for thread in self.threads.drain(..) {
            // A panic has poisoned the store already; what it left undone is redone on opening.
            let _panicked = thread.join();
        }
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Notices when nobody writes. The last record of an open log is the one place where damage
/// cannot be told from a torn tail, so a quiet log is ended with a seal and a new file begun.
#[derive(Debug, Default)]
struct Idle {
    /// The log's next record when it was last seen to change, and when that was.
    last: Option<(u64, Instant)>,
}

impl Idle {
    fn seal_log_when_quiet(&mut self, shared: &Shared) -> Result<(), WriteError> {
        let next = shared.log.next_record();
        match self.last {
            Some((seen, since)) if seen == next => {
                if since.elapsed() >= QUIET && shared.log.current_file().1 > 0 {
                    let append = lock(&shared.append);
                    let rotated = shared.log.rotate(shared.take_file())?;
                    drop(append);
                    shared.log.wait_synced(rotated)?;
                }
            }
            _ => self.last = Some((next, Instant::now())),
        }
        Ok(())
    }
}

/// Poisons the store when a background thread panics, or its writers would wait for ever.
struct PanicGuard<'a>(&'a Shared);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let source = std::io::Error::other("a background thread panicked, which is a bug");
            let place = std::path::Path::new("the store");
            self.0.poison(&StorageError::new("maintain", place, source));
        }
    }
}

/// Works at every wake-up, and every `tick`, until told to stop; the channel of `stopped` closes then.
fn run(
    shared: &Shared,
    stopped: &Receiver<()>,
    wake: &Receiver<()>,
    tick: Duration,
    mut work: impl FnMut(&Shared) -> Result<(), WriteError>,
) {
    let _guard = PanicGuard(shared);
    loop {
        crossbeam::channel::select! {
            recv(stopped) -> _ => return,
            recv(wake) -> _ => {}
            default(tick) => {}
        }
        if let Err(error) = work(shared) {
            shared.poison(&cause_of(error));
        }
    }
}

/// The storage error that a background failure poisons the store with.
fn cause_of(error: WriteError) -> StorageError {
    match error {
        WriteError::Storage(error) | WriteError::Poisoned { cause: error } => error,
        other => {
            let source = std::io::Error::other(other.to_string());
            StorageError::new("maintain", std::path::Path::new("the store"), source)
        }
    }
}
