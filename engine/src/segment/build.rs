//! Segments from batches.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashMap;

use super::names::NameRuns;
use super::order::OrderedRows;
use super::writer::{RunRows, SegmentWriter};
use super::{BuildOptions, Partition, SegmentImage};
use crate::batch::shape::{Picks, Sources};
use crate::batch::{
    Column, Kind, Presence, Property, ResolvedBatch, StringTable, TextColumn, Values,
};

/// Builds the segments of rows that fall into one partition.
///
/// `inputs` are batches in arrival order, each with those of its rows (ascending) that belong to
/// `partition`; `arrival` is the interval of the arrival sequence that they came in. There are
/// several segments where one would exceed the options' size, or where several `threads` are to
/// build many rows, each with its own containers, and none where there is no row.
///
/// Cost: a sort of the rows by user and time, and a few passes over each column.
///
/// # Panics
/// Where a row number is outside its batch, or there are 2^32 rows or more.
pub fn build(
    partition: Partition,
    arrival: (u64, u64),
    inputs: &[(&ResolvedBatch, &[u32])],
    options: &BuildOptions,
    threads: usize,
) -> Vec<SegmentImage> {
    let rows = Rows::sorted(inputs);
    let pieces = rows.pieces(options, threads);
    let properties = rows.properties();
    let build = |piece: &Range<usize>| {
        rows.segment(piece.clone(), &properties, partition, arrival, options)
    };
    let threads = threads.min(pieces.len());
    if threads <= 1 {
        return pieces.iter().filter_map(build).collect();
    }
    let next = AtomicUsize::new(0);
    let worker = || {
        let mine = || pieces.get(next.fetch_add(1, Ordering::Relaxed));
        std::iter::from_fn(mine).map(build).collect::<Vec<_>>()
    };
    let mut images: Vec<SegmentImage> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        let built = workers.into_iter().map(|worker| match worker.join() {
            Ok(images) => images,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        built.flatten().flatten().collect()
    });
    images.sort_unstable_by_key(|image| image.meta.first_container);
    images
}

/// Rows that are worth a thread of their own; in tests, few.
const ROWS_PER_THREAD: usize = if cfg!(test) { 16 } else { 1 << 16 };

/// All rows in the order of a segment: (ordinal, time, arrival).
struct Rows<'a> {
    inputs: &'a [(&'a ResolvedBatch, &'a [u32])],
    /// Ordinal, time (biased, so that it sorts as an unsigned number) and place in arrival order.
    keys: Vec<u128>,
    /// Batch and row of each row, in arrival order.
    sources: Vec<(u32, u32)>,
    /// The number of each row's event name, in arrival order.
    names: Vec<u32>,
    texts: Vec<&'a str>,
}

/// User and time of a key.
fn unpack(key: u128) -> (u32, i64) {
    let time = (key >> 32) as u64 ^ (1 << 63);
    ((key >> 96) as u32, time as i64)
}

impl<'a> Rows<'a> {
    fn sorted(inputs: &'a [(&'a ResolvedBatch, &'a [u32])]) -> Self {
        let count = inputs.iter().map(|(_, rows)| rows.len()).sum();
        assert!(
            u32::try_from(count).is_ok(),
            "one build has under 2^32 rows"
        );
        let mut sorted = Self {
            inputs,
            keys: Vec::with_capacity(count),
            sources: Vec::with_capacity(count),
            names: Vec::with_capacity(count),
            texts: Vec::new(),
        };
        let mut numbers: HashMap<&'a str, u32> = HashMap::new();
        // Whether rows come in order of time, as they mostly do.
        let (mut in_order, mut before) = (true, 0);
        for (batch, (input, rows)) in inputs.iter().enumerate() {
            // Names are looked up once for each code that is in use.
            let mut number_of = vec![u32::MAX; input.events.values.len()];
            for &row in *rows {
                let at = row as usize;
                let code = input.events.codes[at] as usize;
                if number_of[code] == u32::MAX {
                    let next = sorted.texts.len() as u32;
                    let text = input.events.values.get(code);
                    number_of[code] = *numbers.entry(text).or_insert_with(|| {
                        sorted.texts.push(text);
                        next
                    });
                }
                let time = input.times[at] as u64 ^ (1 << 63);
                in_order &= before <= time;
                before = time;
                let place = sorted.keys.len() as u128;
                let user = u128::from(input.users[at]);
                sorted
                    .keys
                    .push(user << 96 | u128::from(time) << 32 | place);
                sorted.sources.push((batch as u32, row));
                sorted.names.push(number_of[code]);
            }
        }
        if in_order {
            sort_by_user(&mut sorted.keys);
        } else {
            sorted.keys.sort_unstable();
        }
        sorted
    }

    /// Cuts the rows at containers, so that each piece stays within the options where it can, and
    /// every thread has one.
    fn pieces(&self, options: &BuildOptions, threads: usize) -> Vec<Range<usize>> {
        let row_bytes = estimate_row_bytes(self.inputs);
        let most = (options.target_bytes as f64 / row_bytes) as usize;
        let mut most = most.min(options.max_rows as usize);
        if threads > 1 {
            most = most.min(self.keys.len().div_ceil(threads).max(ROWS_PER_THREAD));
        }
        let mut pieces: Vec<Range<usize>> = Vec::new();
        let mut at = 0;
        for container in self
            .keys
            .chunk_by(|&left, &right| left >> 112 == right >> 112)
        {
            let end = at + container.len();
            match pieces.last_mut() {
                Some(piece) if end - piece.start <= most => piece.end = end,
                _ => pieces.push(at..end),
            }
            at = end;
        }
        pieces
    }

    fn segment(
        &self,
        piece: Range<usize>,
        properties: &[FoundProperty<'_>],
        partition: Partition,
        arrival: (u64, u64),
        options: &BuildOptions,
    ) -> Option<SegmentImage> {
        let keys = &self.keys[piece];
        // Places are all over memory: loops that do nothing else have many reads under way.
        let places = || keys.iter().map(|&key| key as u32 as usize);
        let names: Vec<u32> = places().map(|place| self.names[place]).collect();
        let sources: Vec<(u32, u32)> = places().map(|place| self.sources[place]).collect();
        let mut counts = vec![0; self.texts.len()];
        names.iter().for_each(|&name| counts[name as usize] += 1);
        let runs = NameRuns::choose(&self.texts, &counts, options.max_name_runs);
        let (parts, order) = split(keys, &names, &sources, &runs, &counts);
        let mut of_run: Vec<Vec<&FoundProperty<'_>>> = vec![Vec::new(); runs.len()];
        for property in properties {
            let names = property.names.iter().filter(|&name| counts[name] > 0);
            let numbers: BTreeSet<u32> = names.map(|name| runs.run_of[name]).collect();
            numbers
                .into_iter()
                .for_each(|run| of_run[run as usize].push(property));
        }
        let mut writer = SegmentWriter::new(partition, arrival, options.compressed);
        for (part, (number, found)) in parts.into_iter().zip(of_run.iter().enumerate()) {
            let name = runs.own.get(number).map(|&name| self.texts[name as usize]);
            let open = writer.begin_run(part.rows);
            let picks = Picks::new(&part.picks);
            let properties: Vec<Property> = found
                .iter()
                .filter_map(|property| property.gather(&picks, partition))
                .collect();
            let names = name.is_none().then(|| self.text_column(part.names));
            writer.end_run(open, name, &properties, names);
        }
        writer.finish(order)
    }

    /// The names of rows, by their numbers.
    fn text_column(&self, codes: Vec<u32>) -> TextColumn {
        let mut values = StringTable::default();
        for text in &self.texts {
            values.push(text);
        }
        TextColumn { codes, values }
    }

    /// Every property of the inputs, with the names of which any row has it, so that a thousand
    /// names with properties of their own do not ask each other's columns.
    fn properties(&self) -> Vec<FoundProperty<'a>> {
        let mut found: BTreeMap<&'a str, (Vec<Option<&'a Column>>, NameSet)> = BTreeMap::new();
        let mut first = 0;
        for (batch, (input, rows)) in self.inputs.iter().enumerate() {
            let name_at = |place: usize| self.names[first + place];
            let mut of_batch = None;
            for Property { name, column } in &input.properties {
                let (columns, names) = found.entry(name).or_insert_with(|| {
                    let columns = vec![None; self.inputs.len()];
                    (columns, NameSet::new(self.texts.len()))
                });
                columns[batch] = Some(column);
                for part in &column.parts {
                    match &part.presence {
                        Presence::All => {
                            let all = of_batch.get_or_insert_with(|| {
                                let mut all = NameSet::new(self.texts.len());
                                (0..rows.len()).for_each(|place| all.insert(name_at(place)));
                                all
                            });
                            names.or(all);
                        }
                        Presence::Rows(present) if rows.len() == input.times.len() => {
                            let places = present.iter().map(|&row| row as usize);
                            places.for_each(|place| names.insert(name_at(place)));
                        }
                        Presence::Rows(present) => {
                            let places = places_in(rows, present);
                            places.for_each(|place| names.insert(name_at(place)));
                        }
                    }
                }
            }
            first += rows.len();
        }
        let found = found.into_iter();
        let found = found.map(|(name, (columns, names))| FoundProperty {
            name,
            sources: Sources::new(&columns, self.keys.len()),
            names,
        });
        found.collect()
    }
}

/// Sorts keys that are in order of time and arrival already: by counting, digit by digit.
fn sort_by_user(keys: &mut Vec<u128>) {
    const DIGIT: u32 = 11;
    let user = |key: u128| (key >> 96) as u32;
    let highest = keys.iter().map(|&key| user(key)).max().unwrap_or_default();
    let digits = (u32::BITS - highest.leading_zeros()).div_ceil(DIGIT);
    let mut sorted = vec![0; keys.len()];
    for number in 0..digits {
        let digit = |key: u128| (user(key) >> (number * DIGIT)) as usize & ((1 << DIGIT) - 1);
        let mut places = vec![0; 1 << DIGIT];
        keys.iter().for_each(|&key| places[digit(key)] += 1);
        let mut next = 0;
        for place in &mut places {
            next += std::mem::replace(place, next);
        }
        for &key in keys.iter() {
            let place = &mut places[digit(key)];
            sorted[*place] = key;
            *place += 1;
        }
        std::mem::swap(keys, &mut sorted);
    }
}

/// Deals rows out to their runs, and says which run each went to; rows of one user and time in
/// different runs get ranks. `names` and `sources` are those of the keys; `counts` says how many
/// rows each name has.
fn split(
    keys: &[u128],
    names: &[u32],
    sources: &[(u32, u32)],
    runs: &NameRuns,
    counts: &[u32],
) -> (Vec<RunPart>, OrderedRows) {
    let mut lengths = vec![0; runs.len()];
    for (name, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        lengths[runs.run_of[name] as usize] += count as usize;
    }
    let mut parts: Vec<RunPart> = lengths.into_iter().map(RunPart::with_capacity).collect();
    let mut order = OrderedRows::with_capacity(keys.len());
    let mut at = 0;
    for group in keys.chunk_by(|&left, &right| left >> 32 == right >> 32) {
        let group = at..at + group.len();
        at = group.end;
        let run_of = |row: usize| runs.run_of[names[row] as usize];
        let first_run = run_of(group.start);
        let tied = group.len() > 1 && group.clone().any(|row| run_of(row) != first_run);
        for row in group.clone() {
            let (user, time) = unpack(keys[row]);
            let rank = if tied {
                (row - group.start) as u32 + 1
            } else {
                0
            };
            order.push(user, run_of(row) as u16);
            let part = &mut parts[run_of(row) as usize];
            part.rows.push(user, time, rank);
            part.picks.push(sources[row]);
            if runs.is_overflow(run_of(row)) {
                part.names.push(names[row]);
            }
        }
    }
    (parts, order)
}

/// The rows of one run, and where they come from.
#[derive(Default)]
struct RunPart {
    rows: RunRows,
    /// Batch and row of each row.
    picks: Vec<(u32, u32)>,
    /// The number of each row's name, in the overflow run only.
    names: Vec<u32>,
}

impl RunPart {
    fn with_capacity(rows: usize) -> Self {
        Self {
            rows: RunRows::with_capacity(rows),
            picks: Vec::with_capacity(rows),
            names: Vec::new(),
        }
    }
}

/// A property of the inputs.
struct FoundProperty<'a> {
    name: &'a str,
    /// Its column in each batch.
    sources: Sources<'a>,
    /// The names of which some row has it.
    names: NameSet,
}

impl FoundProperty<'_> {
    /// The values of the picked rows, if there are any. Explicit nulls mean something in traits
    /// only; to an event they are a missing property.
    fn gather(&self, picks: &Picks<'_>, partition: Partition) -> Option<Property> {
        let mut column = picks.column(&self.sources);
        if partition != Partition::Traits {
            column.parts.retain(|part| part.values.kind() != Kind::Null);
        }
        let name = self.name.to_owned();
        (!column.parts.is_empty()).then_some(Property { name, column })
    }
}

/// A set of names, by their numbers.
struct NameSet(Vec<u64>);

impl NameSet {
    fn new(names: usize) -> Self {
        Self(vec![0; names.div_ceil(64)])
    }

    fn insert(&mut self, name: u32) {
        self.0[name as usize / 64] |= 1 << (name % 64);
    }

    fn or(&mut self, other: &Self) {
        let words = self.0.iter_mut().zip(&other.0);
        words.for_each(|(word, other)| *word |= other);
    }

    fn iter(&self) -> impl Iterator<Item = usize> {
        let words = self.0.iter().enumerate();
        words.flat_map(|(index, &word)| {
            let bits = (0..64).filter(move |bit| word >> bit & 1 != 0);
            bits.map(move |bit| index * 64 + bit)
        })
    }
}

/// The places in `rows` of those that are in `present` too; both ascend.
fn places_in(rows: &[u32], present: &[u32]) -> impl Iterator<Item = usize> {
    let mut place = 0;
    present.iter().filter_map(move |&row| {
        // Mostly all rows are taken, and the next one sought is near.
        while rows.get(place).is_some_and(|&taken| taken < row) {
            place += 1;
        }
        (rows.get(place) == Some(&row)).then_some(place)
    })
}

/// Roughly how many bytes a row will take: what users, times and names took in measurements, and
/// the properties at a fraction of their size in memory.
fn estimate_row_bytes(inputs: &[(&ResolvedBatch, &[u32])]) -> f64 {
    let (mut rows, mut bytes) = (1.0, 5.0);
    for (input, picked) in inputs {
        let share = picked.len() as f64 / (input.times.len().max(1)) as f64;
        rows += picked.len() as f64;
        bytes += 5.0 * picked.len() as f64;
        for property in &input.properties {
            bytes += share * estimate_column_bytes(&property.column);
        }
    }
    bytes / rows
}

fn estimate_column_bytes(column: &Column) -> f64 {
    let part_bytes = |values: &Values| match values {
        Values::Null(_) => 0.0,
        Values::Bool(values) => values.len() as f64 / 8.0,
        Values::I64(values) | Values::Timestamp(values) => values.len() as f64 * 3.0,
        Values::F64(values) => values.len() as f64 * 4.0,
        Values::Text(text) => text.codes.len() as f64 + text.values.byte_len() as f64 / 3.0,
        Values::List(list) => list.ends.len() as f64 + estimate_column_bytes(&list.elements),
    };
    let parts = column.parts.iter();
    parts.map(|part| part_bytes(&part.values)).sum()
}
