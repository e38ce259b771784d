use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::storage::MemoryStorage;

fn memory() -> (MemoryStorage, StoreBuilder) {
    let storage = MemoryStorage::new();
    let builder = Store::builder("store").storage(Arc::new(storage.clone()));
    (storage, builder)
}

fn batch(user: &str, times: std::ops::Range<i64>) -> EventBatch {
    let mut batch = BatchBuilder::new();
    for time in times {
        batch
            .event(user, time * 1_000_000, "view")
            .property("product", time % 7);
    }
    batch.finish().unwrap()
}

#[test]
fn what_was_appended_is_seen_and_survives() {
    let (_, builder) = memory();
    let store = builder.clone().open().unwrap();
    assert_eq!(
        store.append(batch("ann", 0..10)).unwrap(),
        Appended {
            stored: 10,
            duplicates: 0
        }
    );
    assert_eq!(store.snapshot().unwrap().events(), 10);
    store.append(batch("bob", 5..9)).unwrap();
    let before = store.snapshot().unwrap();
    drop(store);
    let store = builder.clone().open().unwrap();
    assert_eq!(store.snapshot().unwrap().events(), 14);
    store.flush().unwrap();
    assert_eq!(store.snapshot().unwrap().events(), 14);
    store.append(batch("cid", 0..3)).unwrap();
    store.flush().unwrap();
    store.compact().unwrap();
    assert_eq!(store.snapshot().unwrap().event_segments().len(), 1);
    assert_eq!(store.stats().unwrap().events_in_memory, 0);
    let report = store.verify().unwrap();
    assert_eq!((report.rows, report.ids), (17, 3));
    drop(store);
    let store = builder.open().unwrap();
    assert_eq!(store.snapshot().unwrap().events(), 17);
    assert_eq!(before.events(), 14);
    assert_eq!(
        before.find(UserKey::Text("bob")).unwrap(),
        Some(crate::Ordinal(1))
    );
}

/// Images that readers have had made are not the files: those are compressed.
#[test]
fn files_are_as_small_where_somebody_read_before_the_flush() {
    let bytes = |reads: bool| {
        let (_, builder) = memory();
        let store = builder.open().unwrap();
        for number in 0..8 {
            store.append(batch(&format!("u{number}"), 0..500)).unwrap();
            if reads {
                store.snapshot().unwrap();
            }
        }
        store.flush().unwrap();
        let snapshot = store.snapshot().unwrap();
        assert_eq!(snapshot.events(), 8 * 500);
        let segments = snapshot.event_segments().iter();
        segments.map(|segment| segment.byte_len()).sum::<usize>()
    };
    assert_eq!(bytes(true), bytes(false));
}

/// Readers, the thread that works ahead of them and flushes all make images of the same batches.
#[test]
fn readers_see_each_acknowledged_event_once_while_images_are_made() {
    const APPENDS: u64 = 600;
    const ROWS: u64 = 3;
    let (_, builder) = memory();
    let store = builder.open().unwrap();
    let acknowledged = AtomicU64::new(0);
    let begun = Instant::now();
    let read = || {
        let mut seen = 0;
        while seen < APPENDS * ROWS {
            assert!(
                begun.elapsed() < Duration::from_secs(300),
                "{seen} are seen"
            );
            let least = acknowledged.load(Ordering::SeqCst).max(seen);
            let snapshot = store.snapshot().unwrap();
            seen = snapshot.events();
            assert!(least <= seen, "{least} events, of which {seen} are seen");
            let arrivals = snapshot.event_segments().iter();
            let arrivals: Vec<_> = arrivals.map(|segment| segment.meta().arrival).collect();
            assert!(arrivals.windows(2).all(|pair| pair[0].1 < pair[1].0));
        }
        seen
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3).map(|_| scope.spawn(read)).collect();
        for number in 0..APPENDS {
            let user = format!("u{}", number % 50);
            store.append(batch(&user, 0..ROWS as i64)).unwrap();
            acknowledged.fetch_add(ROWS, Ordering::SeqCst);
            if number % 200 == 199 {
                store.flush().unwrap();
            }
        }
        for reader in readers {
            assert_eq!(reader.join().unwrap(), APPENDS * ROWS);
        }
    });
    store.verify().unwrap();
}

#[test]
fn one_writer_at_a_time_and_readers_beside_it() {
    let (_, builder) = memory();
    let refused = builder.clone().read_only().open();
    assert!(matches!(refused, Err(OpenError::NotAStore { .. })));
    let writer = builder.clone().open().unwrap();
    assert!(matches!(
        builder.clone().open(),
        Err(OpenError::Locked { .. })
    ));
    let reader = builder.clone().read_only().open().unwrap();
    assert!(matches!(
        reader.append(batch("ann", 0..1)),
        Err(WriteError::ReadOnly)
    ));
    for round in 1..5 {
        writer.append(batch("ann", 0..3)).unwrap();
        assert_eq!(reader.snapshot().unwrap().events(), round * 3);
        if round == 3 {
            writer.flush().unwrap();
            writer.compact().unwrap();
        }
    }
}

#[test]
fn a_message_id_is_stored_once_across_flush_and_restart() {
    let (_, builder) = memory();
    let message = |id: &str| {
        let mut batch = BatchBuilder::new();
        batch.event("ann", 1, "view").message_id(id);
        batch.event("ann", 2, "view").message_id(&format!("{id}-2"));
        batch.finish().unwrap()
    };
    let store = builder.clone().open().unwrap();
    assert_eq!(
        store.append(message("a")).unwrap(),
        Appended {
            stored: 2,
            duplicates: 0
        }
    );
    assert_eq!(
        store.append(message("a")).unwrap(),
        Appended {
            stored: 0,
            duplicates: 2
        }
    );
    store.flush().unwrap();
    store.append(message("b")).unwrap();
    drop(store);
    let store = builder.open().unwrap();
    for id in ["a", "b"] {
        assert_eq!(
            store.append(message(id)).unwrap(),
            Appended {
                stored: 0,
                duplicates: 2
            }
        );
    }
    assert_eq!(store.snapshot().unwrap().events(), 4);
}

#[test]
fn a_bulk_load_is_repeated_without_harm() {
    let (_, builder) = memory();
    let options = Options {
        bulk_rows: 10,
        ..Options::default()
    };
    let store = builder.clone().options(options).open().unwrap();
    store.append(batch("ann", 0..3)).unwrap();
    let mut load = store.bulk_load(7).unwrap();
    load.append(batch("bob", 0..10), 10).unwrap();
    load.append(batch("cid", 0..5), 15).unwrap();
    drop(load);
    let mut load = store.bulk_load(7).unwrap();
    assert!(!load.is_complete());
    let done = load.rows_done();
    assert!(done == 0 || done == 10, "{done}");
    if done == 0 {
        load.append(batch("bob", 0..10), 10).unwrap();
    }
    load.append(batch("cid", 0..5), 15).unwrap();
    load.finish(15).unwrap();
    assert_eq!(store.snapshot().unwrap().events(), 18);
    drop(store);
    let store = builder.open().unwrap();
    assert!(store.bulk_load(7).unwrap().is_complete());
    assert_eq!(store.snapshot().unwrap().events(), 18);
    store.compact().unwrap();
    store.verify().unwrap();
}

/// Rows of a step that failed may be lost to the load, so that nothing may be told to be complete.
#[test]
fn a_bulk_load_is_at_its_end_where_a_step_failed() {
    let (storage, builder) = memory();
    let options = Options {
        bulk_rows: 10,
        ..Options::default()
    };
    let store = builder.clone().options(options.clone()).open().unwrap();
    store.append(batch("ann", 0..3)).unwrap();
    store.flush().unwrap();
    drop(store);
    let runs = storage.list("ids").unwrap();
    for run in &runs {
        let flip = |bytes: &mut Vec<u8>| bytes[16..60].iter_mut().for_each(|byte| *byte ^= 0x55);
        storage.damage(&format!("ids/{run}"), flip).unwrap();
    }
    let store = builder.options(options).open().unwrap();
    let mut load = store.bulk_load(7).unwrap();
    load.append(batch("ann", 3..9), 6).unwrap();
    let failed = load.append(batch("ann", 9..19), 16);
    assert!(matches!(failed, Err(WriteError::Corrupt(_))), "{failed:?}");
    let again = load.append(batch("ann", 19..29), 26);
    assert!(matches!(again, Err(WriteError::LoadFailed)), "{again:?}");
    let finished = load.finish(26);
    assert!(matches!(finished, Err(WriteError::LoadFailed)));
    let load = store.bulk_load(7).unwrap();
    assert!(!load.is_complete());
    assert_eq!(load.rows_done(), 0);
    drop(load);
    assert_eq!(store.snapshot().unwrap().events(), 3);
}

/// Users of two containers, so that merging writes two segments.
fn crowd(first: i64) -> EventBatch {
    let users: Vec<i64> = (0..70_000).collect();
    let codes = vec![0; users.len()];
    let mut values = crate::batch::StringTable::default();
    values.push("view");
    let columns = crate::BatchColumns {
        times: users.iter().map(|user| (first + user) * 1_000).collect(),
        users: crate::batch::IdColumn::Int(users),
        events: crate::batch::TextColumn { codes, values },
        message_ids: None,
        properties: Vec::new(),
    };
    columns.finish().unwrap()
}

#[test]
fn a_merge_that_is_stopped_changes_nothing() {
    let (storage, builder) = memory();
    let options = Options {
        background_compaction: false,
        max_layers: 1,
        segment_bytes: 1_024,
        ..Options::default()
    };
    let store = builder.options(options).open().unwrap();
    for layer in 0..2 {
        store.append(crowd(layer)).unwrap();
        store.flush().unwrap();
    }
    let Role::Writer(writer) = &store.role else {
        panic!("a writer was opened");
    };
    let files = || storage.list("segments").unwrap();
    let (before, mut stops) = (files(), 0);
    loop {
        let asked = AtomicU32::new(0);
        let stop = || asked.fetch_add(1, Ordering::Relaxed) == stops;
        if writer.shared.compact_step(&stop).unwrap() {
            break;
        }
        assert_eq!(files(), before, "stopped at {stops}");
        assert_eq!(store.snapshot().unwrap().events(), 140_000);
        stops += 1;
    }
    // Before anything was written, and when the first of two segments was.
    assert_eq!(stops, 2);
    assert_ne!(files(), before);
    assert_eq!(store.snapshot().unwrap().event_segments().len(), 2);
    store.verify().unwrap();
}

#[test]
fn layers_wait_for_the_end_of_a_bulk_load() {
    let (_, builder) = memory();
    let options = Options {
        background_compaction: false,
        max_layers: 1,
        ..Options::default()
    };
    let store = builder.options(options).open().unwrap();
    let flush = |layer: i64| {
        store.append(batch("ann", layer..layer + 1)).unwrap();
        store.flush().unwrap();
    };
    (0..3).for_each(flush);
    let Role::Writer(writer) = &store.role else {
        panic!("a writer was opened");
    };
    let compacts = || writer.shared.compact_step(&|| false).unwrap();
    let load = store.bulk_load(7).unwrap();
    assert!(!compacts());
    // Not for ever: sixty-four times as many are too many.
    (3..64).for_each(flush);
    assert!(!compacts());
    flush(64);
    assert!(compacts());
    (65..68).for_each(flush);
    drop(load);
    assert!(compacts());
    assert_eq!(store.snapshot().unwrap().events(), 68);
}

#[test]
fn old_partitions_are_dropped_whole() {
    let (_, builder) = memory();
    let store = builder.open().unwrap();
    let day = 86_400;
    store.append(batch("ann", 0..3)).unwrap();
    store.append(batch("bob", 40 * day..40 * day + 3)).unwrap();
    let before = store.snapshot().unwrap();
    assert_eq!(store.drop_before(30 * day * 1_000_000 - 1).unwrap(), 0);
    assert_eq!(store.drop_before(30 * day * 1_000_000).unwrap(), 1);
    assert_eq!(store.snapshot().unwrap().events(), 3);
    assert_eq!(before.events(), 6);
}

#[test]
fn traits_are_rows_beside_the_events() {
    let (_, builder) = memory();
    let store = builder.clone().open().unwrap();
    store
        .set_traits("ann", 5, [("plan", Value::from("pro"))])
        .unwrap();
    store.set_traits("ann", 9, [("plan", Value::Null)]).unwrap();
    drop(store);
    let store = builder.open().unwrap();
    let snapshot = store.snapshot().unwrap();
    assert_eq!(snapshot.events(), 0);
    assert_eq!(
        snapshot
            .trait_segments()
            .iter()
            .map(|s| s.meta().rows)
            .sum::<u32>(),
        2
    );
}

#[test]
fn appends_from_many_threads_are_all_kept() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        memtable_bytes: 4_096,
        ..Options::default()
    };
    let builder = Store::builder(directory.path()).options(options);
    let store = builder.clone().open().unwrap();
    std::thread::scope(|scope| {
        for user in 0..4 {
            let store = store.clone();
            scope.spawn(move || {
                for round in 0..25 {
                    store
                        .append(batch(&user.to_string(), round * 10..round * 10 + 10))
                        .unwrap();
                    assert!(store.snapshot().unwrap().events() >= 10);
                }
            });
        }
    });
    assert_eq!(store.snapshot().unwrap().events(), 1_000);
    store.verify().unwrap();
    drop(store);
    let store = builder.open().unwrap();
    assert_eq!(store.snapshot().unwrap().events(), 1_000);
}
