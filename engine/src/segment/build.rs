//! Segments from batches.

use std::collections::BTreeMap;
use std::ops::Range;

use hashbrown::HashMap;

use super::names::NameRuns;
use super::writer::{RunRows, SegmentWriter};
use super::{BuildOptions, Partition, SegmentImage};
use crate::batch::shape::Picks;
use crate::batch::{
    Column, Kind, Presence, Property, ResolvedBatch, StringTable, TextColumn, Values,
};

/// Builds the segments of rows that fall into one partition.
///
/// `inputs` are batches in arrival order, each with those of its rows (ascending) that belong to
/// `partition`; `arrival` is the interval of the arrival sequence that they came in. There are
/// several segments where one would exceed the options' size, each with its own containers, and
/// none where there is no row.
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
) -> Vec<SegmentImage> {
    let rows = Rows::sorted(inputs);
    rows.pieces(options)
        .into_iter()
        .filter_map(|piece| rows.segment(piece, partition, arrival, options))
        .collect()
}

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

/// The parts of a key.
fn unpack(key: u128) -> (u32, i64, usize) {
    let time = (key >> 32) as u64 ^ (1 << 63);
    ((key >> 96) as u32, time as i64, key as u32 as usize)
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
                let place = sorted.keys.len() as u128;
                let user = u128::from(input.users[at]);
                sorted
                    .keys
                    .push(user << 96 | u128::from(time) << 32 | place);
                sorted.sources.push((batch as u32, row));
                sorted.names.push(number_of[code]);
            }
        }
        sorted.keys.sort_unstable();
        sorted
    }

    /// Cuts the rows at containers, so that each piece stays within the options where it can.
    fn pieces(&self, options: &BuildOptions) -> Vec<Range<usize>> {
        let row_bytes = estimate_row_bytes(self.inputs);
        let most = (options.target_bytes as f64 / row_bytes) as usize;
        let most = most.min(options.max_rows as usize);
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
        partition: Partition,
        arrival: (u64, u64),
        options: &BuildOptions,
    ) -> Option<SegmentImage> {
        let keys = &self.keys[piece];
        let mut counts = vec![0; self.texts.len()];
        for &key in keys {
            counts[self.names[unpack(key).2] as usize] += 1;
        }
        let runs = NameRuns::choose(&self.texts, &counts, options.max_name_runs);
        let parts = self.split(keys, &runs);
        let found = self.properties(&runs);
        let mut writer = SegmentWriter::new(partition, arrival);
        for (number, part) in parts.into_iter().enumerate() {
            let name = runs.own.get(number).map(|&name| self.texts[name as usize]);
            let open = writer.begin_run(part.rows);
            let picks = Picks::new(&part.picks);
            let here = found.iter().filter(|found| found.runs.contains(number));
            let properties: Vec<Property> = here
                .filter_map(|found| found.gather(&picks, partition))
                .collect();
            let names = name.is_none().then(|| self.text_column(part.names));
            writer.end_run(open, name, &properties, names);
        }
        writer.finish()
    }

    /// The names of rows, by their numbers.
    fn text_column(&self, codes: Vec<u32>) -> TextColumn {
        let mut values = StringTable::default();
        for text in &self.texts {
            values.push(text);
        }
        TextColumn { codes, values }
    }

    /// Every property of the inputs, with the runs in which any row has it, so that a thousand
    /// names with properties of their own do not ask each other's columns.
    fn properties(&self, runs: &NameRuns) -> Vec<FoundProperty<'a>> {
        let mut found: BTreeMap<&'a str, FoundProperty<'a>> = BTreeMap::new();
        let mut first = 0;
        for (batch, (input, rows)) in self.inputs.iter().enumerate() {
            let run_at = |place: usize| runs.run_of[self.names[first + place] as usize];
            let mut of_batch = None;
            for Property { name, column } in &input.properties {
                let property = found.entry(name).or_insert_with(|| FoundProperty {
                    name,
                    columns: vec![None; self.inputs.len()],
                    runs: RunSet::new(runs.len()),
                });
                property.columns[batch] = Some(column);
                for part in &column.parts {
                    match &part.presence {
                        Presence::All => {
                            let all = of_batch.get_or_insert_with(|| {
                                let mut all = RunSet::new(runs.len());
                                (0..rows.len()).for_each(|place| all.insert(run_at(place)));
                                all
                            });
                            property.runs.or(all);
                        }
                        Presence::Rows(present) => {
                            let places = places_in(rows, present);
                            places.for_each(|place| property.runs.insert(run_at(place)));
                        }
                    }
                }
            }
            first += rows.len();
        }
        found.into_values().collect()
    }

    /// Deals the rows out to their runs; rows of one user and time in different runs get ranks.
    fn split(&self, keys: &[u128], runs: &NameRuns) -> Vec<RunPart> {
        let mut parts: Vec<RunPart> = Vec::new();
        parts.resize_with(runs.len(), RunPart::default);
        let run_of = |key: u128| runs.run_of[self.names[unpack(key).2] as usize];
        for group in keys.chunk_by(|&left, &right| left >> 32 == right >> 32) {
            let first_run = run_of(group[0]);
            let tied = group[1..].iter().any(|&key| run_of(key) != first_run);
            for (place, &key) in group.iter().enumerate() {
                let (user, time, arrival) = unpack(key);
                let rank = if tied { place as u32 + 1 } else { 0 };
                let part = &mut parts[run_of(key) as usize];
                part.rows.push(user, time, rank);
                part.picks.push(self.sources[arrival]);
                if runs.is_overflow(run_of(key)) {
                    part.names.push(self.names[arrival]);
                }
            }
        }
        parts
    }
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

/// A property of the inputs.
struct FoundProperty<'a> {
    name: &'a str,
    /// Its column in each batch.
    columns: Vec<Option<&'a Column>>,
    /// The runs in which some row has it.
    runs: RunSet,
}

impl FoundProperty<'_> {
    /// The values of the picked rows, if there are any. Explicit nulls mean something in traits
    /// only; to an event they are a missing property.
    fn gather(&self, picks: &Picks<'_>, partition: Partition) -> Option<Property> {
        let mut column = picks.column(&self.columns);
        if partition != Partition::Traits {
            column.parts.retain(|part| part.values.kind() != Kind::Null);
        }
        let name = self.name.to_owned();
        (!column.parts.is_empty()).then_some(Property { name, column })
    }
}

/// A set of runs.
struct RunSet(Vec<u64>);

impl RunSet {
    fn new(runs: usize) -> Self {
        Self(vec![0; runs.div_ceil(64)])
    }

    /// Adds a run; the number of names outside this segment is ignored.
    fn insert(&mut self, run: u32) {
        if let Some(word) = self.0.get_mut(run as usize / 64) {
            *word |= 1 << (run % 64);
        }
    }

    fn or(&mut self, other: &Self) {
        let words = self.0.iter_mut().zip(&other.0);
        words.for_each(|(word, other)| *word |= other);
    }

    fn contains(&self, run: usize) -> bool {
        self.0[run / 64] >> (run % 64) & 1 != 0
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
