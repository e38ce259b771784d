//! Threads that write what many requests brought as one batch, with one sync.
//!
//! A request waits for the batch that its calls are in. While one batch is written the next one
//! gathers, so the busier the service, the more a sync is worth. What waits is bounded in calls and
//! bytes; beyond that requests are turned away, to come again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use pugmark_engine::{BatchBuilder, Store, WriteError};
use thiserror::Error;
use tokio::sync::oneshot;

use super::super::space::{Room, Space};
use super::message::{Call, Row};
use crate::import::building::Building;

/// Requests that may wait.
const MOST_WAITING: usize = 16_384;
/// Bytes of bodies that may wait, read or not.
pub const MOST_WAITING_BYTES: usize = 64 << 20;
/// Threads: while one waits for a sync, the other gathers.
const WRITERS: usize = 2;

/// What became of a request's calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Events that were stored.
    pub events: u64,
    /// Events that had come before, by their message ids.
    pub duplicates: u64,
}

/// Why calls were not stored.
#[derive(Clone, Debug, Error)]
pub enum IngestError {
    /// Too much waits to be written.
    #[error("too much waits to be written; send it again in a second")]
    Busy,
    /// The service ends.
    #[error("the service is shutting down; send it again in a second")]
    Closing,
    /// The store refused it, or could not write it.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The store took some of it before it refused or failed.
    #[error("only a part was stored: {0}")]
    Partly(WriteError),
}

/// Writes calls. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Writer {
    sender: Sender<Waiting>,
    space: Space,
}

#[derive(Debug)]
struct Waiting {
    calls: Vec<Call>,
    answer: oneshot::Sender<Result<Stored, IngestError>>,
    _room: Room,
}

/// The threads; they end when the last [`Writer`] is dropped and all that waits is written.
#[derive(Debug)]
pub struct Threads(Vec<JoinHandle<()>>);

impl Threads {
    /// Waits for the threads.
    pub fn join(self) {
        for thread in self.0 {
            let _panicked = thread.join();
        }
    }
}

impl Writer {
    /// Starts the threads.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn start(store: &Store) -> std::io::Result<(Self, Threads)> {
        let (sender, receiver) = bounded(MOST_WAITING);
        let mut threads = Vec::with_capacity(WRITERS);
        for number in 0..WRITERS {
            let (store, receiver) = (store.clone(), receiver.clone());
            let thread = std::thread::Builder::new()
                .name(format!("pugmark-write-{number}"))
                .spawn(move || write_all(&store, &receiver))?;
            threads.push(thread);
        }
        let writer = Self {
            sender,
            space: Space::new(MOST_WAITING_BYTES),
        };
        Ok((writer, Threads(threads)))
    }

    /// Room for a body, none of it taken yet.
    pub fn room(&self) -> Room {
        self.space.room()
    }

    /// Stores calls; when it returns they are as durable as the store promises.
    ///
    /// # Errors
    /// Where too much waits, or the store refuses them. Then none of them is stored, unless writing
    /// itself failed.
    pub async fn store(&self, calls: Vec<Call>, room: Room) -> Result<Stored, IngestError> {
        let (answer, stored) = oneshot::channel();
        let waiting = Waiting {
            calls,
            answer,
            _room: room,
        };
        self.sender.try_send(waiting).map_err(|error| match error {
            TrySendError::Full(_) => IngestError::Busy,
            TrySendError::Disconnected(_) => IngestError::Closing,
        })?;
        stored.await.unwrap_or(Err(IngestError::Closing))
    }

    /// Bytes of bodies that wait.
    pub fn waiting_bytes(&self) -> usize {
        self.space.taken()
    }
}

/// Writes whatever comes, as much as waits at a time, until nobody is left to send.
fn write_all(store: &Store, receiver: &Receiver<Waiting>) {
    let mut next = receiver.recv().ok();
    while let Some(first) = next.take() {
        let mut rows = rows_of(&first);
        let mut together = vec![first];
        while let Ok(another) = receiver.try_recv() {
            rows += rows_of(&another);
            // Many rows may be several batches, of which one may be refused: they are written alone.
            if rows > MOST_ROWS {
                next = Some(another);
                break;
            }
            together.push(another);
        }
        if catch_unwind(AssertUnwindSafe(|| write(store, together))).is_err() {
            // Those who waited are told that nothing is known of theirs.
            tracing::error!("writing panicked, which is a bug");
        }
        next = next.or_else(|| receiver.recv().ok());
    }
}

/// Rows that are written at a time: little enough that nobody waits long for the others.
const MOST_ROWS: usize = 16_384;

fn rows_of(waiting: &Waiting) -> usize {
    let rows = waiting.calls.iter();
    rows.map(|call| call.events.len() + call.traits.len()).sum()
}

/// Writes requests together; where the store refuses that, each alone, so that one cannot spoil
/// another.
fn write(store: &Store, together: Vec<Waiting>) {
    if let [only] = &together[..] {
        let stored = append(store, &only.calls);
        return answer(together, stored);
    }
    let calls = together.iter().flat_map(|waiting| &waiting.calls);
    match append(store, calls) {
        // How many of whose were duplicates is not known, and nobody asks.
        Ok(all) => {
            // Whose the duplicates were is not known: the first is told of all.
            let mut stored = all;
            for waiting in together {
                let _gone = waiting.answer.send(Ok(std::mem::take(&mut stored)));
            }
        }
        Err(IngestError::Write(error)) if is_refusal(&error) => {
            for alone in together {
                let stored = append(store, &alone.calls);
                answer(vec![alone], stored);
            }
        }
        Err(error) => answer(together, Err(error)),
    }
}

fn answer(waiting: Vec<Waiting>, stored: Result<Stored, IngestError>) {
    for waiting in waiting {
        // Whoever hung up is not told.
        let _gone = waiting.answer.send(stored.clone());
    }
}

/// True where the batch was refused for what is in it, and is not stored.
pub fn is_refusal(error: &WriteError) -> bool {
    matches!(
        error,
        WriteError::Batch(_) | WriteError::TooManyPartitions { .. }
    )
}

/// Appends the events and traits of calls.
fn append<'c>(
    store: &Store,
    calls: impl IntoIterator<Item = &'c Call>,
) -> Result<Stored, IngestError> {
    let (mut events, mut traits) = (Batches::default(), Batches::default());
    for call in calls {
        call.events.iter().try_for_each(|row| events.add(row))?;
        call.traits.iter().try_for_each(|row| traits.add(row))?;
    }
    let mut stored = Stored::default();
    // Traits first: setting them again is harmless, where the events fail and all comes again.
    for batch in traits.finish() {
        store.append_traits(batch.finish_traits().map_err(WriteError::from)?)?;
    }
    for batch in events.finish() {
        let appended = batch.finish().map_err(WriteError::from);
        let appended = appended.and_then(|batch| store.append(batch));
        let appended = appended.map_err(|error| match stored == Stored::default() {
            true => IngestError::Write(error),
            false => IngestError::Partly(error),
        })?;
        stored.events += appended.stored;
        stored.duplicates += appended.duplicates;
    }
    Ok(stored)
}

/// Rows in as few batches as the store takes.
#[derive(Default)]
struct Batches {
    full: Vec<BatchBuilder>,
    building: Option<Building>,
}

impl Batches {
    fn add(&mut self, row: &Row) -> Result<(), IngestError> {
        if self.building.as_ref().is_some_and(Building::is_full) {
            self.full
                .extend(self.building.take().map(Building::into_builder));
        }
        let building = self.building.get_or_insert_with(Building::new);
        // Every row was checked when it was read.
        building.add(&row.as_new()).map_err(|_| IngestError::Busy)
    }

    fn finish(self) -> impl Iterator<Item = BatchBuilder> {
        let last = self.building.map(Building::into_builder);
        self.full.into_iter().chain(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(user: &str, name: &str, time: i64, message_id: &str) -> Call {
        Call {
            events: vec![Row {
                user: user.to_owned(),
                time,
                name: name.to_owned(),
                message_id: message_id.to_owned(),
                properties: vec![("n".to_owned(), 1.into())],
            }],
            traits: vec![Row {
                user: user.to_owned(),
                time,
                properties: vec![("plan".to_owned(), "gold".into())],
                ..Row::default()
            }],
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_many_send_at_once_is_stored_once() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::builder(directory.path()).open().unwrap();
        let (writer, threads) = Writer::start(&store).unwrap();
        let sent = (0..200).map(|number: i64| {
            let writer = writer.clone();
            tokio::spawn(async move {
                let (user, id) = (format!("u{}", number % 7), format!("m{}", number / 2));
                let mut room = writer.room();
                room.take(100).unwrap();
                let calls = vec![call(&user, "view", number, &id)];
                writer.store(calls, room).await.unwrap();
            })
        });
        for sent in sent.collect::<Vec<_>>() {
            sent.await.unwrap();
        }
        assert_eq!(writer.waiting_bytes(), 0);
        assert_eq!(store.stats().unwrap().events, 100);
        drop(writer);
        threads.join();
    }

    #[test]
    fn one_refused_request_does_not_spoil_others() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::builder(directory.path()).open().unwrap();
        let month = 30 * 86_400_000_000;
        let spread = |numbers: std::ops::Range<i64>| {
            let calls = numbers.map(|number| call("u", "e", number * month, ""));
            calls.collect::<Vec<_>>()
        };
        append(&store, &spread(0..60_000)).unwrap();
        let (sender, mut refused) = oneshot::channel();
        let (other_sender, mut taken) = oneshot::channel();
        let waiting = |calls, answer| Waiting {
            calls,
            answer,
            _room: Space::new(0).room(),
        };
        let good = vec![call("v", "e", 5, "m")];
        let together = vec![
            waiting(spread(60_000..101_000), sender),
            waiting(good, other_sender),
        ];
        write(&store, together);
        assert!(matches!(
            refused.try_recv().unwrap(),
            Err(IngestError::Write(WriteError::TooManyPartitions { .. }))
        ));
        assert_eq!(taken.try_recv().unwrap().unwrap().events, 1);
        assert_eq!(store.stats().unwrap().events, 60_001);
    }
}
