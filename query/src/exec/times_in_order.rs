//! Users' times in order: what [`super::user_times`] hands over where segments tell the order of rows
//! and the name of an event decides whether it counts.

use std::collections::BTreeSet;

use pugmark_engine::Corruption;
use pugmark_engine::bitmap::Words;
use pugmark_engine::segment::{Offsets, Segment, Times};

use crate::behaviour::{Condition, TimeRange, Truth};

use super::control::{Control, QueryError};
use super::in_order::{InOrder, Piece, Walk, check_met, rows_of};
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
        let readers = pieces.map(|piece| Reader::open(piece, scan, morsel));
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
    /// All of 32 bits in one unit, and all asked for.
    Plain {
        sides: Vec<PlainSide<'t>>,
        unit: i64,
    },
    /// Others.
    Any(Vec<Side<'t>>),
}

struct PlainSide<'t> {
    offsets: &'t [u32],
    base: i64,
    met: u32,
}

struct Side<'t> {
    /// `None` where they are not asked for.
    times: Option<Times<'t>>,
    rows: u32,
    met: u32,
}

impl<'t> Reader<'t> {
    fn open(piece: &'t Piece, scan: &Scan<'t>, morsel: &Morsel) -> Result<Self, Corruption> {
        let (number, segment) = piece.segment(scan);
        let of_segment = || scan.runs.iter().filter(|run| run.segment == number);
        let asked: BTreeSet<usize> = of_segment().map(|run| run.run.number()).collect();
        let mut sides = Vec::with_capacity(segment.all_runs().len());
        for run in segment.all_runs() {
            let rows = rows_of(run, morsel)?;
            let asked = asked.contains(&run.number());
            sides.push(Side {
                rows: rows.len() as u32,
                times: asked.then(|| run.times(rows)).transpose()?,
                met: 0,
            });
        }
        Ok(Self {
            segment,
            walk: piece.walk(),
            sides: Sides::of(sides),
            range: (!of_segment().all(|run| run.whole)).then_some(scan.range),
        })
    }

    /// Goes past a user's rows, which lie in these runs.
    fn pass(&mut self, runs: &[u16]) {
        for &run in runs {
            match &mut self.sides {
                Sides::Plain { sides, .. } => sides[usize::from(run)].met += 1,
                Sides::Any(sides) => sides[usize::from(run)].met += 1,
            }
        }
    }

    /// Appends the times in the range of a user's rows, which lie in these runs.
    #[inline]
    fn read(&mut self, runs: &[u16], out: &mut Vec<i64>) {
        let before = out.len();
        match &mut self.sides {
            Sides::Plain { sides, unit } => out.extend(runs.iter().map(|&run| {
                let side = &mut sides[usize::from(run)];
                let offset = side.offsets.get(side.met as usize).copied();
                side.met += 1;
                let micros = i64::from(offset.unwrap_or_default()).wrapping_mul(*unit);
                side.base.wrapping_add(micros)
            })),
            Sides::Any(sides) => out.extend(runs.iter().filter_map(|&run| {
                let side = &mut sides[usize::from(run)];
                let row = side.met;
                side.met += 1;
                let times = side.times.as_ref().filter(|_| row < side.rows)?;
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
            Sides::Plain { sides, .. } => {
                let met = sides
                    .iter()
                    .map(|side| (side.met, side.offsets.len() as u32));
                check_met(self.segment, met)
            }
            Sides::Any(sides) => {
                let met = sides.iter().map(|side| (side.met, side.rows));
                check_met(self.segment, met)
            }
        }
    }
}

impl<'t> Sides<'t> {
    fn of(sides: Vec<Side<'t>>) -> Self {
        let times = || sides.iter().filter_map(|side| side.times.as_ref());
        let filled = || times().filter(|times| !times.is_empty());
        let units: BTreeSet<u64> = filled().map(|times| times.unit_micros).collect();
        let plain = |times: &Times<'t>| match times.offsets {
            Offsets::U32(offsets) => Some((offsets, times.base)),
            _ if times.is_empty() => Some((&[][..], 0)),
            _ => None,
        };
        let plain: Vec<PlainSide<'t>> = times()
            .filter_map(plain)
            .map(|(offsets, base)| PlainSide {
                offsets,
                base,
                met: 0,
            })
            .collect();
        match units.first() {
            Some(&unit) if units.len() == 1 && plain.len() == sides.len() => Self::Plain {
                sides: plain,
                unit: unit as i64,
            },
            _ => Self::Any(sides),
        }
    }
}
