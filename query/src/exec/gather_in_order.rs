//! Events of a segment as its order of rows tells them, for [`super::gather`].

use pugmark_engine::Corruption;
use pugmark_engine::segment::{Segment, Times, UserStarts};

use crate::behaviour::{Skipped, TimeRange};

use super::control::{Control, QueryError};
use super::gather::{Asked, BitVerdicts, RowRef, lows_of};
use super::in_order::{Piece, Walk, check_met, rows_of};
use super::morsel::Morsel;
use super::scan::{RunScan, Scan};
use super::traits::TraitTable;

/// Goes through a segment's users and their events.
pub(super) struct Reader<'p, 'a> {
    segment: &'a Segment,
    pub(super) walk: Walk<'p>,
    /// Of each run of the segment.
    sides: Vec<Side<'a>>,
    /// True where every row of every run is wanted, whenever it was.
    plain: bool,
}

/// A run of the segment.
struct Side<'a> {
    rows: u32,
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

impl Slots<'_> {
    #[inline(always)]
    fn put(&mut self, place: usize, time: i64, (mask, flags): (u64, u8), row: RowRef) {
        self.times[place] = time;
        self.masks[place] = mask;
        self.flags[place] = flags;
        self.rows[place] = row;
    }
}

impl<'p, 'a> Reader<'p, 'a> {
    /// Evaluates the conditions of the segment's runs.
    pub(super) fn open(
        piece: &'p Piece,
        scan: &Scan<'a>,
        morsel: &Morsel,
        traits: &TraitTable,
        asked: Asked,
        with: (&mut UserStarts, &Control, &mut Skipped),
    ) -> Result<Self, QueryError> {
        let (number, segment) = piece.segment(scan);
        let mut sides = Vec::with_capacity(segment.all_runs().len());
        for run in segment.all_runs() {
            sides.push(Side {
                rows: rows_of(run, morsel)?.len() as u32,
                met: 0,
                asked: None,
            });
        }
        let (found, control, skipped) = with;
        let sources = scan.runs.iter().zip(0..);
        for (source, index) in sources.filter(|(source, _)| source.segment == number) {
            let with = (&mut *found, control, &mut *skipped);
            let run = AskedRun::open(source, index, morsel, traits, asked, with)?;
            sides[source.run.number()].asked = run;
        }
        let plain = |side: &Side<'_>| match &side.asked {
            Some(asked) => asked.whole && asked.bits.is_some(),
            None => side.rows == 0,
        };
        Ok(Self {
            segment,
            walk: piece.walk(),
            plain: sides.iter().all(plain),
            sides,
        })
    }

    /// Goes on to the next user, who is not wanted.
    pub(super) fn pass(&mut self) {
        for &run in self.walk.next_user() {
            self.sides[usize::from(run)].met += 1;
        }
    }

    /// Goes on to the next user; gives the number of its events.
    #[inline]
    pub(super) fn read(&mut self, range: TimeRange, out: &mut Slots<'_>) -> usize {
        let mut events = 0;
        for &run in self.walk.next_user() {
            let side = &mut self.sides[usize::from(run)];
            let met = side.met;
            side.met += 1;
            let Some(asked) = side.asked.as_ref().filter(|_| met < side.rows) else {
                continue;
            };
            let row = RowRef {
                run: asked.number,
                row: asked.first + met,
            };
            let bits = match (self.plain, asked.bits) {
                (true, Some(bits)) => bits,
                _ => match asked.verdicts.of(met as usize) {
                    Some(bits) => bits,
                    None => continue,
                },
            };
            let time = asked.times.get(met as usize);
            out.put(events, time, bits, row);
            events += usize::from(self.plain || asked.whole || range.contains(time));
        }
        events
    }

    /// Fails where the order does not name every row once.
    pub(super) fn check(&self) -> Result<(), Corruption> {
        check_met(
            self.segment,
            self.sides.iter().map(|side| (side.met, side.rows)),
        )
    }
}

impl<'a> AskedRun<'a> {
    fn open(
        source: &RunScan<'a>,
        number: u32,
        morsel: &Morsel,
        traits: &TraitTable,
        asked: Asked,
        (found, control, skipped): (&mut UserStarts, &Control, &mut Skipped),
    ) -> Result<Option<Self>, QueryError> {
        let rows = rows_of(source.run, morsel)?;
        if rows.is_empty() {
            return Ok(None);
        }
        if !source.is_decided() {
            let lows = morsel.lows.clone();
            source.run.user_starts(morsel.key, lows, found)?;
        }
        let lows = || lows_of(found);
        let verdicts = source.evaluate(&rows, &lows, traits, control, skipped)?;
        let verdicts = BitVerdicts::new(verdicts, &asked);
        Ok(Some(Self {
            number,
            first: rows.start,
            whole: source.whole,
            times: source.run.times(rows)?,
            bits: verdicts.of_all(),
            verdicts,
        }))
    }
}
