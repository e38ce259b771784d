//! Where the numbers of a part come from: stored as they are, through a table of distinct
//! numbers, or determined by another part of the run.
//!
//! A source's descriptor is one byte for its kind, then
//! * `DIRECT`: a sequence of numbers;
//! * `TABLE`: how many distinct numbers (u32), the sequence of these, ascending, and the
//!   sequence of the index of each value among them;
//! * `DEPENDENT`: the determining part (property u32, part u8), whether its index is that of
//!   the value or the value's row (u8), least and greatest word, the sequence that maps the
//!   determinant's distinct values to this part's, and the exceptions: their indices as a set of
//!   rows, and the sequence of their values.
//!
//! A determinant is a part whose values have indices: dictionary-coded text or a table. It is
//! never dependent itself.

use std::cell::{Cell, OnceCell};
use std::ops::Range;

use super::numbers::Repr;
use super::numbers_read::{Numbers, OpenedBlocks};
use super::properties::PropertiesView;
use super::rows::RowSet;
use super::sink::Origin;
use crate::error::Corruption;
use crate::format::Reader;

pub(super) const DIRECT: u8 = 0;
pub(super) const TABLE: u8 = 1;
pub(super) const DEPENDENT: u8 = 2;

/// The determinant's value is the one at the same index.
pub(super) const BY_INDEX: u8 = 0;
/// The determinant has a value for every row, and it is the one of the value's row.
pub(super) const BY_ROW: u8 = 1;

/// Values that a dependent part puts together at a time: its scratch stays in the cache.
const CHUNK: u32 = 4_096;

/// What a part is read with.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) origin: Origin<'a>,
    pub(super) properties: PropertiesView<'a>,
    /// Whether the part may depend on another one.
    pub(super) may_depend: bool,
    /// Whether the part is one of a column of elements, which has no lists.
    pub(super) in_list: bool,
}

/// The numbers of a part.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every source is direct, and reads faster in place"
)]
pub(super) enum Source<'a> {
    Direct(Numbers<'a>),
    Table(Box<Table<'a>>),
    Dependent(Box<Dependent<'a>>),
}

#[derive(Debug)]
pub(super) struct Table<'a> {
    codes: Numbers<'a>,
    values: Lookup<'a>,
}

#[derive(Debug)]
pub(super) struct Dependent<'a> {
    codes: Numbers<'a>,
    by_row: Option<RowSet<'a>>,
    map: Lookup<'a>,
    exceptions: RowSet<'a>,
    values: Numbers<'a>,
    bounds: (u64, u64),
}

/// The indices of a part's values among its distinct ones.
pub(super) struct Determinant<'a> {
    pub(super) codes: Numbers<'a>,
    pub(super) distinct: u32,
    pub(super) presence: RowSet<'a>,
}

/// Numbers found by a code: in place, or unpacked as a whole once enough of them were asked for.
#[derive(Debug)]
struct Lookup<'a> {
    origin: Origin<'a>,
    stored: Numbers<'a>,
    blocks: OnceCell<OpenedBlocks<'a>>,
    unpacked: OnceCell<Vec<u64>>,
    asked: Cell<u32>,
}

impl<'a> Lookup<'a> {
    fn new(origin: Origin<'a>, stored: Numbers<'a>) -> Self {
        Self {
            origin,
            stored,
            blocks: OnceCell::new(),
            unpacked: OnceCell::new(),
            asked: Cell::new(0),
        }
    }

    /// Announces `lookups` of them.
    fn prepare(&self, lookups: u32) -> Result<(), Corruption> {
        let asked = self.asked.get().saturating_add(lookups);
        self.asked.set(asked);
        if self.unpacked.get().is_none() && asked > self.stored.count() / 8 {
            let mut words = Vec::new();
            self.stored.words(0..self.stored.count(), &mut words)?;
            self.unpacked.get_or_init(|| words);
        }
        Ok(())
    }

    /// Appends those of many codes, which were announced.
    fn words(&self, codes: &[u64], out: &mut Vec<u64>) -> Result<(), Corruption> {
        let greatest = codes.iter().copied().max().unwrap_or_default();
        if !codes.is_empty() && greatest >= u64::from(self.stored.count()) {
            return Err(self.beyond());
        }
        match self.unpacked.get() {
            Some(words) => out.extend(codes.iter().map(|&code| words[code as usize])),
            None => {
                for &code in codes {
                    out.push(self.in_place(code as u32)?);
                }
            }
        }
        Ok(())
    }

    #[inline]
    fn at(&self, code: u64) -> Result<u64, Corruption> {
        if let Some(words) = self.unpacked.get()
            && let Some(&word) = words.get(code as usize)
        {
            return Ok(word);
        }
        if code >= u64::from(self.stored.count()) {
            return Err(self.beyond());
        }
        self.prepare(1)?;
        self.in_place(code as u32)
    }

    #[inline]
    fn in_place(&self, code: u32) -> Result<u64, Corruption> {
        let blocks = self.blocks.get_or_init(|| self.stored.at_random());
        self.stored.at_from(blocks, code)
    }

    #[cold]
    fn beyond(&self) -> Corruption {
        self.origin.corrupt("a code is beyond its table")
    }
}

impl<'a> Source<'a> {
    /// Reads the descriptor of the numbers of a part with this presence.
    pub(super) fn open(
        context: &Context<'a>,
        bytes: &mut Reader<'a>,
        presence: &RowSet<'a>,
        repr: Repr,
    ) -> Result<Self, Corruption> {
        let origin = context.origin;
        let block_values = context.properties.block_values();
        let open = |bytes: &mut Reader<'a>, count, repr| {
            Numbers::open(origin, bytes, count, (repr, block_values))
        };
        match bytes.u8().map_err(|error| origin.wire(error))? {
            DIRECT => Ok(Self::Direct(open(bytes, presence.count(), repr)?)),
            TABLE => {
                let distinct = bytes.u32().map_err(|error| origin.wire(error))?;
                if distinct > presence.count() {
                    return Err(origin.corrupt("a table has more numbers than values"));
                }
                let values = Lookup::new(origin, open(bytes, distinct, repr)?);
                let codes = open(bytes, presence.count(), Repr::Int)?;
                Ok(Self::Table(Box::new(Table { codes, values })))
            }
            DEPENDENT if context.may_depend => {
                let dependent = Dependent::open(context, bytes, presence, repr)?;
                Ok(Self::Dependent(Box::new(dependent)))
            }
            _ => Err(origin.corrupt("the numbers of a part have no such source")),
        }
    }

    /// The word at `index`. Panics where it is out of range.
    #[inline]
    pub(super) fn at(&self, index: u32) -> Result<u64, Corruption> {
        match self {
            Self::Direct(numbers) => numbers.at(index),
            Self::Table(table) => table.values.at(table.codes.at(index)?),
            Self::Dependent(dependent) => dependent.at(index),
        }
    }

    /// Calls `each` with the words of a range. Panics where it is out of range.
    #[inline]
    pub(super) fn for_each(
        &self,
        indices: Range<u32>,
        mut each: impl FnMut(u64),
    ) -> Result<(), Corruption> {
        if let Self::Direct(numbers) = self {
            return numbers.for_each(indices, each);
        }
        let mut words = Vec::with_capacity(indices.len().min(CHUNK as usize));
        for chunk in chunks(indices) {
            words.clear();
            self.words(chunk, &mut words)?;
            words.iter().for_each(|&word| each(word));
        }
        Ok(())
    }

    /// Appends the words of a range. Panics where it is out of range.
    pub(super) fn words(&self, indices: Range<u32>, out: &mut Vec<u64>) -> Result<(), Corruption> {
        out.reserve(indices.len());
        match self {
            Self::Direct(numbers) => numbers.words(indices, out),
            Self::Table(table) => {
                table.values.prepare(indices.len() as u32)?;
                let mut codes = Vec::with_capacity(indices.len().min(CHUNK as usize));
                for chunk in chunks(indices) {
                    codes.clear();
                    table.codes.words(chunk, &mut codes)?;
                    table.values.words(&codes, out)?;
                }
                Ok(())
            }
            Self::Dependent(dependent) => dependent.words(indices, out),
        }
    }

    /// How many blocks with bounds of their own there are.
    pub(super) fn blocks(&self) -> u32 {
        match self {
            Self::Direct(numbers) => numbers.blocks(),
            Self::Table(table) => table.codes.blocks(),
            Self::Dependent(dependent) => u32::from(dependent.codes.count() > 0),
        }
    }

    /// The indices of a block's values, out of `count`.
    pub(super) fn block_indices(&self, block: u32, count: u32) -> Range<u32> {
        match self {
            Self::Direct(numbers) => numbers.block_indices(block),
            Self::Table(table) => table.codes.block_indices(block),
            Self::Dependent(_) => 0..count,
        }
    }

    /// Least and greatest word of all.
    pub(super) fn bounds(&self) -> (u64, u64) {
        match self {
            Self::Direct(numbers) => numbers.bounds(),
            Self::Table(table) => table.values.stored.bounds(),
            Self::Dependent(dependent) => dependent.bounds,
        }
    }

    /// Least and greatest word of a block.
    pub(super) fn block_bounds(&self, block: u32) -> Result<(u64, u64), Corruption> {
        match self {
            Self::Direct(numbers) => Ok(numbers.block_bounds(block)),
            Self::Table(table) => {
                let (least, greatest) = table.codes.block_bounds(block);
                Ok((table.values.at(least)?, table.values.at(greatest)?))
            }
            Self::Dependent(dependent) => Ok(dependent.bounds),
        }
    }

    /// The table of distinct numbers that the values are stored through, if they are.
    pub(super) fn table(&self) -> Option<&Table<'a>> {
        match self {
            Self::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The codes inside, where values have indices among `dictionary` distinct ones, or among
    /// those of a table.
    pub(super) fn into_codes(self, dictionary: Option<u32>) -> Option<(Numbers<'a>, u32)> {
        match (self, dictionary) {
            (Self::Direct(codes), Some(distinct)) => Some((codes, distinct)),
            (Self::Table(table), None) => Some((table.codes, table.values.stored.count())),
            _ => None,
        }
    }
}

impl Table<'_> {
    /// How many distinct numbers there are.
    pub(super) fn len(&self) -> u32 {
        self.values.stored.count()
    }

    /// Appends all distinct numbers, ascending.
    pub(super) fn values(&self, out: &mut Vec<u64>) -> Result<(), Corruption> {
        let stored = &self.values.stored;
        stored.words(0..stored.count(), out)
    }

    /// Appends the index of each value of a range among the distinct ones.
    pub(super) fn codes(&self, indices: Range<u32>, out: &mut Vec<u32>) -> Result<(), Corruption> {
        let (some, mut greatest) = (!indices.is_empty(), 0);
        out.reserve(indices.len());
        self.codes.for_each(indices, |code| {
            greatest = greatest.max(code);
            out.push(code as u32);
        })?;
        match some && greatest >= u64::from(self.values.stored.count()) {
            true => Err(self.values.beyond()),
            false => Ok(()),
        }
    }
}

/// A range in pieces of [`CHUNK`].
fn chunks(indices: Range<u32>) -> impl Iterator<Item = Range<u32>> {
    let end = indices.end;
    { indices.step_by(CHUNK as usize) }
        .map(move |start| start..start.saturating_add(CHUNK).min(end))
}

impl<'a> Dependent<'a> {
    fn open(
        context: &Context<'a>,
        bytes: &mut Reader<'a>,
        presence: &RowSet<'a>,
        repr: Repr,
    ) -> Result<Self, Corruption> {
        let origin = context.origin;
        let wire = |error| origin.wire(error);
        let (property, part) = (bytes.u32().map_err(wire)?, bytes.u8().map_err(wire)?);
        let by_row = bytes.u8().map_err(wire)?;
        let bounds = (bytes.u64().map_err(wire)?, bytes.u64().map_err(wire)?);
        let Determinant {
            codes,
            distinct,
            presence: determined_by,
        } = context.properties.determinant(property, part)?;
        let fits = match by_row {
            BY_INDEX => determined_by.count() == presence.count(),
            BY_ROW => determined_by.is_all() && determined_by.limit() == presence.limit(),
            _ => false,
        };
        if !fits {
            return Err(origin.corrupt("a part depends on one with other rows"));
        }
        let numbers = (repr, context.properties.block_values());
        let map = Numbers::open(origin, bytes, distinct, numbers)?;
        let exceptions = RowSet::open(origin, bytes, presence.count())?;
        let values = Numbers::open(origin, bytes, exceptions.count(), numbers)?;
        Ok(Self {
            codes,
            by_row: (by_row == BY_ROW && !presence.is_all()).then_some(*presence),
            map: Lookup::new(origin, map),
            exceptions,
            values,
            bounds,
        })
    }

    fn at(&self, index: u32) -> Result<u64, Corruption> {
        if let Some(exception) = self.exceptions.index_of(index) {
            return self.values.at(exception);
        }
        let determinant = match &self.by_row {
            Some(presence) => presence.row_of(index),
            None => index,
        };
        self.map.at(self.codes.at(determinant)?)
    }

    /// Appends the words of a range.
    fn words(&self, indices: Range<u32>, out: &mut Vec<u64>) -> Result<(), Corruption> {
        self.map.prepare(indices.len() as u32)?;
        let (mut codes, mut rows) = (Vec::new(), Vec::new());
        let (mut wrong, mut right) = (Vec::new(), Vec::new());
        for chunk in chunks(indices) {
            codes.clear();
            match &self.by_row {
                None => self.codes.words(chunk.clone(), &mut codes)?,
                Some(presence) => {
                    rows.clear();
                    presence.fill_rows(chunk.clone(), &mut rows);
                    self.codes_at(&rows, &mut codes)?;
                }
            }
            let first = out.len();
            self.map.words(&codes, out)?;
            wrong.clear();
            right.clear();
            let exceptions = self.exceptions.indices(chunk.clone());
            self.exceptions.fill_rows(exceptions.clone(), &mut wrong);
            self.values.words(exceptions, &mut right)?;
            for (index, &word) in wrong.iter().zip(&right) {
                let place = first + index.wrapping_sub(chunk.start) as usize;
                if let Some(mapped) = out.get_mut(place) {
                    *mapped = word;
                }
            }
        }
        Ok(())
    }

    /// Appends the determinant's codes at ascending rows.
    fn codes_at(&self, rows: &[u32], out: &mut Vec<u64>) -> Result<(), Corruption> {
        let (Some(&first), Some(&last)) = (rows.first(), rows.last()) else {
            return Ok(());
        };
        // Reading all rows between costs about a nanosecond each, one by itself about four.
        if (last.saturating_sub(first) as usize) < rows.len() * 4 {
            let mut between = Vec::new();
            self.codes.words(first..last + 1, &mut between)?;
            let at = |row: &u32| between.get(row.wrapping_sub(first) as usize).copied();
            out.extend(rows.iter().map(|row| at(row).unwrap_or_default()));
            return Ok(());
        }
        for &row in rows {
            out.push(self.codes.at(row)?);
        }
        Ok(())
    }
}
