//! Traits of the users of a morsel, as of the question's present.

use std::collections::{BTreeMap, BTreeSet};

use pugmark_engine::segment::UserStarts;
use pugmark_engine::{Corruption, Scalar, Snapshot, Value};

use crate::behaviour::{Computed, EventRow};

use super::computed::KnownExpressions;
use super::morsel::Morsel;

/// For each trait that a query reads, its value by the lower half of the user's ordinal.
#[derive(Debug, Default)]
pub(crate) struct TraitTable {
    columns: BTreeMap<String, BTreeMap<u16, Value>>,
}

impl TraitTable {
    /// Reads the traits `names` of the morsel's users: for each the value with the latest time up
    /// to `as_of`, of equal times the last to arrive.
    pub(crate) fn read(
        snapshot: &Snapshot,
        names: &BTreeSet<String>,
        morsel: &Morsel,
        as_of: i64,
    ) -> Result<Self, Corruption> {
        let mut latest: BTreeMap<&str, BTreeMap<u16, (i64, Value)>> = BTreeMap::new();
        let mut users = UserStarts::default();
        for segment in snapshot.trait_segments() {
            for run in segment.all_runs() {
                let rows = run.container_rows(morsel.key)?;
                if names.is_empty() || rows.is_empty() {
                    continue;
                }
                run.user_starts(morsel.key, morsel.lows.clone(), &mut users)?;
                let times = run.times(rows.clone())?;
                let properties = run.properties()?;
                for name in names {
                    let Some(column) = properties.get(name)? else {
                        continue;
                    };
                    let values = latest.entry(name).or_default();
                    for (user, low) in users.users.iter().enumerate() {
                        for row in users.starts[user]..users.starts[user + 1] {
                            let time = times.get((row - rows.start) as usize);
                            if time > as_of
                                || values.get(&low).is_some_and(|(known, _)| *known > time)
                            {
                                continue;
                            }
                            if let Some(value) = column.value(row)? {
                                values.insert(low, (time, value));
                            }
                        }
                    }
                }
            }
        }
        let columns = latest.into_iter().map(|(name, values)| {
            let held = values
                .into_iter()
                .filter(|(_, (_, value))| *value != Value::Null);
            (
                name.to_owned(),
                held.map(|(low, (_, value))| (low, value)).collect(),
            )
        });
        Ok(Self {
            columns: columns.collect(),
        })
    }

    /// The value of a trait.
    pub(crate) fn get(&self, name: &str, low: u16) -> Option<&Value> {
        self.columns.get(name)?.get(&low)
    }

    /// True where the user has the trait.
    pub(crate) fn has(&self, name: &str, low: u16) -> bool {
        self.get(name, low)
            .is_some_and(|value| value.scalars().next().is_some())
    }

    /// What a test says of the trait: any element that can be tested decides. Also how many
    /// could not be.
    pub(crate) fn test(
        &self,
        name: &str,
        low: u16,
        test: impl Fn(Scalar<'_>) -> Option<bool>,
    ) -> (Option<bool>, u64) {
        let (mut truth, mut unusable) = (None, 0);
        for scalar in self.get(name, low).into_iter().flat_map(Value::scalars) {
            match test(scalar) {
                Some(passes) => truth = Some(truth.unwrap_or(false) || passes),
                None => unusable += 1,
            }
        }
        (truth, unusable)
    }
}

/// A user whose traits a condition looks at.
pub(crate) struct TraitRow<'a> {
    pub(crate) traits: &'a TraitTable,
    /// The lower half of its ordinal.
    pub(crate) low: u16,
    /// Its place among those that expressions were computed for.
    pub(crate) place: usize,
    pub(crate) expressions: &'a KnownExpressions,
}

impl EventRow for TraitRow<'_> {
    fn event(&self) -> &str {
        ""
    }

    fn time(&self) -> i64 {
        0
    }

    fn property(&self, _name: &str) -> Option<&Value> {
        None
    }

    fn user_trait(&self, name: &str) -> Option<&Value> {
        self.traits.get(name, self.low)
    }

    fn known(&self, computed: &Computed) -> Option<(Option<Value>, u64)> {
        let known = self.expressions.iter().find(|(one, _)| one == computed);
        let (_, found) = known?;
        // Failures were counted for all users together.
        Some((found.values.get(self.place)?.clone(), 0))
    }
}
