//! Readers beside writers, flushes, compactions and loads see whole batches, all that were
//! acknowledged, and never less than before.
//!
//! Every batch adds up to zero over users and partitions, so half a batch shows.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use pugmark_engine::storage::{MemoryStorage, OsStorage, Storage};
use pugmark_engine::{Snapshot, Store, Value};
use pugmark_tests::dice::Dice;
use pugmark_tests::events::{DAY, Event, START, batch_of};
use pugmark_tests::history::{open, tiny_options};
use pugmark_tests::reference::Trails;
use pugmark_tests::slow::SlowStorage;
use pugmark_tests::trail::dump;
use pugmark_tests::{is_long, scratch};

/// Events of each batch.
const ROWS: usize = 6;
const WRITERS: usize = 2;

/// A batch whose `delta`s add up to zero, over several users, names and partitions.
fn zero_sum(dice: &mut Dice, writer: usize, number: i64) -> Vec<Event> {
    let mut left = 0;
    let mut events = Vec::new();
    for row in 0..ROWS {
        let delta = if row + 1 == ROWS {
            -left
        } else {
            dice.below(100) as i64 - 50
        };
        left += delta;
        events.push(Event {
            user: format!("user-{}", dice.below(20)),
            time: START + dice.below(60) as i64 * DAY,
            name: format!("name-{}", dice.below(3)),
            properties: vec![
                ("delta".to_owned(), Value::I64(delta)),
                ("batch".to_owned(), Value::I64(number * 100 + writer as i64)),
            ],
            message_id: None,
        });
    }
    events
}

/// Checks a snapshot and returns how many batches it has. `acknowledged` was read before the
/// snapshot was taken.
fn check(snapshot: &Snapshot, acknowledged: &[i64; WRITERS + 1]) -> usize {
    let trails = dump(snapshot).unwrap();
    let mut batches: BTreeMap<i64, (usize, i64)> = BTreeMap::new();
    let number = |cell: &str| cell.trim_end_matches('i').parse::<i64>().unwrap();
    for row in trails.events.values().flatten() {
        let batch = batches.entry(number(&row.properties["batch"])).or_default();
        batch.0 += 1;
        batch.1 += number(&row.properties["delta"]);
    }
    for (batch, &(rows, sum)) in &batches {
        assert_eq!((rows, sum), (ROWS, 0), "batch {batch} is torn");
    }
    for (writer, &count) in acknowledged.iter().enumerate() {
        for number in 0..count {
            let batch = number * 100 + writer as i64;
            assert!(
                batches.contains_key(&batch),
                "batch {batch} was acknowledged and is missing"
            );
        }
    }
    batches.len()
}

fn readers_beside_writers(storage: Arc<dyn Storage>, batches: i64) {
    let options = tiny_options();
    let store = open(Arc::clone(&storage), &options).unwrap();
    let reader = Store::builder("")
        .storage(storage)
        .options(options)
        .read_only()
        .open()
        .unwrap();
    let acknowledged: [AtomicI64; WRITERS + 1] = Default::default();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (store, reader, acknowledged, done) = (&store, &reader, &acknowledged, &done);
        let mut working = Vec::new();
        for (writer, count) in acknowledged.iter().enumerate().take(WRITERS) {
            working.push(scope.spawn(move || {
                let mut dice = Dice::new(writer as u64);
                for number in 0..batches {
                    store
                        .append(batch_of(&zero_sum(&mut dice, writer, number)))
                        .unwrap();
                    count.fetch_add(1, Ordering::SeqCst);
                }
            }));
        }
        working.push(scope.spawn(move || {
            let mut dice = Dice::new(77);
            for number in 0..batches / 10 {
                let mut load = store.bulk_load(number as u128).unwrap();
                let batch = batch_of(&zero_sum(&mut dice, WRITERS, number));
                load.append(batch, ROWS as u64).unwrap();
                load.finish(ROWS as u64).unwrap();
                acknowledged[WRITERS].fetch_add(1, Ordering::SeqCst);
                match dice.below(3) {
                    0 => store.flush().unwrap(),
                    1 => store.compact().unwrap(),
                    _ => drop(store.verify().unwrap()),
                }
            }
        }));
        for source in [store, reader] {
            scope.spawn(move || {
                let mut before = 0;
                while !done.load(Ordering::SeqCst) {
                    let known =
                        std::array::from_fn(|writer| acknowledged[writer].load(Ordering::SeqCst));
                    let snapshot = source.snapshot().unwrap();
                    let found = check(&snapshot, &known);
                    assert!(
                        found >= before,
                        "a later snapshot has {found} batches, not {before}"
                    );
                    before = found;
                }
            });
        }
        let failed = working
            .into_iter()
            .filter_map(|thread| thread.join().err())
            .next();
        done.store(true, Ordering::SeqCst);
        assert!(failed.is_none(), "a writer panicked");
    });
    let all = [batches, batches, batches / 10];
    assert_eq!(
        check(&store.snapshot().unwrap(), &all) as i64,
        all.iter().sum::<i64>()
    );
    store.verify().unwrap();
}

#[test]
fn in_memory() {
    let batches = if is_long() { 5_000 } else { 150 };
    readers_beside_writers(Arc::new(MemoryStorage::new()), batches);
}

/// Threads meet where they hardly ever do on a fast disk.
#[test]
fn on_a_slow_disk() {
    let batches = if is_long() { 1_000 } else { 60 };
    let storage = SlowStorage::new(Arc::new(MemoryStorage::new()));
    readers_beside_writers(Arc::new(storage), batches);
}

/// What a reader has seen is not lost when the power fails in the next moment.
#[test]
fn what_was_seen_survives_a_loss_of_power() {
    // A store of its own for every so many looks: each look reads all that was written.
    for round in 0..if is_long() { 50 } else { 2 } {
        look_and_lose_power(round * 40..(round + 1) * 40);
    }
}

fn look_and_lose_power(seeds: std::ops::Range<u64>) {
    let disk = MemoryStorage::new();
    let storage: Arc<dyn Storage> = Arc::new(SlowStorage::new(Arc::new(disk.clone())));
    let options = tiny_options();
    let store = open(storage, &options).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let (store, done) = (&store, &done);
            scope.spawn(move || {
                let mut dice = Dice::new(writer as u64);
                for number in 0.. {
                    if done.load(Ordering::SeqCst) {
                        return;
                    }
                    store
                        .append(batch_of(&zero_sum(&mut dice, writer, number)))
                        .unwrap();
                }
            });
        }
        let looked = catch_unwind(AssertUnwindSafe(|| {
            for seed in seeds {
                let seen = dump(&store.snapshot().unwrap()).unwrap();
                let left = disk.crash(seed);
                let reopened = open(Arc::new(left), &options).unwrap();
                let found = dump(&reopened.snapshot().unwrap()).unwrap();
                let (seen, found) = (batches_of(&seen), batches_of(&found));
                let lost: Vec<&String> = seen.difference(&found).collect();
                assert!(lost.is_empty(), "batches {lost:?} were seen and are lost");
            }
        }));
        done.store(true, Ordering::SeqCst);
        looked.unwrap_or_else(|panicked| resume_unwind(panicked));
    });
}

fn batches_of(trails: &Trails) -> BTreeSet<String> {
    let rows = trails.events.values().flatten();
    rows.map(|row| row.properties["batch"].clone()).collect()
}

/// A load takes its place in the order of arrival long before it is published; what is appended
/// and merged meanwhile must not grow over that place.
#[test]
fn appends_and_compactions_overtake_a_slow_load() {
    let storage: Arc<dyn Storage> = Arc::new(SlowStorage::new(Arc::new(MemoryStorage::new())));
    let store = open(storage, &tiny_options()).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut dice = Dice::new(1);
            for number in 0.. {
                if done.load(Ordering::SeqCst) {
                    return;
                }
                store
                    .append(batch_of(&zero_sum(&mut dice, 0, number)))
                    .unwrap();
            }
        });
        let loaded = catch_unwind(AssertUnwindSafe(|| {
            let mut dice = Dice::new(2);
            for key in 0..if is_long() { 200 } else { 10 } {
                let events: Vec<Event> = (0..20)
                    .flat_map(|number| zero_sum(&mut dice, 1, key * 20 + number))
                    .collect();
                let mut load = store.bulk_load(key as u128).unwrap();
                load.append(batch_of(&events), events.len() as u64).unwrap();
                load.finish(events.len() as u64).unwrap();
                store.verify().unwrap();
            }
        }));
        done.store(true, Ordering::SeqCst);
        loaded.unwrap_or_else(|panicked| resume_unwind(panicked));
    });
    check(&store.snapshot().unwrap(), &[0; WRITERS + 1]);
    store.verify().unwrap();
}

#[test]
fn on_real_files() {
    let directory = scratch();
    let batches = if is_long() { 2_000 } else { 100 };
    readers_beside_writers(Arc::new(OsStorage::open(directory.path())), batches);
}
