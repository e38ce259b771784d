//! Different steps in any order.
//!
//! Sets of events that can be matched to different steps are the independent sets of a transversal
//! matroid. The matcher keeps the latest basis of the events so far: going back from the latest
//! event, each that can still be matched together with those taken. By the exchange property that
//! basis, cut at the window's start, is the latest basis of the window, and adding an event drops at
//! most one element; so at most one event a step is kept, whatever the user did.

use super::funnel::{Best, Event, Matcher, Shape};
use super::in_window;

#[derive(Debug, Default)]
pub(super) struct AnyOrder {
    /// The latest basis, in order.
    basis: Vec<Element>,
    /// The last event that a chain may start with where starts are confined to a bucket.
    start: Option<Element>,
    /// The last excluded event before the event at hand: no chain reaches across it.
    barrier: u32,
    matching: Matching,
    forced: Vec<Element>,
}

#[derive(Clone, Copy, Debug)]
struct Element {
    index: u32,
    time: i64,
    steps: u64,
}

/// Events matched to different steps.
#[derive(Debug)]
struct Matching {
    /// Bit `s`: step `s` is taken.
    taken: u64,
    /// The steps that the event matched to a step satisfies.
    by: [u64; 64],
}

impl Default for Matching {
    fn default() -> Self {
        Self {
            taken: 0,
            by: [0; 64],
        }
    }
}

impl Matching {
    fn clear(&mut self) {
        self.taken = 0;
    }

    /// Adds an event if all can still be matched.
    fn add(&mut self, steps: u64) -> bool {
        let mut seen = 0;
        self.augment(steps, &mut seen)
    }

    /// Finds a step for `steps`, moving others on (Kuhn's augmenting path): at most 64 deep.
    fn augment(&mut self, steps: u64, seen: &mut u64) -> bool {
        let free = steps & !self.taken;
        if free != 0 {
            let step = free.trailing_zeros() as usize;
            self.taken |= 1 << step;
            self.by[step] = steps;
            return true;
        }
        while steps & !*seen != 0 {
            let step = (steps & !*seen).trailing_zeros() as usize;
            *seen |= 1 << step;
            if self.augment(self.by[step], seen) {
                self.by[step] = steps;
                return true;
            }
        }
        false
    }
}

impl AnyOrder {
    /// Adds an event to the basis, which drops the earliest that it makes superfluous.
    fn add(&mut self, element: Element) {
        self.basis.push(element);
        self.matching.clear();
        let mut dropped = None;
        for (position, element) in self.basis.iter().enumerate().rev() {
            if !self.matching.add(element.steps) {
                dropped = Some(position);
                break;
            }
        }
        if let Some(position) = dropped {
            self.basis.remove(position);
        }
    }

    /// The events of the basis that a chain ending with `event` may have.
    fn window(&self, shape: &Shape, event: &Event) -> &[Element] {
        let first = self
            .basis
            .partition_point(|element| !self.reaches(shape, element, event));
        &self.basis[first..]
    }

    /// True where one chain may have both.
    fn reaches(&self, shape: &Shape, element: &Element, event: &Event) -> bool {
        element.index + 1 >= self.barrier && in_window(element.time, event.time, shape.within)
    }

    /// The best chain that starts with `start`, among its start and the basis.
    fn force(&mut self, shape: &Shape, start: Element, event: &Event) {
        self.matching.clear();
        self.forced.clear();
        self.matching.add(start.steps);
        for element in self.basis.iter().rev() {
            let usable = element.index > start.index && self.reaches(shape, element, event);
            if usable && self.matching.add(element.steps) {
                self.forced.push(*element);
            }
        }
        self.forced.push(start);
        self.forced.reverse();
    }
}

impl Matcher for AnyOrder {
    fn reset(&mut self, _shape: &Shape) {
        self.basis.clear();
        self.start = None;
        self.barrier = 0;
    }

    fn is_idle(&self) -> bool {
        self.basis.is_empty()
    }

    fn push(&mut self, shape: &Shape, event: &Event, best: &mut Best) {
        if event.steps != 0 {
            let element = Element {
                index: event.index,
                time: event.time,
                steps: event.steps,
            };
            self.add(element);
            if event.may_start {
                self.start = Some(element);
            }
            let level = self.window(shape, event).len();
            let start = self.start.filter(|start| self.reaches(shape, start, event));
            if let Some(start) = start
                && level > best.level
            {
                let window = self.window(shape, event);
                let chain = if window[0].index <= start.index {
                    window
                } else {
                    // All of the best chain lies after the bucket: one event of the bucket can
                    // always take the place of another of its events.
                    self.force(shape, start, event);
                    &self.forced
                };
                best.level = level;
                best.chain.clear();
                best.chain
                    .extend(chain.iter().map(|element| element.index + 1));
                best.chain.resize(shape.steps, 0);
            }
        }
        if event.excluded {
            self.barrier = event.index + 1;
        }
    }
}
