//! Reading everything and checking every checksum and invariant.

use std::collections::BTreeMap;
use std::sync::Arc;

use thiserror::Error;

use crate::dedup::MessageIds;
use crate::dictionary::Dictionary;
use crate::error::{Corruption, OpenError, ReadError, StorageError, WriteError};
use crate::manifest::{Manifest, SegmentEntry, ids_file, segment_file};
use crate::segment::{Partition, Segment, SegmentMeta};
use crate::storage::Storage;
use crate::write::flush::log_numbers;
use crate::write::log::read_logs;
use crate::write::record;

/// What a verification read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Files read.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Rows of segments.
    pub rows: u64,
    /// Ids of the dictionary.
    pub ids: u64,
    /// Records of the log that are not in segments yet.
    pub log_records: u64,
}

/// Why a store does not verify.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The store cannot be opened, or a file of it cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What is in memory could not be flushed before verifying.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl From<ReadError> for VerifyError {
    fn from(error: ReadError) -> Self {
        Self::Open(error.into())
    }
}

impl From<Corruption> for VerifyError {
    fn from(error: Corruption) -> Self {
        Self::Open(error.into())
    }
}

impl From<StorageError> for VerifyError {
    fn from(error: StorageError) -> Self {
        Self::Open(error.into())
    }
}

/// How often verification starts over where the store changed under it.
const ATTEMPTS: usize = 100;

/// Verifies the store in `storage`, which may be written meanwhile: where a file is gone and the
/// manifest is a newer one, verification starts over with that.
pub(crate) fn verify(storage: &Arc<dyn Storage>) -> Result<VerifyReport, VerifyError> {
    let mut attempt = 0;
    loop {
        let manifest = load(&**storage)?;
        match verify_version(storage, &manifest) {
            Err(_) if attempt < ATTEMPTS && load(&**storage)?.version != manifest.version => {
                attempt += 1;
            }
            done => return done,
        }
    }
}

fn load(storage: &dyn Storage) -> Result<Manifest, OpenError> {
    let path = || storage.path("");
    Manifest::load(storage)?.ok_or_else(|| OpenError::NotAStore { path: path() })
}

fn verify_version(
    storage: &Arc<dyn Storage>,
    manifest: &Manifest,
) -> Result<VerifyReport, VerifyError> {
    let mut report = VerifyReport {
        files: 1,
        ..VerifyReport::default()
    };
    // First what a flush takes away: it should not have the time to.
    verify_logs(&**storage, manifest, &mut report)?;
    check_layers(&**storage, manifest)?;
    for entry in &manifest.segments {
        verify_segment(&**storage, entry, manifest.partition_micros)?;
        report.files += 1;
        report.bytes += entry.length;
        report.rows += u64::from(entry.meta.rows);
    }
    verify_runs(storage, manifest, &mut report)?;
    Ok(report)
}

fn verify_logs(
    storage: &dyn Storage,
    manifest: &Manifest,
    report: &mut VerifyReport,
) -> Result<(), VerifyError> {
    let mut numbers = log_numbers(storage)?;
    numbers.retain(|&number| number >= manifest.log_file);
    report.files += numbers.len() as u64;
    for logged in read_logs(storage, &numbers, manifest.log_record)?.records {
        record::decode(&logged.payload)
            .map_err(|error| Corruption::new(&storage.path("log"), error.at as u64, error.what))?;
        report.bytes += logged.payload.len() as u64;
        report.log_records += 1;
    }
    Ok(())
}

fn verify_runs(
    storage: &Arc<dyn Storage>,
    manifest: &Manifest,
    report: &mut VerifyReport,
) -> Result<(), VerifyError> {
    let mut next_ordinal = 0;
    for run in &manifest.ids {
        let name = ids_file(run.number);
        if u64::from(run.first) != next_ordinal {
            let what = "the runs of the id dictionary leave a gap or overlap";
            return Err(Corruption::new(&storage.path(&name), 0, what).into());
        }
        next_ordinal += u64::from(run.count);
        report.files += 1;
        report.bytes += run.length;
        report.ids += u64::from(run.count);
    }
    Dictionary::open(Arc::clone(storage), manifest.seed, &manifest.ids)?.verify()?;
    for run in &manifest.message_ids {
        report.files += 1;
        report.bytes += run.length;
    }
    // The window says what counts as a duplicate, not what is stored.
    MessageIds::open(Arc::clone(storage), manifest.seed, 0, &manifest.message_ids)?.verify()?;
    Ok(())
}

fn verify_segment(
    storage: &dyn Storage,
    entry: &SegmentEntry,
    partition_micros: i64,
) -> Result<(), VerifyError> {
    let name = segment_file(entry.number);
    let path = storage.path(&name);
    let segment = Segment::open(storage.map(&name, entry.length)?, &path)?;
    let damaged = |what| Corruption::new(&path, 0, what);
    if *segment.meta() != entry.meta {
        return Err(damaged("the segment is not the one that the manifest describes").into());
    }
    if let Partition::Events(number) = entry.meta.partition {
        let inside = |time: i64| time.div_euclid(partition_micros) == number;
        if !inside(entry.meta.min_time) || !inside(entry.meta.max_time) {
            return Err(damaged("rows lie outside of the segment's partition").into());
        }
    }
    segment.verify()?;
    Ok(())
}

/// Segments of one partition that share users have disjoint arrival intervals.
fn check_layers(storage: &dyn Storage, manifest: &Manifest) -> Result<(), VerifyError> {
    let mut partitions: BTreeMap<Partition, Vec<(u64, &SegmentMeta)>> = BTreeMap::new();
    for entry in &manifest.segments {
        partitions
            .entry(entry.meta.partition)
            .or_default()
            .push((entry.number, &entry.meta));
    }
    for segments in partitions.values() {
        for (index, (number, one)) in segments.iter().enumerate() {
            let clash = segments[..index].iter().any(|(_, other)| {
                let users = one.first_container <= other.last_container
                    && other.first_container <= one.last_container;
                users && one.arrival.0 <= other.arrival.1 && other.arrival.0 <= one.arrival.1
            });
            if clash {
                let what = "two segments of a partition share users and arrival numbers";
                return Err(Corruption::new(&storage.path(&segment_file(*number)), 0, what).into());
            }
        }
    }
    Ok(())
}
