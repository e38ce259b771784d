//! Ordered funnels with steps that may be skipped.
//!
//! For each last step and each number of optional steps the matcher keeps the chain that starts
//! latest, and of those the one that is reported first. A chain with more optional steps may start
//! earlier than one with fewer and then fall out of the window, which is why the number is part
//! of the state.

use std::cmp::Ordering;

use super::funnel::{Best, Event, Matcher, Shape, backwards};
use super::in_window;

#[derive(Debug, Default)]
pub(super) struct Optional {
    /// For each last step, bit `c`: there is a chain with `c` optional steps.
    alive: Vec<u64>,
    /// For each state, when its chain started.
    starts: Vec<i64>,
    /// For each state, an event plus 1 for each step, 0 where the step is absent.
    chains: Vec<u32>,
    /// For each last step, the states that the event at hand made.
    reached: Vec<u64>,
}

impl Optional {
    fn state(shape: &Shape, step: usize, optional: usize) -> usize {
        step * (shape.optional.count_ones() as usize + 1) + optional
    }

    fn chain(&self, shape: &Shape, state: usize) -> &[u32] {
        &self.chains[state * shape.steps..(state + 1) * shape.steps]
    }

    /// Extends chains to `step` by `event`.
    fn extend(&mut self, shape: &Shape, step: usize, event: &Event, best: &mut Best) {
        let is_optional = usize::from(shape.optional & (1 << step) != 0);
        if step == 0 {
            if event.may_start {
                self.write(shape, None, Self::state(shape, 0, 0), 0, event);
                self.record(shape, 0, 0, event, best);
            }
            return;
        }
        for optional in is_optional..=shape.optional.count_ones() as usize {
            let Some(from) = self.predecessor(shape, step, optional - is_optional, event) else {
                continue;
            };
            // It replaces what was there: its start is no earlier, as the starts of the chains it
            // extends never become earlier, and on equal starts the later last event wins.
            self.write(
                shape,
                Some(from),
                Self::state(shape, step, optional),
                step,
                event,
            );
            self.record(shape, step, optional, event, best);
        }
    }

    /// The best chain that `step` can follow: it ends with the required step before, or with one of
    /// the optional steps between.
    fn predecessor(
        &self,
        shape: &Shape,
        step: usize,
        optional: usize,
        event: &Event,
    ) -> Option<usize> {
        let mut found: Option<usize> = None;
        for last in (0..step).rev() {
            let state = Self::state(shape, last, optional);
            let usable = self.alive[last] & (1 << optional) != 0
                && in_window(self.starts[state], event.time, shape.within);
            let better = |other: usize| {
                let by_start = self
                    .starts_at(shape, state)
                    .cmp(&self.starts_at(shape, other));
                let (chain, other) = (self.chain(shape, state), self.chain(shape, other));
                by_start.then_with(|| backwards(chain, other)) == Ordering::Greater
            };
            if usable && found.is_none_or(better) {
                found = Some(state);
            }
            if shape.optional & (1 << last) == 0 {
                break;
            }
        }
        found
    }

    /// The first event of a state's chain.
    fn starts_at(&self, shape: &Shape, state: usize) -> u32 {
        self.chains[state * shape.steps]
    }

    fn write(&mut self, shape: &Shape, from: Option<usize>, to: usize, step: usize, event: &Event) {
        let base = to * shape.steps;
        match from {
            Some(from) => {
                let start = from * shape.steps;
                self.chains.copy_within(start..start + shape.steps, base);
                self.starts[to] = self.starts[from];
            }
            None => {
                self.chains[base..base + shape.steps].fill(0);
                self.starts[to] = event.time;
            }
        }
        self.chains[base + step] = event.index + 1;
    }

    fn record(
        &mut self,
        shape: &Shape,
        step: usize,
        optional: usize,
        event: &Event,
        best: &mut Best,
    ) {
        self.reached[step] |= 1 << optional;
        self.alive[step] |= 1 << optional;
        let up_to = u64::MAX >> (63 - step);
        let level = (up_to & !shape.optional).count_ones() as usize;
        let chain = self.chain(shape, Self::state(shape, step, optional));
        let order = (level, optional).cmp(&(best.level, best.optional));
        // Of equal ones the earlier end stays; at one end, the later start.
        let wins = order.then_with(|| {
            if best.ends_at() != event.index + 1 {
                return Ordering::Less;
            }
            let by_start = chain[0].cmp(&best.chain[0]);
            by_start.then_with(|| backwards(chain, &best.chain))
        });
        if wins == Ordering::Greater {
            best.level = level;
            best.optional = optional;
            best.chain.clear();
            best.chain.extend_from_slice(chain);
        }
    }
}

impl Matcher for Optional {
    fn reset(&mut self, shape: &Shape) {
        let states = shape.steps * (shape.optional.count_ones() as usize + 1);
        self.alive.clear();
        self.alive.resize(shape.steps, 0);
        self.reached.clear();
        self.reached.resize(shape.steps, 0);
        if self.starts.len() < states {
            self.starts.resize(states, 0);
        }
        if self.chains.len() < states * shape.steps {
            self.chains.resize(states * shape.steps, 0);
        }
    }

    fn is_idle(&self) -> bool {
        self.alive.iter().all(|&alive| alive == 0)
    }

    fn push(&mut self, shape: &Shape, event: &Event, best: &mut Best) {
        let mut left = event.steps;
        while left != 0 {
            let step = 63 - left.leading_zeros() as usize;
            left &= !(1 << step);
            self.extend(shape, step, event, best);
        }
        if event.excluded
            && let Some((after, before)) = shape.exclusion
        {
            for step in after..before {
                let kept = if step == after { self.reached[step] } else { 0 };
                self.alive[step] &= kept;
            }
        }
        self.reached.fill(0);
    }
}
