//! Where encoded bytes go and how they are found again: blocks of the image, references to
//! them, and blobs that lie in the descriptor itself where they are small.

use hashbrown::HashMap;

use crate::error::Corruption;
use crate::format::{BlockRef, ImageWriter, Reader, Sealed, WireError, Writer};

/// zstd's default: a level lower loses several percent, a level higher halves the speed.
const ZSTD_LEVEL: i32 = 3;

/// Sizes that the encoder aims at. Only tests use others than the default ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Params {
    /// Values in a block of numbers. Stored: readers need it to find a value's block.
    pub(super) block_values: u32,
    /// Blobs up to this many bytes lie in the descriptor instead of a block of their own.
    pub(super) inline_bytes: usize,
    /// Descriptors share blocks of about this many bytes.
    pub(super) page_bytes: usize,
    /// Bytes of text to put into one block.
    pub(super) text_block_bytes: usize,
    /// Parts with fewer values are neither determined by others nor determine any.
    pub(super) least_dependent: u32,
    /// Whether blocks may be compressed, and numbers have tables.
    pub(super) compressed: bool,
}

impl Params {
    /// For bytes that nobody keeps: what is quick to write, rather than small.
    pub(super) fn brief() -> Self {
        Self {
            least_dependent: u32::MAX,
            compressed: false,
            ..Self::default()
        }
    }
}

impl Default for Params {
    fn default() -> Self {
        Self {
            // A hundredth of a byte a value for its entry, and little to read for one value.
            block_values: 8_192,
            // A block costs 20 bytes to refer to and half of 8 to align.
            inline_bytes: 1_024,
            page_bytes: 16_384,
            text_block_bytes: 65_536,
            // A few hundred bytes: not worth the two references and the slower reading.
            least_dependent: 512,
            compressed: true,
        }
    }
}

/// Writes blocks of an image on behalf of the encoders.
pub(super) struct Sink<'i> {
    image: &'i mut ImageWriter,
    pub(super) params: Params,
    /// Blobs that may occur again (properties that are present together share their rows).
    shared: HashMap<Vec<u8>, BlockRef>,
    /// Lets tests damage bytes before their checksum is taken.
    #[cfg(test)]
    pub(super) forge: Option<Forge>,
}

/// Changes the bytes of a block.
#[cfg(test)]
pub(super) type Forge = Box<dyn FnMut(&mut Vec<u8>)>;

impl<'i> Sink<'i> {
    pub(super) fn new(image: &'i mut ImageWriter, params: Params) -> Self {
        Self {
            image,
            params,
            shared: HashMap::new(),
            #[cfg(test)]
            forge: None,
        }
    }

    /// Appends a block.
    pub(super) fn block(&mut self, bytes: &[u8]) -> BlockRef {
        #[cfg(test)]
        if let Some(forge) = &mut self.forge {
            let mut forged = bytes.to_vec();
            forge(&mut forged);
            return self.image.block(&forged);
        }
        self.image.block(bytes)
    }

    /// Compresses bytes; none where that leaves more than `limit` of them.
    pub(super) fn compress(&mut self, raw: &[u8], limit: usize) -> Option<Vec<u8>> {
        // A context costs more to make than a small block to compress, and most images are small.
        thread_local! {
            static COMPRESSOR: std::cell::RefCell<Option<zstd::bulk::Compressor<'static>>> =
                std::cell::RefCell::new(zstd::bulk::Compressor::new(ZSTD_LEVEL).ok());
        }
        let packed =
            COMPRESSOR.with_borrow_mut(|compressor| compressor.as_mut()?.compress(raw).ok())?;
        (packed.len() <= limit).then_some(packed)
    }

    /// Writes a blob into the descriptor `out`, or a reference to a block that holds it.
    pub(super) fn blob(&mut self, blob: Vec<u8>, out: &mut Writer) {
        if blob.len() <= self.params.inline_bytes {
            out.u8(0);
            out.bytes(&blob);
            return;
        }
        out.u8(1);
        let block = match self.shared.get(&blob) {
            Some(block) => *block,
            None => {
                let block = self.block(&blob);
                self.shared.insert(blob, block);
                block
            }
        };
        write_ref(&block, out);
    }
}

/// Decompresses into exactly `len` bytes; none where the bytes are anything else.
pub(super) fn decompress(bytes: &[u8], len: usize) -> Option<Vec<u8>> {
    thread_local! {
        static DECOMPRESSOR: std::cell::RefCell<Option<zstd::bulk::Decompressor<'static>>> =
            std::cell::RefCell::new(zstd::bulk::Decompressor::new().ok());
    }
    // The frame says its length (the encoder always stores it), so that a damaged length does
    // not reserve memory that the bytes cannot fill.
    let stored = zstd::zstd_safe::get_frame_content_size(bytes).ok()??;
    if stored != len as u64 {
        return None;
    }
    DECOMPRESSOR.with_borrow_mut(|decompressor| {
        let raw = decompressor.as_mut()?.decompress(bytes, len).ok()?;
        (raw.len() == len).then_some(raw)
    })
}

/// Bytes of an encoded reference.
pub(super) const REF_BYTES: usize = 20;

/// Appends a reference: checksum, offset in units of 8 bytes, length, number.
pub(super) fn write_ref(block: &BlockRef, out: &mut Writer) {
    let units = u32::try_from(block.offset / 8);
    assert!(units.is_ok(), "an image holds under 32 GiB");
    out.u64(block.checksum);
    out.u32(units.unwrap_or_default());
    out.u32(block.len);
    out.u32(block.index);
}

/// Reads a reference at `at`, which must lie within the bytes.
pub(super) fn ref_at(bytes: &[u8], at: usize) -> BlockRef {
    BlockRef {
        checksum: u64_at(bytes, at),
        offset: u64::from(u32_at(bytes, at + 8)) * 8,
        len: u32_at(bytes, at + 12),
        index: u32_at(bytes, at + 16),
    }
}

/// A sealed file and the block that a descriptor lies in, for errors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin<'a> {
    pub(super) sealed: &'a Sealed,
    pub(super) page: BlockRef,
}

impl<'a> Origin<'a> {
    /// An error in the descriptor.
    pub(super) fn corrupt(&self, what: &'static str) -> Corruption {
        Corruption::new(self.sealed.file(), self.page.offset, what)
    }

    pub(super) fn wire(&self, error: WireError) -> Corruption {
        self.sealed.corrupt(&self.page, error)
    }

    /// An error in `block`.
    pub(super) fn corrupt_block(&self, block: &BlockRef, what: &'static str) -> Corruption {
        Corruption::new(self.sealed.file(), block.offset, what)
    }

    /// Reads a blob's bytes from the descriptor or its block.
    pub(super) fn blob(&self, bytes: &mut Reader<'a>) -> Result<&'a [u8], Corruption> {
        match bytes.u8().map_err(|error| self.wire(error))? {
            0 => bytes.bytes().map_err(|error| self.wire(error)),
            1 => {
                let stored = bytes.raw(REF_BYTES).map_err(|error| self.wire(error))?;
                self.sealed.block(&ref_at(stored, 0))
            }
            _ => Err(self.corrupt("a blob lies nowhere")),
        }
    }
}

/// The two bytes at `at`; zero beyond the end.
#[inline]
pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.map_or(0, |found| u16::from_le_bytes(*found))
}

/// The four bytes at `at`; zero beyond the end.
#[inline]
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.map_or(0, |found| u32::from_le_bytes(*found))
}

/// The eight bytes at `at`; zero beyond the end.
#[inline]
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.map_or(0, |found| u64::from_le_bytes(*found))
}
