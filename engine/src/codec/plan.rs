//! What to encode: each part of each property with the dictionary or table that it could have.

use std::ops::Range;

use hashbrown::{HashMap, HashSet};

use super::bits;
use super::sink::Params;
use crate::batch::{Column, Kind, Part, Presence, TextColumn, Values};

/// Whole numbers get a table only where each distinct one occurs this often on average.
const LEAST_REPEATS: usize = 8;
/// Parts with fewer values than this are not worth a table.
const LEAST_TABLED: usize = 256;

/// A part about to be encoded.
#[derive(Debug)]
pub(super) struct PlannedPart<'p> {
    /// The place of its property among all, sorted by name.
    pub(super) property: u32,
    /// Its place among the property's parts.
    pub(super) part: u8,
    pub(super) kind: Kind,
    pub(super) presence: &'p Presence,
    pub(super) count: u32,
    pub(super) values: PlannedValues<'p>,
    /// Another part of the run that determines this one, by its place among all planned parts.
    pub(super) depends_on: Option<usize>,
}

#[derive(Debug)]
pub(super) enum PlannedValues<'p> {
    Null,
    Bools(&'p [bool]),
    Ints(&'p [i64], Option<IntTable>),
    Floats(&'p [f64]),
    Coded(Coded<'p>),
    Plain(&'p TextColumn),
    List {
        ends: &'p [u32],
        rows: u32,
        elements: Vec<PlannedPart<'p>>,
    },
}

/// Text with its distinct values sorted.
#[derive(Debug)]
pub(super) struct Coded<'p> {
    pub(super) text: &'p TextColumn,
    /// For each code to be, an entry of the column's dictionary with that text.
    pub(super) sorted: Vec<u32>,
    /// For each used entry of the column's dictionary, the code to be.
    codes: Vec<u32>,
}

/// Distinct whole numbers, sorted, and the index of each value among them.
#[derive(Debug)]
pub(super) struct IntTable {
    pub(super) values: Vec<i64>,
    pub(super) codes: Vec<u32>,
    /// Whether to store the part so: because it is smaller, or because others depend on it.
    pub(super) chosen: bool,
}

/// Plans the parts of a column that have values.
pub(super) fn plan_column<'p>(
    column: &'p Column,
    property: u32,
    params: &Params,
) -> Vec<PlannedPart<'p>> {
    let mut parts: Vec<&Part> = column.parts.iter().collect();
    parts.retain(|part| !part.values.is_empty());
    parts.sort_by_key(|part| part.values.kind());
    let planned = (0u8..).zip(parts).map(|(at, part)| PlannedPart {
        property,
        part: at,
        kind: part.values.kind(),
        presence: &part.presence,
        count: part.values.len() as u32,
        values: plan_values(&part.values, params),
        depends_on: None,
    });
    planned.collect()
}

fn plan_values<'p>(values: &'p Values, params: &Params) -> PlannedValues<'p> {
    match values {
        Values::Null(_) => PlannedValues::Null,
        Values::Bool(values) => PlannedValues::Bools(values),
        Values::I64(values) | Values::Timestamp(values) => {
            PlannedValues::Ints(values, IntTable::of(values, params))
        }
        Values::F64(values) => PlannedValues::Floats(values),
        Values::Text(text) => match Coded::of(text) {
            Some(coded) => PlannedValues::Coded(coded),
            None => PlannedValues::Plain(text),
        },
        Values::List(list) => PlannedValues::List {
            ends: &list.ends,
            rows: list.elements.rows,
            elements: plan_column(&list.elements, 0, params),
        },
    }
}

impl PlannedPart<'_> {
    /// Appends the words of a range of indices: numbers, bits of floats, or codes of text.
    pub(super) fn words(&self, indices: Range<u32>, out: &mut Vec<u64>) {
        let range = indices.start as usize..indices.end as usize;
        match &self.values {
            PlannedValues::Bools(values) => {
                out.extend(values[range].iter().map(|&value| u64::from(value)));
            }
            PlannedValues::Ints(values, _) => {
                out.extend(values[range].iter().map(|&value| value as u64));
            }
            PlannedValues::Floats(values) => {
                out.extend(values[range].iter().map(|value| value.to_bits()));
            }
            PlannedValues::Coded(coded) => out.extend(coded.codes(range).map(u64::from)),
            PlannedValues::Null | PlannedValues::Plain(_) | PlannedValues::List { .. } => {}
        }
    }
}

impl<'p> Coded<'p> {
    /// Sorts the distinct texts; none where they are more than half of the values.
    fn of(text: &'p TextColumn) -> Option<Self> {
        let most = text.codes.len() / 2;
        let mut used = vec![false; text.values.len()];
        text.codes
            .iter()
            .for_each(|&code| used[code as usize] = true);
        let mut entries: Vec<(&str, u32)> = (0u32..)
            .zip(&used)
            .filter(|(_, used)| **used)
            .map(|(entry, _)| (text.values.get(entry as usize), entry))
            .collect();
        // Sorting is the dear part, so a dictionary with too many entries is counted first.
        if entries.len() > most {
            let mut distinct = HashSet::new();
            let beyond = |(text, _): &(&'p str, u32)| {
                distinct.insert(*text);
                distinct.len() > most
            };
            if entries.iter().any(beyond) {
                return None;
            }
        }
        entries.sort_unstable();
        let mut codes = vec![0; text.values.len()];
        let mut sorted: Vec<u32> = Vec::new();
        let mut last = None;
        for (text, entry) in entries {
            if last != Some(text) {
                sorted.push(entry);
                last = Some(text);
            }
            codes[entry as usize] = sorted.len() as u32 - 1;
        }
        Some(Self {
            text,
            sorted,
            codes,
        })
    }

    pub(super) fn codes(&self, range: Range<usize>) -> impl Iterator<Item = u32> {
        let codes = self.text.codes[range].iter();
        codes.map(|&entry| self.codes[entry as usize])
    }
}

impl IntTable {
    /// The table of these numbers; none where too few of them repeat, or nothing is compressed.
    fn of(values: &[i64], params: &Params) -> Option<Self> {
        let most = values.len() / LEAST_REPEATS;
        if !params.compressed || values.len() < LEAST_TABLED.min(params.block_values as usize) {
            return None;
        }
        let (&least, &greatest) = (values.iter().min()?, values.iter().max()?);
        let span = greatest.wrapping_sub(least) as u64;
        if span == 0 {
            return None;
        }
        let mut table = if span < values.len() as u64 * 4 {
            Self::of_dense(values, least, span as usize, most)?
        } else {
            Self::of_scattered(values, most)?
        };
        table.chosen = table.bits() <= direct_bits(values, &table.values, params) / 4 * 3;
        Some(table)
    }

    fn of_dense(values: &[i64], least: i64, span: usize, most: usize) -> Option<Self> {
        let place = |value: i64| value.wrapping_sub(least) as usize;
        let mut codes_of = vec![0u32; span + 1];
        values.iter().for_each(|&value| codes_of[place(value)] = 1);
        let mut distinct = Vec::new();
        for (value, code) in (least..).zip(&mut codes_of) {
            if *code == 1 {
                *code = distinct.len() as u32;
                distinct.push(value);
            }
        }
        (distinct.len() <= most).then(|| Self {
            codes: values.iter().map(|&value| codes_of[place(value)]).collect(),
            values: distinct,
            chosen: false,
        })
    }

    fn of_scattered(values: &[i64], most: usize) -> Option<Self> {
        let mut known: HashMap<i64, u32> = HashMap::new();
        let mut codes = Vec::with_capacity(values.len());
        for &value in values {
            let next = known.len() as u32;
            codes.push(*known.entry(value).or_insert(next));
            if known.len() > most {
                return None;
            }
        }
        let mut by_value: Vec<(i64, u32)> = known.into_iter().collect();
        by_value.sort_unstable();
        let mut places = vec![0; by_value.len()];
        for (place, (_, code)) in (0u32..).zip(&by_value) {
            places[*code as usize] = place;
        }
        codes
            .iter_mut()
            .for_each(|code| *code = places[*code as usize]);
        Some(Self {
            values: by_value.into_iter().map(|(value, _)| value).collect(),
            codes,
            chosen: false,
        })
    }

    /// Bits that the part takes with the table.
    fn bits(&self) -> u64 {
        let span = match (self.values.first(), self.values.last()) {
            (Some(first), Some(last)) => last.wrapping_sub(*first) as u64,
            _ => 0,
        };
        let code = u64::from(bits::width_of(self.values.len() as u64 - 1));
        self.codes.len() as u64 * code + self.values.len() as u64 * u64::from(bits::width_of(span))
    }
}

/// Bits that whole numbers take without a table, in blocks and with their divisor taken out.
fn direct_bits(values: &[i64], distinct: &[i64], params: &Params) -> u64 {
    let first = distinct.first().copied().unwrap_or_default();
    let mut divisor = 0;
    for value in distinct {
        let (mut a, mut b) = (value.wrapping_sub(first) as u64, divisor);
        while a != 0 {
            (a, b) = (b % a, a);
        }
        divisor = b;
        if divisor == 1 {
            break;
        }
    }
    let blocks = values.chunks(params.block_values as usize).map(|block| {
        let (least, greatest) = (block.iter().min(), block.iter().max());
        let span = match (least, greatest) {
            (Some(least), Some(greatest)) => greatest.wrapping_sub(*least) as u64,
            _ => 0,
        };
        block.len() as u64 * u64::from(bits::width_of(span / divisor.max(1)))
    });
    blocks.sum()
}
