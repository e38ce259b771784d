//! The innermost search of plain ordered funnels: many users at once, one stretch of time, plain
//! offsets.
//!
//! It does what [`find_chain`](super::find_chain) does where each step's times lie in one array of
//! 32-bit offsets, and leaves to that what it cannot see: chains that reach into earlier stretches,
//! equal times, and users with endlessly many ends. Users are taken side by side, step by step,
//! without a branch that depends on their times: a processor guesses such a branch wrong every other
//! time, which costs more than the search.

use std::hint::{black_box, select_unpredictable};
use std::ops::Range;

/// The times of all users' events of one step in a stretch.
#[derive(Clone, Copy, Debug)]
pub struct Lane<'a> {
    /// Offsets in units, each below 2^32 - 1; those of a user ascend.
    pub offsets: &'a [u32],
    /// An offset and this are units since the origin that all lanes share. Within ±2^60.
    pub shift: i64,
    /// The value that each event holds, [`NO_VALUE`] for none; empty where nothing is held.
    pub held: &'a [i64],
}

/// No value is held: such an event is in no chain.
pub const NO_VALUE: i64 = i64::MIN;

/// What every chain must keep to, in units since the lanes' origin; within ±2^61.
#[derive(Clone, Copy, Debug)]
pub struct LaneBounds {
    /// No event is earlier.
    pub first: i64,
    /// No event is later.
    pub last: i64,
    /// Longest time from the first event to the last.
    pub within: i64,
    /// No event of an earlier stretch is later.
    pub before: i64,
}

/// The times of events that must not lie strictly between one event of a chain and its last.
#[derive(Clone, Copy, Debug)]
pub struct ExcludedLane<'a> {
    /// Their times. Nothing is held.
    pub lane: Lane<'a>,
    /// The number under which `rows` tells a user's rows in it; not one of the chain's lanes.
    pub number: usize,
    /// The lane of the chain's event.
    pub after: usize,
}

/// Working memory of [`search`].
#[derive(Debug, Default)]
pub struct LaneScratch {
    /// The next end to be tried, of users without a chain so far.
    ends: Vec<End>,
    /// Chains on their way back from an end.
    open: Vec<Open>,
    /// The rows of the open chains' users in the lane at hand.
    rows: Vec<Range<u32>>,
    /// The last row of each user's chain in each lane, lane by lane.
    events: Vec<u32>,
    /// For each user, no end before this time has a chain that was not found; `DECIDED` where no end
    /// at all has one, or one was found.
    skip: Vec<i64>,
}

const DECIDED: i64 = FAR;

/// Beyond all times.
const FAR: i64 = 1 << 62;

#[derive(Clone, Copy, Debug, Default)]
struct End {
    user: u32,
    event: u32,
    end: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Open {
    user: u32,
    /// When the next event of the chain is.
    later: i64,
    /// No event of the chain may be earlier.
    earliest: i64,
    /// What all of its events hold.
    held: i64,
    /// The time of the event after the chain's in the lane it has gone back to: another end that has
    /// another event there lies behind that. `DECIDED` where there is none.
    behind: i64,
}

/// Most users have no more rows, which are then compared all at once.
const FEW: usize = 8;

/// Ends that are tried of each user; those who have more are left to the general search. Few where tests
/// are to see what comes then.
const MOST_ENDS: usize = if cfg!(test) { 4 } else { 32 };

/// Finds the chains with an event of every lane of `users` users, numbered from 0: of each user the
/// one whose last event is the earliest possible, and whose other events are the latest. `rows`
/// tells a user's rows in a lane. A chain that goes beyond the lane `exclude.after` has no excluded
/// event behind its event there; chains with excluded events hold nothing.
///
/// Calls `emit` with a user and its chain, or with `None` where the lanes do not tell whether there
/// is a chain. Users without a chain are not mentioned.
///
/// # Panics
/// Where rows lie outside their lane, or there is no lane.
#[inline]
pub fn search(
    lanes: &[Lane<'_>],
    exclude: Option<&ExcludedLane<'_>>,
    bounds: &LaneBounds,
    users: usize,
    rows: impl Fn(usize, usize) -> Range<u32>,
    scratch: &mut LaneScratch,
    mut emit: impl FnMut(usize, Option<LaneChain<'_>>),
) {
    let last = lanes.len() - 1;
    scratch.begin(
        &lanes[last],
        bounds,
        users,
        |user| rows(last, user),
        lanes.len(),
    );
    for _ in 0..MOST_ENDS {
        if scratch.ends.is_empty() {
            return;
        }
        scratch.open(&lanes[last], bounds, last * users);
        for step in (0..last).rev() {
            let own = |user| rows(step, user);
            let (lane, events, unsure) = (&lanes[step], step * users, |user| emit(user, None));
            match lanes[last].held {
                [] => scratch.go_back(lane, bounds, events, own, unsure),
                _ => scratch.go_back_held(lane, bounds, events, own, unsure),
            }
            if let Some(exclude) = exclude.filter(|exclude| exclude.after == step) {
                let own = |user| rows(exclude.number, user);
                let (excluded, unsure) = (&exclude.lane, |user| emit(user, None));
                scratch.keep_free(&lanes[last], excluded, last * users, own, unsure);
            }
        }
        for place in 0..scratch.open.len() {
            let user = scratch.open[place].user as usize;
            scratch.skip[user] = DECIDED;
            let events = &scratch.events[user..];
            emit(user, Some(LaneChain { events, users }));
        }
        scratch.next_ends(&lanes[last]);
    }
    for end in &scratch.ends {
        emit(end.user as usize, None);
    }
}

/// The events of one user's chain.
#[derive(Clone, Copy, Debug)]
pub struct LaneChain<'s> {
    events: &'s [u32],
    users: usize,
}

impl LaneChain<'_> {
    /// The row of its event in a lane. Panics where there is no such lane.
    #[inline]
    pub fn event(&self, lane: usize) -> u32 {
        self.events[lane * self.users]
    }
}

impl LaneScratch {
    /// Each user's first end in the range.
    #[inline(always)]
    fn begin(
        &mut self,
        lane: &Lane<'_>,
        bounds: &LaneBounds,
        users: usize,
        rows: impl Fn(usize) -> Range<u32>,
        lanes: usize,
    ) {
        self.skip.clear();
        self.skip.resize(users, -FAR);
        self.events.clear();
        self.events.resize(users * lanes, 0);
        self.ends.clear();
        self.ends.resize(users, End::default());
        let mut kept = 0;
        for user in 0..users {
            let rows = rows(user);
            let early = match bounds.first > lane.shift {
                true => lane.count_before(&rows, bounds.first),
                false => 0,
            };
            let end = End {
                user: user as u32,
                event: rows.start + early,
                end: rows.end,
            };
            self.ends[kept] = end;
            kept += usize::from(end.event < end.end);
        }
        self.ends.truncate(kept);
    }

    /// Opens a chain at each end; drops the ends that lie behind the range.
    #[inline(always)]
    fn open(&mut self, lane: &Lane<'_>, bounds: &LaneBounds, events: usize) {
        self.open.clear();
        self.open.resize(self.ends.len(), Open::default());
        let (mut kept, mut opened) = (0, 0);
        for place in 0..self.ends.len() {
            let end = self.ends[place];
            let later = lane.units(end.event);
            let inside = later <= bounds.last;
            let held = lane.held.get(end.event as usize).copied();
            self.events[events + end.user as usize] = end.event;
            self.ends[kept] = end;
            kept += usize::from(inside);
            self.open[opened] = Open {
                user: end.user,
                later,
                earliest: bounds.first.max(later - bounds.within),
                held: held.unwrap_or_default(),
                behind: DECIDED,
            };
            opened += usize::from(inside & (held != Some(NO_VALUE)));
        }
        self.ends.truncate(kept);
        self.open.truncate(opened);
    }

    /// Finds the rows of the open chains' users in a lane.
    #[inline(always)]
    fn look_up(&mut self, lane: &Lane<'_>, rows: impl Fn(usize) -> Range<u32>) {
        self.rows.clear();
        self.rows
            .extend(self.open.iter().map(|chain| rows(chain.user as usize)));
        lane.touch(&self.rows);
    }

    /// Takes every open chain one step back, and drops those that cannot be. A chain fails where the
    /// latest event of the step is too early; an end that has another lies behind the next event.
    #[inline(always)]
    fn go_back(
        &mut self,
        lane: &Lane<'_>,
        bounds: &LaneBounds,
        events: usize,
        rows: impl Fn(usize) -> Range<u32>,
        mut unsure: impl FnMut(usize),
    ) {
        self.look_up(lane, rows);
        let mut kept = 0;
        for place in 0..self.open.len() {
            let chain = self.open[place];
            let Open {
                user,
                later,
                earliest,
                ..
            } = chain;
            let rows = self.rows[place].clone();
            let next = rows.start + lane.count_before(&rows, later);
            let tie = (next < rows.end) & (lane.units(next) == later);
            let none = next == rows.start;
            if tie | (none & (earliest <= bounds.before)) {
                self.skip[user as usize] = DECIDED;
                unsure(user as usize);
                continue;
            }
            let event = next.saturating_sub(1);
            let time = lane.units(event);
            self.events[events + user as usize] = event;
            let behind = select_unpredictable(next < rows.end, lane.units(next), DECIDED);
            self.open[kept] = Open {
                later: time,
                behind,
                ..chain
            };
            let holds = !none & (time >= earliest);
            self.skip[user as usize] = select_unpredictable(holds, -FAR, behind);
            kept += usize::from(holds);
        }
        self.open.truncate(kept);
    }

    /// The same where events of a chain hold one value: the latest event that holds it. Another end
    /// may hold another value, so no end is skipped.
    fn go_back_held(
        &mut self,
        lane: &Lane<'_>,
        bounds: &LaneBounds,
        events: usize,
        rows: impl Fn(usize) -> Range<u32>,
        mut unsure: impl FnMut(usize),
    ) {
        let skip = &mut self.skip;
        let events = &mut self.events[events..];
        self.open.retain_mut(|chain| {
            let (user, rows) = (chain.user as usize, rows(chain.user as usize));
            let next = rows.start + lane.count_before(&rows, chain.later);
            let tie = next < rows.end && lane.units(next) == chain.later;
            let mut event = next;
            let mut time = chain.later;
            while !tie && event > rows.start && time >= chain.earliest {
                event -= 1;
                time = lane.units(event);
                if lane.held[event as usize] == chain.held && time >= chain.earliest {
                    events[user] = event;
                    chain.later = time;
                    return true;
                }
            }
            if tie || (time >= chain.earliest && chain.earliest <= bounds.before) {
                skip[user] = DECIDED;
                unsure(user);
            }
            false
        });
    }

    /// Drops the chains that have an excluded event behind their event in the lane `exclude.after`,
    /// to which they have gone back.
    #[inline(always)]
    fn keep_free(
        &mut self,
        last: &Lane<'_>,
        excluded: &Lane<'_>,
        ends: usize,
        rows: impl Fn(usize) -> Range<u32>,
        mut unsure: impl FnMut(usize),
    ) {
        self.look_up(excluded, rows);
        let mut kept = 0;
        for place in 0..self.open.len() {
            let chain = self.open[place];
            let (user, rows) = (chain.user as usize, self.rows[place].clone());
            let end = last.units(self.events[ends + user]);
            let next = rows.start + excluded.count_before(&rows, end);
            let at_end = (next < rows.end) & (excluded.units(next) == end);
            let before = excluded.units(next.saturating_sub(1));
            let latest = select_unpredictable(next > rows.start, before, -FAR);
            if at_end | (latest == chain.later) {
                self.skip[user] = DECIDED;
                unsure(user);
                continue;
            }
            let free = latest < chain.later;
            self.skip[user] = select_unpredictable(free, self.skip[user], chain.behind);
            self.open[kept] = chain;
            kept += usize::from(free);
        }
        self.open.truncate(kept);
    }

    /// Goes on to the next end of each user who is not decided.
    #[inline(always)]
    fn next_ends(&mut self, lane: &Lane<'_>) {
        let mut kept = 0;
        for place in 0..self.ends.len() {
            let End { user, event, end } = self.ends[place];
            let event = event + 1;
            self.ends[kept] = End { user, event, end };
            kept += usize::from((self.skip[user as usize] != DECIDED) & (event < end));
        }
        self.ends.truncate(kept);
        kept = 0;
        for place in 0..self.ends.len() {
            let End { user, event, end } = self.ends[place];
            let event = event + lane.count_before(&(event..end), self.skip[user as usize]);
            self.ends[kept] = End { user, event, end };
            kept += usize::from(event < end);
        }
        self.ends.truncate(kept);
    }
}

impl Lane<'_> {
    /// Units from the origin to an event; of an event that is not there, something.
    #[inline(always)]
    pub fn units(&self, event: u32) -> i64 {
        let offset = self.offsets.get(event as usize).copied();
        i64::from(offset.unwrap_or(0)) + self.shift
    }

    /// Looks at where the rows begin and end: a processor waits for many of them at once, which the
    /// search that follows, a few rows at a time, would wait for one after another.
    #[inline(always)]
    fn touch(&self, rows: &[Range<u32>]) {
        let Some(top) = self.offsets.len().checked_sub(1) else {
            return;
        };
        let mut seen = 0;
        for rows in rows {
            let last = rows.end.saturating_sub(1);
            seen ^= self.offsets[(rows.start as usize).min(top)];
            seen ^= self.offsets[(last as usize).min(top)];
        }
        black_box(seen);
    }

    /// How many of a user's rows are before a time.
    #[inline(always)]
    fn count_before(&self, rows: &Range<u32>, units: i64) -> u32 {
        // All offsets are below the greatest bound.
        let bound = (units - self.shift).clamp(0, i64::from(u32::MAX)) as u32;
        let (start, len) = (rows.start as usize, rows.end - rows.start);
        if len <= FEW as u32
            && let Some(rows) = self.offsets.get(start..start + FEW)
        {
            let before = (0..)
                .zip(rows)
                .map(|(place, &offset)| u32::from((place < len) & (offset < bound)));
            return before.sum();
        }
        let rows = &self.offsets[start..start + len as usize];
        rows.partition_point(|&offset| offset < bound) as u32
    }
}
