//! Users' times, user by user: for questions to which nothing else of events matters.
//!
//! The runs of a morsel are read side by side, for 64 users at a time: run lengths tell how many times each
//! of them has, and so each time is put at once where its user's lie together. They stay in the order of
//! the runs.

use pugmark_engine::bitmap::Words;
use pugmark_engine::segment::{Offsets, Times, UserStarts};

use crate::behaviour::{Notices, Skipped};

use super::Executor;
use super::control::{Control, QueryError};
use super::each_user::Reads;
use super::effort;
use super::gather::lows_of;
use super::memory::Reservation;
use super::morsel::Morsel;
use super::scan::{RunScan, Scan, Verdicts};
use super::times_in_order::{OrderedTimes, names_decide};
use super::traits::TraitTable;

/// The runs of a morsel. Kept between morsels, so that its memory is reused.
#[derive(Debug)]
pub(super) struct UserTimes<'c> {
    /// The first `used` have events that are asked for.
    runs: Vec<RunTimes>,
    used: usize,
    /// Of 64 users.
    times: Vec<i64>,
    control: &'c Control,
    memory: Reservation<'c>,
}

/// The events of one run that are asked for.
#[derive(Debug, Default)]
struct RunTimes {
    /// Number of the run in the scan.
    run: usize,
    /// Who has them, and their rows; those of `chosen` where not all rows are asked for.
    found: UserStarts,
    is_chosen: bool,
    /// Their times, as offsets from 1970.
    chosen: Vec<u64>,
}

/// So many rows are gone through in order while the time of one is put where its user's are. In
/// tests, all that can be.
const SORT_COST: f64 = if cfg!(test) { f64::INFINITY } else { 4.0 };

/// The times of one user.
#[derive(Clone, Copy, Debug)]
pub(super) enum Own<'t> {
    Ordered(&'t [i64]),
    Unordered(&'t [i64]),
}

impl Executor {
    /// Hands over the times of every user who has an event that satisfies the condition, in any order; gives the
    /// states of the threads.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub(super) fn times_of_users<S: Send>(
        &self,
        control: &Control,
        reads: &Reads<'_>,
        begin: impl Fn() -> S + Sync,
        user: impl Fn(u32, Own<'_>, &mut S) -> Result<(), QueryError> + Sync,
    ) -> Result<(Vec<S>, Notices), QueryError> {
        let begin = || (UserTimes::new(control), OrderedTimes::new(control), begin());
        let (states, notices) = self.each_morsel(
            control,
            reads,
            begin,
            |scan, (morsel, users, traits), worker, (times, ordered, state)| {
                let rows = &mut worker.in_order;
                if names_decide(scan) && rows.find(scan, morsel, users, SORT_COST)? {
                    return ordered.for_each(rows, scan, (morsel, users), |ordinal, own| {
                        user(ordinal, Own::Ordered(own), state)
                    });
                }
                times.find(scan, morsel, users, traits, &mut worker.skipped)?;
                times.for_each(scan, morsel, |ordinal, own| {
                    user(ordinal, Own::Unordered(own), state)
                })
            },
        )?;
        let states = states.into_iter().map(|(_, _, state)| state);
        Ok((states.collect(), notices))
    }
}

impl<'c> UserTimes<'c> {
    pub(super) fn new(control: &'c Control) -> Self {
        Self {
            runs: Vec::new(),
            used: 0,
            times: Vec::new(),
            control,
            memory: control.reservation(),
        }
    }

    /// Finds those events of the morsel's users `wanted` that satisfy the first condition in the scan's
    /// range.
    pub(super) fn find(
        &mut self,
        scan: &Scan<'_>,
        morsel: &Morsel,
        wanted: &Words,
        traits: &TraitTable,
        skipped: &mut Skipped,
    ) -> Result<(), QueryError> {
        self.used = 0;
        let mut bytes = size_of_val(self.times.as_slice());
        for (number, source) in scan.runs.iter().enumerate() {
            if source.run.container_rows(morsel.key)?.is_empty() {
                continue;
            }
            if self.used == self.runs.len() {
                self.runs.push(RunTimes::default());
            }
            let own = &mut self.runs[self.used];
            let lows = morsel.lows.clone();
            source.run.user_starts(morsel.key, lows, &mut own.found)?;
            let rows = own.found.rows();
            if rows.is_empty() {
                continue;
            }
            effort::rows(rows.len());
            bytes += BYTES_PER_RUN + 2 * own.found.starts.len() * size_of::<u32>();
            self.memory.at_least(bytes)?;
            let lows = || lows_of(&own.found);
            let verdicts = source.evaluate(&rows, &lows, traits, self.control, skipped)?;
            let everybody = own.found.users.common_len(wanted) == own.found.users.len();
            (own.run, own.is_chosen) = (number, false);
            match verdicts.first() {
                Some(Verdicts::All) if source.whole && everybody => {}
                Some(verdicts) => {
                    bytes += rows.len() * size_of::<u64>();
                    self.memory.at_least(bytes)?;
                    own.choose(scan, source, verdicts, wanted)?;
                }
                None => own.found.users.clear(),
            }
            self.used += 1;
        }
        Ok(())
    }

    /// Calls `visit` with every user's times.
    pub(super) fn for_each(
        &mut self,
        scan: &Scan<'_>,
        morsel: &Morsel,
        mut visit: impl FnMut(u32, &[i64]) -> Result<(), QueryError>,
    ) -> Result<(), QueryError> {
        let mut cursors = Vec::with_capacity(self.used);
        for own in &self.runs[..self.used] {
            cursors.push(own.cursor(scan)?);
        }
        for word in morsel.lows.start / 64..morsel.lows.end / 64 {
            self.control.check()?;
            let mut counts = [0; 64];
            for cursor in &cursors {
                cursor.count(word as usize, &mut counts);
            }
            let mut ends = [0; 64];
            let mut all = 0;
            for (end, &count) in ends.iter_mut().zip(&counts) {
                *end = all;
                all += count as usize + AT_ONCE;
            }
            if all > self.times.len() {
                self.memory
                    .grow((all - self.times.len()) * size_of::<i64>())?;
                self.times.resize(all, 0);
            }
            for cursor in &mut cursors {
                cursor.put(word as usize, &mut ends, &mut self.times);
            }
            for (low, (&end, &count)) in (word * 64..).zip(ends.iter().zip(&counts)) {
                if count > 0 {
                    let own = &self.times[end - count as usize..end];
                    visit(u32::from(morsel.key) << 16 | low, own)?;
                }
            }
        }
        Ok(())
    }
}

/// Words of users, and what else a run takes but for its users and rows.
const BYTES_PER_RUN: usize = 8_192 + size_of::<RunTimes>();

/// So many times are copied at once, though they may not all be the user's: most have fewer of a name.
const AT_ONCE: usize = 4;

impl RunTimes {
    /// Takes the times of those rows of `wanted` users that are asked for.
    fn choose(
        &mut self,
        scan: &Scan<'_>,
        source: &RunScan<'_>,
        verdicts: &Verdicts,
        wanted: &Words,
    ) -> Result<(), QueryError> {
        let rows = self.found.rows();
        let times = source.run.times(rows.clone())?;
        let (mut users, mut starts) = (Words::new(), Vec::with_capacity(self.found.starts.len()));
        let chosen = &mut self.chosen;
        chosen.clear();
        self.found.for_each_of(wanted, |low, own| {
            let before = chosen.len();
            let own = (own.start - rows.start) as usize..(own.end - rows.start) as usize;
            let own = source.inside(own, &times, scan.range);
            let satisfying = own.filter(|&row| verdicts.at(row));
            chosen.extend(satisfying.map(|row| times.get(row) as u64));
            if chosen.len() > before {
                users.insert(low);
                starts.push(before as u32);
            }
        });
        starts.push(chosen.len() as u32);
        self.found = UserStarts { users, starts };
        self.is_chosen = true;
        Ok(())
    }

    fn cursor<'t>(&'t self, scan: &Scan<'t>) -> Result<Cursor<'t>, QueryError> {
        let rows = self.found.rows();
        let times = match self.is_chosen {
            true => Times {
                base: 0,
                unit_micros: 1,
                offsets: Offsets::U64(&self.chosen),
            },
            false => scan.runs[self.run].run.times(rows.clone())?,
        };
        Ok(Cursor {
            users: self.found.users.as_slice(),
            starts: &self.found.starts,
            first: rows.start,
            times,
        })
    }
}

/// Goes through a run, 64 users after 64.
struct Cursor<'t> {
    users: &'t [u64],
    /// The first row of each user who is left, and the end of the last one's.
    starts: &'t [u32],
    /// The row of the first time.
    first: u32,
    times: Times<'t>,
}

impl Cursor<'_> {
    /// Adds how many times each of the next 64 users has.
    #[inline]
    fn count(&self, word: usize, counts: &mut [u32; 64]) {
        let mut left = self.users[word];
        let mut rows = self.starts.windows(2);
        while left != 0
            && let Some(own) = rows.next()
        {
            counts[left.trailing_zeros() as usize] += own[1] - own[0];
            left &= left - 1;
        }
    }

    /// Puts the times of the next 64 users behind what was put there before.
    #[inline]
    fn put(&mut self, word: usize, ends: &mut [usize; 64], out: &mut [i64]) {
        match self.times.offsets {
            Offsets::U16(offsets) => self.put_offsets(offsets, word, ends, out),
            Offsets::U32(offsets) => self.put_offsets(offsets, word, ends, out),
            Offsets::U64(offsets) => self.put_offsets(offsets, word, ends, out),
        }
    }

    #[inline]
    fn put_offsets<T: Copy + Into<u64>>(
        &mut self,
        offsets: &[T],
        word: usize,
        ends: &mut [usize; 64],
        out: &mut [i64],
    ) {
        let times = self.times;
        let mut left = self.users[word];
        let mut rows = self.starts.windows(2);
        let mut users = 0;
        while left != 0
            && let Some(own) = rows.next()
        {
            let place = &mut ends[left.trailing_zeros() as usize];
            let (first, count) = ((own[0] - self.first) as usize, (own[1] - own[0]) as usize);
            let few = offsets.get(first..first + AT_ONCE);
            match few {
                Some(few) if count <= AT_ONCE => {
                    let out = &mut out[*place..*place + AT_ONCE];
                    for (out, &offset) in out.iter_mut().zip(few) {
                        *out = times.time_of(offset.into());
                    }
                }
                _ => {
                    let out = &mut out[*place..*place + count];
                    for (out, &offset) in out.iter_mut().zip(&offsets[first..first + count]) {
                        *out = times.time_of(offset.into());
                    }
                }
            }
            *place += count;
            left &= left - 1;
            users += 1;
        }
        self.starts = &self.starts[users..];
    }
}
