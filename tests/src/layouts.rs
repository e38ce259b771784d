//! The same rows in every layout a store may have them in.
//!
//! Every answer has to be the same on all of them, so tests of answers run on all of them.

use std::path::Path;
use std::sync::Arc;

use pugmark_engine::storage::{MemoryStorage, Storage};
use pugmark_engine::{Options, Snapshot, Store};

use crate::events::{Event, Traits, batch_of};
use crate::history::{HandClock, open, tiny_options};

/// What is to be stored: batches in order of arrival.
#[derive(Clone, Debug)]
pub enum Input {
    /// A batch of events.
    Events(Vec<Event>),
    /// One update of traits.
    Traits(Traits),
}

/// Calls `check` with the name of a layout and a snapshot of a store in it, for every layout.
/// `directory` is empty and is used for the layouts on real files.
///
/// # Panics
/// Where a store refuses anything.
pub fn every_layout(
    inputs: &[Input],
    now: i64,
    directory: &Path,
    mut check: impl FnMut(&str, &Snapshot),
) {
    let clock = HandClock::at(now);
    let roomy = Options {
        background_compaction: false,
        clock: clock.clock(),
        ..Options::default()
    };
    let tiny = Options {
        clock: clock.clock(),
        ..tiny_options()
    };

    let store = filled(&MemoryStorage::new(), &roomy, inputs, 0);
    check("memory", &store.snapshot().unwrap());
    store.flush().unwrap();
    check("flushed", &store.snapshot().unwrap());

    // A flush in the middle leaves part of the rows in segments, part in memory.
    let storage = MemoryStorage::new();
    let store = filled(&storage, &roomy, inputs, inputs.len().div_ceil(3));
    check("part flushed, part in memory", &store.snapshot().unwrap());
    drop(store);
    let store = open(Arc::new(storage.clone()), &roomy).unwrap();
    check("log replayed", &store.snapshot().unwrap());
    store.compact().unwrap();
    check("compacted", &store.snapshot().unwrap());
    drop(store);
    let store = open(Arc::new(storage), &roomy).unwrap();
    check("compacted and reopened", &store.snapshot().unwrap());

    let store = filled(&MemoryStorage::new(), &tiny, inputs, 1);
    check("tiny blocks and memory tables", &store.snapshot().unwrap());
    store.compact().unwrap();
    check("tiny blocks, compacted", &store.snapshot().unwrap());

    let store = Store::builder(directory)
        .options(tiny.clone())
        .open()
        .unwrap();
    fill(&store, inputs, 2);
    let reader = Store::builder(directory)
        .options(tiny)
        .read_only()
        .open()
        .unwrap();
    check("a reader beside the writer", &reader.snapshot().unwrap());
    drop(store);
    check("a reader without a writer", &reader.snapshot().unwrap());
    let store = Store::builder(directory)
        .options(roomy)
        .existing()
        .open()
        .unwrap();
    check("files reopened", &store.snapshot().unwrap());
}

/// A store with `inputs`, flushed after every `flush_every` of them (0: never).
///
/// # Panics
/// Where the store refuses anything.
pub fn filled(
    storage: &MemoryStorage,
    options: &Options,
    inputs: &[Input],
    flush_every: usize,
) -> Store {
    let storage: Arc<dyn Storage> = Arc::new(storage.clone());
    let store = open(storage, options).unwrap();
    fill(&store, inputs, flush_every);
    store
}

fn fill(store: &Store, inputs: &[Input], flush_every: usize) {
    for (index, input) in inputs.iter().enumerate() {
        match input {
            Input::Events(events) => {
                store.append(batch_of(events)).unwrap();
            }
            Input::Traits(traits) => {
                let values = traits
                    .values
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.clone()));
                store.set_traits(&traits.user, traits.time, values).unwrap();
            }
        }
        if flush_every > 0 && (index + 1) % flush_every == 0 {
            store.flush().unwrap();
        }
    }
}
