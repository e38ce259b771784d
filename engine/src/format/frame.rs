//! The frame of a sealed file written as a stream: header, blocks, footer, trailer.
//!
//! [`FrameWriter`] makes the bytes and never holds more of them than the caller leaves pending;
//! [`open_frame`] checks header, trailer and footer and hands out the blocks' [`Sealed`] file.

use std::path::Path;

use bytes::Bytes;

use super::sealed::{BlockRef, Sealed};
use super::wire::{Reader, WireError, Writer};
use super::{checksum, matches};
use crate::error::Corruption;

/// Bytes before the first block: magic (8), version (4), zero (4).
const HEADER_BYTES: usize = 16;
/// Bytes after the footer: its offset (8), length (8) and checksum (8), blocks (4), version (4),
/// magic (8).
const TRAILER_BYTES: usize = 40;
/// Bytes that begin every footer: the number of blocks again (4, under the checksum), zero (4).
const FOOTER_PREFIX_BYTES: usize = 8;
/// The version of the framed files that this release writes and reads.
const VERSION: u32 = 1;

fn header(magic: [u8; 8]) -> Vec<u8> {
    let mut header = Writer::new();
    header.raw(&magic);
    header.u32(VERSION);
    header.u32(0);
    header.finish()
}

/// Writes a sealed file piece by piece, so that its size is no bound on memory: what
/// [`pending`](Self::pending) shows is to be appended to the file and then
/// [`forgotten`](Self::forget_pending).
#[derive(Debug)]
pub struct FrameWriter {
    magic: [u8; 8],
    pending: Vec<u8>,
    written: u64,
    blocks: u32,
}

impl FrameWriter {
    /// A file that begins and ends with `magic`.
    pub fn new(magic: [u8; 8]) -> Self {
        Self {
            magic,
            pending: header(magic),
            written: 0,
            blocks: 0,
        }
    }

    /// Appends a block.
    pub fn block(&mut self, bytes: &[u8]) -> BlockRef {
        assert!(
            u32::try_from(bytes.len()).is_ok(),
            "a block holds under 4 GiB"
        );
        let block = BlockRef {
            offset: self.written + self.pending.len() as u64,
            len: bytes.len() as u32,
            index: self.blocks,
            checksum: checksum(bytes),
        };
        self.pending.extend_from_slice(bytes);
        self.pad();
        self.blocks += 1;
        block
    }

    // Every piece handed out is a multiple of 8 long, so alignment within `pending` is
    // alignment within the file.
    fn pad(&mut self) {
        let len = self.pending.len().next_multiple_of(8);
        self.pending.resize(len, 0);
    }

    /// Bytes that the caller has not taken yet.
    pub fn pending(&self) -> &[u8] {
        &self.pending
    }

    /// Tells that the pending bytes are in the file.
    pub fn forget_pending(&mut self) {
        self.written += self.pending.len() as u64;
        self.pending.clear();
    }

    /// Ends the file with `footer`: the last pending bytes, and the file's whole length.
    pub fn finish(mut self, footer: &[u8]) -> (Vec<u8>, u64) {
        let mut prefixed = Writer::new();
        prefixed.u32(self.blocks);
        prefixed.u32(0);
        prefixed.raw(footer);
        let footer = prefixed.finish();
        let mut trailer = Writer::new();
        trailer.u64(self.written + self.pending.len() as u64);
        trailer.u64(footer.len() as u64);
        trailer.u64(checksum(&footer));
        trailer.u32(self.blocks);
        trailer.u32(VERSION);
        trailer.raw(&self.magic);
        self.pending.extend_from_slice(&footer);
        self.pending.extend_from_slice(&trailer.finish());
        let length = self.written + self.pending.len() as u64;
        (self.pending, length)
    }
}

/// The verified footer of a framed file.
#[derive(Debug)]
pub struct Footer {
    bytes: Bytes,
    offset: u64,
}

impl Footer {
    /// Reads the footer from its first field.
    pub fn reader(&self) -> Reader<'_> {
        Reader::new(&self.bytes)
    }

    /// Turns a wire error of [`reader`](Self::reader) into a corruption of `file`.
    pub fn corrupt(&self, file: &Path, error: WireError) -> Corruption {
        Corruption::new(file, self.offset + error.at as u64, error.what)
    }
}

/// Opens a framed file: its blocks, unverified until touched, and its verified footer.
///
/// # Errors
/// Where header, trailer or footer are not what a [`FrameWriter`] with this `magic` writes.
pub fn open_frame(
    bytes: Bytes,
    file: &Path,
    magic: [u8; 8],
) -> Result<(Sealed, Footer), Corruption> {
    let damaged = |at: usize, what| Corruption::new(file, at as u64, what);
    if bytes.len() < HEADER_BYTES + FOOTER_PREFIX_BYTES + TRAILER_BYTES {
        return Err(damaged(0, "is too short for its header and trailer"));
    }
    if bytes[..HEADER_BYTES] != header(magic) {
        return Err(damaged(0, "the header is not that of such a file"));
    }
    let end = bytes.len() - TRAILER_BYTES;
    let wire = |error: WireError| damaged(end + error.at, error.what);
    let mut trailer = Reader::new(&bytes[end..]);
    let (offset, len) = (trailer.u64().map_err(wire)?, trailer.u64().map_err(wire)?);
    let (sum, blocks) = (trailer.u64().map_err(wire)?, trailer.u32().map_err(wire)?);
    let version = trailer.u32().map_err(wire)?;
    if version != VERSION || trailer.raw(8).map_err(wire)? != magic {
        return Err(damaged(end, "the trailer is not that of such a file"));
    }
    if offset.checked_add(len) != Some(end as u64) || len < FOOTER_PREFIX_BYTES as u64 {
        return Err(damaged(end, "the footer does not end at the trailer"));
    }
    let start = offset as usize;
    let footer = bytes.slice(start..end);
    if !matches(&footer, sum) {
        return Err(damaged(start, "the footer's checksum does not match"));
    }
    if footer[..4] != blocks.to_le_bytes() {
        return Err(damaged(end, "the trailer miscounts the blocks"));
    }
    let footer = Footer {
        bytes: footer.slice(FOOTER_PREFIX_BYTES..),
        offset: (start + FOOTER_PREFIX_BYTES) as u64,
    };
    Ok((Sealed::new(bytes, file, blocks), footer))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: [u8; 8] = *b"PUGTEST\0";

    fn framed() -> (Vec<u8>, Vec<BlockRef>) {
        let mut writer = FrameWriter::new(MAGIC);
        let mut file = Vec::new();
        let mut blocks = Vec::new();
        for block in [&b"one"[..], b"", b"three and more"] {
            blocks.push(writer.block(block));
            file.extend_from_slice(writer.pending());
            writer.forget_pending();
        }
        let (rest, length) = writer.finish(b"the footer");
        file.extend_from_slice(&rest);
        assert_eq!(file.len() as u64, length);
        (file, blocks)
    }

    fn contents(file: Vec<u8>, blocks: &[BlockRef]) -> Result<Vec<Vec<u8>>, Corruption> {
        let (sealed, footer) = open_frame(file.into(), Path::new("test"), MAGIC)?;
        let mut found = vec![footer.bytes.to_vec()];
        for block in blocks {
            found.push(sealed.block(block)?.to_vec());
        }
        Ok(found)
    }

    #[test]
    fn blocks_and_footer_read_back() {
        let (file, blocks) = framed();
        assert!(blocks.iter().all(|block| block.offset % 8 == 0));
        let found = contents(file, &blocks).unwrap();
        let expected = [&b"the footer"[..], b"one", b"", b"three and more"];
        assert_eq!(found, expected);
    }

    #[test]
    fn every_flip_and_truncation_is_noticed() {
        let (file, blocks) = framed();
        for bit in 0..file.len() * 8 {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(contents(damaged, &blocks).is_err(), "bit {bit}");
        }
        for len in 0..file.len() {
            assert!(contents(file[..len].to_vec(), &blocks).is_err());
        }
    }
}
