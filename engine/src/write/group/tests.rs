//! Group commit: order, shared syncs, rotation, poison, and what crashes leave.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::error::ReadError;
use crate::storage::{
    Failure, Fault, FaultyStorage, FileWriter, LockError, MemoryStorage, OsStorage, WriterLock,
};
use crate::write::log::{LOG_DIRECTORY, Logs, log_number, read_log, read_logs, recover_logs};

fn memory() -> MemoryStorage {
    let storage = MemoryStorage::new();
    storage.make_directory(LOG_DIRECTORY).unwrap();
    storage
}

fn open(storage: &MemoryStorage, durability: Durability) -> GroupLog {
    GroupLog::create(Arc::new(storage.clone()), 1, 0, durability).unwrap()
}

/// Numbers of the log files, or none where not even the directory survived.
fn log_files(storage: &dyn Storage) -> Vec<u64> {
    match storage.list(LOG_DIRECTORY) {
        Ok(names) => names.iter().filter_map(|name| log_number(name)).collect(),
        Err(error) => {
            assert!(error.is_not_found(), "{error}");
            Vec::new()
        }
    }
}

fn payloads(logs: &Logs) -> Vec<Vec<u8>> {
    let copied = logs.records.iter().enumerate().map(|(index, record)| {
        assert_eq!(record.number, index as u64);
        record.payload.to_vec()
    });
    copied.collect()
}

fn read_all(storage: &dyn Storage) -> Vec<Vec<u8>> {
    payloads(&read_logs(storage, &log_files(storage), 0).unwrap())
}

#[test]
fn what_is_submitted_together_is_synced_once() {
    let storage = memory();
    let log = open(&storage, Durability::EveryCommit);
    let before = log.statistics();
    let tickets: Vec<Ticket> = (0..100u8).map(|n| log.submit(&[n]).unwrap()).collect();
    assert_eq!(log.statistics(), before, "submitting touches no file");
    for (index, ticket) in tickets.into_iter().enumerate() {
        assert_eq!(ticket.record(), index as u64);
        log.wait(ticket).unwrap();
    }
    let after = log.statistics();
    assert_eq!(after.syncs - before.syncs, 1);
    assert_eq!(after.writes - before.writes, 1);
    assert_eq!(after.records, 100);
    let survived = read_all(&storage.crash(1));
    assert_eq!(survived, (0..100u8).map(|n| vec![n]).collect::<Vec<_>>());
}

#[test]
fn a_log_in_a_real_directory_is_recovered_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(OsStorage::open(directory.path()));
    storage.make_directory(LOG_DIRECTORY).unwrap();
    for life in 0..4u64 {
        let files = log_files(storage.as_ref());
        let logs = recover_logs(storage.as_ref(), &files, 0).unwrap();
        assert_eq!(logs.next_record, life * 11);
        let number = files.last().map_or(1, |last| last + 1);
        let durability = Durability::EveryCommit;
        let log = GroupLog::create(storage.clone(), number, logs.next_record, durability).unwrap();
        for record in 0..10u8 {
            let ticket = log.submit(&[record; 50]).unwrap();
            log.wait(ticket).unwrap();
        }
        let ticket = log.rotate(number + 1).unwrap();
        log.wait_synced(ticket).unwrap();
        let ticket = log.submit(b"after").unwrap();
        log.wait(ticket).unwrap();
        if life % 2 == 0 {
            log.close().unwrap();
        }
    }
    assert_eq!(read_all(storage.as_ref()).len(), 44);
    let leftovers = storage.list(LOG_DIRECTORY).unwrap();
    assert!(leftovers.iter().all(|name| log_number(name).is_some()));
}

/// A storage whose syncs take a while, so that others queue up behind them.
#[derive(Debug)]
struct Slow(MemoryStorage);

#[derive(Debug)]
struct SlowWriter(Box<dyn FileWriter>);

impl FileWriter for SlowWriter {
    fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        assert!(!bytes.ends_with(b"panic!!!"), "as ordered");
        self.0.append(bytes)
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        thread::sleep(Duration::from_millis(1));
        self.0.sync()
    }
}

impl Storage for Slow {
    fn map(&self, name: &str, length: u64) -> Result<bytes::Bytes, ReadError> {
        self.0.map(name, length)
    }
    fn read(&self, name: &str) -> Result<Vec<u8>, StorageError> {
        self.0.read(name)
    }
    fn create(&self, name: &str) -> Result<Box<dyn FileWriter>, StorageError> {
        Ok(Box::new(SlowWriter(self.0.create(name)?)))
    }
    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        self.0.rename(from, to)
    }
    fn remove(&self, name: &str) -> Result<(), StorageError> {
        self.0.remove(name)
    }
    fn list(&self, directory: &str) -> Result<Vec<String>, StorageError> {
        self.0.list(directory)
    }
    fn make_directory(&self, name: &str) -> Result<(), StorageError> {
        self.0.make_directory(name)
    }
    fn sync_directory(&self, name: &str) -> Result<(), StorageError> {
        self.0.sync_directory(name)
    }
    fn lock(&self) -> Result<Box<dyn WriterLock>, LockError> {
        self.0.lock()
    }
    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path(name)
    }
}

fn slow(durability: Durability) -> (MemoryStorage, GroupLog) {
    let storage = memory();
    let log = GroupLog::create(Arc::new(Slow(storage.clone())), 1, 0, durability).unwrap();
    (storage, log)
}

#[test]
fn many_threads_share_syncs_and_keep_their_order() {
    const THREADS: usize = 8;
    const EACH: usize = 100;
    let (storage, log) = slow(Durability::EveryCommit);
    let append = Mutex::new(Vec::new());
    let barrier = Barrier::new(THREADS);
    thread::scope(|scope| {
        for worker in 0..THREADS {
            let (log, append, barrier) = (&log, &append, &barrier);
            scope.spawn(move || {
                barrier.wait();
                for round in 0..EACH {
                    let payload = format!("{worker} {round}").into_bytes();
                    let mut order = append.lock().unwrap();
                    let ticket = log.submit(&payload).unwrap();
                    order.push(payload);
                    drop(order);
                    log.wait(ticket).unwrap();
                }
            });
        }
    });
    let order = append.into_inner().unwrap();
    for seed in 0..10 {
        assert_eq!(read_all(&storage.crash(seed)), order);
    }
    let syncs = log.statistics().syncs;
    assert!(syncs < (THREADS * EACH / 2) as u64, "{syncs} syncs");
}

#[test]
fn rotation_loses_and_repeats_nothing_under_writers() {
    let (storage, log) = slow(Durability::EveryCommit);
    let done = AtomicBool::new(false);
    let append = Mutex::new(Vec::new());
    let mut firsts = vec![0];
    thread::scope(|scope| {
        let workers: Vec<_> = (0..4u8)
            .map(|worker| {
                let (log, append, done) = (&log, &append, &done);
                scope.spawn(move || {
                    while !done.load(Ordering::SeqCst) {
                        let mut order = append.lock().unwrap();
                        let ticket = log.submit(&[worker; 20]).unwrap();
                        order.push(vec![worker; 20]);
                        drop(order);
                        log.wait(ticket).unwrap();
                    }
                })
            })
            .collect();
        for number in 2..12 {
            let ticket = log.rotate(number).unwrap();
            log.wait_synced(ticket).unwrap();
            assert!(read_log(&storage, number - 1).unwrap().sealed);
            firsts.push(ticket.record());
            thread::sleep(Duration::from_millis(2));
        }
        done.store(true, Ordering::SeqCst);
        for worker in workers {
            worker.join().unwrap();
        }
    });
    log.close().unwrap();
    let order = append.into_inner().unwrap();
    assert_eq!(log.statistics().records, order.len() as u64);
    assert_eq!(read_all(&storage.crash(3)), order);
    for (number, first) in (1..12).zip(firsts) {
        let contents = read_log(&storage, number).unwrap();
        assert_eq!(contents.first_record, Some(first));
        assert!(contents.sealed);
    }
}

#[test]
fn a_close_ends_the_log() {
    let storage = memory();
    let log = open(&storage, Durability::None);
    let ticket = log.submit(b"last").unwrap();
    log.close().unwrap();
    log.close().unwrap();
    log.wait(ticket).unwrap();
    log.wait_synced(ticket).unwrap();
    log.sync().unwrap();
    assert!(matches!(log.submit(b"late"), Err(WriteError::Closed)));
    assert!(matches!(log.rotate(2), Err(WriteError::Closed)));
    let contents = read_log(&storage.crash(1), 1).unwrap();
    assert!(contents.sealed);
    assert_eq!(&contents.records[0].payload[..], b"last");
}

/// A waiter that asks for less than a sync may lead the close.
#[test]
fn a_close_led_by_another_returns() {
    let storage = memory();
    let log = open(&storage, Durability::None);
    let ticket = log.submit(b"x").unwrap();
    {
        let mut state = log.lock();
        state.submitted += 1;
        state.queue.push(Work::Seal);
        state.closed = true;
    }
    log.wait(ticket).unwrap();
    log.close().unwrap();
}

#[test]
fn durability_says_when_a_sync_happens() {
    let storage = memory();
    let log = open(&storage, Durability::None);
    let before = log.statistics().syncs;
    let ticket = log.submit(b"one").unwrap();
    log.wait(ticket).unwrap();
    assert_eq!(log.statistics().syncs, before);
    assert!(!log.sync_due());
    assert_eq!(
        read_all(&storage.kill()),
        [b"one".to_vec()],
        "the process may die"
    );
    log.wait_synced(ticket).unwrap();
    assert_eq!(log.statistics().syncs, before + 1);
    assert_eq!(read_all(&storage.crash(0)), [b"one".to_vec()]);
    log.sync().unwrap();
    assert_eq!(log.statistics().syncs, before + 1, "nothing new to sync");

    let storage = memory();
    let log = open(&storage, Durability::Interval(Duration::from_millis(50)));
    let before = log.statistics().syncs;
    let ticket = log.submit(b"one").unwrap();
    log.wait(ticket).unwrap();
    thread::sleep(Duration::from_millis(60));
    assert!(log.sync_due());
    log.sync_if_due().unwrap();
    assert!(!log.sync_due());
    assert_eq!(log.statistics().syncs, before + 1);
    assert_eq!(read_all(&storage.crash(0)), [b"one".to_vec()]);
}

#[test]
fn a_record_beyond_the_limit_is_refused_and_harms_nothing() {
    let storage = memory();
    let log = open(&storage, Durability::EveryCommit);
    let error = log.submit(&vec![0; MAX_RECORD_BYTES + 1]).unwrap_err();
    assert!(matches!(error, WriteError::Batch(_)), "{error}");
    let ticket = log.submit(b"fine").unwrap();
    assert_eq!(ticket.record(), 0);
    log.wait(ticket).unwrap();
}

#[test]
fn a_failed_sync_poisons_every_waiter_and_is_never_repeated() {
    let inner = memory();
    let faulty = FaultyStorage::new(Arc::new(inner.clone()));
    let log = GroupLog::create(Arc::new(faulty.clone()), 1, 0, Durability::EveryCommit).unwrap();
    let first = log.submit(b"acknowledged").unwrap();
    log.wait(first).unwrap();
    let tickets: Vec<Ticket> = (0..3).map(|_| log.submit(b"lost?").unwrap()).collect();
    // The next operation is the write, the one after it the sync.
    faulty.fail_once(faulty.operations() + 2, Fault::clean(Failure::InputOutput));
    for ticket in tickets {
        let error = log.wait(ticket).unwrap_err();
        assert!(matches!(error, WriteError::Poisoned { .. }), "{error}");
    }
    log.wait(first).unwrap();
    for late in [
        log.submit(b"late").err(),
        log.rotate(2).err(),
        log.sync().err(),
        log.close().err(),
    ] {
        assert!(
            matches!(late, Some(WriteError::Poisoned { .. })),
            "{late:?}"
        );
    }
    assert!(log.poisoned().is_some());
    assert_eq!((faulty.failures(), faulty.repeated_syncs()), (1, 0));
    for seed in 0..50 {
        let read = read_all(&inner.crash(seed));
        assert_eq!(read[0], b"acknowledged");
    }
}

#[test]
fn a_leader_that_panics_lets_nobody_wait_for_ever() {
    let (_, log) = slow(Durability::EveryCommit);
    let log = Arc::new(log);
    let fatal = log.submit(b"panic!!!").unwrap();
    let leader = {
        let log = log.clone();
        thread::spawn(move || log.wait(fatal))
    };
    assert!(leader.join().is_err());
    assert!(matches!(log.wait(fatal), Err(WriteError::Poisoned { .. })));
    assert!(matches!(log.submit(b"x"), Err(WriteError::Poisoned { .. })));
}

// ---------------------------------------------------------------------------------------------
// Crashes and faults at every operation
// ---------------------------------------------------------------------------------------------

/// What a client of the log does.
#[derive(Clone, Debug)]
enum Act {
    /// Submits payloads of these sizes, then waits for the last.
    Append(Vec<usize>),
    /// Submits one and does not wait.
    Leave(usize),
    Rotate,
    Sync,
    Close,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let size = prop_oneof![Just(0usize), 1usize..100, 400usize..6_000];
    let act = prop_oneof![
        6 => proptest::collection::vec(size.clone(), 1..4).prop_map(Act::Append),
        1 => size.prop_map(Act::Leave),
        2 => Just(Act::Rotate),
        1 => Just(Act::Sync),
        1 => Just(Act::Close),
    ];
    proptest::collection::vec(act, 1..8)
}

fn durabilities() -> impl Strategy<Value = Durability> {
    prop_oneof![
        3 => Just(Durability::EveryCommit),
        1 => Just(Durability::None),
        1 => Just(Durability::Interval(Duration::ZERO)),
    ]
}

/// All that was submitted, and how many of these are promised to survive a crash.
#[derive(Clone, Debug, Default)]
struct Promise {
    submitted: Vec<Vec<u8>>,
    acknowledged: usize,
}

impl Promise {
    /// The records found must be a prefix of those submitted with all that were acknowledged.
    fn check(&self, found: &[Vec<u8>]) {
        assert!(
            self.submitted.starts_with(found),
            "other records than submitted"
        );
        assert!(
            found.len() >= self.acknowledged,
            "{} of {} acknowledged",
            found.len(),
            self.acknowledged
        );
    }
}

/// Recovers what is there, then lets a client act; ends at the first error.
fn live(
    storage: &Arc<dyn Storage>,
    durability: Durability,
    acts: &[Act],
    promise: &mut Promise,
) -> Result<(), WriteError> {
    storage.make_directory(LOG_DIRECTORY)?;
    let files = log_files_of(storage.as_ref())?;
    let found = payloads(&recover_logs(storage.as_ref(), &files, 0)?);
    promise.check(&found);
    // What was read is what every later open reads.
    promise.acknowledged = found.len();
    promise.submitted = found;
    let mut number = files.last().map_or(1, |last| last + 1);
    let next_record = promise.submitted.len() as u64;
    let log = GroupLog::create(storage.clone(), number, next_record, durability)?;
    for act in acts {
        match act {
            Act::Append(sizes) => {
                let mut last = None;
                for &size in sizes {
                    last = Some(submit(&log, promise, size)?);
                }
                if let Some(ticket) = last {
                    log.wait(ticket)?;
                }
                if durability == Durability::EveryCommit {
                    promise.acknowledged = promise.submitted.len();
                }
                continue;
            }
            Act::Leave(size) => {
                let _later = submit(&log, promise, *size)?;
                continue;
            }
            Act::Rotate => {
                number += 1;
                let ticket = log.rotate(number)?;
                log.wait_synced(ticket)?;
            }
            Act::Sync => log.sync()?,
            Act::Close => {
                log.close()?;
                promise.acknowledged = promise.submitted.len();
                return Ok(());
            }
        }
        promise.acknowledged = promise.submitted.len();
    }
    Ok(())
}

fn log_files_of(storage: &dyn Storage) -> Result<Vec<u64>, StorageError> {
    let names = storage.list(LOG_DIRECTORY)?;
    Ok(names.iter().filter_map(|name| log_number(name)).collect())
}

fn submit(log: &GroupLog, promise: &mut Promise, size: usize) -> Result<Ticket, WriteError> {
    let payload = vec![promise.submitted.len() as u8 | 1; size];
    let ticket = log.submit(&payload)?;
    assert_eq!(ticket.record(), promise.submitted.len() as u64);
    promise.submitted.push(payload);
    Ok(ticket)
}

fn no_corruption(outcome: &Result<(), WriteError>) {
    assert!(
        !matches!(outcome, Err(WriteError::Corrupt(_))),
        "{outcome:?}"
    );
}

/// Runs a life that stops in every one of its steps, each time followed by several crashes; in
/// the tree that each leaves, runs `after`.
fn stop_at_every_step(
    start: &MemoryStorage,
    durability: Durability,
    acts: &[Act],
    promise: &Promise,
    seeds: std::ops::Range<u64>,
    after: &dyn Fn(&MemoryStorage, &Promise),
) {
    for last in 0.. {
        let disk = start.kill();
        disk.stop_after(last);
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        let mut promise = promise.clone();
        let outcome = live(&storage, durability, acts, &mut promise);
        no_corruption(&outcome);
        for seed in seeds.clone() {
            after(&disk.crash(seed * 1_000 + last), &promise);
        }
        after(&disk.kill(), &promise);
        if outcome.is_ok() && disk.steps() <= last {
            return;
        }
    }
}

fn recovers(disk: &MemoryStorage, promise: &Promise) {
    let files = log_files(disk);
    let found = payloads(&recover_logs(disk, &files, 0).unwrap());
    promise.check(&found);
    // Recovery is final: a crash right after it changes nothing.
    assert_eq!(read_all(&disk.crash(99)), found);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn acknowledged_records_survive_a_crash_in_every_step(
        acts in acts(),
        durability in durabilities(),
    ) {
        let start = MemoryStorage::new();
        stop_at_every_step(&start, durability, &acts, &Promise::default(), 0..12, &recovers);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A first life cut anywhere, then a second that recovers and goes on, cut anywhere too.
    #[test]
    fn a_second_crash_inside_recovery_loses_nothing(
        first in acts(),
        second in acts(),
        durability in durabilities(),
    ) {
        let start = MemoryStorage::new();
        let then = |disk: &MemoryStorage, promise: &Promise| {
            stop_at_every_step(disk, durability, &second[..second.len().min(2)], promise, 0..2, &recovers);
        };
        stop_at_every_step(&start, durability, &first[..first.len().min(4)], &Promise::default(), 0..2, &then);
    }

    #[test]
    fn any_failing_operation_poisons_and_loses_nothing(
        first in acts(),
        second in acts(),
        durability in durabilities(),
    ) {
        let failures = [Failure::InputOutput, Failure::NoSpace, Failure::TooManyFiles];
        let start = MemoryStorage::new();
        let mut start_promise = Promise::default();
        let storage: Arc<dyn Storage> = Arc::new(start.clone());
        live(&storage, durability, &first, &mut start_promise).unwrap();
        for at in 1.. {
            let mut reached = false;
            for (kind, failure) in failures.into_iter().enumerate() {
                for (fault, for_ever) in [
                    (Fault::clean(failure), false),
                    (Fault::clean(failure), true),
                    (Fault::short(failure), false),
                ] {
                    let disk = start.kill();
                    let faulty = FaultyStorage::new(Arc::new(disk.clone()));
                    if for_ever { faulty.fail_from(at, fault) } else { faulty.fail_once(at, fault) }
                    let storage: Arc<dyn Storage> = Arc::new(faulty.clone());
                    let mut promise = start_promise.clone();
                    let outcome = live(&storage, durability, &second, &mut promise);
                    no_corruption(&outcome);
                    assert_eq!(outcome.is_err(), faulty.failures() > 0, "{outcome:?}");
                    assert_eq!(faulty.repeated_syncs(), 0);
                    reached |= faulty.failures() > 0;
                    recovers(&disk.kill(), &promise);
                    recovers(&disk.crash(at * 10 + kind as u64), &promise);
                }
            }
            if !reached {
                break;
            }
        }
    }
}
