//! Retention, by walking the calendar for every user.

use std::collections::{BTreeMap, BTreeSet};

use super::ModelStore;
use super::periods::{Own, buckets_between};
use crate::behaviour::{Notices, Retention, RetentionResult, RetentionRow, ReturnMode};
use crate::error::Invalid;

/// A user in a cohort.
struct Member {
    user: u32,
    /// The periods after the cohort's in which the user came back.
    back: BTreeSet<u64>,
}

impl Member {
    fn counts(&self, mode: ReturnMode, k: u64) -> bool {
        match mode {
            ReturnMode::On => self.back.contains(&k),
            ReturnMode::OnOrAfter => self.back.iter().any(|&back| back >= k),
        }
    }
}

impl ModelStore {
    /// The table of `retention`, with `as_of` as the present.
    ///
    /// # Errors
    /// As [`Retention::validate`].
    pub fn retention(&self, retention: &Retention, as_of: i64) -> Result<RetentionResult, Invalid> {
        retention.validate()?;
        let Retention { zone, period, .. } = retention;
        let owns = self.owns(retention, as_of)?;
        let times = owns.iter().flat_map(|own| &own.events);
        let last = times.map(|event| event.time).max();
        let mut rows = Vec::new();
        for (cohort, members) in cohorts(retention, &owns) {
            let last = last.map_or(cohort, |last| zone.bucket(*period, last).start);
            let most = match retention.periods {
                Some(periods) => periods,
                None => buckets_between(zone, *period, cohort, last),
            };
            let mut bucket = zone.bucket(*period, cohort);
            for k in 0..=most {
                let next = zone.bucket(*period, bucket.end);
                // Whoever starts at the end of the period is the last to finish the k-th after it.
                let ends = if retention.rolling { next } else { bucket };
                let back = members.iter().filter(|one| one.counts(retention.mode, k));
                let users = back.count();
                rows.push(RetentionRow {
                    cohort,
                    size: members.len() as u64,
                    k,
                    users: users as u64,
                    rate: users as f64 / members.len() as f64,
                    incomplete: ends.end > as_of,
                });
                bucket = next;
            }
        }
        Ok(RetentionResult {
            rows,
            notices: Notices::default(),
        })
    }

    /// The users behind a cell: of the cohort in whose period the instant `cohort` lies, those who
    /// came back in its period `k`.
    ///
    /// # Errors
    /// As [`Retention::validate_cell`].
    pub fn retention_users(
        &self,
        retention: &Retention,
        cohort: i64,
        k: u64,
        as_of: i64,
    ) -> Result<BTreeSet<u32>, Invalid> {
        retention.validate_cell(k)?;
        let wanted = retention.zone.bucket(retention.period, cohort).start;
        let mut cohorts = cohorts(retention, &self.owns(retention, as_of)?);
        let members = cohorts.remove(&wanted).unwrap_or_default().into_iter();
        let back = members.filter(|member| member.counts(retention.mode, k));
        Ok(back.map(|member| member.user).collect())
    }

    fn owns(&self, retention: &Retention, as_of: i64) -> Result<Vec<Own<'_>>, Invalid> {
        let range = retention.range.resolve(as_of);
        self.each_own(retention.users.as_ref(), range, as_of)
    }
}

/// The members of every cohort, by the start of its period.
fn cohorts(retention: &Retention, owns: &[Own<'_>]) -> BTreeMap<i64, Vec<Member>> {
    let mut cohorts: BTreeMap<i64, Vec<Member>> = BTreeMap::new();
    for own in owns {
        let mut entered = BTreeSet::new();
        for start in 0..own.events.len() {
            let time = own.events[start].time;
            let cohort = retention.zone.bucket(retention.period, time).start;
            let enters = own.satisfies(start, &retention.start)
                && !entered.contains(&cohort)
                && (entered.is_empty() || retention.recurring);
            if enters {
                entered.insert(cohort);
                let back = (start + 1..own.events.len())
                    .filter(|&event| own.satisfies(event, &retention.returns))
                    .map(|event| periods_later(retention, time, own.events[event].time));
                cohorts.entry(cohort).or_default().push(Member {
                    user: own.user,
                    back: back.collect(),
                });
            }
        }
    }
    cohorts
}

/// In which period after that of its start the user is at `time`.
fn periods_later(retention: &Retention, start: i64, time: i64) -> u64 {
    let Retention { zone, period, .. } = retention;
    if !retention.rolling {
        let to = zone.bucket(*period, time).start;
        return buckets_between(zone, *period, start, to);
    }
    let mut k = 0;
    while zone.later(*period, start, k as i64 + 1) <= time {
        k += 1;
    }
    k
}
