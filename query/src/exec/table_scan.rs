//! Users and events block by block, for those that want them as rows.
//!
//! Several readers share one scan: each takes the next morsel from the scan's queue.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use pugmark_engine::batch::TextColumn;
use pugmark_engine::bitmap::{CONTAINER_BITS, Words};
use pugmark_engine::segment::{NameRun, Times, UserStarts};
use pugmark_engine::{Corruption, Snapshot};
use roaring::RoaringBitmap;

use crate::behaviour::{Condition, Segment, Skipped, TimeRange};

use super::Executor;
use super::control::{Control, QueryError};
use super::effort::{self, Touched};
use super::morsel::{self, Morsel};
use super::scan::{RunScan, Scan, Verdicts};
use super::traits::TraitTable;
use super::users::PreparedUsers;
use super::worker::Worker;

/// Users to be read.
#[derive(Debug)]
pub(crate) struct UserScan {
    /// Who.
    pub(crate) segment: Segment,
    /// Predicates told of each.
    pub(crate) flags: Vec<Segment>,
    /// Traits told of each.
    pub(crate) traits: BTreeSet<String>,
    /// Whether the first and last time of each is told.
    pub(crate) seen: bool,
    next: AtomicUsize,
    /// Whether a reader has counted the bitmaps, which are the same for all.
    counted: AtomicBool,
}

/// Neighbouring users.
pub(crate) struct UserBlock<'a> {
    /// The upper half of their ordinals.
    pub(crate) key: u16,
    /// The lower halves.
    pub(crate) users: &'a Words,
    /// For each predicate, for whom it holds; those of others mean nothing.
    pub(crate) flags: Vec<Words>,
    pub(crate) traits: TraitTable,
    /// First and last time by the lower half, `(MAX, MIN)` for users without events; empty where not
    /// asked for.
    pub(crate) seen: Vec<(i64, i64)>,
}

impl UserScan {
    pub(crate) fn new(segment: Segment) -> Self {
        Self {
            segment,
            flags: Vec::new(),
            traits: BTreeSet::new(),
            seen: false,
            next: AtomicUsize::new(0),
            counted: AtomicBool::new(false),
        }
    }

    /// The same scan, from its beginning.
    pub(crate) fn restarted(&self) -> Self {
        Self {
            segment: self.segment.clone(),
            flags: self.flags.clone(),
            traits: self.traits.clone(),
            seen: self.seen,
            next: AtomicUsize::new(0),
            counted: AtomicBool::new(false),
        }
    }
}

/// Events to be read.
#[derive(Debug)]
pub(crate) struct EventScan {
    /// Which.
    pub(crate) condition: Condition,
    pub(crate) range: TimeRange,
    /// Only these users', where given.
    pub(crate) users: Option<RoaringBitmap>,
    /// Whether the user of each event is told.
    pub(crate) with_users: bool,
    next: AtomicUsize,
}

/// Events of one run: neighbouring rows of one container.
pub(crate) struct EventBlock<'a> {
    pub(crate) run: NameRun<'a>,
    /// The upper half of the users' ordinals.
    pub(crate) key: u16,
    /// The rows, some of which may be left out.
    pub(crate) rows: Range<u32>,
    /// Places among `rows`, ascending; `None` for all.
    pub(crate) selected: Option<Vec<u32>>,
    /// Of all `rows`.
    pub(crate) times: Times<'a>,
    /// Names of all `rows`, in an overflow run.
    pub(crate) names: Option<TextColumn>,
    /// The container's users with their rows, where asked for.
    pub(crate) starts: &'a UserStarts,
}

impl EventScan {
    pub(crate) fn new(condition: Condition, range: TimeRange) -> Self {
        Self {
            condition,
            range,
            users: None,
            with_users: false,
            next: AtomicUsize::new(0),
        }
    }

    /// The same scan, from its beginning.
    pub(crate) fn restarted(&self) -> Self {
        Self {
            condition: self.condition.clone(),
            range: self.range,
            users: self.users.clone(),
            with_users: self.with_users,
            next: AtomicUsize::new(0),
        }
    }
}

impl Executor {
    /// What is known before any user is read: segments, and bitmaps that answer.
    pub(crate) fn foresee_users(&self, scan: &UserScan) -> Result<Touched, QueryError> {
        let control = Control::start(self.options());
        for segment in std::iter::once(&scan.segment).chain(&scan.flags) {
            PreparedUsers::new(self.snapshot(), segment, self.as_of())?;
        }
        drop(control);
        Ok(self.options().effort.touched())
    }

    /// What is known before any event is read: segments.
    pub(crate) fn foresee_events(&self, scan: &EventScan) -> Result<Touched, QueryError> {
        let control = Control::start(self.options());
        Scan::prepare(self.snapshot(), &[&scan.condition], scan.range, false);
        drop(control);
        Ok(self.options().effort.touched())
    }

    /// How many events there are in the runs that are read.
    pub(crate) fn rows_of_events(&self, scan: &EventScan) -> usize {
        let scan = Scan::prepare(self.snapshot(), &[&scan.condition], scan.range, false);
        scan.runs.iter().map(|run| run.run.rows() as usize).sum()
    }

    /// Reads users until the scan's queue is empty.
    pub(crate) fn scan_users<E: From<QueryError>>(
        &self,
        scan: &UserScan,
        mut visit: impl FnMut(UserBlock<'_>) -> Result<(), E>,
    ) -> Result<Skipped, E> {
        let control = Control::start(self.options());
        let prepare = |segment| PreparedUsers::new(self.snapshot(), segment, self.as_of());
        let who = prepare(&scan.segment)?;
        let flags = scan.flags.iter().map(prepare);
        let flags = flags.collect::<Result<Vec<_>, _>>()?;
        if scan.counted.swap(true, Ordering::Relaxed) {
            effort::no_bitmaps();
        }
        let containers = who.containers().map_err(QueryError::from)?;
        let morsels = morsel::cut(&containers, self.options().morsel_rows);
        let mut worker = Worker::new(&control);
        worker.reserve()?;
        while let Some(morsel) = morsels.get(scan.next.fetch_add(1, Ordering::Relaxed)) {
            control.check()?;
            effort::morsel();
            let users = who.users(morsel, &mut worker)?;
            if users.is_empty() {
                continue;
            }
            let flags = flags.iter().map(|flag| flag.users(morsel, &mut worker));
            let flags = flags.collect::<Result<Vec<_>, _>>()?;
            let traits = TraitTable::read(self.snapshot(), &scan.traits, morsel, self.as_of());
            let seen = match scan.seen {
                true => seen(self.snapshot(), morsel, self.as_of()).map_err(QueryError::from)?,
                false => Vec::new(),
            };
            visit(UserBlock {
                key: morsel.key,
                users: &users,
                flags,
                traits: traits.map_err(QueryError::from)?,
                seen,
            })?;
        }
        Ok(std::mem::take(&mut worker.skipped))
    }

    /// Reads events until the scan's queue is empty.
    pub(crate) fn scan_events<E: From<QueryError>>(
        &self,
        scan: &EventScan,
        mut visit: impl FnMut(EventBlock<'_>) -> Result<(), E>,
    ) -> Result<Skipped, E> {
        let control = Control::start(self.options());
        let runs = Scan::prepare(self.snapshot(), &[&scan.condition], scan.range, false);
        let mut containers = std::collections::BTreeMap::new();
        runs.count_rows(&mut containers, false)
            .map_err(QueryError::from)?;
        if let Some(users) = &scan.users {
            containers.retain(|&key, _| of_container(users, key).next().is_some());
        }
        // Whole containers: nothing is cut that rows would have to be searched for.
        let morsels = morsel::cut(&containers, u64::MAX);
        let mut skipped = Skipped::default();
        let mut starts = UserStarts::default();
        while let Some(morsel) = morsels.get(scan.next.fetch_add(1, Ordering::Relaxed)) {
            effort::morsel();
            for run in &runs.runs {
                control.check()?;
                let block = event_block(scan, run, morsel, &control, &mut starts, &mut skipped);
                if let Some(block) = block? {
                    visit(block)?;
                }
            }
        }
        Ok(skipped)
    }
}

fn of_container(users: &RoaringBitmap, key: u16) -> impl Iterator<Item = u16> + '_ {
    let first = u32::from(key) << 16;
    users
        .range(first..=first | 0xffff)
        .map(|ordinal| ordinal as u16)
}

fn event_block<'s>(
    scan: &EventScan,
    run: &RunScan<'s>,
    morsel: &Morsel,
    control: &Control,
    starts: &'s mut UserStarts,
    skipped: &mut Skipped,
) -> Result<Option<EventBlock<'s>>, QueryError> {
    let rows = run.run.container_rows(morsel.key)?;
    if rows.is_empty() {
        return Ok(None);
    }
    effort::rows(rows.len());
    if scan.with_users || scan.users.is_some() {
        run.run
            .user_starts(morsel.key, 0..CONTAINER_BITS as u32, starts)?;
    }
    let verdicts = run.evaluate(&rows, &Vec::new, &TraitTable::default(), control, skipped)?;
    let times = run.run.times(rows.clone())?;
    let satisfied = match &verdicts[0] {
        Verdicts::None => return Ok(None),
        Verdicts::All if run.whole && scan.users.is_none() => None,
        verdicts => {
            let in_range = |place: u32| run.whole || scan.range.contains(times.get(place as usize));
            let satisfies = |place: &u32| verdicts.at(*place as usize) && in_range(*place);
            let selected: Vec<u32> = match &scan.users {
                None => (0..rows.len() as u32).filter(satisfies).collect(),
                Some(users) => rows_of(users, morsel.key, starts, rows.start)
                    .filter(satisfies)
                    .collect(),
            };
            if selected.is_empty() {
                return Ok(None);
            }
            (selected.len() < rows.len()).then_some(selected)
        }
    };
    let names = match run.run.is_overflow() {
        true => Some(run.run.overflow_names(rows.clone())?),
        false => None,
    };
    Ok(Some(EventBlock {
        run: run.run,
        key: morsel.key,
        rows,
        selected: satisfied,
        times,
        names,
        starts,
    }))
}

/// The places of the users' rows, counted from the row `first`.
fn rows_of<'s>(
    users: &'s RoaringBitmap,
    key: u16,
    starts: &'s UserStarts,
    first: u32,
) -> impl Iterator<Item = u32> + 's {
    let wanted: Words = of_container(users, key).collect();
    let own = starts.users.iter().enumerate();
    own.filter(move |(_, low)| wanted.contains(*low))
        .flat_map(move |(user, _)| starts.starts[user] - first..starts.starts[user + 1] - first)
}

/// The first and the last time of each of the morsel's users up to `as_of`, by the lower half.
fn seen(snapshot: &Snapshot, morsel: &Morsel, as_of: i64) -> Result<Vec<(i64, i64)>, Corruption> {
    let mut seen = vec![(i64::MAX, i64::MIN); CONTAINER_BITS];
    let mut users = UserStarts::default();
    for segment in snapshot.event_segments() {
        for run in segment.all_runs() {
            let rows = run.container_rows(morsel.key)?;
            if rows.is_empty() || run.min_time() > as_of {
                continue;
            }
            effort::rows(rows.len());
            run.user_starts(morsel.key, morsel.lows.clone(), &mut users)?;
            let times = run.times(rows.clone())?;
            let place = |row: u32| (row - rows.start) as usize;
            for (user, low) in users.users.iter().enumerate() {
                let own = place(users.starts[user])..place(users.starts[user + 1]);
                let past = times.first_from(own.clone(), as_of.saturating_add(1));
                if past > own.start {
                    let (first, last) = &mut seen[usize::from(low)];
                    *first = (*first).min(times.get(own.start));
                    *last = (*last).max(times.get(past - 1));
                }
            }
        }
    }
    Ok(seen)
}
