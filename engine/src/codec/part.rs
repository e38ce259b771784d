//! Columns and their parts, read in place.
//!
//! A column's descriptor is the number of its parts (a byte) and for each its kind (a byte), the
//! length of its descriptor (u32) and that descriptor: the rows that have a value (see `rows`),
//! then
//! * null: nothing;
//! * booleans (as 0 and 1), whole numbers, timestamps, floats: a source of numbers (`source`);
//! * text: `PLAIN` and a sequence of texts, one a value; or `CODED`, how many distinct texts
//!   (u32), the sequence of these sorted by their bytes, and the source of their codes;
//! * list: the number of all elements (u32), the sequence of the end of each list, and the
//!   descriptor of the column of elements.

use std::borrow::Cow;
use std::ops::Range;

use super::numbers::{Access, Repr};
use super::numbers_read::Numbers;
use super::rows::RowSet;
use super::sink::Origin;
use super::source::{Context, Determinant, Source, Table};
use super::strings::Strings;
use crate::batch::Kind;
use crate::error::Corruption;
use crate::format::Reader;
use crate::value::Value;

pub(super) const PLAIN: u8 = 0;
pub(super) const CODED: u8 = 1;

/// The values of one property in one run: typed parts, each with the rows that it has values
/// for. A row has a value in at most one part.
///
/// Views remember the blocks they last read, so each thread opens its own.
#[derive(Debug)]
pub struct ColumnView<'a> {
    rows: u32,
    parts: Vec<PartView<'a>>,
    origin: Origin<'a>,
}

/// The values of one type within a column: a presence, and one value for each present row.
/// A value is named by its index among the part's values, `0..len()`.
///
/// Methods that take an index or a range of them panic where it is out of range, as slices do,
/// and where the part holds another kind of values than they ask for.
#[derive(Debug)]
pub struct PartView<'a> {
    kind: Kind,
    presence: RowSet<'a>,
    data: Data<'a>,
}

#[derive(Debug)]
enum Data<'a> {
    Null,
    Numbers(Source<'a>),
    Coded(CodedText<'a>),
    Plain(PlainText<'a>),
    List(Box<ListView<'a>>),
}

/// Dictionary-coded text: each value is a code, an index into the sorted distinct texts, so codes
/// compare as their texts do.
#[derive(Debug)]
pub struct CodedText<'a> {
    origin: Origin<'a>,
    codes: Source<'a>,
    texts: Strings<'a>,
}

/// Text without a dictionary, for parts with few repeated values.
#[derive(Debug)]
pub struct PlainText<'a> {
    origin: Origin<'a>,
    texts: Strings<'a>,
}

/// Lists: each value is a range of rows of a column of elements.
#[derive(Debug)]
pub struct ListView<'a> {
    origin: Origin<'a>,
    ends: Numbers<'a>,
    elements: ColumnView<'a>,
}

/// Between which numbers the values of a part or block lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bounds {
    /// Nothing is known: lists and plain text.
    Unknown,
    /// No value compares with any number: nothing but NaN or null, or no value at all.
    Empty,
    /// Whole numbers, microseconds, booleans as 0 and 1, or codes of text; both ends included.
    Ints {
        /// The least.
        min: i64,
        /// The greatest.
        max: i64,
    },
    /// Floats, NaN left out; both ends included.
    Floats {
        /// The least.
        min: f64,
        /// The greatest.
        max: f64,
    },
}

pub(super) fn kind_byte(kind: Kind) -> u8 {
    match kind {
        Kind::Null => 0,
        Kind::Bool => 1,
        Kind::I64 => 2,
        Kind::F64 => 3,
        Kind::Timestamp => 4,
        Kind::Text => 5,
        Kind::List => 6,
    }
}

impl<'a> ColumnView<'a> {
    pub(super) fn open(
        context: &Context<'a>,
        bytes: &mut Reader<'a>,
        rows: u32,
    ) -> Result<Self, Corruption> {
        let count = bytes.u8().map_err(|error| context.origin.wire(error))?;
        let mut parts: Vec<PartView<'a>> = Vec::with_capacity(usize::from(count).min(8));
        for _ in 0..count {
            let (kind, mut body) = PartView::take(context, bytes)?;
            if parts.iter().any(|part| part.kind == kind) {
                return Err(context.origin.corrupt("a column has two parts of one kind"));
            }
            parts.push(PartView::open(context, kind, &mut body, rows)?);
        }
        Ok(Self {
            rows,
            parts,
            origin: context.origin,
        })
    }

    /// Number of rows that the column spans.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// The parts, one of each kind of values that occur.
    pub fn parts(&self) -> &[PartView<'a>] {
        &self.parts
    }

    /// The part of one kind, if there are such values.
    pub fn part(&self, kind: Kind) -> Option<&PartView<'a>> {
        self.parts.iter().find(|part| part.kind == kind)
    }

    /// The value of a row, owned, if it has one.
    ///
    /// # Errors
    /// Where a block that holds it is damaged.
    pub fn value(&self, row: u32) -> Result<Option<Value>, Corruption> {
        for part in &self.parts {
            if let Some(index) = part.index_of(row) {
                return part.value(index).map(Some);
            }
        }
        Ok(None)
    }

    pub(super) fn corrupt(&self, what: &'static str) -> Corruption {
        self.origin.corrupt(what)
    }
}

impl<'a> PartView<'a> {
    /// Takes the kind and the descriptor of the next part of a column.
    fn take(
        context: &Context<'a>,
        bytes: &mut Reader<'a>,
    ) -> Result<(Kind, Reader<'a>), Corruption> {
        let wire = |error| context.origin.wire(error);
        let kind = bytes.u8().map_err(wire)?;
        let kind = Kind::ALL
            .into_iter()
            .find(|known| kind_byte(*known) == kind);
        let body = bytes.bytes().map_err(wire)?;
        let kind = kind.ok_or_else(|| context.origin.corrupt("a part has no such kind"))?;
        Ok((kind, Reader::new(body)))
    }

    /// Opens the part number `part` of a column's descriptor alone.
    pub(super) fn open_one(
        context: &Context<'a>,
        bytes: &mut Reader<'a>,
        rows: u32,
        part: u8,
    ) -> Result<Self, Corruption> {
        let count = bytes.u8().map_err(|error| context.origin.wire(error))?;
        for _ in 0..part.min(count) {
            Self::take(context, bytes)?;
        }
        let (kind, mut body) = Self::take(context, bytes)?;
        Self::open(context, kind, &mut body, rows)
    }

    fn open(
        context: &Context<'a>,
        kind: Kind,
        bytes: &mut Reader<'a>,
        rows: u32,
    ) -> Result<Self, Corruption> {
        let presence = RowSet::open(context.origin, bytes, rows)?;
        let data = match kind {
            Kind::Null => Data::Null,
            Kind::F64 => Data::Numbers(Source::open(context, bytes, &presence, Repr::Float)?),
            Kind::Bool | Kind::I64 | Kind::Timestamp => {
                Data::Numbers(Source::open(context, bytes, &presence, Repr::Int)?)
            }
            Kind::Text => Self::open_text(context, bytes, &presence)?,
            Kind::List if context.in_list => {
                return Err(context.origin.corrupt("a list lies inside a list"));
            }
            Kind::List => Data::List(Box::new(ListView::open(context, bytes, presence.count())?)),
        };
        Ok(Self {
            kind,
            presence,
            data,
        })
    }

    fn open_text(
        context: &Context<'a>,
        bytes: &mut Reader<'a>,
        presence: &RowSet<'a>,
    ) -> Result<Data<'a>, Corruption> {
        let origin = context.origin;
        let wire = |error| origin.wire(error);
        match bytes.u8().map_err(wire)? {
            PLAIN => Ok(Data::Plain(PlainText {
                origin,
                texts: Strings::open(origin, bytes, presence.count(), Access::Scanned)?,
            })),
            CODED => {
                let distinct = bytes.u32().map_err(wire)?;
                if distinct > presence.count() {
                    return Err(origin.corrupt("a dictionary has more texts than values"));
                }
                Ok(Data::Coded(CodedText {
                    origin,
                    texts: Strings::open(origin, bytes, distinct, Access::Random)?,
                    codes: Source::open(context, bytes, presence, Repr::Int)?,
                }))
            }
            _ => Err(origin.corrupt("a text part has no such coding")),
        }
    }

    pub(super) fn into_determinant(self) -> Option<Determinant<'a>> {
        let (codes, distinct) = match self.data {
            Data::Numbers(source) => source.into_codes(None)?,
            Data::Coded(text) => text.codes.into_codes(Some(text.texts.count()))?,
            _ => return None,
        };
        Some(Determinant {
            codes,
            distinct,
            presence: self.presence,
        })
    }

    /// The type of the values.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Number of values, which is that of present rows.
    pub fn len(&self) -> u32 {
        self.presence.count()
    }

    /// True where no row has a value here.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True where every row has a value here: rows and indices are the same.
    pub fn is_all(&self) -> bool {
        self.presence.is_all()
    }

    /// The index of a row's value, if it has one here. Cost: logarithmic, constant if `is_all`.
    pub fn index_of(&self, row: u32) -> Option<u32> {
        self.presence.index_of(row)
    }

    /// The indices of the values of a range of rows.
    pub fn indices(&self, rows: Range<u32>) -> Range<u32> {
        self.presence.indices(rows)
    }

    /// The row of the value at `index`.
    pub fn row_of(&self, index: u32) -> u32 {
        self.presence.row_of(index)
    }

    /// Appends the rows of a range of values, ascending.
    pub fn fill_rows(&self, indices: Range<u32>, out: &mut Vec<u32>) {
        self.presence.fill_rows(indices, out);
    }

    /// Between which numbers all values lie. Cost: nothing is read.
    pub fn bounds(&self) -> Bounds {
        match &self.data {
            Data::Null => Bounds::Empty,
            _ if self.is_empty() => Bounds::Empty,
            Data::Numbers(source) => self.bounds_of(source.bounds()),
            Data::Coded(text) => self.bounds_of(text.codes.bounds()),
            Data::Plain(_) | Data::List(_) => Bounds::Unknown,
        }
    }

    fn source(&self) -> Option<&Source<'a>> {
        match &self.data {
            Data::Numbers(source) => Some(source),
            Data::Coded(text) => Some(&text.codes),
            _ => None,
        }
    }

    /// How many blocks with bounds of their own the values lie in; at least 1 unless empty.
    pub fn blocks(&self) -> u32 {
        let blocks = self.source().map(Source::blocks);
        blocks.unwrap_or(u32::from(!self.is_empty()))
    }

    /// The indices of the values in a block.
    pub fn block_indices(&self, block: u32) -> Range<u32> {
        let indices = self
            .source()
            .map(|source| source.block_indices(block, self.len()));
        indices.unwrap_or(0..self.len())
    }

    /// Between which numbers the values of a block lie; wider than they do, or the part's, where
    /// that is all that is known. Cost: no block of values is read.
    ///
    /// # Errors
    /// Where the table that bounds are looked up in is damaged.
    pub fn block_bounds(&self, block: u32) -> Result<Bounds, Corruption> {
        match self.source() {
            Some(source) if block < source.blocks() => {
                Ok(self.bounds_of(source.block_bounds(block)?))
            }
            _ => Ok(self.bounds()),
        }
    }

    fn bounds_of(&self, (least, greatest): (u64, u64)) -> Bounds {
        if self.kind != Kind::F64 {
            return Bounds::Ints {
                min: least as i64,
                max: greatest as i64,
            };
        }
        let (min, max) = (f64::from_bits(least), f64::from_bits(greatest));
        if min <= max {
            Bounds::Floats { min, max }
        } else {
            Bounds::Empty
        }
    }

    fn numbers(&self) -> &Source<'a> {
        match &self.data {
            Data::Numbers(source) => source,
            _ => panic!("numbers are asked of a part of {:?}", self.kind),
        }
    }

    /// Appends whole numbers, microseconds, or booleans as 0 and 1.
    ///
    /// # Errors
    /// Where a block that holds them is damaged.
    pub fn ints(&self, indices: Range<u32>, out: &mut Vec<i64>) -> Result<(), Corruption> {
        assert!(self.kind != Kind::F64, "whole numbers are asked of floats");
        let mut words = bytemuck::cast_vec(std::mem::take(out));
        let read = self.numbers().words(indices, &mut words);
        *out = bytemuck::cast_vec(words);
        read
    }

    /// One of what [`PartView::ints`] gives. Cost: some nanoseconds.
    ///
    /// # Errors
    /// Where the block that holds it is damaged.
    pub fn int_at(&self, index: u32) -> Result<i64, Corruption> {
        assert!(self.kind != Kind::F64, "whole numbers are asked of floats");
        Ok(self.numbers().at(index)? as i64)
    }

    /// Appends floats, or whole numbers widened to floats.
    ///
    /// # Errors
    /// Where a block that holds them is damaged.
    pub fn floats(&self, indices: Range<u32>, out: &mut Vec<f64>) -> Result<(), Corruption> {
        if self.kind == Kind::F64 {
            let mut words = bytemuck::cast_vec(std::mem::take(out));
            let read = self.numbers().words(indices, &mut words);
            *out = bytemuck::cast_vec(words);
            return read;
        }
        out.reserve(indices.len());
        self.numbers()
            .for_each(indices, |word| out.push(word as i64 as f64))
    }

    /// One of what [`PartView::floats`] gives. Cost: some nanoseconds.
    ///
    /// # Errors
    /// Where the block that holds it is damaged.
    pub fn float_at(&self, index: u32) -> Result<f64, Corruption> {
        let word = self.numbers().at(index)?;
        Ok(match self.kind {
            Kind::F64 => f64::from_bits(word),
            _ => word as i64 as f64,
        })
    }

    /// Appends booleans.
    ///
    /// # Errors
    /// Where a block that holds them is damaged.
    pub fn bools(&self, indices: Range<u32>, out: &mut Vec<bool>) -> Result<(), Corruption> {
        assert!(self.kind == Kind::Bool, "booleans are asked of numbers");
        out.reserve(indices.len());
        self.numbers().for_each(indices, |word| out.push(word != 0))
    }

    /// One of what [`PartView::bools`] gives. Cost: some nanoseconds.
    ///
    /// # Errors
    /// Where the block that holds it is damaged.
    pub fn bool_at(&self, index: u32) -> Result<bool, Corruption> {
        assert!(self.kind == Kind::Bool, "booleans are asked of numbers");
        Ok(self.numbers().at(index)? != 0)
    }

    /// The values as codes, where this is text with a dictionary.
    pub fn coded(&self) -> Option<&CodedText<'a>> {
        match &self.data {
            Data::Coded(text) => Some(text),
            _ => None,
        }
    }

    /// How many distinct whole numbers there are, where the values are stored as indices among them.
    pub fn table_len(&self) -> Option<u32> {
        self.int_table().map(Table::len)
    }

    /// The distinct whole numbers, ascending. Panics where [`PartView::table_len`] tells none. Cost: each is
    /// unpacked, in about a nanosecond.
    ///
    /// # Errors
    /// Where a block that holds them is damaged.
    pub fn table(&self) -> Result<Vec<i64>, Corruption> {
        let table = self.asked_table();
        let mut words = Vec::with_capacity(table.len() as usize);
        table.values(&mut words)?;
        Ok(bytemuck::cast_vec(words))
    }

    /// Appends the indices of values among those of [`PartView::table`], all of them within it. Panics where
    /// there is none.
    ///
    /// # Errors
    /// Where a block that holds them is damaged.
    pub fn table_codes(&self, indices: Range<u32>, out: &mut Vec<u32>) -> Result<(), Corruption> {
        let table = self.asked_table();
        table.codes(indices, out)
    }

    fn asked_table(&self) -> &Table<'a> {
        match self.int_table() {
            Some(table) => table,
            None => panic!("a table is asked of a part without one"),
        }
    }

    fn int_table(&self) -> Option<&Table<'a>> {
        match &self.data {
            Data::Numbers(source) if self.kind != Kind::F64 => source.table(),
            _ => None,
        }
    }

    /// The values as they are, where this is text without a dictionary.
    pub fn plain(&self) -> Option<&PlainText<'a>> {
        match &self.data {
            Data::Plain(text) => Some(text),
            _ => None,
        }
    }

    /// The text at `index`, coded or plain.
    ///
    /// # Errors
    /// Where a block that holds it is damaged.
    pub fn text_at(&self, index: u32) -> Result<Cow<'_, str>, Corruption> {
        match &self.data {
            Data::Coded(text) => text.value(text.code_at(index)?).map(Cow::Borrowed),
            Data::Plain(text) => {
                let (block, offset) = text.texts.block_of(index)?;
                let found = block.lend(offset);
                found.ok_or_else(|| text.origin.corrupt("a text lies outside its block"))
            }
            _ => panic!("text is asked of a part of {:?}", self.kind),
        }
    }

    /// The lists, where these are the values.
    pub fn list(&self) -> Option<&ListView<'a>> {
        match &self.data {
            Data::List(list) => Some(list),
            _ => None,
        }
    }

    /// The value at `index`, owned.
    ///
    /// # Errors
    /// Where a block that holds it is damaged.
    pub fn value(&self, index: u32) -> Result<Value, Corruption> {
        Ok(match self.kind {
            Kind::Null => Value::Null,
            Kind::Bool => Value::Bool(self.bool_at(index)?),
            Kind::I64 => Value::I64(self.int_at(index)?),
            Kind::Timestamp => Value::Timestamp(self.int_at(index)?),
            Kind::F64 => Value::F64(self.float_at(index)?),
            Kind::Text => Value::Text(self.text_at(index)?.into_owned()),
            Kind::List => {
                let Some(list) = self.list() else {
                    return Ok(Value::Null);
                };
                let mut elements = Vec::new();
                for row in list.bounds(index)? {
                    elements.extend(list.elements.value(row)?);
                }
                Value::List(elements)
            }
        })
    }
}

impl<'a> CodedText<'a> {
    /// How many distinct texts there are; every code is below this.
    pub fn len(&self) -> u32 {
        self.texts.count()
    }

    /// True where there is no text at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends the codes of the values in a range of indices.
    ///
    /// # Errors
    /// Where a block that holds them is damaged.
    pub fn codes(&self, indices: Range<u32>, out: &mut Vec<u32>) -> Result<(), Corruption> {
        let first = out.len();
        out.reserve(indices.len());
        self.codes.for_each(indices, |word| out.push(word as u32))?;
        let greatest = out[first..].iter().copied().max();
        if greatest.is_some_and(|greatest| greatest >= self.len()) {
            return Err(self.origin.corrupt("a code is beyond its dictionary"));
        }
        Ok(())
    }

    /// The code of the value at `index`. Cost: some nanoseconds.
    ///
    /// # Errors
    /// Where the block that holds it is damaged.
    pub fn code_at(&self, index: u32) -> Result<u32, Corruption> {
        let code = self.codes.at(index)? as u32;
        if code >= self.len() {
            return Err(self.origin.corrupt("a code is beyond its dictionary"));
        }
        Ok(code)
    }

    /// The text of a code. Cost: some nanoseconds; the first of a block also decompresses it.
    ///
    /// # Errors
    /// Where the code is out of range, or the block that holds the text is damaged.
    pub fn value(&self, code: u32) -> Result<&str, Corruption> {
        self.texts.get(code)
    }

    /// The code of a text, if any value is this text. Cost: a binary search.
    ///
    /// # Errors
    /// Where a block of texts is damaged.
    pub fn code_of(&self, text: &str) -> Result<Option<u32>, Corruption> {
        let code = self.lower_bound(text)?;
        Ok((code < self.len() && self.value(code)? == text).then_some(code))
    }

    /// How many distinct texts are less than `text`, which is the first code that is not: turns
    /// comparisons of texts into comparisons of codes.
    ///
    /// # Errors
    /// Where a block of texts is damaged.
    pub fn lower_bound(&self, text: &str) -> Result<u32, Corruption> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.value(middle)? < text {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}

impl PlainText<'_> {
    /// Calls `each` with the index and text of the values in a range; each block is decompressed
    /// once.
    ///
    /// # Errors
    /// Where a block that holds them is damaged; some values were given by then.
    pub fn for_each(
        &self,
        indices: Range<u32>,
        each: impl FnMut(u32, &str),
    ) -> Result<(), Corruption> {
        self.texts.for_each(indices, each)
    }
}

impl<'a> ListView<'a> {
    fn open(context: &Context<'a>, bytes: &mut Reader<'a>, count: u32) -> Result<Self, Corruption> {
        let origin = context.origin;
        let rows = bytes.u32().map_err(|error| origin.wire(error))?;
        let block_values = context.properties.block_values();
        let ends = Numbers::open(origin, bytes, count, (Repr::Int, block_values))?;
        let context = Context {
            may_depend: false,
            in_list: true,
            ..*context
        };
        let elements = ColumnView::open(&context, bytes, rows)?;
        Ok(Self {
            origin,
            ends,
            elements,
        })
    }

    /// The rows of [`ListView::elements`] that the list at `index` has.
    ///
    /// # Errors
    /// Where the block that holds its bounds is damaged.
    pub fn bounds(&self, index: u32) -> Result<Range<u32>, Corruption> {
        let start = match index.checked_sub(1) {
            Some(before) => self.ends.at(before)?,
            None => 0,
        };
        self.checked(start, self.ends.at(index)?)
    }

    /// Appends the end of each list in a range of indices, and tells where the first begins.
    ///
    /// # Errors
    /// Where a block that holds them is damaged.
    pub fn ends(&self, indices: Range<u32>, out: &mut Vec<u32>) -> Result<u32, Corruption> {
        let start = match indices.start.checked_sub(1) {
            Some(before) => self.ends.at(before)?,
            None => 0,
        };
        let (mut last, mut sound) = (start, true);
        self.ends.for_each(indices, |end| {
            sound &= last <= end;
            last = end;
            out.push(end as u32);
        })?;
        if !sound {
            return Err(self.origin.corrupt("lists end out of order"));
        }
        Ok(self.checked(start, last)?.start)
    }

    fn checked(&self, start: u64, end: u64) -> Result<Range<u32>, Corruption> {
        if start > end || end > u64::from(self.elements.rows) {
            return Err(self.origin.corrupt("a list lies outside its elements"));
        }
        Ok(start as u32..end as u32)
    }

    /// The elements of all lists, back to back; each has a value.
    pub fn elements(&self) -> &ColumnView<'a> {
        &self.elements
    }
}
