//! Funnels: how far users come along a list of steps.
//!
//! ```
//! use pugmark_query::{Funnel, days, event, step};
//! let funnel = Funnel::new([
//!     step(event("view")),
//!     step(event("search")).optional(),
//!     step(event("purchase")).named("bought"),
//! ])
//! .within(days(1))
//! .holding("product");
//! funnel.validate()?;
//! # Ok::<(), pugmark_query::Invalid>(())
//! ```

use super::condition::{Condition, Operand};
use super::range::{Span, TimeSpec};
use super::segment::Segment;
use crate::error::Invalid;
use crate::zone::{CalendarUnit, Zone};

/// Most steps of a funnel: one bit for each in a word.
pub(crate) const MAX_STEPS: usize = 64;
/// Most bins of a histogram: more than any screen has pixels across.
const MAX_BINS: usize = 10_000;
/// Values of a breakdown that are told apart unless said otherwise.
pub(crate) const DEFAULT_TOP: usize = 1_000;

/// One step of a funnel.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Which events.
    pub condition: Condition,
    /// What its row is called; the event's name, or `step k`, where not given.
    pub name: Option<String>,
    /// True where it may be skipped.
    pub optional: bool,
}

/// How the events of a chain must follow each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FunnelMode {
    /// Step after step, with anything between.
    #[default]
    Ordered,
    /// Step after step, with no other event of the user between.
    Strict,
    /// Different steps in any order.
    AnyOrder,
}

/// Which chains count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Entries {
    /// Each user's best chain over every possible start.
    #[default]
    Best,
    /// Each user's best chain from the user's first possible start.
    First,
    /// All chains that do not overlap; counts are of chains, not of users.
    Every,
}

/// Which event of the reported chain a breakdown reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Attribute {
    /// Its first.
    #[default]
    First,
    /// Its last.
    Last,
}

/// A funnel.
#[derive(Clone, Debug, PartialEq)]
pub struct Funnel {
    /// The steps, 1 to 64.
    pub steps: Vec<Step>,
    /// The window: the longest time from the first event of a chain to its last.
    pub within: Option<Span>,
    /// How the events must follow each other.
    pub mode: FunnelMode,
    /// Events that void a chain.
    pub exclude: Option<Condition>,
    /// The step (from 1) after which excluded events void; 1 where not given.
    pub after_step: Option<usize>,
    /// The step before which excluded events void; the last where not given.
    pub before_step: Option<usize>,
    /// Properties of which all events of a chain must carry the same value.
    pub holding: Vec<String>,
    /// Which chains count.
    pub entries: Entries,
    /// What to break the counts down by.
    pub by: Option<Operand>,
    /// Which event of the chain that is read from.
    pub attribute: Option<Attribute>,
    /// How many values of the breakdown to tell apart.
    pub top: Option<usize>,
    /// The calendar unit of a trend.
    pub bucket: Option<CalendarUnit>,
    /// Where days begin.
    pub zone: Zone,
    /// Which users.
    pub users: Option<Segment>,
    /// Over which range; every event of a chain lies inside.
    pub range: TimeSpec,
    /// Whether times to convert are wanted.
    pub times: bool,
}

/// A step of events that satisfy `condition`.
pub fn step(condition: impl Into<Condition>) -> Step {
    Step {
        condition: condition.into(),
        name: None,
        optional: false,
    }
}

impl Step {
    /// What its row is called.
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// It may be skipped.
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }
}

impl From<Condition> for Step {
    fn from(condition: Condition) -> Self {
        step(condition)
    }
}

impl From<&str> for Step {
    fn from(name: &str) -> Self {
        step(name)
    }
}

impl Funnel {
    /// A funnel of these steps, with every option at its default.
    pub fn new<S: Into<Step>>(steps: impl IntoIterator<Item = S>) -> Self {
        Self {
            steps: steps.into_iter().map(Into::into).collect(),
            within: None,
            mode: FunnelMode::Ordered,
            exclude: None,
            after_step: None,
            before_step: None,
            holding: Vec::new(),
            entries: Entries::Best,
            by: None,
            attribute: None,
            top: None,
            bucket: None,
            zone: Zone::UTC,
            users: None,
            range: TimeSpec::default(),
            times: true,
        }
    }

    /// The window: the longest time from the first event of a chain to its last.
    pub fn within(mut self, span: Span) -> Self {
        self.within = Some(span);
        self
    }

    /// How the events must follow each other.
    pub fn mode(mut self, mode: FunnelMode) -> Self {
        self.mode = mode;
        self
    }

    /// Events that void a chain.
    pub fn exclude(mut self, condition: impl Into<Condition>) -> Self {
        self.exclude = Some(condition.into());
        self
    }

    /// The step (from 1) after which excluded events void.
    pub fn after_step(mut self, step: usize) -> Self {
        self.after_step = Some(step);
        self
    }

    /// The step before which excluded events void.
    pub fn before_step(mut self, step: usize) -> Self {
        self.before_step = Some(step);
        self
    }

    /// All events of a chain must carry the same `property`; each call adds one.
    pub fn holding(mut self, property: &str) -> Self {
        self.holding.push(property.to_owned());
        self
    }

    /// Which chains count.
    pub fn entries(mut self, entries: Entries) -> Self {
        self.entries = entries;
        self
    }

    /// Breaks the counts down by a property, a trait, or the event's name.
    pub fn by(mut self, operand: Operand) -> Self {
        self.by = Some(operand);
        self
    }

    /// Which event of the chain the breakdown reads.
    pub fn attribute(mut self, attribute: Attribute) -> Self {
        self.attribute = Some(attribute);
        self
    }

    /// How many values of the breakdown to tell apart.
    pub fn top(mut self, count: usize) -> Self {
        self.top = Some(count);
        self
    }

    /// A row for each calendar bucket that chains start in.
    pub fn bucket(mut self, unit: CalendarUnit) -> Self {
        self.bucket = Some(unit);
        self
    }

    /// Where days begin; UTC unless said.
    pub fn zone(mut self, zone: Zone) -> Self {
        self.zone = zone;
        self
    }

    /// Only these users.
    pub fn users(mut self, segment: impl Into<Segment>) -> Self {
        self.users = Some(segment.into());
        self
    }

    /// Events at `micros` and later.
    pub fn since(mut self, micros: i64) -> Self {
        self.range.since = Some(micros);
        self
    }

    /// Events before `micros`.
    pub fn until(mut self, micros: i64) -> Self {
        self.range.until = Some(micros);
        self
    }

    /// Events in `(as_of - span, as_of]`.
    pub fn last(mut self, span: Span) -> Self {
        self.range.last = Some(span);
        self
    }

    /// Leaves out the times to convert (`median_seconds`, `mean_seconds`, `p90_seconds`): users are
    /// then merely counted, which takes less time and no memory for each of them.
    pub fn without_times(mut self) -> Self {
        self.times = false;
        self
    }

    /// What row `index` (from 0) is called.
    pub fn step_name(&self, index: usize) -> String {
        if self.mode == FunnelMode::AnyOrder {
            return format!("any {} of {}", index + 1, self.steps.len());
        }
        let step = &self.steps[index];
        match (&step.name, step.condition.as_event()) {
            (Some(name), _) => name.clone(),
            (None, Some(event)) => event.to_owned(),
            (None, None) => format!("step {}", index + 1),
        }
    }

    /// The steps (from 1) between which excluded events void a chain, if any do.
    pub fn exclusion_bounds(&self) -> Option<(usize, usize)> {
        self.exclude.as_ref()?;
        let after = self.after_step.unwrap_or(1);
        Some((after, self.before_step.unwrap_or(self.steps.len())))
    }

    /// Refuses options that contradict each other or mean nothing.
    ///
    /// # Errors
    /// Names the option and why.
    pub fn validate(&self) -> Result<(), Invalid> {
        if self.steps.is_empty() || self.steps.len() > MAX_STEPS {
            return Err(Invalid::new(
                "step",
                format!(
                    "a funnel has 1 to {MAX_STEPS} steps, not {}",
                    self.steps.len()
                ),
            ));
        }
        for step in &self.steps {
            step.condition.validate()?;
        }
        if self.within.is_some_and(|span| span.micros < 0) {
            return Err(Invalid::new("within", "must not be negative"));
        }
        self.range.validate()?;
        self.validate_optional()?;
        self.validate_exclusion()?;
        self.validate_any_order()?;
        self.validate_holding()?;
        self.validate_breakdown()?;
        self.users.as_ref().map_or(Ok(()), Segment::validate)
    }

    /// Refuses histograms of times between steps that mean nothing.
    ///
    /// # Errors
    /// As [`Funnel::validate`], or names the option.
    pub fn validate_times(
        &self,
        from_step: usize,
        to_step: usize,
        bins: usize,
    ) -> Result<(), Invalid> {
        self.validate()?;
        if from_step < 1 || to_step > self.steps.len() || from_step >= to_step {
            return Err(Invalid::new(
                "from_step",
                format!(
                    "must be before to_step, both from 1 to {}",
                    self.steps.len()
                ),
            ));
        }
        if bins == 0 || bins > MAX_BINS {
            return Err(Invalid::new("bins", format!("must be 1 to {MAX_BINS}")));
        }
        if self.by.is_some() || self.bucket.is_some() {
            let option = if self.by.is_some() { "by" } else { "bucket" };
            return Err(Invalid::new(option, "has no meaning for one histogram"));
        }
        Ok(())
    }

    fn validate_optional(&self) -> Result<(), Invalid> {
        let Some(optional) = self.steps.iter().position(|step| step.optional) else {
            return Ok(());
        };
        if self.mode != FunnelMode::Ordered {
            return Err(Invalid::new(
                "optional",
                "a step may be skipped only in mode => 'ordered'",
            ));
        }
        if optional == 0 {
            return Err(Invalid::new("optional", "the first step cannot be skipped"));
        }
        Ok(())
    }

    fn validate_exclusion(&self) -> Result<(), Invalid> {
        let Some(excluded) = &self.exclude else {
            return match (self.after_step, self.before_step) {
                (Some(_), _) => Err(Invalid::new("after_step", "needs exclude")),
                (_, Some(_)) => Err(Invalid::new("before_step", "needs exclude")),
                _ => Ok(()),
            };
        };
        excluded.validate()?;
        if self.mode == FunnelMode::AnyOrder {
            return Ok(());
        }
        let steps = self.steps.len();
        let after = self.after_step.unwrap_or(1);
        let before = self.before_step.unwrap_or(steps);
        for (option, bound) in [("after_step", after), ("before_step", before)] {
            if bound < 1 || bound > steps {
                return Err(Invalid::new(
                    option,
                    format!("there is no step {bound}; steps count from 1 to {steps}"),
                ));
            }
            if self.steps[bound - 1].optional {
                return Err(Invalid::new(
                    option,
                    format!("step {bound} is optional, so that no exclusion can end there"),
                ));
            }
        }
        if after >= before {
            return Err(Invalid::new(
                "after_step",
                format!("step {after} is not before step {before}: nothing lies between"),
            ));
        }
        Ok(())
    }

    fn validate_any_order(&self) -> Result<(), Invalid> {
        if self.mode != FunnelMode::AnyOrder {
            return Ok(());
        }
        let refused = |option| {
            Err(Invalid::new(
                option,
                "has no meaning in mode => 'any_order', where steps have no order",
            ))
        };
        if self.after_step.is_some() {
            return refused("after_step");
        }
        if self.before_step.is_some() {
            return refused("before_step");
        }
        if self.entries != Entries::Best {
            return refused("entries");
        }
        if self.attribute == Some(Attribute::Last) {
            return Err(Invalid::new(
                "attribute",
                "in mode => 'any_order' the breakdown reads the first event",
            ));
        }
        Ok(())
    }

    fn validate_holding(&self) -> Result<(), Invalid> {
        for (index, name) in self.holding.iter().enumerate() {
            if self.holding[..index].contains(name) {
                return Err(Invalid::new("holding", format!("names {name} twice")));
            }
        }
        Ok(())
    }

    fn validate_breakdown(&self) -> Result<(), Invalid> {
        match (&self.by, self.attribute, self.top) {
            (None, Some(_), _) => Err(Invalid::new("attribute", "needs by")),
            (None, _, Some(_)) => Err(Invalid::new("top", "needs by")),
            (_, _, Some(0)) => Err(Invalid::new("top", "must be at least 1")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::behaviour::{days, did, event, property};

    fn funnel() -> Funnel {
        Funnel::new(["view", "cart", "buy"])
    }

    fn option(funnel: Funnel) -> &'static str {
        funnel.validate().unwrap_err().option
    }

    #[test]
    fn every_forbidden_combination_names_its_option() {
        funnel().exclude("out").after_step(2).validate().unwrap();
        assert_eq!(option(Funnel::new(Vec::<Step>::new())), "step");
        assert_eq!(option(Funnel::new(vec!["x"; 65])), "step");
        Funnel::new(vec!["x"; 64]).validate().unwrap();
        assert_eq!(option(funnel().within(days(-1))), "within");
        let skipped = |mode, index: usize| {
            let mut funnel = funnel().mode(mode);
            funnel.steps[index].optional = true;
            funnel
        };
        skipped(FunnelMode::Ordered, 1).validate().unwrap();
        assert_eq!(option(skipped(FunnelMode::Ordered, 0)), "optional");
        assert_eq!(option(skipped(FunnelMode::Strict, 1)), "optional");
        assert_eq!(option(skipped(FunnelMode::AnyOrder, 1)), "optional");
        let bounded = skipped(FunnelMode::Ordered, 1).exclude("out");
        bounded.validate().unwrap();
        assert_eq!(option(bounded.clone().after_step(2)), "after_step");
        assert_eq!(option(bounded.before_step(2)), "before_step");
        assert_eq!(option(funnel().after_step(1)), "after_step");
        assert_eq!(option(funnel().before_step(1)), "before_step");
        assert_eq!(option(funnel().exclude("x").after_step(3)), "after_step");
        assert_eq!(option(funnel().exclude("x").after_step(0)), "after_step");
        assert_eq!(option(funnel().exclude("x").before_step(4)), "before_step");
        let any_order = || funnel().mode(FunnelMode::AnyOrder);
        any_order().exclude("x").validate().unwrap();
        assert_eq!(option(any_order().exclude("x").after_step(1)), "after_step");
        assert_eq!(option(any_order().entries(Entries::First)), "entries");
        let by = any_order().by(property("p"));
        by.validate().unwrap();
        assert_eq!(option(by.attribute(Attribute::Last)), "attribute");
        assert_eq!(option(funnel().holding("p").holding("p")), "holding");
        assert_eq!(option(funnel().top(1)), "top");
        assert_eq!(option(funnel().by(property("p")).top(0)), "top");
        assert_eq!(option(funnel().attribute(Attribute::First)), "attribute");
        assert_eq!(option(funnel().users(did("x").exactly(0))), "exactly");
        assert_eq!(option(funnel().last(days(1)).since(0)), "last");
    }

    #[test]
    fn rows_have_names() {
        let funnel = Funnel::new([
            step("view"),
            step(event("buy")).named("bought"),
            step(property("price").gt(1)),
        ]);
        let names: Vec<_> = (0..3).map(|index| funnel.step_name(index)).collect();
        assert_eq!(names, ["view", "bought", "step 3"]);
        assert_eq!(funnel.mode(FunnelMode::AnyOrder).step_name(1), "any 2 of 3");
    }
}
