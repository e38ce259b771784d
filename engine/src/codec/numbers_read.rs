//! Sequences of numbers, read in place: any index at once, ranges block by block.

use std::cell::{OnceCell, RefCell};
use std::ops::Range;
use std::rc::Rc;

use super::bits;
use super::numbers::{
    BLOCKS, CONSTANT, EMPTY, ENTRY_BYTES, FLAG_DIVISOR, FLAG_ZSTD, FORM_CONSTANT, FORM_DECIMAL,
    FORM_MASK, FORM_PACKED, FORM_RAW, INLINE, MAX_EXPONENT, POWERS, Repr, decimal,
};
use super::sink::{Origin, decompress, ref_at, u64_at};
use crate::error::Corruption;
use crate::format::Reader;

/// A sequence of numbers in a sealed file. Remembers the block it last read.
#[derive(Debug)]
pub(super) struct Numbers<'a> {
    origin: Origin<'a>,
    repr: Repr,
    count: u32,
    block_values: u32,
    layout: Layout<'a>,
    last: RefCell<Option<(u32, Open<'a>)>>,
}

#[derive(Debug)]
enum Layout<'a> {
    Constant(u64),
    Inline(Open<'a>, Head),
    Blocks { entries: &'a [u8], head: Head },
}

/// What is known of a block, or of all, without its payload.
#[derive(Clone, Copy, Debug)]
struct Head {
    form: u8,
    width: u8,
    exponent: u8,
    least: u64,
    greatest: u64,
}

/// The blocks of a sequence that is read at random, each opened when it is first met.
#[derive(Debug)]
pub(super) struct OpenedBlocks<'a> {
    blocks: Vec<OnceCell<Open<'a>>>,
    /// Numbers in each but the last, and their logarithm where they are a power of two.
    size: u32,
    shift: Option<u32>,
}

/// A block ready to be read: checked, decompressed, its divisor taken off.
#[derive(Clone, Debug)]
struct Open<'a> {
    payload: Payload<'a>,
    form: u8,
    width: u8,
    /// What the packed numbers count from.
    base: u64,
    divisor: u64,
    scale: f64,
}

#[derive(Clone, Debug)]
enum Payload<'a> {
    Stored(&'a [u8]),
    /// Decompressed; the divisor is still in front.
    Unfolded(Rc<[u8]>, usize),
}

impl<'a> Numbers<'a> {
    /// Reads the descriptor of `count` numbers.
    pub(super) fn open(
        origin: Origin<'a>,
        bytes: &mut Reader<'a>,
        count: u32,
        (repr, block_values): (Repr, u32),
    ) -> Result<Self, Corruption> {
        let wire = |error| origin.wire(error);
        let layout = match bytes.u8().map_err(wire)? {
            EMPTY if count == 0 => Layout::Constant(0),
            CONSTANT if count > 0 => Layout::Constant(bytes.u64().map_err(wire)?),
            INLINE if (1..=block_values).contains(&count) => {
                let head = Head::read(bytes).map_err(wire)?;
                let len = head.payload_len(count);
                let payload = Payload::Stored(bytes.raw(len).map_err(wire)?);
                if head.form & FLAG_ZSTD != 0 {
                    return Err(origin.corrupt("numbers in a descriptor are compressed"));
                }
                let open = Open::new(&head, payload, (repr, count));
                Layout::Inline(open.map_err(|what| origin.corrupt(what))?, head)
            }
            BLOCKS if count > 0 => {
                let (least, greatest) = (bytes.u64().map_err(wire)?, bytes.u64().map_err(wire)?);
                let len = count.div_ceil(block_values) as usize * ENTRY_BYTES;
                let entries = bytes.raw(len).map_err(wire)?;
                let head = Head::bounds(least, greatest);
                Layout::Blocks { entries, head }
            }
            _ => return Err(origin.corrupt("a sequence of numbers has no such layout")),
        };
        Ok(Self {
            origin,
            repr,
            count,
            block_values,
            layout,
            last: RefCell::new(None),
        })
    }

    /// How many numbers there are.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// How many blocks they are in.
    pub(super) fn blocks(&self) -> u32 {
        self.count.div_ceil(self.block_values)
    }

    /// The indices of a block's numbers.
    pub(super) fn block_indices(&self, block: u32) -> Range<u32> {
        let start = block.saturating_mul(self.block_values).min(self.count);
        start..start.saturating_add(self.block_values).min(self.count)
    }

    /// Least and greatest word of all.
    pub(super) fn bounds(&self) -> (u64, u64) {
        match &self.layout {
            Layout::Constant(word) => (*word, *word),
            Layout::Inline(_, head) | Layout::Blocks { head, .. } => (head.least, head.greatest),
        }
    }

    /// Least and greatest word of a block.
    pub(super) fn block_bounds(&self, block: u32) -> (u64, u64) {
        match &self.layout {
            Layout::Blocks { entries, .. } => {
                let at = block as usize * ENTRY_BYTES;
                (u64_at(entries, at), u64_at(entries, at + 8))
            }
            _ => self.bounds(),
        }
    }

    /// The word at `index`. Panics where it is out of range.
    #[inline]
    pub(super) fn at(&self, index: u32) -> Result<u64, Corruption> {
        assert!(index < self.count, "the index is within the part");
        match &self.layout {
            Layout::Constant(word) => Ok(*word),
            Layout::Inline(open, _) => Ok(open.at(index as usize)),
            Layout::Blocks { .. } => {
                let (block, offset) = (index / self.block_values, index % self.block_values);
                if let Some((last, open)) = &*self.last.borrow()
                    && *last == block
                {
                    return Ok(open.at(offset as usize));
                }
                Ok(self.open_block(block)?.at(offset as usize))
            }
        }
    }

    /// Calls `each` with the words of a range. Panics where it is out of range.
    #[inline]
    pub(super) fn for_each(
        &self,
        indices: Range<u32>,
        mut each: impl FnMut(u64),
    ) -> Result<(), Corruption> {
        assert!(indices.end <= self.count, "the indices are within the part");
        match &self.layout {
            Layout::Constant(word) => indices.for_each(|_| each(*word)),
            Layout::Inline(open, _) => open.for_each(indices, &mut each),
            Layout::Blocks { .. } => {
                let mut at = indices.start;
                while at < indices.end {
                    let block = at / self.block_values;
                    let all = self.block_indices(block);
                    let end = all.end.min(indices.end);
                    let open = self.open_block(block)?;
                    open.for_each(at - all.start..end - all.start, &mut each);
                    at = end;
                }
            }
        }
        Ok(())
    }

    /// Appends the words of a range.
    pub(super) fn words(&self, indices: Range<u32>, out: &mut Vec<u64>) -> Result<(), Corruption> {
        out.reserve(indices.len());
        self.for_each(indices, |word| out.push(word))
    }

    /// The blocks, none of them open.
    pub(super) fn at_random(&self) -> OpenedBlocks<'a> {
        let opened = |open: Open<'a>| (vec![OnceCell::from(open)], u32::MAX);
        let (blocks, size) = match &self.layout {
            Layout::Constant(word) => opened(Open::constant(*word)),
            Layout::Inline(open, _) => opened(open.clone()),
            Layout::Blocks { .. } => {
                let blocks = (0..self.blocks()).map(|_| OnceCell::new());
                (blocks.collect(), self.block_values)
            }
        };
        let shift = size.is_power_of_two().then(|| size.trailing_zeros());
        OpenedBlocks {
            blocks,
            size,
            shift,
        }
    }

    /// As [`Numbers::at`], through blocks that stay open.
    #[inline]
    pub(super) fn at_from(&self, opened: &OpenedBlocks<'a>, index: u32) -> Result<u64, Corruption> {
        let block = match opened.shift {
            Some(shift) => index >> shift,
            None => index / opened.size,
        };
        let (cell, offset) = (&opened.blocks[block as usize], index - block * opened.size);
        if let Some(open) = cell.get() {
            return Ok(open.at(offset as usize));
        }
        let open = self.read_block(block)?;
        Ok(cell.get_or_init(|| open).at(offset as usize))
    }

    /// Opens a block, and remembers it.
    fn open_block(&self, block: u32) -> Result<Open<'a>, Corruption> {
        if let Some((last, open)) = &*self.last.borrow()
            && *last == block
        {
            return Ok(open.clone());
        }
        let open = self.read_block(block)?;
        *self.last.borrow_mut() = Some((block, open.clone()));
        Ok(open)
    }

    fn read_block(&self, block: u32) -> Result<Open<'a>, Corruption> {
        let Layout::Blocks { entries, .. } = &self.layout else {
            return Err(self.origin.corrupt("a sequence of numbers has no blocks"));
        };
        let at = block as usize * ENTRY_BYTES;
        let entry = entries.get(at..at + ENTRY_BYTES).unwrap_or_default();
        let (head, reference) = (Head::of_entry(entry), ref_at(entry, 16));
        let count = self.block_indices(block).len() as u32;
        let corrupt = |what| self.origin.corrupt_block(&reference, what);
        let payload = match head.form & FORM_MASK {
            FORM_CONSTANT => Payload::Stored(&[]),
            _ if head.form & FLAG_ZSTD == 0 => {
                Payload::Stored(self.origin.sealed.block(&reference)?)
            }
            _ => {
                let stored = self.origin.sealed.block(&reference)?;
                let raw = decompress(stored, head.payload_len(count));
                let raw = raw.ok_or_else(|| corrupt("a block does not decompress to its length"));
                Payload::Unfolded(raw?.into(), 0)
            }
        };
        Open::new(&head, payload, (self.repr, count)).map_err(corrupt)
    }
}

impl Head {
    fn bounds(least: u64, greatest: u64) -> Self {
        Self {
            form: FORM_CONSTANT,
            width: 0,
            exponent: 0,
            least,
            greatest,
        }
    }

    fn read(bytes: &mut Reader<'_>) -> Result<Self, crate::format::WireError> {
        Ok(Self {
            form: bytes.u8()?,
            width: bytes.u8()?,
            exponent: bytes.u8()?,
            least: bytes.u64()?,
            greatest: bytes.u64()?,
        })
    }

    fn of_entry(entry: &[u8]) -> Self {
        let byte = |at: usize| entry.get(at).copied().unwrap_or_default();
        Self {
            form: byte(36),
            width: byte(37),
            exponent: byte(38),
            least: u64_at(entry, 0),
            greatest: u64_at(entry, 8),
        }
    }

    /// Bytes of the payload, decompressed.
    fn payload_len(&self, count: u32) -> usize {
        let head = if self.form & FLAG_DIVISOR == 0 { 0 } else { 8 };
        head + bits::packed_len(count as usize, self.width.min(64))
    }
}

impl<'a> Open<'a> {
    fn constant(word: u64) -> Self {
        Self {
            payload: Payload::Stored(&[]),
            form: FORM_CONSTANT,
            width: 0,
            base: word,
            divisor: 1,
            scale: 1.0,
        }
    }

    fn new(
        head: &Head,
        payload: Payload<'a>,
        (repr, count): (Repr, u32),
    ) -> Result<Self, &'static str> {
        let form = head.form & FORM_MASK;
        let known = match repr {
            Repr::Int => matches!(form, FORM_CONSTANT | FORM_PACKED),
            Repr::Float => matches!(form, FORM_CONSTANT | FORM_DECIMAL | FORM_RAW),
        };
        let known = known && head.form & !(FORM_MASK | FLAG_DIVISOR | FLAG_ZSTD) == 0;
        let divided = head.form & FLAG_DIVISOR != 0;
        if !known || head.width > 64 || head.exponent > MAX_EXPONENT {
            return Err("a block of numbers has no such form");
        }
        if form != FORM_CONSTANT && payload.bytes().len() != head.payload_len(count) {
            return Err("a block of numbers has the wrong length");
        }
        if form == FORM_RAW && (head.width != 64 || divided) {
            return Err("a block of floats has the wrong width");
        }
        let base = match form {
            FORM_DECIMAL => decimal(f64::from_bits(head.least), head.exponent)
                .ok_or("a block of decimals begins with none")? as u64,
            _ => head.least,
        };
        let divisor = if divided {
            u64_at(payload.bytes(), 0)
        } else {
            1
        };
        Ok(Self {
            payload: if divided { payload.skip(8) } else { payload },
            form,
            width: head.width,
            base,
            divisor,
            scale: POWERS[head.exponent as usize],
        })
    }

    #[inline]
    fn at(&self, index: usize) -> u64 {
        match self.form {
            FORM_CONSTANT => self.base,
            FORM_PACKED => self.whole(bits::get(self.payload.bytes(), self.width, index)),
            FORM_DECIMAL => {
                self.float(self.whole(bits::get(self.payload.bytes(), self.width, index)))
            }
            _ => u64_at(self.payload.bytes(), index * 8),
        }
    }

    #[inline]
    fn for_each(&self, range: Range<u32>, mut each: impl FnMut(u64)) {
        let (start, count, bytes) = (range.start as usize, range.len(), self.payload.bytes());
        match self.form {
            FORM_CONSTANT => (0..count).for_each(|_| each(self.base)),
            FORM_PACKED => bits::for_each(bytes, self.width, start, count, |packed| {
                each(self.whole(packed));
            }),
            FORM_DECIMAL => bits::for_each(bytes, self.width, start, count, |packed| {
                each(self.float(self.whole(packed)));
            }),
            _ => bits::for_each(bytes, 64, start, count, each),
        }
    }

    #[inline]
    fn whole(&self, packed: u64) -> u64 {
        self.base.wrapping_add(packed.wrapping_mul(self.divisor))
    }

    #[inline]
    fn float(&self, whole: u64) -> u64 {
        (whole as i64 as f64 / self.scale).to_bits()
    }
}

impl Payload<'_> {
    #[inline]
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Stored(bytes) => bytes,
            Self::Unfolded(bytes, start) => bytes.get(*start..).unwrap_or_default(),
        }
    }

    fn skip(self, bytes: usize) -> Self {
        match self {
            Self::Stored(stored) => Self::Stored(stored.get(bytes..).unwrap_or_default()),
            Self::Unfolded(raw, start) => Self::Unfolded(raw, start + bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_have_the_length_that_their_head_asks_for() {
        let head = |form, width| Head {
            form,
            width,
            exponent: 0,
            least: 0,
            greatest: 0,
        };
        let open = |head: &Head, bytes, repr| Open::new(head, Payload::Stored(bytes), (repr, 5));
        let packed = head(FORM_PACKED, 3);
        assert!(open(&packed, &[0; 2], Repr::Int).is_ok());
        assert!(open(&packed, &[0; 1], Repr::Int).is_err());
        assert!(open(&packed, &[0; 3], Repr::Int).is_err());
        let divided = head(FORM_PACKED | FLAG_DIVISOR, 3);
        assert!(open(&divided, &[0; 10], Repr::Int).is_ok());
        assert!(open(&divided, &[0; 2], Repr::Int).is_err());
        assert!(open(&head(FORM_RAW, 64), &[0; 40], Repr::Float).is_ok());
        assert!(open(&head(FORM_RAW, 64), &[0; 40], Repr::Int).is_err());
        assert!(open(&head(FORM_RAW, 63), &[0; 40], Repr::Float).is_err());
        assert!(open(&head(9, 3), &[0; 2], Repr::Int).is_err());
    }
}
