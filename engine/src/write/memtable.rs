//! The memory table: batches since the last flush, readable like segments.
//!
//! Published batches wait in a tail until somebody reads. A reader turns the tail into segment
//! images (the same bytes a file would hold) and merges neighbouring images of similar size, so
//! that reading costs a logarithm of the batches, and a batch is sorted a few times at most.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::batch::ResolvedBatch;
use crate::error::Corruption;
use crate::segment::{self, BuildOptions, Partition, Segment, SegmentImage};
use crate::write::record::{BatchKind, Progress};

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
    tail: RwLock<Vec<Arc<MemBatch>>>,
    runs: Mutex<Vec<MemRun>>,
    progress: Mutex<Vec<Progress>>,
}

/// Images of neighbouring batches: one segment for each partition that they touch.
#[derive(Clone, Debug)]
struct MemRun {
    rows: u64,
    segments: Vec<Arc<Segment>>,
}

impl Memtable {
    /// An empty memory table.
    pub(crate) fn new(partition_micros: i64, build: BuildOptions) -> Self {
        Self {
            partition_micros,
            build,
            tail: RwLock::default(),
            runs: Mutex::default(),
            progress: Mutex::default(),
        }
    }

    /// Makes a batch visible, after all that were published before.
    pub(crate) fn publish(&self, batch: Arc<MemBatch>) {
        if let Some(progress) = batch.progress {
            self.progress
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(progress);
        }
        if !batch.rows.times.is_empty() {
            self.tail
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .push(batch);
        }
    }

    /// Progress notes of the published batches, oldest first.
    pub(crate) fn progress(&self) -> Vec<Progress> {
        self.progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Everything published, as segments in arrival order.
    ///
    /// # Errors
    /// Only where an image does not read back, which is a bug or broken memory.
    pub(crate) fn segments(&self) -> Result<Vec<Arc<Segment>>, Corruption> {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let tail = self
            .tail
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if !tail.is_empty() {
            runs.push(self.image(&tail)?);
            // Readers hold the lock on the runs, so none sees the tail shortened before its image.
            self.tail
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .drain(..tail.len());
        }
        while let [.., older, newer] = runs.as_slice()
            && older.rows <= newer.rows.saturating_mul(2)
        {
            let merged = self.merge(older, newer)?;
            runs.pop();
            runs.pop();
            runs.push(merged);
        }
        Ok(runs
            .iter()
            .flat_map(|run| run.segments.iter().cloned())
            .collect())
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

    fn merge(&self, older: &MemRun, newer: &MemRun) -> Result<MemRun, Corruption> {
        let all = older.segments.iter().chain(&newer.segments).cloned();
        let mut merged = MemRun {
            rows: older.rows + newer.rows,
            segments: Vec::with_capacity(8),
        };
        for group in by_partition(all) {
            merged.segments.extend(merge_group(group, &self.build)?);
        }
        Ok(merged)
    }
}

/// Segments grouped by partition, arrival order kept inside each group.
pub(crate) fn by_partition(segments: impl Iterator<Item = Arc<Segment>>) -> Vec<Vec<Arc<Segment>>> {
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
