//! The memory table: batches since the last flush, readable like segments.
//!
//! Published batches wait in a tail until somebody reads. A reader turns the tail into segment
//! images (bytes as a file holds, but written quickly rather than made small) and merges
//! neighbouring images of similar size, so that reading costs a logarithm of the batches, and a
//! batch is sorted a few times at most.
//!
//! While readers come, a thread does the same ahead of them, chunk by chunk, and the larger merges:
//! a reader then finds little to do, however fast batches come. Nobody waits for a merge.

use std::sync::{Arc, Mutex, PoisonError, RwLock, TryLockError};

use crate::batch::ResolvedBatch;
use crate::error::Corruption;
use crate::segment::{self, BuildOptions, Partition, Segment, SegmentImage};
use crate::store::shared::lock;
use crate::write::record::{BatchKind, Progress};

/// Rows of the tail that are worth an image ahead of readers.
pub(crate) const AHEAD_ROWS: usize = if cfg!(test) { 8 } else { 1 << 11 };
/// Runs that are merged at a time: few, so that there are not many, and not two, so that no row is
/// merged often.
const MERGED_RUNS: usize = 4;
/// Rows that a reader merges at most.
const READER_MERGES: u64 = if cfg!(test) { 16 } else { 1 << 12 };
/// Rows that are merged at most ahead of readers: no merge takes so long that many wait in the tail.
const AHEAD_MERGES: u64 = if cfg!(test) { 64 } else { 1 << 18 };

/// One published batch.
#[derive(Debug)]
pub(crate) struct MemBatch {
    pub(crate) kind: BatchKind,
    /// Its number in the store's arrival sequence.
    pub(crate) arrival: u64,
    pub(crate) rows: ResolvedBatch,
    /// Encoded size, the measure of when to flush.
    pub(crate) bytes: usize,
    pub(crate) progress: Option<Progress>,
}

/// Batches in arrival order, as a growing tail and as images.
#[derive(Debug)]
pub(crate) struct Memtable {
    partition_micros: i64,
    build: BuildOptions,
    tail: RwLock<Tail>,
    runs: Mutex<Vec<Arc<MemRun>>>,
    /// Held while the tail is made an image of.
    imaging: Mutex<()>,
    /// Held while runs are merged. Without it runs are only added, behind the others.
    merging: Mutex<()>,
    progress: Mutex<Vec<Progress>>,
}

/// Batches of which there is no image yet.
#[derive(Debug, Default)]
struct Tail {
    batches: Vec<Arc<MemBatch>>,
    rows: usize,
}

/// Images of neighbouring batches: one segment for each partition that they touch.
#[derive(Debug)]
struct MemRun {
    rows: u64,
    segments: Vec<Arc<Segment>>,
}

impl Memtable {
    /// An empty memory table.
    pub(crate) fn new(partition_micros: i64, build: BuildOptions) -> Self {
        Self {
            partition_micros,
            build: BuildOptions {
                compressed: false,
                ..build
            },
            tail: RwLock::default(),
            runs: Mutex::default(),
            imaging: Mutex::default(),
            merging: Mutex::default(),
            progress: Mutex::default(),
        }
    }

    /// Makes a batch visible, after all that were published before. Returns the rows of which
    /// there is no image.
    pub(crate) fn publish(&self, batch: Arc<MemBatch>) -> usize {
        if let Some(progress) = batch.progress {
            lock(&self.progress).push(progress);
        }
        let mut tail = self.tail.write().unwrap_or_else(PoisonError::into_inner);
        let rows = batch.rows.times.len();
        if rows > 0 {
            tail.batches.push(batch);
            tail.rows += rows;
        }
        tail.rows
    }

    /// Progress notes of the published batches, oldest first.
    pub(crate) fn progress(&self) -> Vec<Progress> {
        lock(&self.progress).clone()
    }

    /// Everything published, as segments in arrival order.
    ///
    /// # Errors
    /// Only where an image does not read back, which is a bug or broken memory.
    pub(crate) fn segments(&self) -> Result<Vec<Arc<Segment>>, Corruption> {
        self.image_tail()?;
        let merging = match self.merging.try_lock() {
            Ok(merging) => Some(merging),
            Err(TryLockError::Poisoned(left)) => Some(left.into_inner()),
            // Somebody merges, and nobody waits for that.
            Err(TryLockError::WouldBlock) => None,
        };
        if merging.is_some() {
            self.merge_runs(READER_MERGES)?;
        }
        drop(merging);
        let runs = lock(&self.runs);
        let segments = runs.iter().flat_map(|run| run.segments.iter().cloned());
        Ok(segments.collect())
    }

    /// Everything published, as compressed images, one after the other in each partition. Nothing is
    /// published any more.
    ///
    /// # Errors
    /// As [`segments`](Self::segments).
    pub(crate) fn finish(&self, build: &BuildOptions) -> Result<Vec<SegmentImage>, Corruption> {
        if let Some(batches) = self.unread() {
            return Ok(build_images(&batches, self.partition_micros, build, 1));
        }
        let mut images = Vec::new();
        for group in by_partition(self.segments()?.into_iter()) {
            images.extend(segment::merge(&group, build, None)?);
        }
        Ok(images)
    }

    /// True where there is something to do ahead of the next reader.
    pub(crate) fn is_behind(&self) -> bool {
        let tail = self.tail.read().unwrap_or_else(PoisonError::into_inner);
        let waiting = tail.rows;
        drop(tail);
        waiting >= AHEAD_ROWS || self.similar_runs(AHEAD_MERGES).is_some()
    }

    /// Does what the next reader would have to do, and more.
    ///
    /// # Errors
    /// As [`segments`](Self::segments).
    pub(crate) fn image_ahead(&self) -> Result<(), Corruption> {
        self.image_tail()?;
        let _one_at_a_time = lock(&self.merging);
        self.merge_runs(AHEAD_MERGES)
    }

    /// Turns the batches of the tail into a run.
    fn image_tail(&self) -> Result<(), Corruption> {
        let _one_at_a_time = lock(&self.imaging);
        let batches = self.tail_batches();
        if batches.is_empty() {
            return Ok(());
        }
        let run = self.image(&batches)?;
        let rows: usize = batches.iter().map(|batch| batch.rows.times.len()).sum();
        lock(&self.runs).push(Arc::new(run));
        let mut tail = self.tail.write().unwrap_or_else(PoisonError::into_inner);
        tail.batches.drain(..batches.len());
        tail.rows -= rows;
        Ok(())
    }

    /// All batches, where nobody has read: then there is no image that could be of use.
    fn unread(&self) -> Option<Vec<Arc<MemBatch>>> {
        let _nobody_images = lock(&self.imaging);
        let unread = lock(&self.runs).is_empty();
        unread.then(|| self.tail_batches())
    }

    fn tail_batches(&self) -> Vec<Arc<MemBatch>> {
        let tail = self.tail.read().unwrap_or_else(PoisonError::into_inner);
        tail.batches.clone()
    }

    /// Merges neighbouring runs of similar size that have no more than `most` rows together. Called
    /// with `merging` held.
    fn merge_runs(&self, most: u64) -> Result<(), Corruption> {
        while let Some((place, similar)) = self.similar_runs(most) {
            let merged = self.merge(&similar)?;
            lock(&self.runs).splice(place..place + similar.len(), [Arc::new(merged)]);
        }
        Ok(())
    }

    /// The youngest neighbours that are worth merging, and where they are.
    fn similar_runs(&self, most: u64) -> Option<(usize, Vec<Arc<MemRun>>)> {
        let runs = lock(&self.runs);
        let similar = |runs: &[Arc<MemRun>]| {
            let rows = runs.iter().map(|run| run.rows);
            let newer: u64 = rows.clone().skip(1).sum();
            runs[0].rows <= newer && rows.sum::<u64>() <= most
        };
        let place = runs.windows(MERGED_RUNS).rposition(similar)?;
        Some((place, runs[place..place + MERGED_RUNS].to_vec()))
    }

    fn image(&self, batches: &[Arc<MemBatch>]) -> Result<MemRun, Corruption> {
        let images = build_images(batches, self.partition_micros, &self.build, 1);
        let mut run = MemRun {
            rows: 0,
            segments: Vec::with_capacity(images.len()),
        };
        for image in images {
            run.rows += u64::from(image.meta.rows);
            run.segments.push(open_image(image)?);
        }
        Ok(run)
    }

    fn merge(&self, runs: &[Arc<MemRun>]) -> Result<MemRun, Corruption> {
        let all = runs.iter().flat_map(|run| run.segments.iter().cloned());
        let mut merged = MemRun {
            rows: runs.iter().map(|run| run.rows).sum(),
            segments: Vec::with_capacity(8),
        };
        for group in by_partition(all) {
            merged.segments.extend(merge_group(group, &self.build)?);
        }
        Ok(merged)
    }
}

/// Segments grouped by partition, arrival order kept inside each group.
fn by_partition(segments: impl Iterator<Item = Arc<Segment>>) -> Vec<Vec<Arc<Segment>>> {
    let mut groups: std::collections::BTreeMap<Partition, Vec<Arc<Segment>>> = Default::default();
    for segment in segments {
        groups
            .entry(segment.meta().partition)
            .or_default()
            .push(segment);
    }
    groups.into_values().collect()
}

fn merge_group(
    group: Vec<Arc<Segment>>,
    options: &BuildOptions,
) -> Result<Vec<Arc<Segment>>, Corruption> {
    if group.len() == 1 {
        return Ok(group);
    }
    segment::merge(&group, options, None)?
        .into_iter()
        .map(open_image)
        .collect()
}

/// Opens an image as a segment.
pub(crate) fn open_image(image: SegmentImage) -> Result<Arc<Segment>, Corruption> {
    let path = std::path::Path::new("(memory table)");
    Ok(Arc::new(Segment::open(image.bytes.into(), path)?))
}

/// Cuts batches by partition and builds the images of each, on up to `threads` threads.
pub(crate) fn build_images(
    batches: &[Arc<MemBatch>],
    partition_micros: i64,
    options: &BuildOptions,
    threads: usize,
) -> Vec<SegmentImage> {
    let mut partitions: std::collections::BTreeMap<Partition, Vec<(usize, Vec<u32>)>> =
        Default::default();
    for (index, batch) in batches.iter().enumerate() {
        for (partition, rows) in rows_by_partition(batch, partition_micros) {
            partitions.entry(partition).or_default().push((index, rows));
        }
    }
    let mut images = Vec::new();
    for (partition, inputs) in partitions {
        let first = inputs
            .first()
            .map_or(0, |&(index, _)| batches[index].arrival);
        let last = inputs
            .last()
            .map_or(0, |&(index, _)| batches[index].arrival);
        let inputs: Vec<(&ResolvedBatch, &[u32])> = inputs
            .iter()
            .map(|(index, rows)| (&batches[*index].rows, rows.as_slice()))
            .collect();
        let arrival = (first, last);
        images.extend(segment::build(
            partition, arrival, &inputs, options, threads,
        ));
    }
    images
}

/// The partition that an event's time lies in.
pub(crate) fn partition_of(time: i64, partition_micros: i64) -> Partition {
    Partition::Events(time.div_euclid(partition_micros))
}

/// The batch's row numbers by partition.
fn rows_by_partition(batch: &MemBatch, partition_micros: i64) -> Vec<(Partition, Vec<u32>)> {
    let count = batch.rows.times.len() as u32;
    if batch.kind == BatchKind::Traits {
        return vec![(Partition::Traits, (0..count).collect())];
    }
    let mut found: Vec<(Partition, Vec<u32>)> = Vec::with_capacity(2);
    let mut current = 0;
    for (row, &time) in batch.rows.times.iter().enumerate() {
        let partition = partition_of(time, partition_micros);
        if found
            .get(current)
            .is_none_or(|(here, _)| *here != partition)
        {
            current = found
                .iter()
                .position(|(here, _)| *here == partition)
                .unwrap_or_else(|| {
                    found.push((partition, Vec::new()));
                    found.len() - 1
                });
        }
        found[current].1.push(row as u32);
    }
    found
}
