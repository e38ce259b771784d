//! Ways for fuzzers into decoders that are nobody else's business.

use crate::manifest::Manifest;
use crate::write::record;

/// Decodes a manifest; whether it is one.
pub fn manifest(bytes: &[u8]) -> bool {
    Manifest::decode(bytes).is_some()
}

/// Decodes the payload of a log record; whether it is one, and its batch encodes to bytes that
/// decode to the same.
///
/// # Panics
/// Where it does not: then the log would not give back what it took.
pub fn record(payload: &[u8]) -> bool {
    let Ok(record) = record::decode(payload) else {
        return false;
    };
    let again = record.encode();
    assert_eq!(
        record::decode(&again).map(|again| again.encode()).ok(),
        Some(again)
    );
    true
}
