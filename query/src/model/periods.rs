//! What questions about calendar periods share: one user's events, and steps along the calendar.

use std::collections::BTreeSet;

use super::{ModelEvent, ModelStore, Row, Traits};
use crate::behaviour::{Condition, Segment, Skipped, TimeRange};
use crate::error::Invalid;
use crate::zone::{CalendarUnit, Zone};

/// One user's events in a range, in total order.
pub(super) struct Own<'a> {
    pub(super) user: u32,
    pub(super) events: Vec<&'a ModelEvent>,
    traits: Traits,
}

impl Own<'_> {
    /// True where the event satisfies the condition.
    pub(super) fn satisfies(&self, event: usize, condition: &Condition) -> bool {
        let row = Row {
            event: self.events[event],
            traits: &self.traits,
        };
        condition.evaluate(&row, &mut Skipped::default()).holds()
    }

    /// The times of the events that satisfy the condition.
    pub(super) fn times(&self, condition: &Condition) -> Vec<i64> {
        let events = (0..self.events.len()).filter(|&event| self.satisfies(event, condition));
        events.map(|event| self.events[event].time).collect()
    }
}

impl ModelStore {
    /// The events in `range` of each of `users`, or of everyone.
    pub(super) fn each_own(
        &self,
        users: Option<&Segment>,
        range: TimeRange,
        as_of: i64,
    ) -> Result<Vec<Own<'_>>, Invalid> {
        let users: BTreeSet<u32> = match users {
            Some(segment) => self.segment(segment, as_of)?,
            None => self.known_users(as_of),
        };
        let owns = users.into_iter().map(|user| {
            let mut events = self.history(user, as_of);
            events.retain(|event| range.contains(event.time));
            Own {
                user,
                events,
                traits: self.traits(user, as_of),
            }
        });
        Ok(owns.collect())
    }
}

/// How many buckets the one that starts at `to` comes after the one that starts at `from`.
pub(super) fn buckets_between(zone: &Zone, unit: CalendarUnit, from: i64, to: i64) -> u64 {
    let mut count = 0;
    let mut bucket = zone.bucket(unit, from);
    while bucket.start < to {
        bucket = zone.bucket(unit, bucket.end);
        count += 1;
    }
    count
}
