//! Retention: each user's cohorts and the periods of coming back, added up.

use std::collections::BTreeMap;

use crate::behaviour::{Retention, RetentionResult, RetentionRow, ReturnMode, TimeRange, any};

use super::control::{Control, QueryError};
use super::each_user::{Fold, Reads, UserHistory};
use super::periods::{ENTRY_BYTES, Periods};
use super::{Executor, UserSet};

mod by_bitmaps;

/// Places of the conditions in [`Reads`].
const START: usize = 0;
const RETURNS: usize = 1;

/// Periods after a cohort's own that are counted in an array. Later ones are rare: eleven years of
/// days, but five months of hours.
const NEAR: u64 = 4_096;

/// One user's cohorts, and working memory for them.
struct Own<'q> {
    retention: &'q Retention,
    periods: Periods<'q>,
    /// The number of each cohort's period, and the user's first start event in it.
    cohorts: Vec<(i64, usize)>,
    /// Returning events: of each period the last, with the period's number.
    returns: Vec<(i64, usize)>,
    /// The periods after a cohort's in which the user came back, ascending.
    back: Vec<u64>,
}

impl<'q> Own<'q> {
    fn new(retention: &'q Retention) -> Self {
        Self {
            retention,
            periods: Periods::new(&retention.zone, retention.period),
            cohorts: Vec::new(),
            returns: Vec::new(),
            back: Vec::new(),
        }
    }

    /// Finds the user's cohorts and returns.
    fn read(&mut self, user: &UserHistory<'_>) {
        self.cohorts.clear();
        self.returns.clear();
        for event in 0..user.len() {
            let starts = user.satisfies(event, START)
                && (self.retention.recurring || self.cohorts.is_empty());
            // What comes back before any start comes back to nothing.
            let returns = user.satisfies(event, RETURNS) && !self.cohorts.is_empty();
            if !starts && !returns {
                continue;
            }
            let period = self.periods.number(user.times[event]);
            if starts && self.cohorts.last().is_none_or(|last| last.0 != period) {
                self.cohorts.push((period, event));
            }
            if returns {
                match self.returns.last_mut() {
                    Some(last) if last.0 == period && !self.retention.rolling => last.1 = event,
                    _ => self.returns.push((period, event)),
                }
            }
        }
    }

    /// Calls `each` with the number of each cohort's period and the periods of coming back.
    fn each_cohort(&mut self, user: &UserHistory<'_>, mut each: impl FnMut(i64, &[u64])) {
        self.read(user);
        for &(cohort, start) in &self.cohorts {
            let later = self.returns.partition_point(|&(_, event)| event <= start);
            self.back.clear();
            for &(period, event) in &self.returns[later..] {
                let k = match self.retention.rolling {
                    true => self.periods.elapsed(user.times[start], user.times[event]),
                    false => period - cohort,
                };
                let k = k.unsigned_abs();
                if self.back.last() != Some(&k) {
                    self.back.push(k);
                }
            }
            each(cohort, &self.back);
        }
    }
}

/// One cohort's users.
#[derive(Clone, Debug, Default)]
struct Cohort {
    size: u64,
    /// Users by the period in which they came back; of coming back on or after a period, by the
    /// last one.
    near: Vec<u64>,
    /// The same for periods from [`NEAR`] on.
    far: BTreeMap<u64, u64>,
}

impl Cohort {
    /// Counts users; gives the bytes that this takes more.
    fn add(&mut self, k: u64, users: u64) -> usize {
        if k >= NEAR {
            let before = self.far.len();
            *self.far.entry(k).or_default() += users;
            return (self.far.len() - before) * ENTRY_BYTES;
        }
        let before = self.near.capacity();
        if self.near.len() <= k as usize {
            self.near.resize(k as usize + 1, 0);
        }
        self.near[k as usize] += users;
        (self.near.capacity() - before) * size_of::<u64>()
    }

    fn at(&self, k: u64) -> u64 {
        let users = match k < NEAR {
            true => self.near.get(k as usize),
            false => self.far.get(&k),
        };
        users.copied().unwrap_or(0)
    }

    fn total(&self) -> u64 {
        self.near.iter().chain(self.far.values()).sum()
    }
}

/// The cohorts of many users, by the numbers of their periods.
#[derive(Debug, Default)]
struct Cohorts {
    cohorts: BTreeMap<i64, Cohort>,
    /// The time of the last event that satisfies either condition.
    last: Option<i64>,
    bytes: usize,
}

impl Cohorts {
    /// The cohorts of several threads.
    fn merged(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut whole = Self::default();
        parts.into_iter().for_each(|part| whole.merge(part));
        whole
    }

    fn cohort(&mut self, number: i64) -> (&mut Cohort, &mut usize) {
        let bytes = &mut self.bytes;
        let cohort = self.cohorts.entry(number).or_insert_with(|| {
            *bytes += size_of::<Cohort>() + ENTRY_BYTES;
            Cohort::default()
        });
        (cohort, bytes)
    }

    fn merge(&mut self, other: Self) {
        for (number, cohort) in other.cohorts {
            let whole = self.cohorts.entry(number).or_default();
            whole.size += cohort.size;
            for (k, users) in cohort.near.into_iter().enumerate() {
                if users > 0 {
                    whole.add(k as u64, users);
                }
            }
            for (k, users) in cohort.far {
                whole.add(k, users);
            }
        }
        self.last = self.last.max(other.last);
    }
}

/// Adds up cohorts.
struct Table<'q>(&'q Retention);

impl<'q> Fold for Table<'q> {
    type Sum = (Own<'q>, Cohorts);

    fn begin(&self) -> Self::Sum {
        (Own::new(self.0), Cohorts::default())
    }

    fn user(&self, user: &UserHistory<'_>, sum: &mut Self::Sum) -> Result<(), QueryError> {
        let (own, cohorts) = sum;
        cohorts.last = cohorts.last.max(user.times.last().copied());
        own.each_cohort(user, |cohort, back| {
            let (cohort, bytes) = cohorts.cohort(cohort);
            cohort.size += 1;
            let counted = match self.0.mode {
                ReturnMode::On => back,
                ReturnMode::OnOrAfter => &back[back.len().saturating_sub(1)..],
            };
            for &k in counted {
                *bytes += cohort.add(k, 1);
            }
        });
        Ok(())
    }

    fn byte_len(&self, (_, cohorts): &Self::Sum) -> usize {
        cohorts.bytes
    }
}

/// The time of the last event.
struct LastTime;

impl Fold for LastTime {
    type Sum = Option<i64>;

    fn begin(&self) -> Self::Sum {
        None
    }

    fn user(&self, user: &UserHistory<'_>, sum: &mut Self::Sum) -> Result<(), QueryError> {
        *sum = (*sum).max(user.times.last().copied());
        Ok(())
    }

    fn byte_len(&self, _: &Self::Sum) -> usize {
        0
    }
}

impl Executor {
    /// The table of a retention question.
    ///
    /// Where both conditions name events only, days are those of UTC and nothing rolls, bitmaps of
    /// days answer, and only the events of users who may have come back on the very day of their
    /// start are read. Otherwise the events that satisfy either condition are read once; without
    /// `periods` also those that are later than the period of the last of them.
    ///
    /// ```
    /// use pugmark_engine::{BatchBuilder, Store};
    /// use pugmark_query::{Executor, Retention, any};
    /// # let directory = tempfile::tempdir()?;
    /// const DAY: i64 = 86_400_000_000;
    /// let store = Store::builder(directory.path()).open()?;
    /// let mut batch = BatchBuilder::new();
    /// batch.event("ann", 0, "sign up");
    /// batch.event("bob", 1, "sign up");
    /// batch.event("bob", DAY, "visit");
    /// store.append(batch.finish()?)?;
    /// let executor = Executor::new(store.snapshot()?);
    /// let daily = Retention::new("sign up", any());
    /// let rows = executor.retention(&daily)?.rows;
    /// assert_eq!((rows[1].k, rows[1].size, rows[1].users), (1, 2, 1));
    /// let back = executor.retention_users(&daily, rows[1].cohort, rows[1].k)?;
    /// assert_eq!(back.ids()?, ["bob"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn retention(&self, retention: &Retention) -> Result<RetentionResult, QueryError> {
        retention.validate()?;
        let by_bitmaps = match retention.rolling {
            true => None,
            false => self.cohorts_by_bitmaps(retention)?,
        };
        let (cohorts, notices) = match by_bitmaps {
            Some(found) => found,
            None => {
                let reads = self.retention_reads(retention);
                let (sums, notices) = self.each_user(&reads, &Table(retention))?;
                let sums = sums.into_iter().map(|(_, sum)| sum);
                (Cohorts::merged(sums), notices)
            }
        };
        let rows = self.retention_rows(retention, &cohorts)?;
        Ok(RetentionResult { rows, notices })
    }

    /// The users behind a cell of the table: of the cohort in whose period the instant `cohort`
    /// lies, those who came back in (or, as asked, in or after) its period `k`.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn retention_users(
        &self,
        retention: &Retention,
        cohort: i64,
        k: u64,
    ) -> Result<UserSet, QueryError> {
        retention.validate_cell(k)?;
        self.cohort_users(retention, cohort, |back| match retention.mode {
            ReturnMode::On => back.contains(&k),
            ReturnMode::OnOrAfter => back.last().is_some_and(|last| *last >= k),
        })
    }

    /// The users of the cohort in whose period the instant `cohort` lies, whether they came back
    /// or not.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn retention_cohort(
        &self,
        retention: &Retention,
        cohort: i64,
    ) -> Result<UserSet, QueryError> {
        retention.validate()?;
        self.cohort_users(retention, cohort, |_| true)
    }

    /// The users of a cohort whose periods of coming back `keep` accepts.
    fn cohort_users(
        &self,
        retention: &Retention,
        cohort: i64,
        keep: impl Fn(&[u64]) -> bool + Sync,
    ) -> Result<UserSet, QueryError> {
        let wanted = retention.zone.number(retention.period, cohort);
        let reads = self.retention_reads(retention);
        self.users_who(
            &reads,
            || Own::new(retention),
            |user, own| {
                let mut kept = false;
                own.each_cohort(user, |cohort, back| {
                    kept |= cohort == wanted && keep(back);
                });
                kept
            },
        )
    }

    fn retention_reads<'q>(&self, retention: &'q Retention) -> Reads<'q> {
        Reads {
            conditions: vec![&retention.start, &retention.returns],
            range: retention.range.resolve(self.as_of()),
            only_with: None,
            users: retention.users.as_ref(),
            operands: Vec::new(),
        }
    }

    fn retention_rows(
        &self,
        retention: &Retention,
        found: &Cohorts,
    ) -> Result<Vec<RetentionRow>, QueryError> {
        let Retention { zone, period, .. } = retention;
        let last = match (retention.periods, found.last) {
            (None, Some(last)) if !found.cohorts.is_empty() => self.last_period(retention, last)?,
            _ => 0,
        };
        let most = |cohort: i64| {
            retention
                .periods
                .unwrap_or((last - cohort).max(0).unsigned_abs())
        };
        let count = found.cohorts.keys().fold(0, |count: u64, &cohort| {
            count.saturating_add(most(cohort) + 1)
        });
        let control = Control::start(self.options());
        let mut memory = control.reservation();
        let bytes = count.saturating_mul(size_of::<RetentionRow>() as u64);
        memory.grow(usize::try_from(bytes).unwrap_or(usize::MAX))?;
        // The users of a period start until its end, so that their own period k ends with k + 1.
        let first_open = zone.number(*period, self.as_of()) - i64::from(retention.rolling);
        let mut rows = Vec::with_capacity(count as usize);
        for (&number, cohort) in &found.cohorts {
            let start = zone.numbered(*period, number).start;
            let mut left = cohort.total();
            for k in 0..=most(number) {
                let at = cohort.at(k);
                let users = match retention.mode {
                    ReturnMode::On => at,
                    ReturnMode::OnOrAfter => left,
                };
                left -= at;
                rows.push(RetentionRow {
                    cohort: start,
                    size: cohort.size,
                    k,
                    users,
                    rate: users as f64 / cohort.size as f64,
                    incomplete: number.saturating_add_unsigned(k) >= first_open,
                });
            }
        }
        Ok(rows)
    }

    /// The number of the period of the last event in range, whatever it satisfies; one that
    /// satisfies a condition is at `known`.
    fn last_period(&self, retention: &Retention, known: i64) -> Result<i64, QueryError> {
        let Retention { zone, period, .. } = retention;
        let number = zone.number(*period, known);
        let range = TimeRange {
            first: zone.numbered(*period, number).end,
            last: retention.range.resolve(self.as_of()).last,
        };
        if range.is_empty() {
            return Ok(number);
        }
        let everything = any();
        let reads = Reads {
            conditions: vec![&everything],
            range,
            only_with: None,
            users: retention.users.as_ref(),
            operands: Vec::new(),
        };
        let (sums, _) = self.each_user(&reads, &LastTime)?;
        let last = sums.into_iter().flatten().max();
        Ok(last.map_or(number, |last| zone.number(*period, last)))
    }
}
