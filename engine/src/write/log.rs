//! The write-ahead log: files of numbered, chained, checksummed records.
//!
//! Owns the framing, what is a torn tail and what is damage, and how a log is made whole after a
//! crash. Knows nothing of what a payload means. `docs/durability.md` tells the same as a
//! contract.
//!
//! ```text
//! header, 48 bytes                          frame, 48 bytes + payload + zeros up to a multiple of 8
//!  0  magic "PUGLOG\0\0"                     0  checksum of bytes 8..48, seeded with the salt
//!  8  version u32, zero u32                  8  the checksum at 0 of the frame before (the chain)
//! 16  file number u64                       16  checksum of the payload
//! 24  first record number u64               24  record number u64, without a gap
//! 32  salt u64, drawn at random             32  settled u64: records below it were synced before
//! 40  checksum of bytes 0..40               40  payload length u32, kind u32
//! ```
//! Kinds: 1 a record; 2 the seal that ends the file; 3 the proof behind the seal.
//!
//! A crash may lose any part of what was written after the last sync, also the middle of it. So a
//! frame that does not check is the torn tail of a crash, unless a later frame says that it was
//! settled: then it once was whole and is damaged. The salt keeps a payload that holds a copy
//! of log bytes from being taken for frames.
//!
//! A seal that can be read may still be in the page cache only, because the process died before it
//! was synced. The proof is written after that sync, so a log with a proof is on disk.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::error::{Corruption, ReadError, StorageError};
use crate::format::{Reader, Writer, checksum, matches};
use crate::limits::MAX_RECORD_BYTES;
use crate::storage::{FileWriter, Storage};

#[cfg(test)]
mod tests;

/// The directory of log files.
pub const LOG_DIRECTORY: &str = "log";
/// Bytes before the first frame.
pub const HEADER_BYTES: usize = 48;
/// Bytes of a frame before its payload.
pub const FRAME_BYTES: usize = 48;

const MAGIC: &[u8; 8] = b"PUGLOG\0\0";
const VERSION: u32 = 1;
const KIND_RECORD: u32 = 1;
const KIND_SEAL: u32 = 2;
const KIND_PROOF: u32 = 3;
/// Frames begin at multiples of this, so that a search for one has few places to look at.
const ALIGNMENT: usize = 8;
/// A log made whole is rewritten in pieces of about this many bytes.
const REWRITE_BYTES: usize = 4 << 20;

const _: () = assert!(MAX_RECORD_BYTES <= u32::MAX as usize);

/// The name of log file `number`.
pub fn log_name(number: u64) -> String {
    format!("{LOG_DIRECTORY}/{number:012}.log")
}

/// The number of the log file with this name inside the log directory, if it is one.
pub fn log_number(file_name: &str) -> Option<u64> {
    let digits = file_name.strip_suffix(".log")?;
    let number = digits.parse().ok()?;
    // `+7` and `007` parse too; only the name that `log_name` gives counts.
    (format!("{number:012}") == digits).then_some(number)
}

// ---------------------------------------------------------------------------------------------
// Writing
// ---------------------------------------------------------------------------------------------

/// Records on their way to a log file: payloads in place, the frames' numbers and checksums
/// filled in when they are written.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
}

impl Frames {
    /// Adds a record of at most [`MAX_RECORD_BYTES`].
    pub fn push(&mut self, payload: &[u8]) {
        self.push_kind(payload, KIND_RECORD);
    }

    fn push_kind(&mut self, payload: &[u8], kind: u32) {
        assert!(
            payload.len() <= MAX_RECORD_BYTES,
            "a record is bounded before it is logged"
        );
        self.bytes.reserve(frame_bytes(payload.len()));
        self.bytes.extend_from_slice(&[0; 16]);
        self.bytes
            .extend_from_slice(&checksum(payload).to_le_bytes());
        self.bytes.extend_from_slice(&[0; 16]);
        self.bytes
            .extend_from_slice(&(payload.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&kind.to_le_bytes());
        self.bytes.extend_from_slice(payload);
        let padded = self.bytes.len().next_multiple_of(ALIGNMENT);
        self.bytes.resize(padded, 0);
    }

    /// Bytes that will be written.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True without any record.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// What a log writer has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStatistics {
    /// Records written.
    pub records: u64,
    /// Bytes written, headers and frames included.
    pub bytes: u64,
    /// Writes handed to the storage.
    pub writes: u64,
    /// Files synced.
    pub syncs: u64,
}

/// Writes one log file. After any error the file's end is unknown: drop the writer.
#[derive(Debug)]
pub struct LogWriter {
    file: Box<dyn FileWriter>,
    salt: u64,
    chain: u64,
    next_record: u64,
    settled: u64,
    pending: Frames,
    statistics: LogStatistics,
}

impl LogWriter {
    /// Starts log file `number`, whose first record will be `first_record`. When it returns, the
    /// file and its name survive a crash.
    pub fn create(
        storage: &dyn Storage,
        number: u64,
        first_record: u64,
    ) -> Result<Self, StorageError> {
        let writer = Self::create_named(storage, &log_name(number), number, first_record)?;
        storage.sync_directory(LOG_DIRECTORY)?;
        Ok(writer)
    }

    /// The header is synced before any frame follows: a file longer than its header whose header
    /// does not check is damaged, not torn.
    fn create_named(
        storage: &dyn Storage,
        name: &str,
        number: u64,
        first_record: u64,
    ) -> Result<Self, StorageError> {
        let salt = RandomState::new().build_hasher().finish();
        Self::start(storage.create(name)?, number, first_record, salt)
    }

    fn start(
        file: Box<dyn FileWriter>,
        number: u64,
        first_record: u64,
        salt: u64,
    ) -> Result<Self, StorageError> {
        let header = encode_header(number, first_record, salt);
        let mut writer = Self {
            file,
            salt,
            chain: checksum(&header),
            next_record: first_record,
            settled: first_record,
            pending: Frames::default(),
            statistics: LogStatistics::default(),
        };
        writer.write(&header)?;
        writer.sync()?;
        Ok(writer)
    }

    /// Number of the next record.
    pub fn next_record(&self) -> u64 {
        self.next_record
    }

    /// True where everything written survives a crash.
    pub fn is_settled(&self) -> bool {
        self.settled == self.next_record
    }

    /// What this writer has done, added to what it was told to [carry on](Self::carry_on).
    pub fn statistics(&self) -> LogStatistics {
        self.statistics
    }

    /// Counts on from the statistics of the file before.
    pub fn carry_on(&mut self, before: LogStatistics) {
        self.statistics.records += before.records;
        self.statistics.bytes += before.bytes;
        self.statistics.writes += before.writes;
        self.statistics.syncs += before.syncs;
    }

    /// Adds a record, to be written by the next commit.
    pub fn append(&mut self, payload: &[u8]) {
        self.pending.push(payload);
    }

    /// Writes what was appended; with `sync`, it survives a crash when this returns.
    pub fn commit(&mut self, sync: bool) -> Result<(), StorageError> {
        let frames = std::mem::take(&mut self.pending);
        self.commit_frames(frames, sync)
    }

    /// Writes `frames`; with `sync`, they and all before survive a crash when this returns.
    pub fn commit_frames(&mut self, mut frames: Frames, sync: bool) -> Result<(), StorageError> {
        if !frames.is_empty() {
            self.number(&mut frames);
            self.write(&frames.bytes)?;
        }
        if sync && self.settled < self.next_record {
            self.sync()?;
        }
        Ok(())
    }

    /// Ends the file: everything in it is synced, then a seal says so and is synced too, then a
    /// proof says that and need not survive. From the seal on every flipped bit of a record is
    /// noticed as damage.
    pub fn seal(mut self) -> Result<LogStatistics, StorageError> {
        self.seal_unproven()?;
        self.write_mark(KIND_PROOF)?;
        Ok(self.statistics)
    }

    fn seal_unproven(&mut self) -> Result<(), StorageError> {
        self.commit(true)?;
        self.write_mark(KIND_SEAL)?;
        self.sync()
    }

    /// Writes a frame that is no record; the number it takes is given again in the next file.
    fn write_mark(&mut self, kind: u32) -> Result<(), StorageError> {
        let records = self.statistics.records;
        let mut mark = Frames::default();
        mark.push_kind(&[], kind);
        self.number(&mut mark);
        self.statistics.records = records;
        self.write(&mark.bytes)
    }

    /// Fills in what depends on the place in the file: number, settled, chain, head checksum.
    fn number(&mut self, frames: &mut Frames) {
        let mut rest = frames.bytes.as_mut_slice();
        while let Some((head, after)) = rest.split_first_chunk_mut::<FRAME_BYTES>() {
            let length = u32::from_le_bytes([head[40], head[41], head[42], head[43]]);
            head[8..16].copy_from_slice(&self.chain.to_le_bytes());
            head[24..32].copy_from_slice(&self.next_record.to_le_bytes());
            head[32..40].copy_from_slice(&self.settled.to_le_bytes());
            self.chain = xxh3_64_with_seed(&head[8..], self.salt);
            head[..8].copy_from_slice(&self.chain.to_le_bytes());
            self.next_record += 1;
            self.statistics.records += 1;
            rest = &mut after[frame_bytes(length as usize) - FRAME_BYTES..];
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.file.append(bytes)?;
        self.statistics.writes += 1;
        self.statistics.bytes += bytes.len() as u64;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.file.sync()?;
        self.statistics.syncs += 1;
        self.settled = self.next_record;
        Ok(())
    }
}

/// Bytes that a frame with this payload takes in the file.
fn frame_bytes(payload_len: usize) -> usize {
    FRAME_BYTES + payload_len.next_multiple_of(ALIGNMENT)
}

fn encode_header(number: u64, first_record: u64, salt: u64) -> Vec<u8> {
    let mut header = Writer::new();
    header.raw(MAGIC);
    header.u32(VERSION);
    header.u32(0);
    header.u64(number);
    header.u64(first_record);
    header.u64(salt);
    let mut header = header.finish();
    let sum = checksum(&header);
    header.extend_from_slice(&sum.to_le_bytes());
    header
}

// ---------------------------------------------------------------------------------------------
// Reading one file
// ---------------------------------------------------------------------------------------------

/// A record of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// Its number; the next record's is one more.
    pub number: u64,
    /// A slice of the file's bytes, not copied.
    pub payload: Bytes,
}

/// What a log file holds, up to its torn tail where it has one.
#[derive(Clone, Debug)]
pub struct LogContents {
    /// Number of the first record, or none where a crash tore the header itself.
    pub first_record: Option<u64>,
    /// The records, in order.
    pub records: Vec<LogRecord>,
    /// True where the file was ended on purpose; then it is whole.
    pub sealed: bool,
    /// True where the seal is known to have been synced. A seal without a proof may be lost yet.
    pub proven: bool,
    /// Bytes up to the end of the last valid frame.
    pub valid_len: u64,
    /// Bytes of the file; what lies behind `valid_len` is the torn tail.
    pub len: u64,
}

impl LogContents {
    /// Number of the record after the last, or none where the header is torn.
    pub fn next_record(&self) -> Option<u64> {
        Some(self.first_record? + self.records.len() as u64)
    }

    fn torn_header(len: usize) -> Self {
        Self {
            first_record: None,
            records: Vec::new(),
            sealed: false,
            proven: false,
            valid_len: 0,
            len: len as u64,
        }
    }
}

/// Reads log file `number`, whole, into memory. The file may still be growing.
///
/// # Errors
/// Where it cannot be read, or holds damage that no crash explains.
pub fn read_log(storage: &dyn Storage, number: u64) -> Result<LogContents, ReadError> {
    let name = log_name(number);
    let bytes = Bytes::from(storage.read(&name)?);
    Ok(decode_log(&bytes, &storage.path(&name), number)?)
}

/// The head of a frame, checked against its checksum.
struct FrameHead {
    checksum: u64,
    previous: u64,
    payload_checksum: u64,
    number: u64,
    settled: u64,
    length: u32,
    kind: u32,
}

/// Decodes the bytes of log file `number`; `file` is its path for errors.
///
/// # Errors
/// Where a frame is damaged that a later one shows to have been whole, where valid frames do not
/// follow each other, or where the header of a file with frames does not check.
pub fn decode_log(bytes: &Bytes, file: &Path, number: u64) -> Result<LogContents, Corruption> {
    let damaged = |offset: usize, what| Corruption::new(file, offset as u64, what);
    let Some(header) = decode_header(bytes, number).map_err(|what| damaged(0, what))? else {
        return Ok(LogContents::torn_header(bytes.len()));
    };
    let mut contents = LogContents {
        first_record: Some(header.first_record),
        records: Vec::new(),
        sealed: false,
        proven: false,
        valid_len: 0,
        len: bytes.len() as u64,
    };
    let mut at = HEADER_BYTES;
    let mut chain = header.checksum;
    let mut next = header.first_record;
    while at < bytes.len() {
        let Some(head) = frame_head(bytes, at, header.salt) else {
            refuse_if_settled(bytes, at, header.salt, next).map_err(|what| damaged(at, what))?;
            break;
        };
        if head.previous != chain || head.number != next || head.settled > next {
            return Err(damaged(at, "a record does not follow the one before it"));
        }
        let Some(end) = frame_end(bytes, at, &head).map_err(|what| damaged(at, what))? else {
            refuse_if_settled(bytes, at, header.salt, next).map_err(|what| damaged(at, what))?;
            break;
        };
        if head.kind == KIND_SEAL {
            contents.sealed = true;
            contents.proven =
                has_proof(bytes, end, &header, &head).map_err(|what| damaged(end, what))?;
            at = if contents.proven { bytes.len() } else { end };
            break;
        }
        let start = at + FRAME_BYTES;
        contents.records.push(LogRecord {
            number: next,
            payload: bytes.slice(start..start + head.length as usize),
        });
        chain = head.checksum;
        next = next
            .checked_add(1)
            .ok_or_else(|| damaged(at, "a record number is too large"))?;
        at = end;
    }
    contents.valid_len = at as u64;
    Ok(contents)
}

struct Header {
    first_record: u64,
    salt: u64,
    checksum: u64,
}

/// The header, or none where a crash tore it. Frames follow only a synced header, so a header
/// that does not check is torn only where the file ends with it. Where its checksum lies is the
/// same in every version.
fn decode_header(bytes: &[u8], number: u64) -> Result<Option<Header>, &'static str> {
    let Some(header) = bytes.get(..HEADER_BYTES) else {
        return Ok(None);
    };
    let damaged = "the header does not check";
    let header_checksum = checksum(header);
    let (fields, stored) = header.split_at(HEADER_BYTES - 8);
    let stored = Reader::new(stored).u64().map_err(|error| error.what)?;
    if !matches(fields, stored) {
        let torn = bytes.len() == HEADER_BYTES;
        return if torn { Ok(None) } else { Err(damaged) };
    }
    let mut fields = Reader::new(fields);
    let magic = fields.raw(MAGIC.len()).map_err(|error| error.what)?;
    let version = fields.u32().map_err(|error| error.what)?;
    if magic != MAGIC {
        return Err(damaged);
    }
    if version > VERSION {
        return Err("was written by a newer release");
    }
    let zero = fields.u32().map_err(|error| error.what)?;
    let found_number = fields.u64().map_err(|error| error.what)?;
    if version != VERSION || zero != 0 {
        return Err(damaged);
    }
    if found_number != number {
        return Err("is another log file than its name says");
    }
    Ok(Some(Header {
        first_record: fields.u64().map_err(|error| error.what)?,
        salt: fields.u64().map_err(|error| error.what)?,
        checksum: header_checksum,
    }))
}

/// The frame's head at `at`, where one with a matching checksum lies there.
fn frame_head(bytes: &[u8], at: usize, salt: u64) -> Option<FrameHead> {
    let head = bytes.get(at..)?.get(..FRAME_BYTES)?;
    let mut fields = Reader::new(head);
    let decoded = FrameHead {
        checksum: fields.u64().ok()?,
        previous: fields.u64().ok()?,
        payload_checksum: fields.u64().ok()?,
        number: fields.u64().ok()?,
        settled: fields.u64().ok()?,
        length: fields.u32().ok()?,
        kind: fields.u32().ok()?,
    };
    (cfg!(fuzzing) || decoded.checksum == xxh3_64_with_seed(&head[8..], salt)).then_some(decoded)
}

/// Where the frame ends, or none where its payload is cut short or does not check.
fn frame_end(bytes: &[u8], at: usize, head: &FrameHead) -> Result<Option<usize>, &'static str> {
    let length = head.length as usize;
    let known = head.kind == KIND_RECORD || (head.kind == KIND_SEAL && length == 0);
    if !known || length > MAX_RECORD_BYTES {
        return Err("a record is of an unknown kind or too long");
    }
    let end = at + frame_bytes(length);
    let Some(padded) = bytes.get(at + FRAME_BYTES..end) else {
        return Ok(None);
    };
    let (payload, padding) = padded.split_at(length);
    let whole = matches(payload, head.payload_checksum) && padding.iter().all(|&byte| byte == 0);
    Ok(whole.then_some(end))
}

/// Whether the proof follows the seal that ends at `at`. It is never synced, so a crash may tear
/// it, but nothing else may follow.
fn has_proof(
    bytes: &[u8],
    at: usize,
    header: &Header,
    seal: &FrameHead,
) -> Result<bool, &'static str> {
    if bytes.len() - at > FRAME_BYTES {
        return Err("bytes follow the end of a finished log");
    }
    let Some(head) = frame_head(bytes, at, header.salt) else {
        return Ok(false);
    };
    if head.kind != KIND_PROOF || head.previous != seal.checksum || head.length != 0 {
        return Err("something else than its proof follows a seal");
    }
    Ok(true)
}

/// Refuses the broken frame of record `number` at `at` where a frame behind it says that the
/// record had been synced. Frames whose fields already rule that out are not hashed, so the search
/// is linear in the bytes.
fn refuse_if_settled(bytes: &[u8], at: usize, salt: u64, number: u64) -> Result<(), &'static str> {
    let settled_behind = (at + ALIGNMENT..bytes.len())
        .step_by(ALIGNMENT)
        .any(|place| {
            settled_field(bytes, place).is_some_and(|settled| settled > number)
                && frame_head(bytes, place, salt).is_some_and(|head| head.settled > number)
        });
    if settled_behind {
        Err("a record that was whole before is damaged")
    } else {
        Ok(())
    }
}

fn settled_field(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at + 32..)?.first_chunk()?;
    Some(u64::from_le_bytes(*field))
}

// ---------------------------------------------------------------------------------------------
// Reading all files, and making them whole
// ---------------------------------------------------------------------------------------------

/// The records of all log files.
#[derive(Clone, Debug)]
pub struct Logs {
    /// The records from the first that was asked for, in order, without a gap.
    pub records: Vec<LogRecord>,
    /// Number of the record after the last; at least the first that was asked for.
    pub next_record: u64,
}

/// Reads log files `numbers` (ascending) for the records from `first_record` on. Changes nothing:
/// for a reader beside the writer, and the first half of [`recover_logs`].
///
/// # Errors
/// Where a file cannot be read or is damaged, where a file other than the last is not sealed,
/// and where records from `first_record` on are missing between two files or before the first.
pub fn read_logs(
    storage: &dyn Storage,
    numbers: &[u64],
    first_record: u64,
) -> Result<Logs, ReadError> {
    read_files(storage, numbers, first_record).map(|(logs, _)| logs)
}

/// Reads the logs as [`read_logs`] does, and makes the last file whole, so that what was read is
/// what every later open reads: a file that is not [proven](LogContents::proven) to be whole on
/// disk is replaced by a sealed copy of its valid records. That cuts a torn tail for good, and
/// brings to disk what was read from the page cache only (the process before may have died, or
/// seen a sync fail). A crash in between leaves either file. For the writer, under its lock, before it starts a new file.
///
/// # Errors
/// As [`read_logs`], and where the copy cannot be written.
pub fn recover_logs(
    storage: &dyn Storage,
    numbers: &[u64],
    first_record: u64,
) -> Result<Logs, ReadError> {
    let (logs, last) = read_files(storage, numbers, first_record)?;
    if let (Some(contents), Some(&number)) = (last, numbers.last())
        && !contents.proven
    {
        replace_sealed(storage, number, &contents, logs.next_record)?;
    }
    Ok(logs)
}

fn read_files(
    storage: &dyn Storage,
    numbers: &[u64],
    first_record: u64,
) -> Result<(Logs, Option<LogContents>), ReadError> {
    let mut logs = Logs {
        records: Vec::new(),
        next_record: first_record,
    };
    let mut last: Option<LogContents> = None;
    let mut after_last = 0;
    for (index, &number) in numbers.iter().enumerate() {
        let contents = read_log(storage, number)?;
        let damaged =
            |offset, what| Corruption::new(&storage.path(&log_name(number)), offset, what);
        if index + 1 < numbers.len() && !contents.sealed {
            let what = "a log that others follow ends too early";
            return Err(damaged(contents.valid_len, what).into());
        }
        if let (Some(first), Some(next)) = (contents.first_record, contents.next_record()) {
            if first < after_last {
                return Err(damaged(0, "repeats records of the log before it").into());
            }
            // Records below `first_record` are not needed, so they may be missing.
            if first > logs.next_record {
                return Err(damaged(0, "the log with the records before it is missing").into());
            }
            let wanted = |record: &&LogRecord| record.number >= first_record;
            logs.records
                .extend(contents.records.iter().filter(wanted).cloned());
            logs.next_record = logs.next_record.max(next);
            after_last = next;
        }
        last = Some(contents);
    }
    Ok((logs, last))
}

/// Replaces log file `number` by a sealed file with the same records. One whose header is torn
/// never had any; it becomes an empty file that begins at `next_record`.
fn replace_sealed(
    storage: &dyn Storage,
    number: u64,
    contents: &LogContents,
    next_record: u64,
) -> Result<(), StorageError> {
    let name = log_name(number);
    let copy = format!("{name}.new");
    match storage.remove(&copy) {
        Err(error) if !error.is_not_found() => return Err(error),
        _ => {}
    }
    let first_record = contents.first_record.unwrap_or(next_record);
    let mut writer = LogWriter::create_named(storage, &copy, number, first_record)?;
    for record in &contents.records {
        writer.append(&record.payload);
        if writer.pending.len() >= REWRITE_BYTES {
            writer.commit(false)?;
        }
    }
    // Without a proof: who finds it under this name cannot know whether the rename was synced.
    writer.seal_unproven()?;
    drop(writer);
    storage.rename(&copy, &name)
}
