//! Conditions over the rows of a run, in bulk.
//!
//! A condition comes to two sets of rows: where it holds and where it is unknown. Comparisons
//! work on codes of dictionaries and on decoded blocks, never on owned values; what they come
//! to equals [`Condition::evaluate`], row by row, and the tests hold them to it.

use std::ops::Range;
use std::rc::Rc;

use pugmark_engine::batch::{Kind, TextColumn};
use pugmark_engine::codec::{ColumnView, PartView};
use pugmark_engine::segment::{NameRun, Times};
use pugmark_engine::{Corruption, Scalar, Value};

use crate::behaviour::{
    Comparison, Computation, Computed, Condition, Input, Literal, Operand, Skipped, TextTest,
    Truth, compare,
};

use super::columns::Columns;
use super::control::{Control, QueryError};
use super::memory::Reservation;
use super::traits::TraitTable;

/// Where a condition holds and where it is unknown, among neighbouring rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Truths {
    /// Number of rows.
    pub(crate) rows: usize,
    /// Bit `i`: it holds for the `i`-th row.
    pub(crate) holds: Vec<u64>,
    /// Bit `i`: it is unknown for the `i`-th row.
    pub(crate) unknown: Vec<u64>,
}

impl Truths {
    fn all(rows: usize, truth: Truth) -> Self {
        let words = rows.div_ceil(64);
        let mut filled = vec![u64::MAX; words];
        if let Some(last) = filled.last_mut()
            && !rows.is_multiple_of(64)
        {
            *last = (1 << (rows % 64)) - 1;
        }
        let empty = vec![0; words];
        match truth {
            Truth::True => Self {
                rows,
                holds: filled,
                unknown: empty,
            },
            Truth::Unknown => Self {
                rows,
                holds: empty,
                unknown: filled,
            },
            Truth::False => Self {
                rows,
                holds: empty.clone(),
                unknown: empty,
            },
        }
    }

    /// True where it holds for the `index`-th row.
    pub(crate) fn holds_at(&self, index: usize) -> bool {
        self.holds[index / 64] >> (index % 64) & 1 == 1
    }

    fn set(&mut self, index: usize, holds: bool) {
        let (word, bit) = (index / 64, 1 << (index % 64));
        self.unknown[word] &= !bit;
        if holds {
            self.holds[word] |= bit;
        }
    }

    /// Takes over what is known of the values of a part: bit `i` of `holds` is the `i`-th value's,
    /// which is that of the row at `present[i]`, or of the `i`-th row where every row has one.
    fn put(&mut self, holds: &[u64], values: usize, present: Option<&[u32]>) {
        let Some(present) = present else {
            let known = Self::all(values, Truth::True).holds;
            for (word, known) in known.into_iter().enumerate() {
                self.unknown[word] &= !known;
                self.holds[word] |= holds[word];
            }
            return;
        };
        for (value, &row) in present.iter().enumerate() {
            let (word, place) = (row as usize / 64, row % 64);
            self.unknown[word] &= !(1 << place);
            self.holds[word] |= (holds[value / 64] >> (value % 64) & 1) << place;
        }
    }

    fn or(mut self, other: &Self) -> Self {
        for word in 0..self.holds.len() {
            let holds = self.holds[word] | other.holds[word];
            self.unknown[word] = (self.unknown[word] | other.unknown[word]) & !holds;
            self.holds[word] = holds;
        }
        self
    }

    fn and(mut self, other: &Self) -> Self {
        for word in 0..self.holds.len() {
            let possible =
                (self.holds[word] | self.unknown[word]) & (other.holds[word] | other.unknown[word]);
            self.holds[word] &= other.holds[word];
            self.unknown[word] = possible & !self.holds[word];
        }
        self
    }

    fn negate(mut self) -> Self {
        let all = Self::all(self.rows, Truth::True).holds;
        for (word, all) in all.into_iter().enumerate() {
            self.holds[word] = all & !self.holds[word] & !self.unknown[word];
        }
        self
    }

    fn possible(&self) -> bool {
        self.holds
            .iter()
            .chain(&self.unknown)
            .any(|&word| word != 0)
    }
}

/// Neighbouring rows of a run, as conditions see them.
pub(crate) struct Rows<'a, 's> {
    pub(crate) run: NameRun<'s>,
    pub(crate) columns: &'a Columns<'s>,
    pub(crate) range: Range<u32>,
    pub(crate) times: Times<'s>,
    /// The names of the rows, in an overflow run.
    pub(crate) names: Option<TextColumn>,
    /// The lower half of each row's user, where a condition reads traits.
    pub(crate) lows: &'a [u16],
    pub(crate) traits: &'a TraitTable,
    pub(crate) control: &'a Control,
}

/// What a leaf of a condition asks of a value.
#[derive(Clone, Copy)]
enum Leaf<'c> {
    Compare(Comparison, &'c Literal),
    Text(&'c TextTest),
}

impl Leaf<'_> {
    fn verdict(&self, scalar: Scalar<'_>) -> Option<bool> {
        match self {
            Self::Compare(comparison, literal) => {
                compare(scalar, literal).map(|ordering| comparison.accepts(ordering))
            }
            Self::Text(test) => Some(test.matches(&scalar.canonical_text())),
        }
    }
}

/// What `condition` comes to for each of the rows.
pub(crate) fn evaluate(
    condition: &Condition,
    rows: &Rows<'_, '_>,
    skipped: &mut Skipped,
) -> Result<Truths, QueryError> {
    let count = rows.range.len();
    match condition {
        Condition::Constant(truth) => Ok(Truths::all(count, *truth)),
        Condition::Compare {
            operand,
            comparison,
            literal,
        } => leaf(operand, Leaf::Compare(*comparison, literal), rows, skipped),
        Condition::In {
            operand: operand @ Operand::Computed(computed),
            literals,
        } => computed_in((operand, computed), literals, rows, skipped),
        Condition::In { operand, literals } => {
            let mut found = Truths::all(count, Truth::False);
            for literal in literals {
                let one = leaf(
                    operand,
                    Leaf::Compare(Comparison::Equal, literal),
                    rows,
                    skipped,
                )?;
                found = found.or(&one);
            }
            Ok(found)
        }
        Condition::Text { operand, test } => leaf(operand, Leaf::Text(test), rows, skipped),
        Condition::IsNull(operand) => is_null(operand, rows, skipped),
        Condition::And(parts) => {
            let mut found = Truths::all(count, Truth::True);
            for part in parts {
                if !found.possible() {
                    break;
                }
                found = found.and(&evaluate(part, rows, skipped)?);
            }
            Ok(found)
        }
        Condition::Or(parts) => {
            let mut found = Truths::all(count, Truth::False);
            for part in parts {
                found = found.or(&evaluate(part, rows, skipped)?);
            }
            Ok(found)
        }
        Condition::Not(inner) => Ok(evaluate(inner, rows, skipped)?.negate()),
    }
}

fn leaf(
    operand: &Operand,
    leaf: Leaf<'_>,
    rows: &Rows<'_, '_>,
    skipped: &mut Skipped,
) -> Result<Truths, QueryError> {
    let mut found = Truths::all(rows.range.len(), Truth::Unknown);
    let mut unusable = 0;
    match operand {
        Operand::EventName => names_leaf(leaf, rows, &mut found, &mut unusable),
        Operand::Time => {
            for index in 0..rows.range.len() {
                match leaf.verdict(Scalar::Timestamp(rows.times.get(index))) {
                    Some(holds) => found.set(index, holds),
                    None => unusable += 1,
                }
            }
        }
        Operand::Property(name) => {
            if let Some(column) = rows.columns.get(name)? {
                for part in column.parts() {
                    let of = Some((rows.columns, name.as_str()));
                    unusable += part_leaf(of, part, leaf, rows.range.clone(), &mut found)?;
                }
            }
        }
        Operand::Trait(name) => {
            for (index, &low) in rows.lows.iter().enumerate() {
                let (truth, useless) = rows.traits.test(name, low, |scalar| leaf.verdict(scalar));
                unusable += useless;
                if let Some(holds) = truth {
                    found.set(index, holds);
                }
            }
        }
        Operand::Computed(computed) => {
            let failed = each_value(computed, rows, |index, value| {
                for scalar in value.iter().flat_map(Value::scalars) {
                    match leaf.verdict(scalar) {
                        Some(holds) => found.set(index, holds),
                        None => unusable += 1,
                    }
                }
            })?;
            unusable += failed;
        }
    }
    skipped.add(operand, unusable);
    Ok(found)
}

fn names_leaf(leaf: Leaf<'_>, rows: &Rows<'_, '_>, found: &mut Truths, unusable: &mut u64) {
    for index in 0..rows.range.len() {
        let name = rows
            .names
            .as_ref()
            .map_or(rows.run.name(), |names| names.get(index));
        match leaf.verdict(Scalar::Text(name)) {
            Some(holds) => found.set(index, holds),
            None => *unusable += 1,
        }
    }
}

/// Equal to any of the literals, of an expression: it is computed once for all of them.
fn computed_in(
    (operand, computed): (&Operand, &Computed),
    literals: &[Literal],
    rows: &Rows<'_, '_>,
    skipped: &mut Skipped,
) -> Result<Truths, QueryError> {
    let mut found = Truths::all(rows.range.len(), Truth::False);
    let mut unusable = 0;
    let failed = each_value(computed, rows, |index, value| {
        let mut truth = Truth::False;
        for literal in literals {
            let leaf = Leaf::Compare(Comparison::Equal, literal);
            let mut one = None;
            for scalar in value.iter().flat_map(Value::scalars) {
                match leaf.verdict(scalar) {
                    Some(holds) => one = Some(one.unwrap_or(false) || holds),
                    None => unusable += 1,
                }
            }
            truth = truth.or(one.map_or(Truth::Unknown, Truth::from));
        }
        let (word, bit) = (index / 64, 1 << (index % 64));
        match truth {
            Truth::True => found.holds[word] |= bit,
            Truth::Unknown => found.unknown[word] |= bit,
            Truth::False => {}
        }
    })?;
    skipped.add(operand, unusable + failed);
    Ok(found)
}

/// Rows that an expression is computed for at a time.
const ROWS_AT_A_TIME: usize = 4_096;

/// Calls `each` with every row's index and what the expression comes to; gives how many it failed for.
fn each_value(
    computed: &Computed,
    rows: &Rows<'_, '_>,
    mut each: impl FnMut(usize, &Option<Value>),
) -> Result<u64, QueryError> {
    let count = rows.range.len();
    let mut failed = 0;
    for start in (0..count).step_by(ROWS_AT_A_TIME) {
        let part = start..count.min(start + ROWS_AT_A_TIME);
        let mut memory = rows.control.reservation();
        let found = computed_part(computed, rows, part.clone(), &mut memory)?;
        failed += found.failed;
        for (index, value) in part.zip(&found.values) {
            each(index, value);
        }
    }
    Ok(failed)
}

/// What an expression comes to for a part of the rows.
fn computed_part(
    computed: &Computed,
    rows: &Rows<'_, '_>,
    part: Range<usize>,
    memory: &mut Reservation<'_>,
) -> Result<Computation, QueryError> {
    let inputs = computed.inputs().iter();
    let inputs = inputs.map(|input| input_of(input, rows, part.clone(), memory));
    let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
    computed.compute(&inputs, part.len(), &mut |bytes| {
        rows.control.check()?;
        memory.grow(bytes)
    })
}

fn input_of<'a>(
    operand: &Operand,
    rows: &Rows<'_, 'a>,
    part: Range<usize>,
    memory: &mut Reservation<'_>,
) -> Result<Input<'a>, QueryError> {
    Ok(match operand {
        Operand::Property(name) => {
            let first = rows.range.start;
            let range = first + part.start as u32..first + part.end as u32;
            Input::Rows(rows.columns.get(name)?, range)
        }
        Operand::Time => {
            let times = part.map(|index| rows.times.get(index));
            Input::Values(times.map(|time| Some(Value::Timestamp(time))).collect())
        }
        Operand::EventName => match &rows.names {
            None => Input::Same(Some(Value::Text(rows.run.name().to_owned()))),
            Some(names) => {
                let names = part.map(|index| names.get(index).to_owned());
                Input::Values(names.map(|name| Some(Value::Text(name))).collect())
            }
        },
        Operand::Trait(name) => {
            let lows = rows.lows[part].iter();
            let traits = lows.map(|&low| rows.traits.get(name, low));
            Input::Values(traits.map(Option::<&Value>::cloned).collect())
        }
        Operand::Computed(computed) => {
            Input::Values(computed_part(computed, rows, part, memory)?.values)
        }
    })
}

/// Tests the values of one part, that of a property of the run or of the elements of a list; returns how
/// many could not be used.
fn part_leaf<'s>(
    of: Option<(&Columns<'s>, &str)>,
    part: &PartView<'s>,
    leaf: Leaf<'_>,
    range: Range<u32>,
    found: &mut Truths,
) -> Result<u64, Corruption> {
    let indices = part.indices(range.clone());
    if indices.is_empty() || part.kind() == Kind::Null {
        return Ok(0);
    }
    let mut present = Vec::new();
    if !part.is_all() {
        part.fill_rows(indices.clone(), &mut present);
        present.iter_mut().for_each(|row| *row -= range.start);
    }
    let values = indices.len();
    if let Some(holds) = bulk(of, part, leaf, indices.clone())? {
        found.put(&holds, values, (!part.is_all()).then_some(&present));
        return Ok(0);
    }
    // The place among the rows of the value that comes `offset`-th among the part's.
    let place = |offset: usize| match present.get(offset) {
        Some(row) => *row as usize,
        None => offset,
    };
    let mut unusable = 0;
    let mut set = |offset: usize, verdict: Option<bool>| match verdict {
        Some(holds) => found.set(place(offset), holds),
        None => unusable += 1,
    };
    match part.kind() {
        Kind::I64 | Kind::Timestamp => {
            let mut values = Vec::with_capacity(indices.len());
            part.ints(indices, &mut values)?;
            for (offset, value) in values.into_iter().enumerate() {
                let scalar = match part.kind() {
                    Kind::I64 => Scalar::I64(value),
                    _ => Scalar::Timestamp(value),
                };
                set(offset, leaf.verdict(scalar));
            }
        }
        Kind::F64 => {
            let mut values = Vec::with_capacity(indices.len());
            part.floats(indices, &mut values)?;
            for (offset, value) in values.into_iter().enumerate() {
                set(offset, leaf.verdict(Scalar::F64(value)));
            }
        }
        Kind::Bool => {
            let mut values = Vec::with_capacity(indices.len());
            part.bools(indices, &mut values)?;
            for (offset, value) in values.into_iter().enumerate() {
                set(offset, leaf.verdict(Scalar::Bool(value)));
            }
        }
        Kind::Text => text_leaf(part, leaf, indices, &mut set)?,
        Kind::List => list_leaf(part, leaf, indices, &mut set)?,
        Kind::Null => {}
    }
    Ok(unusable)
}

/// What a comparison with a literal of the values' own type comes to for each value: bit `i` for the
/// `i`-th. `None` where values must be looked at one by one.
fn bulk<'s>(
    of: Option<(&Columns<'s>, &str)>,
    part: &PartView<'s>,
    leaf: Leaf<'_>,
    indices: Range<u32>,
) -> Result<Option<Vec<u64>>, Corruption> {
    let Leaf::Compare(comparison, literal) = leaf else {
        return Ok(None);
    };
    let count = indices.len();
    Ok(match (part.kind(), literal) {
        (Kind::I64, Literal::I64(literal)) | (Kind::Timestamp, Literal::Timestamp(literal)) => {
            let mut values = Vec::with_capacity(count);
            part.ints(indices, &mut values)?;
            Some(compared(&values, comparison, *literal))
        }
        (Kind::F64, literal) => {
            let Some(literal) = exact_float(literal) else {
                return Ok(None);
            };
            let values = match of {
                Some((columns, name)) => columns.floats(name, part, indices)?,
                None => {
                    let mut values = Vec::with_capacity(count);
                    part.floats(indices, &mut values)?;
                    Rc::new(values)
                }
            };
            // What is no number compares with none.
            let numbers = !values.iter().fold(false, |any, value| any | value.is_nan());
            numbers.then(|| compared(&values, comparison, literal))
        }
        (Kind::Text, Literal::Text(literal)) => {
            let Some(text) = part.coded() else {
                return Ok(None);
            };
            let mut codes = Vec::with_capacity(count);
            text.codes(indices, &mut codes)?;
            // Codes are in the order of their texts.
            let at = text.lower_bound(literal)?;
            let exact = at < text.len() && text.value(at)? == literal.as_str();
            Some(match (exact, comparison) {
                (true, comparison) => compared(&codes, comparison, at),
                (false, Comparison::Equal) => vec![0; count.div_ceil(64)],
                (false, Comparison::NotEqual) => Truths::all(count, Truth::True).holds,
                (false, Comparison::Less | Comparison::LessOrEqual) => {
                    compared(&codes, Comparison::Less, at)
                }
                (false, Comparison::Greater | Comparison::GreaterOrEqual) => {
                    compared(&codes, Comparison::GreaterOrEqual, at)
                }
            })
        }
        _ => None,
    })
}

/// A literal as the float that it is exactly.
fn exact_float(literal: &Literal) -> Option<f64> {
    match literal {
        Literal::F64(float) => (!float.is_nan()).then_some(*float),
        Literal::I64(whole) => (whole.unsigned_abs() <= 1 << 53).then_some(*whole as f64),
        _ => None,
    }
}

/// Bit `i`: the `i`-th value compares so.
fn compared<T: Copy + PartialOrd>(values: &[T], comparison: Comparison, literal: T) -> Vec<u64> {
    match comparison {
        Comparison::Equal => mask(values, |value| value == literal),
        Comparison::NotEqual => mask(values, |value| value != literal),
        Comparison::Less => mask(values, |value| value < literal),
        Comparison::LessOrEqual => mask(values, |value| value <= literal),
        Comparison::Greater => mask(values, |value| value > literal),
        Comparison::GreaterOrEqual => mask(values, |value| value >= literal),
    }
}

#[inline]
fn mask<T: Copy>(values: &[T], holds: impl Fn(T) -> bool) -> Vec<u64> {
    let word = |values: &[T]| {
        let bits = values.iter().enumerate();
        bits.fold(0, |word, (place, &value)| {
            word | u64::from(holds(value)) << place
        })
    };
    values.chunks(64).map(word).collect()
}

fn text_leaf(
    part: &PartView<'_>,
    leaf: Leaf<'_>,
    indices: Range<u32>,
    set: &mut impl FnMut(usize, Option<bool>),
) -> Result<(), Corruption> {
    if let Some(text) = part.coded() {
        let mut codes = Vec::with_capacity(indices.len());
        text.codes(indices, &mut codes)?;
        // The verdict on each text, found when first asked for.
        let mut known: Vec<Option<Option<bool>>> = vec![None; text.len() as usize];
        for (offset, code) in codes.into_iter().enumerate() {
            let verdict = match known[code as usize] {
                Some(verdict) => verdict,
                None => leaf.verdict(Scalar::Text(text.value(code)?)),
            };
            known[code as usize] = Some(verdict);
            set(offset, verdict);
        }
    } else if let Some(text) = part.plain() {
        let first = indices.start;
        text.for_each(indices, |index, value| {
            set((index - first) as usize, leaf.verdict(Scalar::Text(value)));
        })?;
    }
    Ok(())
}

/// Any element that can be tested decides; those that cannot are counted one by one.
fn list_leaf(
    part: &PartView<'_>,
    leaf: Leaf<'_>,
    indices: Range<u32>,
    set: &mut impl FnMut(usize, Option<bool>),
) -> Result<(), Corruption> {
    let Some(list) = part.list() else {
        return Ok(());
    };
    let first = list.bounds(indices.start)?.start;
    let last = list.bounds(indices.end - 1)?.end;
    let mut elements = Truths::all((last - first) as usize, Truth::Unknown);
    for part in list.elements().parts() {
        part_leaf(None, part, leaf, first..last, &mut elements)?;
    }
    for (offset, index) in indices.enumerate() {
        let bounds = list.bounds(index)?;
        let mut verdict = None;
        for element in bounds {
            let element = (element - first) as usize;
            if elements.unknown[element / 64] >> (element % 64) & 1 == 1 {
                set(offset, None);
            } else {
                verdict = Some(verdict.unwrap_or(false) || elements.holds_at(element));
            }
        }
        if verdict.is_some() {
            set(offset, verdict);
        }
    }
    Ok(())
}

fn is_null(
    operand: &Operand,
    rows: &Rows<'_, '_>,
    skipped: &mut Skipped,
) -> Result<Truths, QueryError> {
    let mut found = Truths::all(rows.range.len(), Truth::True);
    let mut present = |index: usize| found.holds[index / 64] &= !(1 << (index % 64));
    match operand {
        Operand::EventName | Operand::Time => {
            return Ok(Truths::all(rows.range.len(), Truth::False));
        }
        Operand::Property(name) => {
            if let Some(column) = rows.columns.get(name)? {
                present_rows(&column, rows.range.clone(), &mut present);
            }
        }
        Operand::Trait(name) => {
            for (index, &low) in rows.lows.iter().enumerate() {
                if rows.traits.has(name, low) {
                    present(index);
                }
            }
        }
        Operand::Computed(computed) => {
            let failed = each_value(computed, rows, |index, value| {
                if value.iter().flat_map(Value::scalars).next().is_some() {
                    present(index);
                }
            })?;
            skipped.add(operand, failed);
        }
    }
    Ok(found)
}

fn present_rows(column: &ColumnView<'_>, range: Range<u32>, present: &mut impl FnMut(usize)) {
    for part in column
        .parts()
        .iter()
        .filter(|part| part.kind() != Kind::Null)
    {
        let mut found = Vec::new();
        part.fill_rows(part.indices(range.clone()), &mut found);
        found
            .into_iter()
            .for_each(|row| present((row - range.start) as usize));
    }
}
