//! Background work: flushing full memory tables, compaction, retention, tidying runs.
//!
//! Two threads, so that a long compaction never keeps a memory table waiting. Both stop when the
//! last handle is dropped. An error of theirs poisons the store: appends then tell what happened.

mod compact;
mod retention;
mod runs;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};

use crate::error::{StorageError, WriteError};
use crate::store::shared::Shared;

/// How often the compactor looks at retention and expired message ids without being woken.
const LOOK_AROUND: Duration = Duration::from_secs(30);

/// Wakes the background threads. A wake-up that finds one pending already adds nothing.
#[derive(Debug)]
pub(crate) struct Wake {
    flusher: (Sender<()>, Receiver<()>),
    compactor: (Sender<()>, Receiver<()>),
}

impl Default for Wake {
    fn default() -> Self {
        Self {
            flusher: bounded(1),
            compactor: bounded(1),
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
}

impl Maintenance {
    /// Starts the threads.
    pub(crate) fn start(shared: &Arc<Shared>) -> Result<Self, StorageError> {
        let (stop, stopped) = bounded::<()>(0);
        let mut maintenance = Self {
            stop: Some(stop),
            threads: Vec::with_capacity(2),
        };
        let flusher = (Arc::clone(shared), stopped.clone());
        maintenance.spawn("pugmark-flush", move || {
            let (shared, stopped) = flusher;
            run(&shared, &stopped, &shared.wake.flusher.1, |shared| {
                while shared.flush_oldest()? {}
                shared.wake_compactor();
                Ok(())
            });
        })?;
        let compactor = (Arc::clone(shared), stopped);
        maintenance.spawn("pugmark-compact", move || {
            let (shared, stopped) = compactor;
            run(&shared, &stopped, &shared.wake.compactor.1, |shared| {
                shared.drop_expired()?;
                shared.tidy_runs()?;
                while shared.options.background_compaction && shared.compact_step()? {
                    if stopped.try_recv() != Err(crossbeam::channel::TryRecvError::Empty) {
                        break;
                    }
                }
                Ok(())
            });
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
            // A panicked thread has poisoned nothing that a reader sees; its work is redone on opening.
            let _panicked = thread.join();
        }
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Works at every wake-up until told to stop; the channel of `stopped` closes then.
fn run(
    shared: &Shared,
    stopped: &Receiver<()>,
    wake: &Receiver<()>,
    work: impl Fn(&Shared) -> Result<(), WriteError>,
) {
    loop {
        crossbeam::channel::select! {
            recv(stopped) -> _ => return,
            recv(wake) -> _ => {}
            default(LOOK_AROUND) => {}
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
