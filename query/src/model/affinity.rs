//! Affinity, by asking every basket about every pair.

use std::collections::{BTreeMap, BTreeSet};

use super::ModelStore;
use super::paths::operand_texts;
use crate::behaviour::{Affinity, AffinityResult, AffinityRow};
use crate::error::Invalid;

impl ModelStore {
    /// The pairs, with `as_of` as the present.
    ///
    /// # Errors
    /// As [`Affinity::validate`].
    pub fn affinity(&self, affinity: &Affinity, as_of: i64) -> Result<AffinityResult, Invalid> {
        affinity.validate()?;
        let baskets = self.baskets(affinity, as_of)?;
        let items: BTreeSet<&String> = baskets.iter().flatten().collect();
        let count = |wanted: &dyn Fn(&BTreeSet<String>) -> bool| {
            baskets.iter().filter(|basket| wanted(basket)).count() as u64
        };
        let mut rows = Vec::new();
        for &x in &items {
            for &y in &items {
                let both = count(&|basket| basket.contains(x) && basket.contains(y));
                let asked = affinity.for_item.as_ref().is_none_or(|item| item == x);
                if x == y || both < affinity.min_users.unwrap_or(1) || !asked {
                    continue;
                }
                let with_x = count(&|basket| basket.contains(x));
                let with_y = count(&|basket| basket.contains(y));
                let either = count(&|basket| basket.contains(x) || basket.contains(y));
                let confidence = both as f64 / with_x as f64;
                rows.push(AffinityRow {
                    x: x.clone(),
                    y: y.clone(),
                    users: both,
                    support: both as f64 / baskets.len() as f64,
                    confidence,
                    lift: confidence / (with_y as f64 / baskets.len() as f64),
                    jaccard: both as f64 / either as f64,
                });
            }
        }
        // Stable, so that pairs of equal number stay in the order of their items.
        rows.sort_by_key(|row| std::cmp::Reverse(row.users));
        rows.truncate(affinity.top.unwrap_or(usize::MAX));
        Ok(AffinityResult {
            rows,
            baskets: baskets.len() as u64,
            ..AffinityResult::default()
        })
    }

    /// The items of each basket that has any.
    fn baskets(&self, affinity: &Affinity, as_of: i64) -> Result<Vec<BTreeSet<String>>, Invalid> {
        let mut baskets: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for user in self.users_of(affinity.users.as_ref(), as_of)? {
            let traits = self.traits(user, as_of);
            for event in self.such(user, &affinity.condition, &affinity.range, as_of) {
                let names = match &affinity.per {
                    None => BTreeSet::from([user.to_string()]),
                    Some(operand) => operand_texts(operand, event, &traits),
                };
                for name in names {
                    let items = operand_texts(&affinity.item, event, &traits);
                    baskets.entry(name).or_default().extend(items);
                }
            }
        }
        let filled = baskets.into_values().filter(|items| !items.is_empty());
        Ok(filled.collect())
    }
}
