//! User bitmaps: read in place from mapped bytes, computed with densely, written compactly.
//!
//! Three shapes of one thing. A [`BitmapView`] reads the portable roaring format (32-bit) where
//! it lies, without a copy. [`Words`] is one container (65 536 users) as plain bits: the currency
//! of query execution. A [`BitmapBuilder`] writes the portable format, container by container,
//! each in its smallest form. This module knows nothing of segments, files or event names.

mod builder;
mod view;
mod words;

pub use builder::BitmapBuilder;
pub use view::{BitmapShape, BitmapView, ContainerView};
pub use words::{WordIter, Words};

/// Users in one container.
pub const CONTAINER_BITS: usize = 1 << 16;
/// 64-bit words in one dense container.
pub const CONTAINER_WORDS: usize = CONTAINER_BITS / 64;
/// Most values of an array container; the portable format stores larger ones as bits.
const ARRAY_VALUES: u32 = 4_096;
/// Bytes of a container stored as bits.
pub(crate) const BITS_BYTES: usize = CONTAINER_BITS / 8;
/// Cookie of a bitmap without run containers.
const COOKIE_PLAIN: u32 = 12_346;
/// Low half of the cookie of a bitmap with run containers.
const COOKIE_RUNS: u32 = 12_347;
/// Bitmaps with run containers and fewer containers than this have no offsets.
const OFFSETS_FROM: usize = 4;

/// The container that an ordinal lies in, and its place there.
pub fn split(ordinal: u32) -> (u16, u16) {
    ((ordinal >> 16) as u16, ordinal as u16)
}

/// The ordinal at a place of a container.
pub fn join(key: u16, low: u16) -> u32 {
    u32::from(key) << 16 | u32::from(low)
}

#[cfg(test)]
mod tests;
