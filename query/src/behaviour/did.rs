//! `did(…)`: users by what they did, how often, when, and what followed.

use super::condition::{Comparison, Condition};
use super::literal::Literal;
use super::range::{Span, TimeSpec};
use super::segment::{Segment, not};
use crate::error::Invalid;
use crate::zone::Zone;

/// Users who did something.
///
/// Of the user's events in the range that satisfy the condition, those that pass `then` and
/// `not_then` are looked at; they must meet every option given, and be at least one.
#[derive(Clone, Debug, PartialEq)]
pub struct Did {
    /// Which events.
    pub condition: Condition,
    /// Over which range.
    pub range: TimeSpec,
    /// At least so many events (default 1).
    pub at_least: Option<u64>,
    /// At most so many events, and at least one.
    pub at_most: Option<u64>,
    /// Exactly so many events.
    pub exactly: Option<u64>,
    /// Events on at least so many different days of `zone`.
    pub on_days: Option<u64>,
    /// Where days begin.
    pub zone: Zone,
    /// Tests of sums, averages and extremes.
    pub aggregates: Vec<AggregateTest>,
    /// Only events that are followed by one that satisfies this.
    pub then: Option<Condition>,
    /// Only events that are not followed by one that satisfies this, once the wait is over.
    pub not_then: Option<Condition>,
    /// How soon the following event must come; unlimited where not given.
    pub then_within: Option<Span>,
    /// Properties of which the following event must carry the same value.
    pub holding: Vec<String>,
    /// Only users whose first such event ever lies in the range.
    pub first_time: bool,
    /// Only users whose last such event ever is at least so long ago.
    pub idle_for: Option<Span>,
}

/// What is computed over one user's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Aggregate {
    /// The sum of the numbers: exact where all are whole, else the floating-point ones added in
    /// the order of the events, and the exact sum of the whole ones to that.
    Sum,
    /// That sum, as a float, over the count of the numbers.
    Avg,
    /// The least value that compares with the literal.
    Min,
    /// The greatest value that compares with the literal.
    Max,
    /// How many different values there are, by their canonical text.
    CountDistinct,
}

/// `aggregate(property) comparison literal`. Values that are not of the literal's kind (and NaN) are
/// skipped; with no value left the test fails, except for [`Aggregate::CountDistinct`], which is 0.
#[derive(Clone, Debug, PartialEq)]
pub struct AggregateTest {
    /// What is computed.
    pub aggregate: Aggregate,
    /// Over which property; every element of a multi-valued one counts.
    pub property: String,
    /// How the result must stand to the literal.
    pub comparison: Comparison,
    /// A number; for extremes also a timestamp.
    pub literal: Literal,
}

/// Users with at least one event that satisfies `condition`.
pub fn did(condition: impl Into<Condition>) -> Did {
    Did {
        condition: condition.into(),
        range: TimeSpec::default(),
        at_least: None,
        at_most: None,
        exactly: None,
        on_days: None,
        zone: Zone::UTC,
        aggregates: Vec::new(),
        then: None,
        not_then: None,
        then_within: None,
        holding: Vec::new(),
        first_time: false,
        idle_for: None,
    }
}

impl Did {
    /// At least `count` such events.
    pub fn at_least(mut self, count: u64) -> Self {
        self.at_least = Some(count);
        self
    }

    /// At most `count` such events, and at least one.
    pub fn at_most(mut self, count: u64) -> Self {
        self.at_most = Some(count);
        self
    }

    /// Exactly `count` such events.
    pub fn exactly(mut self, count: u64) -> Self {
        self.exactly = Some(count);
        self
    }

    /// Such events on at least `count` different days.
    pub fn on_days(mut self, count: u64) -> Self {
        self.on_days = Some(count);
        self
    }

    /// Where days begin; UTC unless said.
    pub fn zone(mut self, zone: Zone) -> Self {
        self.zone = zone;
        self
    }

    /// The sum of `property` compares so.
    pub fn sum(self, property: &str, comparison: Comparison, literal: impl Into<Literal>) -> Self {
        self.aggregate(Aggregate::Sum, property, comparison, literal)
    }

    /// The mean of `property` compares so.
    pub fn avg(self, property: &str, comparison: Comparison, literal: impl Into<Literal>) -> Self {
        self.aggregate(Aggregate::Avg, property, comparison, literal)
    }

    /// The least `property` compares so.
    pub fn min(self, property: &str, comparison: Comparison, literal: impl Into<Literal>) -> Self {
        self.aggregate(Aggregate::Min, property, comparison, literal)
    }

    /// The greatest `property` compares so.
    pub fn max(self, property: &str, comparison: Comparison, literal: impl Into<Literal>) -> Self {
        self.aggregate(Aggregate::Max, property, comparison, literal)
    }

    /// The number of different values of `property` compares so.
    pub fn count_distinct(self, property: &str, comparison: Comparison, count: i64) -> Self {
        self.aggregate(Aggregate::CountDistinct, property, comparison, count)
    }

    /// `aggregate(property) comparison literal`.
    pub fn aggregate(
        mut self,
        aggregate: Aggregate,
        property: &str,
        comparison: Comparison,
        literal: impl Into<Literal>,
    ) -> Self {
        self.aggregates.push(AggregateTest {
            aggregate,
            property: property.to_owned(),
            comparison,
            literal: literal.into(),
        });
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

    /// Only events with a later one that satisfies `condition`.
    pub fn then(mut self, condition: impl Into<Condition>) -> Self {
        self.then = Some(condition.into());
        self
    }

    /// Only events with no later one that satisfies `condition`.
    pub fn not_then(mut self, condition: impl Into<Condition>) -> Self {
        self.not_then = Some(condition.into());
        self
    }

    /// How soon the later event must come.
    pub fn then_within(mut self, span: Span) -> Self {
        self.then_within = Some(span);
        self
    }

    /// The later event must carry the same `property` (and the same of every other one named so).
    pub fn holding(mut self, property: &str) -> Self {
        self.holding.push(property.to_owned());
        self
    }

    /// The user's first such event ever must lie in the range.
    pub fn first_time(mut self) -> Self {
        self.first_time = true;
        self
    }

    /// The user's last such event ever must be at least `span` ago.
    pub fn idle_for(mut self, span: Span) -> Self {
        self.idle_for = Some(span);
        self
    }

    /// Both.
    pub fn and(self, other: impl Into<Segment>) -> Segment {
        Segment::from(self).and(other)
    }

    /// Either.
    pub fn or(self, other: impl Into<Segment>) -> Segment {
        Segment::from(self).or(other)
    }

    /// These users without those.
    pub fn except(self, other: impl Into<Segment>) -> Segment {
        Segment::from(self).except(other)
    }

    /// Every known user who did not.
    #[expect(
        clippy::should_implement_trait,
        reason = "segments are built by methods that read like SQL"
    )]
    pub fn not(self) -> Segment {
        not(self)
    }

    /// The bounds of the number of events: both ends inside.
    pub(crate) fn count_bounds(&self) -> (u64, u64) {
        let least = self.at_least.unwrap_or(1).max(self.exactly.unwrap_or(1));
        let most = self.at_most.unwrap_or(u64::MAX);
        (least, most.min(self.exactly.unwrap_or(u64::MAX)))
    }

    /// Refuses options that contradict each other or mean nothing.
    ///
    /// # Errors
    /// Names the option and why.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.condition.validate()?;
        for follower in self.then.iter().chain(&self.not_then) {
            follower.validate()?;
        }
        self.range.validate()?;
        self.validate_counts()?;
        self.validate_followers()?;
        if self.idle_for.is_some_and(|span| span.micros < 0) {
            return Err(Invalid::new("idle_for", "must not be negative"));
        }
        self.aggregates.iter().try_for_each(AggregateTest::validate)
    }

    fn validate_counts(&self) -> Result<(), Invalid> {
        for (option, count) in [
            ("at_least", self.at_least),
            ("at_most", self.at_most),
            ("exactly", self.exactly),
        ] {
            if count == Some(0) {
                return Err(Invalid::new(
                    option,
                    "counts from 1, as did(…) is about users with such an event; for those without, \
                     write NOT did(…)",
                ));
            }
        }
        if self.on_days == Some(0) {
            return Err(Invalid::new(
                "on_days",
                "counts from 1; for users without such a day, write NOT did(…)",
            ));
        }
        let (least, most) = self.count_bounds();
        if least > most {
            let option = if self.exactly.is_some() {
                "exactly"
            } else {
                "at_most"
            };
            return Err(Invalid::new(
                option,
                format!("no number of events is at least {least} and at most {most}"),
            ));
        }
        Ok(())
    }

    fn validate_followers(&self) -> Result<(), Invalid> {
        let followed = self.then.is_some() || self.not_then.is_some();
        if !followed && self.then_within.is_some() {
            return Err(Invalid::new("then_within", "needs then or not_then"));
        }
        if !followed && !self.holding.is_empty() {
            return Err(Invalid::new("holding", "needs then or not_then"));
        }
        if self.then_within.is_some_and(|span| span.micros < 0) {
            return Err(Invalid::new("then_within", "must not be negative"));
        }
        Ok(())
    }
}

impl AggregateTest {
    fn validate(&self) -> Result<(), Invalid> {
        let (option, fits) = match (self.aggregate, &self.literal) {
            (Aggregate::Sum, Literal::I64(_) | Literal::F64(_)) => ("sum", true),
            (Aggregate::Sum, _) => ("sum", false),
            (Aggregate::Avg, Literal::I64(_) | Literal::F64(_)) => ("avg", true),
            (Aggregate::Avg, _) => ("avg", false),
            (Aggregate::CountDistinct, Literal::I64(_)) => ("count_distinct", true),
            (Aggregate::CountDistinct, _) => ("count_distinct", false),
            (Aggregate::Min, literal) => ("min", literal.is_number_or_time()),
            (Aggregate::Max, literal) => ("max", literal.is_number_or_time()),
        };
        if fits {
            return Ok(());
        }
        let wanted = match self.aggregate {
            Aggregate::Min | Aggregate::Max => "must be compared with a number or a timestamp",
            Aggregate::CountDistinct => "must be compared with a whole number",
            Aggregate::Sum | Aggregate::Avg => "must be compared with a number",
        };
        Err(Invalid::new(option, wanted))
    }
}

impl Literal {
    fn is_number_or_time(&self) -> bool {
        matches!(self, Self::I64(_) | Self::F64(_) | Self::Timestamp(_))
    }
}
