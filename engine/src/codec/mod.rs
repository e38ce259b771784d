//! Properties of a run, encoded: the rows of one event name in a segment and what each carries.
//!
//! [`encode_properties`] turns columns into blocks of a segment's image; [`PropertiesView`] finds
//! a property in them and reads it in place, at random or range by range. The way of a value in:
//!
//! ```text
//! Property ── plan ── dependent ── encode ─┬─ rows      which rows have a value
//!   dictionaries,    which parts           ├─ numbers   blocks of packed numbers
//!   tables           follow from others    └─ strings   blocks of text
//!                                                └─ sink: blocks of the image, descriptors
//! ```
//! and out: `properties` (the directory) -> `part` (columns, typed parts) -> `source` (direct,
//! by table, dependent) -> `numbers_read`, `strings`, `rows`; `decode` makes columns of them.
//!
//! Every block is verified against its checksum on first touch, and what it says of itself is
//! checked before it is used, so damaged bytes give a [`Corruption`](crate::error::Corruption).
//! This module knows neither users, times nor event names. `docs/format.md` tells the format.

mod bits;
mod decode;
mod dependent;
mod encode;
mod numbers;
mod numbers_read;
mod part;
mod plan;
mod properties;
mod rows;
mod sink;
mod source;
mod strings;
#[cfg(test)]
mod tests;

pub use encode::encode_properties;
pub use part::{Bounds, CodedText, ColumnView, ListView, PartView, PlainText};
pub use properties::PropertiesView;
