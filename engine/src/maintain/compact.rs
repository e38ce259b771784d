//! Compaction: fewer, longer segments, so that a query meets few of them side by side.
//!
//! Segments of a partition that cover one arrival interval form a *layer*; the layers follow each
//! other in arrival order, and only neighbours may be merged. Layers of similar size are merged
//! when there are more than the option allows, so a row is rewritten a logarithm of times.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::WriteError;
use crate::manifest::{SegmentEntry, segment_file};
use crate::segment::{self, BuildOptions, Partition, Segment, Stop};
use crate::store::shared::{Shared, Version, lock};

/// How many times as many layers a partition may have while a bulk load is under way: those of 800 million
/// rows.
const LOADING_FACTOR: usize = 64;
/// With more segments a load waits for merges: each is a mapping, of which a process may have 65 530.
const MOST_LOADING: usize = 1 << 14;

fn all_threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Neighbouring segments to be merged into one layer.
#[derive(Debug)]
struct Plan {
    numbers: Vec<u64>,
    segments: Vec<Arc<Segment>>,
}

/// A layer's place in the version, and its size.
#[derive(Clone, Debug)]
struct Layer {
    segments: std::ops::Range<usize>,
    bytes: u64,
}

impl Shared {
    /// Merges once where a partition has too many layers. Returns false where none has, or where
    /// `stop`, which is asked all the time, said so; nothing is changed then.
    ///
    /// A bulk load may pile up more: it would wait for a merge whose result its next rows make too
    /// small, and they are all merged once when it ends.
    pub(crate) fn compact_step(&self, stop: Stop<'_>) -> Result<bool, WriteError> {
        let loading = self.bulk_loads.load(Ordering::Relaxed) > 0
            && self.version().segments.len() <= MOST_LOADING;
        // A load waits for the merge; else it is only one of those who want the processors.
        let (factor, threads) = match loading {
            true => (LOADING_FACTOR, all_threads()),
            false => (1, 1),
        };
        let max_layers = self.options.max_layers.saturating_mul(factor);
        self.compact_with(max_layers, threads, stop)
    }

    /// Merges until every partition is one layer.
    pub(crate) fn compact_fully(&self) -> Result<(), WriteError> {
        while self.compact_with(1, all_threads(), &|| false)? {}
        Ok(())
    }

    fn compact_with(
        &self,
        max_layers: usize,
        merge_threads: usize,
        stop: Stop<'_>,
    ) -> Result<bool, WriteError> {
        let _one_at_a_time = lock(&self.compacting);
        let Some(plan) = plan(&self.version(), max_layers) else {
            return Ok(false);
        };
        let mut entries: Vec<SegmentEntry> = Vec::new();
        let build = BuildOptions {
            merge_threads,
            ..self.build
        };
        let whole = segment::merge_each(&plan.segments, &build, None, stop, |image| {
            entries.push(self.write_segment(image.meta, &image.bytes)?);
            Ok::<(), WriteError>(())
        })?;
        if !whole {
            let unused: Vec<u64> = entries.iter().map(|entry| entry.number).collect();
            self.remove_segments(&unused)?;
            return Ok(false);
        }
        crate::crash::crash_point!("compact.segments_written");
        self.replace_segments(&plan.numbers, entries)?;
        crate::crash::crash_point!("compact.published");
        self.remove_segments(&plan.numbers)?;
        Ok(true)
    }

    /// Publishes `added` in the place of the segments `removed`.
    pub(crate) fn replace_segments(
        &self,
        removed: &[u64],
        added: Vec<SegmentEntry>,
    ) -> Result<(), WriteError> {
        self.publish(
            |manifest| {
                manifest
                    .segments
                    .retain(|entry| !removed.contains(&entry.number));
                manifest.segments.extend(added);
            },
            |_| {},
        )
    }

    /// Removes the files of segments that no version names; snapshots keep their mappings.
    pub(crate) fn remove_segments(&self, numbers: &[u64]) -> Result<(), WriteError> {
        for &number in numbers {
            self.storage.remove(&segment_file(number))?;
        }
        Ok(())
    }
}

fn plan(version: &Version, max_layers: usize) -> Option<Plan> {
    let entries = &version.manifest.segments;
    let mut start = 0;
    while start < entries.len() {
        let partition = entries[start].meta.partition;
        let end =
            start + entries[start..].partition_point(|entry| entry.meta.partition == partition);
        let layers = layers_of(&entries[start..end], start);
        // Traits are few and always asked for by user, so they are kept in fewer layers.
        let allowed = if partition == Partition::Traits {
            max_layers.min(2)
        } else {
            max_layers
        };
        if let Some(first) = first_to_merge(&layers, allowed) {
            let range = layers[first].segments.start..end;
            let numbers = entries[range.clone()]
                .iter()
                .map(|entry| entry.number)
                .collect();
            return Some(Plan {
                numbers,
                segments: version.segments[range].to_vec(),
            });
        }
        start = end;
    }
    None
}

/// Layers of one partition's segments, which are sorted by arrival.
fn layers_of(entries: &[SegmentEntry], offset: usize) -> Vec<Layer> {
    let mut layers: Vec<Layer> = Vec::new();
    let mut last_arrival = None;
    for (index, entry) in entries.iter().enumerate() {
        let at = offset + index;
        match layers.last_mut() {
            Some(layer) if last_arrival == Some(entry.meta.arrival) => {
                layer.segments.end = at + 1;
                layer.bytes += entry.length;
            }
            _ => layers.push(Layer {
                segments: at..at + 1,
                bytes: entry.length,
            }),
        }
        last_arrival = Some(entry.meta.arrival);
    }
    layers
}

/// The first of the layers to merge with all behind it: the oldest that is not larger than those
/// together, or else as many of the newest as are too many.
fn first_to_merge(layers: &[Layer], max_layers: usize) -> Option<usize> {
    if layers.len() <= max_layers {
        return None;
    }
    if max_layers == 1 {
        return Some(0);
    }
    let mut behind: u64 = layers.iter().map(|layer| layer.bytes).sum();
    for (index, layer) in layers.iter().enumerate() {
        behind -= layer.bytes;
        if layer.bytes <= behind {
            return Some(index);
        }
    }
    Some(max_layers - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(sizes: &[u64]) -> Vec<Layer> {
        sizes
            .iter()
            .map(|&bytes| Layer {
                segments: 0..1,
                bytes,
            })
            .collect()
    }

    #[test]
    fn similar_layers_are_merged_and_large_old_ones_left_alone() {
        assert_eq!(first_to_merge(&layers(&[100, 1, 1, 1]), 4), None);
        assert_eq!(first_to_merge(&layers(&[100, 1, 1, 1, 1]), 4), Some(1));
        assert_eq!(first_to_merge(&layers(&[100, 60, 1, 1, 1]), 4), Some(2));
        assert_eq!(first_to_merge(&layers(&[100, 40, 12, 5, 2]), 4), Some(3));
        assert_eq!(first_to_merge(&layers(&[4, 2]), 1), Some(0));
        assert_eq!(first_to_merge(&layers(&[4]), 1), None);
    }

    /// A stream of equal layers is rewritten a logarithm of times, not once for each layer.
    #[test]
    fn write_amplification_is_logarithmic() {
        let (mut sizes, mut written) = (Vec::new(), 0u64);
        for bytes in std::iter::repeat_n(1u64, 1_000) {
            sizes.push(bytes);
            while let Some(first) = first_to_merge(&layers(&sizes), 6) {
                let merged: u64 = sizes.drain(first..).sum();
                written += merged;
                sizes.push(merged);
            }
        }
        assert!(
            written < 1_000 * 8,
            "1000 rows were rewritten {written} times"
        );
    }
}
