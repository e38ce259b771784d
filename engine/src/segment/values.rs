//! One user bitmap for each value of a text property, where that is cheap.
//!
//! A property has bitmaps where it holds nothing but text (and explicit nulls), of at most 64
//! different values, and they take under 0.3 bytes a row: measured on shop events, more values
//! or more scattered ones cost as much as the rows themselves. Then `property = 'value'` is a
//! bitmap, exactly.
//!
//! ```text
//! directory   properties u32, then for each, sorted by name:
//!               name, values u32, then for each value, sorted:
//!                 text, users u32, offset in the area u64, length u32
//! ```
//! A length of 0 stands for the bitmap of the run: every user has the value in some row.

use hashbrown::HashMap;

use super::area::{Area, AreaWriter};
use super::writer::containers_of;
use crate::batch::{Column, Kind, Presence, Property, TextColumn, Values};
use crate::bitmap::BitmapBuilder;
use crate::format::{BlockRef, ImageWriter, Reader, WireError, Writer};
use crate::limits;

/// Most bytes of a property's bitmaps, in tenths of a byte a row.
const TENTHS_A_ROW: usize = 3;
/// After this many rows, bitmaps that cost twice too much are given up early.
const TRIAL_ROWS: usize = 1 << 16;
/// Bytes of a value's entry in the directory, its text aside.
const ENTRY_BYTES: usize = 4 + 4 + 8 + 4;

/// The users of a run, ascending, with their numbers of rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct UserRuns<'a> {
    pub(super) users: &'a [u32],
    pub(super) counts: &'a [u32],
}

/// A property with bitmaps, as the directory has it.
#[derive(Debug)]
pub(super) struct ValueEntry<'a> {
    pub(super) text: &'a str,
    pub(super) users: u32,
    pub(super) offset: u64,
    pub(super) len: u32,
}

/// Appends the bitmaps of the properties that have them, and their directory.
pub(super) fn write(
    image: &mut ImageWriter,
    properties: &[Property],
    users: UserRuns<'_>,
) -> (Option<BlockRef>, Area) {
    let mut area = AreaWriter::new(image);
    let mut directory = Writer::new();
    let mut found: Vec<(&str, Vec<(&str, BitmapBuilder)>)> = properties
        .iter()
        .filter_map(|property| Some((&*property.name, cheap_bitmaps(&property.column, users)?)))
        .collect();
    found.sort_unstable_by_key(|(name, _)| *name);
    directory.u32(found.len() as u32);
    let is_empty = found.is_empty();
    for (name, values) in found {
        directory.text(name);
        directory.u32(values.len() as u32);
        for (text, bitmap) in values {
            let cardinality = bitmap.cardinality();
            let offset = area.len();
            if cardinality < users.users.len() as u64 {
                area.extend(&bitmap.finish());
            }
            directory.text(text);
            directory.u32(cardinality as u32);
            directory.u64(offset);
            directory.u32((area.len() - offset) as u32);
        }
    }
    let area = area.finish();
    if is_empty {
        return (None, area);
    }
    (Some(image.block(&directory.finish())), area)
}

/// The bitmaps of a column's values, sorted by value, if it is to have them.
fn cheap_bitmaps<'a>(
    column: &'a Column,
    users: UserRuns<'_>,
) -> Option<Vec<(&'a str, BitmapBuilder)>> {
    let budget = column.rows as usize * TENTHS_A_ROW / 10;
    if budget < ENTRY_BYTES {
        return None;
    }
    bitmaps(column, users, budget)
}

/// The bitmaps of a column that holds text only, sorted by value; `None` where it holds anything
/// else, has too many values, or the bitmaps take more than `budget` bytes.
pub(super) fn bitmaps<'a>(
    column: &'a Column,
    users: UserRuns<'_>,
    budget: usize,
) -> Option<Vec<(&'a str, BitmapBuilder)>> {
    let only_text = |kind| matches!(kind, Kind::Text | Kind::Null);
    if !column
        .parts
        .iter()
        .all(|part| only_text(part.values.kind()))
    {
        return None;
    }
    let part = column.part(Kind::Text)?;
    let Values::Text(text) = &part.values else {
        return None;
    };
    let mut values = ValueBuilder::new(text);
    let (mut row, mut index) = (0u32, 0);
    for (key, range) in containers_of(users.users) {
        let range_end = range.end;
        for place in range {
            let end = row + users.counts[place];
            let next = match &part.presence {
                Presence::All => end as usize,
                Presence::Rows(rows) => {
                    let rest = &rows[index..];
                    index + rest.iter().take_while(|&&row| row < end).count()
                }
            };
            for &code in &text.codes[index..next] {
                values.add(users.users[place] as u16, code)?;
            }
            (row, index) = (end, next);
        }
        let cost = values.end_container(key, range_end);
        let trial = TENTHS_A_ROW * 2 * row as usize / 10;
        if cost > budget || row as usize > TRIAL_ROWS && cost > trial && budget < usize::MAX {
            return None;
        }
    }
    Some(values.finish())
}

/// Collects the users of each value while the rows come by.
struct ValueBuilder<'a> {
    text: &'a TextColumn,
    /// The value of each code; several codes may spell one.
    value_of: Vec<u8>,
    numbers: HashMap<&'a str, u8>,
    values: Vec<(&'a str, BitmapBuilder, Vec<u16>)>,
}

/// Stands for a code that was not met yet.
const UNMET: u8 = u8::MAX;
const _: () = assert!(limits::MAX_VALUE_BITMAPS < UNMET as usize);

impl<'a> ValueBuilder<'a> {
    fn new(text: &'a TextColumn) -> Self {
        Self {
            text,
            value_of: vec![UNMET; text.values.len()],
            numbers: HashMap::new(),
            values: Vec::new(),
        }
    }

    /// Adds a row of a user; `None` where there are too many values.
    fn add(&mut self, low: u16, code: u32) -> Option<()> {
        let mut number = self.value_of[code as usize];
        if number == UNMET {
            let text = self.text.values.get(code as usize);
            let next = self.values.len();
            number = *self.numbers.entry(text).or_insert(next as u8);
            if usize::from(number) == next {
                if next == limits::MAX_VALUE_BITMAPS {
                    return None;
                }
                self.values.push((text, BitmapBuilder::new(), Vec::new()));
            }
            self.value_of[code as usize] = number;
        }
        let lows = &mut self.values[usize::from(number)].2;
        if lows.last() != Some(&low) {
            lows.push(low);
        }
        Some(())
    }

    /// Ends the container `key`; returns the bytes that all values take so far, of `users` users.
    fn end_container(&mut self, key: u16, users: usize) -> usize {
        let mut cost = 0;
        for (text, bitmap, lows) in &mut self.values {
            bitmap.push(key, lows);
            lows.clear();
            cost += ENTRY_BYTES + text.len();
            if bitmap.cardinality() < users as u64 {
                cost += bitmap.byte_len();
            }
        }
        cost
    }

    fn finish(self) -> Vec<(&'a str, BitmapBuilder)> {
        let mut values: Vec<_> = self
            .values
            .into_iter()
            .map(|(text, bitmap, _)| (text, bitmap))
            .collect();
        values.sort_unstable_by_key(|(text, _)| *text);
        values
    }
}

/// Reads the names of the properties in a directory.
pub(super) fn property_names(directory: &[u8]) -> Result<Vec<&str>, WireError> {
    let mut names = Vec::new();
    walk(directory, |name, _| names.push(name))?;
    Ok(names)
}

/// Reads the values of the property `name` from a directory; `None` where it has no bitmaps.
pub(super) fn find<'a>(
    directory: &'a [u8],
    name: &str,
) -> Result<Option<Vec<ValueEntry<'a>>>, WireError> {
    let mut found = None;
    walk(directory, |one, values| {
        if one == name {
            found = Some(values);
        }
    })?;
    Ok(found)
}

fn walk<'a>(
    directory: &'a [u8],
    mut visit: impl FnMut(&'a str, Vec<ValueEntry<'a>>),
) -> Result<(), WireError> {
    let mut bytes = Reader::new(directory);
    let properties = bytes.count(8)?;
    let mut before = None;
    for _ in 0..properties {
        let name = bytes.text()?;
        if before.is_some_and(|before| before >= name) {
            return Err(bytes.error("properties with bitmaps are out of order"));
        }
        before = Some(name);
        let count = bytes.count(ENTRY_BYTES)?;
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            values.push(ValueEntry {
                text: bytes.text()?,
                users: bytes.u32()?,
                offset: bytes.u64()?,
                len: bytes.u32()?,
            });
        }
        if !values.is_sorted_by(|a, b| a.text < b.text) {
            return Err(bytes.error("values with bitmaps are out of order"));
        }
        visit(name, values);
    }
    bytes.finish()
}
