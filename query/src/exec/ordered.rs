//! The fast path of plain ordered funnels: straight from mapped times, nothing gathered.
//!
//! Where every step is one event name of its own and only a window, a range, one held property, another
//! name that is excluded up to the chain's end, and a breakdown are asked for, bitmaps tell who entered at all. Only users of the first *two* steps have their
//! times looked at, in the map, back from their last step.

use pugmark_engine::Snapshot;
use pugmark_engine::bitmap::Words;

use crate::behaviour::{
    Attribute, Condition, Entries, Funnel, FunnelMode, Operand, TimeRange, Truth,
};
use crate::kernel::{Bounds, Exclusion, Link};
use crate::tally::{FunnelTally, GroupId};

use super::control::{Control, QueryError};
use super::effort;
use super::exists::Exists;
use super::held::{self, HeldColumn};
use super::memory::Reservation;
use super::morsel::Morsel;
use super::scan::Scan;
use super::steps::{ChainScratch, SourceMemory, StepRows, StepRun};
use super::traits::TraitTable;
use super::worker::Worker;

/// A funnel that the fast path can answer, made ready for a snapshot.
#[derive(Debug)]
pub(crate) struct Ordered<'a> {
    /// Who has an event of the first step in the range.
    entered: Exists<'a>,
    /// Who may have one of each step behind it.
    later: Vec<Exists<'a>>,
    /// Behind the steps: what is excluded.
    exclude: Option<Exclusion>,
    /// The runs of the steps' names, and of the excluded one.
    runs: Vec<StepRun<'a>>,
    /// What the rows of each run hold; empty where nothing is held.
    held: Vec<HeldColumn<'a>>,
    range: TimeRange,
    within: Option<u64>,
    /// Starts later than this have windows that are still open.
    settled: Option<i128>,
    by: Option<String>,
    times: bool,
}

/// Working memory of a thread.
#[derive(Debug, Default)]
pub(crate) struct OrderedScratch {
    sources: Vec<SourceMemory>,
    chains: ChainScratch,
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
        memory: &mut Reservation<'_>,
    ) -> Result<Option<Self>, QueryError> {
        if !is_plain(funnel) {
            return Ok(None);
        }
        let range = funnel.range.resolve(as_of);
        let segments = snapshot.event_segments();
        let mut runs = Vec::new();
        let steps = funnel.steps.iter().map(|step| &step.condition);
        for (number, condition) in steps.chain(&funnel.exclude).enumerate() {
            let scan = Scan::prepare(snapshot, &[condition], range, false);
            let answers = |run: &super::scan::RunScan<'_>| {
                matches!(run.conditions[0], Condition::Constant(Truth::True))
                    && !run.run.is_overflow()
            };
            if !scan.runs.iter().all(answers) {
                return Ok(None);
            }
            let first = runs.len();
            runs.extend(scan.runs.iter().enumerate().map(|(place, scan)| StepRun {
                step: number,
                number: first + place,
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
            .map(|within| i128::from(as_of) - i128::from(within.micros));
        let held = match funnel.holding.as_slice() {
            [property] => held::columns(&runs, property, memory)?,
            _ => Some(Vec::new()),
        };
        let Some(held) = held else {
            return Ok(None);
        };
        let (first, later) = (&funnel.steps[0].condition, funnel.steps[1..].iter());
        let later = later.map(|step| Exists::prepare_possible(snapshot, &step.condition, range));
        Ok(Some(Self {
            held,
            entered: Exists::prepare(snapshot, first, range)?,
            later: later.collect::<Result<_, _>>()?,
            exclude: funnel.exclusion_bounds().map(|(after, _)| Exclusion {
                step: funnel.steps.len(),
                after: after - 1,
            }),
            runs,
            range,
            within: funnel.within.map(|within| within.micros.max(0) as u64),
            settled,
            by,
            times: funnel.times,
        }))
    }

    /// Adds those of `wanted`, which are users of the morsel, to the tally, but for those that are
    /// returned: the general way is faster for them.
    pub(crate) fn tally(
        &self,
        morsel: &Morsel,
        wanted: &Words,
        worker: &mut Worker<'_>,
        tally: &mut FunnelTally,
    ) -> Result<Words, QueryError> {
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
            return Ok(entered);
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
    ) -> Result<Words, QueryError> {
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
        if scratch.sources.len() < present.len() {
            let more = SourceMemory::default;
            scratch.sources.resize_with(present.len(), more);
        }
        let runs = (present.as_slice(), self.held.as_slice());
        let (sources, held) = (&mut scratch.sources, &mut worker.held);
        let found = 1 + self.later.len() + usize::from(self.exclude.is_some());
        let mut rows = StepRows::find(found, runs, morsel, sources, held)?;
        let reached = self.later.iter().map(|step| step.possible(morsel.key));
        let reached = reached.collect::<Result<_, _>>()?;
        let mut matching = Matching {
            ordered: self,
            control: worker.control,
            memory: worker.control.reservation(),
            reached,
            chains: &mut scratch.chains,
            chain: &mut scratch.chain,
            micros: &mut scratch.micros,
        };
        match &self.by {
            None => matching.tally_plain(&mut rows, entered, tally)?,
            Some(by) => matching.tally_groups(&mut rows, entered, by, tally)?,
        }
        Ok(rows.given_up)
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            first: self.range.first,
            last: self.range.last,
            within: self.within,
            exclude: self.exclude,
        }
    }

    fn is_open(&self, start: i64) -> bool {
        self.settled
            .is_some_and(|settled| i128::from(start) > settled)
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
    /// The users that may have each step behind the first in the range.
    reached: Vec<Words>,
    chains: &'m mut ChainScratch,
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
        match self.reached.first() {
            Some(users) => candidates.and(users),
            None => candidates.clear(),
        }
        let only_entered = entered.len() - candidates.len();
        let open = self.any_open(rows, entered);
        tally.add_entered(group, u64::from(only_entered), open);
        let mut levels = vec![0; self.reached.len() + 2];
        let left = self.each_chain(rows, candidates, |matching, _, chain| {
            match matching.ordered.times {
                true => matching.add_times(group, chain, false, tally),
                false => levels[chain.len()] += 1,
            }
            Ok(())
        })?;
        levels[1] += u64::from(left.len());
        tally.add_levels(group, &levels);
        Ok(())
    }

    /// Counts users for the value that the first event of their chain has.
    fn tally_groups(
        &mut self,
        rows: &mut StepRows<'_, '_>,
        entered: &Words,
        by: &str,
        tally: &mut FunnelTally,
    ) -> Result<(), QueryError> {
        let mut groups = rows.groups(0, by)?;
        let settled = self.ordered.settled.unwrap_or(i128::MAX);
        let may_be_open = rows.reaches_beyond(0, settled);
        let mut add = |matching: &mut Self, rows: &mut StepRows<'_, '_>, chain: &[Link]| {
            let first = chain[0];
            let group = rows.group(&mut groups, first.stretch, first.event, tally)?;
            let open = may_be_open && !tally.is_open(group) && matching.ordered.has_open(rows);
            match matching.ordered.times {
                true => matching.add_times(group, chain, open, tally),
                false => tally.add_level(group, chain.len(), open),
            }
            Ok(())
        };
        let mut left = self.each_chain(rows, entered.clone(), &mut add)?;
        self.chains_of(1, rows, &mut left, &mut add)
    }

    /// Gives the reported chains of `users` of two steps and more to `each`; the users who have none
    /// are left.
    fn each_chain(
        &mut self,
        rows: &mut StepRows<'_, '_>,
        users: Words,
        mut each: impl FnMut(&mut Self, &mut StepRows<'_, '_>, &[Link]) -> Result<(), QueryError>,
    ) -> Result<Words, QueryError> {
        effort::rows(users.len() as usize);
        let mut left = users;
        for level in (2..=self.reached.len() + 1).rev() {
            // They need an event of every step.
            let mut able = left.clone();
            let reached = &self.reached[..level - 1];
            reached.iter().for_each(|of| able.and(of));
            left.and_not(&able);
            self.chains_of(level, rows, &mut able, &mut each)?;
            left.or(&able);
        }
        Ok(left)
    }

    /// Gives the chains of `level` steps to `each`, and takes their users out of `users`.
    fn chains_of(
        &mut self,
        level: usize,
        rows: &mut StepRows<'_, '_>,
        users: &mut Words,
        mut each: impl FnMut(&mut Self, &mut StepRows<'_, '_>, &[Link]) -> Result<(), QueryError>,
    ) -> Result<(), QueryError> {
        let mut chain = std::mem::take(self.chain);
        let mut scratch = std::mem::take(self.chains);
        chain.clear();
        chain.resize(level, Link::default());
        let with = (&self.ordered.bounds(), self.control);
        for stretch in 0..rows.stretches {
            if users.is_empty() {
                break;
            }
            let each = |rows: &mut StepRows<'_, '_>, chain: &[Link]| each(self, rows, chain);
            rows.find_chains(stretch, with, &mut scratch, &mut chain, users, each)?;
            self.memory.at_least(rows.merged_bytes())?;
        }
        (*self.chain, *self.chains) = (chain, scratch);
        Ok(())
    }

    fn add_times(&mut self, group: GroupId, chain: &[Link], open: bool, tally: &mut FunnelTally) {
        let since = |link: &Link| link.time.saturating_sub(chain[0].time);
        self.micros.clear();
        self.micros.extend(chain.iter().map(since));
        tally.add_times(group, self.micros, open);
    }

    /// True where one of the users has a start whose window is still open.
    fn any_open(&self, rows: &mut StepRows<'_, '_>, users: &Words) -> bool {
        let settled = self.ordered.settled.unwrap_or(i128::MAX);
        if !rows.reaches_beyond(0, settled) {
            return false;
        }
        let mut looked = 0;
        let open = users.iter().any(|low| {
            looked += 1;
            rows.look_at(low);
            self.ordered.has_open(rows)
        });
        effort::rows(looked);
        open
    }
}

/// True where the lists of each step's times decide: nothing but a window, a range, users, one held
/// property or a name that is excluded up to the end, and a breakdown by a property of the first event,
/// and steps of different single names.
fn is_plain(funnel: &Funnel) -> bool {
    let steps = funnel.steps.iter().map(|step| &step.condition);
    let names: Vec<Option<&str>> = steps
        .chain(&funnel.exclude)
        .map(Condition::as_event)
        .collect();
    let excludes_to_the_end = match funnel.exclusion_bounds() {
        Some((_, before)) => before == funnel.steps.len() && funnel.holding.is_empty(),
        None => true,
    };
    let different =
        |index: usize| names[index].is_some() && !names[..index].contains(&names[index]);
    funnel.mode == FunnelMode::Ordered
        && funnel.entries == Entries::Best
        && excludes_to_the_end
        && funnel.holding.len() <= 1
        && funnel.bucket.is_none()
        && funnel.steps.iter().all(|step| !step.optional)
        && funnel.attribute != Some(Attribute::Last)
        && matches!(funnel.by, None | Some(Operand::Property(_)))
        && (0..names.len()).all(different)
}
