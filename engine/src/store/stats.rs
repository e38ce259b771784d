//! Figures of a store, for people.

use std::collections::BTreeMap;

use crate::error::ReadError;
use crate::manifest::Manifest;
use crate::read::Snapshot;

/// What a store holds and what it takes.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// Events, those in memory included.
    pub events: u64,
    /// Trait updates.
    pub trait_updates: u64,
    /// Ids that were given an ordinal.
    pub users: u64,
    /// Earliest and latest event time, in microseconds since 1970-01-01 UTC.
    pub times: Option<(i64, i64)>,
    /// Events and users by event name. A user counts once for each name.
    pub events_by_name: BTreeMap<String, u64>,
    /// Segment files.
    pub segments: u64,
    /// Bytes of the segment files.
    pub segment_bytes: u64,
    /// Bytes of the id dictionary's runs.
    pub id_bytes: u64,
    /// Bytes of the runs of message ids.
    pub message_id_bytes: u64,
    /// Events that are in memory (and in the log), not yet in segment files.
    pub events_in_memory: u64,
}

/// Collects the figures. Cost: footers only, no rows.
pub(crate) fn collect(snapshot: &Snapshot, manifest: &Manifest) -> Result<Stats, ReadError> {
    let mut stats = Stats {
        events: snapshot.events(),
        trait_updates: rows(snapshot.trait_segments()),
        users: u64::from(snapshot.dictionary().len()),
        segments: manifest.segments.len() as u64,
        segment_bytes: manifest.segments.iter().map(|entry| entry.length).sum(),
        id_bytes: manifest.ids.iter().map(|run| run.length).sum(),
        message_id_bytes: manifest.message_ids.iter().map(|run| run.length).sum(),
        ..Stats::default()
    };
    for segment in snapshot.event_segments() {
        let meta = segment.meta();
        let (min, max) = stats.times.unwrap_or((meta.min_time, meta.max_time));
        stats.times = Some((min.min(meta.min_time), max.max(meta.max_time)));
        for run in segment.all_runs() {
            let name = if run.is_overflow() {
                "(other names)"
            } else {
                run.name()
            }
            .to_owned();
            *stats.events_by_name.entry(name).or_default() += u64::from(run.rows());
        }
    }
    let in_files: u64 = manifest
        .segments
        .iter()
        .map(|entry| u64::from(entry.meta.rows))
        .sum();
    stats.events_in_memory = (stats.events + stats.trait_updates).saturating_sub(in_files);
    Ok(stats)
}

fn rows(segments: &[std::sync::Arc<crate::segment::Segment>]) -> u64 {
    segments
        .iter()
        .map(|segment| u64::from(segment.meta().rows))
        .sum()
}
