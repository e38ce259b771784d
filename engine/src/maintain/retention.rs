//! Retention by age: partitions that have wholly passed the age are dropped, files and all.

use crate::error::WriteError;
use crate::segment::Partition;
use crate::store::shared::{Shared, lock};

impl Shared {
    /// Drops the partitions that the retention option has passed.
    pub(crate) fn drop_expired(&self) -> Result<(), WriteError> {
        match self.options.retain_micros {
            Some(retain) => {
                let oldest = self.options.clock.now().saturating_sub(retain);
                self.drop_before(oldest).map(|_| ())
            }
            None => Ok(()),
        }
    }

    /// Drops the partitions that end at or before `time`. Returns how many segments went.
    pub(crate) fn drop_before(&self, time: i64) -> Result<usize, WriteError> {
        // A compaction of the same segments would bring them back.
        let _no_compaction = lock(&self.compacting);
        let version = self.version();
        let length = version.manifest.partition_micros;
        let passed = |partition: Partition| match partition {
            Partition::Events(number) => number
                .checked_add(1)
                .and_then(|next| next.checked_mul(length))
                .is_some_and(|end| end <= time),
            Partition::Traits => false,
        };
        let entries = &version.manifest.segments;
        let numbers: Vec<u64> = entries
            .iter()
            .filter(|entry| passed(entry.meta.partition))
            .map(|entry| entry.number)
            .collect();
        if !numbers.is_empty() {
            self.replace_segments(&numbers, Vec::new())?;
            crate::crash::crash_point!("drop.published");
            self.remove_segments(&numbers)?;
        }
        Ok(numbers.len())
    }
}
