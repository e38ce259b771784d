//! Attribution, by looking back from every conversion of every user.

use std::collections::{BTreeMap, BTreeSet};

use super::{ModelEvent, ModelStore, holds, number, text};
use crate::behaviour::{
    Attribution, AttributionModel, AttributionResult, AttributionRow, AttributionUser,
    AttributionUsersResult, Notices, TouchKey,
};
use crate::error::Invalid;
use crate::sum::ExactSum;

/// A share in a conversion.
struct Credit {
    touch: TouchKey,
    user: u32,
    share: f64,
    /// What the whole conversion is worth.
    value: f64,
}

impl ModelStore {
    /// The table of `attribution`, with `as_of` as the present.
    ///
    /// # Errors
    /// As [`Attribution::validate`].
    pub fn attribution(
        &self,
        attribution: &Attribution,
        as_of: i64,
    ) -> Result<AttributionResult, Invalid> {
        attribution.validate()?;
        let mut touches: BTreeMap<TouchKey, u64> = BTreeMap::new();
        for (_, touch) in self.touches_in_range(attribution, as_of)? {
            *touches.entry(touch).or_default() += 1;
        }
        let credits = self.credits(attribution, as_of)?;
        let mut keys: BTreeSet<&TouchKey> = touches.keys().collect();
        keys.extend(credits.iter().map(|credit| &credit.touch));
        let row = |key: &TouchKey| {
            let own: Vec<&Credit> = credits.iter().filter(|one| one.touch == *key).collect();
            let users: BTreeSet<u32> = own.iter().map(|credit| credit.user).collect();
            let mut conversions = ExactSum::default();
            conversions.extend(own.iter().map(|credit| credit.share));
            let mut value = ExactSum::default();
            value.extend(own.iter().map(|credit| credit.value * credit.share));
            AttributionRow {
                touch: key.clone(),
                touches: touches.get(key).copied().unwrap_or(0),
                users: users.len() as u64,
                conversions: conversions.value(),
                value: attribution.value.as_ref().map(|_| value.value()),
            }
        };
        Ok(AttributionResult {
            rows: keys.into_iter().map(row).collect(),
            notices: Notices::default(),
        })
    }

    /// The users behind the rows of `attribution`.
    ///
    /// # Errors
    /// As [`Attribution::validate`].
    pub fn attribution_users(
        &self,
        attribution: &Attribution,
        as_of: i64,
    ) -> Result<AttributionUsersResult, Invalid> {
        attribution.validate()?;
        let credits = self.credits(attribution, as_of)?.into_iter();
        let rows: BTreeSet<AttributionUser> = credits
            .map(|Credit { touch, user, .. }| AttributionUser { touch, user })
            .collect();
        Ok(AttributionUsersResult {
            rows: rows.into_iter().collect(),
            notices: Notices::default(),
        })
    }

    /// User and value of every touch in the range.
    fn touches_in_range(
        &self,
        attribution: &Attribution,
        as_of: i64,
    ) -> Result<Vec<(u32, TouchKey)>, Invalid> {
        let range = attribution.range.resolve(as_of);
        let mut touches = Vec::new();
        for user in self.population(attribution.users.as_ref(), as_of)? {
            let traits = self.traits(user, as_of);
            for event in self.history(user, as_of) {
                if range.contains(event.time) && holds(&attribution.touch, event, &traits) {
                    touches.push((user, key(text(&attribution.by, event, &traits))));
                }
            }
        }
        Ok(touches)
    }

    /// Every share in every conversion.
    fn credits(&self, attribution: &Attribution, as_of: i64) -> Result<Vec<Credit>, Invalid> {
        let range = attribution.range.resolve(as_of);
        let mut credits = Vec::new();
        for user in self.population(attribution.users.as_ref(), as_of)? {
            let traits = self.traits(user, as_of);
            let history = self.history(user, as_of);
            for (index, conversion) in history.iter().enumerate() {
                if !range.contains(conversion.time)
                    || !holds(&attribution.conversion, conversion, &traits)
                {
                    continue;
                }
                let before = history[..index].iter().copied();
                let touches: Vec<&ModelEvent> = before
                    .filter(|event| {
                        let age = i128::from(conversion.time) - i128::from(event.time);
                        age <= i128::from(attribution.lookback_micros())
                            && holds(&attribution.touch, event, &traits)
                    })
                    .collect();
                let value = attribution.value.as_ref();
                let value = value.and_then(|value| number(value, conversion, &traits));
                let keys = touches
                    .iter()
                    .map(|touch| key(text(&attribution.by, touch, &traits)));
                let shares = shares(attribution, conversion, &touches, &keys.collect::<Vec<_>>());
                credits.extend(shares.into_iter().map(|(touch, share)| Credit {
                    touch,
                    user,
                    share,
                    value: value.unwrap_or(0.0),
                }));
            }
        }
        Ok(credits)
    }
}

fn key(text: Option<String>) -> TouchKey {
    text.map_or(TouchKey::None, TouchKey::Value)
}

/// What each touch of a conversion gets.
fn shares(
    attribution: &Attribution,
    conversion: &ModelEvent,
    touches: &[&ModelEvent],
    keys: &[TouchKey],
) -> Vec<(TouchKey, f64)> {
    let count = touches.len();
    if count == 0 {
        return vec![(TouchKey::Direct, 1.0)];
    }
    let age = |touch: &ModelEvent| (conversion.time - touch.time) as f64;
    let half_life = attribution.half_life_micros() as f64;
    let weights: Vec<f64> = match attribution.model {
        AttributionModel::AnyTouch => {
            let different: BTreeSet<&TouchKey> = keys.iter().collect();
            return different
                .into_iter()
                .map(|key| (key.clone(), 1.0))
                .collect();
        }
        AttributionModel::First => (0..count).map(|at| f64::from(at == 0)).collect(),
        AttributionModel::Last => (0..count).map(|at| f64::from(at == count - 1)).collect(),
        AttributionModel::Linear => vec![1.0; count],
        AttributionModel::Position => (0..count)
            .map(|at| match (at == 0 || at == count - 1, count) {
                (_, 1 | 2) => 1.0,
                (true, _) => 40.0,
                (false, _) => 20.0 / (count - 2) as f64,
            })
            .collect(),
        AttributionModel::TimeDecay => touches
            .iter()
            .map(|touch| 0.5_f64.powf(age(touch) / half_life))
            .collect(),
    };
    let all: f64 = weights.iter().sum();
    let shares = keys.iter().cloned().zip(weights);
    let shares = shares.map(|(key, weight)| (key, weight / all));
    // Who has no share at all is not credited.
    shares.filter(|(_, share)| *share > 0.0).collect()
}
