//! A sealed run of message ids: hashes in ascending order, and their arrivals.

use std::path::Path;

use bytes::Bytes;
use smallvec::SmallVec;

use super::DedupRunMeta;
use crate::error::{Corruption, ReadError, StorageError};
use crate::format::{BlockRef, FrameWriter, Reader, Sealed, WireError, Writer, open_frame};
use crate::storage::Storage;

const MAGIC: [u8; 8] = *b"PUGMID\0\0";
/// Ids of a block: 64 KiB of hashes, which a first touch verifies.
const BLOCK_IDS: usize = 4_096;
const HASH_BYTES: usize = 16;
/// Hashes that are searched together.
const AT_ONCE: usize = 32;
/// Pending bytes at which a run being written goes out to its sink.
const FLUSH_BYTES: usize = 1 << 20;
/// Encoded bytes of a directory entry: the first hash and two block references.
const PLACE_BYTES: usize = HASH_BYTES + 2 * BlockRef::ENCODED_BYTES;

/// Takes the bytes of a file in order.
pub(super) type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), StorageError>;

/// File name of a run.
pub(super) fn file_name(number: u64) -> String {
    format!("dedup/{number:012}.mid")
}

/// Changes with the seed, so that a run of another store is refused.
fn seed_mark(seed: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(b"pugmark message ids", seed)
}

/// An id's hash and arrival, in 24 bytes (a `u128` would pad it to 32).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    high: u64,
    low: u64,
    pub(super) arrival_millis: i64,
}

impl Entry {
    pub(super) fn new(hash: u128, arrival_millis: i64) -> Self {
        Self {
            high: (hash >> 64) as u64,
            low: hash as u64,
            arrival_millis,
        }
    }

    pub(super) fn hash(&self) -> u128 {
        u128::from(self.high) << 64 | u128::from(self.low)
    }
}

/// Where a block of ids lies.
#[derive(Clone, Copy, Debug)]
struct Place {
    first: u128,
    hashes: BlockRef,
    arrivals: BlockRef,
}

/// Where a hash is expected.
struct Guess<'r> {
    place: &'r Place,
    /// Those of its block, at least one.
    hashes: &'r [u8],
    /// One of them.
    index: usize,
}

/// Bytes of an arrival in a run: offsets from the oldest in `u32` milliseconds reach 49 days;
/// only a clock that jumped makes a run span more.
fn arrival_bytes(oldest_millis: i64, youngest_millis: i64) -> usize {
    match u32::try_from(youngest_millis.wrapping_sub(oldest_millis) as u64) {
        Ok(_) => 4,
        Err(_) => 8,
    }
}

/// Writes a run as a stream; holds one block, its directory and at most a MiB.
pub(super) struct RunWriter<'a> {
    sink: Sink<'a>,
    frame: FrameWriter,
    seed: u64,
    oldest_millis: i64,
    youngest_millis: i64,
    arrival_bytes: usize,
    count: u32,
    block_first: u128,
    hashes: Vec<u8>,
    arrivals: Vec<u8>,
    places: Vec<Place>,
}

impl<'a> RunWriter<'a> {
    /// A run of ids that arrived within these bounds.
    pub(super) fn new(sink: Sink<'a>, seed: u64, oldest_millis: i64, youngest_millis: i64) -> Self {
        Self {
            sink,
            frame: FrameWriter::new(MAGIC),
            seed,
            oldest_millis,
            youngest_millis,
            arrival_bytes: arrival_bytes(oldest_millis, youngest_millis),
            count: 0,
            block_first: 0,
            hashes: Vec::with_capacity(BLOCK_IDS * HASH_BYTES),
            arrivals: Vec::new(),
            places: Vec::new(),
        }
    }

    /// Adds an id; their hashes ascend strictly.
    pub(super) fn push(&mut self, entry: Entry) -> Result<(), StorageError> {
        if self.hashes.is_empty() {
            self.block_first = entry.hash();
        }
        let offset = entry.arrival_millis.wrapping_sub(self.oldest_millis);
        self.hashes.extend_from_slice(&entry.hash().to_le_bytes());
        self.arrivals
            .extend_from_slice(&offset.to_le_bytes()[..self.arrival_bytes]);
        self.count += 1;
        if self.hashes.len() == BLOCK_IDS * HASH_BYTES {
            self.finish_block()?;
        }
        Ok(())
    }

    fn finish_block(&mut self) -> Result<(), StorageError> {
        self.places.push(Place {
            first: self.block_first,
            hashes: self.frame.block(&self.hashes),
            arrivals: self.frame.block(&self.arrivals),
        });
        self.hashes.clear();
        self.arrivals.clear();
        if self.frame.pending().len() >= FLUSH_BYTES {
            (self.sink)(self.frame.pending())?;
            self.frame.forget_pending();
        }
        Ok(())
    }

    /// Writes the footer.
    pub(super) fn finish(mut self, number: u64) -> Result<DedupRunMeta, StorageError> {
        if !self.hashes.is_empty() {
            self.finish_block()?;
        }
        let mut footer = Writer::new();
        footer.u64(seed_mark(self.seed));
        footer.i64(self.oldest_millis);
        footer.i64(self.youngest_millis);
        footer.u32(self.count);
        footer.u32(self.places.len() as u32);
        for place in &self.places {
            footer.raw(&place.first.to_le_bytes());
            place.hashes.encode(&mut footer);
            place.arrivals.encode(&mut footer);
        }
        let (rest, length) = self.frame.finish(&footer.finish());
        (self.sink)(&rest)?;
        Ok(DedupRunMeta {
            number,
            count: self.count,
            min_arrival_millis: self.oldest_millis,
            max_arrival_millis: self.youngest_millis,
            length,
        })
    }
}

/// An open run: a directory on the heap (64 bytes for 4 096 ids), the rest mapped.
#[derive(Debug)]
pub(super) struct Run {
    meta: DedupRunMeta,
    sealed: Sealed,
    arrival_bytes: usize,
    places: Vec<Place>,
}

impl Run {
    /// Maps the run that `meta` names.
    pub(super) fn open(
        storage: &dyn Storage,
        seed: u64,
        meta: DedupRunMeta,
    ) -> Result<Self, ReadError> {
        let name = file_name(meta.number);
        let bytes = storage.map(&name, meta.length)?;
        Ok(Self::from_bytes(bytes, &storage.path(&name), seed, meta)?)
    }

    /// The run with these bytes, mapped or not.
    pub(super) fn from_bytes(
        bytes: Bytes,
        path: &Path,
        seed: u64,
        meta: DedupRunMeta,
    ) -> Result<Self, Corruption> {
        let (sealed, footer) = open_frame(bytes, path, MAGIC)?;
        let mut reader = footer.reader();
        let places = read_places(&mut reader, seed, &meta)
            .and_then(|places| reader.finish().map(|()| places))
            .map_err(|error| footer.corrupt(path, error))?;
        Ok(Self {
            meta,
            sealed,
            arrival_bytes: arrival_bytes(meta.min_arrival_millis, meta.max_arrival_millis),
            places,
        })
    }

    pub(super) fn meta(&self) -> &DedupRunMeta {
        &self.meta
    }

    pub(super) fn directory_bytes(&self) -> usize {
        self.places.capacity() * size_of::<Place>()
    }

    /// Finds those of the hashes that are here, and tells the places among them and the arrivals.
    pub(super) fn find_all(
        &self,
        hashes: &[u128],
        mut found: impl FnMut(usize, i64),
    ) -> Result<(), Corruption> {
        for (group, hashes) in hashes.chunks(AT_ONCE).enumerate() {
            // A processor waits for the bytes where these searches begin all at once. Each search
            // alone would wait for its own.
            let mut guesses = SmallVec::<[_; AT_ONCE]>::new();
            let mut seen = 0;
            for &hash in hashes {
                let guess = self.guess(hash)?;
                let first_byte = |guess: &Guess<'_>| guess.hashes[guess.index * HASH_BYTES];
                seen ^= guess.as_ref().map_or(0, first_byte);
                guesses.push(guess);
            }
            std::hint::black_box(seen);
            for (place, (&hash, guess)) in hashes.iter().zip(&guesses).enumerate() {
                if let Some(arrival) = self.find_near(hash, guess.as_ref())? {
                    found(group * AT_ONCE + place, arrival);
                }
            }
        }
        Ok(())
    }

    /// The arrival of the id with this hash.
    pub(super) fn find(&self, hash: u128) -> Result<Option<i64>, Corruption> {
        self.find_near(hash, self.guess(hash)?.as_ref())
    }

    fn find_near(&self, hash: u128, guess: Option<&Guess<'_>>) -> Result<Option<i64>, Corruption> {
        let Some(guess) = guess else { return Ok(None) };
        let found = search(guess.hashes, hash, guess.index);
        found
            .map(|index| self.arrival(guess.place, index))
            .transpose()
    }

    /// The block that may have a hash, and where it is expected there: hashes are uniform, so in a
    /// full block it lies within some 30 places of it.
    fn guess(&self, hash: u128) -> Result<Option<Guess<'_>>, Corruption> {
        let after = self.places.partition_point(|place| place.first <= hash);
        let Some(place) = after.checked_sub(1).map(|number| &self.places[number]) else {
            return Ok(None);
        };
        let next = self.places.get(after);
        let next = next.map_or(u128::MAX, |next| next.first);
        let hashes = self.sealed.block(&place.hashes)?;
        let count = hashes.len() / HASH_BYTES;
        let (span, into) = ((next - place.first) >> 64, (hash - place.first) >> 64);
        let guess = into.saturating_mul(count as u128) / span.max(1);
        let last = count.checked_sub(1);
        Ok(last.map(|last| Guess {
            place,
            hashes,
            index: (guess as usize).min(last),
        }))
    }

    fn arrival(&self, place: &Place, index: usize) -> Result<i64, Corruption> {
        let at = index * self.arrival_bytes;
        let bytes = &self.sealed.block(&place.arrivals)?[at..at + self.arrival_bytes];
        let mut offset = [0; 8];
        offset[..bytes.len()].copy_from_slice(bytes);
        let offset = i64::from_le_bytes(offset);
        Ok(self.meta.min_arrival_millis.wrapping_add(offset))
    }

    /// All entries in order.
    pub(super) fn entries(&self) -> Entries<'_> {
        Entries {
            run: self,
            place: 0,
            index: 0,
        }
    }

    /// Reads everything, and checks order and bounds.
    pub(super) fn verify(&self) -> Result<(), Corruption> {
        let mut entries = self.entries();
        let mut before = None;
        let bounds = self.meta.min_arrival_millis..=self.meta.max_arrival_millis;
        while let Some(entry) = entries.next()? {
            let damaged = |what| {
                let place = &self.places[entries.place.min(self.places.len() - 1)];
                Corruption::new(self.sealed.file(), place.hashes.offset, what)
            };
            if before >= Some(entry.hash()) {
                return Err(damaged("message ids are out of order"));
            }
            if !bounds.contains(&entry.arrival_millis) {
                return Err(damaged("a message id arrived outside its run's bounds"));
            }
            before = Some(entry.hash());
        }
        Ok(())
    }
}

/// Reads a run's entries block by block.
#[derive(Debug)]
pub(super) struct Entries<'r> {
    run: &'r Run,
    place: usize,
    index: usize,
}

impl Entries<'_> {
    pub(super) fn next(&mut self) -> Result<Option<Entry>, Corruption> {
        let Some(place) = self.run.places.get(self.place) else {
            return Ok(None);
        };
        let hashes = self.run.sealed.block(&place.hashes)?;
        let arrival = self.run.arrival(place, self.index)?;
        let entry = Entry::new(hash_at(hashes, self.index), arrival);
        self.index += 1;
        if self.index * HASH_BYTES == hashes.len() {
            (self.place, self.index) = (self.place + 1, 0);
        }
        Ok(Some(entry))
    }
}

fn hash_at(hashes: &[u8], index: usize) -> u128 {
    let mut bytes = [0; HASH_BYTES];
    bytes.copy_from_slice(&hashes[index * HASH_BYTES..(index + 1) * HASH_BYTES]);
    u128::from_le_bytes(bytes)
}

/// The index of `hash` among ascending `hashes`. The search begins at `guess`, one of them, and widens
/// its steps from there.
fn search(hashes: &[u8], hash: u128, guess: usize) -> Option<usize> {
    let (mut low, mut high) = (0, hashes.len() / HASH_BYTES);
    let mut step = 8;
    if hash_at(hashes, guess) <= hash {
        low = guess;
        while low + step < high {
            if hash_at(hashes, low + step) > hash {
                high = low + step;
                break;
            }
            low += step;
            step *= 2;
        }
    } else {
        high = guess;
        while low + step < high {
            if hash_at(hashes, high - step) <= hash {
                low = high - step;
                break;
            }
            high -= step;
            step *= 2;
        }
    }
    while low < high {
        let middle = low + (high - low) / 2;
        match hash_at(hashes, middle).cmp(&hash) {
            std::cmp::Ordering::Equal => return Some(middle),
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
        }
    }
    None
}

/// Reads the footer and checks it against the manifest's words.
fn read_places(
    reader: &mut Reader<'_>,
    seed: u64,
    meta: &DedupRunMeta,
) -> Result<Vec<Place>, WireError> {
    if reader.u64()? != seed_mark(seed) {
        return Err(reader.error("the run belongs to another store"));
    }
    let bounds = (reader.i64()?, reader.i64()?);
    if bounds != (meta.min_arrival_millis, meta.max_arrival_millis) || bounds.0 > bounds.1 {
        return Err(reader.error("the run has other arrivals than the manifest says"));
    }
    if reader.u32()? != meta.count {
        return Err(reader.error("the run has another count than the manifest says"));
    }
    let places = reader.count(PLACE_BYTES)?;
    if places != (meta.count as usize).div_ceil(BLOCK_IDS) {
        return Err(reader.error("the run has a wrong number of blocks"));
    }
    let arrival_bytes = arrival_bytes(bounds.0, bounds.1);
    let mut read = Vec::with_capacity(places);
    let mut left = meta.count as usize;
    for _ in 0..places {
        let mut first = [0; HASH_BYTES];
        first.copy_from_slice(reader.raw(HASH_BYTES)?);
        let place = Place {
            first: u128::from_le_bytes(first),
            hashes: BlockRef::decode(reader)?,
            arrivals: BlockRef::decode(reader)?,
        };
        let ids = left.min(BLOCK_IDS);
        let lengths = (place.hashes.len as usize, place.arrivals.len as usize);
        if lengths != (ids * HASH_BYTES, ids * arrival_bytes) {
            return Err(reader.error("a block of message ids has a wrong length"));
        }
        if read
            .last()
            .is_some_and(|last: &Place| last.first >= place.first)
        {
            return Err(reader.error("blocks of message ids are out of order"));
        }
        left -= ids;
        read.push(place);
    }
    Ok(read)
}
