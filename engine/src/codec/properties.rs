//! The directory of a run's properties: finding one among thousands without reading the others.
//!
//! The directory block is
//!
//! ```text
//! properties u32 | rows u32 | values in a block of numbers u32 | pages u32
//! reference of each page, 20 bytes
//! for each property, sorted by name: end of its name u32, page u32, offset u32, length u32
//! names, back to back
//! ```
//! A page is a block of descriptors of columns, one after the other (see `part`).

use super::part::{ColumnView, PartView};
use super::sink::{Origin, REF_BYTES, ref_at, u32_at};
use super::source::{Context, Determinant};
use crate::error::Corruption;
use crate::format::{BlockRef, Reader, Sealed};

pub(super) const ENTRY_BYTES: usize = 16;

/// The largest block of numbers that a reader takes: bounds what decompressing one allocates.
const MAX_BLOCK_VALUES: u32 = 1 << 20;

/// The properties of one run. Cheap to open and to copy: nothing but the directory is read
/// before a property is asked for.
#[derive(Clone, Copy, Debug)]
pub struct PropertiesView<'a> {
    origin: Origin<'a>,
    rows: u32,
    block_values: u32,
    pages: &'a [u8],
    entries: &'a [u8],
    names: &'a str,
}

impl<'a> PropertiesView<'a> {
    /// Opens the properties of a run of `rows` rows.
    ///
    /// # Errors
    /// Where the directory's bytes are not what was written, or it is that of another number of
    /// rows.
    pub fn open(sealed: &'a Sealed, directory: &BlockRef, rows: u32) -> Result<Self, Corruption> {
        let origin = Origin {
            sealed,
            page: *directory,
        };
        let wire = |error| origin.wire(error);
        let mut bytes = Reader::new(sealed.block(directory)?);
        let count = bytes.u32().map_err(wire)? as usize;
        let stored_rows = bytes.u32().map_err(wire)?;
        let block_values = bytes.u32().map_err(wire)?;
        let pages = bytes.u32().map_err(wire)? as usize;
        if stored_rows != rows {
            return Err(origin.corrupt("properties are those of another number of rows"));
        }
        if !(1..=MAX_BLOCK_VALUES).contains(&block_values) {
            return Err(origin.corrupt("blocks of numbers have an impossible size"));
        }
        let pages = bytes.raw(pages.saturating_mul(REF_BYTES)).map_err(wire)?;
        let entries = bytes.raw(count.saturating_mul(ENTRY_BYTES)).map_err(wire)?;
        let names = bytes.raw(bytes.remaining()).map_err(wire)?;
        let names = std::str::from_utf8(names)
            .map_err(|_| origin.corrupt("a property's name is not UTF-8"))?;
        let view = Self {
            origin,
            rows,
            block_values,
            pages,
            entries,
            names,
        };
        let mut start = 0;
        for index in 0..view.len() {
            let end = view.name_end(index);
            if names.get(start..end).is_none() {
                return Err(origin.corrupt("a property's name lies outside the directory"));
            }
            start = end;
        }
        Ok(view)
    }

    /// Number of rows of the run.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// Number of properties that have a value in this run.
    pub fn len(&self) -> usize {
        self.entries.len() / ENTRY_BYTES
    }

    /// True where no row has any property.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The names of all properties, sorted by their bytes.
    pub fn names(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let view = *self;
        (0..view.len()).map(move |index| view.name(index))
    }

    /// The values of the property `name`, if any row has one.
    ///
    /// Cost: a binary search, and the descriptor of this one property.
    ///
    /// # Errors
    /// Where the property's descriptor is damaged.
    pub fn get(&self, name: &str) -> Result<Option<ColumnView<'a>>, Corruption> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.name(middle) < name {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        if low == self.len() || self.name(low) != name {
            return Ok(None);
        }
        let (origin, bytes) = self.descriptor(low)?;
        let context = self.context(origin, true);
        ColumnView::open(&context, &mut Reader::new(bytes), self.rows).map(Some)
    }

    /// Values in a block of numbers.
    pub(super) fn block_values(&self) -> u32 {
        self.block_values
    }

    /// The codes that other parts depend on.
    pub(super) fn determinant(
        &self,
        property: u32,
        part: u8,
    ) -> Result<Determinant<'a>, Corruption> {
        let (origin, bytes) = self.descriptor(property as usize)?;
        let context = self.context(origin, false);
        PartView::open_one(&context, &mut Reader::new(bytes), self.rows, part)?
            .into_determinant()
            .ok_or_else(|| origin.corrupt("a part depends on one without a dictionary"))
    }

    fn context(&self, origin: Origin<'a>, may_depend: bool) -> Context<'a> {
        Context {
            origin,
            properties: *self,
            may_depend,
            in_list: false,
        }
    }

    fn name_end(&self, index: usize) -> usize {
        u32_at(self.entries, index * ENTRY_BYTES) as usize
    }

    fn name(&self, index: usize) -> &'a str {
        let start = index
            .checked_sub(1)
            .map_or(0, |before| self.name_end(before));
        self.names
            .get(start..self.name_end(index))
            .unwrap_or_default()
    }

    /// The bytes that describe a property's column, and the page they lie in.
    fn descriptor(&self, index: usize) -> Result<(Origin<'a>, &'a [u8]), Corruption> {
        let entry = self.entries.get(index * ENTRY_BYTES..).unwrap_or_default();
        let page = u32_at(entry, 4) as usize;
        let reference = self.pages.get(page.saturating_mul(REF_BYTES)..);
        let Some(reference) = reference.filter(|rest| rest.len() >= REF_BYTES) else {
            return Err(self.origin.corrupt("a property lies in no page"));
        };
        let origin = Origin {
            sealed: self.origin.sealed,
            page: ref_at(reference, 0),
        };
        let (start, len) = (u32_at(entry, 8) as usize, u32_at(entry, 12) as usize);
        let bytes = origin
            .sealed
            .block(&origin.page)?
            .get(start..start.saturating_add(len));
        let bytes = bytes.ok_or_else(|| origin.corrupt("a property lies outside its page"))?;
        Ok((origin, bytes))
    }
}
