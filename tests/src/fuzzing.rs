//! What fuzz targets do with bytes, shared by `fuzz/` and by the replay of its corpora.
//!
//! Every decoder of stored bytes takes anything: it refuses, or reads and verifies, without a
//! panic and within memory bounded by what it was given.

use std::path::Path;
use std::sync::Arc;

use pugmark_engine::dedup::{DedupRunMeta, MessageIds};
use pugmark_engine::dictionary::{Dictionary, RunMeta};
use pugmark_engine::segment::Segment;
use pugmark_engine::storage::{MemoryStorage, Storage, write_sealed};
use pugmark_engine::write::log::decode_log;
use pugmark_server::import::{Collector, Format, ImportOptions, Meter, import_files};

use crate::scratch;

/// A target: its name, which is that of its corpus, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// The targets.
pub const TARGETS: [Target; 7] = [
    ("log", log),
    ("record", record),
    ("manifest", manifest),
    ("segment", segment),
    ("dictionary", dictionary),
    ("message_ids", message_ids),
    ("import", import),
];

/// Number and seed of the files that sealed runs are fuzzed as.
pub const RUN: (u64, u64) = (1, 0);

/// A log file, as number 1.
pub fn log(bytes: &[u8]) {
    let contents = decode_log(&bytes.to_vec().into(), Path::new("fuzz"), 1);
    for record in contents.iter().flat_map(|contents| &contents.records) {
        self::record(&record.payload);
    }
}

/// The payload of a log record.
pub fn record(bytes: &[u8]) {
    pugmark_engine::fuzzing::record(bytes);
}

/// A manifest.
pub fn manifest(bytes: &[u8]) {
    pugmark_engine::fuzzing::manifest(bytes);
}

/// A segment.
pub fn segment(bytes: &[u8]) {
    if let Ok(segment) = Segment::open(bytes.to_vec().into(), Path::new("fuzz")) {
        let _refused = segment.verify();
    }
}

/// A run of the id dictionary behind its number of ids (four bytes).
pub fn dictionary(bytes: &[u8]) {
    let Some((count, file)) = bytes.split_first_chunk() else {
        return;
    };
    let (number, seed) = RUN;
    let length = file.len() as u64;
    let count = u32::from_le_bytes(*count);
    let meta = RunMeta {
        number,
        first: 0,
        count,
        length,
    };
    let storage = one_file("ids", "ids/000000000001.ids", file);
    if let Ok(dictionary) = Dictionary::open(storage, seed, &[meta]) {
        let _refused = dictionary.verify();
    }
}

/// A run of message ids behind its number of ids (four bytes) and its oldest and newest arrival
/// (eight each).
pub fn message_ids(bytes: &[u8]) {
    let Some((head, file)) = bytes.split_first_chunk::<20>() else {
        return;
    };
    let long = |at: usize| i64::from_le_bytes(std::array::from_fn(|byte| head[at + byte]));
    let (number, seed) = RUN;
    let meta = DedupRunMeta {
        number,
        count: u32::from_le_bytes(std::array::from_fn(|byte| head[byte])),
        min_arrival_millis: long(4),
        max_arrival_millis: long(12),
        length: file.len() as u64,
    };
    let storage = one_file("dedup", "dedup/000000000001.mid", file);
    if let Ok(ids) = MessageIds::open(storage, seed, 0, &[meta]) {
        let _refused = ids.verify();
    }
}

/// A file to be imported, as the format that the first byte says.
pub fn import(bytes: &[u8]) {
    let Some((format, text)) = bytes.split_first() else {
        return;
    };
    let mut options = ImportOptions::new("user", "time", "event");
    options.format = Some(match format % 4 {
        0 => Format::Csv,
        1 => Format::Tsv,
        2 => Format::Ndjson,
        _ => Format::Parquet,
    });
    let directory = scratch();
    let file = directory.path().join("input");
    std::fs::write(&file, text).expect("a file can be written");
    options.rejects = Some(directory.path().join("rejects.csv"));
    let mut collector = Collector::default();
    let _refused = import_files(&[file], &options, &mut collector, &Meter::default());
}

fn one_file(directory: &str, name: &str, bytes: &[u8]) -> Arc<dyn Storage> {
    let storage = MemoryStorage::new();
    storage
        .make_directory(directory)
        .expect("memory never fails");
    write_sealed(&storage, directory, name, bytes).expect("memory never fails");
    Arc::new(storage)
}
