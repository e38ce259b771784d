//! The fast path of plain ordered funnels: straight from mapped times, nothing gathered.
//!
//! Where every step is one event name of its own and only a window, a range and a breakdown are
//! asked for, bitmaps tell who entered at all. Only users of the first *two* steps have their
//! times looked at, in the map, back from their last step.

use pugmark_engine::bitmap::Words;
use pugmark_engine::segment::{DaySpan, UserStarts};
use pugmark_engine::time::day_of;
use pugmark_engine::{Corruption, Snapshot};

use crate::behaviour::{
    Attribute, Condition, Entries, Funnel, FunnelMode, Operand, TimeRange, Truth,
};
use crate::kernel::{Bounds, Interrupted, Link, match_steps};
use crate::tally::{FunnelTally, GroupId};

use super::control::{Control, QueryError};
use super::exists::Exists;
use super::memory::Reservation;
use super::morsel::Morsel;
use super::scan::Scan;
use super::steps::{StepRows, StepRun};
use super::traits::TraitTable;
use super::worker::Worker;

/// A funnel that the fast path can answer, made ready for a snapshot.
#[derive(Debug)]
pub(crate) struct Ordered<'a> {
    /// Who has an event of the first step in the range.
    entered: Exists<'a>,
    steps: usize,
    /// The runs of the steps' names.
    runs: Vec<StepRun<'a>>,
    range: TimeRange,
    within: Option<u64>,
    /// Starts later than this have windows that are still open.
    settled: Option<i64>,
    by: Option<String>,
    times: bool,
    /// Who may have an event of the first step before the range.
    early: Vec<DaySpan<'a>>,
}

/// Working memory of a thread.
#[derive(Debug, Default)]
pub(crate) struct OrderedScratch {
    starts: Vec<UserStarts>,
    chain: Vec<Link>,
    micros: Vec<i64>,
}

impl<'a> Ordered<'a> {
    /// Prepares the fast path; `None` where the question or the store's layout needs the general
    /// way.
    pub(crate) fn prepare(
        snapshot: &'a Snapshot,
        funnel: &Funnel,
        as_of: i64,
    ) -> Result<Option<Self>, QueryError> {
        if !is_plain(funnel) {
            return Ok(None);
        }
        let range = funnel.range.resolve(as_of);
        let segments = snapshot.event_segments();
        let mut runs = Vec::new();
        for (number, step) in funnel.steps.iter().enumerate() {
            let scan = Scan::prepare(snapshot, &[&step.condition], range, false);
            let answers = |run: &super::scan::RunScan<'_>| {
                matches!(run.conditions[0], Condition::Constant(Truth::True))
                    && !run.run.is_overflow()
            };
            if !scan.runs.iter().all(answers) {
                return Ok(None);
            }
            runs.extend(scan.runs.iter().map(|scan| StepRun {
                step: number,
                run: scan.run,
                partition: segments[scan.segment as usize].meta().partition,
                segment: scan.segment,
            }));
        }
        let by = match &funnel.by {
            Some(Operand::Property(name)) => Some(name.clone()),
            _ => None,
        };
        let settled = funnel
            .within
            .map(|within| as_of.saturating_sub(within.micros));
        let mut early = Vec::new();
        for run in runs.iter().filter(|run| run.step == 0).map(|of| of.run) {
            if run.min_time() < range.first {
                let days = day_of(run.min_time())..=day_of(range.first - 1);
                early.push(run.span_users(days)?);
            }
        }
        Ok(Some(Self {
            entered: Exists::prepare(snapshot, &funnel.steps[0].condition, range)?,
            steps: funnel.steps.len(),
            runs,
            range,
            within: funnel.within.map(|within| within.micros.max(0) as u64),
            settled,
            by,
            times: funnel.times,
            early,
        }))
    }

    /// Adds those of `wanted`, which are users of the morsel, to the tally.
    pub(crate) fn tally(
        &self,
        morsel: &Morsel,
        wanted: &Words,
        worker: &mut Worker<'_>,
        tally: &mut FunnelTally,
    ) -> Result<(), QueryError> {
        let Worker {
            control,
            starts,
            skipped,
            ..
        } = worker;
        let (bounds, none) = (self.entered.bounds(morsel)?, TraitTable::default());
        let entered = self
            .entered
            .users(morsel, &bounds, wanted, &none, control, starts, skipped)?;
        if entered.is_empty() {
            return Ok(());
        }
        let mut scratch = std::mem::take(&mut worker.ordered);
        let result = self.tally_entered(morsel, &entered, worker, &mut scratch, tally);
        worker.ordered = scratch;
        result
    }

    fn tally_entered(
        &self,
        morsel: &Morsel,
        entered: &Words,
        worker: &mut Worker<'_>,
        scratch: &mut OrderedScratch,
        tally: &mut FunnelTally,
    ) -> Result<(), QueryError> {
        let mut present = Vec::with_capacity(self.runs.len());
        let mut users = 0;
        for run in &self.runs {
            let of_container = run.run.container_users(morsel.key)?;
            if of_container > 0 {
                present.push(*run);
                users += of_container as usize;
            }
        }
        worker.reserve_rows(present.len(), users)?;
        if scratch.starts.len() < present.len() {
            scratch
                .starts
                .resize_with(present.len(), UserStarts::default);
        }
        let mut rows = StepRows::find(self.steps, &present, morsel, &mut scratch.starts)?;
        let mut user = Matching {
            ordered: self,
            control: worker.control,
            memory: worker.control.reservation(),
            users: rows.users(),
            chain: &mut scratch.chain,
            micros: &mut scratch.micros,
        };
        match &self.by {
            None => user.tally_plain(&mut rows, entered, tally),
            Some(by) => {
                let alone = match self.times {
                    true => Words::new(),
                    false => self.alone(morsel.key, entered, user.users.get(1))?,
                };
                user.tally_groups(&mut rows, entered, &alone, by, tally)
            }
        }
    }

    /// Those of `entered` who come to no further step, and whose first event of all of the first step
    /// is the first in the range: nobody's times need a look.
    fn alone(
        &self,
        key: u16,
        entered: &Words,
        further: Option<&Words>,
    ) -> Result<Words, Corruption> {
        let mut early = Words::new();
        for days in &self.early {
            days.or_into(key, &mut early)?;
        }
        let mut alone = entered.clone();
        alone.and_not(&early);
        further
            .into_iter()
            .for_each(|further| alone.and_not(further));
        Ok(alone)
    }

    fn is_open(&self, start: i64) -> bool {
        self.settled.is_some_and(|settled| start > settled)
    }

    /// True where the user looked at has a start whose window is still open.
    fn has_open(&self, rows: &mut StepRows<'_, '_>) -> bool {
        rows.last_time(0, self.range.last)
            .is_some_and(|start| self.is_open(start))
    }
}

/// The matching of one morsel's users.
struct Matching<'m, 'a> {
    ordered: &'m Ordered<'a>,
    control: &'m Control,
    memory: Reservation<'m>,
    /// The users that each step may have.
    users: Vec<Words>,
    chain: &'m mut Vec<Link>,
    micros: &'m mut Vec<i64>,
}

impl Matching<'_, '_> {
    /// Counts users; those of the first step alone by their number.
    fn tally_plain(
        &mut self,
        rows: &mut StepRows<'_, '_>,
        entered: &Words,
        tally: &mut FunnelTally,
    ) -> Result<(), QueryError> {
        let group = tally.group(None, None);
        let mut candidates = entered.clone();
        match self.users.get(1) {
            Some(users) => candidates.and(users),
            None => candidates.clear(),
        }
        let only_entered = entered.len() - candidates.len();
        let open = self.any_open(rows, entered)?;
        tally.add_entered(group, u64::from(only_entered), open);
        let mut levels = vec![0; self.users.len() + 1];
        rows.visit(&candidates, |rows, low| {
            self.find_chain(rows, low)?;
            if self.ordered.times {
                self.add_times(group, false, tally);
            } else {
                levels[self.chain.len()] += 1;
            }
            Ok(())
        })?;
        tally.add_levels(group, &levels);
        Ok(())
    }

    /// Counts users for the value that the first event of their chain has; those who are `alone` have
    /// a chain of their first event.
    fn tally_groups(
        &mut self,
        rows: &mut StepRows<'_, '_>,
        entered: &Words,
        alone: &Words,
        by: &str,
        tally: &mut FunnelTally,
    ) -> Result<(), QueryError> {
        let mut groups = rows.groups(0, by)?;
        let settled = self.ordered.settled.unwrap_or(i64::MAX);
        let may_be_open = rows.reaches_beyond(0, settled);
        rows.visit(alone, |rows, _| {
            if let Some((stretch, event)) = rows.first_event(0) {
                let group = rows.group(&mut groups, stretch, event, tally)?;
                let open = may_be_open && !tally.is_open(group) && self.ordered.has_open(rows);
                tally.add_level(group, 1, open);
            }
            Ok(())
        })?;
        let mut others = entered.clone();
        others.and_not(alone);
        rows.visit(&others, |rows, low| {
            self.find_chain(rows, low)?;
            let Some(first) = self.chain.first() else {
                return Ok(());
            };
            let group = rows.group(&mut groups, first.stretch, first.event, tally)?;
            let open = may_be_open && !tally.is_open(group) && self.ordered.has_open(rows);
            if self.ordered.times {
                self.add_times(group, open, tally);
            } else {
                tally.add_level(group, self.chain.len(), open);
            }
            Ok(())
        })
    }

    fn find_chain(&mut self, rows: &mut StepRows<'_, '_>, low: u16) -> Result<(), QueryError> {
        let has = |users: &&Words| users.contains(low);
        let steps = 1 + self.users.iter().skip(1).take_while(has).count();
        let bounds = Bounds {
            first: self.ordered.range.first,
            last: self.ordered.range.last,
            within: self.ordered.within,
        };
        let interrupted = || self.control.check().is_err();
        match match_steps(rows, steps, &bounds, self.chain, &interrupted) {
            Ok(()) => self.memory.at_least(rows.merged_bytes()),
            Err(Interrupted) => self.control.check().and(Err(QueryError::Cancelled)),
        }
    }

    fn add_times(&mut self, group: GroupId, open: bool, tally: &mut FunnelTally) {
        self.micros.clear();
        if let Some(first) = self.chain.first() {
            let since = |link: &Link| link.time.saturating_sub(first.time);
            self.micros.extend(self.chain.iter().map(since));
        }
        tally.add_times(group, self.micros, open);
    }

    /// True where one of the users has a start whose window is still open.
    fn any_open(&self, rows: &mut StepRows<'_, '_>, users: &Words) -> Result<bool, QueryError> {
        let settled = self.ordered.settled.unwrap_or(i64::MAX);
        let mut open = false;
        if rows.reaches_beyond(0, settled) {
            rows.visit(users, |rows, _| {
                open = open || self.ordered.has_open(rows);
                Ok(())
            })?;
        }
        Ok(open)
    }
}

/// True where the lists of each step's times decide: nothing but a window, a range, users and a
/// breakdown by a property of the first event, and steps of different single names.
fn is_plain(funnel: &Funnel) -> bool {
    let names: Vec<Option<&str>> = funnel
        .steps
        .iter()
        .map(|step| step.condition.as_event())
        .collect();
    let different =
        |index: usize| names[index].is_some() && !names[..index].contains(&names[index]);
    funnel.mode == FunnelMode::Ordered
        && funnel.entries == Entries::Best
        && funnel.exclude.is_none()
        && funnel.holding.is_empty()
        && funnel.bucket.is_none()
        && funnel.steps.iter().all(|step| !step.optional)
        && funnel.attribute != Some(Attribute::Last)
        && matches!(funnel.by, None | Some(Operand::Property(_)))
        && (0..names.len()).all(different)
}
