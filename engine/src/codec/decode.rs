//! Views back into columns in memory: what merges and exports read.

use std::ops::Range;

use hashbrown::HashMap;

use super::part::{ColumnView, PartView, PlainText};
use crate::batch::{Column, Kind, ListColumn, Part, Presence, StringTable, TextColumn, Values};
use crate::error::Corruption;

/// Stands for a code that has not been met.
const NONE: u32 = u32::MAX;

impl ColumnView<'_> {
    /// The values of a range of rows as a column of its own, whose rows begin at 0; text gets a
    /// dictionary of just the values that occur.
    ///
    /// # Errors
    /// Where a block that holds them is damaged.
    pub fn decode(&self, rows: Range<u32>) -> Result<Column, Corruption> {
        assert!(
            rows.start <= rows.end && rows.end <= self.rows(),
            "the rows are within the column"
        );
        let mut parts = Vec::with_capacity(self.parts().len());
        for part in self.parts() {
            let indices = part.indices(rows.clone());
            if !indices.is_empty() {
                parts.push(Part {
                    presence: self.presence(part, &indices, &rows)?,
                    values: self.values(part, indices)?,
                });
            }
        }
        Ok(Column {
            rows: rows.end - rows.start,
            parts,
        })
    }

    fn presence(
        &self,
        part: &PartView<'_>,
        indices: &Range<u32>,
        rows: &Range<u32>,
    ) -> Result<Presence, Corruption> {
        if indices.len() == rows.len() {
            return Ok(Presence::All);
        }
        let mut present = Vec::with_capacity(indices.len());
        part.fill_rows(indices.clone(), &mut present);
        let within = present.first() >= Some(&rows.start) && present.last() < Some(&rows.end);
        if !within || !present.is_sorted_by(|a, b| a < b) {
            return Err(self.corrupt("the rows of a part are out of order"));
        }
        present.iter_mut().for_each(|row| *row -= rows.start);
        Ok(Presence::Rows(present))
    }

    fn values(&self, part: &PartView<'_>, indices: Range<u32>) -> Result<Values, Corruption> {
        Ok(match part.kind() {
            Kind::Null => Values::Null(indices.len() as u32),
            Kind::Bool => {
                let mut values = Vec::new();
                part.bools(indices, &mut values)?;
                Values::Bool(values)
            }
            Kind::I64 => Values::I64(ints(part, indices)?),
            Kind::Timestamp => Values::Timestamp(ints(part, indices)?),
            Kind::F64 => {
                let mut values = Vec::new();
                part.floats(indices, &mut values)?;
                Values::F64(values)
            }
            Kind::Text => Values::Text(match part.plain() {
                Some(text) => plain_text(text, indices)?,
                None => coded_text(part, indices)?,
            }),
            Kind::List => {
                let list = part.list();
                let list = list.ok_or_else(|| self.corrupt("a part of lists has none"))?;
                let mut ends = Vec::with_capacity(indices.len());
                let start = list.ends(indices, &mut ends)?;
                let end = ends.last().copied().unwrap_or(start);
                ends.iter_mut().for_each(|end| *end -= start);
                let elements = Box::new(list.elements().decode(start..end)?);
                Values::List(ListColumn { ends, elements })
            }
        })
    }
}

fn ints(part: &PartView<'_>, indices: Range<u32>) -> Result<Vec<i64>, Corruption> {
    let mut values = Vec::new();
    part.ints(indices, &mut values)?;
    Ok(values)
}

fn plain_text(text: &PlainText<'_>, indices: Range<u32>) -> Result<TextColumn, Corruption> {
    let mut values = StringTable::default();
    let mut codes = Vec::with_capacity(indices.len());
    text.for_each(indices, |_, text| codes.push(values.push(text)))?;
    Ok(TextColumn { codes, values })
}

fn coded_text(part: &PartView<'_>, indices: Range<u32>) -> Result<TextColumn, Corruption> {
    let mut values = StringTable::default();
    let mut codes = Vec::with_capacity(indices.len());
    let Some(text) = part.coded() else {
        return Ok(TextColumn { codes, values });
    };
    text.codes(indices, &mut codes)?;
    // A table over the whole dictionary, unless the range is small beside it.
    if codes.len() >= text.len() as usize / 8 {
        let mut new_codes = vec![NONE; text.len() as usize];
        for code in &mut codes {
            let slot = &mut new_codes[*code as usize];
            if *slot == NONE {
                *slot = values.push(text.value(*code)?);
            }
            *code = *slot;
        }
    } else {
        let mut new_codes: HashMap<u32, u32> = HashMap::new();
        for code in &mut codes {
            let known = new_codes.get(code).copied();
            let new = match known {
                Some(new) => new,
                None => {
                    let new = values.push(text.value(*code)?);
                    new_codes.insert(*code, new);
                    new
                }
            };
            *code = new;
        }
    }
    Ok(TextColumn { codes, values })
}
