//! A sealed run of the dictionary: the ids of consecutive ordinals in one file, both ways.

use bytes::Bytes;

use super::RunMeta;
use super::block::{BLOCK_IDS, BlockBuilder, id_at};
use super::spelling::Spelling;
use super::table::{self, Scan, TableBuilder};
use crate::error::{Corruption, ReadError, StorageError};
use crate::format::{BlockRef, FrameWriter, Reader, Sealed, WireError, Writer, open_frame};
use crate::storage::Storage;

const MAGIC: [u8; 8] = *b"PUGIDS\0\0";
/// Blocks of ids that one block of the directory names.
const DIRECTORY_BLOCKS: usize = 2_048;
/// Bytes of tags, or of positions, under one checksum: little enough for a first touch.
const TABLE_BLOCK_BYTES: usize = 1 << 16;
const TABLE_BLOCK_POSITIONS: usize = TABLE_BLOCK_BYTES / 4;
/// Pending bytes at which a run being written goes out to its sink.
const FLUSH_BYTES: usize = 1 << 20;
/// Keys that [`Run::find_many`] looks up side by side.
const SIDE_BY_SIDE: usize = 64;
/// A key not found (yet); no position and no ordinal is as large.
pub(super) const NOT_FOUND: u32 = u32::MAX;

/// Positions at which keys may be, with the keys' indices: working memory of [`Run::find_many`].
#[derive(Debug, Default)]
pub(super) struct Candidates(Vec<(u32, u32)>);

/// Takes the bytes of a file in order.
pub(super) type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), StorageError>;

/// Changes with the seed, so that a run of another store is refused.
fn seed_mark(seed: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(b"pugmark ids", seed)
}

/// File name of a run.
pub(super) fn file_name(number: u64) -> String {
    format!("ids/{number:012}.ids")
}

/// Writes a run as a stream; holds its table (6.25 bytes an id) and a few MiB besides.
pub(super) struct RunWriter<'a> {
    sink: Sink<'a>,
    frame: FrameWriter,
    seed: u64,
    first: u32,
    count: u32,
    pushed: u32,
    block: BlockBuilder,
    chunk: Writer,
    directory: Vec<BlockRef>,
    table: TableBuilder,
}

impl<'a> RunWriter<'a> {
    /// A run of exactly `count` ids from ordinal `first` on.
    pub(super) fn new(sink: Sink<'a>, seed: u64, first: u32, count: u32) -> Self {
        Self {
            sink,
            frame: FrameWriter::new(MAGIC),
            seed,
            first,
            count,
            pushed: 0,
            block: BlockBuilder::default(),
            chunk: Writer::new(),
            directory: Vec::new(),
            table: TableBuilder::new(count),
        }
    }

    /// Adds the id of the next ordinal.
    pub(super) fn push(&mut self, id: Spelling<'_>) -> Result<(), StorageError> {
        if id != Spelling::Erased {
            self.table.insert(id.hash(self.seed), self.pushed);
        }
        self.block.push(id);
        self.pushed += 1;
        if self.block.len() == BLOCK_IDS {
            self.finish_block()?;
        }
        Ok(())
    }

    fn finish_block(&mut self) -> Result<(), StorageError> {
        self.frame
            .block(&self.block.finish())
            .encode(&mut self.chunk);
        if self.chunk.len() == DIRECTORY_BLOCKS * BlockRef::ENCODED_BYTES {
            self.finish_chunk();
        }
        self.flush(FLUSH_BYTES)
    }

    fn finish_chunk(&mut self) {
        let chunk = std::mem::take(&mut self.chunk).finish();
        self.directory.push(self.frame.block(&chunk));
    }

    fn flush(&mut self, at_least: usize) -> Result<(), StorageError> {
        if self.frame.pending().len() >= at_least {
            (self.sink)(self.frame.pending())?;
            self.frame.forget_pending();
        }
        Ok(())
    }

    fn table_part(&mut self, bytes: &[u8]) -> Result<Vec<BlockRef>, StorageError> {
        let mut blocks = Vec::new();
        for part in bytes.chunks(TABLE_BLOCK_BYTES) {
            blocks.push(self.frame.block(part));
            self.flush(FLUSH_BYTES)?;
        }
        Ok(blocks)
    }

    /// Writes table and footer.
    pub(super) fn finish(mut self, number: u64) -> Result<RunMeta, StorageError> {
        assert_eq!(self.pushed, self.count, "a run has as many ids as it says");
        if self.block.len() > 0 {
            self.finish_block()?;
        }
        if !self.chunk.is_empty() {
            self.finish_chunk();
        }
        let table = std::mem::replace(&mut self.table, TableBuilder::new(0));
        let (tags, positions) = table.finish();
        let tag_blocks = self.table_part(&tags)?;
        let position_blocks = self.table_part(bytemuck::cast_slice(&positions))?;
        let mut footer = Writer::new();
        footer.u64(seed_mark(self.seed));
        footer.u32(self.first);
        footer.u32(self.count);
        footer.u64(tags.len() as u64);
        for blocks in [&self.directory, &tag_blocks, &position_blocks] {
            footer.u32(blocks.len() as u32);
            blocks.iter().for_each(|block| block.encode(&mut footer));
        }
        let (rest, length) = self.frame.finish(&footer.finish());
        (self.sink)(&rest)?;
        Ok(RunMeta {
            number,
            first: self.first,
            count: self.count,
            length,
        })
    }
}

/// An open run. Opening reads only the footer; everything else is verified when touched.
#[derive(Debug)]
pub(super) struct Run {
    meta: RunMeta,
    sealed: Sealed,
    home_slots: u64,
    slots: u64,
    directory: Vec<BlockRef>,
    tags: Vec<BlockRef>,
    positions: Vec<BlockRef>,
}

impl Run {
    /// Maps the run that `meta` names.
    pub(super) fn open(storage: &dyn Storage, seed: u64, meta: RunMeta) -> Result<Self, ReadError> {
        let name = file_name(meta.number);
        let bytes = storage.map(&name, meta.length)?;
        Ok(Self::from_bytes(bytes, &storage.path(&name), seed, meta)?)
    }

    pub(super) fn from_bytes(
        bytes: Bytes,
        path: &std::path::Path,
        seed: u64,
        meta: RunMeta,
    ) -> Result<Self, Corruption> {
        let (sealed, footer) = open_frame(bytes, path, MAGIC)?;
        let mut reader = footer.reader();
        let parts = FooterParts::read(&mut reader, seed, &meta)
            .and_then(|parts| reader.finish().map(|()| parts))
            .map_err(|error| footer.corrupt(path, error))?;
        let [directory, tags, positions] = parts.blocks;
        Ok(Self {
            meta,
            sealed,
            home_slots: table::home_slots(meta.count),
            slots: parts.slots,
            directory,
            tags,
            positions,
        })
    }

    pub(super) fn meta(&self) -> &RunMeta {
        &self.meta
    }

    /// The ordinal after this run's last.
    pub(super) fn end(&self) -> u32 {
        self.meta.first + self.meta.count
    }

    fn block_ref(&self, block: usize) -> Result<BlockRef, Corruption> {
        let chunk = &self.directory[block / DIRECTORY_BLOCKS];
        let at = block % DIRECTORY_BLOCKS * BlockRef::ENCODED_BYTES;
        let bytes = self.sealed.block(chunk)?;
        let wire = |error| self.sealed.corrupt(chunk, error);
        let mut reader = Reader::new(bytes);
        reader
            .raw(at)
            .and_then(|_| BlockRef::decode(&mut reader))
            .map_err(wire)
    }

    /// The block of ids with number `block`: its place, its bytes and how many ids it holds.
    fn ids_block(&self, block: usize) -> Result<IdsBlock<'_>, Corruption> {
        let place = self.block_ref(block)?;
        Ok(IdsBlock {
            place,
            bytes: self.sealed.block(&place)?,
            count: (self.meta.count as usize - block * BLOCK_IDS).min(BLOCK_IDS),
        })
    }

    fn id_in<'r>(&self, block: &IdsBlock<'r>, index: usize) -> Result<Spelling<'r>, Corruption> {
        id_at(block.bytes, block.count, index).map_err(|what| self.damaged(&block.place, what))
    }

    fn damaged(&self, block: &BlockRef, what: &'static str) -> Corruption {
        Corruption::new(self.sealed.file(), block.offset, what)
    }

    /// Reads ids at positions of this run; ascending positions are fastest.
    pub(super) fn cursor(&self) -> RunCursor<'_> {
        RunCursor {
            run: self,
            number: usize::MAX,
            block: None,
        }
    }

    /// The id at `position`, which must be less than the run's count.
    pub(super) fn id(&self, position: u32) -> Result<Spelling<'_>, Corruption> {
        let (block, index) = split(position);
        self.id_in(&self.ids_block(block)?, index)
    }

    /// The latest position of the id.
    pub(super) fn find(&self, id: Spelling<'_>, hash: u64) -> Result<Option<u32>, Corruption> {
        self.find_from(table::home(hash, self.home_slots), id, hash)
    }

    fn find_from(
        &self,
        mut slot: u64,
        id: Spelling<'_>,
        hash: u64,
    ) -> Result<Option<u32>, Corruption> {
        while let Some(candidate) = self.candidate(slot, table::tag(hash))? {
            let position = self.position(candidate)?;
            if self.id(position)? == id {
                return Ok(Some(position));
            }
            slot = candidate + 1;
        }
        Ok(None)
    }

    /// The first slot from `slot` on with this tag, before an empty one.
    #[inline]
    fn candidate(&self, mut slot: u64, tag: u8) -> Result<Option<u64>, Corruption> {
        while slot < self.slots {
            let block = &self.tags[slot as usize / TABLE_BLOCK_BYTES];
            let tags = self.sealed.block(block)?;
            let rest = &tags[slot as usize % TABLE_BLOCK_BYTES..];
            match table::scan(rest, tag) {
                Scan::Candidate(skip) => return Ok(Some(slot + skip as u64)),
                Scan::Absent => return Ok(None),
                Scan::GoesOn => slot += rest.len() as u64,
            }
        }
        Ok(None)
    }

    #[inline]
    fn position(&self, slot: u64) -> Result<u32, Corruption> {
        let block = &self.positions[slot as usize / TABLE_BLOCK_POSITIONS];
        let at = slot as usize % TABLE_BLOCK_POSITIONS * 4;
        let bytes = self.sealed.block(block)?;
        let position = bytes[at..].first_chunk().copied().map(u32::from_le_bytes);
        position
            .filter(|&position| position < self.meta.count)
            .ok_or_else(|| self.damaged(block, "a slot points behind the run's last id"))
    }

    /// Looks up the ids whose `found` is [`NOT_FOUND`] and sets it to their *ordinals*. Each step runs
    /// for some keys before the next one, so that the processor waits for many cache misses at once; and
    /// stored ids are read in the order in which they lie.
    pub(super) fn find_many(
        &self,
        ids: &[Spelling<'_>],
        hashes: &[u64],
        found: &mut [u32],
        Candidates(candidates): &mut Candidates,
    ) -> Result<(), Corruption> {
        candidates.clear();
        for first in (0..ids.len()).step_by(SIDE_BY_SIDE) {
            self.find_candidates(first, hashes, found, candidates)?;
        }
        if candidates.len() > SIDE_BY_SIDE {
            candidates.sort_unstable();
        }
        for candidates in candidates.chunks(SIDE_BY_SIDE) {
            let mut places = [BlockRef::default(); SIDE_BY_SIDE];
            for (place, &(position, _)) in places.iter_mut().zip(candidates) {
                *place = self.block_ref(split(position).0)?;
            }
            for (&(position, index), place) in candidates.iter().zip(places) {
                let (block, at) = split(position);
                let block = IdsBlock {
                    place,
                    bytes: self.sealed.block(&place)?,
                    count: (self.meta.count as usize - block * BLOCK_IDS).min(BLOCK_IDS),
                };
                let index = index as usize;
                let met = match self.id_in(&block, at)? == ids[index] {
                    true => Some(position),
                    false => self.find(ids[index], hashes[index])?,
                };
                if let Some(position) = met {
                    found[index] = self.meta.first + position;
                }
            }
        }
        Ok(())
    }

    /// Adds the positions at which those of [`SIDE_BY_SIDE`] ids from `first` on may be that were not found.
    fn find_candidates(
        &self,
        first: usize,
        hashes: &[u64],
        found: &[u32],
        candidates: &mut Vec<(u32, u32)>,
    ) -> Result<(), Corruption> {
        let mut slots = [(0u64, 0u32); SIDE_BY_SIDE];
        let mut count = 0;
        let end = hashes.len().min(first + SIDE_BY_SIDE);
        for index in first..end {
            if found[index] == NOT_FOUND {
                let home = table::home(hashes[index], self.home_slots);
                if let Some(slot) = self.candidate(home, table::tag(hashes[index]))? {
                    slots[count] = (slot, index as u32);
                    count += 1;
                }
            }
        }
        for &(slot, index) in &slots[..count] {
            candidates.push((self.position(slot)?, index));
        }
        Ok(())
    }

    /// Reads everything: each block's checksum, each id's bytes, and that the table finds each
    /// id that was not erased, at its position or (where it was given anew) a later one.
    pub(super) fn verify(&self, seed: u64) -> Result<(), Corruption> {
        for block in self.tags.iter().chain(&self.positions) {
            self.sealed.block(block)?;
        }
        let mut cursor = self.cursor();
        for position in 0..self.meta.count {
            let id = cursor.id(position)?;
            let place = cursor.place();
            id.with_key(|_| ())
                .map_err(|what| self.damaged(&place, what))?;
            let lost = id != Spelling::Erased
                && self.find(id, id.hash(seed))?.is_none_or(|at| at < position);
            if lost {
                return Err(self.damaged(&place, "the table does not find an id"));
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
struct IdsBlock<'r> {
    place: BlockRef,
    bytes: &'r [u8],
    count: usize,
}

fn split(position: u32) -> (usize, usize) {
    (position as usize / BLOCK_IDS, position as usize % BLOCK_IDS)
}

/// Remembers the block that it read last.
#[derive(Debug)]
pub(super) struct RunCursor<'r> {
    run: &'r Run,
    number: usize,
    block: Option<IdsBlock<'r>>,
}

impl<'r> RunCursor<'r> {
    /// The id at `position`, which must be less than the run's count.
    pub(super) fn id(&mut self, position: u32) -> Result<Spelling<'r>, Corruption> {
        let (number, index) = split(position);
        let block = match self.block {
            Some(block) if self.number == number => block,
            _ => {
                let block = self.run.ids_block(number)?;
                (self.number, self.block) = (number, Some(block));
                block
            }
        };
        self.run.id_in(&block, index)
    }

    /// A corruption of the block read last.
    pub(super) fn damaged(&self, what: &'static str) -> Corruption {
        self.run.damaged(&self.place(), what)
    }

    fn place(&self) -> BlockRef {
        self.block.map(|block| block.place).unwrap_or_default()
    }
}

/// The footer's fields after they were checked against each other and the manifest.
struct FooterParts {
    slots: u64,
    /// Directory, tags, positions.
    blocks: [Vec<BlockRef>; 3],
}

impl FooterParts {
    fn read(reader: &mut Reader<'_>, seed: u64, meta: &RunMeta) -> Result<Self, WireError> {
        if reader.u64()? != seed_mark(seed) {
            return Err(reader.error("the run belongs to another store"));
        }
        if (reader.u32()?, reader.u32()?) != (meta.first, meta.count) {
            return Err(reader.error("the run has other ordinals than the manifest says"));
        }
        let slots = reader.u64()?;
        let home_slots = table::home_slots(meta.count);
        if slots < home_slots || slots > home_slots + u64::from(meta.count) + 1 {
            return Err(reader.error("the table has a wrong size"));
        }
        let id_blocks = u64::from(meta.count).div_ceil(BLOCK_IDS as u64);
        let directory = id_blocks * BlockRef::ENCODED_BYTES as u64;
        let chunk = DIRECTORY_BLOCKS * BlockRef::ENCODED_BYTES;
        Ok(Self {
            slots,
            blocks: [
                blocks(reader, directory, chunk)?,
                blocks(reader, slots, TABLE_BLOCK_BYTES)?,
                blocks(reader, slots * 4, TABLE_BLOCK_BYTES)?,
            ],
        })
    }
}

/// References to blocks of `each` bytes that hold `total` bytes together.
fn blocks(reader: &mut Reader<'_>, total: u64, each: usize) -> Result<Vec<BlockRef>, WireError> {
    let count = reader.count(BlockRef::ENCODED_BYTES)?;
    if count as u64 != total.div_ceil(each as u64) {
        return Err(reader.error("a part has a wrong number of blocks"));
    }
    let mut left = total;
    let mut blocks = Vec::with_capacity(count);
    for _ in 0..count {
        let block = BlockRef::decode(reader)?;
        if u64::from(block.len) != left.min(each as u64) {
            return Err(reader.error("a block has a wrong length"));
        }
        left -= u64::from(block.len);
        blocks.push(block);
    }
    Ok(blocks)
}
