//! Step after step, nothing optional: ordered and strict funnels.
//!
//! For each step the matcher keeps the chain that ends there and starts latest. A later start can
//! be extended wherever an earlier one can, so one chain a step is enough; and as every event
//! that can end a chain of the same start replaces it, each of its events is the latest possible,
//! which is the order in which chains are reported.

use super::funnel::{Best, Event, Matcher, Shape};
use super::in_window;

#[derive(Debug, Default)]
pub(super) struct Ordered {
    /// Bit `s`: there is a chain that ends with step `s`.
    alive: u64,
    /// For each step, when its chain started.
    starts: Vec<i64>,
    /// For each step, the position of its chain's last event.
    positions: Vec<u32>,
    /// For each step `s`, `s + 1` events, each plus 1.
    chains: Vec<u32>,
}

impl Ordered {
    /// The chain that ends with `step`.
    pub(super) fn chain(&self, shape: &Shape, step: usize) -> &[u32] {
        let base = step * shape.steps;
        &self.chains[base..=base + step]
    }

    /// Extends chains by `event`; returns the steps it ends a chain of.
    pub(super) fn advance(&mut self, shape: &Shape, event: &Event) -> u64 {
        let mut reached = 0_u64;
        let mut left = event.steps;
        // Downwards, so that no chain uses the event twice.
        while left != 0 {
            let step = 63 - left.leading_zeros() as usize;
            left &= !(1 << step);
            if step == 0 {
                if event.may_start {
                    self.starts[0] = event.time;
                    self.chains[0] = event.index + 1;
                    self.positions[0] = event.position;
                    reached |= 1;
                }
            } else if self.can_extend(shape, step - 1, event) {
                let (from, to) = ((step - 1) * shape.steps, step * shape.steps);
                self.chains.copy_within(from..from + step, to);
                self.chains[to + step] = event.index + 1;
                self.starts[step] = self.starts[step - 1];
                self.positions[step] = event.position;
                reached |= 1 << step;
            }
        }
        self.alive |= reached;
        if event.excluded {
            self.exclude(shape, reached);
        }
        reached
    }

    /// True where a chain waits for an event.
    fn can_extend(&self, shape: &Shape, step: usize, event: &Event) -> bool {
        self.alive & (1 << step) != 0
            && in_window(self.starts[step], event.time, shape.within)
            && (!shape.strict || self.positions[step].wrapping_add(1) == event.position)
    }

    /// The event lies strictly inside every later chain that has passed the first bound and not
    /// the second, unless it is the first bound itself.
    fn exclude(&mut self, shape: &Shape, reached: u64) {
        if let Some((after, before)) = shape.exclusion {
            let between = (1_u64 << before).wrapping_sub(1 << after);
            self.alive &= !between | (reached & (1 << after));
        }
    }
}

impl Matcher for Ordered {
    fn reset(&mut self, shape: &Shape) {
        self.alive = 0;
        if self.starts.len() < shape.steps {
            self.starts.resize(shape.steps, 0);
            self.positions.resize(shape.steps, 0);
        }
        let cells = shape.steps * shape.steps;
        if self.chains.len() < cells {
            self.chains.resize(cells, 0);
        }
    }

    fn is_idle(&self) -> bool {
        self.alive == 0
    }

    fn push(&mut self, shape: &Shape, event: &Event, best: &mut Best) {
        if event.steps == 0 && !event.excluded {
            return;
        }
        let reached = self.advance(shape, event);
        if reached == 0 {
            return;
        }
        let step = 63 - reached.leading_zeros() as usize;
        // The first chain of a length ends earliest.
        if step + 1 > best.level {
            best.level = step + 1;
            best.chain.clear();
            best.chain.extend_from_slice(self.chain(shape, step));
            best.chain.resize(shape.steps, 0);
        }
    }
}
