//! Sets of rows: which rows of a run a part has values for, with rank and select in place.
//!
//! A stored set is its number of rows and a layout byte, then
//! * `ALL`: nothing; every row up to the limit, which the caller knows;
//! * `PACKED`: width (a byte) and the rows, ascending and bit-packed, in a blob;
//! * `CONTAINERS`: a blob of the number of containers, a header of `HEADER_BYTES` for each
//!   (key u16, shape u8, zero, rows before it u32, offset of its bytes u32), and their bytes.
//!   A container covers 65 536 rows, as its present rows, its absent rows, or a bitmap with the
//!   number of present rows before every eighth word; whichever is shortest.
//!
//! The checksums guard the bytes; rows inside a container are not checked again, so a forged set
//! can name rows wrongly, though never rows or indices out of range.

use std::ops::Range;

use super::bits;
use super::sink::{Origin, Sink, u16_at, u32_at, u64_at};
use crate::batch::Presence;
use crate::error::Corruption;
use crate::format::{Reader, Writer};

const ALL: u8 = 0;
const PACKED: u8 = 1;
const CONTAINERS: u8 = 2;

const FULL: u8 = 0;
const PRESENT: u8 = 1;
const ABSENT: u8 = 2;
const BITMAP: u8 = 3;

const HEADER_BYTES: usize = 12;
const CONTAINER_ROWS: u32 = 1 << 16;
/// A bitmap of 1024 words, and the rank before every eighth.
const WORDS_BYTES: usize = 8_192;
const RANKS_BYTES: usize = 256;
const RANK_WORDS: usize = 8;

/// Appends the set of `presence` out of `limit` rows.
pub(super) fn encode(sink: &mut Sink<'_>, out: &mut Writer, presence: &Presence, limit: u32) {
    let rows = match presence {
        Presence::Rows(rows) if rows.len() < limit as usize => rows,
        _ => {
            out.u32(limit);
            return out.u8(ALL);
        }
    };
    out.u32(rows.len() as u32);
    let width = bits::width_of(u64::from(limit.saturating_sub(1)));
    let packed_len = 1 + bits::packed_len(rows.len(), width);
    let containers = Container::cut(rows, limit);
    let containers_len: usize = containers.iter().map(Container::stored_len).sum();
    if packed_len <= 4 + containers_len {
        let mut blob = vec![width];
        bits::pack(rows.iter().map(|&row| row.into()), width, &mut blob);
        out.u8(PACKED);
        sink.blob(blob, out);
    } else {
        out.u8(CONTAINERS);
        sink.blob(write_containers(&containers), out);
    }
}

/// The present rows of one container, before they are written.
struct Container<'a> {
    key: u16,
    rows: &'a [u32],
    /// Rows that it covers: fewer than 65 536 at the end of the run.
    limit: u32,
}

impl<'a> Container<'a> {
    fn cut(rows: &'a [u32], limit: u32) -> Vec<Self> {
        let chunks = rows.chunk_by(|a, b| a / CONTAINER_ROWS == b / CONTAINER_ROWS);
        let container = |rows: &'a [u32]| {
            let key = rows.first().map_or(0, |row| row / CONTAINER_ROWS);
            Self {
                key: key as u16,
                rows,
                limit: (limit - key * CONTAINER_ROWS).min(CONTAINER_ROWS),
            }
        };
        chunks.map(container).collect()
    }

    fn shape(&self) -> (u8, usize) {
        let (present, absent) = (
            self.rows.len() * 2,
            (self.limit as usize - self.rows.len()) * 2,
        );
        let bitmap = WORDS_BYTES + RANKS_BYTES;
        match (present, absent) {
            (_, 0) => (FULL, 0),
            _ if present <= absent.min(bitmap) => (PRESENT, present),
            _ if absent <= bitmap => (ABSENT, absent),
            _ => (BITMAP, bitmap),
        }
    }

    fn stored_len(&self) -> usize {
        HEADER_BYTES + self.shape().1
    }

    fn write(&self, out: &mut Writer) {
        let low = |row: u32| (row % CONTAINER_ROWS) as u16;
        match self.shape().0 {
            FULL => {}
            PRESENT => self.rows.iter().for_each(|&row| out.u16(low(row))),
            ABSENT => {
                let mut next = 0;
                for row in self.rows.iter().map(|row| row % CONTAINER_ROWS) {
                    (next..row).for_each(|row| out.u16(low(row)));
                    next = row + 1;
                }
                (next..self.limit).for_each(|row| out.u16(low(row)));
            }
            _ => {
                let mut words = [0u64; WORDS_BYTES / 8];
                for row in self.rows.iter().map(|row| row % CONTAINER_ROWS) {
                    words[row as usize / 64] |= 1 << (row % 64);
                }
                words.iter().for_each(|&word| out.u64(word));
                let mut before = 0;
                for group in words.chunks(RANK_WORDS) {
                    // The rank before the last group is at most 65 536 - 512.
                    out.u16(before as u16);
                    before += group.iter().map(|word| word.count_ones()).sum::<u32>();
                }
            }
        }
    }
}

fn write_containers(containers: &[Container<'_>]) -> Vec<u8> {
    let (mut headers, mut data) = (Writer::new(), Writer::new());
    headers.u32(containers.len() as u32);
    let mut before = 0;
    for container in containers {
        headers.u16(container.key);
        headers.u8(container.shape().0);
        headers.u8(0);
        headers.u32(before);
        headers.u32(data.len() as u32);
        container.write(&mut data);
        before += container.rows.len() as u32;
    }
    headers.raw(&data.finish());
    headers.finish()
}

/// A set of rows in a sealed file.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowSet<'a> {
    count: u32,
    limit: u32,
    layout: Layout<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Layout<'a> {
    All,
    Packed { bytes: &'a [u8], width: u8 },
    Containers { headers: &'a [u8], data: &'a [u8] },
}

/// A container as its header tells it.
#[derive(Clone, Copy)]
struct Header<'a> {
    first_row: u32,
    shape: u8,
    before: u32,
    count: u32,
    /// Rows that it covers, in the set or not.
    covered: u32,
    bytes: &'a [u8],
}

impl<'a> RowSet<'a> {
    /// Reads a set out of `limit` rows.
    pub(super) fn open(
        origin: Origin<'a>,
        bytes: &mut Reader<'a>,
        limit: u32,
    ) -> Result<Self, Corruption> {
        let wire = |error| origin.wire(error);
        let (count, layout) = (bytes.u32().map_err(wire)?, bytes.u8().map_err(wire)?);
        if count > limit || (layout == ALL && count != limit) {
            return Err(origin.corrupt("a set has more rows than there are"));
        }
        let layout = match layout {
            ALL => Layout::All,
            PACKED => {
                let blob = origin.blob(bytes)?;
                let (&width, rows) = blob
                    .split_first()
                    .ok_or_else(|| origin.corrupt("a set of rows is empty"))?;
                if width > 32 || rows.len() != bits::packed_len(count as usize, width) {
                    return Err(origin.corrupt("a set of rows has the wrong length"));
                }
                Layout::Packed { bytes: rows, width }
            }
            CONTAINERS => {
                let blob = origin.blob(bytes)?;
                let headers = u32_at(blob, 0) as usize * HEADER_BYTES;
                let (headers, data) = blob
                    .get(4..)
                    .and_then(|rest| rest.split_at_checked(headers))
                    .ok_or_else(|| origin.corrupt("a set has fewer containers than it says"))?;
                Layout::Containers { headers, data }
            }
            _ => return Err(origin.corrupt("a set of rows has no such layout")),
        };
        let set = Self {
            count,
            limit,
            layout,
        };
        match set.check() {
            Ok(()) => Ok(set),
            Err(what) => Err(origin.corrupt(what)),
        }
    }

    /// Containers follow each other, and each has the bytes that it needs.
    fn check(&self) -> Result<(), &'static str> {
        let Layout::Containers { headers, .. } = self.layout else {
            return Ok(());
        };
        let (mut next_row, mut before) = (0u64, 0);
        for at in 0..headers.len() / HEADER_BYTES {
            let container = self.container(at);
            let covered = container.covered;
            let needed = match container.shape {
                FULL => 0,
                PRESENT => container.count as usize * 2,
                ABSENT => container.absent() as usize * 2,
                BITMAP => WORDS_BYTES + RANKS_BYTES,
                _ => return Err("a container has no such shape"),
            };
            let full = container.shape == FULL && container.count != covered;
            if u64::from(container.first_row) < next_row || container.before != before || full {
                return Err("containers are out of order");
            }
            if container.count > covered || container.bytes.len() < needed {
                return Err("a container is too short");
            }
            next_row = u64::from(container.first_row) + u64::from(CONTAINER_ROWS);
            before += container.count;
        }
        if before == self.count {
            Ok(())
        } else {
            Err("containers hold another number of rows")
        }
    }

    /// How many rows are in the set.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// How many rows there are, in the set or not.
    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    /// True where every row is in the set.
    pub(super) fn is_all(&self) -> bool {
        self.count == self.limit
    }

    fn containers(&self) -> usize {
        match self.layout {
            Layout::Containers { headers, .. } => headers.len() / HEADER_BYTES,
            _ => 0,
        }
    }

    fn container(&self, at: usize) -> Header<'a> {
        let Layout::Containers { headers, data } = self.layout else {
            return Header {
                first_row: 0,
                shape: FULL,
                before: 0,
                count: 0,
                covered: 0,
                bytes: &[],
            };
        };
        let offset = at * HEADER_BYTES;
        let before = u32_at(headers, offset + 4);
        let last = at + 1 == self.containers();
        let next = if last {
            self.count
        } else {
            u32_at(headers, offset + HEADER_BYTES + 4)
        };
        let first_row = u32::from(u16_at(headers, offset)) * CONTAINER_ROWS;
        Header {
            first_row,
            shape: headers.get(offset + 2).copied().unwrap_or_default(),
            before,
            count: next.saturating_sub(before),
            covered: self.limit.saturating_sub(first_row).min(CONTAINER_ROWS),
            bytes: data
                .get(u32_at(headers, offset + 8) as usize..)
                .unwrap_or_default(),
        }
    }

    /// The container that covers a row, or else the first one after it.
    fn container_of(&self, row: u32) -> usize {
        let Layout::Containers { headers, .. } = self.layout else {
            return 0;
        };
        let key = (row / CONTAINER_ROWS) as u16;
        let key_at = |at: usize| u16_at(headers, at * HEADER_BYTES);
        // Where no container before it is missing, its place is its key.
        let (mut low, mut high) = (0, self.containers());
        if usize::from(key) < high && key_at(key.into()) == key {
            return key.into();
        }
        while low < high {
            let middle = low.midpoint(high);
            if key_at(middle) < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// The first container for which `is_before` does not hold.
    fn find_container(&self, is_before: impl Fn(&Header<'a>) -> bool) -> usize {
        let (mut low, mut high) = (0, self.containers());
        while low < high {
            let middle = low.midpoint(high);
            if is_before(&self.container(middle)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// How many rows of the set come before `row`.
    pub(super) fn rank(&self, row: u32) -> u32 {
        match self.layout {
            Layout::All => row.min(self.count),
            Layout::Packed { bytes, width } => {
                let (mut low, mut high) = (0, self.count);
                while low < high {
                    let middle = low.midpoint(high);
                    if bits::get(bytes, width, middle as usize) < u64::from(row) {
                        low = middle + 1;
                    } else {
                        high = middle;
                    }
                }
                low
            }
            Layout::Containers { .. } => {
                let at = self.container_of(row);
                if at == self.containers() {
                    return self.count;
                }
                let container = self.container(at);
                container.before + container.rank(row.saturating_sub(container.first_row))
            }
        }
    }

    /// The index of a row among those of the set, if it is in it.
    #[inline]
    pub(super) fn index_of(&self, row: u32) -> Option<u32> {
        match self.layout {
            Layout::All => (row < self.count).then_some(row),
            Layout::Packed { .. } => {
                let index = self.rank(row);
                (index < self.count && self.row_of(index) == row).then_some(index)
            }
            Layout::Containers { .. } => {
                let at = self.container_of(row);
                let container = (at < self.containers()).then(|| self.container(at))?;
                let within = container.index_of(row.checked_sub(container.first_row)?)?;
                Some(container.before + within)
            }
        }
    }

    /// The row at `index` of the set. Panics where `index` is out of range.
    pub(super) fn row_of(&self, index: u32) -> u32 {
        assert!(index < self.count, "the index is within the part");
        let row = match self.layout {
            Layout::All => index,
            Layout::Packed { bytes, width } => bits::get(bytes, width, index as usize) as u32,
            Layout::Containers { .. } => {
                let after = self.find_container(|container| container.before <= index);
                let container = self.container(after.saturating_sub(1));
                container
                    .first_row
                    .saturating_add(container.select(index - container.before))
            }
        };
        row.min(self.limit - 1)
    }

    /// The indices of the rows of a range that are in the set.
    pub(super) fn indices(&self, rows: Range<u32>) -> Range<u32> {
        let start = self.rank(rows.start);
        start..self.rank(rows.end).max(start)
    }

    /// Appends the rows at a range of indices. Panics where it is out of range.
    pub(super) fn fill_rows(&self, indices: Range<u32>, out: &mut Vec<u32>) {
        assert!(indices.end <= self.count, "the indices are within the part");
        let first = out.len();
        match self.layout {
            Layout::All => out.extend(indices.clone()),
            Layout::Packed { bytes, width } => {
                let (start, count) = (indices.start as usize, indices.len());
                bits::for_each(bytes, width, start, count, |row| out.push(row as u32));
            }
            Layout::Containers { .. } => {
                let mut at = indices.start;
                let mut next = self.find_container(|container| container.before <= at);
                while at < indices.end && next <= self.containers() {
                    let container = self.container(next.saturating_sub(1));
                    let end = (container.before + container.count).min(indices.end);
                    let within = at.saturating_sub(container.before)..end - container.before;
                    container.fill(within, out);
                    (at, next) = (end, next + 1);
                }
            }
        }
        let limit = self.limit.saturating_sub(1);
        out[first..]
            .iter_mut()
            .for_each(|row| *row = (*row).min(limit));
        out.resize(first + indices.len(), limit);
    }
}

impl Header<'_> {
    fn low(&self, at: u32) -> u32 {
        u32::from(u16_at(self.bytes, at as usize * 2))
    }

    fn word(&self, at: usize) -> u64 {
        u64_at(self.bytes, at * 8)
    }

    fn rank_before(&self, group: usize) -> u32 {
        u32::from(u16_at(self.bytes, WORDS_BYTES + group * 2))
    }

    /// How many of `len` ascending numbers are below `row`.
    fn below(&self, len: u32, row: u32) -> u32 {
        let (mut low, mut high) = (0, len);
        while low < high {
            let middle = low.midpoint(high);
            if self.low(middle) < row {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Rows that it covers and that are not in the set.
    fn absent(&self) -> u32 {
        self.covered.saturating_sub(self.count)
    }

    fn rank(&self, row: u32) -> u32 {
        let rank = match self.shape {
            FULL => row,
            PRESENT => self.below(self.count, row),
            ABSENT => row.saturating_sub(self.below(self.absent(), row)),
            _ => {
                let (word, group) = (row as usize / 64, row as usize / 64 / RANK_WORDS);
                let whole = (group * RANK_WORDS..word).map(|word| self.word(word).count_ones());
                let part = self.word(word) & ((1u64 << (row % 64)) - 1);
                self.rank_before(group) + whole.sum::<u32>() + part.count_ones()
            }
        };
        rank.min(self.count)
    }

    fn index_of(&self, row: u32) -> Option<u32> {
        let index = match self.shape {
            FULL => row,
            PRESENT => {
                let index = self.below(self.count, row);
                (index < self.count && self.low(index) == row).then_some(index)?
            }
            ABSENT => {
                let before = self.below(self.absent(), row);
                let absent = before < self.absent() && self.low(before) == row;
                (!absent).then(|| row.saturating_sub(before))?
            }
            _ => {
                let set = self.word(row as usize / 64) & (1 << (row % 64)) != 0;
                set.then(|| self.rank(row))?
            }
        };
        (index < self.count).then_some(index)
    }

    fn select(&self, index: u32) -> u32 {
        match self.shape {
            FULL => index,
            PRESENT => self.low(index),
            ABSENT => {
                // The row at `index` comes after as many absent rows as lie at most that far on.
                let (mut low, mut high) = (0, self.absent());
                while low < high {
                    let middle = low.midpoint(high);
                    if self.low(middle).saturating_sub(middle) <= index {
                        low = middle + 1;
                    } else {
                        high = middle;
                    }
                }
                index + low
            }
            _ => self.select_bit(index),
        }
    }

    fn select_bit(&self, index: u32) -> u32 {
        let (mut low, mut high) = (0, WORDS_BYTES / 8 / RANK_WORDS);
        while low < high {
            let middle = low.midpoint(high);
            if self.rank_before(middle) <= index {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let group = low.saturating_sub(1);
        let mut rest = index.saturating_sub(self.rank_before(group));
        for word in group * RANK_WORDS..(group + 1) * RANK_WORDS {
            let bits = self.word(word);
            if rest < bits.count_ones() {
                return word as u32 * 64 + nth_bit(bits, rest);
            }
            rest -= bits.count_ones();
        }
        CONTAINER_ROWS - 1
    }

    /// Appends the rows at a range of indices within this container.
    fn fill(&self, indices: Range<u32>, out: &mut Vec<u32>) {
        let (first_row, count) = (self.first_row, indices.len());
        match self.shape {
            FULL => out.extend(indices.map(|index| first_row + index)),
            PRESENT => out.extend(indices.map(|index| first_row + self.low(index))),
            ABSENT => {
                let mut row = self.select(indices.start);
                let mut absent = self.below(self.absent(), row);
                let absents = self.absent();
                for _ in 0..count {
                    while absent < absents && self.low(absent) == row {
                        (row, absent) = (row + 1, absent + 1);
                    }
                    out.push(first_row.saturating_add(row));
                    row += 1;
                }
            }
            _ => {
                let start = self.select_bit(indices.start);
                let mut word = start as usize / 64;
                let mut bits = self.word(word) & (u64::MAX << (start % 64));
                let mut left = count;
                while left > 0 && word < WORDS_BYTES / 8 {
                    while bits != 0 && left > 0 {
                        out.push(first_row + word as u32 * 64 + bits.trailing_zeros());
                        bits &= bits - 1;
                        left -= 1;
                    }
                    word += 1;
                    bits = self.word(word);
                }
            }
        }
    }
}

fn nth_bit(mut bits: u64, nth: u32) -> u32 {
    for _ in 0..nth {
        bits &= bits - 1;
    }
    bits.trailing_zeros()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::codec::sink::Params;
    use crate::format::{BlockRef, ImageWriter, Sealed};

    /// Encodes a set and hands its view to `check`; gives the bytes that it took.
    fn with_set(rows: &[u32], limit: u32, check: impl FnOnce(&RowSet<'_>)) -> usize {
        let mut image = ImageWriter::new(&[]);
        let mut out = Writer::new();
        let mut sink = Sink::new(&mut image, Params::default());
        encode(&mut sink, &mut out, &Presence::Rows(rows.to_vec()), limit);
        let (descriptor, blocks) = (out.finish(), image.blocks());
        let bytes = image.finish();
        let taken = bytes.len() + descriptor.len();
        let sealed = Sealed::new(bytes.into(), Path::new("rows"), blocks);
        let page = BlockRef {
            offset: 0,
            len: 0,
            index: 0,
            checksum: 0,
        };
        let origin = Origin {
            sealed: &sealed,
            page,
        };
        let mut reader = Reader::new(&descriptor);
        let set = RowSet::open(origin, &mut reader, limit).expect("is not damaged");
        reader.finish().expect("nothing is left over");
        check(&set);
        taken
    }

    /// Everything that a set answers, against the plain rows. Looks at every `step`th row.
    fn check(rows: &[u32], limit: u32, step: usize) -> usize {
        with_set(rows, limit, |set| {
            assert_eq!(set.count() as usize, rows.len());
            assert_eq!(set.is_all(), rows.len() == limit as usize);
            let mut filled = Vec::new();
            set.fill_rows(0..set.count(), &mut filled);
            assert_eq!(filled, rows);
            for row in (0..limit)
                .step_by(step)
                .chain(rows.iter().copied().step_by(step))
            {
                let found = rows.binary_search(&row);
                let rank = found.unwrap_or_else(|at| at) as u32;
                assert_eq!(
                    set.index_of(row),
                    found.ok().map(|at| at as u32),
                    "row {row}"
                );
                assert_eq!(set.rank(row), rank, "row {row}");
                let end = row.saturating_add(step as u32 * 3).min(limit);
                let indices = set.indices(row..end);
                let expected = rank as usize..rows.partition_point(|&row| row < end);
                assert_eq!(indices, expected.start as u32..expected.end as u32);
                filled.clear();
                set.fill_rows(indices, &mut filled);
                assert_eq!(filled, rows[expected]);
            }
            assert_eq!(set.indices(0..limit), 0..set.count());
            for index in (0..set.count()).step_by(step) {
                assert_eq!(set.row_of(index), rows[index as usize]);
            }
        })
    }

    proptest! {
        #[test]
        fn small_sets(rows in prop::collection::btree_set(0u32..300, 0..300), more in 0u32..3) {
            let rows: Vec<u32> = rows.into_iter().collect();
            check(&rows, rows.last().map_or(0, |last| last + 1) + more, 1);
        }
    }

    /// Each shape of container, at its ends and between, in runs that end inside a container.
    #[test]
    fn large_sets() {
        let limit = 200_000;
        let bit = |row: u32| (row.wrapping_mul(2_654_435_761) >> 13) % 100;
        for share in [1, 3, 20, 50, 97, 99, 100] {
            let rows: Vec<u32> = (0..limit).filter(|&row| bit(row) < share).collect();
            check(&rows, limit, 37);
        }
        // Containers: full, absent, sparse, bitmap, and one partly covered.
        let mixed: Vec<u32> = (0..310_000u32)
            .filter(|&row| match row >> 16 {
                0 => true,
                1 => false,
                2 => row % 1_000 == 7,
                3 => row % 3 != 0,
                _ => row % 500 != 3,
            })
            .collect();
        check(&mixed, 310_000, 41);
        check(&[0, 65_535, 65_536, 131_071, 131_072], 131_073, 1_000);
    }

    #[test]
    fn sets_are_small() {
        assert!(
            check(&[1, 500_000, 999_999], 1_000_000, 100_000) < 25,
            "three rows"
        );
        let dense: Vec<u32> = (0..1_000_000).filter(|row| row % 2 == 0).collect();
        assert!(
            check(&dense, 1_000_000, 9_999) < 1_000_000 / 7,
            "about a bit a row"
        );
        let nearly_all: Vec<u32> = (0..1_000_000).filter(|row| row % 5_000 != 0).collect();
        assert!(
            check(&nearly_all, 1_000_000, 9_999) < 1_000,
            "two bytes an absent row"
        );
    }
}
