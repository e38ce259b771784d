//! Memory that queries hold, counted against one limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::control::QueryError;

/// Bytes that queries may hold together: what one takes, the others cannot. Cheap to clone.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    counts: Arc<Counts>,
}

#[derive(Debug)]
struct Counts {
    limit: usize,
    used: AtomicUsize,
    peak: AtomicUsize,
}

/// Memory that a part of a query holds; given back when dropped.
#[derive(Debug)]
pub(crate) struct Reservation<'a> {
    budget: &'a MemoryBudget,
    bytes: usize,
}

impl MemoryBudget {
    /// A budget of `limit` bytes, of which nothing is used.
    pub fn new(limit: usize) -> Self {
        Self {
            counts: Arc::new(Counts {
                limit,
                used: AtomicUsize::new(0),
                peak: AtomicUsize::new(0),
            }),
        }
    }

    /// Bytes that may be held at once.
    pub fn limit(&self) -> usize {
        self.counts.limit
    }

    /// Bytes that are held now.
    pub fn used(&self) -> usize {
        self.counts.used.load(Ordering::Relaxed)
    }

    /// Most bytes that were held at once.
    pub fn peak(&self) -> usize {
        self.counts.peak.load(Ordering::Relaxed)
    }

    /// Takes `bytes`, or nothing where they would be too many.
    pub(crate) fn take(&self, bytes: usize) -> Result<(), QueryError> {
        let more = |used: usize| {
            let used = used.checked_add(bytes)?;
            (used <= self.limit()).then_some(used)
        };
        let counts = &self.counts;
        match counts
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
        {
            Ok(before) => {
                counts.peak.fetch_max(before + bytes, Ordering::Relaxed);
                Ok(())
            }
            Err(_) => Err(QueryError::OutOfMemory {
                limit: self.limit(),
                wanted: bytes,
            }),
        }
    }

    /// Takes `bytes` that somebody holds already, however many they are.
    #[cfg(feature = "sql")]
    pub(crate) fn take_anyway(&self, bytes: usize) {
        let before = self.counts.used.fetch_add(bytes, Ordering::Relaxed);
        let now = before.saturating_add(bytes);
        self.counts.peak.fetch_max(now, Ordering::Relaxed);
    }

    /// Gives back what was taken.
    pub(crate) fn give_back(&self, bytes: usize) {
        self.counts.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// An empty reservation, to be grown.
    pub(crate) fn reservation(&self) -> Reservation<'_> {
        Reservation {
            budget: self,
            bytes: 0,
        }
    }
}

impl Reservation<'_> {
    /// What it has reserved.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Reserves `bytes` more.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), QueryError> {
        self.budget.take(bytes)?;
        self.bytes += bytes;
        Ok(())
    }

    /// Reserves what is missing to hold `bytes` in all; never gives any back.
    pub(crate) fn at_least(&mut self, bytes: usize) -> Result<(), QueryError> {
        match bytes.checked_sub(self.bytes) {
            Some(more) if more > 0 => self.grow(more),
            _ => Ok(()),
        }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_one_for_all_parts() {
        let budget = MemoryBudget::new(100);
        let mut one = budget.reservation();
        one.grow(60).unwrap();
        let same = budget.clone();
        let mut other = same.reservation();
        assert!(matches!(
            other.grow(60),
            Err(QueryError::OutOfMemory {
                limit: 100,
                wanted: 60
            })
        ));
        other.grow(40).unwrap();
        assert_eq!((budget.used(), budget.peak()), (100, 100));
        assert!(other.grow(usize::MAX).is_err());
        drop((one, other));
        assert_eq!((budget.used(), budget.peak()), (0, 100));
    }
}
