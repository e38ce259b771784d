//! The calendar periods of times, told apart by consecutive numbers, and counts of users in them.

use std::collections::BTreeMap;

use crate::zone::{Bucket, CalendarUnit, Zone};

/// About what an entry of a map of counts costs.
pub(super) const ENTRY_BYTES: usize = 96;

/// Numbers the periods of times. Fast where times that follow each other mostly share a period.
#[derive(Clone, Debug)]
pub(super) struct Periods<'q> {
    zone: &'q Zone,
    unit: CalendarUnit,
    /// The period of the time before, and its number.
    known: Bucket,
    number: i64,
}

impl<'q> Periods<'q> {
    /// Periods of this unit in this zone.
    pub(super) fn new(zone: &'q Zone, unit: CalendarUnit) -> Self {
        Self {
            zone,
            unit,
            known: Bucket { start: 0, end: 0 },
            number: 0,
        }
    }

    /// The number of the period that `micros` lies in; that of the next is one more.
    pub(super) fn number(&mut self, micros: i64) -> i64 {
        // Hours can overlap where a clock is set by a part of one, so that each time is asked for.
        if self.unit == CalendarUnit::Hour {
            return self.zone.number(self.unit, micros);
        }
        if !self.known.contains(micros) {
            self.number = self.zone.number(self.unit, micros);
            self.known = self.zone.numbered(self.unit, self.number);
        }
        self.number
    }

    /// How many whole calendar units have passed from `start` to `end`, which is not earlier.
    pub(super) fn elapsed(&mut self, start: i64, end: i64) -> i64 {
        let most = self.number(end) - self.zone.number(self.unit, start);
        let mut passed = most.max(0);
        while passed > 0 && self.zone.later(self.unit, start, passed) > end {
            passed -= 1;
        }
        passed
    }
}

/// The counts of all threads.
pub(super) fn added_up<K: Ord>(
    threads: impl Iterator<Item = BTreeMap<K, u64>>,
) -> BTreeMap<K, u64> {
    let mut whole = BTreeMap::new();
    for (key, users) in threads.flatten() {
        *whole.entry(key).or_default() += users;
    }
    whole
}
