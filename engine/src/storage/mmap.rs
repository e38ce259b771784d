//! Maps a sealed file: the only unsafe code of the engine.
//!
//! Soundness: `Mmap` promises bytes that never change behind a `&[u8]`. A file is mapped only
//! once it is sealed: written whole, synced, its length known from the manifest and compared
//! first. No code of the engine writes to a sealed file or shortens it, removal leaves the
//! mapping whole, and the writer's lock keeps other Pugmark processes to the same rules. A
//! person who truncates a file of an open store ends the process with SIGBUS; where that must
//! not be, [`OsStorage::without_maps`](super::OsStorage::without_maps) copies instead.
//!
//! Benefit: opening a store reads nothing of its segments, a query touches only the pages that
//! it needs, and the page cache is shared with every other reader.

use std::fs::File;
use std::io;

use bytes::Bytes;
use memmap2::{Mmap, MmapOptions};

/// Maps the first `length` bytes of a sealed file that is at least that long.
pub(super) fn map_sealed(file: &File, length: usize) -> io::Result<Bytes> {
    if length == 0 {
        return Ok(Bytes::new());
    }
    Ok(Bytes::from_owner(map(file, length)?))
}

#[expect(
    unsafe_code,
    reason = "the promise that a sealed file never changes is ours, not the compiler's"
)]
fn map(file: &File, length: usize) -> io::Result<Mmap> {
    // SAFETY: sealed files never change or shrink (see the module's head), and the caller has
    // compared the file's length with `length`, so every byte of the mapping is backed.
    unsafe { MmapOptions::new().len(length).map(file) }
}
