//! Columns under construction from text: dictionary-coded texts, user ids, typed properties.

use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;

use pugmark_engine::batch::{Column, IdColumn, Part, Presence, TextColumn, Values};
use pugmark_engine::ids::canonical_integer;

use super::options::ColumnType;
use super::time::TimeReader;

/// Texts with equal ones stored once.
#[derive(Debug, Default)]
pub(crate) struct TextBuilder {
    column: TextColumn,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl TextBuilder {
    pub(crate) fn push(&mut self, text: &str) {
        let code = self.intern(text);
        self.column.codes.push(code);
    }

    fn intern(&mut self, text: &str) -> u32 {
        let values = &mut self.column.values;
        // Runs of one text are common: names of events, categories of a session.
        if let Some(&last) = self.column.codes.last()
            && values.get(last as usize) == text
        {
            return last;
        }
        let hash = self.hasher.hash_one(text);
        let found = self
            .index
            .find(hash, |&code| values.get(code as usize) == text);
        if let Some(&code) = found {
            return code;
        }
        let code = values.push(text);
        let hasher = &self.hasher;
        let values = &self.column.values;
        self.index.insert_unique(hash, code, |&code| {
            hasher.hash_one(values.get(code as usize))
        });
        code
    }

    pub(crate) fn byte_len(&self) -> usize {
        self.column.values.byte_len()
    }

    pub(crate) fn finish(self) -> TextColumn {
        self.column
    }
}

/// User ids: integers for as long as every one is.
#[derive(Debug)]
pub(crate) struct UserBuilder {
    integers: Vec<i64>,
    texts: Option<TextBuilder>,
}

impl UserBuilder {
    pub(crate) fn new(rows: usize) -> Self {
        Self {
            integers: Vec::with_capacity(rows),
            texts: None,
        }
    }

    pub(crate) fn push(&mut self, id: &str) {
        if let Some(texts) = &mut self.texts {
            return texts.push(id);
        }
        if let Some(integer) = canonical_integer(id) {
            return self.integers.push(integer);
        }
        let mut texts = TextBuilder::default();
        for integer in std::mem::take(&mut self.integers) {
            texts.push(&integer.to_string());
        }
        texts.push(id);
        self.texts = Some(texts);
    }

    pub(crate) fn finish(self) -> IdColumn {
        match self.texts {
            Some(texts) => IdColumn::Text(texts.finish()),
            None => IdColumn::Int(self.integers),
        }
    }
}

/// A property's values as one type; what is not of that type stays text.
#[derive(Debug)]
pub(crate) struct ColumnBuilder {
    rows: Vec<u32>,
    values: TypedValues,
    other_rows: Vec<u32>,
    others: TextBuilder,
}

#[derive(Debug)]
enum TypedValues {
    Bool(Vec<bool>),
    I64(Vec<i64>),
    F64(Vec<f64>),
    Timestamp(Vec<i64>),
    Text(TextBuilder),
}

impl ColumnBuilder {
    pub(crate) fn new(kind: ColumnType) -> Self {
        let values = match kind {
            ColumnType::Bool => TypedValues::Bool(Vec::new()),
            ColumnType::I64 => TypedValues::I64(Vec::new()),
            ColumnType::F64 => TypedValues::F64(Vec::new()),
            ColumnType::Timestamp => TypedValues::Timestamp(Vec::new()),
            ColumnType::Text => TypedValues::Text(TextBuilder::default()),
        };
        Self {
            rows: Vec::new(),
            values,
            other_rows: Vec::new(),
            others: TextBuilder::default(),
        }
    }

    /// Adds the value of `row`; false where it is not of the column's type and stays text.
    pub(crate) fn push(&mut self, row: u32, text: &str, times: &TimeReader) -> bool {
        let taken = match &mut self.values {
            TypedValues::Bool(values) => push_if(values, text.parse().ok()),
            TypedValues::I64(values) => push_if(values, text.parse().ok()),
            TypedValues::F64(values) => push_if(values, text.parse().ok()),
            TypedValues::Timestamp(values) => push_if(values, times.read(text)),
            TypedValues::Text(values) => {
                values.push(text);
                true
            }
        };
        if taken {
            self.rows.push(row);
        } else {
            self.other_rows.push(row);
            self.others.push(text);
        }
        taken
    }

    pub(crate) fn byte_len(&self) -> usize {
        let typed = match &self.values {
            TypedValues::Text(values) => values.byte_len(),
            _ => 0,
        };
        typed + self.others.byte_len()
    }

    /// The column over `rows` rows; `None` where no row has a value.
    pub(crate) fn finish(self, rows: u32) -> Option<Column> {
        let values = match self.values {
            TypedValues::Bool(values) => Values::Bool(values),
            TypedValues::I64(values) => Values::I64(values),
            TypedValues::F64(values) => Values::F64(values),
            TypedValues::Timestamp(values) => Values::Timestamp(values),
            TypedValues::Text(values) => Values::Text(values.finish()),
        };
        let others = Values::Text(self.others.finish());
        let parts: Vec<Part> = [(self.rows, values), (self.other_rows, others)]
            .into_iter()
            .filter(|(present, _)| !present.is_empty())
            .map(|(present, values)| part(present, values, rows))
            .collect();
        (!parts.is_empty()).then_some(Column { rows, parts })
    }
}

/// A part whose values belong to the rows `present` of `rows`.
pub(crate) fn part(present: Vec<u32>, values: Values, rows: u32) -> Part {
    let presence = match present.len() == rows as usize {
        true => Presence::All,
        false => Presence::Rows(present),
    };
    Part { presence, values }
}

fn push_if<T>(values: &mut Vec<T>, value: Option<T>) -> bool {
    match value {
        Some(value) => {
            values.push(value);
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::options::TimeUnit;
    use pugmark_engine::Value;

    #[test]
    fn texts_are_stored_once() {
        let mut builder = TextBuilder::default();
        for text in ["a", "b", "a", "a", "", "b"] {
            builder.push(text);
        }
        let column = builder.finish();
        assert_eq!(column.values.len(), 3);
        let texts: Vec<&str> = (0..6).map(|row| column.get(row)).collect();
        assert_eq!(texts, ["a", "b", "a", "a", "", "b"]);
    }

    #[test]
    fn ids_turn_to_text_where_one_is() {
        let build = |ids: &[&str]| {
            let mut builder = UserBuilder::new(0);
            ids.iter().for_each(|id| builder.push(id));
            builder.finish()
        };
        assert_eq!(build(&["1", "-2"]), IdColumn::Int(vec![1, -2]));
        let IdColumn::Text(texts) = build(&["1", "007", "1"]) else {
            panic!("text")
        };
        let texts: Vec<&str> = (0..3).map(|row| texts.get(row)).collect();
        assert_eq!(texts, ["1", "007", "1"]);
    }

    #[test]
    fn what_is_not_of_the_type_stays_text() {
        let times = TimeReader {
            unit: TimeUnit::Seconds,
            format: None,
        };
        let mut builder = ColumnBuilder::new(ColumnType::I64);
        assert!(builder.push(0, "5", &times));
        assert!(!builder.push(2, "x", &times));
        let column = builder.finish(3).unwrap();
        let values: Vec<Option<Value>> = (0..3).map(|row| column.value(row)).collect();
        assert_eq!(values, [Some(Value::I64(5)), None, Some(Value::from("x"))]);
        assert_eq!(ColumnBuilder::new(ColumnType::Text).finish(3), None);
    }
}
