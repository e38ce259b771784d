//! Lifecycle, by asking of each user and each period what the user was in it.

use std::collections::BTreeSet;

use super::ModelStore;
use crate::behaviour::{
    Lifecycle, LifecycleResult, LifecycleRow, LifecycleStatus, Notices, TimeRange,
};
use crate::error::Invalid;
use crate::zone::Bucket;

/// When a user was active, up to the end of the range.
struct Active {
    user: u32,
    times: Vec<i64>,
}

impl Active {
    fn has(&self, status: LifecycleStatus, before: Bucket, now: Bucket) -> bool {
        let active = self.times.iter().any(|&time| now.contains(time));
        let just_before = self.times.iter().any(|&time| before.contains(time));
        let earlier = self.times.iter().any(|&time| time < before.start);
        match status {
            LifecycleStatus::New => active && !just_before && !earlier,
            LifecycleStatus::Returning => active && just_before,
            LifecycleStatus::Resurrecting => active && !just_before && earlier,
            LifecycleStatus::Dormant => !active && just_before,
        }
    }
}

impl ModelStore {
    /// The table of `lifecycle`, with `as_of` as the present.
    ///
    /// # Errors
    /// As [`Lifecycle::validate`].
    pub fn lifecycle(&self, lifecycle: &Lifecycle, as_of: i64) -> Result<LifecycleResult, Invalid> {
        let actives = self.actives(lifecycle, as_of)?;
        let bucket = |micros| lifecycle.zone.bucket(lifecycle.period, micros);
        let times = || actives.iter().flat_map(|active| &active.times).copied();
        let (Some(first), Some(last)) = (times().min(), times().max()) else {
            return Ok(LifecycleResult::default());
        };
        let mut rows = Vec::new();
        let mut period = bucket(first);
        // Nobody is anything later than one period after the last event.
        while period.start <= bucket(last).end {
            for status in LifecycleStatus::ALL {
                let users = users(lifecycle, &actives, period, status, as_of);
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
        let actives = self.actives(lifecycle, as_of)?;
        let period = lifecycle.zone.bucket(lifecycle.period, period);
        Ok(users(lifecycle, &actives, period, status, as_of))
    }

    fn actives(&self, lifecycle: &Lifecycle, as_of: i64) -> Result<Vec<Active>, Invalid> {
        lifecycle.validate()?;
        let history = TimeRange {
            first: i64::MIN,
            last: lifecycle.range.resolve(as_of).last,
        };
        let owns = self.each_own(lifecycle.users.as_ref(), history, as_of)?;
        let actives = owns.into_iter().map(|own| Active {
            user: own.user,
            times: own.times(&lifecycle.active),
        });
        Ok(actives.collect())
    }
}

/// The users who have a status in a period; nobody where the range does not touch it.
fn users(
    lifecycle: &Lifecycle,
    actives: &[Active],
    now: Bucket,
    status: LifecycleStatus,
    as_of: i64,
) -> BTreeSet<u32> {
    let range = lifecycle.range.resolve(as_of);
    if range.is_empty() || now.end <= range.first || now.start > range.last {
        return BTreeSet::new();
    }
    let before = lifecycle.zone.bucket(lifecycle.period, now.start - 1);
    let users = actives
        .iter()
        .filter(|active| active.has(status, before, now));
    users.map(|active| active.user).collect()
}
