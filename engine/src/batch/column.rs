//! Columns in memory: typed parts of one property's values.

use crate::value::{Scalar, Value};

/// The values of one property over `rows` rows.
///
/// A column is a set of typed parts; a row has a value in at most one of them, and none where
/// the property is missing. So a property whose values are of several types loses nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Column {
    /// Number of rows that the column spans.
    pub rows: u32,
    /// The parts, at most one of each kind.
    pub parts: Vec<Part>,
}

/// The values of one type within a column.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Which rows have a value here.
    pub presence: Presence,
    /// Their values, one for each present row, in row order.
    pub values: Values,
}

/// Which rows of a column a part has values for.
#[derive(Clone, Debug, PartialEq)]
pub enum Presence {
    /// Every row.
    All,
    /// These rows, ascending.
    Rows(Vec<u32>),
}

/// Values of one type.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Explicit nulls (traits only), by their number.
    Null(u32),
    /// Booleans.
    Bool(Vec<bool>),
    /// Whole numbers.
    I64(Vec<i64>),
    /// Floating-point numbers.
    F64(Vec<f64>),
    /// Microseconds since 1970-01-01 UTC.
    Timestamp(Vec<i64>),
    /// Text, dictionary-coded.
    Text(TextColumn),
    /// Multi-valued.
    List(ListColumn),
}

/// The type of a part's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Explicit nulls.
    Null,
    /// Booleans.
    Bool,
    /// Whole numbers.
    I64,
    /// Floating-point numbers.
    F64,
    /// Microseconds since 1970-01-01 UTC.
    Timestamp,
    /// Text.
    Text,
    /// Lists of scalars.
    List,
}

/// Dictionary-coded text: `codes[row]` names an entry of `values`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TextColumn {
    /// For each row, the index of its text in `values`.
    pub codes: Vec<u32>,
    /// Texts; entries may be unused or repeated.
    pub values: StringTable,
}

/// Strings back to back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StringTable {
    /// End of each string in `bytes`.
    ends: Vec<u32>,
    text: String,
}

/// Lists of scalars: row `i` has the elements `ends[i-1]..ends[i]` of `elements`.
#[derive(Clone, Debug, PartialEq)]
pub struct ListColumn {
    /// End of each row's elements.
    pub ends: Vec<u32>,
    /// The elements of all rows; every element is present, none is a list.
    pub elements: Box<Column>,
}

impl StringTable {
    /// Adds a string and returns its index.
    pub fn push(&mut self, text: &str) -> u32 {
        self.text.push_str(text);
        assert!(
            u32::try_from(self.text.len()).is_ok(),
            "a string table holds under 4 GiB"
        );
        self.ends.push(self.text.len() as u32);
        (self.ends.len() - 1) as u32
    }

    /// Number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True where there is no string.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all strings together.
    pub fn byte_len(&self) -> usize {
        self.text.len()
    }

    /// The string at `index`. Panics where `index` is out of range, as slices do.
    pub fn get(&self, index: usize) -> &str {
        let start = if index == 0 {
            0
        } else {
            self.ends[index - 1] as usize
        };
        &self.text[start..self.ends[index] as usize]
    }

    /// All strings in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|index| self.get(index))
    }

    /// The table with these ends and bytes, if they spell whole UTF-8 strings.
    pub fn from_parts(ends: Vec<u32>, bytes: Vec<u8>) -> Option<Self> {
        let text = String::from_utf8(bytes).ok()?;
        let mut start = 0;
        for &end in &ends {
            text.get(start..end as usize)?;
            start = end as usize;
        }
        (start == text.len()).then_some(Self { ends, text })
    }

    /// The ends and bytes, as [`StringTable::from_parts`] takes them.
    pub fn parts(&self) -> (&[u32], &[u8]) {
        (&self.ends, self.text.as_bytes())
    }
}

impl ListColumn {
    /// The rows of `elements` that list `index` has.
    pub fn range(&self, index: usize) -> std::ops::Range<u32> {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        start..self.ends[index]
    }
}

impl TextColumn {
    /// The text of row `row`.
    pub fn get(&self, row: usize) -> &str {
        self.values.get(self.codes[row] as usize)
    }
}

impl Kind {
    /// Every kind, in the order in which parts are stored.
    pub const ALL: [Self; 7] = [
        Self::Null,
        Self::Bool,
        Self::I64,
        Self::F64,
        Self::Timestamp,
        Self::Text,
        Self::List,
    ];
}

impl Values {
    /// The type of these values.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Null(_) => Kind::Null,
            Self::Bool(_) => Kind::Bool,
            Self::I64(_) => Kind::I64,
            Self::F64(_) => Kind::F64,
            Self::Timestamp(_) => Kind::Timestamp,
            Self::Text(_) => Kind::Text,
            Self::List(_) => Kind::List,
        }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::Null(count) => *count as usize,
            Self::Bool(values) => values.len(),
            Self::I64(values) | Self::Timestamp(values) => values.len(),
            Self::F64(values) => values.len(),
            Self::Text(values) => values.codes.len(),
            Self::List(values) => values.ends.len(),
        }
    }

    /// True where there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value at `index`, owned.
    pub fn value(&self, index: usize) -> Value {
        match self {
            Self::Null(_) => Value::Null,
            Self::Bool(values) => Value::Bool(values[index]),
            Self::I64(values) => Value::I64(values[index]),
            Self::F64(values) => Value::F64(values[index]),
            Self::Timestamp(values) => Value::Timestamp(values[index]),
            Self::Text(values) => Value::Text(values.get(index).to_owned()),
            Self::List(list) => {
                let elements = list.range(index).map(|row| list.elements.value(row));
                Value::List(elements.flatten().collect())
            }
        }
    }

    /// The scalar at `index`, unless it is null or a list.
    pub fn scalar(&self, index: usize) -> Option<Scalar<'_>> {
        Some(match self {
            Self::Null(_) | Self::List(_) => return None,
            Self::Bool(values) => Scalar::Bool(values[index]),
            Self::I64(values) => Scalar::I64(values[index]),
            Self::F64(values) => Scalar::F64(values[index]),
            Self::Timestamp(values) => Scalar::Timestamp(values[index]),
            Self::Text(values) => Scalar::Text(values.get(index)),
        })
    }
}

impl Part {
    /// The index among this part's values of row `row`, if it is present.
    pub fn index_of(&self, row: u32) -> Option<usize> {
        match &self.presence {
            Presence::All => Some(row as usize),
            Presence::Rows(rows) => rows.binary_search(&row).ok(),
        }
    }
}

impl Column {
    /// The part of one kind, if the column has it.
    pub fn part(&self, kind: Kind) -> Option<&Part> {
        self.parts.iter().find(|part| part.values.kind() == kind)
    }

    /// The value of row `row`, if it has one.
    pub fn value(&self, row: u32) -> Option<Value> {
        self.parts
            .iter()
            .find_map(|part| Some(part.values.value(part.index_of(row)?)))
    }
}

impl TextColumn {
    /// The column with only the rows `rows`, in that order.
    pub(crate) fn pick(&self, rows: &[u32]) -> Self {
        let codes = rows.iter().map(|&row| self.codes[row as usize]).collect();
        Self {
            codes,
            values: self.values.clone(),
        }
    }

    /// Bytes that the column takes in the log.
    pub(crate) fn encoded_len(&self) -> usize {
        (self.codes.len() + self.values.len()) * 4 + self.values.byte_len() + 12
    }
}

impl Column {
    /// About the bytes that the column takes in the log.
    pub(crate) fn encoded_len(&self) -> usize {
        self.parts.iter().map(Part::encoded_len).sum()
    }
}

impl Part {
    fn encoded_len(&self) -> usize {
        let presence = match &self.presence {
            Presence::All => 1,
            Presence::Rows(rows) => rows.len() * 4 + 5,
        };
        let values = match &self.values {
            Values::Null(_) => 4,
            Values::Bool(values) => values.len(),
            Values::I64(values) | Values::Timestamp(values) => values.len() * 8,
            Values::F64(values) => values.len() * 8,
            Values::Text(text) => text.encoded_len(),
            Values::List(list) => list.ends.len() * 4 + 8 + list.elements.encoded_len(),
        };
        presence + values + 5
    }
}
