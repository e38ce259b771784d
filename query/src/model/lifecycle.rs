//! Lifecycle, by asking of each user and each period what the user was in it.

use std::collections::BTreeSet;

use super::ModelStore;
use crate::behaviour::{
    Lifecycle, LifecycleResult, LifecycleRow, LifecycleStatus, Notices, TimeRange,
};
use crate::error::Invalid;

impl ModelStore {
    /// The table of `lifecycle`, with `as_of` as the present.
    ///
    /// # Errors
    /// As [`Lifecycle::validate`].
    pub fn lifecycle(&self, lifecycle: &Lifecycle, as_of: i64) -> Result<LifecycleResult, Invalid> {
        lifecycle.validate()?;
        let range = lifecycle.range.resolve(as_of);
        let bucket = |micros| lifecycle.zone.bucket(lifecycle.period, micros);
        // Nobody has a status before the first event; the last period may be one after the last.
        let first = self.events().iter().map(|event| event.time).min();
        let mut rows = Vec::new();
        let Some(first) = first.filter(|_| !range.is_empty()) else {
            return Ok(LifecycleResult::default());
        };
        let mut period = bucket(first);
        let last = bucket(range.last).start;
        let latest = self.events().iter().map(|event| event.time).max();
        let after_latest = latest.map_or(last, |latest| bucket(bucket(latest).end).start);
        while period.start <= last.min(after_latest) {
            for status in LifecycleStatus::ALL {
                let users = self.lifecycle_users(lifecycle, period.start, status, as_of)?;
                if !users.is_empty() {
                    rows.push(LifecycleRow {
                        period: period.start,
                        status,
                        users: users.len() as u64,
                    });
                }
            }
            period = bucket(period.end);
        }
        Ok(LifecycleResult {
            rows,
            notices: Notices::default(),
        })
    }

    /// The users who have a status in the period in which the instant `period` lies.
    ///
    /// # Errors
    /// As [`Lifecycle::validate`].
    pub fn lifecycle_users(
        &self,
        lifecycle: &Lifecycle,
        period: i64,
        status: LifecycleStatus,
        as_of: i64,
    ) -> Result<BTreeSet<u32>, Invalid> {
        lifecycle.validate()?;
        let range = lifecycle.range.resolve(as_of);
        let bucket = |micros| lifecycle.zone.bucket(lifecycle.period, micros);
        let now = bucket(period);
        if range.is_empty() || now.end <= range.first || now.start > range.last {
            return Ok(BTreeSet::new());
        }
        let before = bucket(now.start - 1);
        let history = TimeRange {
            first: i64::MIN,
            last: range.last,
        };
        let mut users = BTreeSet::new();
        for own in self.each_own(lifecycle.users.as_ref(), history, as_of)? {
            let times = own.times(&lifecycle.active);
            let active = times.iter().any(|&time| now.contains(time));
            let just_before = times.iter().any(|&time| before.contains(time));
            let earlier = times.iter().any(|&time| time < before.start);
            let has = match status {
                LifecycleStatus::New => active && !just_before && !earlier,
                LifecycleStatus::Returning => active && just_before,
                LifecycleStatus::Resurrecting => active && !just_before && earlier,
                LifecycleStatus::Dormant => !active && just_before,
            };
            if has {
                users.insert(own.user);
            }
        }
        Ok(users)
    }
}
