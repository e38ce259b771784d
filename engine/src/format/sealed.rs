//! Sealed files: written once, never changed, verified block by block on first touch.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::wire::{Reader, WireError, Writer};
use super::{checksum, matches};
use crate::error::Corruption;

/// Where a block lies in a sealed file, and the checksum of its stored bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockRef {
    /// First byte in the file; a multiple of 8.
    pub offset: u64,
    /// Length in bytes.
    pub len: u32,
    /// The block's number in the file, counted from 0: its bit in the "verified" set.
    pub index: u32,
    /// [`checksum`](super::checksum) of the stored bytes.
    pub checksum: u64,
}

impl BlockRef {
    /// Bytes of an encoded reference.
    pub const ENCODED_BYTES: usize = 24;

    /// Appends the reference.
    pub fn encode(&self, out: &mut Writer) {
        out.u64(self.offset);
        out.u32(self.len);
        out.u32(self.index);
        out.u64(self.checksum);
    }

    /// Reads a reference. Its bounds are checked when the block is touched.
    pub fn decode(bytes: &mut Reader<'_>) -> Result<Self, WireError> {
        let (offset, len, index) = (bytes.u64()?, bytes.u32()?, bytes.u32()?);
        Ok(Self {
            offset,
            len,
            index,
            checksum: bytes.u64()?,
        })
    }
}

/// Builds the image of a sealed file: blocks back to back, each 8-byte aligned and zero-padded.
#[derive(Debug, Default)]
pub struct ImageWriter {
    bytes: Vec<u8>,
    blocks: u32,
}

impl ImageWriter {
    /// An image that begins with `header`.
    pub fn new(header: &[u8]) -> Self {
        let mut image = Self {
            bytes: header.to_vec(),
            blocks: 0,
        };
        image.pad();
        image
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
    }

    /// Appends a block.
    pub fn block(&mut self, bytes: &[u8]) -> BlockRef {
        assert!(
            u32::try_from(bytes.len()).is_ok(),
            "a block holds under 4 GiB"
        );
        let block = BlockRef {
            offset: self.bytes.len() as u64,
            len: bytes.len() as u32,
            index: self.blocks,
            checksum: checksum(bytes),
        };
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self.blocks += 1;
        block
    }

    /// Number of blocks so far.
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True before the first byte.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What was appended so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The image so far, for the caller to append its trailer to.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// A sealed file, mapped or in memory. Blocks are verified when first touched, and a bit for
/// each remembers it, so opening a file reads next to nothing of it.
#[derive(Debug)]
pub struct Sealed {
    bytes: Bytes,
    file: PathBuf,
    verified: Box<[AtomicU64]>,
}

impl Sealed {
    /// The sealed file `file` with these `bytes` and `blocks` blocks.
    pub fn new(bytes: Bytes, file: &Path, blocks: u32) -> Self {
        let words = (blocks as usize).div_ceil(64);
        let verified = std::iter::repeat_with(|| AtomicU64::new(0))
            .take(words)
            .collect();
        Self {
            bytes,
            file: file.to_owned(),
            verified,
        }
    }

    /// The same file, read from other bytes of it from now on; nothing is verified yet.
    pub(crate) fn read_from(mut self, bytes: Bytes) -> Self {
        self.bytes = bytes;
        self.verified
            .iter_mut()
            .for_each(|word| *word.get_mut() = 0);
        self
    }

    /// The file's name, for errors.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// All bytes, unverified.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The bytes of a block, verified.
    ///
    /// # Errors
    /// Where the reference points outside the file or the stored bytes differ from what was
    /// written.
    pub fn block(&self, block: &BlockRef) -> Result<&[u8], Corruption> {
        let damaged = |what| Corruption::new(&self.file, block.offset, what);
        let start = usize::try_from(block.offset).map_err(|_| damaged("a block lies outside"))?;
        let end = start.checked_add(block.len as usize);
        let bytes = end
            .and_then(|end| self.bytes.get(start..end))
            .ok_or_else(|| damaged("a block lies outside the file"))?;
        let (word, bit) = (block.index as usize / 64, 1u64 << (block.index % 64));
        let word = self
            .verified
            .get(word)
            .ok_or_else(|| damaged("a block number is too large"))?;
        if word.load(Ordering::Relaxed) & bit == 0 {
            if !matches(bytes, block.checksum) {
                return Err(damaged("a block's checksum does not match"));
            }
            if self
                .padding(start + bytes.len())
                .iter()
                .any(|&byte| byte != 0)
            {
                return Err(damaged("a block's padding is not zero"));
            }
            word.fetch_or(bit, Ordering::Relaxed);
        }
        Ok(bytes)
    }

    /// The zeros up to the next place where a block may begin.
    fn padding(&self, end: usize) -> &[u8] {
        self.bytes
            .get(end..end.next_multiple_of(8))
            .unwrap_or_default()
    }

    /// Turns a wire error inside `block` into a corruption of this file.
    pub fn corrupt(&self, block: &BlockRef, error: WireError) -> Corruption {
        Corruption::new(&self.file, block.offset + error.at as u64, error.what)
    }
}
