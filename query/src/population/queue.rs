//! Events waiting for their hour: generated out of order, given out in order of time.

use std::collections::VecDeque;

/// Milliseconds in an hour, the slice of time that is sorted at once.
pub(super) const HOUR_MILLIS: u64 = 3_600_000;
/// "None" in [`Event::product`].
pub(super) const NO_PRODUCT: u32 = u32::MAX;
/// "None" in [`Event::campaign`] and [`Event::platform`].
pub(super) const NONE: u8 = u8::MAX;

/// One event, compact: a large population has millions of them waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// Milliseconds since the population's start.
    pub(super) time_millis: u64,
    /// The person.
    pub(super) rank: u32,
    /// The product, or [`NO_PRODUCT`].
    pub(super) product: u32,
    /// The order, or 0.
    pub(super) order: u32,
    /// Cents paid, or 0.
    pub(super) amount_cents: u32,
    /// Index into the names of events.
    pub(super) name: u8,
    /// Index into the platforms, or [`NONE`].
    pub(super) platform: u8,
    /// Index into the campaigns, or [`NONE`].
    pub(super) campaign: u8,
}

/// Buckets of an hour each, from the current hour on.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue {
    hour: u64,
    buckets: VecDeque<Vec<Event>>,
}

impl Queue {
    /// Adds an event of the current hour or a later one.
    pub(super) fn push(&mut self, event: Event) {
        let ahead = (event.time_millis / HOUR_MILLIS - self.hour) as usize;
        if self.buckets.len() <= ahead {
            self.buckets.resize_with(ahead + 1, Vec::new);
        }
        self.buckets[ahead].push(event);
    }

    /// The current hour's events in order of time, and steps to the next hour.
    ///
    /// No user has two events at one time: of two, the later one moves by a millisecond, into the
    /// next hour where need be.
    pub(super) fn pop_hour(&mut self) -> Vec<Event> {
        let mut events = self.buckets.pop_front().unwrap_or_default();
        self.hour += 1;
        let end = self.hour * HOUR_MILLIS;
        let key = |event: &Event| (event.time_millis, event.rank);
        // Stable: which of two events at one time came first decides which of them moves.
        events.sort_by_key(key);
        let mut index = 1;
        while index < events.len() {
            if key(&events[index]) != key(&events[index - 1]) {
                index += 1;
                continue;
            }
            events[index].time_millis += 1;
            let mut at = index;
            while at + 1 < events.len() && key(&events[at]) > key(&events[at + 1]) {
                events.swap(at, at + 1);
                at += 1;
            }
        }
        while let Some(moved) = events.pop_if(|event| event.time_millis >= end) {
            self.push(moved);
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(time_millis: u64, rank: u32, name: u8) -> Event {
        Event {
            time_millis,
            rank,
            product: NO_PRODUCT,
            order: 0,
            amount_cents: 0,
            name,
            platform: NONE,
            campaign: NONE,
        }
    }

    #[test]
    fn ties_of_one_user_move_on_even_into_the_next_hour() {
        let mut queue = Queue::default();
        let last = HOUR_MILLIS - 1;
        for (name, rank) in [(0, 1), (1, 1), (2, 2), (3, 1)] {
            queue.push(event(last, rank, name));
        }
        queue.push(event(5, 1, 4));
        queue.push(event(5, 1, 5));
        queue.push(event(6, 1, 6));
        let short = |events: Vec<Event>| -> Vec<(u64, u32)> {
            events
                .iter()
                .map(|event| (event.time_millis, event.rank))
                .collect()
        };
        assert_eq!(
            short(queue.pop_hour()),
            [(5, 1), (6, 1), (7, 1), (last, 1), (last, 2)]
        );
        assert_eq!(short(queue.pop_hour()), [(last + 1, 1), (last + 2, 1)]);
        assert_eq!(short(queue.pop_hour()), []);
    }
}
