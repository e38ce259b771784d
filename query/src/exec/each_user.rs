//! Questions that look at one user's events after the other and add up.
//!
//! Such a question names conditions and operands. The events in the range that satisfy any of the
//! conditions are gathered, and each user's, in total order, are handed to a [`Fold`]. Sums of
//! threads merge in any order, so they must be sums, counts or sets: nothing that depends on which
//! user came first.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use pugmark_engine::bitmap::Words;
use pugmark_engine::{Corruption, Value};

use crate::behaviour::{
    Condition, Notices, Operand, Reads as OperandReads, Segment, Skipped, TimeRange, Truth,
};

use super::computed::of_gathered;
use super::control::{Control, QueryError};
use super::gather::{Asked, Gathering, RowRef};
use super::intern::Interner;
use super::morsel::{self, Morsel};
use super::scan::Scan;
use super::traits::TraitTable;
use super::users::PreparedUsers;
use super::values::{ValueReader, float_in, smallest_text};
use super::worker::Worker;
use super::{Executor, UserSet};

/// What a question reads.
#[derive(Clone, Debug)]
pub(super) struct Reads<'q> {
    /// At most [`MOST_CONDITIONS`].
    pub(super) conditions: Vec<&'q Condition>,
    pub(super) range: TimeRange,
    /// Only users who may have an event that satisfies the condition of this number, where given.
    pub(super) only_with: Option<usize>,
    /// Only these users, where given.
    pub(super) users: Option<&'q Segment>,
    /// What is read of events besides.
    pub(super) operands: Vec<&'q Operand>,
}

/// One user's events that satisfy any condition, in total order.
pub(super) struct UserHistory<'m> {
    pub(super) ordinal: u32,
    /// Microseconds since 1970-01-01 UTC.
    pub(super) times: &'m [i64],
    /// Bit `i` of an event: it satisfies condition `i`.
    pub(super) masks: &'m [u64],
    rows: &'m [RowRef],
    /// Place of its first event among the morsel's.
    first: usize,
    low: u16,
    of: &'m MorselValues<'m>,
}

/// Reads values of a morsel's events.
struct MorselValues<'m> {
    scan: &'m Scan<'m>,
    operands: &'m [&'m Operand],
    traits: &'m TraitTable,
    control: &'m Control,
    readers: RefCell<Vec<ValueReader<'m, 'm>>>,
    /// The number of each run's name, once it was asked for.
    names: RefCell<Vec<Option<u32>>>,
    /// For each operand that is an expression, what it comes to for each event.
    computed: &'m [Vec<Option<Value>>],
}

/// What is made of the users' events.
pub(super) trait Fold: Sync {
    /// What a thread adds up.
    type Sum: Send;

    /// The sum over nobody.
    fn begin(&self) -> Self::Sum;

    /// Adds a user, who has one event at least.
    fn user(&self, user: &UserHistory<'_>, sum: &mut Self::Sum) -> Result<(), QueryError>;

    /// About how many bytes a sum holds, for the memory budget.
    fn byte_len(&self, sum: &Self::Sum) -> usize;
}

/// The users for whom something holds.
struct Chosen<B, K> {
    begin: B,
    keep: K,
}

impl<S: Send, B, K> Fold for Chosen<B, K>
where
    B: Fn() -> S + Sync,
    K: Fn(&UserHistory<'_>, &mut S) -> bool + Sync,
{
    type Sum = (S, Vec<u32>);

    fn begin(&self) -> Self::Sum {
        ((self.begin)(), Vec::new())
    }

    fn user(&self, user: &UserHistory<'_>, sum: &mut Self::Sum) -> Result<(), QueryError> {
        let (scratch, chosen) = sum;
        if (self.keep)(user, scratch) {
            chosen.push(user.ordinal);
        }
        Ok(())
    }

    fn byte_len(&self, (_, chosen): &Self::Sum) -> usize {
        chosen.capacity() * size_of::<u32>()
    }
}

impl UserHistory<'_> {
    /// Number of events, at least 1.
    pub(super) fn len(&self) -> usize {
        self.times.len()
    }

    /// True where the event satisfies the condition of this number.
    pub(super) fn satisfies(&self, event: usize, condition: usize) -> bool {
        self.masks[event] >> condition & 1 != 0
    }

    /// What the operand of this number is for an event.
    pub(super) fn value(&self, operand: usize, event: usize) -> Result<Option<Value>, Corruption> {
        match self.of.operands[operand] {
            Operand::Property(_) => {
                let mut readers = self.of.readers.borrow_mut();
                readers[operand].value(self.of.scan, self.rows[event])
            }
            Operand::Trait(name) => Ok(self.of.traits.get(name, self.low).cloned()),
            Operand::Time => Ok(Some(Value::Timestamp(self.times[event]))),
            Operand::EventName => Ok(Some(Value::Text(self.name(event)?.into_owned()))),
            Operand::Computed(_) => Ok(self.of.computed[operand][self.first + event].clone()),
        }
    }

    /// The operand's value as text: of a multi-valued one the smallest.
    pub(super) fn text(&self, operand: usize, event: usize) -> Result<Option<String>, Corruption> {
        Ok(smallest_text(self.value(operand, event)?))
    }

    /// The number of that text, `None` where there is no value. A fold asks for an operand with one
    /// interner in each of its sums.
    pub(super) fn text_number(
        &self,
        operand: usize,
        event: usize,
        texts: &mut Interner,
    ) -> Result<Option<u32>, Corruption> {
        let at = self.rows[event];
        match self.of.operands[operand] {
            Operand::Property(_) => {
                self.of.readers.borrow_mut()[operand].number(self.of.scan, at, texts)
            }
            Operand::EventName if !self.of.scan.runs[at.run as usize].run.is_overflow() => {
                let mut names = self.of.names.borrow_mut();
                let known = &mut names[at.run as usize];
                if known.is_none() {
                    *known = Some(texts.number(&self.name(event)?));
                }
                Ok(*known)
            }
            _ => Ok(self.text(operand, event)?.map(|text| texts.number(&text))),
        }
    }

    /// The numbers that the operand's value holds, added up; `None` where it holds none.
    pub(super) fn number(&self, operand: usize, event: usize) -> Result<Option<f64>, Corruption> {
        match self.of.operands[operand] {
            Operand::Property(_) => {
                let mut readers = self.of.readers.borrow_mut();
                readers[operand].float(self.of.scan, self.rows[event])
            }
            _ => Ok(float_in(self.value(operand, event)?)),
        }
    }

    /// Fails where the query must stop: for folds that look at one user's events again and again.
    pub(super) fn check(&self) -> Result<(), QueryError> {
        self.of.control.check()
    }

    /// The event's name.
    pub(super) fn name(&self, event: usize) -> Result<Cow<'_, str>, Corruption> {
        self.of.scan.event_name(self.rows[event])
    }
}

/// A question made ready for a snapshot.
struct Prepared<'a, 'q> {
    scan: Scan<'a>,
    reads: &'q Reads<'q>,
    users: Option<PreparedUsers<'a>>,
    traits: BTreeSet<String>,
}

impl Executor {
    /// Runs a fold over all users; gives the sums of the threads.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub(super) fn each_user<F: Fold>(
        &self,
        reads: &Reads<'_>,
        fold: &F,
    ) -> Result<(Vec<F::Sum>, Notices), QueryError> {
        self.each_user_under(&Control::start(self.options()), reads, fold)
    }

    /// The same, where it is a part of a query: sums may then hold reservations of their own.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub(super) fn each_user_under<F: Fold>(
        &self,
        control: &Control,
        reads: &Reads<'_>,
        fold: &F,
    ) -> Result<(Vec<F::Sum>, Notices), QueryError> {
        let begin = || (control.reservation(), fold.begin());
        let (states, notices) =
            self.each_morsel(control, reads, begin, |scan, of, worker, (memory, sum)| {
                fold_users((scan, &reads.operands), of, fold, worker, sum)?;
                memory.at_least(fold.byte_len(sum))
            })?;
        let sums = states.into_iter().map(|(_, sum)| sum);
        Ok((sums.collect(), notices))
    }

    /// Does `work` for every morsel with users who may have an event that satisfies any condition: it is given the
    /// scan, the morsel with those users and their traits, and the state of the thread.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub(super) fn each_morsel<'c, S: Send>(
        &self,
        control: &'c Control,
        reads: &Reads<'_>,
        begin: impl Fn() -> S + Sync,
        work: impl Fn(
            &Scan<'_>,
            (&Morsel, &Words, &TraitTable),
            &mut Worker<'c>,
            &mut S,
        ) -> Result<(), QueryError>
        + Sync,
    ) -> Result<(Vec<S>, Notices), QueryError> {
        let prepared = Prepared::new(self, reads)?;
        let mut rows = BTreeMap::new();
        prepared.scan.count_rows(&mut rows, true)?;
        rows.retain(|key, _| self.containers.contains(key));
        let morsels = morsel::cut(&rows, self.options().morsel_rows);
        let begin = || (Worker::new(control), begin());
        let states = morsel::run(
            &morsels,
            self.threads(),
            control,
            begin,
            |(worker, state), morsel| {
                worker.reserve()?;
                let users = prepared.candidates(morsel, worker)?;
                if users.is_empty() {
                    return Ok(());
                }
                let (snapshot, wanted) = (self.snapshot(), &prepared.traits);
                let traits = TraitTable::read(snapshot, wanted, morsel, self.as_of())?;
                work(&prepared.scan, (morsel, &users, &traits), worker, state)
            },
        )?;
        let mut skipped = Skipped::default();
        let states = states.into_iter().map(|(worker, state)| {
            skipped.merge(&worker.skipped);
            state
        });
        let states = states.collect();
        Ok((states, Notices { skipped }))
    }
}

impl Executor {
    /// The users whose events `keep` accepts; `begin` makes the working memory of a thread.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub(super) fn users_who<S: Send>(
        &self,
        reads: &Reads<'_>,
        begin: impl Fn() -> S + Sync,
        keep: impl Fn(&UserHistory<'_>, &mut S) -> bool + Sync,
    ) -> Result<UserSet, QueryError> {
        let (sums, notices) = self.each_user(reads, &Chosen { begin, keep })?;
        let ordinals = sums.into_iter().flat_map(|(_, chosen)| chosen);
        Ok(self.user_set(ordinals.collect(), notices))
    }
}

impl<'a, 'q> Prepared<'a, 'q> {
    fn new(executor: &'a Executor, reads: &'q Reads<'q>) -> Result<Self, QueryError> {
        let snapshot = executor.snapshot();
        let scan = Scan::prepare(snapshot, &reads.conditions, reads.range, false);
        let mut traits = scan.traits.clone();
        for operand in &reads.operands {
            traits.extend(OperandReads::of(operand).traits);
        }
        let users = reads
            .users
            .map(|users| PreparedUsers::new(snapshot, users, executor.as_of()));
        Ok(Self {
            scan,
            reads,
            users: users.transpose()?,
            traits,
        })
    }

    /// The users who may have an event that satisfies any condition, and the one that all must have.
    fn candidates(&self, morsel: &Morsel, worker: &mut Worker<'_>) -> Result<Words, QueryError> {
        let mut users = Words::new();
        for run in &self.scan.runs {
            let never = |condition: &Condition| {
                matches!(
                    condition,
                    Condition::Constant(Truth::False | Truth::Unknown)
                )
            };
            let asked = match self.reads.only_with {
                Some(number) => &run.conditions[number..=number],
                None => &run.conditions[..],
            };
            if !asked.iter().all(never) {
                run.run.users()?.or_into(morsel.key, &mut users);
            }
        }
        users.restrict(morsel.lows.clone());
        if let Some(wanted) = &self.users {
            users.and(&wanted.users(morsel, worker)?);
        }
        Ok(users)
    }
}

/// Hands a morsel's users to a fold.
fn fold_users<F: Fold>(
    (scan, operands): (&Scan<'_>, &[&Operand]),
    (morsel, users, traits): (&Morsel, &Words, &TraitTable),
    fold: &F,
    worker: &mut Worker<'_>,
    sum: &mut F::Sum,
) -> Result<(), QueryError> {
    let asked = Asked {
        steps: MOST_CONDITIONS,
        every_row: false,
    };
    let Worker {
        gather,
        skipped,
        control,
        ..
    } = worker;
    let of = Gathering {
        scan,
        morsel,
        wanted: users,
        traits,
        asked,
    };
    gather.fill(of, skipped)?;
    let mut memory = control.reservation();
    let mut computed = Vec::with_capacity(operands.len());
    for operand in operands {
        computed.push(match operand {
            Operand::Computed(one) => {
                let from = (scan, &*gather, traits);
                let found = of_gathered(one, from, control, &mut memory)?;
                skipped.add(operand, found.failed);
                found.values
            }
            _ => Vec::new(),
        });
    }
    let readers = operands.iter().map(|operand| match operand {
        Operand::Property(name) => ValueReader::new(name),
        _ => ValueReader::new(""),
    });
    let values = MorselValues {
        scan,
        operands,
        traits,
        control,
        readers: RefCell::new(readers.collect()),
        names: RefCell::new(vec![None; scan.runs.len()]),
        computed: &computed,
    };
    for index in 0..gather.users() {
        if index % USERS_BETWEEN_CHECKS == 0 {
            control.check()?;
        }
        let own = gather.events(index);
        let (low, first) = (gather.lows[index], own.start);
        let history = UserHistory {
            ordinal: u32::from(morsel.key) << 16 | u32::from(low),
            times: &gather.times[own.clone()],
            masks: &gather.masks[own.clone()],
            rows: &gather.rows[own],
            first,
            low,
            of: &values,
        };
        fold.user(&history, sum)?;
    }
    Ok(())
}

/// Conditions of a question: each is a bit of a mask.
const MOST_CONDITIONS: usize = u64::BITS as usize;

/// Users between two looks at whether to stop.
const USERS_BETWEEN_CHECKS: usize = 1 << 8;
