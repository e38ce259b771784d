//! Tidying the runs of the id dictionary and of message ids: few, and none expired.

use crate::error::WriteError;
use crate::manifest::{ids_file, message_ids_file};
use crate::store::shared::{Shared, lock};

impl Shared {
    /// Merges dictionary runs that have become many, drops expired message ids, merges their runs.
    pub(crate) fn tidy_runs(&self) -> Result<(), WriteError> {
        while self.merge_ids()? {}
        self.drop_expired_message_ids()?;
        while self.merge_message_ids()? {}
        Ok(())
    }

    fn merge_ids(&self) -> Result<bool, WriteError> {
        let _one_at_a_time = lock(&self.tidying);
        let Some(runs) = self.dictionary.plan_merge() else {
            return Ok(false);
        };
        let number = self.take_file();
        let mut file = self.storage.create(&ids_file(number))?;
        let erased = roaring::RoaringBitmap::new();
        let merged = self.dictionary.merge(&runs, &erased, number, &mut *file)?;
        file.sync()?;
        self.storage.sync_directory("ids")?;
        let gone = |number| runs.iter().any(|run| run.number == number);
        self.publish(
            |manifest| {
                manifest.ids.retain(|run| !gone(run.number));
                manifest.ids.push(merged);
                manifest.ids.sort_by_key(|run| run.first);
            },
            |_| {},
        )?;
        crate::crash::crash_point!("ids.merged");
        self.take_over(self.dictionary.install_merged(&runs, merged))?;
        for run in &runs {
            self.storage.remove(&ids_file(run.number))?;
        }
        Ok(true)
    }

    fn drop_expired_message_ids(&self) -> Result<(), WriteError> {
        let _one_at_a_time = lock(&self.tidying);
        let now = self.options.clock.now();
        let expired = lock(&self.append).message_ids.expired(now);
        if expired.is_empty() {
            return Ok(());
        }
        self.publish(
            |manifest| {
                manifest
                    .message_ids
                    .retain(|run| !expired.contains(&run.number))
            },
            |_| {},
        )?;
        lock(&self.append).message_ids.drop_runs(&expired);
        for &number in &expired {
            self.storage.remove(&message_ids_file(number))?;
        }
        Ok(())
    }

    fn merge_message_ids(&self) -> Result<bool, WriteError> {
        let _one_at_a_time = lock(&self.tidying);
        let plan = lock(&self.append).message_ids.plan_merge();
        let Some(plan) = plan else { return Ok(false) };
        let number = self.take_file();
        let mut file = self.storage.create(&message_ids_file(number))?;
        let merged = plan.write(number, &mut *file)?;
        file.sync()?;
        self.storage.sync_directory("dedup")?;
        let old = plan.runs();
        self.publish(
            |manifest| {
                manifest.message_ids.retain(|run| !old.contains(run));
                manifest.message_ids.push(merged);
            },
            |_| {},
        )?;
        crate::crash::crash_point!("message_ids.merged");
        let installed = lock(&self.append).message_ids.install_merged(&plan, merged);
        self.take_over(installed)?;
        for run in old {
            self.storage.remove(&message_ids_file(run.number))?;
        }
        Ok(true)
    }
}
