//! Every bound of the store in one place, each with its reason.

/// Longest user id and event name, in bytes: fits a one-byte length.
pub const MAX_NAME_BYTES: usize = 255;
/// Longest property name, in bytes; nested JSON keys joined with dots fit well inside.
pub const MAX_PROPERTY_NAME_BYTES: usize = 1_024;
/// Largest text value, in bytes (1 MiB): a block holds at least one value whole.
pub const MAX_TEXT_BYTES: usize = 1 << 20;
/// Most elements of one multi-valued property of one event.
pub const MAX_LIST_ELEMENTS: usize = 65_536;
/// Most rows of one appended batch; one log record holds it.
pub const MAX_BATCH_ROWS: usize = 1 << 20;
/// Largest encoded batch, in bytes (256 MiB): bounds what replay allocates for one record.
pub const MAX_RECORD_BYTES: usize = 256 << 20;
/// Most distinct properties of one batch.
pub const MAX_BATCH_PROPERTIES: usize = 16_384;
/// Event names with a run of their own in a segment; the rest share the overflow run.
pub const MAX_NAME_RUNS: usize = 10_000;
/// Text properties with at most this many values get a user bitmap for each value.
pub const MAX_VALUE_BITMAPS: usize = 64;
/// Users in one roaring container; every span of users is cut at multiples of this.
pub const CONTAINER_USERS: u32 = 1 << 16;
/// Most rows of one segment: row numbers fit `u32` with room to spare.
pub const MAX_SEGMENT_ROWS: u32 = 1 << 30;
/// Most time partitions that one store may hold: each costs a file and a manifest entry.
pub const MAX_PARTITIONS: usize = 100_000;

const _: () = assert!(MAX_NAME_BYTES <= u8::MAX as usize);
const _: () = assert!(MAX_BATCH_ROWS <= MAX_SEGMENT_ROWS as usize);
