//! Events of a segment as its order of rows tells them, for [`super::gather`].

use pugmark_engine::Corruption;
use pugmark_engine::segment::{Segment, Times, UserStarts};

use crate::behaviour::{Skipped, TimeRange};

use super::control::{Control, QueryError};
use super::gather::{BitVerdicts, Gathering, RowRef, lows_of};
use super::in_order::{AskedRows, Piece, PlainTimes, Walk, check_met};
use super::scan::Verdicts;

/// Goes through a segment's users and their events.
pub(super) struct Reader<'p, 'a> {
    segment: &'a Segment,
    pub(super) walk: Walk<'p>,
    sides: Sides<'a>,
}

/// The runs of the segment.
enum Sides<'a> {
    /// Every row of every run is wanted, whenever it was.
    Plain {
        times: PlainTimes<'a>,
        /// What is known of all rows of each run.
        of_run: Vec<PlainRun>,
    },
    Any(Vec<Side<'a>>),
}

/// A run of which every row is wanted.
#[derive(Clone, Copy, Debug, Default)]
struct PlainRun {
    mask: u64,
    flags: u8,
    /// Index of the run in the scan.
    number: u32,
    /// Its first row that belongs to the morsel's users.
    first: u32,
}

/// A run of the segment.
#[derive(Default)]
pub(super) struct Side<'a> {
    /// So many rows were met.
    met: u32,
    /// `None` where none is wanted.
    asked: Option<AskedRun<'a>>,
}

struct AskedRun<'a> {
    /// Index of the run in the scan.
    number: u32,
    /// Its first row that belongs to the morsel's users.
    first: u32,
    whole: bool,
    times: Times<'a>,
    verdicts: BitVerdicts,
    /// The bits of all rows, where they are the same.
    bits: Option<(u64, u8)>,
}

/// Where the next events go.
pub(super) struct Slots<'o> {
    pub(super) times: &'o mut [i64],
    pub(super) masks: &'o mut [u64],
    pub(super) flags: &'o mut [u8],
    pub(super) rows: &'o mut [RowRef],
}

impl<'p, 'a> Reader<'p, 'a> {
    /// Evaluates the conditions of the segment's runs.
    pub(super) fn open(
        piece: &'p Piece,
        of: Gathering<'_, 'a>,
        (found, control, skipped): (&mut UserStarts, &Control, &mut Skipped),
    ) -> Result<Self, QueryError> {
        let segment = piece.segment(of.scan);
        let mut sides = Vec::new();
        sides.resize_with(segment.all_runs().len(), Side::default);
        for own in piece.asked() {
            let with = (&mut *found, control, &mut *skipped);
            let number = of.scan.runs[own.index].run.number();
            sides[number].asked = Some(AskedRun::open(own, of, with)?);
        }
        Ok(Self {
            segment,
            walk: piece.walk(),
            sides: Sides::of(sides),
        })
    }

    /// Goes on to the next user, who is not wanted.
    pub(super) fn pass(&mut self) {
        for &run in self.walk.next_user() {
            match &mut self.sides {
                Sides::Plain { times, .. } => times.pass(run),
                Sides::Any(sides) => sides[usize::from(run)].met += 1,
            }
        }
    }

    /// Goes on to the next user; gives the number of its events.
    #[inline]
    pub(super) fn read(&mut self, range: TimeRange, out: &mut Slots<'_>) -> usize {
        let runs = self.walk.next_user();
        match &mut self.sides {
            Sides::Plain { times, of_run } => out.put_all(runs, times, of_run),
            Sides::Any(sides) => out.put_some(runs, sides, range),
        }
    }

    /// Fails where the order does not name every row once.
    pub(super) fn check(&self) -> Result<(), Corruption> {
        match &self.sides {
            Sides::Plain { times, .. } => check_met(self.segment, times.met()),
            Sides::Any(sides) => {
                let asked = sides
                    .iter()
                    .filter_map(|side| Some((side.met, side.asked.as_ref()?)));
                let met = asked.map(|(met, asked)| (met, asked.times.len() as u32));
                check_met(self.segment, met)
            }
        }
    }
}

impl Slots<'_> {
    /// Puts a user's events, which lie in these runs; gives how many.
    #[inline]
    fn put_all(&mut self, runs: &[u16], read: &mut PlainTimes<'_>, of_run: &[PlainRun]) -> usize {
        // A damaged order may name more rows than there are; that is noticed in the end.
        let (runs, beyond) = runs.split_at(runs.len().min(self.times.len()));
        beyond.iter().for_each(|&run| read.pass(run));
        let times = self.times.iter_mut().zip(self.masks.iter_mut());
        let rest = self.flags.iter_mut().zip(self.rows.iter_mut());
        for (((time, mask), (flags, row)), &run) in times.zip(rest).zip(runs) {
            let (met, at) = read.next(run);
            let run = of_run[usize::from(run)];
            (*time, *mask, *flags) = (at, run.mask, run.flags);
            row.run = run.number;
            row.row = run.first.wrapping_add(met);
        }
        runs.len()
    }

    /// Puts those events of a user that are wanted; gives how many.
    fn put_some(&mut self, runs: &[u16], sides: &mut [Side<'_>], range: TimeRange) -> usize {
        let mut events = 0;
        for &run in runs {
            let side = &mut sides[usize::from(run)];
            let met = side.met;
            side.met += 1;
            let asked = side.asked.as_ref();
            let Some(asked) = asked.filter(|asked| (met as usize) < asked.times.len()) else {
                continue;
            };
            let Some((mask, flags)) = asked.bits.or_else(|| asked.verdicts.of(met as usize)) else {
                continue;
            };
            let time = asked.times.get(met as usize);
            self.times[events] = time;
            self.masks[events] = mask;
            self.flags[events] = flags;
            self.rows[events] = RowRef {
                run: asked.number,
                row: asked.first + met,
            };
            events += usize::from(asked.whole || range.contains(time));
        }
        events
    }
}

impl<'a> Sides<'a> {
    fn of(sides: Vec<Side<'a>>) -> Self {
        let plain = |side: &Side<'_>| match &side.asked {
            Some(AskedRun {
                whole: true,
                bits: Some((mask, flags)),
                number,
                first,
                ..
            }) => Some(PlainRun {
                mask: *mask,
                flags: *flags,
                number: *number,
                first: *first,
            }),
            _ => None,
        };
        let of_run: Option<Vec<PlainRun>> = sides.iter().map(plain).collect();
        let times = sides.iter().map(|side| Some(side.asked.as_ref()?.times));
        match (PlainTimes::of(times), of_run) {
            (Some(times), Some(of_run)) => Self::Plain { times, of_run },
            _ => Self::Any(sides),
        }
    }
}

impl<'a> AskedRun<'a> {
    fn open(
        own: &AskedRows,
        of: Gathering<'_, 'a>,
        (found, control, skipped): (&mut UserStarts, &Control, &mut Skipped),
    ) -> Result<Self, QueryError> {
        let source = &of.scan.runs[own.index];
        if !source.is_decided() {
            let lows = of.morsel.lows.clone();
            source.run.user_starts(of.morsel.key, lows, found)?;
        }
        let lows = || lows_of(found);
        let verdicts = match own.rows.is_empty() && !source.is_decided() {
            true => vec![Verdicts::None; source.conditions.len()],
            false => source.evaluate(&own.rows, &lows, of.traits, control, skipped)?,
        };
        let verdicts = BitVerdicts::new(verdicts, &of.asked);
        Ok(Self {
            number: own.index as u32,
            first: own.rows.start,
            whole: source.whole,
            times: source.run.times(own.rows.clone())?,
            bits: verdicts.of_all(),
            verdicts,
        })
    }
}
