//! Values of gathered events: held values as numbers, aggregated ones as measures.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use pugmark_engine::batch::Kind;
use pugmark_engine::codec::{ColumnView, PartView};
use pugmark_engine::{Corruption, Scalar, Value};

use crate::behaviour::{Aggregate, AggregateTest, Literal};
use crate::kernel::Measure;

use super::gather::{Gather, RowRef};
use super::intern::Interner;
use super::scan::Scan;

/// Reads one property of events wherever they lie; opens each run's column once.
pub(crate) struct ValueReader<'a, 'n> {
    name: &'n str,
    /// By run; `None` where it was not opened yet.
    columns: Vec<Option<RunColumn<'a>>>,
}

/// The property in one run.
struct RunColumn<'a> {
    column: Option<ColumnView<'a>>,
    /// The number of each code's text, once it was met; empty where texts have no codes.
    numbers: Vec<Option<u32>>,
    floats: Floats,
}

/// Neighbouring numbers of a part, read together: events are mostly asked for in the order of rows.
#[derive(Default)]
struct Floats {
    indices: Range<u32>,
    values: Vec<f64>,
}

/// So many numbers are read together: few, as they may be asked for one here and one there.
const TOGETHER: u32 = 64;

impl Floats {
    #[inline]
    fn at(&mut self, part: &PartView<'_>, index: u32) -> Result<f64, Corruption> {
        if !self.indices.contains(&index) {
            let first = index - index % TOGETHER;
            self.indices = 0..0;
            self.values.clear();
            let indices = first..part.len().min(first.saturating_add(TOGETHER));
            part.floats(indices.clone(), &mut self.values)?;
            self.indices = indices;
        }
        Ok(self.values[(index - self.indices.start) as usize])
    }
}

impl<'a, 'n> ValueReader<'a, 'n> {
    /// A reader of the property `name`.
    pub(crate) fn new(name: &'n str) -> Self {
        Self {
            name,
            columns: Vec::new(),
        }
    }

    /// The value of an event, if it has one.
    pub(crate) fn value(
        &mut self,
        scan: &Scan<'a>,
        at: RowRef,
    ) -> Result<Option<Value>, Corruption> {
        match &self.open(scan, at.run)?.column {
            Some(column) => column.value(at.row),
            None => Ok(None),
        }
    }

    /// The number of an event's value as text, of a multi-valued one of the smallest; `None` where it
    /// has none. A reader must be asked with one interner always.
    pub(crate) fn number(
        &mut self,
        scan: &Scan<'a>,
        at: RowRef,
        texts: &mut Interner,
    ) -> Result<Option<u32>, Corruption> {
        let RunColumn {
            column, numbers, ..
        } = self.open(scan, at.run)?;
        let Some(column) = column else {
            return Ok(None);
        };
        if let [part] = column.parts()
            && let Some(coded) = part.coded()
        {
            let Some(index) = part.index_of(at.row) else {
                return Ok(None);
            };
            let code = coded.code_at(index)?;
            let known = &mut numbers[code as usize];
            if known.is_none() {
                *known = Some(texts.number(coded.value(code)?));
            }
            return Ok(*known);
        }
        let text = smallest_text(column.value(at.row)?);
        Ok(text.map(|text| texts.number(&text)))
    }

    /// The numbers that an event's value holds, added up; `None` where it holds none.
    pub(crate) fn float(&mut self, scan: &Scan<'a>, at: RowRef) -> Result<Option<f64>, Corruption> {
        let RunColumn { column, floats, .. } = self.open(scan, at.run)?;
        let Some(column) = column else {
            return Ok(None);
        };
        if let [part] = column.parts()
            && matches!(part.kind(), Kind::I64 | Kind::F64)
        {
            let Some(index) = part.index_of(at.row) else {
                return Ok(None);
            };
            let number = floats.at(part, index)?;
            return Ok((!number.is_nan()).then_some(number));
        }
        Ok(float_in(column.value(at.row)?))
    }

    fn open(&mut self, scan: &Scan<'a>, run: u32) -> Result<&mut RunColumn<'a>, Corruption> {
        if self.columns.is_empty() {
            self.columns.resize_with(scan.runs.len(), || None);
        }
        let slot = &mut self.columns[run as usize];
        if let Some(open) = slot {
            return Ok(open);
        }
        let column = scan.runs[run as usize].run.properties()?.get(self.name)?;
        let codes = column.as_ref().and_then(|column| match column.parts() {
            [part] => part.coded().map(|coded| coded.len() as usize),
            _ => None,
        });
        Ok(slot.insert(RunColumn {
            column,
            numbers: vec![None; codes.unwrap_or(0)],
            floats: Floats::default(),
        }))
    }
}

/// The numbers that a value holds, added up; `None` where it holds none.
pub(crate) fn float_in(value: Option<Value>) -> Option<f64> {
    let scalars = value.iter().flat_map(Value::scalars);
    let numbers = scalars.filter_map(|scalar| match scalar {
        Scalar::I64(number) => Some(number as f64),
        Scalar::F64(number) if !number.is_nan() => Some(number),
        _ => None,
    });
    numbers.fold(None, |sum, number| Some(sum.unwrap_or(0.0) + number))
}

/// A value as text: of a multi-valued one the smallest.
pub(crate) fn smallest_text(value: Option<Value>) -> Option<String> {
    let scalars = value.iter().flat_map(Value::scalars);
    scalars
        .map(|scalar| scalar.canonical_text().into_owned())
        .min()
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
