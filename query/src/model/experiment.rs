//! Experiments, user by user, then variant by variant.

use std::collections::BTreeSet;

use super::{ModelStore, holds, number, text};
use crate::behaviour::{
    Experiment, ExperimentResult, ExperimentRow, ExperimentUser, ExperimentUsersResult, Notices,
    Variant,
};
use crate::error::Invalid;
use crate::statistics::{Sample, two_proportions, welch, wilson};
use crate::sum::ExactSum;

/// What the judge knows of one exposed user.
struct Exposed {
    user: u32,
    variant: Variant,
    /// True while the window is open.
    pending: bool,
    converted: bool,
    /// The values of the goals, added up.
    value: f64,
}

impl ModelStore {
    /// The table of `experiment`, with `as_of` as the present.
    ///
    /// # Errors
    /// As [`Experiment::validate`].
    pub fn experiment(
        &self,
        experiment: &Experiment,
        as_of: i64,
    ) -> Result<ExperimentResult, Invalid> {
        experiment.validate()?;
        let exposed = self.exposed(experiment, as_of)?;
        let variants: BTreeSet<&Variant> = exposed.iter().map(|user| &user.variant).collect();
        let control = experiment.control.clone().map(Variant::Value);
        let row = |variant: &Variant| {
            let against = control
                .as_ref()
                .filter(|control| *control != variant && variants.contains(control));
            row(experiment, &exposed, variant, against)
        };
        Ok(ExperimentResult {
            rows: variants.iter().map(|variant| row(variant)).collect(),
            notices: Notices::default(),
        })
    }

    /// The users of `experiment`.
    ///
    /// # Errors
    /// As [`Experiment::validate`].
    pub fn experiment_users(
        &self,
        experiment: &Experiment,
        as_of: i64,
    ) -> Result<ExperimentUsersResult, Invalid> {
        experiment.validate()?;
        let users = self.exposed(experiment, as_of)?.into_iter();
        let rows = users.map(|user| ExperimentUser {
            converted: (!user.pending && user.variant != Variant::Several)
                .then_some(user.converted),
            variant: user.variant,
            user: user.user,
        });
        let rows: BTreeSet<ExperimentUser> = rows.collect();
        Ok(ExperimentUsersResult {
            rows: rows.into_iter().collect(),
            notices: Notices::default(),
        })
    }

    fn exposed(&self, experiment: &Experiment, as_of: i64) -> Result<Vec<Exposed>, Invalid> {
        let range = experiment.range.resolve(as_of);
        let mut exposed = Vec::new();
        for user in self.population(experiment.users.as_ref(), as_of)? {
            let traits = self.traits(user, as_of);
            let history = self.history(user, as_of);
            let exposures: Vec<usize> = (0..history.len())
                .filter(|&at| {
                    range.contains(history[at].time)
                        && holds(&experiment.exposure, history[at], &traits)
                })
                .collect();
            let Some(&first) = exposures.first() else {
                continue;
            };
            let variants: BTreeSet<Option<String>> = exposures
                .iter()
                .map(|&at| text(&experiment.variant, history[at], &traits))
                .collect();
            let variant = match variants.into_iter().collect::<Vec<_>>().as_slice() {
                [Some(variant)] => Variant::Value(variant.clone()),
                [None] => Variant::None,
                _ => Variant::Several,
            };
            let start = i128::from(history[first].time);
            let end = experiment
                .within
                .map(|within| start + i128::from(within.micros));
            let goals = history[first + 1..].iter().filter(|event| {
                end.is_none_or(|end| i128::from(event.time) <= end)
                    && holds(&experiment.goal, event, &traits)
            });
            let values = goals.clone().map(|event| {
                let value = experiment.value.as_ref();
                value.and_then(|value| number(value, event, &traits))
            });
            exposed.push(Exposed {
                user,
                variant,
                pending: end.is_some_and(|end| i128::from(as_of) < end),
                converted: goals.clone().next().is_some(),
                value: values.fold(0.0, |sum, value| sum + value.unwrap_or(0.0)),
            });
        }
        Ok(exposed)
    }
}

/// The row of one variant. `control` has users.
fn row(
    experiment: &Experiment,
    exposed: &[Exposed],
    variant: &Variant,
    control: Option<&Variant>,
) -> ExperimentRow {
    let of = |variant: &Variant| {
        let users = exposed.iter().filter(|user| user.variant == *variant);
        users.collect::<Vec<_>>()
    };
    let users = of(variant);
    if *variant == Variant::Several {
        return ExperimentRow {
            variant: Variant::Several,
            users: users.len() as u64,
            pending: 0,
            converted: 0,
            rate: None,
            rate_low: None,
            rate_high: None,
            lift: None,
            p_value: None,
            value_sum: None,
            value_mean: None,
            value_p: None,
        };
    }
    let converted_of = |variant: &Variant| {
        let mature = of(variant).into_iter().filter(|user| !user.pending);
        let converted = mature.clone().filter(|user| user.converted);
        (converted.count() as u64, mature.count() as u64)
    };
    let values_of = |variant: &Variant| {
        let mature = of(variant).into_iter().filter(|user| !user.pending);
        mature.map(|user| user.value).collect::<Vec<f64>>()
    };
    let rate = |(hits, trials): (u64, u64)| (trials > 0).then(|| hits as f64 / trials as f64);
    let own = converted_of(variant);
    let interval = wilson(own.0, own.1);
    let sum = experiment.value.as_ref().map(|_| {
        let mut sum = ExactSum::default();
        sum.extend(values_of(variant));
        sum.value()
    });
    let lift = |control: &Variant| match (rate(own), rate(converted_of(control))) {
        (Some(own), Some(base)) if base > 0.0 => Some(own / base - 1.0),
        _ => None,
    };
    let value_p = |control: &Variant| {
        let sample = |variant| Sample::new(&values_of(variant), 0);
        experiment.value.as_ref()?;
        welch(&sample(variant), &sample(control))
    };
    ExperimentRow {
        variant: variant.clone(),
        users: users.len() as u64,
        pending: users.iter().filter(|user| user.pending).count() as u64,
        converted: own.0,
        rate: rate(own),
        rate_low: interval.map(|(low, _)| low),
        rate_high: interval.map(|(_, high)| high),
        lift: control.and_then(lift),
        p_value: control.and_then(|control| two_proportions(own, converted_of(control))),
        value_sum: sum,
        value_mean: sum.filter(|_| own.1 > 0).map(|sum| sum / own.1 as f64),
        value_p: control.and_then(value_p),
    }
}
