//! The manifest's bytes.
//!
//! ```text
//!  0  magic "PUGMAN\0\0"
//!  8  format version u32, zero u32
//! 16  length of the body u64
//! 24  checksum of the body u64
//! 32  checksum of bytes 0..32
//! 40  body: sections of (tag u32, length u32, bytes)
//! ```

use crate::dedup::DedupRunMeta;
use crate::dictionary::RunMeta;
use crate::format::{Reader, WireError, Writer, checksum, matches};
use crate::segment::SegmentMeta;
use crate::write::record::Progress;

use super::{FORMAT_VERSION, Manifest, OPTIONAL_TAGS, SegmentEntry};

const MAGIC: &[u8; 8] = b"PUGMAN\0\0";
const HEADER_BYTES: usize = 40;

// Tags 6 (identity merges) and 7 (hidden users) are kept for those.
const TAG_STORE: u32 = 1;
const TAG_SEGMENTS: u32 = 2;
const TAG_IDS: u32 = 3;
const TAG_MESSAGE_IDS: u32 = 4;
const TAG_LEDGER: u32 = 5;

/// Why a manifest could not be read.
#[derive(Debug)]
pub(super) enum DecodeError {
    TooNew(u32),
    Wire(WireError),
}

impl From<WireError> for DecodeError {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

pub(super) fn encode(manifest: &Manifest) -> Vec<u8> {
    let mut body = Writer::new();
    section(&mut body, TAG_STORE, |out| {
        out.u64(manifest.version);
        out.i64(manifest.partition_micros);
        out.u64(manifest.seed);
        out.u64(manifest.next_file);
        out.u64(manifest.next_arrival);
        out.u64(manifest.log_file);
        out.u64(manifest.log_record);
    });
    section(&mut body, TAG_SEGMENTS, |out| {
        out.u32(manifest.segments.len() as u32);
        for entry in &manifest.segments {
            out.u64(entry.number);
            out.u64(entry.length);
            entry.meta.encode(out);
        }
    });
    section(&mut body, TAG_IDS, |out| {
        out.u32(manifest.ids.len() as u32);
        for run in &manifest.ids {
            out.u64(run.number);
            out.u32(run.first);
            out.u32(run.count);
            out.u64(run.length);
        }
    });
    section(&mut body, TAG_MESSAGE_IDS, |out| {
        out.u32(manifest.message_ids.len() as u32);
        for run in &manifest.message_ids {
            out.u64(run.number);
            out.u32(run.count);
            out.i64(run.min_arrival_millis);
            out.i64(run.max_arrival_millis);
            out.u64(run.length);
        }
    });
    section(&mut body, TAG_LEDGER, |out| {
        out.u32(manifest.ledger.len() as u32);
        manifest.ledger.iter().for_each(|entry| entry.encode(out));
    });
    for (tag, bytes) in &manifest.carried {
        section(&mut body, *tag, |out| out.raw(bytes));
    }
    let body = body.finish();
    let mut out = Writer::new();
    out.raw(MAGIC);
    out.u32(FORMAT_VERSION);
    out.u32(0);
    out.u64(body.len() as u64);
    out.u64(checksum(&body));
    let mut bytes = out.finish();
    let header = checksum(&bytes);
    bytes.extend_from_slice(&header.to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

fn section(out: &mut Writer, tag: u32, fill: impl FnOnce(&mut Writer)) {
    let mut bytes = Writer::new();
    fill(&mut bytes);
    out.u32(tag);
    out.bytes(&bytes.finish());
}

pub(super) fn decode(bytes: &[u8]) -> Result<Manifest, DecodeError> {
    let mut header = Reader::new(bytes);
    let magic = header.raw(MAGIC.len())?;
    let (version, _zero) = (header.u32()?, header.u32()?);
    let (length, body_checksum) = (header.u64()?, header.u64()?);
    let covered = header.at();
    if magic != MAGIC || !matches(&bytes[..covered], header.u64()?) {
        return Err(WireError {
            at: 0,
            what: "the manifest's header does not check",
        }
        .into());
    }
    if version > FORMAT_VERSION {
        return Err(DecodeError::TooNew(version));
    }
    let body = header.raw(header.remaining())?;
    if body.len() as u64 != length || !matches(body, body_checksum) {
        return Err(WireError {
            at: HEADER_BYTES,
            what: "the manifest's body does not check",
        }
        .into());
    }
    decode_body(body).map_err(|error| match error {
        DecodeError::Wire(error) => WireError {
            at: error.at + HEADER_BYTES,
            ..error
        }
        .into(),
        too_new => too_new,
    })
}

fn decode_body(body: &[u8]) -> Result<Manifest, DecodeError> {
    let mut manifest = Manifest::new(0, 0);
    let mut sections = Reader::new(body);
    while sections.remaining() > 0 {
        let tag = sections.u32()?;
        let mut bytes = Reader::new(sections.bytes()?);
        match tag {
            TAG_STORE => decode_store(&mut bytes, &mut manifest)?,
            TAG_SEGMENTS => manifest.segments = list(&mut bytes, 16, segment)?,
            TAG_IDS => manifest.ids = list(&mut bytes, 24, ids)?,
            TAG_MESSAGE_IDS => manifest.message_ids = list(&mut bytes, 36, message_ids)?,
            TAG_LEDGER => manifest.ledger = list(&mut bytes, 25, Progress::decode)?,
            other if other >= OPTIONAL_TAGS => {
                let carried = bytes.raw(bytes.remaining())?.to_vec();
                manifest.carried.push((other, carried));
            }
            _ => return Err(DecodeError::TooNew(FORMAT_VERSION + 1)),
        }
        bytes.finish()?;
    }
    if manifest.partition_micros <= 0 {
        let what = "the manifest names no partition length";
        return Err(WireError { at: 0, what }.into());
    }
    Ok(manifest)
}

fn decode_store(bytes: &mut Reader<'_>, manifest: &mut Manifest) -> Result<(), WireError> {
    manifest.version = bytes.u64()?;
    manifest.partition_micros = bytes.i64()?;
    manifest.seed = bytes.u64()?;
    manifest.next_file = bytes.u64()?;
    manifest.next_arrival = bytes.u64()?;
    manifest.log_file = bytes.u64()?;
    manifest.log_record = bytes.u64()?;
    Ok(())
}

fn list<T>(
    bytes: &mut Reader<'_>,
    least: usize,
    read: impl Fn(&mut Reader<'_>) -> Result<T, WireError>,
) -> Result<Vec<T>, WireError> {
    let count = bytes.count(least)?;
    (0..count).map(|_| read(bytes)).collect()
}

fn segment(bytes: &mut Reader<'_>) -> Result<SegmentEntry, WireError> {
    let (number, length) = (bytes.u64()?, bytes.u64()?);
    Ok(SegmentEntry {
        number,
        length,
        meta: SegmentMeta::decode(bytes)?,
    })
}

fn ids(bytes: &mut Reader<'_>) -> Result<RunMeta, WireError> {
    let (number, first, count) = (bytes.u64()?, bytes.u32()?, bytes.u32()?);
    Ok(RunMeta {
        number,
        first,
        count,
        length: bytes.u64()?,
    })
}

fn message_ids(bytes: &mut Reader<'_>) -> Result<DedupRunMeta, WireError> {
    let (number, count) = (bytes.u64()?, bytes.u32()?);
    let (min_arrival_millis, max_arrival_millis) = (bytes.i64()?, bytes.i64()?);
    let length = bytes.u64()?;
    Ok(DedupRunMeta {
        number,
        count,
        min_arrival_millis,
        max_arrival_millis,
        length,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Manifest {
        let mut manifest = Manifest::new(86_400_000_000, 42);
        manifest.version = 7;
        manifest.ids.push(RunMeta {
            number: 3,
            first: 0,
            count: 9,
            length: 100,
        });
        manifest.ledger.push(Progress {
            key: 5,
            rows_done: 6,
            complete: false,
        });
        manifest.carried.push((OPTIONAL_TAGS + 1, vec![1, 2, 3]));
        manifest
    }

    #[test]
    fn round_trip() {
        let bytes = encode(&sample());
        assert_eq!(decode(&bytes).unwrap(), sample());
    }

    #[test]
    fn every_flip_and_cut_is_noticed() {
        let bytes = encode(&sample());
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len]).is_err(), "cut at {len}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_release_is_refused_by_name() {
        let mut manifest = sample();
        manifest.carried = vec![(99, vec![])];
        assert!(matches!(
            decode(&encode(&manifest)),
            Err(DecodeError::TooNew(2))
        ));
    }
}
