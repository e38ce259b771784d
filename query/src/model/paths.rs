//! Paths, by writing out each user's values and reading the list from every anchor.

use std::collections::{BTreeMap, BTreeSet};

use super::{ModelEvent, ModelStore, Row, Traits};
use crate::behaviour::{
    Operand, PathDirection, PathPer, PathRow, Paths, PathsResult, Skipped, any, operand_value,
};
use crate::error::Invalid;

/// An event, as a path sees it.
#[derive(Clone, Debug)]
struct Stop {
    value: Option<String>,
    is_anchor: bool,
}

impl ModelStore {
    /// The paths, with `as_of` as the present.
    ///
    /// # Errors
    /// As [`Paths::validate`].
    pub fn paths(&self, paths: &Paths, as_of: i64) -> Result<PathsResult, Invalid> {
        paths.validate()?;
        // Who took each path, once for every time.
        let mut taken: BTreeMap<Vec<Option<String>>, Vec<u32>> = BTreeMap::new();
        for user in self.users_of(paths.users.as_ref(), as_of)? {
            for stops in self.stretches(user, paths, as_of) {
                let anchors = (0..stops.len()).filter(|&index| stops[index].is_anchor);
                let anchors: Vec<usize> = match paths.per {
                    PathPer::Event => anchors.collect(),
                    PathPer::User | PathPer::Session => anchors.take(1).collect(),
                };
                for anchor in anchors {
                    let along: Vec<&Stop> = match paths.direction {
                        PathDirection::After => stops[anchor..].iter().collect(),
                        PathDirection::Before => stops[..=anchor].iter().rev().collect(),
                    };
                    let along = along.into_iter().take(1 + paths.steps);
                    let path = along.map(|stop| stop.value.clone()).collect();
                    taken.entry(path).or_default().push(user);
                }
            }
        }
        let mut rows: Vec<PathRow> = taken
            .into_iter()
            .map(|(path, users)| PathRow {
                path,
                users: BTreeSet::from_iter(&users).len() as u64,
                occurrences: users.len() as u64,
            })
            .collect();
        // Stable, so that paths of equal number stay in the order of their values.
        rows.sort_by_key(|row| std::cmp::Reverse(row.occurrences));
        Ok(PathsResult {
            rows,
            ..PathsResult::default()
        })
    }

    /// What paths of a user cannot leave: its sessions, or all of its events at once.
    fn stretches(&self, user: u32, paths: &Paths, as_of: i64) -> Vec<Vec<Stop>> {
        let traits = self.traits(user, as_of);
        let mut stretches: Vec<Vec<Stop>> = Vec::new();
        let mut before: Option<i64> = None;
        for event in self.such(user, &any(), &paths.range, as_of) {
            let goes_on = before.is_some_and(|before| {
                let apart = i128::from(event.time) - i128::from(before);
                paths.per != PathPer::Session || apart <= i128::from(paths.longest_gap().micros)
            });
            if !goes_on {
                stretches.push(Vec::new());
            }
            before = Some(event.time);
            let row = Row {
                event,
                traits: &traits,
            };
            let stop = Stop {
                value: smallest(&paths.value, event, &traits),
                is_anchor: paths.anchor.evaluate(&row, &mut Skipped::default()).holds(),
            };
            if let Some(stretch) = stretches.last_mut() {
                match stretch.last_mut() {
                    Some(last) if paths.collapse && last.value == stop.value => {
                        last.is_anchor |= stop.is_anchor;
                    }
                    _ => stretch.push(stop),
                }
            }
        }
        stretches
    }
}

/// The operand's values for an event, as texts.
pub(super) fn operand_texts(
    operand: &Operand,
    event: &ModelEvent,
    traits: &Traits,
) -> BTreeSet<String> {
    let row = Row { event, traits };
    let (value, _) = operand_value(operand, &row);
    let scalars = value.iter().flat_map(|value| value.scalars());
    scalars
        .map(|scalar| scalar.canonical_text().into_owned())
        .collect()
}

fn smallest(operand: &Operand, event: &ModelEvent, traits: &Traits) -> Option<String> {
    operand_texts(operand, event, traits).into_iter().next()
}
