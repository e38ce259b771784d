//! Bytes and structs: the primitives that every file of the store is made of. No I/O here.
//!
//! `wire` reads and writes fixed-width little-endian fields with every bound checked;
//! `sealed` is a finished file (or an image of one in memory) whose blocks are verified against
//! their checksums when they are first touched; `frame` writes such a file as a stream. `docs/format.md` has the byte diagrams.

mod frame;
mod sealed;
mod wire;

pub use frame::{Footer, FrameWriter, open_frame};
pub use sealed::{BlockRef, ImageWriter, Sealed};
pub use wire::{Reader, WireError, Writer};

#[cfg(target_endian = "big")]
compile_error!(
    "the store maps little-endian columns in place; big-endian machines are not supported"
);

/// The checksum of stored bytes: XXH3, 64 bits, seed 0. Pinned by a golden test.
pub fn checksum(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

/// True where the checksum of `bytes` is `sum`. A fuzzer would hardly ever guess one, so in its
/// builds every checksum matches, and decoders meet bytes that nobody wrote.
pub fn matches(bytes: &[u8], sum: u64) -> bool {
    cfg!(fuzzing) || checksum(bytes) == sum
}

#[cfg(test)]
mod tests {
    /// What is stored must read back for ever, so the function may never change.
    #[test]
    fn checksum_is_pinned() {
        assert_eq!(super::checksum(b""), 0x2d06_8005_38d3_94c2);
        let long: Vec<u8> = (0..=255).cycle().take(1_000).collect();
        assert_eq!(
            super::checksum(&long),
            xxhash_rust::xxh3::xxh3_64_with_seed(&long, 0)
        );
    }
}
