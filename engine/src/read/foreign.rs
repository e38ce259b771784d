//! Reading a store that another process may be writing.
//!
//! A snapshot is the newest manifest, the files it names, and the log behind it. Where a file is
//! gone, the writer has published a newer version in between, so the reader starts over.

use std::sync::{Arc, Mutex};

use crate::dictionary::Dictionary;
use crate::error::{OpenError, ReadError};
use crate::manifest::Manifest;
use crate::options::Options;
use crate::read::Snapshot;
use crate::recover::{build_options, memtable_of, replay};
use crate::storage::Storage;
use crate::store::shared::{Version, lock};
use crate::write::flush::log_numbers;
use crate::write::log::read_logs;

/// How often a reader starts over before it takes a missing file for damage.
const ATTEMPTS: usize = 100;

/// A read-only view of a store's directory.
#[derive(Debug)]
pub(crate) struct ForeignReader {
    storage: Arc<dyn Storage>,
    options: Options,
    last: Mutex<Option<Seen>>,
}

/// The last snapshot and what it was made from.
#[derive(Clone, Debug)]
struct Seen {
    version: Arc<Version>,
    log_records: u64,
    snapshot: Snapshot,
}

impl ForeignReader {
    /// A reader of the store in `storage`.
    pub(crate) fn open(storage: Arc<dyn Storage>, options: Options) -> Result<Self, OpenError> {
        let reader = Self {
            storage,
            options,
            last: Mutex::new(None),
        };
        reader.snapshot()?;
        Ok(reader)
    }

    /// The store's newest state.
    pub(crate) fn snapshot(&self) -> Result<Snapshot, OpenError> {
        let mut last = lock(&self.last);
        let mut attempt = 0;
        loop {
            let before = self.manifest()?.version;
            match self.read(last.as_ref()) {
                Ok(seen) => {
                    let snapshot = seen.snapshot.clone();
                    *last = Some(seen);
                    return Ok(snapshot);
                }
                // The writer removes a file only after it has published a version without it.
                Err(_) if attempt < ATTEMPTS && self.manifest()?.version != before => {
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The newest manifest.
    pub(crate) fn manifest(&self) -> Result<Manifest, OpenError> {
        Manifest::load(&*self.storage)?.ok_or_else(|| OpenError::NotAStore {
            path: self.storage.path(""),
        })
    }

    fn read(&self, last: Option<&Seen>) -> Result<Seen, OpenError> {
        let taken_at = self.options.clock.now();
        let manifest = self.manifest()?;
        let (log_file, log_record) = (manifest.log_file, manifest.log_record);
        let mut numbers = log_numbers(&*self.storage)?;
        numbers.retain(|&number| number >= log_file);
        let logs = read_logs(&*self.storage, &numbers, log_record)?;
        if let Some(seen) = last
            && seen.version.manifest.version == manifest.version
            && seen.log_records == logs.next_record
        {
            let snapshot = Snapshot::of(
                seen.snapshot.segments().to_vec(),
                seen.snapshot.dictionary().clone(),
                manifest.partition_micros,
                taken_at,
            );
            return Ok(Seen {
                snapshot,
                ..seen.clone()
            });
        }
        let old = last.map(|seen| &*seen.version);
        let version = Version::open(manifest, &*self.storage, old)?;
        let (seed, ids) = (version.manifest.seed, &version.manifest.ids);
        let dictionary = Dictionary::open(Arc::clone(&self.storage), seed, ids)?;
        let batches = replay(&*self.storage, &logs.records, &dictionary, None)?;
        let partition_micros = version.manifest.partition_micros;
        let memtable = memtable_of(batches, partition_micros, build_options(&self.options));
        let mut segments = version.segments.clone();
        segments.extend(memtable.segments().map_err(ReadError::from)?);
        let snapshot = Snapshot::of(segments, dictionary.snapshot(), partition_micros, taken_at);
        Ok(Seen {
            version: Arc::new(version),
            log_records: logs.next_record,
            snapshot,
        })
    }
}

impl ForeignReader {
    /// The storage that is read.
    pub(crate) fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }
}
