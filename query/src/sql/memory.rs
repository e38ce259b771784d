//! One limit of memory for all that works on a statement: DataFusion's operators and questions.
//!
//! Operators that can spill share half of it evenly. The other half stays free for what cannot:
//! questions, the tables of joins, and the merging of what was spilled take what they need from
//! the whole.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datafusion::common::{DataFusionError, Result};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{
    MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};

use super::error::needs_more_memory;
use super::settings::Settings;
use crate::exec::MemoryBudget;

/// What DataFusion runs a statement in: memory from `budget`, and files for what does not fit.
pub(super) fn runtime(settings: &Settings, budget: &MemoryBudget) -> Result<Arc<RuntimeEnv>> {
    let mode = match &settings.temp_directory {
        Some(directory) => DiskManagerMode::Directories(vec![directory.clone()]),
        None => DiskManagerMode::OsTmpDirectory,
    };
    let files = DiskManagerBuilder::default()
        .with_mode(mode)
        .with_max_temp_directory_size(settings.spill_bytes);
    RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(StatementPool::new(budget.clone())))
        .with_disk_manager_builder(files)
        .build_arc()
}

/// Bytes that each part of a sort keeps for merging what it spilled: they must be there before
/// the first row is taken, so they are few where the limit is low.
pub(super) fn merge_bytes(settings: &Settings, threads: usize) -> usize {
    const MOST: usize = 10 << 20;
    (settings.memory_bytes / threads.max(1) / 16).min(MOST)
}

/// Rows of a batch at most: a sort must hold one twice within its share of the limit.
pub(super) fn batch_rows(limit: usize) -> usize {
    (limit >> 14).clamp(1 << 10, 1 << 15)
}

/// DataFusion's view of a statement's budget.
#[derive(Debug)]
struct StatementPool {
    budget: MemoryBudget,
    spilling: Mutex<Spilling>,
}

/// Operators that can spill.
#[derive(Debug, Default)]
struct Spilling {
    consumers: usize,
    /// What they hold together.
    bytes: usize,
}

impl StatementPool {
    fn new(budget: MemoryBudget) -> Self {
        Self {
            budget,
            spilling: Mutex::default(),
        }
    }

    fn spilling(&self) -> MutexGuard<'_, Spilling> {
        self.spilling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that one of the operators that can spill may hold.
    fn share(&self, spilling: &Spilling) -> usize {
        let limit = self.budget.limit();
        let others = self.budget.used().saturating_sub(spilling.bytes);
        let free = limit.saturating_sub(others).min(limit / 2);
        free / spilling.consumers.max(1)
    }
}

impl fmt::Display for StatementPool {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (used, limit) = (self.budget.used(), self.budget.limit());
        write!(out, "memory of a statement ({used} of {limit} bytes used)")
    }
}

impl MemoryPool for StatementPool {
    fn name(&self) -> &'static str {
        "statement"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.spilling().consumers += usize::from(consumer.can_spill());
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.spilling().consumers -= usize::from(consumer.can_spill());
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.budget.take_anyway(additional);
        if reservation.consumer().can_spill() {
            self.spilling().bytes += additional;
        }
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        if reservation.consumer().can_spill() {
            self.spilling().bytes -= shrink;
        }
        self.budget.give_back(shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let consumer = reservation.consumer();
        // DataFusion takes this kind of error, and no other, as a reason to spill.
        let refused = || {
            let text = needs_more_memory(self.budget.limit(), additional, consumer.name());
            DataFusionError::ResourcesExhausted(text)
        };
        if !consumer.can_spill() {
            return self.budget.take(additional).map_err(|_| refused());
        }
        let mut spilling = self.spilling();
        if reservation.size().saturating_add(additional) > self.share(&spilling) {
            return Err(refused());
        }
        self.budget.take(additional).map_err(|_| refused())?;
        spilling.bytes += additional;
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.budget.used()
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.budget.limit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn consumer(pool: &Arc<dyn MemoryPool>, spills: bool) -> MemoryReservation {
        MemoryConsumer::new("one")
            .with_can_spill(spills)
            .register(pool)
    }

    #[test]
    fn who_can_spill_leaves_room_for_who_cannot() {
        let budget = MemoryBudget::new(1_000);
        let pool: Arc<dyn MemoryPool> = Arc::new(StatementPool::new(budget.clone()));
        let (one, other) = (consumer(&pool, true), consumer(&pool, true));
        assert!(one.try_grow(251).is_err());
        one.try_grow(250).unwrap();
        other.try_grow(250).unwrap();
        budget.take(200).unwrap();
        let rest = consumer(&pool, false);
        let error = rest.try_grow(301).unwrap_err().to_string();
        assert!(error.contains("memory_limit"), "{error}");
        rest.try_grow(300).unwrap();
        assert!(budget.take(1).is_err());
        // What others hold does not make a share smaller than it must be.
        one.shrink(1);
        one.try_grow(1).unwrap();
        drop((one, other, rest));
        assert_eq!(budget.used(), 200);
        // What the others hold is no spiller's.
        budget.take(600).unwrap();
        let last = consumer(&pool, true);
        assert!(last.try_grow(201).is_err());
        last.try_grow(200).unwrap();
        last.free();
        budget.give_back(800);
        assert_eq!((budget.used(), budget.peak()), (0, 1_000));
    }
}
