//! One morsel's events, user by user, in total order: the general way to any question.
//!
//! Where segments tell the order of rows and that costs less, events come in it (`in_order`,
//! `gather_in_order`). Otherwise every run hands over its rows in (user, time, arrival) order. Numbers made
//! of user, rough time and place are sorted by their digits; where two events of a user are too close for
//! that, their times decide, then segment, then tie rank. No hash table of users exists; memory is bounded
//! by the morsel.

use std::ops::Range;

use pugmark_engine::Corruption;
use pugmark_engine::bitmap::Words;
use pugmark_engine::segment::{Times, UserStarts};

use crate::behaviour::{Skipped, TimeRange};

use super::control::{Control, QueryError};
use super::digits;
use super::effort;
use super::gather_in_order::{Reader, Side, Slots};
use super::in_order::InOrder;
use super::memory::Reservation;
use super::morsel::Morsel;
use super::scan::{RunScan, Scan, Verdicts};
use super::traits::TraitTable;

/// Where a gathered event lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RowRef {
    /// Index of the run in the scan.
    pub(crate) run: u32,
    /// Row in the run.
    pub(crate) row: u32,
}

/// A morsel's events. Kept between morsels, so that its memory is reused.
#[derive(Debug)]
pub(crate) struct Gather<'c> {
    /// Lower halves of the users that have events, ascending.
    pub(crate) lows: Vec<u16>,
    /// User `i` has the events `starts[i]..starts[i + 1]`.
    pub(crate) starts: Vec<u32>,
    /// Microseconds since 1970-01-01 UTC.
    pub(crate) times: Vec<i64>,
    /// Bit `s`: the event satisfies condition `s` of the first 64.
    pub(crate) masks: Vec<u64>,
    /// Bit `f`: it satisfies condition `64 + f`.
    pub(crate) flags: Vec<u8>,
    /// Where it lies.
    pub(crate) rows: Vec<RowRef>,
    unsorted: Unsorted,
    spare: Vec<u64>,
    /// Who has rows of the run at hand.
    found: UserStarts,
    pub(super) in_order: InOrder<'c>,
    control: &'c Control,
    memory: Reservation<'c>,
}

/// What is wanted of a morsel's events.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// So many conditions are bits of the masks, the others flags.
    pub(crate) steps: usize,
    /// Events that satisfy no condition are wanted too.
    pub(crate) every_row: bool,
}

/// Whose events are gathered, and which.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gathering<'q, 'a> {
    pub(crate) scan: &'q Scan<'a>,
    pub(crate) morsel: &'q Morsel,
    /// Users of the morsel.
    pub(crate) wanted: &'q Words,
    pub(crate) traits: &'q TraitTable,
    pub(crate) asked: Asked,
}

/// Events as the runs give them, one run after another.
#[derive(Debug, Default)]
struct Unsorted {
    /// For each event its user, rough time, and place in the other columns.
    keys: Vec<u64>,
    times: Vec<i64>,
    masks: Vec<u64>,
    flags: Vec<u8>,
    rows: Vec<RowRef>,
    /// Tie ranks; none where no event has one.
    ranks: Vec<u32>,
    /// The lower halves of the users of the last run's events.
    lows: Vec<u16>,
}

impl<'c> Gather<'c> {
    /// An empty gathering.
    pub(crate) fn new(control: &'c Control) -> Self {
        Self {
            lows: Vec::new(),
            starts: Vec::new(),
            times: Vec::new(),
            masks: Vec::new(),
            flags: Vec::new(),
            rows: Vec::new(),
            unsorted: Unsorted::default(),
            spare: Vec::new(),
            found: UserStarts::default(),
            in_order: InOrder::new(control),
            control,
            memory: control.reservation(),
        }
    }

    /// Number of users that have events.
    pub(crate) fn users(&self) -> usize {
        self.lows.len()
    }

    /// The events of the `index`-th user.
    pub(crate) fn events(&self, index: usize) -> Range<usize> {
        self.starts[index] as usize..self.starts[index + 1] as usize
    }

    /// Gathers those events of the users that satisfy any condition in the scan's range.
    pub(crate) fn fill(
        &mut self,
        of: Gathering<'_, '_>,
        skipped: &mut Skipped,
    ) -> Result<(), QueryError> {
        match self
            .in_order
            .find(of.scan, of.morsel, of.wanted, SORT_COST)?
        {
            true => self.fill_in_order(of, skipped),
            false => self.fill_sorted(of, skipped),
        }
    }

    /// Gathers events run by run, and sorts them.
    pub(super) fn fill_sorted(
        &mut self,
        of: Gathering<'_, '_>,
        skipped: &mut Skipped,
    ) -> Result<(), QueryError> {
        let Gathering { scan, morsel, .. } = of;
        self.unsorted.clear();
        let layout = KeyLayout::new(scan, morsel)?;
        for (number, source) in (0..).zip(&scan.runs) {
            let found = &mut self.found;
            source
                .run
                .user_starts(morsel.key, morsel.lows.clone(), found)?;
            let rows = found.rows();
            if rows.is_empty() {
                continue;
            }
            effort::rows(rows.len());
            self.memory
                .at_least((self.unsorted.times.len() + rows.len()) * BYTES_PER_EVENT)?;
            let lows = || lows_of(found);
            let verdicts = source.evaluate(&rows, &lows, of.traits, self.control, skipped)?;
            let run = RunRows {
                source,
                number,
                range: scan.range,
                times: source.run.times(rows.clone())?,
                verdicts: BitVerdicts::new(verdicts, &of.asked),
                layout,
                rows,
            };
            run.put(found, of.wanted, &mut self.unsorted)?;
        }
        self.order(scan, &layout);
        Ok(())
    }

    /// Gathers events as the order of rows tells them.
    pub(super) fn fill_in_order(
        &mut self,
        of: Gathering<'_, '_>,
        skipped: &mut Skipped,
    ) -> Result<(), QueryError> {
        self.make_room(of.scan)?;
        let mut readers = Vec::with_capacity(self.in_order.pieces().len());
        for piece in self.in_order.pieces() {
            let with = (&mut self.found, self.control, &mut *skipped);
            readers.push(Reader::open(piece, of, with)?);
        }
        let mut events = 0;
        for word in of.morsel.lows.start / 64..of.morsel.lows.end / 64 {
            self.control.check()?;
            let wanted = of.wanted.as_slice()[word as usize];
            let of_word = |bits, reader: &Reader<'_, '_>| bits | reader.walk.users[word as usize];
            let mut left = readers.iter().fold(0, of_word);
            while left != 0 {
                let low = (word * 64 + left.trailing_zeros()) as u16;
                let bit = left & left.wrapping_neg();
                left ^= bit;
                let before = events;
                for reader in &mut readers {
                    if reader.walk.users[word as usize] & bit == 0 {
                        continue;
                    }
                    if wanted & bit == 0 {
                        reader.pass();
                        continue;
                    }
                    let mut out = Slots {
                        times: &mut self.times[events..],
                        masks: &mut self.masks[events..],
                        flags: &mut self.flags[events..],
                        rows: &mut self.rows[events..],
                    };
                    events += reader.read(of.scan.range, &mut out);
                }
                if before < events {
                    self.lows.push(low);
                    self.starts.push(before as u32);
                }
            }
        }
        self.starts.push(events as u32);
        self.times.truncate(events);
        self.masks.truncate(events);
        self.flags.truncate(events);
        self.rows.truncate(events);
        Ok(readers.iter().try_for_each(Reader::check)?)
    }

    /// Makes room for all events that may come in order, and reserves what readers hold.
    fn make_room(&mut self, scan: &Scan<'_>) -> Result<(), QueryError> {
        let (mut most, mut bytes) = (0, 0);
        for piece in self.in_order.pieces() {
            bytes += piece.segment(scan).all_runs().len() * size_of::<Side<'_>>();
            for own in piece.asked() {
                most += own.rows.len();
                bytes += scan.runs[own.index].verdict_bytes(own.rows.len());
            }
        }
        // Columns that grow are copied.
        let room = self.times.capacity();
        let events = if most > room { room + most } else { room };
        bytes += events * BYTES_PER_ORDERED_EVENT;
        self.memory.at_least(bytes)?;
        self.lows.clear();
        self.starts.clear();
        resize(&mut self.times, most);
        resize(&mut self.masks, most);
        resize(&mut self.flags, most);
        resize(&mut self.rows, most);
        Ok(())
    }

    /// Brings the events into order.
    fn order(&mut self, scan: &Scan<'_>, layout: &KeyLayout) {
        let Unsorted { keys, times, .. } = &mut self.unsorted;
        digits::sort(keys, &mut self.spare, layout.sorted_bits());
        self.times.clear();
        let places = keys.iter().map(|&key| layout.place(key));
        self.times.extend(places.map(|place| times[place]));
        self.find_users(layout);
        self.order_exactly(scan, layout);
        self.take_columns(layout);
    }

    /// Finds where the events of each user start.
    fn find_users(&mut self, layout: &KeyLayout) {
        self.lows.clear();
        self.starts.clear();
        let mut before = None;
        for (start, &key) in (0..).zip(&self.unsorted.keys) {
            let low = layout.low(key);
            if before != Some(low) {
                self.lows.push(low);
                self.starts.push(start);
                before = Some(low);
            }
        }
        self.starts.push(self.unsorted.keys.len() as u32);
    }

    /// Sorts the events of the users for whom rough times did not decide.
    fn order_exactly(&mut self, scan: &Scan<'_>, layout: &KeyLayout) {
        let Unsorted {
            keys,
            times,
            rows,
            ranks,
            ..
        } = &mut self.unsorted;
        let ranked = !ranks.is_empty();
        let exact = |key: &u64| {
            let place = layout.place(*key);
            let segment = scan.runs[rows[place].run as usize].segment;
            let rank = ranks.get(place).copied().unwrap_or_default();
            (times[place], segment, rank)
        };
        for user in self.starts.windows(2) {
            let own = user[0] as usize..user[1] as usize;
            if !ranked && self.times[own.clone()].is_sorted() {
                continue;
            }
            // Stable: rows of one run without ranks keep their order, which is that of arrival.
            keys[own.clone()].sort_by_key(exact);
            for event in own {
                self.times[event] = times[layout.place(keys[event])];
            }
        }
    }

    /// Takes what else is known of the events, in order.
    fn take_columns(&mut self, layout: &KeyLayout) {
        self.masks.clear();
        self.flags.clear();
        self.rows.clear();
        let unsorted = &self.unsorted;
        let places = || unsorted.keys.iter().map(|&key| layout.place(key));
        self.masks
            .extend(places().map(|place| unsorted.masks[place]));
        self.flags
            .extend(places().map(|place| unsorted.flags[place]));
        self.rows.extend(places().map(|place| unsorted.rows[place]));
    }
}

/// Makes a column as long as it is to be, and no room for more.
fn resize<T: Clone + Default>(column: &mut Vec<T>, len: usize) {
    column.reserve_exact(len.saturating_sub(column.len()));
    column.resize(len, T::default());
}

/// Bytes of an event that comes in order, who may be its user's only one.
const BYTES_PER_ORDERED_EVENT: usize = 8 + 8 + 1 + size_of::<RowRef>() + 2 * (2 + 4);
/// So many rows are gone through in order while one is sorted. In tests, all that can be.
const SORT_COST: f64 = if cfg!(test) { f64::INFINITY } else { 12.0 };

/// What an event costs while it is gathered: unsorted, twice as a key, and in order.
const BYTES_PER_EVENT: usize = 2 * (8 + 8 + 1 + size_of::<RowRef>()) + 4 + 2 * 8;

/// How an event's user, time and place make one number, so that numbers are in the order of users,
/// then of times, as far as their bits go, then of places.
#[derive(Clone, Copy, Debug)]
struct KeyLayout {
    first_low: u16,
    low_bits: u32,
    first_time: i64,
    /// Bits of times that are left out.
    time_shift: u32,
    time_bits: u32,
    place_bits: u32,
}

impl KeyLayout {
    fn new(scan: &Scan<'_>, morsel: &Morsel) -> Result<Self, Corruption> {
        let bits_of = |number: u64| u64::BITS - number.leading_zeros();
        let (mut first_time, mut last_time, mut rows) = (i64::MAX, i64::MIN, 0);
        for source in &scan.runs {
            let of_container = source.run.container_rows(morsel.key)?.len() as u64;
            if of_container > 0 {
                first_time = first_time.min(source.run.min_time());
                last_time = last_time.max(source.run.max_time());
                rows += of_container;
            }
        }
        let first_time = first_time.max(scan.range.first);
        let last_time = last_time.min(scan.range.last).max(first_time);
        let span_bits = bits_of(last_time.wrapping_sub(first_time) as u64);
        let low_bits = bits_of(u64::from(morsel.lows.end - morsel.lows.start - 1));
        let place_bits = bits_of(rows).min(u64::BITS - low_bits);
        let sorted_bits = SORTED_BITS.min(u64::BITS - place_bits);
        let time_bits = span_bits.min(sorted_bits.saturating_sub(low_bits));
        Ok(Self {
            first_low: morsel.lows.start as u16,
            low_bits,
            first_time,
            time_shift: span_bits - time_bits,
            time_bits,
            place_bits,
        })
    }

    /// The bits of a key that tell the user and the time.
    fn sorted_bits(&self) -> Range<u32> {
        self.place_bits..self.place_bits + self.time_bits + self.low_bits
    }

    #[inline]
    fn key(&self, low: u16, time: i64, place: usize) -> u64 {
        let time = time.wrapping_sub(self.first_time) as u64 >> self.time_shift;
        // Damaged times may lie anywhere.
        let time = time & ((1 << self.time_bits) - 1);
        let low = u64::from(low ^ self.first_low);
        (low << self.time_bits | time) << self.place_bits | place as u64
    }

    #[inline]
    fn place(&self, key: u64) -> usize {
        (key & ((1 << self.place_bits) - 1)) as usize
    }

    #[inline]
    fn low(&self, key: u64) -> u16 {
        (key >> (self.place_bits + self.time_bits)) as u16 | self.first_low
    }
}

/// Bits of user and time that events are sorted by: three digits. With those of some thousand users
/// they tell times of a quarter apart that are half a second apart.
const SORTED_BITS: u32 = 36;

/// The rows of one run that belong to a morsel's users.
struct RunRows<'r, 'a> {
    source: &'r RunScan<'a>,
    number: u32,
    rows: Range<u32>,
    range: TimeRange,
    times: Times<'a>,
    verdicts: BitVerdicts,
    layout: KeyLayout,
}

/// Verdicts as bits of masks and flags.
pub(super) struct BitVerdicts {
    /// Of the conditions that hold for all rows.
    all: (u64, u8),
    /// Of those that hold for some, and for which.
    some: Vec<((u64, u8), Verdicts)>,
    every_row: bool,
}

impl BitVerdicts {
    pub(super) fn new(verdicts: Vec<Verdicts>, asked: &Asked) -> Self {
        let (mut all, mut some) = ((0, 0), Vec::new());
        for (bit, verdicts) in verdicts.into_iter().enumerate() {
            let bits = match bit < asked.steps {
                true => (1 << bit, 0),
                false => (0, 1 << (bit - asked.steps)),
            };
            match verdicts {
                Verdicts::All => all = (all.0 | bits.0, all.1 | bits.1),
                Verdicts::None => {}
                Verdicts::Some(_) => some.push((bits, verdicts)),
            }
        }
        Self {
            all,
            some,
            every_row: asked.every_row,
        }
    }

    /// The first row from `row` on that may be wanted.
    #[inline]
    fn next_from(&self, row: usize) -> usize {
        if self.every_row || self.all != (0, 0) {
            return row;
        }
        let next = self
            .some
            .iter()
            .map(|(_, verdicts)| verdicts.next_from(row));
        next.min().unwrap_or(usize::MAX)
    }

    /// The bits of every row; `None` where rows differ.
    pub(super) fn of_all(&self) -> Option<(u64, u8)> {
        self.some.is_empty().then(|| self.of(0)).flatten()
    }

    /// The bits of a row; `None` where it is not wanted.
    #[inline]
    pub(super) fn of(&self, row: usize) -> Option<(u64, u8)> {
        let (mut mask, mut flags) = self.all;
        for (bits, verdicts) in &self.some {
            let holds = verdicts.at(row);
            mask |= if holds { bits.0 } else { 0 };
            flags |= if holds { bits.1 } else { 0 };
        }
        (self.every_row || mask != 0 || flags != 0).then_some((mask, flags))
    }
}

impl RunRows<'_, '_> {
    /// Adds the rows of those of `found` who are wanted.
    fn put(
        &self,
        found: &UserStarts,
        wanted: &Words,
        out: &mut Unsorted,
    ) -> Result<(), Corruption> {
        let before = out.times.len();
        if self.verdicts.some.is_empty() && self.verdicts.of(0).is_none() {
            return Ok(());
        }
        let everybody = found.users.common_len(wanted) == found.users.len();
        match self.verdicts.of(0) {
            Some(bits) if everybody && self.source.whole && self.verdicts.some.is_empty() => {
                self.put_all(found, bits, out);
            }
            _ => self.put_some(found, wanted, out),
        }
        let ties = self.source.run.ties(self.rows.clone())?;
        if !ties.is_empty() {
            out.ranks.resize(before, 0);
            let rows = &out.rows[before..];
            out.ranks.extend(rows.iter().map(|at| ties.rank(at.row)));
        }
        Ok(())
    }

    fn put_all(&self, found: &UserStarts, (mask, flags): (u64, u8), out: &mut Unsorted) {
        let before = out.times.len();
        self.times.append_to(&mut out.times);
        let count = out.times.len();
        let mut events = (before..).zip(&out.times[before..]);
        found.for_each(|low, rows| {
            let own = events.by_ref().take(rows.len());
            let keys = own.map(|(place, &time)| self.layout.key(low, time, place));
            out.keys.extend(keys);
        });
        out.masks.resize(count, mask);
        out.flags.resize(count, flags);
        let run = self.number;
        out.rows
            .extend(self.rows.clone().map(|row| RowRef { run, row }));
    }

    fn put_some(&self, found: &UserStarts, wanted: &Words, out: &mut Unsorted) {
        let (run, before) = (self.number, out.rows.len());
        out.lows.clear();
        // The next row that a condition may hold for: most users may have none.
        let mut next = self.verdicts.next_from(0);
        found.for_each_of(wanted, |low, rows| {
            let start = (rows.start - self.rows.start) as usize;
            let end = (rows.end - self.rows.start) as usize;
            if next >= end {
                return;
            }
            if next < start {
                next = self.verdicts.next_from(start);
            }
            for index in next..end {
                if let Some((mask, flags)) = self.verdicts.of(index) {
                    out.lows.push(low);
                    out.masks.push(mask);
                    out.flags.push(flags);
                    let row = self.rows.start + index as u32;
                    out.rows.push(RowRef { run, row });
                }
            }
        });
        self.put_times(before, out);
    }

    /// Looks up the times of rows that were put from `before` on: together, as a processor then waits for many of
    /// them at once. Drops those that lie outside the range.
    fn put_times(&self, before: usize, out: &mut Unsorted) {
        let rows = out.rows[before..].iter();
        let time_of = |at: &RowRef| self.times.get((at.row - self.rows.start) as usize);
        out.times.extend(rows.map(time_of));
        let mut kept = before;
        for (place, &low) in (before..).zip(&out.lows) {
            let time = out.times[place];
            if !self.source.whole && !self.range.contains(time) {
                continue;
            }
            out.keys.push(self.layout.key(low, time, kept));
            if kept < place {
                out.times[kept] = time;
                out.masks[kept] = out.masks[place];
                out.flags[kept] = out.flags[place];
                out.rows[kept] = out.rows[place];
            }
            kept += 1;
        }
        out.times.truncate(kept);
        out.masks.truncate(kept);
        out.flags.truncate(kept);
        out.rows.truncate(kept);
    }
}

impl Unsorted {
    fn clear(&mut self) {
        self.keys.clear();
        self.times.clear();
        self.masks.clear();
        self.flags.clear();
        self.rows.clear();
        self.ranks.clear();
    }
}

/// The lower half of each row's user.
pub(super) fn lows_of(found: &UserStarts) -> Vec<u16> {
    let mut lows = Vec::new();
    found.for_each(|low, rows| {
        lows.extend(std::iter::repeat_n(low, rows.len()));
    });
    lows
}
