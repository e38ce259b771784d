//! A store whose bytes were changed says so, and names the file. It never gives wrong rows and
//! never panics.
//!
//! Two changes cannot be told from what a crash leaves, and then the store reads as before the
//! last writes: damage to the last record of a log that was not closed, and a log cut short.
//! A closed log that lost nothing but the mark that it was closed reads whole.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use pugmark_engine::storage::{MemoryStorage, OsStorage, Storage, write_sealed};
use pugmark_engine::{Options, Store};
use pugmark_tests::dice::Dice;
use pugmark_tests::events::START;
use pugmark_tests::history::{HandClock, Script, States, Step, open, quiet_options};
use pugmark_tests::reference::Trails;
use pugmark_tests::trail::dump;
use pugmark_tests::{is_long, scratch};

const DIRECTORIES: [&str; 4] = ["segments", "ids", "dedup", "log"];

type Files = BTreeMap<String, Vec<u8>>;

/// A small store with files of every kind, and what it holds.
struct Sample {
    files: Files,
    options: Options,
    whole: Trails,
    /// What it holds without the last, the last two … batches of the open log.
    shorter: Vec<Trails>,
}

/// A closed log with records, an open log with three, and everything else that a store has.
fn sample(seed: u64) -> Sample {
    let options = quiet_options(&HandClock::at(START));
    let storage = MemoryStorage::new();
    let reopen = || open(Arc::new(storage.clone()), &options).unwrap();
    let mut states = States::new(&options);
    let mut store = reopen();
    let mut take = |store: &Store, step: Step| {
        step.take(store).unwrap();
        states.done(&step, START);
        states.known().unwrap()
    };
    let mut script = Script::new(seed, "u", false);
    for step in script.by_ref().take(30) {
        take(&store, step);
    }
    take(&store, Step::Flush);
    let appends = script.filter(|step| matches!(step, Step::Append(_)));
    let mut appends = appends.filter(|step| !has_retries(step));
    let mut whole = Trails::default();
    for step in appends.by_ref().take(3) {
        whole = take(&store, step);
    }
    drop(store);
    store = reopen();
    let mut shorter = Vec::new();
    for step in appends.take(4) {
        shorter.insert(0, std::mem::replace(&mut whole, take(&store, step)));
    }
    let files = files_of(&storage);
    for directory in DIRECTORIES {
        let any = files.keys().any(|name| name.starts_with(directory));
        assert!(any, "the sample has files in {directory}");
    }
    Sample {
        files,
        options,
        whole,
        shorter,
    }
}

fn has_retries(step: &Step) -> bool {
    matches!(step, Step::Append(events) if events.iter().any(|event| event.message_id.is_some()))
}

fn files_of(storage: &MemoryStorage) -> Files {
    let mut files = Files::new();
    files.insert("MANIFEST".to_owned(), storage.read("MANIFEST").unwrap());
    for directory in DIRECTORIES {
        for file in storage.list(directory).unwrap() {
            let name = format!("{directory}/{file}");
            let bytes = storage.read(&name).unwrap();
            files.insert(name, bytes);
        }
    }
    files
}

fn write_files(files: &Files, storage: &dyn Storage) {
    storage.make_directory("").unwrap();
    DIRECTORIES
        .iter()
        .for_each(|directory| storage.make_directory(directory).unwrap());
    for (name, bytes) in files {
        let directory = name.split_once('/').map_or("", |(directory, _)| directory);
        write_sealed(storage, directory, name, bytes).unwrap();
    }
}

/// What a store with changed files answers.
#[derive(Debug)]
enum Answer {
    /// An error, in words.
    Refused(String),
    /// These rows, and what verification says.
    Read(Trails, Result<(), String>),
}

fn ask(storage: Arc<dyn Storage>, options: &Options) -> Answer {
    let refused = |error: &dyn std::error::Error| Answer::Refused(error.to_string());
    let builder = Store::builder("").storage(storage).options(options.clone());
    let store = match builder.read_only().open() {
        Ok(store) => store,
        Err(error) => return refused(&error),
    };
    let trails = match store.snapshot() {
        Ok(snapshot) => dump(&snapshot),
        Err(error) => return refused(&error),
    };
    match trails {
        Ok(trails) => Answer::Read(
            trails,
            store
                .verify()
                .map(|_| ())
                .map_err(|error| error.to_string()),
        ),
        Err(error) => refused(&error),
    }
}

/// What was done to a file.
#[derive(Clone, Copy, Debug)]
struct Damage<'a> {
    file: &'a str,
    /// The first byte that differs.
    at: usize,
    /// Everything from there on may be lost, not one place only.
    is_cut: bool,
}

/// Bytes of the mark at the end of a closed log.
const SEAL_BYTES: usize = 48;

impl Sample {
    fn is_open_log(&self, name: &str) -> bool {
        let last = self.files.keys().rfind(|name| name.starts_with("log/"));
        last.is_some_and(|last| last == name)
    }

    /// True where a closed log lost no record.
    fn is_harmless(&self, damage: Damage<'_>) -> bool {
        let len = self.files[damage.file].len();
        damage.file.starts_with("log/") && damage.at + SEAL_BYTES >= len
    }

    /// Asks a store with these files, one of which was damaged.
    fn check(&self, files: &Files, damage: Damage<'_>) {
        let storage = MemoryStorage::new();
        write_files(files, &storage);
        let asked = catch_unwind(AssertUnwindSafe(|| ask(Arc::new(storage), &self.options)));
        let answer = asked.unwrap_or_else(|_| panic!("{damage:?}: panicked"));
        self.judge(answer, damage);
    }

    fn judge(&self, answer: Answer, damage: Damage<'_>) {
        let names_the_file = |error: &str| {
            assert!(
                error.contains(damage.file),
                "{damage:?}: the error names another: {error}"
            );
        };
        let (trails, verified) = match answer {
            Answer::Refused(error) => return names_the_file(&error),
            Answer::Read(trails, verified) => (trails, verified),
        };
        let allowed = match (self.is_open_log(damage.file), damage.is_cut) {
            (false, _) => 0,
            (true, false) => 1,
            (true, true) => self.shorter.len(),
        };
        let is_torn = self.shorter[..allowed].contains(&trails);
        if !is_torn && let Some(difference) = self.whole.difference(&trails) {
            panic!("{damage:?}: {difference}");
        }
        match verified {
            Err(error) => names_the_file(&error),
            Ok(()) => {
                let excused = is_torn || self.is_harmless(damage);
                assert!(excused, "{damage:?}: verify finds nothing");
            }
        }
    }

    fn changed(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> Files {
        let mut files = self.files.clone();
        change(files.get_mut(name).unwrap());
        files
    }
}

#[test]
fn an_untouched_store_reads_and_verifies() {
    let sample = sample(1);
    let storage = MemoryStorage::new();
    write_files(&sample.files, &storage);
    match ask(Arc::new(storage), &sample.options) {
        Answer::Read(trails, Ok(())) => assert_eq!(trails, sample.whole),
        other => panic!("{other:?}"),
    }
}

#[test]
fn flipped_bits_are_noticed() {
    let sample = sample(2);
    for (name, bytes) in &sample.files {
        let mut dice = Dice::new(bytes.len() as u64);
        for at in 0..bytes.len() {
            let bits = if is_long() {
                0..8
            } else {
                let bit = dice.below(8) as u32;
                bit..bit + 1
            };
            if !is_long() && !dice.one_in(8) {
                continue;
            }
            for bit in bits {
                let files = sample.changed(name, |bytes| bytes[at] ^= 1 << bit);
                sample.check(
                    &files,
                    Damage {
                        file: name,
                        at,
                        is_cut: false,
                    },
                );
            }
        }
    }
}

#[test]
fn files_cut_short_are_noticed() {
    let sample = sample(3);
    for (name, bytes) in &sample.files {
        let mut dice = Dice::new(bytes.len() as u64);
        for len in 0..bytes.len() {
            if is_long() || len < 2 || dice.one_in(12) {
                let files = sample.changed(name, |bytes| bytes.truncate(len));
                sample.check(
                    &files,
                    Damage {
                        file: name,
                        at: len,
                        is_cut: true,
                    },
                );
            }
        }
    }
}

#[test]
fn bytes_zeroed_or_overwritten_are_noticed() {
    let sample = sample(4);
    let mut dice = Dice::new(4);
    for (name, bytes) in &sample.files {
        for round in 0..if is_long() { 2_000 } else { 25 } {
            let at = dice.below(bytes.len() as u64) as usize;
            let len = 1 + dice.below(600) as usize;
            let end = (at + len).min(bytes.len());
            let garbage: Vec<u8> = (at..end)
                .map(|_| if round % 2 == 0 { 0 } else { dice.any() as u8 })
                .collect();
            let changed = bytes[at..end]
                .iter()
                .zip(&garbage)
                .position(|(old, new)| old != new);
            let Some(same) = changed else {
                continue;
            };
            let files = sample.changed(name, |bytes| bytes[at..end].copy_from_slice(&garbage));
            // Where the end of the open log is gone, so may be several records.
            sample.check(
                &files,
                Damage {
                    file: name,
                    at: at + same,
                    is_cut: true,
                },
            );
        }
    }
}

#[test]
fn files_missing_or_swapped_are_noticed() {
    let sample = sample(5);
    let names: Vec<&String> = sample
        .files
        .keys()
        .filter(|name| *name != "MANIFEST")
        .collect();
    for name in &names {
        // A log that is gone whole leaves a gap only where another follows it.
        if !sample.is_open_log(name) {
            let mut files = sample.files.clone();
            files.remove(*name);
            sample.check_missing(&files, name);
        }
        for other in &names {
            let same_kind = name.split('/').next() == other.split('/').next();
            if name < other && same_kind {
                let mut files = sample.files.clone();
                files.insert((*name).clone(), sample.files[*other].clone());
                files.insert((*other).clone(), sample.files[*name].clone());
                sample.check_missing(&files, name);
            }
        }
    }
}

impl Sample {
    /// As `check`, where the error may name a file that shows the damage.
    fn check_missing(&self, files: &Files, name: &str) {
        let storage = MemoryStorage::new();
        write_files(files, &storage);
        match ask(Arc::new(storage), &self.options) {
            Answer::Refused(_) | Answer::Read(_, Err(_)) => {}
            Answer::Read(_, Ok(())) => panic!("{name} is missing or swapped, and nothing notices"),
        }
    }
}

/// Opening a damaged store for writing makes nothing worse: what it read before it reads after.
#[test]
fn opening_a_damaged_store_for_writing_destroys_nothing() {
    let sample = sample(6);
    let mut dice = Dice::new(6);
    for (name, bytes) in &sample.files {
        for _ in 0..if is_long() { 1_000 } else { 30 } {
            let at = dice.below(bytes.len() as u64) as usize;
            let bit = dice.below(8);
            let storage = MemoryStorage::new();
            write_files(
                &sample.changed(name, |bytes| bytes[at] ^= 1 << bit),
                &storage,
            );
            let opened = open(Arc::new(storage.clone()), &sample.options);
            drop(opened.and_then(|store| store.snapshot()));
            let damage = Damage {
                file: name,
                at,
                is_cut: false,
            };
            let answer = ask(Arc::new(storage.clone()), &sample.options);
            // The torn record is gone for good now, and then there is nothing left to notice.
            sample.judge(answer, damage);
            let left = files_of(&storage);
            let lost = sample.files.keys().filter(|name| !name.starts_with("log/"));
            let lost: Vec<&String> = lost.filter(|name| !left.contains_key(*name)).collect();
            assert!(lost.is_empty(), "{damage:?}: {lost:?} are gone");
        }
    }
}

/// Without its manifest a directory with segments is a damaged store, not a new one.
#[test]
fn a_lost_manifest_loses_nothing_else() {
    let sample = sample(7);
    let mut files = sample.files.clone();
    files.remove("MANIFEST");
    let storage = MemoryStorage::new();
    write_files(&files, &storage);
    let error = open(Arc::new(storage.clone()), &sample.options).unwrap_err();
    assert!(error.to_string().contains("MANIFEST"), "{error}");
    write_sealed(&storage, "", "MANIFEST", &sample.files["MANIFEST"]).unwrap();
    match ask(Arc::new(storage), &sample.options) {
        Answer::Read(trails, Ok(())) => assert_eq!(trails, sample.whole),
        other => panic!("{other:?}"),
    }
}

/// The same through memory maps of real files, a few times.
#[test]
fn damage_to_real_files_is_noticed() {
    let sample = sample(8);
    let mut dice = Dice::new(8);
    for (name, bytes) in &sample.files {
        for round in 0..if is_long() { 200 } else { 6 } {
            let at = dice.below(bytes.len() as u64) as usize;
            let files = sample.changed(name, |bytes| match round % 2 {
                0 => bytes[at] ^= 1 << dice.below(8),
                _ => bytes.truncate(at),
            });
            let directory = scratch();
            write_real(&files, directory.path());
            let storage = OsStorage::open(directory.path());
            let answer = ask(Arc::new(storage), &sample.options);
            sample.judge(
                answer,
                Damage {
                    file: name,
                    at,
                    is_cut: round % 2 == 1,
                },
            );
        }
    }
}

fn write_real(files: &Files, directory: &Path) {
    DIRECTORIES
        .iter()
        .for_each(|name| std::fs::create_dir(directory.join(name)).unwrap());
    for (name, bytes) in files {
        std::fs::write(directory.join(name), bytes).unwrap();
    }
}
