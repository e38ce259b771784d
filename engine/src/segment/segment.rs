//! An open segment.

use std::path::Path;
use std::sync::OnceLock;

use bytes::Bytes;

use super::hours::HourTable;
use super::kept::Kept;
use super::layout::{Footer, RunEntry, RunIndex};
use super::order::OrderIndex;
use super::run::NameRun;
use super::{Partition, SegmentMeta};
use crate::bitmap::{BitmapView, Words};
use crate::error::Corruption;
use crate::format::Sealed;

/// A segment, in memory or mapped. Opening reads its footer only; everything else is verified
/// and decoded when first touched.
#[derive(Debug)]
pub struct Segment {
    pub(super) sealed: Sealed,
    pub(super) footer: Footer,
    indexes: Box<[OnceLock<Box<RunIndex>>]>,
    order: OnceLock<Box<OrderIndex>>,
    pub(super) kept_spans: Kept<Words>,
    pub(super) kept_hours: Kept<HourTable>,
}

impl Segment {
    /// Opens the segment in `bytes`; `file` names it in errors.
    ///
    /// Bytes that are not aligned to 8 are copied; mapped files always are aligned.
    ///
    /// # Errors
    /// Where header, trailer or footer are not those of a segment, or contradict themselves.
    pub fn open(bytes: Bytes, file: &Path) -> Result<Self, Corruption> {
        let bytes = align(bytes);
        let (footer, blocks) = Footer::open(&bytes, file)?;
        let indexes = footer.runs.iter().map(|_| OnceLock::new()).collect();
        Ok(Self {
            sealed: Sealed::new(bytes, file, blocks),
            footer,
            indexes,
            order: OnceLock::new(),
            kept_spans: Kept::default(),
            kept_hours: Kept::default(),
        })
    }

    /// The same segment, read from other bytes of the same file from now on.
    pub(crate) fn mapped_as(mut self, bytes: Bytes) -> Self {
        self.sealed = self.sealed.read_from(align(bytes));
        self
    }

    /// What the segment holds.
    pub fn meta(&self) -> &SegmentMeta {
        &self.footer.meta
    }

    /// The file's name, for errors.
    pub fn file(&self) -> &Path {
        self.sealed.file()
    }

    /// Length of the file in bytes.
    pub fn byte_len(&self) -> usize {
        self.sealed.bytes().len()
    }

    /// The users that have rows in any run.
    ///
    /// # Errors
    /// Where the bitmap is damaged.
    pub fn any_users(&self) -> Result<BitmapView<'_>, Corruption> {
        let block = &self.footer.users;
        BitmapView::open(self.sealed.block(block)?)
            .map_err(|error| self.sealed.corrupt(block, error))
    }

    /// The runs that belong to one name each, sorted by name; the overflow run is not among them.
    pub fn runs(&self) -> impl ExactSizeIterator<Item = NameRun<'_>> {
        (0..self.own_runs()).map(|index| NameRun::new(self, index))
    }

    /// All runs: those of one name each, and the overflow run last.
    pub fn all_runs(&self) -> impl ExactSizeIterator<Item = NameRun<'_>> {
        (0..self.footer.runs.len()).map(|index| NameRun::new(self, index))
    }

    /// The run of its own that the name has. Rows of the name may be in the overflow run
    /// instead, where there is one.
    pub fn run(&self, name: &str) -> Option<NameRun<'_>> {
        let own = self.footer.runs.get(..self.own_runs())?;
        let index = own.binary_search_by(|run| (*run.name).cmp(name)).ok()?;
        Some(NameRun::new(self, index))
    }

    /// The run that the rarest names share, if there are too many names.
    pub fn overflow(&self) -> Option<NameRun<'_>> {
        let index = self.own_runs();
        self.footer.has_overflow.then(|| NameRun::new(self, index))
    }

    /// True where runs have bitmaps of days.
    pub(super) fn has_days(&self) -> bool {
        self.footer.meta.partition != Partition::Traits
    }

    fn own_runs(&self) -> usize {
        self.footer.runs.len() - usize::from(self.footer.has_overflow)
    }

    pub(super) fn entry(&self, run: usize) -> &RunEntry {
        &self.footer.runs[run]
    }

    /// The index of a run, decoded on the first call.
    pub(super) fn index(&self, run: usize) -> Result<&RunIndex, Corruption> {
        let cell = &self.indexes[run];
        if let Some(index) = cell.get() {
            return Ok(index);
        }
        let index = RunIndex::open(&self.sealed, self.entry(run))?;
        Ok(cell.get_or_init(|| Box::new(index)))
    }

    /// The index of the order of all rows, decoded on the first call.
    pub(super) fn order_index(&self) -> Result<&OrderIndex, Corruption> {
        if let Some(index) = self.order.get() {
            return Ok(index);
        }
        let (block, users) = (&self.footer.order, self.any_users()?);
        let of = (self.footer.meta.rows, self.footer.runs.len());
        let index = OrderIndex::open(self.sealed.block(block)?, users, of)
            .map_err(|error| self.sealed.corrupt(block, error))?;
        Ok(self.order.get_or_init(|| Box::new(index)))
    }
}

/// Bytes that own aligned memory.
struct Aligned {
    words: Vec<u64>,
    len: usize,
}

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.len]
    }
}

/// The same bytes at an address that 8 divides, so that columns can be read in place.
fn align(bytes: Bytes) -> Bytes {
    if bytes.as_ptr().align_offset(8) == 0 {
        return bytes;
    }
    let len = bytes.len();
    let mut words = vec![0u64; len.div_ceil(8)];
    bytemuck::cast_slice_mut(&mut words)[..len].copy_from_slice(&bytes);
    Bytes::from_owner(Aligned { words, len })
}
