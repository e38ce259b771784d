//! A morsel's rows in total order, user by user: by the order of rows that each segment keeps.
//!
//! It says of each of a user's rows in which run it lies; the next row of a run is the one behind its
//! last. So all runs are read from front to back, side by side, and nothing is searched or sorted.
//! That needs one segment for each span of time, which compaction strives for; otherwise events are
//! brought into order (`gather`, `user_times`).

use std::collections::BTreeSet;
use std::ops::Range;

use pugmark_engine::Corruption;
use pugmark_engine::bitmap::Words;
use pugmark_engine::segment::{NameRun, Segment, UserStarts};

use super::control::{Control, QueryError};
use super::effort;
use super::memory::Reservation;
use super::morsel::Morsel;
use super::scan::Scan;

/// The rows of a morsel's users, segment by segment. Kept between morsels, so that its memory is
/// reused.
#[derive(Debug)]
pub(super) struct InOrder<'c> {
    /// The first `used` are the morsel's, in order of time.
    pub(super) pieces: Vec<Piece>,
    used: usize,
    memory: Reservation<'c>,
}

/// The rows of the morsel's users in one segment.
#[derive(Debug, Default)]
pub(super) struct Piece {
    /// Number of the segment in the snapshot.
    segment: u32,
    found: UserStarts,
    /// The run of each row, in order.
    pub(super) runs: Vec<u16>,
}

/// Bytes of a piece but for its users and rows.
const BYTES_PER_PIECE: usize = 8_192 + size_of::<Piece>();
/// To get ready to read a run takes as long as to go through so many rows.
const RUN_COST: u64 = 32;
/// Rows that are unpacked beside those that are asked for, at most.
const MOST_BESIDE: usize = 512;

impl<'c> InOrder<'c> {
    pub(super) fn new(control: &'c Control) -> Self {
        Self {
            pieces: Vec::new(),
            used: 0,
            memory: control.reservation(),
        }
    }

    /// Finds the rows of the morsel's users in the scan's segments. False where several of these
    /// have rows of one span of time, or where it costs less to bring the rows of `wanted` that the
    /// scan reads into order: as much for one as to go through `sort_cost` rows in order.
    pub(super) fn find(
        &mut self,
        scan: &Scan<'_>,
        morsel: &Morsel,
        wanted: &Words,
        sort_cost: f64,
    ) -> Result<bool, QueryError> {
        self.used = 0;
        let Some(read) = segments_alone(scan, morsel)? else {
            return Ok(false);
        };
        if !is_cheaper(scan, &read, morsel, wanted, sort_cost)? {
            return Ok(false);
        }
        let mut bytes = 0;
        for number in read {
            if self.used == self.pieces.len() {
                self.pieces.push(Piece::default());
            }
            let order = scan.segments[number as usize].order()?;
            let piece = &mut self.pieces[self.used];
            order.user_starts(morsel.key, morsel.lows.clone(), &mut piece.found)?;
            let rows = piece.rows();
            if rows.is_empty() {
                continue;
            }
            bytes += BYTES_PER_PIECE + 2 * piece.found.starts.len() * size_of::<u32>();
            bytes += 2 * (rows.len() + MOST_BESIDE) * size_of::<u16>();
            self.memory.at_least(bytes)?;
            piece.segment = number;
            piece.runs.clear();
            order.runs(rows.clone(), &mut piece.runs)?;
            effort::rows(rows.len());
            self.used += 1;
        }
        Ok(true)
    }

    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces[..self.used]
    }
}

/// The segments that have rows of the morsel's container, in order of time; `None` where several have
/// rows of one span of time.
fn segments_alone(scan: &Scan<'_>, morsel: &Morsel) -> Result<Option<Vec<u32>>, Corruption> {
    let numbers = scan.runs.iter().map(|run| run.segment);
    let numbers: BTreeSet<u32> = numbers.collect();
    let mut read = Vec::with_capacity(numbers.len());
    for number in numbers {
        let segment = &scan.segments[number as usize];
        if !segment.order()?.container_rows(morsel.key)?.is_empty() {
            read.push((segment.meta().partition, number));
        }
    }
    read.sort_unstable();
    let alone = read.windows(2).all(|two| two[0].0 != two[1].0);
    Ok(alone.then(|| read.into_iter().map(|(_, number)| number).collect()))
}

/// True where there are few enough rows of other runs and users in the segments `read`.
fn is_cheaper(
    scan: &Scan<'_>,
    read: &[u32],
    morsel: &Morsel,
    wanted: &Words,
    sort_cost: f64,
) -> Result<bool, Corruption> {
    let (mut asked, mut all, mut users) = (0, 0, 1);
    for source in &scan.runs {
        asked += source.run.container_rows(morsel.key)?.len() as u64;
        users = users.max(source.run.container_users(morsel.key)?);
    }
    for &number in read {
        let segment = &scan.segments[number as usize];
        all += segment.order()?.container_rows(morsel.key)?.len() as u64;
        all += segment.all_runs().len() as u64 * RUN_COST;
    }
    let users = users.min(morsel.lows.end - morsel.lows.start);
    let share = (f64::from(wanted.len()) / f64::from(users)).min(1.0);
    Ok(asked as f64 * share * sort_cost >= all as f64)
}

impl Piece {
    /// The segment, and its number in the snapshot.
    pub(super) fn segment<'a>(&self, scan: &Scan<'a>) -> (u32, &'a Segment) {
        (self.segment, &scan.segments[self.segment as usize])
    }

    /// Places in the order of the segment's rows.
    fn rows(&self) -> Range<u32> {
        let first = self.found.starts.first().copied().unwrap_or_default();
        first..self.found.starts.last().copied().unwrap_or(first)
    }

    /// Goes through the users.
    pub(super) fn walk(&self) -> Walk<'_> {
        Walk {
            users: self.found.users.as_slice(),
            starts: &self.found.starts,
            runs: &self.runs,
        }
    }
}

/// Goes through a segment's users, each of whom must be asked for.
pub(super) struct Walk<'p> {
    pub(super) users: &'p [u64],
    /// The first place of each user who is left, and the end of the last one's.
    starts: &'p [u32],
    /// The run of each row that is left.
    runs: &'p [u16],
}

impl<'p> Walk<'p> {
    /// The runs of the next user's rows.
    #[inline]
    pub(super) fn next_user(&mut self) -> &'p [u16] {
        let count = match self.starts {
            [start, end, ..] => (end - start) as usize,
            _ => 0,
        };
        self.starts = self.starts.get(1..).unwrap_or_default();
        let (own, rest) = self.runs.split_at(count.min(self.runs.len()));
        self.runs = rest;
        own
    }
}

/// The rows of a run that belong to the morsel's users.
pub(super) fn rows_of(run: NameRun<'_>, morsel: &Morsel) -> Result<Range<u32>, Corruption> {
    let whole = run.container_rows(morsel.key)?;
    let from = |low: u32| match u16::try_from(low) {
        Ok(0) => Ok(whole.start),
        Ok(low) if !whole.is_empty() => run.first_row_from(morsel.key, low),
        _ => Ok(whole.end),
    };
    Ok(from(morsel.lows.start)?..from(morsel.lows.end)?)
}

/// Ends in an error where the rows that were met are not all of the runs'.
pub(super) fn check_met(
    segment: &Segment,
    met: impl Iterator<Item = (u32, u32)>,
) -> Result<(), Corruption> {
    for (met, rows) in met {
        if met != rows {
            let what = "the order of rows names more or fewer rows of a run than there are";
            return Err(Corruption::new(segment.file(), 0, what));
        }
    }
    Ok(())
}
