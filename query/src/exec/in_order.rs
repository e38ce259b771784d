//! A morsel's rows in total order, user by user: by the order of rows that each segment keeps.
//!
//! It says of each of a user's rows in which run it lies; the next row of a run is the one behind its
//! last. So all runs are read from front to back, side by side, and nothing is searched or sorted.
//! That needs one segment for each span of time, which compaction strives for; otherwise events are
//! brought into order (`gather`, `user_times`).

use std::ops::Range;

use pugmark_engine::Corruption;
use pugmark_engine::bitmap::{CONTAINER_BITS, Words};
use pugmark_engine::segment::{NameRun, Offsets, Segment, Times, UserStarts};

use crate::behaviour::TimeRange;

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
    control: &'c Control,
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
    /// The runs that the scan reads.
    asked: Vec<AskedRows>,
}

/// A run that the scan reads, and those of its rows that belong to the morsel's users.
#[derive(Clone, Debug)]
pub(super) struct AskedRows {
    /// Index of the run in the scan.
    pub(super) index: usize,
    pub(super) rows: Range<u32>,
}

/// To get ready to read a segment takes for each of its runs as long as to go through so many rows.
const RUN_COST: u64 = 8;
/// Of events whose values are looked at, one in so many is taken to be asked for.
const SELECTED: f64 = 8.0;
/// Rows that are unpacked beside those that are asked for, at most.
const MOST_BESIDE: usize = 512;

impl<'c> InOrder<'c> {
    pub(super) fn new(control: &'c Control) -> Self {
        Self {
            pieces: Vec::new(),
            used: 0,
            control,
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
        for number in read {
            self.control.check()?;
            if self.used == self.pieces.len() {
                self.pieces.push(Piece::default());
            }
            self.memory.at_least(self.byte_len(morsel))?;
            let order = scan.segments[number as usize].order()?;
            let piece = &mut self.pieces[self.used];
            order.user_starts(morsel.key, morsel.lows.clone(), &mut piece.found)?;
            let rows = piece.found.rows();
            if rows.is_empty() {
                continue;
            }
            self.make_room(rows.len() + MOST_BESIDE, morsel)?;
            let piece = &mut self.pieces[self.used];
            piece.segment = number;
            order.runs(rows, &mut piece.runs)?;
            piece.find_asked(scan, morsel)?;
            self.used += 1;
        }
        Ok(true)
    }

    /// Makes room for the runs of so many rows of the next piece.
    fn make_room(&mut self, rows: usize, morsel: &Morsel) -> Result<(), QueryError> {
        let runs = &mut self.pieces[self.used].runs;
        runs.clear();
        if runs.capacity() < rows {
            // What is there is given up first.
            *runs = Vec::new();
            let bytes = self.byte_len(morsel) + rows * size_of::<u16>();
            self.memory.at_least(bytes)?;
            self.pieces[self.used].runs.reserve_exact(rows);
        }
        Ok(())
    }

    /// What all pieces hold, or may: run lengths are of no more users than the morsel has.
    fn byte_len(&self, morsel: &Morsel) -> usize {
        let users = 2 * morsel.lows.len() * size_of::<u32>();
        let of_piece = |piece: &Piece| {
            let runs = piece.runs.capacity() * size_of::<u16>();
            let asked = piece.asked.capacity() * size_of::<AskedRows>();
            BYTES_PER_PIECE
                + users.max(piece.found.starts.capacity() * size_of::<u32>())
                + runs
                + asked
        };
        self.pieces.iter().map(of_piece).sum()
    }

    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces[..self.used]
    }
}

/// Bytes of a piece but for its users and rows.
const BYTES_PER_PIECE: usize = 8_192 + size_of::<Piece>();

/// The segments that have rows of the morsel's container, in order of time; `None` where several have
/// rows of one span of time.
fn segments_alone(scan: &Scan<'_>, morsel: &Morsel) -> Result<Option<Vec<u32>>, Corruption> {
    let mut read = Vec::new();
    for runs in scan.runs.chunk_by(|one, next| one.segment == next.segment) {
        let number = runs[0].segment;
        let segment = &scan.segments[number as usize];
        if !segment.order()?.container_rows(morsel.key)?.is_empty() {
            read.push((segment.meta().partition, number));
        }
    }
    read.sort_unstable();
    let alone = read.windows(2).all(|two| two[0].0 != two[1].0);
    Ok(alone.then(|| read.into_iter().map(|(_, number)| number).collect()))
}

/// True where there are few enough rows of other names, users and times in the segments `read`.
fn is_cheaper(
    scan: &Scan<'_>,
    read: &[u32],
    morsel: &Morsel,
    wanted: &Words,
    sort_cost: f64,
) -> Result<bool, Corruption> {
    let (mut all, mut users) = (0, Words::new());
    // Segments are made ready for each of a container's morsels.
    let morsels = CONTAINER_BITS as u64 / morsel.lows.len().max(1) as u64;
    for &number in read {
        let segment = &scan.segments[number as usize];
        all += segment.order()?.container_rows(morsel.key)?.len() as u64;
        all += segment.all_runs().len() as u64 * RUN_COST * morsels;
        segment.any_users()?.or_into(morsel.key, &mut users);
    }
    let mut asked = 0.0;
    for source in &scan.runs {
        let rows = source.run.container_rows(morsel.key)?.len() as f64;
        let selected = if source.is_decided() { 1.0 } else { SELECTED };
        asked += rows * share_of_time(source.run, scan.range) / selected;
    }
    let users = users.len_in(morsel.lows.clone()).max(1);
    let share = f64::from(wanted.len()) / f64::from(users);
    Ok(asked * share * sort_cost >= all as f64)
}

/// How much of a run's time lies in the range.
fn share_of_time(run: NameRun<'_>, range: TimeRange) -> f64 {
    let first = run.min_time().max(range.first) as f64;
    let last = run.max_time().min(range.last) as f64;
    let whole = run.max_time() as f64 - run.min_time() as f64;
    ((last - first + 1.0) / (whole + 1.0)).clamp(0.0, 1.0)
}

impl Piece {
    /// Finds the runs that the scan reads.
    fn find_asked(&mut self, scan: &Scan<'_>, morsel: &Morsel) -> Result<(), Corruption> {
        self.asked.clear();
        let first = scan.runs.partition_point(|run| run.segment < self.segment);
        let own = scan.runs[first..].iter().zip(first..);
        for (source, index) in own.take_while(|(run, _)| run.segment == self.segment) {
            let rows = rows_of(source.run, morsel)?;
            effort::rows(rows.len());
            self.asked.push(AskedRows { index, rows });
        }
        Ok(())
    }

    pub(super) fn asked(&self) -> &[AskedRows] {
        &self.asked
    }

    pub(super) fn segment<'a>(&self, scan: &Scan<'a>) -> &'a Segment {
        &scan.segments[self.segment as usize]
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

/// The times of a segment's runs, read side by side, where all of them are numbers of 32 bits in one
/// unit.
pub(super) struct PlainTimes<'t> {
    sides: Vec<PlainSide<'t>>,
    unit_micros: i64,
}

struct PlainSide<'t> {
    offsets: &'t [u32],
    base: i64,
    /// So many were read.
    met: u32,
}

impl<'t> PlainTimes<'t> {
    /// Of each run its times, where it has any. `None` where some are of another form.
    pub(super) fn of(times: impl Iterator<Item = Option<Times<'t>>>) -> Option<Self> {
        let (mut sides, mut unit) = (Vec::new(), None);
        for times in times {
            let (offsets, base) = match times.filter(|times| !times.is_empty()) {
                None => (&[][..], 0),
                Some(times) if *unit.get_or_insert(times.unit_micros) != times.unit_micros => {
                    return None;
                }
                Some(times) => match times.offsets {
                    Offsets::U32(offsets) => (offsets, times.base),
                    _ => return None,
                },
            };
            let met = 0;
            sides.push(PlainSide { offsets, base, met });
        }
        let unit_micros = unit.unwrap_or(1) as i64;
        Some(Self { sides, unit_micros })
    }

    /// The number and the time of the next row of a run; no matter what where there are no more.
    #[inline(always)]
    pub(super) fn next(&mut self, run: u16) -> (u32, i64) {
        let side = &mut self.sides[usize::from(run)];
        let offset = side.offsets.get(side.met as usize).copied();
        let row = side.met;
        side.met += 1;
        let micros = i64::from(offset.unwrap_or_default()).wrapping_mul(self.unit_micros);
        (row, side.base.wrapping_add(micros))
    }

    /// Goes past the next row of a run.
    pub(super) fn pass(&mut self, run: u16) {
        self.sides[usize::from(run)].met += 1;
    }

    /// For each run how many rows were met, and how many it has.
    pub(super) fn met(&self) -> impl Iterator<Item = (u32, u32)> {
        self.sides
            .iter()
            .map(|side| (side.met, side.offsets.len() as u32))
    }
}

/// The rows of a run that belong to the morsel's users.
fn rows_of(run: NameRun<'_>, morsel: &Morsel) -> Result<Range<u32>, Corruption> {
    let whole = run.container_rows(morsel.key)?;
    let from = |low: u32| match u16::try_from(low) {
        Ok(0) => Ok(whole.start),
        Ok(low) if !whole.is_empty() => run.first_row_from(morsel.key, low),
        _ => Ok(whole.end),
    };
    Ok(from(morsel.lows.start)?..from(morsel.lows.end)?)
}

/// Ends in an error where not all rows of a run were met, or more.
pub(super) fn check_met(
    segment: &Segment,
    met: impl Iterator<Item = (u32, u32)>,
) -> Result<(), Corruption> {
    for (met, rows) in met {
        if met != rows {
            let what = "the order of rows names more or fewer rows of a run than there are";
            return Err(segment.order()?.damaged(what));
        }
    }
    Ok(())
}
