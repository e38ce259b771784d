//! The corpora of the fuzz targets, replayed: what once was found stays mended.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pugmark_engine::dedup::MessageIds;
use pugmark_engine::dictionary::Dictionary;
use pugmark_engine::segment::Segment;
use pugmark_engine::storage::{MemoryStorage, Storage};
use pugmark_engine::{UserKey, write};
use pugmark_tests::dice::Dice;
use pugmark_tests::events::START;
use pugmark_tests::fuzzing::{RUN, TARGETS};
use pugmark_tests::history::{HandClock, Script, Step, open, quiet_options};

fn corpora() -> PathBuf {
    PathBuf::from("../fuzz/corpus")
}

#[test]
fn corpora_do_no_harm() {
    if std::env::var_os("PUGMARK_WRITE_CORPORA").is_some() {
        write_corpora();
    }
    for (name, target) in TARGETS {
        let directory = corpora().join(name);
        let mut files = 0;
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            target(&bytes);
            damaged(&bytes, target);
            files += 1;
        }
        assert!(files > 0, "{} is empty", directory.display());
    }
}

/// Otherwise no decoder behind the first check would be reached.
#[test]
fn seeds_of_segments_are_sound() {
    let mut seeds = 0;
    for entry in std::fs::read_dir(corpora().join("segment")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "seg") {
            let bytes = std::fs::read(&path).unwrap();
            let segment = Segment::open(bytes.into(), &path).unwrap();
            segment.verify().unwrap();
            seeds += 1;
        }
    }
    assert!(seeds > 0);
}

/// A few changes of each file, so that the replay is more than reading whole files.
fn damaged(bytes: &[u8], target: fn(&[u8])) {
    let mut dice = Dice::new(bytes.len() as u64);
    for _ in 0..20 {
        let mut changed = bytes.to_vec();
        for _ in 0..1 + dice.below(3) {
            if let Some(at) = dice.any().checked_rem(changed.len() as u64) {
                changed[at as usize] = dice.any() as u8;
            }
        }
        if dice.one_in(4) {
            changed.truncate(dice.below(bytes.len() as u64 + 1) as usize);
        }
        target(&changed);
    }
}

/// Small real files of every kind.
fn write_corpora() {
    let storage = MemoryStorage::new();
    let options = quiet_options(&HandClock::at(START));
    let store = open(Arc::new(storage.clone()), &options).unwrap();
    let mut script = Script::new(11, "u", false);
    for step in script.by_ref().take(12) {
        step.take(&store).unwrap();
    }
    store.flush().unwrap();
    for step in script
        .filter(|step| matches!(step, Step::Append(_)))
        .take(3)
    {
        step.take(&store).unwrap();
    }
    drop(store);
    keep("manifest", "small", &storage.read("MANIFEST").unwrap());
    for file in storage.list("segments").unwrap().iter().take(3) {
        keep(
            "segment",
            file,
            &storage.read(&format!("segments/{file}")).unwrap(),
        );
    }
    for file in storage.list("log").unwrap() {
        let bytes = storage.read(&format!("log/{file}")).unwrap();
        let number = write::log::log_number(&file).unwrap();
        let contents = write::log::decode_log(&bytes.into(), Path::new("log"), number).unwrap();
        for (index, record) in contents.records.iter().enumerate() {
            keep("record", &format!("{index}"), &record.payload);
        }
    }
    write_log();
    write_runs();
    let csv = "\u{0}user,time,event,price\n1,2026-01-01,view,7\n\"x, y\",1767225600,cart,7.5\n";
    let json = "\u{2}{\"user\":\"a\",\"time\":1,\"event\":\"e\",\"p\":{\"q\":[1,\"x\"]}}\n{}\n";
    keep("import", "csv", csv.as_bytes());
    keep(
        "import",
        "tsv",
        csv.replace(',', "\t")
            .replacen('\u{0}', "\u{1}", 1)
            .as_bytes(),
    );
    keep("import", "ndjson", json.as_bytes());
}

/// A log with number 1, as its target reads it.
fn write_log() {
    let storage = MemoryStorage::new();
    storage.make_directory("log").unwrap();
    let mut log = write::log::LogWriter::create(&storage, 1, 0).unwrap();
    for payload in [&b"not a record"[..], b"", &[1; 40]] {
        log.append(payload);
        log.commit(true).unwrap();
    }
    log.seal().unwrap();
    keep(
        "log",
        "three",
        &storage.read("log/000000000001.log").unwrap(),
    );
}

fn write_runs() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let (number, seed) = RUN;
    let dictionary = Dictionary::open(Arc::clone(&storage), seed, &[]).unwrap();
    for id in ["7", "ann", "user-1", "user-2", "-3", "日本"] {
        dictionary.find_or_assign(UserKey::from_text(id)).unwrap();
    }
    let sealed = dictionary.seal(number).unwrap().unwrap();
    let head = sealed.meta.count.to_le_bytes();
    keep("dictionary", "six", &[&head[..], &sealed.image].concat());

    let mut ids = MessageIds::open(storage, seed, 1_000_000, &[]).unwrap();
    for (index, id) in ["m-1", "m-2", "m-3"].into_iter().enumerate() {
        ids.check_and_insert(&[id], START + index as i64 * 1_000)
            .unwrap();
    }
    let sealed = ids.seal(number).unwrap().unwrap();
    let meta = sealed.meta;
    let arrivals = [meta.min_arrival_millis, meta.max_arrival_millis].map(i64::to_le_bytes);
    let head = [&meta.count.to_le_bytes()[..], &arrivals[0], &arrivals[1]].concat();
    keep("message_ids", "three", &[&head[..], &sealed.image].concat());
}

fn keep(target: &str, name: &str, bytes: &[u8]) {
    let directory = corpora().join(target);
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join(name), bytes).unwrap();
}
