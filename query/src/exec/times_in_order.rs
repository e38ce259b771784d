//! Users' times in order: what [`super::user_times`] hands over where segments tell the order of rows
//! and the name of an event decides whether it counts.

use pugmark_engine::Corruption;
use pugmark_engine::bitmap::Words;
use pugmark_engine::segment::{Segment, Times};

use crate::behaviour::{Condition, TimeRange, Truth};

use super::control::{Control, QueryError};
use super::in_order::{InOrder, Piece, PlainTimes, Walk, check_met};
use super::memory::Reservation;
use super::morsel::Morsel;
use super::scan::Scan;

/// True where the name of an event decides whether it satisfies the first condition.
pub(super) fn names_decide(scan: &Scan<'_>) -> bool {
    let named = |condition: &Condition| *condition == Condition::Constant(Truth::True);
    scan.runs.iter().all(|run| named(&run.conditions[0]))
}

/// One user's times. Kept between morsels, so that its memory is reused.
#[derive(Debug)]
pub(super) struct OrderedTimes<'c> {
    times: Vec<i64>,
    control: &'c Control,
    memory: Reservation<'c>,
}

impl<'c> OrderedTimes<'c> {
    pub(super) fn new(control: &'c Control) -> Self {
        Self {
            times: Vec::new(),
            control,
            memory: control.reservation(),
        }
    }

    /// Calls `visit` with the times of each of `wanted` that lie in the scan's range, in order; not
    /// with users who have none.
    pub(super) fn for_each(
        &mut self,
        rows: &InOrder<'_>,
        scan: &Scan<'_>,
        (morsel, wanted): (&Morsel, &Words),
        mut visit: impl FnMut(u32, &[i64]) -> Result<(), QueryError>,
    ) -> Result<(), QueryError> {
        let pieces = rows.pieces().iter();
        let sides = pieces
            .clone()
            .map(|piece| piece.segment(scan).all_runs().len());
        let mut held = self.control.reservation();
        held.grow(sides.sum::<usize>() * size_of::<Side<'_>>())?;
        let readers = pieces.map(|piece| Reader::open(piece, scan));
        let mut readers: Vec<Reader<'_>> = readers.collect::<Result<_, _>>()?;
        for word in morsel.lows.start / 64..morsel.lows.end / 64 {
            self.control.check()?;
            let wanted = wanted.as_slice()[word as usize];
            let of_word = |bits, reader: &Reader<'_>| bits | reader.walk.users[word as usize];
            let mut left = readers.iter().fold(0, of_word);
            while left != 0 {
                let low = word * 64 + left.trailing_zeros();
                let bit = left & left.wrapping_neg();
                left ^= bit;
                self.times.clear();
                for reader in &mut readers {
                    if reader.walk.users[word as usize] & bit == 0 {
                        continue;
                    }
                    let runs = reader.walk.next_user();
                    if wanted & bit == 0 {
                        reader.pass(runs);
                        continue;
                    }
                    self.make_room(runs.len())?;
                    reader.read(runs, &mut self.times);
                }
                if !self.times.is_empty() {
                    visit(u32::from(morsel.key) << 16 | low, &self.times)?;
                }
            }
        }
        Ok(readers.iter().try_for_each(Reader::check)?)
    }

    #[inline]
    fn make_room(&mut self, times: usize) -> Result<(), QueryError> {
        let all = self.times.len() + times;
        if all > self.times.capacity() {
            // The new place and the old one, from which they are copied.
            let room = all.next_power_of_two();
            self.memory.at_least(2 * room * size_of::<i64>())?;
            self.times.reserve_exact(room - self.times.len());
        }
        Ok(())
    }
}

/// Goes through a segment's users and the times of their rows.
struct Reader<'t> {
    segment: &'t Segment,
    walk: Walk<'t>,
    sides: Sides<'t>,
    /// Of the rows that the segment has; `None` where all of them lie in it.
    range: Option<TimeRange>,
}

/// The times of each run, and how many were read.
enum Sides<'t> {
    /// All are asked for.
    Plain(PlainTimes<'t>),
    Any(Vec<Side<'t>>),
}

#[derive(Clone, Default)]
struct Side<'t> {
    /// `None` where they are not asked for.
    times: Option<Times<'t>>,
    met: u32,
}

impl<'t> Reader<'t> {
    fn open(piece: &'t Piece, scan: &Scan<'t>) -> Result<Self, Corruption> {
        let segment = piece.segment(scan);
        let mut sides = vec![Side::default(); segment.all_runs().len()];
        let mut whole = true;
        for asked in piece.asked() {
            let source = &scan.runs[asked.index];
            sides[source.run.number()].times = Some(source.run.times(asked.rows.clone())?);
            whole &= source.whole;
        }
        Ok(Self {
            segment,
            walk: piece.walk(),
            sides: Sides::of(sides),
            range: (!whole).then_some(scan.range),
        })
    }

    /// Goes past a user's rows, which lie in these runs.
    fn pass(&mut self, runs: &[u16]) {
        for &run in runs {
            match &mut self.sides {
                Sides::Plain(times) => times.pass(run),
                Sides::Any(sides) => sides[usize::from(run)].met += 1,
            }
        }
    }

    /// Appends the times in the range of a user's rows, which lie in these runs.
    #[inline]
    fn read(&mut self, runs: &[u16], out: &mut Vec<i64>) {
        let before = out.len();
        match &mut self.sides {
            Sides::Plain(times) => out.extend(runs.iter().map(|&run| times.next(run).1)),
            Sides::Any(sides) => out.extend(runs.iter().filter_map(|&run| {
                let side = &mut sides[usize::from(run)];
                let row = side.met;
                side.met += 1;
                let times = side.times.filter(|times| (row as usize) < times.len())?;
                Some(times.get(row as usize))
            })),
        }
        let Some(range) = self.range else {
            return;
        };
        let mut kept = before;
        for place in before..out.len() {
            out[kept] = out[place];
            kept += usize::from(range.contains(out[place]));
        }
        out.truncate(kept);
    }

    /// Fails where the order does not name every row once.
    fn check(&self) -> Result<(), Corruption> {
        match &self.sides {
            Sides::Plain(times) => check_met(self.segment, times.met()),
            Sides::Any(sides) => {
                let asked = sides
                    .iter()
                    .filter_map(|side| Some((side.met, side.times?)));
                let met = asked.map(|(met, times)| (met, times.len() as u32));
                check_met(self.segment, met)
            }
        }
    }
}

impl<'t> Sides<'t> {
    fn of(sides: Vec<Side<'t>>) -> Self {
        let all = sides.iter().all(|side| side.times.is_some());
        let times = sides.iter().map(|side| side.times);
        match PlainTimes::of(times).filter(|_| all) {
            Some(times) => Self::Plain(times),
            None => Self::Any(sides),
        }
    }
}
