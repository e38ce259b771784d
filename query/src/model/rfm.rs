//! RFM, by comparing every user with every other.

use super::{ModelStore, holds, number};
use crate::behaviour::{Notices, Rfm, RfmResult, RfmRow};
use crate::error::Invalid;

const DAY: i128 = 86_400_000_000;

impl ModelStore {
    /// The users of `rfm`, with `as_of` as the present.
    ///
    /// # Errors
    /// As [`Rfm::validate`].
    pub fn rfm(&self, rfm: &Rfm, as_of: i64) -> Result<RfmResult, Invalid> {
        rfm.validate()?;
        let range = rfm.range.resolve(as_of);
        let mut rows = Vec::new();
        for user in self.population(rfm.users.as_ref(), as_of)? {
            let traits = self.traits(user, as_of);
            let mut purchases = self.history(user, as_of);
            purchases
                .retain(|event| range.contains(event.time) && holds(&rfm.purchase, event, &traits));
            let Some(last) = purchases.last() else {
                continue;
            };
            let values = purchases
                .iter()
                .map(|event| number(&rfm.value, event, &traits));
            rows.push(RfmRow {
                user,
                recency_days: ((i128::from(as_of) - i128::from(last.time)) / DAY) as i64,
                frequency: purchases.len() as u64,
                monetary: values.fold(0.0, |sum, value| sum + value.unwrap_or(0.0)),
                r: 0,
                f: 0,
                m: 0,
            });
        }
        let quintile = |is_worse: &dyn Fn(&RfmRow) -> bool| {
            let rank = 1 + rows.iter().filter(|row| is_worse(row)).count();
            (1 + 5 * (rank - 1) / rows.len()) as u8
        };
        let ranked = rows.iter().map(|own| RfmRow {
            r: quintile(&|other| other.recency_days > own.recency_days),
            f: quintile(&|other| other.frequency < own.frequency),
            m: quintile(&|other| other.monetary.total_cmp(&own.monetary).is_lt()),
            ..own.clone()
        });
        Ok(RfmResult {
            rows: ranked.collect(),
            notices: Notices::default(),
        })
    }
}
