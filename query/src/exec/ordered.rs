//! The fast path of plain ordered funnels: straight from mapped times, nothing gathered.
//!
//! Where every step is one event name of its own and only a window, a range and a breakdown are
//! asked for, bitmaps tell who entered at all. Only users of the first *two* steps have their
//! times looked at, in the map, by lists that are searched from the rarest step. Users whose
//! events tie across names, or lie in several layers of one partition, are left to the general
//! way; the callers match those.

use std::ops::Range;

use pugmark_engine::Snapshot;
use pugmark_engine::bitmap::{CONTAINER_BITS, Words};
use pugmark_engine::codec::ColumnView;
use pugmark_engine::segment::{NameRun, Partition, Times};

use crate::behaviour::{
    Attribute, ByKey, Condition, Entries, Funnel, FunnelMode, Operand, TimeRange, Truth,
};
use crate::kernel::{StepList, StepLists};
use crate::tally::{FunnelTally, GroupId};

use super::control::QueryError;
use super::exists::{Exists, partition};
use super::morsel::Morsel;
use super::scan::{DENSE_STARTS, Scan};
use super::traits::TraitTable;
use super::worker::Worker;

/// A funnel that the fast path can answer, made ready for a snapshot.
#[derive(Debug)]
pub(crate) struct Ordered<'a> {
    steps: Vec<Step<'a>>,
    range: TimeRange,
    within: Option<u64>,
    /// Starts later than this have windows that are still open.
    settled: Option<i64>,
    by: Option<String>,
    times: bool,
}

#[derive(Debug)]
struct Step<'a> {
    /// Who has such an event in the range.
    users: Exists<'a>,
    /// The runs of the step's name, in order of time.
    runs: Vec<Run<'a>>,
}

#[derive(Debug)]
struct Run<'a> {
    run: NameRun<'a>,
    partition: Partition,
    segment: u32,
    whole: bool,
}

/// One run's rows of a morsel's container.
struct Source<'m, 'a> {
    starts: &'m [u32],
    first_row: u32,
    times: Times<'a>,
    run: NameRun<'a>,
    whole: bool,
    by: Option<ByColumn<'a>>,
}

/// Where the breakdown's values of one run are found.
struct ByColumn<'a> {
    column: Option<ColumnView<'a>>,
    /// The group of each code, once it was met.
    groups: Vec<Option<GroupId>>,
}

/// Working memory of a thread.
#[derive(Debug, Default)]
pub(crate) struct OrderedScratch {
    starts: Vec<Vec<u32>>,
    lists: Vec<Vec<i64>>,
    /// For each step, where the rows of its list come from: end in the list, source, first row.
    origins: Vec<Vec<(u32, u32, u32)>>,
    search: StepLists,
    micros: Vec<i64>,
}

/// Tables of row starts that a morsel may hold, 256 KiB each; beyond, the general way is taken.
const MAX_TABLES: usize = 128;

impl<'a> Ordered<'a> {
    /// Prepares the fast path; `None` where the question or the store's layout needs the general
    /// way. With `times`, times to convert are found too.
    pub(crate) fn prepare(
        snapshot: &'a Snapshot,
        funnel: &Funnel,
        as_of: i64,
        times: bool,
    ) -> Result<Option<Self>, QueryError> {
        if !is_plain(funnel) {
            return Ok(None);
        }
        let range = funnel.range.resolve(as_of);
        let mut steps = Vec::with_capacity(funnel.steps.len());
        for step in &funnel.steps {
            let scan = Scan::prepare(snapshot, &[&step.condition], range, false);
            let answers = |run: &super::scan::RunScan<'_>| {
                matches!(run.conditions[0], Condition::Constant(Truth::True))
                    && !run.run.is_overflow()
            };
            if !scan.runs.iter().all(answers) {
                return Ok(None);
            }
            let users = Exists::prepare(snapshot, &step.condition, range)?;
            let segments = snapshot.event_segments();
            let runs = scan.runs.iter().map(|scan| Run {
                run: scan.run,
                partition: segments[scan.segment as usize].meta().partition,
                segment: scan.segment,
                whole: scan.whole,
            });
            steps.push(Step {
                users,
                runs: runs.collect(),
            });
        }
        let by = match &funnel.by {
            Some(Operand::Property(name)) => Some(name.clone()),
            _ => None,
        };
        let tables: usize = steps.iter().map(|step: &Step<'_>| step.runs.len()).sum();
        if tables > MAX_TABLES {
            return Ok(None);
        }
        let within = funnel.within.map(|within| within.micros.max(0) as u64);
        let settled = funnel
            .within
            .map(|within| as_of.saturating_sub(within.micros));
        Ok(Some(Self {
            steps,
            range,
            within,
            settled,
            by,
            times,
        }))
    }

    /// Adds the morsel's users (those among `wanted`, where given) to the tally. Returns the users
    /// that the general way must match, which were left out.
    pub(crate) fn tally(
        &self,
        morsel: &Morsel,
        wanted: Option<&Words>,
        worker: &mut Worker<'_>,
        tally: &mut FunnelTally,
    ) -> Result<Words, QueryError> {
        let everyone = Words::of_range(morsel.lows.clone());
        let entered = self.users_of(0, morsel, wanted.unwrap_or(&everyone), worker)?;
        if entered.is_empty() {
            return Ok(Words::new());
        }
        let mut scratch = std::mem::take(&mut worker.ordered);
        let result = self.tally_entered(morsel, entered, worker, &mut scratch, tally);
        worker.ordered = scratch;
        result
    }

    fn users_of(
        &self,
        step: usize,
        morsel: &Morsel,
        within: &Words,
        worker: &mut Worker<'_>,
    ) -> Result<Words, QueryError> {
        let mut users = Words::new();
        let Worker {
            starts, skipped, ..
        } = worker;
        let none = TraitTable::default();
        self.steps[step]
            .users
            .collect(morsel, within, &none, starts, skipped, &mut users)?;
        Ok(users)
    }

    fn tally_entered(
        &self,
        morsel: &Morsel,
        mut entered: Words,
        worker: &mut Worker<'_>,
        scratch: &mut OrderedScratch,
        tally: &mut FunnelTally,
    ) -> Result<Words, QueryError> {
        let mut candidates = match self.steps.len() {
            1 => Words::new(),
            _ => self.users_of(1, morsel, &entered, worker)?,
        };
        // Only a breakdown and open windows need the rows of those who came no further.
        let everyone = self.by.is_some();
        let OrderedScratch {
            starts,
            lists,
            origins,
            search,
            micros,
        } = scratch;
        let mut sources = self.sources(morsel, starts, worker)?;
        let slow = self.slow_users(morsel, &sources, &entered)?;
        entered.and_not(&slow);
        candidates.and_not(&slow);
        // With a breakdown every group is that of a value.
        let plain = (!everyone).then(|| tally.group(None, None));
        let open = self.any_open(&sources[0], &entered);
        let mut rest = entered;
        rest.and_not(&candidates);
        match plain {
            Some(plain) => tally.add_entered(plain, u64::from(rest.len()), open),
            None => {
                for low in rest.iter() {
                    let (group, open) = self.first_event(&mut sources[0], low, tally)?;
                    tally.add_entered(group, 1, open);
                }
            }
        }
        lists.resize_with(self.steps.len(), Vec::new);
        origins.resize_with(self.steps.len(), Vec::new);
        for low in candidates.iter() {
            let reached = self.fill_lists(&sources, low, lists, origins);
            let step_lists: Vec<StepList<'_, i64>> = lists[..reached]
                .iter()
                .map(|times| StepList::new(times))
                .collect();
            if let (Some(plain), false) = (plain, self.times) {
                let level = search.level(&step_lists, self.within);
                tally.add_level(plain, level, open);
                continue;
            }
            let (level, chain) = search.chain(&step_lists, self.within);
            micros.clear();
            let start = lists[0][chain[0]];
            micros.extend((0..level).map(|step| lists[step][chain[step]].saturating_sub(start)));
            let (group, open) = match plain {
                Some(plain) => (plain, open),
                None => {
                    let (source, row) = origin(&origins[0], chain[0]);
                    let last = lists[0].last().copied().unwrap_or(start);
                    let group = group_of(&mut sources[0][source], row, tally)?;
                    (group, self.is_open(last))
                }
            };
            tally.add_times(group, micros, open);
        }
        Ok(slow)
    }

    /// The rows of each step's runs in the morsel's container.
    fn sources<'m>(
        &self,
        morsel: &Morsel,
        tables: &'m mut Vec<Vec<u32>>,
        worker: &mut Worker<'_>,
    ) -> Result<Vec<Vec<Source<'m, 'a>>>, QueryError> {
        let count: usize = self.steps.iter().map(|step| step.runs.len()).sum();
        worker.reserve_tables(count)?;
        while tables.len() < count {
            tables.push(vec![0; DENSE_STARTS]);
        }
        let mut tables = tables.iter_mut();
        let mut all = Vec::with_capacity(self.steps.len());
        for (number, step) in self.steps.iter().enumerate() {
            let mut sources = Vec::with_capacity(step.runs.len());
            for run in &step.runs {
                let rows = run.run.container_rows(morsel.key)?;
                let Some(starts) = tables.next() else {
                    continue;
                };
                if rows.is_empty() {
                    continue;
                }
                run.run.row_starts(morsel.key, starts)?;
                let by = match &self.by {
                    Some(name) if number == 0 => Some(ByColumn::open(run.run, name)?),
                    _ => None,
                };
                let times = run.run.times(rows.clone())?;
                let (first_row, whole) = (rows.start, run.whole);
                sources.push(Source {
                    starts,
                    first_row,
                    times,
                    run: run.run,
                    whole,
                    by,
                });
            }
            all.push(sources);
        }
        Ok(all)
    }

    /// Users whose order the lists cannot tell: with ties between names, or with events of the
    /// steps in several segments of one partition.
    fn slow_users(
        &self,
        morsel: &Morsel,
        sources: &[Vec<Source<'_, 'a>>],
        entered: &Words,
    ) -> Result<Words, QueryError> {
        let mut slow = Words::new();
        for source in sources.iter().flatten() {
            let rows = source.first_row..source.first_row + source.times.len() as u32;
            for [row, _] in source.run.ties(rows)?.pairs() {
                let low = source
                    .starts
                    .partition_point(|start| start <= row)
                    .saturating_sub(1);
                slow.insert(low as u16);
            }
        }
        let runs = self.steps.iter().flat_map(|step| &step.runs);
        let mut layers: Vec<(Partition, u32, Words)> = Vec::new();
        for run in runs {
            let mut users = Words::new();
            run.run.users()?.or_into(morsel.key, &mut users);
            let known = layers.iter_mut().find(|(partition, segment, _)| {
                (*partition, *segment) == (run.partition, run.segment)
            });
            match known {
                Some((_, _, all)) => all.or(&users),
                None => layers.push((run.partition, run.segment, users)),
            }
        }
        layers.sort_by_key(|(partition, segment, _)| (*partition, *segment));
        for group in layers
            .chunk_by(|left, right| left.0 == right.0)
            .filter(|group| group.len() > 1)
        {
            let mut seen = Words::new();
            for (_, _, users) in group {
                let mut again = users.clone();
                again.and(&seen);
                slow.or(&again);
                seen.or(users);
            }
        }
        slow.and(entered);
        Ok(slow)
    }

    /// Copies a user's times in the range, list by list, until a step has none; returns how many
    /// lists have any.
    fn fill_lists(
        &self,
        sources: &[Vec<Source<'_, 'a>>],
        low: u16,
        lists: &mut [Vec<i64>],
        origins: &mut [Vec<(u32, u32, u32)>],
    ) -> usize {
        for (step, sources) in sources.iter().enumerate() {
            let (list, origins) = (&mut lists[step], &mut origins[step]);
            list.clear();
            origins.clear();
            for (number, source) in sources.iter().enumerate() {
                let rows = source.rows(low, self.range);
                if !rows.is_empty() {
                    source.times.slice(rows.clone()).append_to(list);
                    origins.push((list.len() as u32, number as u32, rows.start as u32));
                }
            }
            if list.is_empty() {
                return step;
            }
        }
        sources.len()
    }

    fn is_open(&self, start: i64) -> bool {
        self.settled.is_some_and(|settled| start > settled)
    }

    /// True where one of the users has a start whose window is still open.
    fn any_open(&self, sources: &[Source<'_, 'a>], users: &Words) -> bool {
        let late = |source: &&Source<'_, 'a>| self.is_open(source.run.max_time());
        sources.iter().filter(late).any(|source| {
            users.iter().any(|low| {
                let rows = source.rows(low, self.range);
                rows.end > rows.start && self.is_open(source.times.get(rows.end - 1))
            })
        })
    }

    /// The group of a user's first event of step 1, and whether the last one's window is open.
    fn first_event(
        &self,
        sources: &mut [Source<'_, 'a>],
        low: u16,
        tally: &mut FunnelTally,
    ) -> Result<(GroupId, bool), QueryError> {
        let mut group = None;
        let mut open = false;
        for source in sources {
            let rows = source.rows(low, self.range);
            if rows.is_empty() {
                continue;
            }
            open = self.is_open(source.times.get(rows.end - 1));
            if group.is_none() {
                group = Some(group_of(source, rows.start as u32, tally)?);
            }
        }
        Ok((
            group.unwrap_or_else(|| tally.group(None, Some(ByKey::None))),
            open,
        ))
    }
}

impl Source<'_, '_> {
    /// The user's rows in the range, counted from the container's first.
    fn rows(&self, low: u16, range: TimeRange) -> Range<usize> {
        let low = usize::from(low);
        let start = (self.starts[low] - self.first_row) as usize;
        let end = (self.starts[low + 1] - self.first_row) as usize;
        if self.whole || start == end {
            return start..end;
        }
        let before = partition(end - start, |index| {
            self.times.get(start + index) < range.first
        });
        let inside = partition(end - start, |index| {
            self.times.get(start + index) <= range.last
        });
        start + before..start + inside.max(before)
    }
}

impl<'a> ByColumn<'a> {
    fn open(run: NameRun<'a>, name: &str) -> Result<Self, QueryError> {
        let column = run.properties()?.get(name)?;
        let codes = column.as_ref().and_then(|column| match column.parts() {
            [part] => part.coded().map(|text| text.len() as usize),
            _ => None,
        });
        Ok(Self {
            column,
            groups: vec![None; codes.unwrap_or(0)],
        })
    }
}

/// The group of the value of a row, counted from the container's first.
fn group_of(
    source: &mut Source<'_, '_>,
    row: u32,
    tally: &mut FunnelTally,
) -> Result<GroupId, QueryError> {
    let row = source.first_row + row;
    let Some(ByColumn {
        column: Some(column),
        groups,
    }) = &mut source.by
    else {
        return Ok(tally.group(None, Some(ByKey::None)));
    };
    if let [part] = column.parts()
        && let Some(text) = part.coded()
    {
        let Some(index) = part.index_of(row) else {
            return Ok(tally.group(None, Some(ByKey::None)));
        };
        let code = text.code_at(index)?;
        if let Some(group) = groups[code as usize] {
            return Ok(group);
        }
        let group = tally.group(None, Some(ByKey::Value(text.value(code)?.to_owned())));
        groups[code as usize] = Some(group);
        return Ok(group);
    }
    let value = column.value(row)?;
    let texts = value.iter().flat_map(|value| value.scalars());
    let smallest = texts
        .map(|scalar| scalar.canonical_text().into_owned())
        .min();
    Ok(tally.group(None, Some(smallest.map_or(ByKey::None, ByKey::Value))))
}

/// Source and row of the `index`-th entry of a list.
fn origin(origins: &[(u32, u32, u32)], index: usize) -> (usize, u32) {
    let place = origins.partition_point(|&(end, _, _)| end as usize <= index);
    let start = if place == 0 { 0 } else { origins[place - 1].0 };
    let (_, source, row) = origins[place];
    (source as usize, row + (index as u32 - start))
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

/// Bytes of one table of row starts.
pub(super) const TABLE_BYTES: usize = DENSE_STARTS * size_of::<u32>();

const _: () = assert!(MAX_TABLES * TABLE_BYTES <= 64 << 20 && CONTAINER_BITS < DENSE_STARTS);
