//! Bytes on the heap whose first byte lies at a multiple of 8, as in a mapped file.

use bytes::Bytes;

/// Owns whole words, shows the bytes of them that are in use.
struct AlignedBytes {
    words: Vec<u64>,
    len: usize,
}

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.len]
    }
}

/// `len` bytes, 8-byte aligned, that `fill` has written.
///
/// # Errors
/// Those of `fill`.
pub(super) fn aligned_bytes<E>(
    len: usize,
    fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
) -> Result<Bytes, E> {
    let mut words = vec![0u64; len.div_ceil(8)];
    fill(&mut bytemuck::cast_slice_mut(&mut words)[..len])?;
    Ok(Bytes::from_owner(AlignedBytes { words, len }))
}
