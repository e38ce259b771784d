//! The rows of a plain funnel's steps in one container, found user by user without copying.
//!
//! For each step and each segment that has rows of the container there is a source: who has rows,
//! the first row of each, and the mapped times. Segments are grouped into stretches of time that
//! follow each other. In a stretch of one segment, which compaction strives for, a user's events
//! are read where they lie ([`super::lanes`]); where several segments overlap in time, those of the
//! user looked at are brought together first.

use std::ops::Range;

use pugmark_engine::Corruption;
use pugmark_engine::bitmap::Words;
use pugmark_engine::codec::ColumnView;
use pugmark_engine::segment::{NameRun, Partition, TieRanks, Times, UserStarts};

use crate::behaviour::ByKey;
use crate::kernel::{Bounds, LaneScratch, Link, NO_VALUE, StepEvents, Stopped, find_chain};
use crate::tally::{FunnelTally, GroupId};

use super::control::{Control, QueryError};
use super::held::HeldColumn;
use super::lanes::Lanes;
use super::memory::Reservation;
use super::morsel::Morsel;

/// A run of a step's event name.
#[derive(Clone, Copy, Debug)]
pub(super) struct StepRun<'a> {
    pub(super) step: usize,
    /// Number among the runs of all steps.
    pub(super) number: usize,
    pub(super) run: NameRun<'a>,
    pub(super) partition: Partition,
    /// Place of the segment in total order: later segments of a partition arrived later.
    pub(super) segment: u32,
}

/// Working memory for one run's rows.
#[derive(Debug, Default)]
pub(super) struct SourceMemory {
    found: UserStarts,
    ranks: Vec<u16>,
    held: Vec<i64>,
}

/// Working memory of [`StepRows::find_chains`].
#[derive(Debug, Default)]
pub(super) struct ChainScratch {
    lows: Vec<u16>,
    lanes: LaneScratch,
}

/// Users between two looks at whether to stop.
const USERS_BETWEEN_CHECKS: usize = 1 << 8;

/// Words of users that are searched together: what is known of 4 096 users fits the nearest cache.
const WORDS_AT_ONCE: usize = 64;

/// The rows of a morsel's users. Looks at one user at a time.
pub(super) struct StepRows<'m, 'a> {
    pub(super) stretches: usize,
    /// By step, then stretch, then arrival.
    sources: Vec<Source<'m, 'a>>,
    /// The sources of each step and stretch.
    places: Vec<Range<usize>>,
    /// Of places with several sources, the events of the user that they were last brought together
    /// for.
    merged: Vec<Merged>,
    /// The user looked at: the lower half of the ordinal.
    low: u16,
    /// Number of users looked at so far.
    looks: u64,
    /// Words that the morsel's users lie in.
    words: Range<usize>,
    /// Bytes of the events brought together.
    merged_bytes: usize,
    /// Users whose chains are to be found in the general way, all of them.
    pub(super) given_up: Words,
}

/// One run's rows of the morsel's users.
pub(super) struct Source<'m, 'a> {
    pub(super) of: StepRun<'a>,
    pub(super) rows: UserRows<'m>,
    pub(super) times: Times<'a>,
    ties: TieRanks<'a>,
    /// What each row holds; empty where nothing is held.
    pub(super) held: &'m [i64],
}

/// Which rows the users have, counted from the first user's first.
#[derive(Clone, Copy)]
pub(super) struct UserRows<'m> {
    users: &'m Words,
    starts: &'m [u32],
    /// For each word of the users, how many come before it.
    ranks: &'m [u16],
    first: u32,
}

/// One user's events of several sources in total order.
#[derive(Default)]
struct Merged {
    look: u64,
    /// Time, source, and row counted from the source's first.
    events: Vec<(i64, u32, u32)>,
}

impl<'m, 'a> StepRows<'m, 'a> {
    /// Finds the rows of `runs`, and what they hold of the columns `held`; `memory` has an entry for
    /// each of the runs.
    pub(super) fn find(
        steps: usize,
        (runs, held): (&[StepRun<'a>], &[HeldColumn<'a>]),
        morsel: &Morsel,
        memory: &'m mut [SourceMemory],
        reserved: &mut Reservation<'_>,
    ) -> Result<Self, QueryError> {
        let mut sources = Vec::with_capacity(runs.len());
        let mut held_bytes = 0;
        for (&of, memory) in runs.iter().zip(memory) {
            let found = &mut memory.found;
            of.run.user_starts(morsel.key, morsel.lows.clone(), found)?;
            let (Some(&first), Some(&end)) = (found.starts.first(), found.starts.last()) else {
                continue;
            };
            if first < end {
                memory.held.clear();
                if let Some(column) = held.get(of.number) {
                    held_bytes += (end - first) as usize * HeldColumn::ROW_BYTES;
                    reserved.at_least(held_bytes)?;
                    column.read(first..end, &mut memory.held)?;
                }
                let (rows, held) = memory.rows(first);
                sources.push(Source {
                    of,
                    rows,
                    times: of.run.times(first..end)?,
                    ties: of.run.ties(first..end)?,
                    held,
                });
            }
        }
        let ends = stretches(&sources);
        let stretch_of =
            |source: &Source<'_, '_>| ends.partition_point(|end| *end < source.of.place());
        sources.sort_by_key(|source| (source.of.step, source.of.place()));
        let mut places = vec![0..0; steps * ends.len()];
        for (number, source) in sources.iter().enumerate() {
            let place = &mut places[source.of.step * ends.len() + stretch_of(source)];
            let start = if place.start == place.end {
                number
            } else {
                place.start
            };
            *place = start..number + 1;
        }
        let mut merged = Vec::new();
        merged.resize_with(places.len(), Merged::default);
        Ok(Self {
            stretches: ends.len(),
            sources,
            places,
            merged,
            low: 0,
            looks: 0,
            words: morsel.lows.start as usize / 64..(morsel.lows.end as usize).div_ceil(64),
            merged_bytes: 0,
            given_up: Words::new(),
        })
    }

    /// Bytes that are held for the events of users with several segments at a time.
    pub(super) fn merged_bytes(&self) -> usize {
        self.merged_bytes
    }

    fn of_step(&self, step: usize) -> &[Source<'m, 'a>] {
        let start = self.sources.partition_point(|source| source.of.step < step);
        let end = self
            .sources
            .partition_point(|source| source.of.step <= step);
        &self.sources[start..end]
    }

    /// Finds the chains over the first `chain.len()` steps that end in a stretch. Users of the
    /// morsel who have one are taken out of `users` and given to `each`, while they are looked at.
    pub(super) fn find_chains(
        &mut self,
        stretch: usize,
        (bounds, control): (&Bounds, &Control),
        scratch: &mut ChainScratch,
        chain: &mut [Link],
        users: &mut Words,
        mut each: impl FnMut(&mut Self, &[Link]) -> Result<(), QueryError>,
    ) -> Result<(), QueryError> {
        control.check()?;
        let ends = self.place(chain.len() - 1, stretch);
        let lanes = Lanes::open(self, stretch, chain.len(), bounds);
        let mut general = Words::new();
        let mut failed = Ok(());
        for words in chunks(self.words.clone()) {
            control.check()?;
            scratch.lows.clear();
            for word in words {
                let sources = self.sources[ends.clone()].iter();
                let ending = sources.fold(0, |bits, of| bits | of.rows.users.as_slice()[word]);
                let able = users.as_slice()[word] & ending;
                match &lanes {
                    Some(_) => push_lows(word, able, &mut scratch.lows),
                    None => general.as_mut_slice()[word] = able,
                }
            }
            let Some(lanes) = &lanes else { continue };
            lanes.search(
                &scratch.lows,
                &mut scratch.lanes,
                chain,
                |low, chain| match chain {
                    Some(chain) if failed.is_ok() => {
                        users.remove(low);
                        self.look_at(low);
                        failed = each(self, chain);
                    }
                    Some(_) => {}
                    None => general.insert(low),
                },
            );
            std::mem::replace(&mut failed, Ok(()))?;
        }
        self.find_chains_generally(stretch, (bounds, control), chain, &general, users, each)
    }

    /// The same for `wanted`, one after another.
    fn find_chains_generally(
        &mut self,
        stretch: usize,
        (bounds, control): (&Bounds, &Control),
        chain: &mut [Link],
        wanted: &Words,
        users: &mut Words,
        mut each: impl FnMut(&mut Self, &[Link]) -> Result<(), QueryError>,
    ) -> Result<(), QueryError> {
        let interrupted = || control.check().is_err();
        for (number, low) in wanted.iter().enumerate() {
            if number % USERS_BETWEEN_CHECKS == 0 {
                control.check()?;
            }
            self.look_at(low);
            match find_chain(self, stretch, bounds, chain, &interrupted) {
                Ok(false) => {}
                Ok(true) => {
                    users.remove(low);
                    each(self, chain)?;
                }
                Err(Stopped::TooFar) => {
                    users.remove(low);
                    self.given_up.insert(low);
                }
                Err(Stopped::Interrupted) => {
                    control.check()?;
                    return Err(QueryError::Cancelled);
                }
            }
        }
        Ok(())
    }

    /// Looks at a user of the morsel.
    pub(super) fn look_at(&mut self, low: u16) {
        self.low = low;
        self.looks += 1;
    }

    /// The sources of a step in a stretch.
    fn place(&self, step: usize, stretch: usize) -> Range<usize> {
        self.places[step * self.stretches + stretch].clone()
    }

    /// The one source of a step in a stretch, if there is any; an error where there are several.
    pub(super) fn only_source(
        &self,
        step: usize,
        stretch: usize,
    ) -> Result<Option<&Source<'m, 'a>>, ManySources> {
        match &self.sources[self.place(step, stretch)] {
            [] => Ok(None),
            [source] => Ok(Some(source)),
            _ => Err(ManySources),
        }
    }

    /// The latest time of the first `steps` steps before a stretch.
    pub(super) fn latest_before(&self, steps: usize, stretch: usize) -> Option<i64> {
        let places = (0..steps).flat_map(|step| (0..stretch).map(move |before| (step, before)));
        let sources = places.flat_map(|(step, before)| &self.sources[self.place(step, before)]);
        sources.map(|source| source.of.run.max_time()).max()
    }

    /// True where a segment has events of `step` later than `time`.
    pub(super) fn reaches_beyond(&self, step: usize, time: i128) -> bool {
        let mut sources = self.of_step(step).iter();
        sources.any(|source| i128::from(source.of.run.max_time()) > time)
    }

    /// The time of the user's last event of `step` up to `last`.
    pub(super) fn last_time(&mut self, step: usize, last: i64) -> Option<i64> {
        for stretch in (0..self.stretches).rev() {
            let events = self.events(step, stretch);
            let end = match last.checked_add(1) {
                Some(after) if !events.is_empty() => {
                    self.first_from(step, stretch, events.clone(), after)
                }
                _ => events.end,
            };
            if end > events.start {
                return Some(self.time(step, stretch, end - 1));
            }
        }
        None
    }

    /// Source of an event, and its row counted from the source's first.
    fn origin(&self, step: usize, stretch: usize, event: usize) -> (usize, u32) {
        let place = step * self.stretches + stretch;
        match self.places[place].clone() {
            sources if sources.len() > 1 => {
                let (_, source, row) = self.merged[place].events[event];
                (source as usize, row)
            }
            sources => (sources.start, event as u32),
        }
    }

    /// Opens a column of the runs of `step`: what groups its values stand for.
    pub(super) fn groups(&self, step: usize, property: &str) -> Result<Groups<'a>, Corruption> {
        let sources = self.of_step(step).iter();
        let first = self.sources.partition_point(|source| source.of.step < step);
        let columns = sources.map(|source| GroupColumn::open(source, property));
        Ok(Groups {
            first,
            columns: columns.collect::<Result<_, _>>()?,
        })
    }

    /// The group of the value that an event of the groups' step has.
    pub(super) fn group(
        &self,
        groups: &mut Groups<'_>,
        stretch: usize,
        event: usize,
        tally: &mut FunnelTally,
    ) -> Result<GroupId, Corruption> {
        let (source, row) = self.origin(0, stretch, event);
        groups.columns[source - groups.first].group(row, tally)
    }
}

/// Neighbouring words, some at once.
fn chunks(words: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = words.end;
    let starts = words.step_by(WORDS_AT_ONCE);
    starts.map(move |start| start..end.min(start + WORDS_AT_ONCE))
}

/// Appends the places of a word's bits.
fn push_lows(word: usize, bits: u64, lows: &mut Vec<u16>) {
    let mut rest = bits;
    while rest != 0 {
        lows.push((word * 64) as u16 | rest.trailing_zeros() as u16);
        rest &= rest - 1;
    }
}

/// Several segments have a step's events of one stretch.
pub(super) struct ManySources;

impl SourceMemory {
    /// The rows of the users found, the first of which is `first`, and what they hold.
    fn rows(&mut self, first: u32) -> (UserRows<'_>, &[i64]) {
        self.ranks.clear();
        let mut before = 0;
        self.ranks
            .extend(self.found.users.as_slice().iter().map(|word| {
                let rank = before;
                before += word.count_ones();
                // Of 65 536 users at most 65 472 come before the last word.
                rank as u16
            }));
        let rows = UserRows {
            users: &self.found.users,
            starts: &self.found.starts,
            ranks: &self.ranks,
            first,
        };
        (rows, &self.held)
    }
}

impl StepRun<'_> {
    /// Total order of segments.
    fn place(&self) -> (Partition, u32) {
        (self.partition, self.segment)
    }
}

/// The last segment of each stretch: segments are cut where all that arrived before end before
/// all that arrived after begin.
fn stretches(sources: &[Source<'_, '_>]) -> Vec<(Partition, u32)> {
    let mut segments: Vec<(Partition, u32, i64, i64)> = Vec::with_capacity(sources.len());
    for StepRun {
        run,
        partition,
        segment,
        ..
    } in sources.iter().map(|source| source.of)
    {
        segments.push((partition, segment, run.min_time(), run.max_time()));
    }
    segments.sort_unstable();
    let mut firsts: Vec<i64> = segments.iter().map(|segment| segment.2).collect();
    for place in (1..firsts.len()).rev() {
        firsts[place - 1] = firsts[place - 1].min(firsts[place]);
    }
    let mut ends = Vec::new();
    let mut last = i64::MIN;
    for (place, &(partition, segment, _, max)) in segments.iter().enumerate() {
        last = last.max(max);
        let next = segments.get(place + 1);
        let other_segment = next.is_none_or(|next| (next.0, next.1) != (partition, segment));
        if other_segment && firsts.get(place + 1).is_none_or(|&first| last <= first) {
            ends.push((partition, segment));
        }
    }
    ends
}

impl UserRows<'_> {
    /// The rows of the user with this lower half of the ordinal.
    #[inline(always)]
    pub(super) fn of(&self, low: u16) -> Range<u32> {
        let (word, bit) = (usize::from(low >> 6), low & 63);
        let users = self.users.as_slice()[word];
        let place =
            usize::from(self.ranks[word]) + (users & ((1 << bit) - 1)).count_ones() as usize;
        // The rows of somebody else's place are none: no branch, which would be guessed wrong.
        let has = (users >> bit & 1) as usize;
        self.starts[place] - self.first..self.starts[place + has] - self.first
    }
}

impl StepRows<'_, '_> {
    /// Brings the user's events of several sources together.
    fn merge(&mut self, place: usize) -> usize {
        let merged = &mut self.merged[place];
        if merged.look == self.looks {
            return merged.events.len();
        }
        merged.look = self.looks;
        merged.events.clear();
        let capacity = merged.events.capacity();
        let mut met = 0;
        for number in self.places[place].clone() {
            let source = &self.sources[number];
            // Most users have rows in few of the segments that memory holds.
            if !source.rows.users.contains(self.low) {
                continue;
            }
            met += 1;
            let rows = source.rows.of(self.low);
            let events = rows.map(|row| (source.times.get(row as usize), number as u32, row));
            merged.events.extend(events);
        }
        if met > 1 {
            // Of equal times the earlier segment's come first, and in it the earlier rows.
            merged.events.sort_unstable();
        }
        let grown = merged.events.capacity() - capacity;
        self.merged_bytes += grown * size_of::<(i64, u32, u32)>();
        merged.events.len()
    }
}

impl StepEvents for StepRows<'_, '_> {
    #[inline]
    fn events(&mut self, step: usize, stretch: usize) -> Range<usize> {
        let place = step * self.stretches + stretch;
        let sources = &self.places[place];
        match sources.len() {
            0 => 0..0,
            1 => {
                let rows = self.sources[sources.start].rows.of(self.low);
                rows.start as usize..rows.end as usize
            }
            _ => 0..self.merge(place),
        }
    }

    #[inline]
    fn time(&self, step: usize, stretch: usize, event: usize) -> i64 {
        let place = step * self.stretches + stretch;
        let sources = &self.places[place];
        if sources.len() == 1 {
            return self.sources[sources.start].times.get(event);
        }
        self.merged[place].events[event].0
    }

    #[inline]
    fn first_from(&self, step: usize, stretch: usize, events: Range<usize>, time: i64) -> usize {
        let place = step * self.stretches + stretch;
        let sources = &self.places[place];
        if sources.len() == 1 {
            return self.sources[sources.start].times.first_from(events, time);
        }
        let merged = &self.merged[place].events[events.clone()];
        events.start + merged.partition_point(|&(other, _, _)| other < time)
    }

    fn held(&self, step: usize, stretch: usize, event: usize) -> Option<i64> {
        let (source, row) = self.origin(step, stretch, event);
        let held = self.sources[source].held;
        // Nothing is held, or this.
        let value = held.get(row as usize).copied().unwrap_or_default();
        (value != NO_VALUE).then_some(value)
    }

    fn precedes(&self, step: usize, event: usize, (next_step, next): (usize, &Link)) -> bool {
        let order = |step: usize, event: usize| {
            let (source, row) = self.origin(step, next.stretch, event);
            let source = &self.sources[source];
            let rank = source.ties.rank(source.rows.first + row);
            (source.of.place(), rank)
        };
        order(step, event) < order(next_step, next.event)
    }
}

/// The groups of a breakdown by a property of one step's events.
pub(super) struct Groups<'a> {
    /// Number of the step's first source.
    first: usize,
    columns: Vec<GroupColumn<'a>>,
}

struct GroupColumn<'a> {
    first_row: u32,
    column: Option<ColumnView<'a>>,
    /// The group of each code, once it was met.
    groups: Vec<Option<GroupId>>,
}

impl<'a> GroupColumn<'a> {
    fn open(source: &Source<'_, 'a>, property: &str) -> Result<Self, Corruption> {
        let column = source.of.run.properties()?.get(property)?;
        let codes = column.as_ref().and_then(|column| match column.parts() {
            [part] => part.coded().map(|text| text.len() as usize),
            _ => None,
        });
        Ok(Self {
            first_row: source.rows.first,
            column,
            groups: vec![None; codes.unwrap_or(0)],
        })
    }

    /// The group of the value of a row, counted from the source's first.
    fn group(&mut self, row: u32, tally: &mut FunnelTally) -> Result<GroupId, Corruption> {
        let row = self.first_row + row;
        let Some(column) = &self.column else {
            return Ok(tally.group(None, Some(ByKey::None)));
        };
        if let [part] = column.parts()
            && let Some(text) = part.coded()
        {
            let Some(index) = part.index_of(row) else {
                return Ok(tally.group(None, Some(ByKey::None)));
            };
            let code = text.code_at(index)?;
            if let Some(group) = self.groups[code as usize] {
                return Ok(group);
            }
            let group = tally.group(None, Some(ByKey::Value(text.value(code)?.to_owned())));
            self.groups[code as usize] = Some(group);
            return Ok(group);
        }
        let value = column.value(row)?;
        let texts = value.iter().flat_map(|value| value.scalars());
        let smallest = texts
            .map(|scalar| scalar.canonical_text().into_owned())
            .min();
        Ok(tally.group(None, Some(smallest.map_or(ByKey::None, ByKey::Value))))
    }
}
