//! Experiments: each user's first exposure and the goals after it, compared by variant.

use std::collections::BTreeMap;

use crate::behaviour::{
    Experiment, ExperimentResult, ExperimentRow, ExperimentUser, ExperimentUsersResult, Notices,
    TimeRange, Variant,
};
use crate::statistics::{Sample, two_proportions, welch, wilson};
use crate::sum::ExactSum;

use super::Executor;
use super::control::QueryError;
use super::each_user::{Fold, Reads, UserHistory};

/// Numbers of the conditions that are read.
const EXPOSURE: usize = 0;
const GOAL: usize = 1;
/// Numbers of the operands that are read.
const VARIANT: usize = 0;
const VALUE: usize = 1;

impl Executor {
    /// The table of an experiment.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn experiment(&self, experiment: &Experiment) -> Result<ExperimentResult, QueryError> {
        let (groups, notices) = self.exposed(experiment, false)?;
        let control = experiment.control.clone().map(Variant::Value);
        let control = control.and_then(|variant| Some((groups.get(&variant)?, variant)));
        let control = control.map(|(group, variant)| (group.figures(experiment), variant));
        let row = |(variant, group): (&Variant, &Group)| {
            let figures = group.figures(experiment);
            let against = control.as_ref().filter(|(_, control)| control != variant);
            figures.row(variant, group, against.map(|(control, _)| control))
        };
        Ok(ExperimentResult {
            rows: groups.iter().map(row).collect(),
            notices,
        })
    }

    /// The users of an experiment.
    ///
    /// Holds all rows at once; the memory budget says how many that can be.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn experiment_users(
        &self,
        experiment: &Experiment,
    ) -> Result<ExperimentUsersResult, QueryError> {
        let (groups, notices) = self.exposed(experiment, true)?;
        let mut rows = Vec::new();
        for (variant, mut group) in groups {
            group.listed.sort_unstable();
            let users = group.listed.into_iter();
            rows.extend(users.map(|(user, converted)| ExperimentUser {
                variant: variant.clone(),
                user,
                converted,
            }));
        }
        Ok(ExperimentUsersResult { rows, notices })
    }

    /// What the users of each variant did.
    fn exposed(
        &self,
        experiment: &Experiment,
        list: bool,
    ) -> Result<(BTreeMap<Variant, Group>, Notices), QueryError> {
        experiment.validate()?;
        let (range, read) = experiment.ranges(self.as_of());
        let mut operands = vec![&experiment.variant];
        operands.extend(&experiment.value);
        let reads = Reads {
            conditions: vec![&experiment.exposure, &experiment.goal],
            range: read,
            only_with: None,
            users: experiment.users.as_ref(),
            operands,
        };
        let exposed = Exposed {
            experiment,
            range,
            as_of: self.as_of(),
            list,
        };
        let (sums, notices) = self.each_user(&reads, &exposed)?;
        let mut merged: BTreeMap<Variant, Group> = BTreeMap::new();
        for (variant, group) in sums.into_iter().flat_map(|sum| sum.groups) {
            merged.entry(variant).or_default().merge(group);
        }
        Ok((merged, notices))
    }
}

/// Sorts users by what they were exposed to.
struct Exposed<'q> {
    experiment: &'q Experiment,
    /// Where exposures lie.
    range: TimeRange,
    as_of: i64,
    /// Whether users are listed.
    list: bool,
}

#[derive(Default)]
struct Groups {
    groups: BTreeMap<Variant, Group>,
    /// About how much memory they take.
    bytes: usize,
}

/// What the users of one variant did.
#[derive(Default)]
struct Group {
    users: u64,
    pending: u64,
    converted: u64,
    /// For each user converted, what the goals were worth; empty where no value was asked for.
    values: Vec<f64>,
    listed: Vec<(u32, Option<bool>)>,
}

/// What one user did.
struct Outcome {
    /// `None` while it is open, and for those exposed to several variants.
    converted: Option<bool>,
    pending: bool,
    value: f64,
}

impl Fold for Exposed<'_> {
    type Sum = Groups;

    fn begin(&self) -> Groups {
        Groups::default()
    }

    fn user(&self, user: &UserHistory<'_>, groups: &mut Groups) -> Result<(), QueryError> {
        let exposes = |&event: &usize| {
            user.satisfies(event, EXPOSURE) && self.range.contains(user.times[event])
        };
        let mut exposures = (0..user.len()).filter(exposes);
        let Some(first) = exposures.next() else {
            return Ok(());
        };
        let own = user.text(VARIANT, first)?;
        for other in exposures {
            if user.text(VARIANT, other)? != own {
                let outcome = Outcome {
                    converted: None,
                    pending: false,
                    value: 0.0,
                };
                self.count(user.ordinal, Variant::Several, &outcome, groups);
                return Ok(());
            }
        }
        let outcome = self.outcome(user, first)?;
        let variant = own.map_or(Variant::None, Variant::Value);
        self.count(user.ordinal, variant, &outcome, groups);
        Ok(())
    }

    fn byte_len(&self, groups: &Groups) -> usize {
        groups.bytes
    }
}

impl Exposed<'_> {
    /// What a user did after the exposure.
    fn outcome(&self, user: &UserHistory<'_>, exposure: usize) -> Result<Outcome, QueryError> {
        let start = user.times[exposure];
        let within = self.experiment.within.map(|within| within.micros);
        let pending = within.is_some_and(|within| self.as_of.saturating_sub(start) < within);
        let mut outcome = Outcome {
            converted: (!pending).then_some(false),
            pending,
            value: 0.0,
        };
        if pending {
            return Ok(outcome);
        }
        for event in exposure + 1..user.len() {
            let elapsed = user.times[event].saturating_sub(start);
            if within.is_some_and(|within| elapsed > within) {
                break;
            }
            if user.satisfies(event, GOAL) {
                outcome.converted = Some(true);
                if self.experiment.value.is_some() {
                    outcome.value += user.number(VALUE, event)?.unwrap_or(0.0);
                }
            }
        }
        Ok(outcome)
    }

    fn count(&self, user: u32, variant: Variant, outcome: &Outcome, groups: &mut Groups) {
        let new = size_of::<(Variant, Group)>() + variant.label().len();
        let bytes = &mut groups.bytes;
        let group = groups.groups.entry(variant).or_insert_with(|| {
            *bytes += new;
            Group::default()
        });
        group.users += 1;
        group.pending += u64::from(outcome.pending);
        if outcome.converted == Some(true) {
            group.converted += 1;
            if self.experiment.value.is_some() {
                group.values.push(outcome.value);
                *bytes += size_of::<f64>();
            }
        }
        if self.list {
            group.listed.push((user, outcome.converted));
            *bytes += size_of::<(u32, Option<bool>)>();
        }
    }
}

impl Group {
    fn merge(&mut self, other: Self) {
        self.users += other.users;
        self.pending += other.pending;
        self.converted += other.converted;
        self.values.extend(other.values);
        self.listed.extend(other.listed);
    }

    fn figures(&self, experiment: &Experiment) -> Figures {
        let mature = self.users - self.pending;
        Figures {
            mature,
            converted: self.converted,
            value: experiment.value.as_ref().map(|_| {
                let mut sum = ExactSum::default();
                sum.extend(self.values.iter().copied());
                (
                    sum.value(),
                    Sample::new(&self.values, mature - self.converted),
                )
            }),
        }
    }
}

/// What variants are compared by.
struct Figures {
    mature: u64,
    converted: u64,
    /// Sum and sample of the values per mature user.
    value: Option<(f64, Sample)>,
}

impl Figures {
    /// The row of a variant, compared with the control.
    fn row(&self, variant: &Variant, group: &Group, control: Option<&Self>) -> ExperimentRow {
        let mut row = ExperimentRow {
            variant: variant.clone(),
            users: group.users,
            pending: group.pending,
            converted: group.converted,
            rate: None,
            rate_low: None,
            rate_high: None,
            lift: None,
            p_value: None,
            value_sum: None,
            value_mean: None,
            value_p: None,
        };
        if *variant == Variant::Several {
            return row;
        }
        let interval = wilson(self.converted, self.mature);
        row.rate = self.rate();
        row.rate_low = interval.map(|(low, _)| low);
        row.rate_high = interval.map(|(_, high)| high);
        if let Some((sum, _)) = self.value {
            row.value_sum = Some(sum);
            row.value_mean = (self.mature > 0).then(|| sum / self.mature as f64);
        }
        if let Some(control) = control {
            let base = control.rate().filter(|rate| *rate > 0.0);
            row.lift = self.rate().zip(base).map(|(rate, base)| rate / base - 1.0);
            let hits = |of: &Self| (of.converted, of.mature);
            row.p_value = two_proportions(hits(self), hits(control));
            row.value_p = match (&self.value, &control.value) {
                (Some((_, own)), Some((_, other))) => welch(own, other),
                _ => None,
            };
        }
        row
    }

    fn rate(&self) -> Option<f64> {
        (self.mature > 0).then(|| self.converted as f64 / self.mature as f64)
    }
}
