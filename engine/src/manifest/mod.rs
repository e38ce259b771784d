//! The manifest: which files make up the store, in one checksummed record that is replaced whole.
//!
//! Publishing is: write `MANIFEST.new`, sync it, rename it over `MANIFEST` (which syncs the
//! directory). Whoever opens the store therefore sees one version or the next, never a mixture.
//! Sections are tagged, so that later releases can add some: an unknown tag below
//! [`OPTIONAL_TAGS`] is refused as too new, one above is carried along.

mod codec;

use crate::dedup::DedupRunMeta;
use crate::dictionary::RunMeta;
use crate::error::{Corruption, OpenError, StorageError};
use crate::segment::SegmentMeta;
use crate::storage::Storage;
use crate::write::record::Progress;

/// Name of the manifest's file.
pub(crate) const MANIFEST: &str = "MANIFEST";
const MANIFEST_NEW: &str = "MANIFEST.new";
/// The newest format version that this release reads and writes.
pub(crate) const FORMAT_VERSION: u32 = 1;
/// Tags from here on may be unknown to a reader without harm.
pub(crate) const OPTIONAL_TAGS: u32 = 0x8000_0000;

/// A segment file that belongs to the store.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SegmentEntry {
    /// Its file number.
    pub number: u64,
    /// Its exact length in bytes.
    pub length: u64,
    /// What it holds.
    pub meta: SegmentMeta,
}

/// One version of the store.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Manifest {
    /// Grows by one with every publish.
    pub version: u64,
    /// Length of a time partition in microseconds, fixed when the store was made.
    pub partition_micros: i64,
    /// Key of the store's hashes, random for each store.
    pub seed: u64,
    /// The next file number; numbers are never used twice.
    pub next_file: u64,
    /// The next number of the arrival sequence, as far as segments know.
    pub next_arrival: u64,
    /// The log file that holds the first record not yet in segments.
    pub log_file: u64,
    /// The number of that record.
    pub log_record: u64,
    /// Segments by (partition, arrival, users).
    pub segments: Vec<SegmentEntry>,
    /// Runs of the id dictionary by ordinal.
    pub ids: Vec<RunMeta>,
    /// Runs of message ids by arrival.
    pub message_ids: Vec<DedupRunMeta>,
    /// Imports and bulk loads that were begun, by key; kept for ever.
    pub ledger: Vec<Progress>,
    /// Sections of later releases that this one carries along: (tag, bytes).
    pub(crate) carried: Vec<(u32, Vec<u8>)>,
}

impl Manifest {
    /// The first version of a new store.
    pub(crate) fn new(partition_micros: i64, seed: u64) -> Self {
        Self {
            version: 0,
            partition_micros,
            seed,
            next_file: 1,
            next_arrival: 0,
            log_file: 0,
            log_record: 0,
            segments: Vec::new(),
            ids: Vec::new(),
            message_ids: Vec::new(),
            ledger: Vec::new(),
            carried: Vec::new(),
        }
    }

    /// Notes progress of a load.
    pub(crate) fn note(&mut self, progress: &Progress) {
        match self
            .ledger
            .iter_mut()
            .find(|entry| entry.key == progress.key)
        {
            Some(entry) => *entry = *progress,
            None => self.ledger.push(*progress),
        }
    }

    /// Reads the current version; `None` where there is no store.
    pub(crate) fn load(storage: &dyn Storage) -> Result<Option<Self>, OpenError> {
        let bytes = match storage.read(MANIFEST) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        codec::decode(&bytes)
            .map(Some)
            .map_err(|error| match error {
                codec::DecodeError::TooNew(found) => OpenError::TooNew {
                    path: storage.path(MANIFEST),
                    found,
                    supported: FORMAT_VERSION,
                },
                codec::DecodeError::Wire(error) => {
                    let path = storage.path(MANIFEST);
                    Corruption::new(&path, error.at as u64, error.what).into()
                }
            })
    }

    /// The manifest that these bytes are, if they are one.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        codec::decode(bytes).ok()
    }

    /// Makes this version the current one, durably.
    pub(crate) fn publish(&self, storage: &dyn Storage) -> Result<(), StorageError> {
        match storage.remove(MANIFEST_NEW) {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
        let mut file = storage.create(MANIFEST_NEW)?;
        file.append(&codec::encode(self))?;
        file.sync()?;
        crate::crash::crash_point!("publish.written");
        storage.rename(MANIFEST_NEW, MANIFEST)
    }
}

/// File name of a segment.
pub(crate) fn segment_file(number: u64) -> String {
    format!("segments/{number:012}.seg")
}

/// File name of a run of the id dictionary.
pub(crate) fn ids_file(number: u64) -> String {
    format!("ids/{number:012}.ids")
}

/// File name of a run of message ids.
pub(crate) fn message_ids_file(number: u64) -> String {
    format!("dedup/{number:012}.mid")
}
