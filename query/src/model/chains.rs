//! Every chain of one user through the steps of a funnel, one by one.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeSet;

use super::{ModelEvent, ModelStore, Row, texts};
use crate::behaviour::{Condition, Funnel, FunnelMode, Skipped};

/// A value of each held property; empty where none is held.
pub(super) type Held = Vec<String>;

/// Events of one user that form a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    /// Step and index into the user's events, in total order; both from 0.
    pub events: Vec<(usize, usize)>,
    /// What all of them hold.
    pub held: Held,
}

/// One user's events in range, and what the funnel's conditions say about each.
pub(super) struct UserEvents<'a> {
    pub funnel: &'a Funnel,
    pub events: Vec<&'a ModelEvent>,
    /// For each event, for each step, whether it satisfies the step.
    pub steps: Vec<Vec<bool>>,
    /// For each event, whether it is excluded.
    pub excluded: Vec<bool>,
    /// For each event, every combination of held values that it carries.
    pub held: Vec<BTreeSet<Held>>,
    pub traits: super::Traits,
}

/// Which steps chains are made of.
pub(super) struct Allowed {
    /// For each step of the funnel, whether a chain may (or must) have it.
    pub steps: Vec<StepRole>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StepRole {
    Required,
    Optional,
    Absent,
}

impl Allowed {
    /// The funnel's steps as they are.
    pub(super) fn all(funnel: &Funnel) -> Self {
        let role = |optional| match optional {
            true => StepRole::Optional,
            false => StepRole::Required,
        };
        Self {
            steps: funnel
                .steps
                .iter()
                .map(|step| role(step.optional))
                .collect(),
        }
    }

    /// The required steps before `step`, and that step, all of them required.
    pub(super) fn up_to(funnel: &Funnel, step: usize) -> Self {
        let mut allowed = Self::all(funnel);
        for (index, role) in allowed.steps.iter_mut().enumerate() {
            if index == step {
                *role = StepRole::Required;
            } else if index > step || *role == StepRole::Optional {
                *role = StepRole::Absent;
            }
        }
        allowed
    }

    pub(super) fn required(&self) -> usize {
        let required = self
            .steps
            .iter()
            .filter(|role| **role == StepRole::Required);
        required.count()
    }
}

impl<'a> UserEvents<'a> {
    pub(super) fn gather(store: &'a ModelStore, funnel: &'a Funnel, user: u32, as_of: i64) -> Self {
        let range = funnel.range.resolve(as_of);
        let traits = store.traits(user, as_of);
        let mut events = store.history(user, as_of);
        events.retain(|event| range.contains(event.time));
        let holds = |condition: &Condition, event| {
            let row = Row {
                event,
                traits: &traits,
            };
            condition.evaluate(&row, &mut Skipped::default()).holds()
        };
        let steps = events.iter().map(|event| {
            let steps = funnel.steps.iter();
            steps.map(|step| holds(&step.condition, event)).collect()
        });
        let excluded = events.iter().map(|event| {
            let exclude = funnel.exclude.as_ref();
            exclude.is_some_and(|condition| holds(condition, event))
        });
        Self {
            funnel,
            steps: steps.collect(),
            excluded: excluded.collect(),
            held: events.iter().map(|event| held(funnel, event)).collect(),
            traits,
            events,
        }
    }

    /// Every combination of held values that some event carries.
    pub(super) fn held_values(&self) -> BTreeSet<Held> {
        self.held.iter().flatten().cloned().collect()
    }

    /// Every chain of `allowed` steps, of every length, whose events all hold `held`.
    pub(super) fn chains(&self, allowed: &Allowed, held: &Held) -> Vec<Chain> {
        let mut chains = Vec::new();
        let mut chain = Chain {
            events: Vec::new(),
            held: held.clone(),
        };
        self.extend(allowed, &mut chain, &mut chains);
        chains
    }

    fn extend(&self, allowed: &Allowed, chain: &mut Chain, chains: &mut Vec<Chain>) {
        let next = chain.events.last().map_or(0, |&(_, index)| index + 1);
        for step in self.next_steps(allowed, chain) {
            for index in next..self.events.len() {
                if !self.steps[index][step] || !self.held[index].contains(&chain.held) {
                    continue;
                }
                chain.events.push((step, index));
                // A chain that is not valid has no valid extension.
                if self.is_valid(chain) {
                    chains.push(chain.clone());
                    self.extend(allowed, chain, chains);
                }
                chain.events.pop();
            }
        }
    }

    /// The steps that the next event of `chain` may satisfy.
    fn next_steps(&self, allowed: &Allowed, chain: &Chain) -> Vec<usize> {
        let steps = 0..allowed.steps.len();
        if self.funnel.mode == FunnelMode::AnyOrder {
            let unused = |step: &usize| chain.events.iter().all(|(used, _)| used != step);
            return steps.filter(unused).collect();
        }
        let first = chain.events.last().map_or(0, |&(step, _)| step + 1);
        let mut next = Vec::new();
        for step in first..steps.end {
            match allowed.steps[step] {
                StepRole::Absent => {}
                StepRole::Optional => next.push(step),
                StepRole::Required => {
                    next.push(step);
                    break;
                }
            }
        }
        next
    }

    fn is_valid(&self, chain: &Chain) -> bool {
        let (Some(&(_, first)), Some(&(last_step, last))) =
            (chain.events.first(), chain.events.last())
        else {
            return true;
        };
        let elapsed = i128::from(self.events[last].time) - i128::from(self.events[first].time);
        let in_window = self
            .funnel
            .within
            .is_none_or(|within| elapsed <= i128::from(within.micros));
        let unbroken = self.funnel.mode != FunnelMode::Strict
            || chain
                .events
                .windows(2)
                .all(|pair| pair[0].1 + 1 == pair[1].1);
        in_window && unbroken && !self.is_void(chain, first, last_step, last)
    }

    fn is_void(&self, chain: &Chain, first: usize, last_step: usize, last: usize) -> bool {
        let Some((after, before)) = self.funnel.exclusion_bounds() else {
            return false;
        };
        let event_at = |step: usize| {
            let found = chain.events.iter().find(|&&(at, _)| at + 1 == step);
            found.map(|&(_, index)| index)
        };
        let (low, high) = if self.funnel.mode == FunnelMode::AnyOrder {
            (first, last)
        } else if last_step < after {
            return false;
        } else {
            let Some(low) = event_at(after) else {
                return false;
            };
            (low, event_at(before).unwrap_or(last))
        };
        (low + 1..high).any(|index| self.excluded[index] && self.held[index].contains(&chain.held))
    }

    /// Orders chains as they are reported: the least is the one that is.
    pub(super) fn compare(&self, left: &Chain, right: &Chain) -> Ordering {
        let key = |chain: &Chain| {
            let level = self.level(chain);
            let optional = chain.events.len() - level;
            let end = chain.events.last().map(|&(_, index)| index);
            let start = chain.events.first().map(|&(_, index)| index);
            // From the last step back: absent is less than present, earlier less than later.
            let mut backwards: Vec<Option<usize>> = if self.funnel.mode == FunnelMode::AnyOrder {
                chain.events.iter().map(|&(_, index)| Some(index)).collect()
            } else {
                let mut steps = vec![None; self.funnel.steps.len()];
                for &(step, index) in &chain.events {
                    steps[step] = Some(index);
                }
                steps
            };
            backwards.reverse();
            (
                Reverse(level),
                Reverse(optional),
                end,
                Reverse(start),
                Reverse(backwards),
                chain.held.clone(),
            )
        };
        key(left).cmp(&key(right))
    }

    /// How many steps of the chain are required ones.
    pub(super) fn level(&self, chain: &Chain) -> usize {
        let required = |&&(step, _): &&(usize, usize)| !self.funnel.steps[step].optional;
        chain.events.iter().filter(required).count()
    }

    /// The event of a chain at `position`, if it has so many.
    pub(super) fn event(&self, chain: &Chain, position: usize) -> Option<&'a ModelEvent> {
        let &(_, index) = chain.events.get(position)?;
        Some(self.events[index])
    }
}

/// Every combination of one value of each held property; none where one is missing.
fn held(funnel: &Funnel, event: &ModelEvent) -> BTreeSet<Held> {
    let mut combinations = BTreeSet::from([Held::new()]);
    for property in &funnel.holding {
        let values = texts(event, property);
        let longer = combinations.iter().flat_map(|combination| {
            values.iter().map(|value| {
                let mut longer = combination.clone();
                longer.push(value.clone());
                longer
            })
        });
        combinations = longer.collect();
    }
    combinations
}
