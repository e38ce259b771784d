//! Attribution: each user's conversions and the touches before them, added up by touch.
//!
//! Touches are kept as a user's events go by, so that a conversion looks only at those in its
//! lookback. First and last touch aside, every pair of a conversion and a touch in its lookback
//! is looked at. Touches that led to nothing are only counted: where a run can count them without
//! asking whose they are, nobody but those who converted is looked at.

use crate::behaviour::{
    Attribution, AttributionModel, AttributionResult, AttributionRow, AttributionUser,
    AttributionUsersResult, Notices, Operand, TimeRange, TouchKey,
};
use crate::sum::ExactSum;

use super::Executor;
use super::control::QueryError;
use super::each_user::{Fold, Reads, UserHistory};
use super::intern::Interner;
use super::totals::{TotalRow, Totals};

/// Numbers of the conditions that are read.
const CONVERSION: usize = 0;
const TOUCH: usize = 1;
/// Numbers of the operands that are read.
const BY: usize = 0;
const VALUE: usize = 1;

/// Touches of one user between two looks at whether to stop.
const TOUCHES_BETWEEN_CHECKS: usize = 1 << 16;

impl Executor {
    /// The table of an attribution.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn attribution(&self, attribution: &Attribution) -> Result<AttributionResult, QueryError> {
        let (groups, notices) = self.credits(attribution, false)?;
        let valued = attribution.value.is_some();
        let row = |(touch, group): (TouchKey, Group)| AttributionRow {
            touch,
            touches: group.touches,
            users: group.users,
            conversions: group.conversions.value(),
            // A value that was only touched has no sum.
            value: valued.then(|| group.value.map_or(0.0, |value| value.value())),
        };
        Ok(AttributionResult {
            rows: groups.into_iter().map(row).collect(),
            notices,
        })
    }

    /// The users behind the rows of an attribution.
    ///
    /// Holds all rows at once; the memory budget says how many that can be.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn attribution_users(
        &self,
        attribution: &Attribution,
    ) -> Result<AttributionUsersResult, QueryError> {
        let (groups, notices) = self.credits(attribution, true)?;
        let mut rows = Vec::new();
        for (touch, mut group) in groups {
            group.listed.sort_unstable();
            rows.extend(group.listed.into_iter().map(|user| AttributionUser {
                touch: touch.clone(),
                user,
            }));
        }
        Ok(AttributionUsersResult { rows, notices })
    }

    /// What each value of the touches comes to, by value.
    fn credits(
        &self,
        attribution: &Attribution,
        list: bool,
    ) -> Result<(Vec<(TouchKey, Group)>, Notices), QueryError> {
        attribution.validate()?;
        let (range, read) = attribution.ranges(self.as_of());
        let counted = self.counted_touches(attribution, range, read)?;
        let mut operands = vec![&attribution.by];
        operands.extend(&attribution.value);
        let reads = Reads {
            conditions: vec![&attribution.conversion, &attribution.touch],
            range: read,
            only_with: counted.is_some().then_some(CONVERSION),
            users: attribution.users.as_ref(),
            operands,
        };
        let credits = Credits {
            attribution,
            range,
            count: counted.is_none(),
            list,
        };
        let (sums, notices) = self.each_user(&reads, &credits)?;
        let mut merged = Groups::new();
        for sum in sums {
            merged.merge(sum);
        }
        for row in counted.into_iter().flatten() {
            merged.add_touches(row);
        }
        let mut groups: Vec<_> = merged.into_rows().collect();
        groups.sort_unstable_by(|left, right| left.0.cmp(&right.0));
        Ok((groups, notices))
    }

    /// How often each value was touched, where that can be told without looking at users one by one.
    fn counted_touches(
        &self,
        attribution: &Attribution,
        range: TimeRange,
        read: TimeRange,
    ) -> Result<Option<Vec<TotalRow>>, QueryError> {
        let (Operand::Property(by), None) = (&attribution.by, &attribution.users) else {
            return Ok(None);
        };
        // Whether it can be computed is told for touches, too.
        if matches!(attribution.value, Some(Operand::Computed(_))) {
            return Ok(None);
        }
        let totals = Totals {
            condition: attribution.touch.clone(),
            range,
            by_event: false,
            by_period: None,
            by_properties: vec![by.clone()],
            times: false,
            numbers: Vec::new(),
        };
        if !totals.fits(self.snapshot())? {
            return Ok(None);
        }
        let (rows, mut skipped) = self.totals(&totals)?;
        if read.first < range.first {
            let last = range.first - 1;
            let earlier = Totals {
                range: TimeRange { last, ..read },
                ..totals
            };
            if !earlier.fits(self.snapshot())? {
                return Ok(None);
            }
            skipped.merge(&self.totals(&earlier)?.1);
        }
        // What could not be compared is told for each event, once.
        Ok(skipped.is_empty().then_some(rows))
    }
}

/// Shares conversions among touches.
struct Credits<'q> {
    attribution: &'q Attribution,
    /// Where conversions lie, and the touches that are counted.
    range: TimeRange,
    /// Whether touches are counted.
    count: bool,
    /// Whether users are listed.
    list: bool,
}

/// A touch of the user looked at.
struct Touch {
    event: usize,
    time: i64,
    /// Number of the group of its value.
    group: usize,
}

/// What the values of touches come to.
struct Groups {
    texts: Interner,
    /// Of no touch, of no value, and of each text.
    groups: Vec<Group>,
    /// Bytes of the listed users.
    listed_bytes: usize,
}

const DIRECT: usize = 0;
const NO_VALUE: usize = 1;
const FIRST_TEXT: usize = 2;

/// What one value comes to.
#[derive(Default)]
struct Group {
    touches: u64,
    users: u64,
    /// The user that was counted last: one user's events come without another's between.
    last: Option<u32>,
    listed: Vec<u32>,
    conversions: ExactSum,
    value: Option<ExactSum>,
}

impl Fold for Credits<'_> {
    type Sum = Groups;

    fn begin(&self) -> Groups {
        Groups::new()
    }

    fn user(&self, user: &UserHistory<'_>, groups: &mut Groups) -> Result<(), QueryError> {
        if !self.count && !(0..user.len()).any(|event| user.satisfies(event, CONVERSION)) {
            return Ok(());
        }
        let touches = self.touches(user, groups)?;
        let lookback = self.attribution.lookback_micros();
        // The touches in the lookback of the conversion looked at: `start..end`.
        let (mut start, mut end) = (0, 0);
        let mut looked_at = 0;
        for event in 0..user.len() {
            let time = user.times[event];
            if !user.satisfies(event, CONVERSION) || !self.range.contains(time) {
                continue;
            }
            let earliest = time.saturating_sub(lookback);
            end += touches[end..].partition_point(|touch| touch.event < event);
            start += touches[start..end].partition_point(|touch| touch.time < earliest);
            looked_at += end - start;
            if looked_at > TOUCHES_BETWEEN_CHECKS {
                user.check()?;
                looked_at = 0;
            }
            let value = match self.attribution.value {
                Some(_) => Some(user.number(VALUE, event)?.unwrap_or(0.0)),
                None => None,
            };
            let mut conversion = Conversion {
                credits: self,
                user: user.ordinal,
                value,
                groups,
            };
            conversion.share(&touches[start..end]);
        }
        Ok(())
    }

    fn byte_len(&self, groups: &Groups) -> usize {
        groups.byte_len()
    }
}

impl Credits<'_> {
    /// The user's touches in total order; those in the range are counted where that is wanted.
    fn touches(
        &self,
        user: &UserHistory<'_>,
        groups: &mut Groups,
    ) -> Result<Vec<Touch>, QueryError> {
        let mut touches = Vec::new();
        for event in 0..user.len() {
            if !user.satisfies(event, TOUCH) {
                continue;
            }
            let time = user.times[event];
            let text = user.text_number(BY, event, &mut groups.texts)?;
            let group = groups.of_text(text);
            let counts = self.count && self.range.contains(time);
            groups.groups[group].touches += u64::from(counts);
            touches.push(Touch { event, time, group });
        }
        Ok(touches)
    }
}

/// A conversion to be shared.
struct Conversion<'c> {
    credits: &'c Credits<'c>,
    user: u32,
    value: Option<f64>,
    groups: &'c mut Groups,
}

impl Conversion<'_> {
    /// Shares the conversion among the touches in its lookback.
    fn share(&mut self, touches: &[Touch]) {
        let [first, .., last] = touches else {
            let only = touches.first().map(|touch| touch.group);
            return self.credit(only.unwrap_or(DIRECT), 1.0);
        };
        match self.credits.attribution.model {
            AttributionModel::First => self.credit(first.group, 1.0),
            AttributionModel::Last => self.credit(last.group, 1.0),
            AttributionModel::Linear => {
                let share = 1.0 / touches.len() as f64;
                for touch in touches {
                    self.credit(touch.group, share);
                }
            }
            AttributionModel::Position => {
                let between = &touches[1..touches.len() - 1];
                let end = if between.is_empty() { 0.5 } else { 0.4 };
                self.credit(first.group, end);
                self.credit(last.group, end);
                for touch in between {
                    self.credit(touch.group, 0.2 / between.len() as f64);
                }
            }
            AttributionModel::TimeDecay => self.decay(touches, last.time),
            AttributionModel::AnyTouch => {
                let mut groups: Vec<usize> = touches.iter().map(|touch| touch.group).collect();
                groups.sort_unstable();
                groups.dedup();
                for group in groups {
                    self.credit(group, 1.0);
                }
            }
        }
    }

    /// Shares by weights that halve with every half-life before the last touch: only their ratios
    /// matter, and so the heaviest is 1 and never vanishes.
    fn decay(&mut self, touches: &[Touch], last: i64) {
        let half_life = self.credits.attribution.half_life_micros() as f64;
        let weight = |touch: &Touch| {
            let before = last.abs_diff(touch.time);
            (-(before as f64) / half_life).exp2()
        };
        let weights: Vec<f64> = touches.iter().map(weight).collect();
        let all: f64 = weights.iter().sum();
        for (touch, weight) in touches.iter().zip(weights) {
            self.credit(touch.group, weight / all);
        }
    }

    fn credit(&mut self, group: usize, share: f64) {
        let group = &mut self.groups.groups[group];
        group.conversions.add(share);
        if let Some(value) = self.value {
            group.value.get_or_insert_default().add(value * share);
        }
        if group.last != Some(self.user) {
            group.last = Some(self.user);
            group.users += 1;
            if self.credits.list {
                group.listed.push(self.user);
                self.groups.listed_bytes += size_of::<u32>();
            }
        }
    }
}

impl Groups {
    fn new() -> Self {
        Self {
            texts: Interner::default(),
            groups: vec![Group::default(), Group::default()],
            listed_bytes: 0,
        }
    }

    /// The number of the group of a text, of which the number is given.
    fn of_text(&mut self, text: Option<u32>) -> usize {
        let Some(text) = text else {
            return NO_VALUE;
        };
        let group = FIRST_TEXT + text as usize;
        if group >= self.groups.len() {
            self.groups.resize_with(group + 1, Group::default);
        }
        group
    }

    /// Adds touches that were counted apart.
    fn add_touches(&mut self, row: TotalRow) {
        let value = row.properties.into_iter().next().flatten();
        let number = value.map(|text| self.texts.number(&text));
        let group = self.of_text(number);
        self.groups[group].touches += row.total.events;
    }

    /// About how much memory this takes.
    fn byte_len(&self) -> usize {
        let group = size_of::<Group>() + 2 * ExactSum::BYTES;
        self.texts.byte_len() + self.groups.len() * group + self.listed_bytes
    }

    /// Adds the sums of other users.
    fn merge(&mut self, other: Self) {
        for (key, from) in other.into_rows() {
            let number = match key {
                TouchKey::Direct => DIRECT,
                TouchKey::None => NO_VALUE,
                TouchKey::Value(text) => {
                    let text = self.texts.number(&text);
                    self.of_text(Some(text))
                }
            };
            let into = &mut self.groups[number];
            into.touches += from.touches;
            into.users += from.users;
            into.listed.extend(from.listed);
            into.conversions.merge(from.conversions);
            if let Some(value) = from.value {
                into.value.get_or_insert_default().merge(value);
            }
        }
    }

    /// The values and what they come to, in any order. Values that were touched before the range
    /// only and led to nothing are left out.
    fn into_rows(self) -> impl Iterator<Item = (TouchKey, Group)> {
        let texts = self.texts.into_texts().into_iter().map(TouchKey::Value);
        let keys = [TouchKey::Direct, TouchKey::None].into_iter().chain(texts);
        let rows = keys.zip(self.groups);
        rows.filter(|(_, group)| group.touches > 0 || group.users > 0)
    }
}
