//! Experiments: whether one variant converts better than another.

use super::condition::{Condition, Operand};
use super::range::{Span, TimeRange, TimeSpec};
use super::result::Notices;
use super::segment::Segment;
use crate::error::Invalid;

/// What users of different variants do.
///
/// ```
/// use pugmark_query::{Experiment, days, event, property};
/// let experiment = Experiment::new(event("exposed"), property("variant"), event("purchase"))
///     .within(days(7))
///     .value(property("price"))
///     .control("old checkout");
/// experiment.validate()?;
/// # Ok::<(), pugmark_query::Invalid>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Experiment {
    /// Which events expose a user; the first in the range counts.
    pub exposure: Condition,
    /// What tells to which variant: an operand of the exposure.
    pub variant: Operand,
    /// Which later events are a success.
    pub goal: Condition,
    /// How long after the exposure a goal counts; until the question's present where not given.
    pub within: Option<Span>,
    /// What a goal is worth: an operand of the goal.
    pub value: Option<Operand>,
    /// The variant that the others are compared with.
    pub control: Option<String>,
    /// Which users.
    pub users: Option<Segment>,
    /// Over which range exposures are looked for. Goals may follow it.
    pub range: TimeSpec,
}

/// What a user was exposed to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Variant {
    /// This variant, by its canonical text; of a multi-valued one the smallest element.
    Value(String),
    /// Exposures that tell no variant.
    None,
    /// Different variants: such users tell nothing about any.
    Several,
}

/// A variant of an experiment. *Mature* users are those whose window has elapsed; all figures but
/// `users` and `pending` are of them.
#[derive(Clone, Debug, PartialEq)]
pub struct ExperimentRow {
    /// The variant.
    pub variant: Variant,
    /// Users exposed to it and to no other in the range; in the row [`Variant::Several`] those
    /// exposed to several, of whom nothing else is counted.
    pub users: u64,
    /// Of these, those whose window has not elapsed.
    pub pending: u64,
    /// Mature users who reached the goal.
    pub converted: u64,
    /// These over mature users; `None` over zero.
    pub rate: Option<f64>,
    /// Lower end of the rate's 95 % interval, by Wilson's score.
    pub rate_low: Option<f64>,
    /// Upper end of the interval.
    pub rate_high: Option<f64>,
    /// The rate over the control's, less 1; `None` without a control, for the control itself, and
    /// over zero.
    pub lift: Option<f64>,
    /// How likely rates that differ so much are where the variants do not: two-sided, by the
    /// z-test of two proportions with a pooled variance. `None` without a control, for the control
    /// itself, with no mature users on a side, and where nobody or everybody converted.
    pub p_value: Option<f64>,
    /// The values of mature users' goals, added up; `None` where no value was asked for.
    pub value_sum: Option<f64>,
    /// This over mature users, converted or not; `None` over zero.
    pub value_mean: Option<f64>,
    /// How likely means that differ so much are where the variants do not: two-sided, by Welch's
    /// t-test of value per user, 0 for those not converted. `None` without a control, for the
    /// control itself, with fewer than two users on a side, and where nothing varies.
    pub value_p: Option<f64>,
}

/// An experiment's table, by variant, then [`Variant::None`], then [`Variant::Several`]; variants
/// that nobody was exposed to have no row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExperimentResult {
    /// The rows.
    pub rows: Vec<ExperimentRow>,
    /// Remarks.
    pub notices: Notices,
}

/// A user of an experiment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExperimentUser {
    /// What the user was exposed to.
    pub variant: Variant,
    /// The user's ordinal.
    pub user: u32,
    /// Whether the user reached the goal; `None` while the window has not elapsed, and for those
    /// exposed to several variants.
    pub converted: Option<bool>,
}

/// The users of an experiment, by variant, then by user: of each row exactly its `users`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExperimentUsersResult {
    /// The rows.
    pub rows: Vec<ExperimentUser>,
    /// Remarks.
    pub notices: Notices,
}

impl Variant {
    /// What it is called in a result: the variant, `(none)` or `(several)`.
    pub fn label(&self) -> &str {
        match self {
            Self::Value(value) => value,
            Self::None => "(none)",
            Self::Several => "(several)",
        }
    }
}

impl Experiment {
    /// Compares, by an operand of the first `exposure`, how many users reach `goal` after it.
    pub fn new(
        exposure: impl Into<Condition>,
        variant: Operand,
        goal: impl Into<Condition>,
    ) -> Self {
        Self {
            exposure: exposure.into(),
            variant,
            goal: goal.into(),
            within: None,
            value: None,
            control: None,
            users: None,
            range: TimeSpec::default(),
        }
    }

    /// How long after the exposure a goal counts. Users exposed later than that before the
    /// question's present are pending.
    pub fn within(mut self, span: Span) -> Self {
        self.within = Some(span);
        self
    }

    /// What a goal is worth: the numbers that an operand of it holds.
    pub fn value(mut self, operand: Operand) -> Self {
        self.value = Some(operand);
        self
    }

    /// The variant that the others are compared with.
    pub fn control(mut self, variant: &str) -> Self {
        self.control = Some(variant.to_owned());
        self
    }

    /// Only these users.
    pub fn users(mut self, segment: impl Into<Segment>) -> Self {
        self.users = Some(segment.into());
        self
    }

    /// Exposures at `micros` and later.
    pub fn since(mut self, micros: i64) -> Self {
        self.range.since = Some(micros);
        self
    }

    /// Exposures before `micros`.
    pub fn until(mut self, micros: i64) -> Self {
        self.range.until = Some(micros);
        self
    }

    /// Exposures in `(as_of - span, as_of]`.
    pub fn last(mut self, span: Span) -> Self {
        self.range.last = Some(span);
        self
    }

    /// Refuses options that contradict each other or mean nothing.
    ///
    /// # Errors
    /// Names the option and why.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.exposure.validate()?;
        self.goal.validate()?;
        if self.within.is_some_and(|span| span.micros < 0) {
            return Err(Invalid::new("within", "must not be negative"));
        }
        self.range.validate()?;
        self.users.as_ref().map_or(Ok(()), Segment::validate)
    }

    /// The range that exposures lie in and, of these and their goals, the one to be read.
    pub(crate) fn ranges(&self, as_of: i64) -> (TimeRange, TimeRange) {
        let range = self.range.resolve(as_of);
        let latest = match self.within {
            Some(within) => range.last.saturating_add(within.micros).min(as_of),
            None => as_of,
        };
        let read = TimeRange {
            first: range.first,
            last: latest,
        };
        (range, read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::behaviour::{days, did, property, seconds};

    fn experiment() -> Experiment {
        Experiment::new("exposed", property("variant"), "buy")
    }

    fn option(experiment: Experiment) -> &'static str {
        experiment.validate().unwrap_err().option
    }

    #[test]
    fn what_is_refused_is_named() {
        experiment().within(seconds(0)).validate().unwrap();
        assert_eq!(option(experiment().within(seconds(-1))), "within");
        assert_eq!(option(experiment().since(5).until(5)), "until");
        assert_eq!(option(experiment().last(days(0))), "last");
        let nobody = did("exposed").at_least(0);
        assert_eq!(option(experiment().users(nobody)), "at_least");
    }
}
