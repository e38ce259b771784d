//! Segments from segments: neighbours in arrival order become one sequence.
//!
//! The output is cut into pieces at containers, and each piece is made one run at a time, so
//! that memory is bounded by a piece and the rows of one event name. `streams` finds the rows of
//! a name in every input, `ties` ranks rows of different names at one time (which no single run
//! can see), and this file brings the rows of each user together.

mod streams;
mod ties;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use self::streams::{ContainerRows, Streams};
use self::ties::{TieCursor, rank_ties};
use super::names::NameRuns;
use super::writer::{RunRows, SegmentWriter};
use super::{BuildOptions, Segment, SegmentImage};
use crate::bitmap::join;
use crate::error::Corruption;

/// Decides by ordinal which users' rows go on to the output.
pub type Keep<'a> = &'a (dyn Fn(u32) -> bool + Sync);

/// Merges segments of one partition that are neighbours in arrival order, given in that order.
///
/// The outputs hold the same rows in the same total order, less those of users that `keep`
/// refuses; each has its own containers and the arrival interval of all inputs together. There
/// are several where one would exceed the options' size, and none where no row is left.
///
/// # Errors
/// Where an input is damaged.
///
/// # Panics
/// Where the inputs are of several partitions.
pub fn merge(
    inputs: &[Arc<Segment>],
    options: &BuildOptions,
    keep: Option<Keep<'_>>,
) -> Result<Vec<SegmentImage>, Corruption> {
    let mut images = Vec::new();
    merge_each(inputs, options, keep, |image| {
        images.push(image);
        Ok::<(), Corruption>(())
    })?;
    Ok(images)
}

/// As [`merge`], handing over each output as soon as it is made, so that memory is bounded by
/// one of them.
///
/// # Errors
/// Where an input is damaged, or `take` fails.
///
/// # Panics
/// Where the inputs are of several partitions.
pub fn merge_each<E: From<Corruption>>(
    inputs: &[Arc<Segment>],
    options: &BuildOptions,
    keep: Option<Keep<'_>>,
    mut take: impl FnMut(SegmentImage) -> Result<(), E>,
) -> Result<(), E> {
    let Some(first) = inputs.first() else {
        return Ok(());
    };
    let partition = first.meta().partition;
    assert!(
        inputs
            .iter()
            .all(|input| input.meta().partition == partition),
        "segments of one partition merge"
    );
    let arrivals = inputs.iter().map(|input| input.meta().arrival);
    let arrival = arrivals.fold((u64::MAX, 0), |all, one| {
        (all.0.min(one.0), all.1.max(one.1))
    });
    let streams = Streams::open(inputs)?;
    for containers in pieces(inputs, &streams, options)? {
        let piece = Piece {
            streams: &streams,
            containers,
            keep,
        };
        let mut writer = SegmentWriter::new(partition, arrival);
        piece.write(options.max_name_runs, &mut writer)?;
        writer.finish().into_iter().try_for_each(&mut take)?;
    }
    Ok(())
}

/// Cuts the containers of the inputs so that each piece stays within the options where it can,
/// as far as rows tell: every row is taken to weigh what the inputs' rows weigh on average.
fn pieces(
    inputs: &[Arc<Segment>],
    streams: &Streams<'_>,
    options: &BuildOptions,
) -> Result<Vec<RangeInclusive<u16>>, Corruption> {
    let bytes: u64 = inputs.iter().map(|input| input.byte_len() as u64).sum();
    let rows: u64 = inputs
        .iter()
        .map(|input| u64::from(input.meta().rows))
        .sum();
    let most = options.target_bytes as f64 / (bytes as f64 / rows.max(1) as f64);
    let most = (most as u64).min(u64::from(options.max_rows));
    let mut of_container: BTreeMap<u16, u64> = BTreeMap::new();
    for source in &streams.sources {
        let starts = &source.run.index()?.containers;
        for (pair, (key, _)) in starts.windows(2).zip(source.run.users()?.keys()) {
            *of_container.entry(key).or_default() += u64::from(pair[1].row - pair[0].row);
        }
    }
    let mut pieces: Vec<(RangeInclusive<u16>, u64)> = Vec::new();
    for (key, rows) in of_container {
        match pieces.last_mut() {
            Some((keys, total)) if *total + rows <= most => {
                *keys = *keys.start()..=key;
                *total += rows;
            }
            _ => pieces.push((key..=key, rows)),
        }
    }
    Ok(pieces.into_iter().map(|(keys, _)| keys).collect())
}

/// One output segment under construction.
struct Piece<'a> {
    streams: &'a Streams<'a>,
    containers: RangeInclusive<u16>,
    keep: Option<Keep<'a>>,
}

/// The rows of an output run, and where each comes from.
#[derive(Default)]
struct Merged {
    rows: RunRows,
    /// Source and row of each row.
    picks: Vec<(u32, u32)>,
}

impl Piece<'_> {
    fn write(&self, most_runs: usize, writer: &mut SegmentWriter) -> Result<(), Corruption> {
        let names: Vec<&str> = self.streams.names.iter().map(|name| &*name.text).collect();
        let runs = NameRuns::choose(&names, &self.name_rows()?, most_runs);
        let mut ties = rank_ties(self, &runs)?;
        for &name in &runs.own {
            let streams = self.streams.of_name(name);
            let merged = self.merge_run(streams, false, &mut ties)?;
            self.write_run(Some(names[name as usize]), merged, writer)?;
        }
        if runs.has_overflow {
            let rare = |name: &u32| runs.run_of[*name as usize] as usize == runs.own.len();
            let names: Vec<u32> = (0..names.len() as u32).filter(rare).collect();
            let streams = names.iter().flat_map(|&name| self.streams.of_name(name));
            let merged = self.merge_run(streams, true, &mut ties)?;
            self.write_run(None, merged, writer)?;
        }
        Ok(())
    }

    fn write_run(
        &self,
        name: Option<&str>,
        merged: Merged,
        writer: &mut SegmentWriter,
    ) -> Result<(), Corruption> {
        if merged.picks.is_empty() {
            return Ok(());
        }
        writer.run(name, merged.rows, |_, _| Default::default());
        Ok(())
    }

    fn keeps(&self, ordinal: u32) -> bool {
        self.keep.is_none_or(|keep| keep(ordinal))
    }

    /// How many rows each name keeps in this piece.
    fn name_rows(&self) -> Result<Vec<u32>, Corruption> {
        let mut counts = vec![0; self.streams.names.len()];
        let mut rows = ContainerRows::default();
        for (name, count) in counts.iter_mut().enumerate() {
            for stream in self.streams.of_name(name as u32) {
                for key in self.streams.keys(stream, &self.containers)? {
                    if self.keep.is_none() && !self.streams.is_listed(stream) {
                        let run = self.streams.source(stream).run;
                        *count += run.container_rows(key)?.len() as u32;
                        continue;
                    }
                    self.streams.load_users(stream, key, &mut rows)?;
                    *count += (0..rows.lows.len())
                        .filter(|&at| self.keeps(join(key, rows.lows[at])))
                        .map(|at| rows.range(at).len() as u32)
                        .sum::<u32>();
                }
            }
        }
        Ok(counts)
    }

    /// Brings the rows of some streams together, sorted by (ordinal, time, arrival).
    fn merge_run(
        &self,
        streams: impl Iterator<Item = u32> + Clone,
        several_names: bool,
        ties: &mut [TieCursor],
    ) -> Result<Merged, Corruption> {
        let mut keys = Vec::new();
        for stream in streams.clone() {
            keys.extend(self.streams.keys(stream, &self.containers)?);
        }
        keys.sort_unstable();
        keys.dedup();
        let mut merged = Merged::default();
        let mut loaded: Vec<(u32, ContainerRows)> = Vec::new();
        for key in keys {
            loaded.clear();
            for stream in streams.clone() {
                let mut rows = ContainerRows::default();
                self.streams.load(stream, key, &mut rows)?;
                if !rows.lows.is_empty() {
                    loaded.push((stream, rows));
                }
            }
            let container = Container {
                piece: self,
                key,
                loaded: &loaded,
                several_names,
            };
            container.merge(ties, &mut merged);
        }
        Ok(merged)
    }
}

/// The rows of one run in one container, by stream, in the order of the inputs.
struct Container<'a> {
    piece: &'a Piece<'a>,
    key: u16,
    loaded: &'a [(u32, ContainerRows)],
    several_names: bool,
}

/// A row that must be put in order: time, input, rank in the input, row of the source.
type Order = (i64, u32, u32, u32);

impl Container<'_> {
    fn merge(&self, ties: &mut [TieCursor], merged: &mut Merged) {
        // One entry for each user of each stream: the user, the stream, the place in it. Each
        // stream is sorted already, which the stable sort makes use of.
        let mut entries = Vec::new();
        for (number, (_, rows)) in self.loaded.iter().enumerate() {
            let number = (number as u64) << 16;
            let lows = rows.lows.iter().zip(0u64..);
            entries.extend(lows.map(|(&low, place)| u64::from(low) << 48 | number | place));
        }
        if self.loaded.len() > 1 {
            entries.sort();
        }
        let mut order: Vec<(Order, u32, u32)> = Vec::new();
        for user in entries.chunk_by(|left, right| left >> 48 == right >> 48) {
            let ordinal = join(self.key, (user[0] >> 48) as u16);
            if !self.piece.keeps(ordinal) {
                continue;
            }
            let before = merged.rows.times.len();
            if self.in_order(user) {
                for &entry in user {
                    self.copy(entry, ties, merged);
                }
            } else {
                order.clear();
                for &entry in user {
                    self.append_order(entry, &mut order);
                }
                order.sort_unstable();
                for &(key, stream, row) in &order {
                    merged.rows.times.push(key.0);
                    self.pick(stream, row, ties, merged);
                }
            }
            merged.rows.users.push(ordinal);
            merged
                .rows
                .counts
                .push((merged.rows.times.len() - before) as u32);
        }
    }

    fn rows_of(&self, entry: u64) -> (u32, &ContainerRows, usize) {
        let (stream, rows) = &self.loaded[(entry >> 16) as u32 as usize];
        (*stream, rows, entry as u16 as usize)
    }

    /// True where a user's rows are in order as they stand: each stream's last time is not after
    /// the next stream's first. Streams of one name follow each other in arrival order; those of
    /// several names do not.
    fn in_order(&self, user: &[u64]) -> bool {
        if user.len() == 1 {
            return true;
        }
        !self.several_names
            && user.windows(2).all(|pair| {
                let (_, left, left_place) = self.rows_of(pair[0]);
                let (_, right, right_place) = self.rows_of(pair[1]);
                let last = left.times_of(left_place).last();
                last <= right.times_of(right_place).first()
            })
    }

    /// Appends the rows of one stream's user as they are.
    fn copy(&self, entry: u64, ties: &mut [TieCursor], merged: &mut Merged) {
        let (stream, rows, place) = self.rows_of(entry);
        merged.rows.times.extend_from_slice(rows.times_of(place));
        let source = self.piece.streams.source_number(stream);
        let first = merged.picks.len() as u32;
        let picks = rows.rows_of(place).map(|row| (source, row));
        merged.picks.extend(picks);
        let cursor = &mut ties[stream as usize];
        if !cursor.is_done() {
            for (at, row) in (first..).zip(rows.rows_of(place)) {
                let rank = cursor.rank(row);
                if rank > 0 {
                    merged.rows.ties.push([at, rank]);
                }
            }
        }
    }

    fn append_order(&self, entry: u64, order: &mut Vec<(Order, u32, u32)>) {
        let (stream, rows, place) = self.rows_of(entry);
        let input = self.piece.streams.source(stream).input;
        let times = rows.times_of(place).iter();
        for (&time, row) in times.zip(rows.rows_of(place)) {
            let rank = if self.several_names {
                rows.rank(row)
            } else {
                0
            };
            order.push(((time, input, rank, row), stream, row));
        }
    }

    fn pick(&self, stream: u32, row: u32, ties: &mut [TieCursor], merged: &mut Merged) {
        let rank = ties[stream as usize].rank(row);
        if rank > 0 {
            let at = merged.picks.len() as u32;
            merged.rows.ties.push([at, rank]);
        }
        let source = self.piece.streams.source_number(stream);
        merged.picks.push((source, row));
    }
}
