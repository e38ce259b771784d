//! Funnels over morsels: gathered events through the matcher, levels and chains into tallies.
//!
//! The general way answers every option. A plain ordered funnel whose steps are event names goes
//! through [`super::ordered`] instead, which reads stored times without gathering.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use pugmark_engine::bitmap::Words;
use pugmark_engine::{Corruption, Scalar, Snapshot, Value};

use crate::behaviour::{
    Attribute, ByKey, Condition, Entries, Funnel, FunnelMode, FunnelResult, FunnelTimesRow,
    FunnelUser, FunnelUsersResult, Notices, Operand, Reads, Skipped, Truth,
};
use crate::kernel::{
    Counted, FunnelPlan, FunnelScratch, Held, Interrupted, Outcome, UserEvents, match_every,
    match_funnel,
};
use crate::tally::{FunnelTally, histogram};

use super::Executor;
use super::computed::of_gathered;
use super::control::{Control, QueryError};
use super::gather::{Asked, Gather, Gathering, RowRef};
use super::memory::Reservation;
use super::morsel::{self, Morsel};
use super::ordered::Ordered;
use super::scan::Scan;
use super::traits::TraitTable;
use super::users::PreparedUsers;
use super::values::{Lists, ValueReader, held};
use super::worker::Worker;

/// A funnel made ready for a snapshot.
#[derive(Debug)]
struct PreparedFunnel<'a> {
    funnel: &'a Funnel,
    scan: Scan<'a>,
    as_of: i64,
    plan: FunnelPlan,
    /// The fast path, where it applies and a table is all that is wanted.
    ordered: Option<Ordered<'a>>,
    snapshot: &'a Snapshot,
    population: Option<PreparedUsers<'a>>,
    traits: BTreeSet<String>,
}

/// A chain that a morsel's matching found, with what the answers need to know of it.
struct Found<'m> {
    /// The user's ordinal.
    user: u32,
    bucket: Option<i64>,
    by: Option<ByKey>,
    /// True where the window of a possible start is still open.
    open: bool,
    /// Times of the user's events.
    times: &'m [i64],
    /// Where they lie.
    rows: &'m [RowRef],
    chain: Chain<'m>,
}

enum Chain<'m> {
    Reported(Outcome<'m>),
    Counted(Counted<'m>),
}

impl Chain<'_> {
    fn events(&self) -> Vec<(usize, usize)> {
        match self {
            Self::Reported(outcome) => outcome.events().collect(),
            Self::Counted(counted) => counted.events().collect(),
        }
    }

    fn held(&self) -> Option<u32> {
        match self {
            Self::Reported(outcome) => outcome.held,
            Self::Counted(counted) => counted.held,
        }
    }
}

/// Which chains are wanted of each user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// Those that the table counts.
    Table,
    /// The reported one of each user.
    Reported,
}

/// What is asked of a funnel, and who takes the chains.
struct Ask<'q, F> {
    wanted: Wanted,
    /// Properties to be read along the chains.
    values: &'q [&'q str],
    take: F,
}

/// What a thread keeps between morsels.
struct State<'c, R> {
    worker: Worker<'c>,
    scratch: FunnelScratch,
    memory: Reservation<'c>,
    result: R,
}

impl Executor {
    /// The table of a funnel.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn funnel(&self, funnel: &Funnel) -> Result<FunnelResult, QueryError> {
        funnel.validate()?;
        let (tally, skipped) = self.tally(funnel)?;
        Ok(FunnelResult {
            rows: tally.finish(funnel),
            notices: Notices { skipped },
        })
    }

    /// The users of a funnel with their reported chains, and the values of the properties
    /// `values` along them. With [`Entries::Every`] the chain is each user's best.
    ///
    /// Holds all rows at once; the memory budget says how many that can be.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn funnel_users(
        &self,
        funnel: &Funnel,
        values: &[&str],
    ) -> Result<FunnelUsersResult, QueryError> {
        funnel.validate()?;
        // Which values of a breakdown are told apart is decided by the table.
        let top = match funnel.by {
            Some(_) => {
                let counted = funnel.clone().without_times();
                Some(self.tally(&counted)?.0.top_values(funnel))
            }
            None => None,
        };
        let (parts, skipped) =
            self.over_funnel(funnel, Wanted::Reported, values, Vec::new, |job| {
                let Job {
                    reader,
                    found,
                    result,
                    memory,
                } = job;
                let row = reader.user_row(&found)?;
                memory.grow(row_bytes(&row))?;
                result.push(row);
                Ok(())
            })?;
        let mut rows: Vec<FunnelUser> = parts.into_iter().flatten().collect();
        rows.sort_unstable_by_key(|row| (row.user, row.bucket));
        if let Some(top) = top {
            for row in &mut rows {
                row.by = row.by.take().map(|by| by.within(&top));
            }
        }
        Ok(FunnelUsersResult {
            rows,
            notices: Notices { skipped },
        })
    }

    /// The histogram of the times from one step to another (from 1), in `bins` equal bins from 0
    /// to the longest.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn funnel_times(
        &self,
        funnel: &Funnel,
        from_step: usize,
        to_step: usize,
        bins: usize,
    ) -> Result<Vec<FunnelTimesRow>, QueryError> {
        funnel.validate_times(from_step, to_step, bins)?;
        let (parts, _) = self.over_funnel(funnel, Wanted::Table, &[], Vec::new, |job| {
            if let Some(micros) = job.found.micros(from_step - 1, to_step - 1) {
                job.memory.grow(size_of::<i64>())?;
                job.result.push(micros);
            }
            Ok(())
        })?;
        let micros: Vec<i64> = parts.into_iter().flatten().collect();
        Ok(histogram(&micros, bins))
    }

    fn tally(&self, funnel: &Funnel) -> Result<(FunnelTally, Skipped), QueryError> {
        let begin = || FunnelTally::new(funnel);
        let (tallies, skipped) = self.over_funnel(funnel, Wanted::Table, &[], begin, |job| {
            let Found {
                bucket,
                by,
                open,
                times,
                chain,
                ..
            } = job.found;
            let group = job.result.group(bucket, by);
            match chain {
                Chain::Reported(outcome) => job.result.add(group, &outcome, times, open),
                Chain::Counted(counted) => job.result.add_counted(group, &counted, times, open),
            }
            Ok(())
        })?;
        let mut whole = begin();
        tallies.into_iter().for_each(|tally| whole.merge(tally));
        Ok((whole, skipped))
    }

    /// Runs a funnel over all morsels; `take` is given every chain that is wanted.
    fn over_funnel<R: FunnelAnswer + Send>(
        &self,
        funnel: &Funnel,
        wanted: Wanted,
        values: &[&str],
        begin: impl Fn() -> R + Sync,
        take: impl Fn(Job<'_, '_, '_, R>) -> Result<(), QueryError> + Sync,
    ) -> Result<(Vec<R>, Skipped), QueryError> {
        let control = Control::start(self.options());
        let mut memory = control.reservation();
        let mut prepared = PreparedFunnel::new(self.snapshot(), funnel, self.as_of())?;
        if R::TABLE {
            let (snapshot, as_of) = (self.snapshot(), self.as_of());
            prepared.ordered = Ordered::prepare(snapshot, funnel, as_of, &mut memory)?;
        }
        let ask = Ask {
            wanted,
            values,
            take,
        };
        let mut rows = BTreeMap::new();
        prepared.scan.count_rows(&mut rows, true)?;
        let morsels = morsel::cut(&rows, self.options().morsel_rows);
        let begin = || State {
            worker: Worker::new(&control),
            scratch: FunnelScratch::default(),
            memory: control.reservation(),
            result: begin(),
        };
        let states = morsel::run(
            &morsels,
            self.threads(),
            &control,
            begin,
            |state, morsel| prepared.morsel(morsel, &ask, state),
        )?;
        let mut skipped = Skipped::default();
        let results = states.into_iter().map(|state| {
            skipped.merge(&state.worker.skipped);
            state.result
        });
        let results = results.collect();
        Ok((results, skipped))
    }
}

/// A chain on its way into a thread's result.
struct Job<'j, 'm, 'c, R> {
    reader: &'j MorselReader<'m>,
    found: Found<'j>,
    result: &'j mut R,
    memory: &'j mut Reservation<'c>,
}

/// What an answer is made of.
trait FunnelAnswer {
    /// True where the table is all that is wanted.
    const TABLE: bool;
    /// The tally, where that is the answer.
    fn tally(&mut self) -> Option<&mut FunnelTally>;
    /// Bytes that it holds and has not reserved itself.
    fn byte_len(&self) -> usize;
}

impl FunnelAnswer for FunnelTally {
    const TABLE: bool = true;

    fn tally(&mut self) -> Option<&mut FunnelTally> {
        Some(self)
    }

    fn byte_len(&self) -> usize {
        Self::byte_len(self)
    }
}

impl<T> FunnelAnswer for Vec<T> {
    const TABLE: bool = false;

    fn tally(&mut self) -> Option<&mut FunnelTally> {
        None
    }

    fn byte_len(&self) -> usize {
        0
    }
}

impl<'a> PreparedFunnel<'a> {
    /// Prepares a validated funnel.
    fn new(snapshot: &'a Snapshot, funnel: &'a Funnel, as_of: i64) -> Result<Self, QueryError> {
        let steps = funnel.steps.iter().map(|step| &step.condition);
        let conditions: Vec<&Condition> = steps.chain(&funnel.exclude).collect();
        let strict = funnel.mode == FunnelMode::Strict;
        let range = funnel.range.resolve(as_of);
        let scan = Scan::prepare(snapshot, &conditions, range, strict);
        let mut traits = scan.traits.clone();
        if let Some(by) = &funnel.by {
            traits.extend(Reads::of(by).traits);
        }
        let population = funnel.users.as_ref();
        let population = population.map(|users| PreparedUsers::new(snapshot, users, as_of));
        Ok(Self {
            funnel,
            scan,
            as_of,
            plan: FunnelPlan::new(funnel),
            ordered: None,
            snapshot,
            population: population.transpose()?,
            traits,
        })
    }

    /// Matches one morsel.
    fn morsel<R: FunnelAnswer, F: Fn(Job<'_, '_, '_, R>) -> Result<(), QueryError>>(
        &self,
        morsel: &Morsel,
        ask: &Ask<'_, F>,
        state: &mut State<'_, R>,
    ) -> Result<(), QueryError> {
        state.worker.reserve()?;
        let mut users = self.candidates(morsel)?;
        if let Some(population) = &self.population {
            users.and(&population.users(morsel, &mut state.worker)?);
        }
        if let Some(ordered) = &self.ordered
            && let Some(tally) = state.result.tally()
        {
            users = ordered.tally(morsel, &users, &mut state.worker, tally)?;
        }
        if !users.is_empty() {
            self.gathered(morsel, &users, ask, state)?;
        }
        state.memory.at_least(state.result.byte_len())
    }

    /// The users who may have an event that a chain starts with.
    fn candidates(&self, morsel: &Morsel) -> Result<Words, Corruption> {
        let any_order = self.funnel.mode == FunnelMode::AnyOrder;
        let starting = if any_order {
            self.funnel.steps.len()
        } else {
            1
        };
        let mut users = Words::new();
        for run in &self.scan.runs {
            let may = |condition: &Condition| {
                !matches!(
                    condition,
                    Condition::Constant(Truth::False | Truth::Unknown)
                )
            };
            if run.conditions[..starting].iter().any(may) {
                run.run.users()?.or_into(morsel.key, &mut users);
            }
        }
        users.restrict(morsel.lows.clone());
        Ok(users)
    }

    /// The general way: gathers the users' events and matches them one user after another.
    fn gathered<R, F: Fn(Job<'_, '_, '_, R>) -> Result<(), QueryError>>(
        &self,
        morsel: &Morsel,
        users: &Words,
        ask: &Ask<'_, F>,
        state: &mut State<'_, R>,
    ) -> Result<(), QueryError> {
        let traits = TraitTable::read(self.snapshot, &self.traits, morsel, self.as_of)?;
        let State {
            worker,
            scratch,
            memory,
            result,
            ..
        } = state;
        let gather = &mut worker.gather;
        let asked = Asked {
            steps: self.funnel.steps.len(),
            every_row: self.funnel.mode == FunnelMode::Strict,
        };
        let of = Gathering {
            scan: &self.scan,
            morsel,
            wanted: users,
            traits: &traits,
            asked,
        };
        gather.fill(of, &mut worker.skipped)?;
        let gather = &worker.gather;
        let excluded: Vec<bool> = match self.funnel.exclude {
            Some(_) => gather.flags.iter().map(|flags| flags & 1 != 0).collect(),
            None => Vec::new(),
        };
        let (lists, held_values) = match self.funnel.holding.as_slice() {
            [] => (Lists::default(), Vec::new()),
            holding => held(&self.scan, gather, holding)?,
        };
        let mut expression = worker.control.reservation();
        let computed = match &self.funnel.by {
            Some(by @ Operand::Computed(one)) => {
                let from = (&self.scan, gather, &traits);
                let found = of_gathered(one, from, worker.control, &mut expression)?;
                worker.skipped.add(by, found.failed);
                found.values
            }
            _ => Vec::new(),
        };
        let reader = MorselReader::new(self, &traits, &held_values, &computed, ask.values);
        let mut ends = Vec::new();
        for index in 0..gather.users() {
            if index % USERS_BETWEEN_CHECKS == 0 {
                worker.control.check()?;
            }
            let low = gather.lows[index];
            let user = User {
                ordinal: u32::from(morsel.key) << 16 | u32::from(low),
                low,
                events: self.events(gather, index, &excluded, &lists, &mut ends),
                rows: &gather.rows[gather.events(index)],
                first: gather.events(index).start,
            };
            let mut failed = Ok(());
            let emit = |found: Result<Found<'_>, Corruption>| {
                if failed.is_ok() {
                    failed = found.map_err(QueryError::from).and_then(|found| {
                        (ask.take)(Job {
                            reader: &reader,
                            found,
                            result,
                            memory,
                        })
                    });
                }
            };
            reader.user(&user, ask.wanted, scratch, worker.control, emit)?;
            failed?;
        }
        Ok(())
    }
}

impl PreparedFunnel<'_> {
    /// The events of a gathered user as the matcher takes them. `ends` is working memory.
    fn events<'g>(
        &self,
        gather: &'g Gather<'_>,
        index: usize,
        excluded: &'g [bool],
        lists: &'g Lists<u32>,
        ends: &'g mut Vec<u32>,
    ) -> UserEvents<'g> {
        let own = gather.events(index);
        let held = if self.funnel.holding.is_empty() {
            Held::Nothing
        } else {
            let ids = lists.slice(own.clone(), ends);
            Held::Ids { ends, ids }
        };
        UserEvents {
            times: &gather.times[own.clone()],
            steps: &gather.masks[own.clone()],
            excluded: excluded.get(own).unwrap_or_default(),
            positions: &[],
            held,
        }
    }
}

/// Users between two looks at whether to stop.
const USERS_BETWEEN_CHECKS: usize = 1 << 10;

/// One user of a morsel.
struct User<'m> {
    ordinal: u32,
    low: u16,
    events: UserEvents<'m>,
    rows: &'m [RowRef],
    /// Place of its first event among the morsel's.
    first: usize,
}

/// Reads what a morsel's chains carry.
struct MorselReader<'m> {
    prepared: &'m PreparedFunnel<'m>,
    traits: &'m TraitTable,
    held_values: &'m [Vec<String>],
    /// What the breakdown is for each event, where it is an expression.
    computed: &'m [Option<Value>],
    /// Reads the property of the breakdown.
    by: RefCell<ValueReader<'m, 'm>>,
    /// Read the properties that are asked for along the chains.
    values: RefCell<Vec<ValueReader<'m, 'm>>>,
}

impl<'m> MorselReader<'m> {
    fn new(
        prepared: &'m PreparedFunnel<'m>,
        traits: &'m TraitTable,
        held_values: &'m [Vec<String>],
        computed: &'m [Option<Value>],
        values: &'m [&'m str],
    ) -> Self {
        let by = match &prepared.funnel.by {
            Some(Operand::Property(name)) => name.as_str(),
            _ => "",
        };
        let values = values.iter().map(|name| ValueReader::new(name));
        Self {
            prepared,
            traits,
            held_values,
            computed,
            by: RefCell::new(ValueReader::new(by)),
            values: RefCell::new(values.collect()),
        }
    }

    /// Matches one user.
    fn user(
        &self,
        user: &User<'_>,
        wanted: Wanted,
        scratch: &mut FunnelScratch,
        control: &Control,
        mut emit: impl FnMut(Result<Found<'_>, Corruption>),
    ) -> Result<(), QueryError> {
        let PreparedFunnel { plan, funnel, .. } = self.prepared;
        let interrupted = || control.check().is_err();
        let matched = if funnel.entries == Entries::Every && wanted == Wanted::Table {
            match_every(plan, &user.events, scratch, &interrupted, |counted| {
                let start = counted
                    .events()
                    .next()
                    .map(|(_, event)| user.events.times[event]);
                emit(self.found(user, counted.bucket, start, Chain::Counted(counted)));
            })
        } else {
            match_funnel(plan, &user.events, scratch, &interrupted, |outcome| {
                let start = Some(outcome.last_start);
                emit(self.found(user, outcome.bucket, start, Chain::Reported(outcome)));
            })
        };
        matched.or_else(|Interrupted| control.check().and(Err(QueryError::Cancelled)))
    }

    fn found<'f>(
        &self,
        user: &User<'f>,
        bucket: Option<i64>,
        last_start: Option<i64>,
        chain: Chain<'f>,
    ) -> Result<Found<'f>, Corruption> {
        Ok(Found {
            user: user.ordinal,
            bucket,
            by: self.by(user, &chain)?,
            open: last_start.is_some_and(|start| self.prepared.is_open(start)),
            times: user.events.times,
            rows: user.rows,
            chain,
        })
    }

    /// The value of the breakdown that a chain counts for.
    fn by(&self, user: &User<'_>, chain: &Chain<'_>) -> Result<Option<ByKey>, Corruption> {
        let funnel = self.prepared.funnel;
        let Some(operand) = &funnel.by else {
            return Ok(None);
        };
        if let Operand::Property(name) = operand
            && let Some(place) = funnel.holding.iter().position(|held| held == name)
            && let Some(held) = chain.held()
        {
            let value = self.held_values[held as usize][place].clone();
            return Ok(Some(ByKey::Value(value)));
        }
        let events = chain.events();
        let event = match funnel.attribute.unwrap_or_default() {
            Attribute::First => events.first(),
            Attribute::Last => events.last(),
        };
        let Some(&(_, event)) = event else {
            return Ok(Some(ByKey::None));
        };
        let text = |value: &Value| {
            let texts = value
                .scalars()
                .map(|scalar| scalar.canonical_text().into_owned());
            texts.min()
        };
        let at = user.rows[event];
        let value = match operand {
            Operand::Property(_) => {
                let value = self.by.borrow_mut().value(&self.prepared.scan, at)?;
                value.as_ref().and_then(text)
            }
            Operand::Trait(name) => self.traits.get(name, user.low).and_then(text),
            Operand::Time => {
                let time = Scalar::Timestamp(user.events.times[event]);
                Some(time.canonical_text().into_owned())
            }
            Operand::EventName => Some(self.prepared.scan.event_name(at)?.into_owned()),
            Operand::Computed(_) => self.computed[user.first + event].as_ref().and_then(text),
        };
        Ok(Some(value.map_or(ByKey::None, ByKey::Value)))
    }

    /// The row of a user with the reported chain.
    fn user_row(&self, found: &Found<'_>) -> Result<FunnelUser, Corruption> {
        let funnel = self.prepared.funnel;
        let events = found.chain.events();
        let mut columns = Vec::new();
        for reader in self.values.borrow_mut().iter_mut() {
            let along = events.iter();
            let column: Result<Vec<_>, Corruption> = along
                .map(|&(_, event)| reader.value(&self.prepared.scan, found.rows[event]))
                .collect();
            columns.push(column?);
        }
        let optional =
            |step: usize| funnel.mode != FunnelMode::AnyOrder && funnel.steps[step].optional;
        Ok(FunnelUser {
            user: found.user,
            bucket: found.bucket,
            by: found.by.clone(),
            level: events.iter().filter(|(step, _)| !optional(*step)).count(),
            steps: events.iter().map(|(step, _)| step + 1).collect(),
            times: events
                .iter()
                .map(|&(_, event)| found.times[event])
                .collect(),
            values: columns,
        })
    }
}

impl PreparedFunnel<'_> {
    /// True where a window that starts at `start` has not elapsed.
    fn is_open(&self, start: i64) -> bool {
        let elapsed = i128::from(self.as_of) - i128::from(start);
        let within = self.funnel.within;
        within.is_some_and(|within| elapsed < i128::from(within.micros))
    }
}

impl Found<'_> {
    /// Microseconds between two steps, from 0, where the chain has both and counts for the later.
    fn micros(&self, from: usize, to: usize) -> Option<i64> {
        let (start, end) = match &self.chain {
            Chain::Reported(outcome) => (outcome.event(from), outcome.event(to)),
            Chain::Counted(counted) if counted.step == to => {
                (counted.event(from), counted.event(to))
            }
            Chain::Counted(_) => (None, None),
        };
        Some(self.times[end?].saturating_sub(self.times[start?]))
    }
}

/// About how many bytes a row holds.
fn row_bytes(row: &FunnelUser) -> usize {
    let value = |value: &Option<Value>| match value {
        Some(Value::Text(text)) => text.len(),
        Some(Value::List(list)) => list.len() * size_of::<Value>(),
        _ => 0,
    };
    let values = row.values.iter().flatten();
    let texts: usize = values
        .map(|one| value(one) + size_of::<Option<Value>>())
        .sum();
    size_of::<FunnelUser>() + 16 * row.times.len() + texts
}
