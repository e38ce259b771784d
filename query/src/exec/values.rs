//! Values of gathered events: held values as numbers, aggregated ones as measures.

use std::collections::{BTreeSet, HashMap};

use pugmark_engine::codec::ColumnView;
use pugmark_engine::{Corruption, Scalar, Value};

use crate::behaviour::{Aggregate, AggregateTest, Literal};
use crate::kernel::Measure;

use super::gather::{Gather, RowRef};
use super::scan::Scan;

/// Reads one property of events wherever they lie; opens each run's column once.
pub(crate) struct ValueReader<'a, 'n> {
    name: &'n str,
    columns: HashMap<u32, Option<ColumnView<'a>>>,
}

impl<'a, 'n> ValueReader<'a, 'n> {
    /// A reader of the property `name`.
    pub(crate) fn new(name: &'n str) -> Self {
        Self {
            name,
            columns: HashMap::new(),
        }
    }

    /// The value of an event, if it has one.
    pub(crate) fn value(
        &mut self,
        scan: &Scan<'a>,
        at: RowRef,
    ) -> Result<Option<Value>, Corruption> {
        use std::collections::hash_map::Entry;
        let column = match self.columns.entry(at.run) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(slot) => slot.insert(
                scan.runs[at.run as usize]
                    .run
                    .properties()?
                    .get(self.name)?,
            ),
        };
        match column {
            Some(column) => column.value(at.row),
            None => Ok(None),
        }
    }
}

/// Lists of numbers, one list an event.
#[derive(Debug)]
pub(crate) struct Lists<T> {
    /// The end of each event's numbers.
    pub(crate) ends: Vec<u32>,
    pub(crate) values: Vec<T>,
}

impl<T> Default for Lists<T> {
    fn default() -> Self {
        Self {
            ends: Vec::new(),
            values: Vec::new(),
        }
    }
}

impl<T: Copy> Lists<T> {
    /// The lists of the events `range`, with ends that count from its first.
    pub(crate) fn slice(&self, range: std::ops::Range<usize>, ends: &mut Vec<u32>) -> &[T] {
        let first = if range.start == 0 {
            0
        } else {
            self.ends[range.start - 1]
        };
        ends.clear();
        ends.extend(self.ends[range.clone()].iter().map(|end| end - first));
        let last = if range.is_empty() {
            first
        } else {
            self.ends[range.end - 1]
        };
        &self.values[first as usize..last as usize]
    }
}

/// The values that each event holds, as numbers that are in the order of the values' canonical
/// texts: one for each combination of the properties' elements, none where one is missing.
pub(crate) fn held(
    scan: &Scan<'_>,
    gather: &Gather<'_>,
    properties: &[String],
) -> Result<(Lists<u32>, Vec<Vec<String>>), Corruption> {
    let mut readers: Vec<_> = properties
        .iter()
        .map(|name| ValueReader::new(name))
        .collect();
    let mut known: HashMap<Vec<String>, u32> = HashMap::new();
    let mut lists = Lists::default();
    for &at in &gather.rows {
        let mut combinations = vec![Vec::new()];
        for reader in &mut readers {
            let texts = texts(reader.value(scan, at)?);
            let extend = |start: &Vec<String>| {
                let start = start.clone();
                texts
                    .iter()
                    .map(move |text| [start.as_slice(), std::slice::from_ref(text)].concat())
                    .collect()
            };
            combinations = combinations.iter().flat_map::<Vec<_>, _>(extend).collect();
        }
        for combination in combinations {
            let next = known.len() as u32;
            lists.values.push(*known.entry(combination).or_insert(next));
        }
        lists.ends.push(lists.values.len() as u32);
    }
    let mut sorted: Vec<(Vec<String>, u32)> = known.into_iter().collect();
    sorted.sort_unstable();
    let mut rank = vec![0; sorted.len()];
    for (place, (_, number)) in (0..).zip(&sorted) {
        rank[*number as usize] = place;
    }
    lists
        .values
        .iter_mut()
        .for_each(|number| *number = rank[*number as usize]);
    Ok((lists, sorted.into_iter().map(|(texts, _)| texts).collect()))
}

/// The canonical texts of a value's elements, each once.
pub(crate) fn texts(value: Option<Value>) -> BTreeSet<String> {
    let value = value.unwrap_or(Value::Null);
    value
        .scalars()
        .map(|scalar| scalar.canonical_text().into_owned())
        .collect()
}

/// The values that a test aggregates, of each event.
pub(crate) fn measures(
    scan: &Scan<'_>,
    gather: &Gather<'_>,
    test: &AggregateTest,
) -> Result<Lists<Measure>, Corruption> {
    let mut reader = ValueReader::new(&test.property);
    let mut distinct: HashMap<String, i64> = HashMap::new();
    let mut lists = Lists::default();
    for &at in &gather.rows {
        let value = reader.value(scan, at)?.unwrap_or(Value::Null);
        for scalar in value.scalars() {
            let measure = match (test.aggregate, scalar, &test.literal) {
                (Aggregate::CountDistinct, scalar, _) => {
                    let next = distinct.len() as i64;
                    let text = scalar.canonical_text().into_owned();
                    Some(Measure::I64(*distinct.entry(text).or_insert(next)))
                }
                (_, Scalar::Timestamp(value), Literal::Timestamp(_)) => Some(Measure::I64(value)),
                (_, _, Literal::Timestamp(_)) => None,
                (_, Scalar::I64(value), _) => Some(Measure::I64(value)),
                (_, Scalar::F64(value), _) => Some(Measure::F64(value)),
                _ => None,
            };
            lists.values.extend(measure);
        }
        lists.ends.push(lists.values.len() as u32);
    }
    Ok(lists)
}
