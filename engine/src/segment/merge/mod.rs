//! Segments from segments: neighbours in arrival order become one sequence.
//!
//! The output is cut into pieces at containers, some of which are made side by side, each one run at a time, so
//! that memory is bounded by these, the rows of one event name each, and how many rows each of their users has.
//! `streams` finds the rows of a name in every input, `ties` ranks rows of different names at one time (which no
//! single run can see), and this file brings the rows of each user together.

mod streams;
mod ties;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Range, RangeInclusive};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam::channel::bounded;
use hashbrown::HashMap;

use self::streams::{ContainerRows, Streams};
use self::ties::{TieCursor, rank_ties};
pub(super) use self::ties::{recount_ties, rows_are_ranked};
use super::names::NameRuns;
use super::order::WrittenRun;
use super::writer::{RunRows, SegmentWriter};
use super::{BuildOptions, Segment, SegmentImage};
use crate::batch::shape::{Picks, Sources};
use crate::batch::{Column, Property, StringTable, TextColumn};
use crate::bitmap::join;
use crate::codec::PropertiesView;
use crate::error::Corruption;

/// Decides by ordinal which users' rows go on to the output.
pub type Keep<'a> = &'a (dyn Fn(u32) -> bool + Sync);

/// Says whether to end early.
pub type Stop<'a> = &'a (dyn Fn() -> bool + Sync);

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
    merge_each(inputs, options, keep, &|| false, |image| {
        images.push(image);
        Ok::<(), Corruption>(())
    })?;
    images.sort_by_key(|image| image.meta.first_container);
    Ok(images)
}

/// As [`merge`], handing over each output as soon as it is made, in any order where the options have threads for several; memory
/// is bounded by one for each. Returns false where `stop`, which is asked many times a second, ended it early.
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
    stop: Stop<'_>,
    mut take: impl FnMut(SegmentImage) -> Result<(), E>,
) -> Result<bool, E> {
    let Some(first) = inputs.first() else {
        return Ok(true);
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
    let pieces = pieces(inputs, &streams, options)?;
    let write = |keys: Vec<u16>| {
        let mut writer = SegmentWriter::new(partition, arrival, options.compressed);
        if let (Some(&first), Some(&last)) = (keys.first(), keys.last()) {
            let piece = Piece {
                streams: &streams,
                containers: first..=last,
                keys,
                keep,
                stop,
            };
            let runs = piece.write(options.max_name_runs, &mut writer)?;
            let order = writer.order(&runs, || piece.check())?;
            return Ok(writer.finish(order));
        }
        Ok(None)
    };
    let mut take = |image: Result<Option<SegmentImage>, Ended>| match image {
        Ok(image) => image.into_iter().try_for_each(&mut take).map(|()| true),
        Err(Ended::Stopped) => Ok(false),
        Err(Ended::Damaged(error)) => Err(error.into()),
    };
    let threads = options.merge_threads.min(pieces.len());
    if threads < 2 {
        for piece in pieces {
            if !take(write(piece))? {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    in_parallel(pieces, threads, write, take)
}

/// Hands over what `work` makes of the items, as soon as each is made, in any order. Ends early where `take` says
/// false or fails.
///
/// # Panics
/// Where `work` does.
fn in_parallel<T: Send, R: Send, E>(
    items: Vec<T>,
    threads: usize,
    work: impl Fn(T) -> R + Sync,
    mut take: impl FnMut(R) -> Result<bool, E>,
) -> Result<bool, E> {
    let items = Mutex::new(items.into_iter());
    let next = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
    std::thread::scope(|scope| {
        // Nothing waits in it: a thread begins its next item when the one before was taken.
        let (sender, made) = bounded(0);
        for _ in 0..threads {
            let (sender, work, next) = (sender.clone(), &work, &next);
            scope.spawn(move || {
                while let Some(item) = next() {
                    if sender.send(work(item)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for made in made {
            if !take(made)? {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

/// Why a piece was not written.
enum Ended {
    Stopped,
    Damaged(Corruption),
}

impl From<Corruption> for Ended {
    fn from(error: Corruption) -> Self {
        Self::Damaged(error)
    }
}

/// Cuts the containers of the inputs so that each piece stays within the options where it can,
/// as far as rows tell: every row is taken to weigh what the inputs' rows weigh on average.
fn pieces(
    inputs: &[Arc<Segment>],
    streams: &Streams<'_>,
    options: &BuildOptions,
) -> Result<Vec<Vec<u16>>, Corruption> {
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
    let mut pieces: Vec<(Vec<u16>, u64)> = Vec::new();
    for (key, rows) in of_container {
        match pieces.last_mut() {
            Some((keys, total)) if *total + rows <= most => {
                keys.push(key);
                *total += rows;
            }
            _ => pieces.push((vec![key], rows)),
        }
    }
    Ok(pieces.into_iter().map(|(keys, _)| keys).collect())
}

/// One output segment under construction.
struct Piece<'a> {
    streams: &'a Streams<'a>,
    /// Its containers that have rows, and the span of them.
    keys: Vec<u16>,
    containers: RangeInclusive<u16>,
    keep: Option<Keep<'a>>,
    stop: Stop<'a>,
}

/// The inputs of an output run: the streams of its name, or of all names that share it.
struct Plan {
    streams: Vec<Planned>,
    origins: Vec<Origin>,
    /// True for the overflow run.
    several_names: bool,
}

/// A stream that goes into a run.
struct Planned {
    stream: u32,
    name: u32,
    /// Its place among the origins.
    origin: u32,
}

/// A run of an input, and those of its rows that lie in the piece.
struct Origin {
    source: u32,
    rows: Range<u32>,
}

/// The rows of an output run, and where each comes from.
#[derive(Default)]
struct Merged {
    rows: RunRows,
    /// Origin of each row, and its place among the origin's rows.
    picks: Vec<(u32, u32)>,
    /// The number of each row's name, in the overflow run only.
    names: Vec<u32>,
}

impl Piece<'_> {
    /// Writes all runs; gives what the order of their rows follows from.
    fn write(
        &self,
        most_runs: usize,
        writer: &mut SegmentWriter,
    ) -> Result<Vec<WrittenRun>, Ended> {
        let names: Vec<&str> = self.streams.names.iter().map(|name| &*name.text).collect();
        let runs = NameRuns::choose(&names, &self.name_rows()?, most_runs);
        let mut ties = rank_ties(self, &runs)?;
        let mut columns = SharedColumns::default();
        let mut written = Vec::with_capacity(runs.len());
        for &name in &runs.own {
            let plan = self.plan(std::iter::once(name), false)?;
            let merged = self.merge_run(&plan, &mut ties)?;
            let open = writer.begin_run(merged.rows);
            let properties = self.properties(&plan, &merged.picks, &mut columns)?;
            let name = names[name as usize];
            written.push(writer.end_run(open, Some(name), &properties, None));
        }
        if runs.has_overflow {
            let shares = |&name: &u32| runs.is_overflow(runs.run_of[name as usize]);
            let plan = self.plan((0..names.len() as u32).filter(shares), true)?;
            let merged = self.merge_run(&plan, &mut ties)?;
            let open = writer.begin_run(merged.rows);
            let properties = self.properties(&plan, &merged.picks, &mut columns)?;
            let mut values = StringTable::default();
            for name in names {
                values.push(name);
            }
            let codes = merged.names;
            let names = Some(TextColumn { codes, values });
            written.push(writer.end_run(open, None, &properties, names));
        }
        Ok(written)
    }

    fn plan(
        &self,
        names: impl Iterator<Item = u32>,
        several_names: bool,
    ) -> Result<Plan, Corruption> {
        let mut plan = Plan {
            streams: Vec::new(),
            origins: Vec::new(),
            several_names,
        };
        let mut of_source = HashMap::new();
        for name in names {
            for stream in self.streams.of_name(name) {
                let source = self.streams.source_number(stream);
                let next = plan.origins.len() as u32;
                let origin = *of_source.entry(source).or_insert(next);
                if origin == next {
                    let rows = self.streams.rows_within(source, &self.containers)?;
                    plan.origins.push(Origin { source, rows });
                }
                plan.streams.push(Planned {
                    stream,
                    name,
                    origin,
                });
            }
        }
        Ok(plan)
    }

    /// Gathers the properties of a run's rows from its origins.
    fn properties(
        &self,
        plan: &Plan,
        picks: &[(u32, u32)],
        shared: &mut SharedColumns,
    ) -> Result<Vec<Property>, Ended> {
        let mut views = Vec::with_capacity(plan.origins.len());
        let mut names = BTreeSet::new();
        for origin in &plan.origins {
            let view = self.streams.sources[origin.source as usize]
                .run
                .properties()?;
            names.extend(view.names());
            views.push(view);
        }
        let (picks, rows) = (Picks::new(picks), picks.len());
        let mut properties = Vec::with_capacity(names.len());
        for name in names {
            self.check()?;
            let mut columns = Vec::with_capacity(views.len());
            for (origin, view) in plan.origins.iter().zip(&views) {
                let is_shared = self.streams.sources[origin.source as usize]
                    .run
                    .is_overflow();
                columns.push(match is_shared {
                    true => shared.column(origin, name, view)?,
                    false => decode(view, name, &origin.rows)?,
                });
            }
            let columns: Vec<Option<&Column>> = columns.iter().map(Option::as_deref).collect();
            let column = picks.column(&Sources::new(&columns, rows));
            if !column.parts.is_empty() {
                let name = name.to_owned();
                properties.push(Property { name, column });
            }
        }
        Ok(properties)
    }

    fn check(&self) -> Result<(), Ended> {
        if (self.stop)() {
            return Err(Ended::Stopped);
        }
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
    fn merge_run(&self, plan: &Plan, ties: &mut [TieCursor]) -> Result<Merged, Ended> {
        let mut keys = Vec::new();
        for planned in &plan.streams {
            keys.extend(self.streams.keys(planned.stream, &self.containers)?);
        }
        keys.sort_unstable();
        keys.dedup();
        let mut merged = Merged::default();
        let mut loaded: Vec<(&Planned, ContainerRows<'_>)> = Vec::new();
        for key in keys {
            self.check()?;
            loaded.clear();
            for planned in &plan.streams {
                let mut rows = ContainerRows::default();
                self.streams.load(planned.stream, key, &mut rows)?;
                if !rows.lows.is_empty() {
                    loaded.push((planned, rows));
                }
            }
            let container = Container {
                piece: self,
                plan,
                key,
                loaded: &loaded,
            };
            container.merge(ties, &mut merged);
        }
        Ok(merged)
    }
}

/// Columns of the inputs' overflow runs, which several output runs pick from. Kept, because
/// decoding a shared run again for each of thousands of names would take for ever; small, because
/// they are the rarest names.
#[derive(Default)]
struct SharedColumns {
    columns: HashMap<(u32, String), Option<Arc<Column>>>,
}

impl SharedColumns {
    fn column(
        &mut self,
        origin: &Origin,
        name: &str,
        view: &PropertiesView<'_>,
    ) -> Result<Option<Arc<Column>>, Corruption> {
        let key = (origin.source, name.to_owned());
        if let Some(column) = self.columns.get(&key) {
            return Ok(column.clone());
        }
        let column = decode(view, name, &origin.rows)?;
        self.columns.insert(key, column.clone());
        Ok(column)
    }
}

fn decode(
    view: &PropertiesView<'_>,
    name: &str,
    rows: &Range<u32>,
) -> Result<Option<Arc<Column>>, Corruption> {
    match view.get(name)? {
        Some(column) => Ok(Some(Arc::new(column.decode(rows.clone())?))),
        None => Ok(None),
    }
}

/// The rows of one run in one container, by stream, in the order of the inputs.
struct Container<'a> {
    piece: &'a Piece<'a>,
    plan: &'a Plan,
    key: u16,
    loaded: &'a [(&'a Planned, ContainerRows<'a>)],
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
        let mut order: Vec<(Order, u32)> = Vec::new();
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
                for &((time, _, _, row), number) in &order {
                    merged.rows.times.push(time);
                    self.pick(self.loaded[number as usize].0, row, ties, merged);
                }
            }
            merged.rows.users.push(ordinal);
            merged
                .rows
                .counts
                .push((merged.rows.times.len() - before) as u32);
        }
    }

    fn rows_of(&self, entry: u64) -> (&Planned, &ContainerRows<'_>, usize) {
        let (planned, rows) = &self.loaded[(entry >> 16) as u32 as usize];
        (planned, rows, entry as u16 as usize)
    }

    /// True where a user's rows are in order as they stand: each stream's last time is not after
    /// the next stream's first. Streams of one name follow each other in arrival order; those of
    /// several names do not.
    fn in_order(&self, user: &[u64]) -> bool {
        if user.len() == 1 {
            return true;
        }
        !self.plan.several_names
            && user.windows(2).all(|pair| {
                let (_, left, left_place) = self.rows_of(pair[0]);
                let (_, right, right_place) = self.rows_of(pair[1]);
                let last = left.times_of(left_place).last();
                last <= right.times_of(right_place).first()
            })
    }

    /// Appends the rows of one stream's user as they are.
    fn copy(&self, entry: u64, ties: &mut [TieCursor], merged: &mut Merged) {
        let (planned, rows, place) = self.rows_of(entry);
        merged.rows.times.extend_from_slice(rows.times_of(place));
        if !ties[planned.stream as usize].is_done() || self.plan.several_names {
            rows.rows_of(place)
                .for_each(|row| self.pick(planned, row, ties, merged));
            return;
        }
        let first = self.plan.origins[planned.origin as usize].rows.start;
        let picks = rows.rows_of(place).map(|row| (planned.origin, row - first));
        merged.picks.extend(picks);
    }

    /// Appends one row, whose time is there already.
    fn pick(&self, planned: &Planned, row: u32, ties: &mut [TieCursor], merged: &mut Merged) {
        let rank = ties[planned.stream as usize].rank(row);
        if rank > 0 {
            let at = merged.picks.len() as u32;
            merged.rows.ties.push([at, rank]);
        }
        let first = self.plan.origins[planned.origin as usize].rows.start;
        merged.picks.push((planned.origin, row - first));
        if self.plan.several_names {
            merged.names.push(planned.name);
        }
    }

    /// Collects the rows of one stream's user, to be put in order with others.
    fn append_order(&self, entry: u64, order: &mut Vec<(Order, u32)>) {
        let (planned, rows, place) = self.rows_of(entry);
        let input = self.piece.streams.source(planned.stream).input;
        let number = (entry >> 16) as u32;
        let times = rows.times_of(place).iter();
        for (&time, row) in times.zip(rows.rows_of(place)) {
            // Within one run rows are in arrival order already.
            let rank = match self.plan.several_names {
                true => rows.rank(row),
                false => 0,
            };
            order.push(((time, input, rank, row), number));
        }
    }
}
