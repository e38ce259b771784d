//! Stickiness, by sets of periods and of their units.

use std::collections::{BTreeMap, BTreeSet};

use super::ModelStore;
use crate::behaviour::{Notices, Stickiness, StickinessResult, StickinessRow};
use crate::error::Invalid;

impl ModelStore {
    /// The table of `stickiness`, with `as_of` as the present.
    ///
    /// # Errors
    /// As [`Stickiness::validate`].
    pub fn stickiness(
        &self,
        stickiness: &Stickiness,
        as_of: i64,
    ) -> Result<StickinessResult, Invalid> {
        let sets = self.stickiness_sets(stickiness, as_of)?;
        let rows = sets
            .into_iter()
            .map(|((period, units), users)| StickinessRow {
                period,
                units,
                users: users.len() as u64,
            });
        Ok(StickinessResult {
            rows: rows.collect(),
            notices: Notices::default(),
        })
    }

    /// The users who are active in just `units` units of the period in which the instant `period`
    /// lies.
    ///
    /// # Errors
    /// As [`Stickiness::validate`].
    pub fn stickiness_users(
        &self,
        stickiness: &Stickiness,
        period: i64,
        units: u64,
        as_of: i64,
    ) -> Result<BTreeSet<u32>, Invalid> {
        let wanted = stickiness.zone.bucket(stickiness.period, period).start;
        let mut sets = self.stickiness_sets(stickiness, as_of)?;
        Ok(sets.remove(&(wanted, units)).unwrap_or_default())
    }

    /// Users by the start of each period and the number of units.
    fn stickiness_sets(
        &self,
        stickiness: &Stickiness,
        as_of: i64,
    ) -> Result<BTreeMap<(i64, u64), BTreeSet<u32>>, Invalid> {
        stickiness.validate()?;
        let Stickiness {
            zone, period, unit, ..
        } = stickiness;
        let range = stickiness.range.resolve(as_of);
        let mut sets: BTreeMap<_, BTreeSet<u32>> = BTreeMap::new();
        for own in self.each_own(stickiness.users.as_ref(), range, as_of)? {
            let mut units: BTreeMap<i64, BTreeSet<i64>> = BTreeMap::new();
            for time in own.times(&stickiness.active) {
                let units = units.entry(zone.bucket(*period, time).start).or_default();
                units.insert(zone.bucket(*unit, time).start);
            }
            for (period, units) in units {
                let set = sets.entry((period, units.len() as u64)).or_default();
                set.insert(own.user);
            }
        }
        Ok(sets)
    }
}
