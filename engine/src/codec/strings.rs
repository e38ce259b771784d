//! Sequences of texts in blocks: any text at once, or all of them in order.
//!
//! A sequence's descriptor is one byte for its layout, then
//! * `INLINE`: width (a byte), and the bytes of its only block, counted;
//! * `BLOCKS`: texts in a block (u32), then an entry of `ENTRY_BYTES` for each block:
//!   reference (20 bytes), length decompressed (u32), compressed or not, width, zero (u16).
//!
//! A block is the end of each text, bit-packed with the given width, and the texts back to back.
//! A compressed one has instead of the ends the length of each text, in as many whole bytes as
//! the width says: zstd makes little of ends, and next to nothing of equal lengths.

use std::cell::{OnceCell, RefCell};
use std::ops::Range;
use std::rc::Rc;

use super::bits;
use super::numbers::Access;
use super::sink::{Origin, REF_BYTES, Sink, decompress, ref_at, u32_at, write_ref};
use crate::error::Corruption;
use crate::format::{Reader, Writer};

const INLINE: u8 = 0;
const BLOCKS: u8 = 1;
const ENTRY_BYTES: usize = REF_BYTES + 8;

/// Blocks that are read at random are compressed only from here on: below, the time to
/// decompress one for one text is not worth the bytes.
const LEAST_COMPRESSED_RANDOM: usize = 16_384;
/// Below this even a good ratio saves next to nothing.
const LEAST_COMPRESSED: usize = 256;

/// Encodes `count` texts; `get` gives the one at an index. Blocks that are scanned are compressed
/// wherever that saves a quarter, those read at random only where they are large, too.
pub(super) fn encode<'t>(
    sink: &mut Sink<'_>,
    out: &mut Writer,
    count: u32,
    access: Access,
    get: &dyn Fn(u32) -> &'t str,
) {
    let total: u64 = (0..count).map(|index| get(index).len() as u64).sum();
    let average = total.div_ceil(u64::from(count.max(1))).max(1);
    let fitting = sink.params.text_block_bytes as u64 / average;
    let per_block = (fitting as u32).clamp(1, sink.params.block_values);
    if count <= per_block {
        let (width, block) = encode_block(0..count, get);
        if block.len() <= sink.params.inline_bytes {
            out.u8(INLINE);
            out.u8(width);
            return out.bytes(&block);
        }
    }
    out.u8(BLOCKS);
    out.u32(per_block);
    let least_compressed = match access {
        Access::Scanned => LEAST_COMPRESSED,
        Access::Random => LEAST_COMPRESSED_RANDOM,
    };
    for start in (0..count).step_by(per_block as usize) {
        let indices = start..start.saturating_add(per_block).min(count);
        let (width, block) = encode_block(indices.clone(), get);
        if sink.params.compressed && block.len() >= least_compressed {
            let (width, raw) = unpacked_block(indices, get);
            if let Some(packed) = sink.compress(&raw, block.len() / 4 * 3) {
                write_ref(&sink.block(&packed), out);
                out.u32(raw.len() as u32);
                out.raw(&[1, width, 0, 0]);
                continue;
            }
        }
        write_ref(&sink.block(&block), out);
        out.u32(block.len() as u32);
        out.raw(&[0, width, 0, 0]);
    }
}

fn encode_block<'t>(indices: Range<u32>, get: &dyn Fn(u32) -> &'t str) -> (u8, Vec<u8>) {
    let ends: Vec<u64> = indices
        .clone()
        .scan(0, |end, index| {
            *end += get(index).len() as u64;
            Some(*end)
        })
        .collect();
    let width = bits::width_of(ends.last().copied().unwrap_or_default());
    let mut block = Vec::new();
    bits::pack(ends, width, &mut block);
    indices.for_each(|index| block.extend_from_slice(get(index).as_bytes()));
    (width, block)
}

/// A block before it is compressed: lengths of `width` bytes each, and the texts.
fn unpacked_block<'t>(indices: Range<u32>, get: &dyn Fn(u32) -> &'t str) -> (u8, Vec<u8>) {
    let longest = indices.clone().map(|index| get(index).len()).max();
    let width = match longest.unwrap_or_default() {
        0..=0xff => 1,
        0x100..=0xffff => 2,
        _ => 4,
    };
    let mut block = Vec::new();
    for index in indices.clone() {
        block.extend_from_slice(&get(index).len().to_le_bytes()[..width]);
    }
    indices.for_each(|index| block.extend_from_slice(get(index).as_bytes()));
    (width as u8, block)
}

/// A sequence of texts in a sealed file.
#[derive(Debug)]
pub(super) struct Strings<'a> {
    origin: Origin<'a>,
    count: u32,
    per_block: u32,
    /// Empty where the only block lies in the descriptor.
    entries: &'a [u8],
    kept: Kept<'a>,
}

/// Blocks that were read already.
#[derive(Debug)]
enum Kept<'a> {
    Only(Block<'a>),
    /// Every block, once read: for dictionaries, whose texts are lent out.
    Each(Box<[OnceCell<Block<'a>>]>),
    /// The last block: for texts that are scanned.
    Last(RefCell<Option<(u32, Block<'a>)>>),
}

/// A block ready to be read.
#[derive(Clone, Debug)]
pub(super) struct Block<'a> {
    ends: Ends<'a>,
    count: u32,
    text: Text<'a>,
}

#[derive(Clone, Debug)]
enum Ends<'a> {
    /// Bit-packed, and the width.
    Stored(&'a [u8], u8),
    Unfolded(Rc<[u32]>),
}

#[derive(Clone, Debug)]
enum Text<'a> {
    Stored(&'a str),
    Unfolded(Rc<str>),
}

impl<'a> Strings<'a> {
    /// Reads the descriptor of `count` texts.
    pub(super) fn open(
        origin: Origin<'a>,
        bytes: &mut Reader<'a>,
        count: u32,
        access: Access,
    ) -> Result<Self, Corruption> {
        let wire = |error| origin.wire(error);
        let layout = bytes.u8().map_err(wire)?;
        if layout == INLINE {
            let width = bytes.u8().map_err(wire)?;
            let block = bytes.bytes().map_err(wire)?;
            let block = Block::stored(block, width, count);
            return Ok(Self {
                origin,
                count,
                per_block: count.max(1),
                entries: &[],
                kept: Kept::Only(block.map_err(|what| origin.corrupt(what))?),
            });
        }
        let per_block = bytes.u32().map_err(wire)?;
        if layout != BLOCKS || per_block == 0 {
            return Err(origin.corrupt("a sequence of texts has no such layout"));
        }
        let blocks = count.div_ceil(per_block) as usize;
        let entries = bytes
            .raw(blocks.saturating_mul(ENTRY_BYTES))
            .map_err(wire)?;
        let kept = match access {
            Access::Random => Kept::Each(vec![OnceCell::new(); blocks].into()),
            Access::Scanned => Kept::Last(RefCell::default()),
        };
        Ok(Self {
            origin,
            count,
            per_block,
            entries,
            kept,
        })
    }

    /// How many texts there are.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// The text at `index`, lent: of a sequence opened for random access.
    pub(super) fn get(&self, index: u32) -> Result<&str, Corruption> {
        if index >= self.count {
            return Err(self.origin.corrupt("a code is beyond its dictionary"));
        }
        let (block, offset) = (index / self.per_block, index % self.per_block);
        let block = match &self.kept {
            Kept::Only(only) => only,
            Kept::Each(blocks) => {
                let cell = blocks.get(block as usize);
                let cell = cell.ok_or_else(|| self.origin.corrupt("a text has no block"))?;
                match cell.get() {
                    Some(block) => block,
                    None => {
                        let read = self.read(block)?;
                        cell.get_or_init(|| read)
                    }
                }
            }
            Kept::Last(_) => return Err(self.origin.corrupt("a text is not in a dictionary")),
        };
        let text = block.get(offset);
        text.ok_or_else(|| self.origin.corrupt("a text lies outside its block"))
    }

    /// The block that holds the text at `index`, and the text's place in it. The block last read
    /// is remembered.
    pub(super) fn block_of(&self, index: u32) -> Result<(Block<'a>, u32), Corruption> {
        assert!(index < self.count, "the index is within the part");
        let (number, offset) = (index / self.per_block, index % self.per_block);
        let block = match &self.kept {
            Kept::Only(only) => only.clone(),
            Kept::Each(_) => self.read(number)?,
            Kept::Last(last) => {
                if let Some((last, block)) = &*last.borrow()
                    && *last == number
                {
                    return Ok((block.clone(), offset));
                }
                let block = self.read(number)?;
                *last.borrow_mut() = Some((number, block.clone()));
                block
            }
        };
        Ok((block, offset))
    }

    /// Calls `each` with the texts of a range and their indices. Panics where it is out of range.
    pub(super) fn for_each(
        &self,
        indices: Range<u32>,
        mut each: impl FnMut(u32, &str),
    ) -> Result<(), Corruption> {
        let mut at = indices.start;
        while at < indices.end {
            let (block, offset) = self.block_of(at)?;
            let end = (at - offset + block.count).min(indices.end);
            let mut start = match offset.checked_sub(1) {
                Some(before) => block.end(before),
                None => 0,
            };
            for index in at..end {
                let stop = block.end(index - at + offset);
                let text = block.text.get().get(start..stop);
                each(
                    index,
                    text.ok_or_else(|| self.origin.corrupt("a text lies outside its block"))?,
                );
                start = stop;
            }
            at = end;
        }
        Ok(())
    }

    fn read(&self, number: u32) -> Result<Block<'a>, Corruption> {
        let at = number as usize * ENTRY_BYTES;
        let entry = self.entries.get(at..at + ENTRY_BYTES).unwrap_or_default();
        let (reference, len) = (ref_at(entry, 0), u32_at(entry, REF_BYTES));
        let (packed, width) = match entry.get(REF_BYTES + 4..REF_BYTES + 6) {
            Some(&[packed, width]) => (packed, width),
            _ => return Err(self.origin.corrupt("a text has no block")),
        };
        let corrupt = |what| self.origin.corrupt_block(&reference, what);
        let left = self.count - number * self.per_block;
        let count = left.min(self.per_block);
        let stored = self.origin.sealed.block(&reference)?;
        let block = match packed {
            0 => Block::stored(stored, width, count),
            1 => decompress(stored, len as usize)
                .ok_or("a block does not decompress to its length")
                .and_then(|raw| Block::unfolded(&raw, width, count)),
            _ => Err("a block of texts has no such form"),
        };
        block.map_err(corrupt)
    }
}

impl<'a> Block<'a> {
    fn stored(bytes: &'a [u8], width: u8, count: u32) -> Result<Self, &'static str> {
        let ends = bits::packed_len(count as usize, width.min(32));
        let (ends, text) = match bytes.split_at_checked(ends) {
            Some(split) if width <= 32 => split,
            _ => return Err("a block of texts is too short"),
        };
        let text = std::str::from_utf8(text).map_err(|_| "a text is not UTF-8")?;
        Ok(Self {
            ends: Ends::Stored(ends, width),
            count,
            text: Text::Stored(text),
        })
    }

    fn unfolded(bytes: &[u8], width: u8, count: u32) -> Result<Self, &'static str> {
        let lengths = (count as usize).saturating_mul(width.into());
        let (lengths, text) = match bytes.split_at_checked(lengths) {
            Some(split) if matches!(width, 1 | 2 | 4) => split,
            _ => return Err("a block of texts is too short"),
        };
        let mut ends = Vec::with_capacity(count as usize);
        let mut end = 0u64;
        bits::for_each(lengths, width * 8, 0, count as usize, |length| {
            end += length;
            ends.push(end as u32);
        });
        if end != text.len() as u64 {
            return Err("texts are longer or shorter than their block");
        }
        let text = std::str::from_utf8(text).map_err(|_| "a text is not UTF-8")?;
        Ok(Self {
            ends: Ends::Unfolded(ends.into()),
            count,
            text: Text::Unfolded(text.into()),
        })
    }

    #[inline]
    fn end(&self, offset: u32) -> usize {
        match &self.ends {
            Ends::Stored(bytes, width) => bits::get(bytes, *width, offset as usize) as usize,
            Ends::Unfolded(ends) => ends.get(offset as usize).map_or(0, |&end| end as usize),
        }
    }

    fn range(&self, offset: u32) -> Range<usize> {
        let start = offset.checked_sub(1).map_or(0, |before| self.end(before));
        start..self.end(offset)
    }

    /// The text at an offset within this block.
    #[inline]
    pub(super) fn get(&self, offset: u32) -> Option<&str> {
        self.text.get().get(self.range(offset))
    }

    /// As [`Block::get`], for as long as the file is open where the block is not compressed.
    pub(super) fn lend(&self, offset: u32) -> Option<std::borrow::Cow<'a, str>> {
        match &self.text {
            Text::Stored(text) => text.get(self.range(offset)).map(Into::into),
            Text::Unfolded(text) => text
                .get(self.range(offset))
                .map(|text| text.to_owned().into()),
        }
    }
}

impl Text<'_> {
    #[inline]
    fn get(&self) -> &str {
        match self {
            Self::Stored(text) => text,
            Self::Unfolded(text) => text,
        }
    }
}
