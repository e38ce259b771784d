//! Areas: contiguous bytes of any length, verified piece by piece.
//!
//! A long column must be one slice in the map but must not be read whole for one user, so it is
//! stored as neighbouring blocks of 64 KiB, each with its own checksum.

use std::ops::Range;

use crate::error::Corruption;
use crate::format::{BlockRef, ImageWriter, Reader, Sealed, WireError, Writer};

/// Bytes of each block of an area but the last. A multiple of 8, so that blocks join seamlessly.
const AREA_BLOCK_BYTES: usize = 64 << 10;

/// Where an area lies, with the checksum of each of its blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Area {
    offset: u64,
    len: u64,
    first_block: u32,
    checksums: Vec<u64>,
}

impl Area {
    /// Appends an area that holds `bytes`.
    pub(super) fn write(image: &mut ImageWriter, bytes: &[u8]) -> Self {
        let mut writer = AreaWriter::new(image);
        writer.extend(bytes);
        writer.finish()
    }

    /// Length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Where the area begins in the file.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The bytes in `range` of the area, each block that they touch verified.
    pub(super) fn slice<'a>(
        &self,
        sealed: &'a Sealed,
        range: Range<u64>,
    ) -> Result<&'a [u8], Corruption> {
        let outside = || Corruption::new(sealed.file(), self.offset, "an area is too short");
        if range.start >= range.end {
            return Ok(&[]);
        }
        if range.end > self.len {
            return Err(outside());
        }
        let block_bytes = AREA_BLOCK_BYTES as u64;
        for number in range.start / block_bytes..=(range.end - 1) / block_bytes {
            sealed.block(&self.block(number).ok_or_else(outside)?)?;
        }
        // Every block lies inside the file, and they touch, so their sum does too.
        let start = (self.offset + range.start) as usize;
        let end = (self.offset + range.end) as usize;
        sealed.bytes().get(start..end).ok_or_else(outside)
    }

    /// All bytes of the area.
    pub(super) fn all<'a>(&self, sealed: &'a Sealed) -> Result<&'a [u8], Corruption> {
        self.slice(sealed, 0..self.len)
    }

    /// Takes the area's bytes for what was written, whatever they are.
    #[cfg(test)]
    pub(super) fn reseal(&mut self, bytes: &[u8]) {
        for number in 0..self.checksums.len() {
            let block = self.block(number as u64).unwrap();
            let start = block.offset as usize;
            let stored = &bytes[start..start + block.len as usize];
            self.checksums[number] = crate::format::checksum(stored);
        }
    }

    fn block(&self, number: u64) -> Option<BlockRef> {
        let start = number * AREA_BLOCK_BYTES as u64;
        Some(BlockRef {
            offset: self.offset.checked_add(start)?,
            len: self.len.checked_sub(start)?.min(AREA_BLOCK_BYTES as u64) as u32,
            index: self.first_block.checked_add(number as u32)?,
            checksum: *self.checksums.get(number as usize)?,
        })
    }

    pub(super) fn encode(&self, out: &mut Writer) {
        out.u64(self.offset);
        out.u64(self.len);
        out.u32(self.first_block);
        out.u32(self.checksums.len() as u32);
        self.checksums
            .iter()
            .for_each(|&checksum| out.u64(checksum));
    }

    pub(super) fn decode(bytes: &mut Reader<'_>) -> Result<Self, WireError> {
        let (offset, len, first_block) = (bytes.u64()?, bytes.u64()?, bytes.u32()?);
        let blocks = bytes.count(8)?;
        if len.div_ceil(AREA_BLOCK_BYTES as u64) != blocks as u64 {
            return Err(bytes.error("an area has too many or too few blocks"));
        }
        if offset.checked_add(len).is_none() {
            return Err(bytes.error("an area lies outside"));
        }
        let checksums = (0..blocks).map(|_| bytes.u64()).collect::<Result<_, _>>()?;
        Ok(Self {
            offset,
            len,
            first_block,
            checksums,
        })
    }
}

/// Appends one area to an image, piece by piece.
#[derive(Debug)]
pub(super) struct AreaWriter<'a> {
    image: &'a mut ImageWriter,
    buffer: Vec<u8>,
    area: Area,
}

impl<'a> AreaWriter<'a> {
    pub(super) fn new(image: &'a mut ImageWriter) -> Self {
        let (offset, first_block) = (image.len() as u64, image.blocks());
        Self {
            image,
            buffer: Vec::new(),
            area: Area {
                offset,
                first_block,
                ..Area::default()
            },
        }
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> u64 {
        self.area.len + self.buffer.len() as u64
    }

    pub(super) fn extend(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let take = bytes.len().min(AREA_BLOCK_BYTES - self.buffer.len());
            let (now, later) = bytes.split_at(take);
            if self.buffer.is_empty() && take == AREA_BLOCK_BYTES {
                let block = self.image.block(now);
                self.push(&block);
            } else {
                self.buffer.extend_from_slice(now);
                if self.buffer.len() == AREA_BLOCK_BYTES {
                    self.flush();
                }
            }
            bytes = later;
        }
    }

    fn flush(&mut self) {
        if !self.buffer.is_empty() {
            let block = self.image.block(&self.buffer);
            self.buffer.clear();
            self.push(&block);
        }
    }

    fn push(&mut self, block: &BlockRef) {
        self.area.len += u64::from(block.len);
        self.area.checksums.push(block.checksum);
    }

    pub(super) fn finish(mut self) -> Area {
        self.flush();
        self.area
    }
}
