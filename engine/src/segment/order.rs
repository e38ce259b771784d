//! The order of a user's rows across runs.
//!
//! Within a run a user's rows are in order of time, but which of two runs' rows comes first only
//! their times tell, and bringing eighteen runs together costs a sort for each user. So a segment
//! says it once: for all rows, user after user in total order, the number of the run that each lies
//! in. Whoever goes through them in order counts along: the next row of a run is the one behind
//! its last. How many rows a user has in all runs together is stored as in a run (`counts`).
//!
//! ```text
//! numbers   256 at a time, as many bits each as the greatest run number takes, as `bitpacking`
//!           lays them out; behind the last rows zeros. No bytes where there is one run.
//! ```

use std::collections::BTreeMap;
use std::ops::Range;

use bitpacking::{BitPacker, BitPacker8x};

use super::area::{Area, AreaWriter};
use super::counts::{self, Stored};
use super::layout::ContainerStart;
use super::segment::Segment;
use super::starts::{UserStarts, UserTable};
use super::times::TimeForm;
use super::writer::containers_of;
use crate::bitmap::{BitmapView, Words, split};
use crate::error::Corruption;
use crate::format::{ImageWriter, Reader, WireError, Writer};

/// Numbers that are packed together.
const BLOCK: usize = BitPacker8x::BLOCK_LEN;

/// Where the order lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OrderIndex {
    users: u32,
    rows: u32,
    /// One for each container of the segment's users, and one behind the last.
    containers: Vec<ContainerStart>,
    pub(super) counts: Area,
    pub(super) numbers: Area,
}

/// The rows of all runs of a segment, user after user in total order: by time, then arrival.
#[derive(Clone, Copy, Debug)]
pub struct RowOrder<'a> {
    table: UserTable<'a>,
    numbers: &'a Area,
    /// How many runs there are.
    runs: usize,
}

impl Segment {
    /// The order of rows across runs.
    ///
    /// # Errors
    /// Where the index of the order is damaged.
    pub fn order(&self) -> Result<RowOrder<'_>, Corruption> {
        let index = self.order_index()?;
        Ok(RowOrder {
            table: UserTable {
                sealed: &self.sealed,
                users: self.any_users()?,
                containers: &index.containers,
                counts: index.stored_counts(),
                index_at: self.footer.order.offset,
            },
            numbers: &index.numbers,
            runs: self.footer.runs.len(),
        })
    }
}

impl RowOrder<'_> {
    /// The error of an order that contradicts the rows.
    pub fn damaged(&self, what: &'static str) -> Corruption {
        Corruption::new(self.table.sealed.file(), self.table.index_at, what)
    }

    /// The places of the rows of container `key`; empty where it has none.
    ///
    /// # Errors
    /// Where the index of the order is damaged.
    pub fn container_rows(&self, key: u16) -> Result<Range<u32>, Corruption> {
        self.table.container_rows(key)
    }

    /// The users of container `key` whose low halves lie in `lows`, each with the places of its
    /// rows in the order. `found` is overwritten.
    ///
    /// # Errors
    /// Where stored bytes are damaged.
    pub fn user_starts(
        &self,
        key: u16,
        lows: Range<u32>,
        found: &mut UserStarts,
    ) -> Result<(), Corruption> {
        self.table.user_starts(key, lows, found)
    }

    /// Appends to `runs` the numbers of the runs (in the order of [`Segment::all_runs`]) that the
    /// rows at `places` lie in. Costs a quarter of a nanosecond a row, and at most 512 rows more.
    ///
    /// # Errors
    /// Where stored bytes are damaged, or places lie beyond the last.
    pub fn runs(&self, places: Range<u32>, runs: &mut Vec<u16>) -> Result<(), Corruption> {
        if places.start >= places.end {
            return Ok(());
        }
        if places.end > self.table.counts.rows {
            return Err(self.table.wrong());
        }
        let width = width_of(self.runs);
        if width == 0 {
            runs.resize(runs.len() + places.len(), 0);
            return Ok(());
        }
        let block_bytes = packed_bytes(width);
        let blocks = places.start as usize / BLOCK..places.end as usize / BLOCK + 1;
        let bytes =
            blocks.start as u64 * block_bytes as u64..blocks.end as u64 * block_bytes as u64;
        let bytes = bytes.start..bytes.end.min(self.numbers.len());
        let packed = self.numbers.slice(self.table.sealed, bytes)?;
        let (from, skipped) = (runs.len(), places.start as usize % BLOCK);
        let mut block = [0; BLOCK];
        for packed in packed.chunks_exact(block_bytes) {
            BitPacker8x::new().decompress(packed, &mut block, width);
            runs.extend(block.iter().map(|&run| run as u16));
        }
        let Some(found) = runs.get(from + skipped..from + skipped + places.len()) else {
            return Err(self.table.wrong());
        };
        // No branch, so that many are compared at a time.
        let greatest = found.iter().fold(0, |greatest, &run| run.max(greatest));
        if usize::from(greatest) >= self.runs {
            return Err(self.table.wrong());
        }
        runs.drain(from..from + skipped);
        runs.truncate(from + places.len());
        Ok(())
    }
}

fn width_of(runs: usize) -> u8 {
    (usize::BITS - runs.saturating_sub(1).leading_zeros()) as u8
}

fn packed_bytes(width: u8) -> usize {
    usize::from(width) * BLOCK / 8
}

/// The rows of a segment in order, for those who write it.
#[derive(Debug, Default)]
pub(super) struct OrderedRows {
    /// The user of the last row.
    last: Option<u32>,
    /// Where each container begins.
    containers: Vec<ContainerStart>,
    counts: Vec<u32>,
    numbers: Vec<u16>,
}

impl OrderedRows {
    /// Room for `rows` rows.
    pub(super) fn with_capacity(rows: usize) -> Self {
        Self {
            numbers: Vec::with_capacity(rows),
            ..Self::default()
        }
    }

    /// Appends a row of run number `run`, which must not come before the last.
    #[inline]
    pub(super) fn push(&mut self, user: u32, run: u16) {
        match self.counts.last_mut() {
            Some(count) if self.last == Some(user) => *count += 1,
            _ => {
                if self.last.is_none_or(|last| split(last).0 != split(user).0) {
                    self.mark_container();
                }
                self.counts.push(1);
                self.last = Some(user);
            }
        }
        self.numbers.push(run);
    }

    /// Finds the order of `runs`, which are all of a segment's; `users` are theirs. Ends where `check`,
    /// which is asked every million rows, fails.
    pub(super) fn of_runs<E>(
        image: &[u8],
        users: &BTreeMap<u16, Words>,
        runs: &[WrittenRun],
        check: impl Fn() -> Result<(), E>,
    ) -> Result<Self, E> {
        if let [run] = runs {
            return Ok(Self::of_run(run));
        }
        let mut cursors: Vec<RunCursor<'_>> = runs.iter().map(RunCursor::new).collect();
        let (mut rows, mut container) = (Self::default(), ContainerRows::default());
        for (&key, users) in users {
            rows.mark_container();
            container.open(&mut cursors, key, users);
            let mut done = 0;
            while done < container.counts.len() {
                check()?;
                done = container.fill(&mut cursors, done, users, image);
                container.append(&mut rows);
            }
        }
        Ok(rows)
    }

    /// The order of the rows of the only run.
    fn of_run(run: &WrittenRun) -> Self {
        let mut rows = Self::default();
        for (_, users) in containers_of(&run.users) {
            rows.mark_container();
            let counts = &run.counts[users];
            rows.counts.extend_from_slice(counts);
            let count: u32 = counts.iter().sum();
            rows.numbers.resize(rows.numbers.len() + count as usize, 0);
        }
        rows
    }

    fn mark_container(&mut self) {
        self.containers.push(ContainerStart {
            user: self.counts.len() as u32,
            row: self.numbers.len() as u32,
        });
    }

    /// Appends the order of the rows of so many runs.
    pub(super) fn write(mut self, image: &mut ImageWriter, runs: usize) -> OrderIndex {
        self.mark_container();
        OrderIndex {
            users: self.counts.len() as u32,
            rows: self.numbers.len() as u32,
            containers: self.containers,
            counts: counts::write(image, &self.counts),
            numbers: pack(image, &self.numbers, width_of(runs)),
        }
    }
}

/// What is left of a run when it is written, to find the order of all rows.
#[derive(Debug)]
pub(super) struct WrittenRun {
    pub(super) users: Vec<u32>,
    pub(super) counts: Vec<u32>,
    pub(super) form: TimeForm,
    /// Where the times lie in the image.
    pub(super) times: Range<usize>,
    /// `[row, rank]` of rows that share user and time with rows of another run.
    pub(super) ties: Vec<[u32; 2]>,
}

fn pack(image: &mut ImageWriter, numbers: &[u16], width: u8) -> Area {
    let mut area = AreaWriter::new(image);
    if width > 0 {
        let (mut block, mut packed) = ([0; BLOCK], vec![0; packed_bytes(width)]);
        for numbers in numbers.chunks(BLOCK) {
            block.fill(0);
            let filled = block.iter_mut().zip(numbers);
            filled.for_each(|(place, &number)| *place = u32::from(number));
            BitPacker8x::new().compress(&block, &mut packed, width);
            area.extend(&packed);
        }
    }
    area.finish()
}

/// How far a run has been read.
struct RunCursor<'r> {
    run: &'r WrittenRun,
    /// The containers of its users, and which of its users lie in each.
    containers: Vec<(u16, Range<usize>)>,
    container: usize,
    /// Its users of the container at hand who are left.
    left: Range<usize>,
    row: usize,
    tie: usize,
}

impl<'r> RunCursor<'r> {
    fn new(run: &'r WrittenRun) -> Self {
        Self {
            run,
            containers: containers_of(&run.users).collect(),
            container: 0,
            left: 0..0,
            row: 0,
            tie: 0,
        }
    }

    /// Goes on to container `key`, where that is the next one that it has.
    fn open(&mut self, key: u16) {
        self.left = match self.containers.get(self.container) {
            Some((next, users)) if *next == key => {
                self.container += 1;
                users.clone()
            }
            _ => 0..0,
        };
    }

    /// The rank of the next row among those that share its user and time.
    fn rank(&mut self) -> u32 {
        match self.run.ties.get(self.tie) {
            Some(&[row, rank]) if row as usize == self.row => {
                self.tie += 1;
                rank
            }
            _ => 0,
        }
    }
}

/// Row of a user: when, its rank among those of other runs at that time, and its run; one number is
/// compared without a branch.
type Key = u128;

#[inline]
fn key_of(time: i64, rank: u32, run: u16) -> Key {
    let time = time as u64 ^ (1 << 63);
    u128::from(time) << 64 | u128::from(rank) << 16 | u128::from(run)
}

/// Rows that are put in order at once, but for a user who has more.
const SLICE_ROWS: u64 = if cfg!(test) { 16 } else { 1 << 20 };

/// The rows of a container, so many users at a time that memory stays small.
#[derive(Default)]
struct ContainerRows {
    /// For each word of the users, how many come before it.
    ranks: Vec<u32>,
    /// How many rows each user has.
    counts: Vec<u32>,
    /// For each user of a slice, the end of its rows so far.
    ends: Vec<u32>,
    keys: Vec<Key>,
}

impl ContainerRows {
    /// Counts the rows of each user of a container.
    fn open(&mut self, cursors: &mut [RunCursor<'_>], key: u16, users: &Words) {
        let mut before = 0;
        self.ranks.clear();
        self.ranks.extend(users.as_slice().iter().map(|word| {
            let rank = before;
            before += word.count_ones();
            rank
        }));
        self.counts.clear();
        self.counts.resize(before as usize, 0);
        let (ranks, counts) = (&self.ranks, &mut self.counts);
        for cursor in cursors {
            cursor.open(key);
            let (run, own) = (cursor.run, cursor.left.clone());
            let own = run.users[own.clone()].iter().zip(&run.counts[own]);
            own.for_each(|(&user, &count)| counts[place_of(user, users, ranks)] += count);
        }
    }

    /// Brings the rows of the users from number `from` on together, each user's in the order of the
    /// runs; gives the number behind the last of these users.
    fn fill(
        &mut self,
        cursors: &mut [RunCursor<'_>],
        from: usize,
        users: &Words,
        image: &[u8],
    ) -> usize {
        let mut all = 0;
        self.ends.clear();
        for &count in &self.counts[from..] {
            if !self.ends.is_empty() && u64::from(all) + u64::from(count) > SLICE_ROWS {
                break;
            }
            self.ends.push(all);
            all += count;
        }
        self.keys.clear();
        self.keys.resize(all as usize, Key::default());
        for (cursor, number) in cursors.iter_mut().zip(0..) {
            let run = cursor.run;
            let times = &image[run.times.clone()];
            for at in cursor.left.clone() {
                let place = place_of(run.users[at], users, &self.ranks) - from;
                let Some(end) = self.ends.get_mut(place) else {
                    break;
                };
                for _ in 0..run.counts[at] {
                    let time = run.form.written(times, cursor.row);
                    self.keys[*end as usize] = key_of(time, cursor.rank(), number);
                    *end += 1;
                    cursor.row += 1;
                }
                cursor.left.start += 1;
            }
        }
        from + self.ends.len()
    }

    /// Appends how many rows each user has, and in order the runs that they lie in.
    fn append(&mut self, rows: &mut OrderedRows) {
        let mut start = 0;
        for &end in &self.ends {
            let own = &mut self.keys[start as usize..end as usize];
            // Rows of one run at one time are alike; ranks tell those of several.
            own.sort_unstable();
            rows.numbers.extend(own.iter().map(|&key| key as u16));
            rows.counts.push(end - start);
            start = end;
        }
    }
}

/// How many of a container's users come before one of them.
#[inline]
fn place_of(user: u32, users: &Words, ranks: &[u32]) -> usize {
    let (word, bit) = (user as usize % (1 << 16) / 64, user % 64);
    let below = users.as_slice()[word] & ((1 << bit) - 1);
    (ranks[word] + below.count_ones()) as usize
}

impl OrderIndex {
    fn stored_counts(&self) -> Stored<'_> {
        Stored {
            area: &self.counts,
            users: self.users,
            rows: self.rows,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u32(self.users);
        out.u32(self.rows);
        out.u32(self.containers.len() as u32);
        for start in &self.containers {
            out.u32(start.user);
            out.u32(start.row);
        }
        self.counts.encode(&mut out);
        self.numbers.encode(&mut out);
        out.finish()
    }

    /// Reads the index of a segment that has so many rows in so many runs.
    pub(super) fn open(
        bytes: &[u8],
        users: BitmapView<'_>,
        (rows, runs): (u32, usize),
    ) -> Result<Self, WireError> {
        let mut bytes = Reader::new(bytes);
        let (own_users, own_rows) = (bytes.u32()?, bytes.u32()?);
        let count = bytes.count(8)?;
        let mut containers = Vec::with_capacity(count);
        for _ in 0..count {
            let (user, row) = (bytes.u32()?, bytes.u32()?);
            containers.push(ContainerStart { user, row });
        }
        let index = Self {
            users: own_users,
            rows: own_rows,
            containers,
            counts: Area::decode(&mut bytes)?,
            numbers: Area::decode(&mut bytes)?,
        };
        let blocks = u64::from(rows).div_ceil(BLOCK as u64);
        let fits = u64::from(own_users) == users.cardinality()
            && own_rows == rows
            && index.counts.len() >= counts::table_len(own_users)
            && index.numbers.len() == blocks * packed_bytes(width_of(runs)) as u64;
        if !fits {
            return Err(bytes.error("an order is not that of its segment's rows"));
        }
        ContainerStart::check(&index.containers, users, rows).map_err(|what| bytes.error(what))?;
        bytes.finish()?;
        Ok(index)
    }
}
