//! A store as the target of imports: large inputs go straight into segments, those with message
//! ids through the log, where they are de-duplicated. Both keep the ledger.

use pugmark_engine::{BulkLoad, EventBatch, Progress, Store, WriteError};

use crate::import::{Begun, EventSink, ImportTarget};

/// Imports into a store.
#[derive(Clone, Debug)]
pub struct StoreTarget {
    store: Store,
    duplicates: u64,
}

impl StoreTarget {
    /// Imports into `store`, which must be open for writing.
    pub fn new(store: Store) -> Self {
        Self {
            store,
            duplicates: 0,
        }
    }

    /// Events whose message id had arrived before: acknowledged, not stored again.
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }
}

impl ImportTarget for StoreTarget {
    fn begin(&mut self, key: u128, message_ids: bool) -> Result<Begun<'_>, WriteError> {
        let progress = self.store.progress(key)?;
        let rows_done = progress.map_or(0, |progress| progress.rows_done);
        if progress.is_some_and(|progress| progress.complete) {
            return Ok(Begun::Complete);
        }
        let sink: Box<dyn EventSink + '_> = match message_ids {
            true => Box::new(Logged {
                target: self,
                key,
                waiting: None,
            }),
            false => Box::new(Bulk(self.store.bulk_load(key)?)),
        };
        Ok(Begun::From { rows_done, sink })
    }
}

/// Straight into segments.
struct Bulk(BulkLoad);

impl EventSink for Bulk {
    fn append(&mut self, batch: EventBatch, rows_done: u64) -> Result<(), WriteError> {
        self.0.append(batch, rows_done)
    }

    fn finish(self: Box<Self>, rows_done: u64) -> Result<(), WriteError> {
        self.0.finish(rows_done)
    }
}

/// Through the log. One batch waits, so that the last one can say that it is the last.
struct Logged<'a> {
    target: &'a mut StoreTarget,
    key: u128,
    waiting: Option<(EventBatch, u64)>,
}

impl Logged<'_> {
    fn store(
        &mut self,
        batch: EventBatch,
        rows_done: u64,
        complete: bool,
    ) -> Result<(), WriteError> {
        let progress = Progress {
            key: self.key,
            rows_done,
            complete,
        };
        let appended = self.target.store.append_with_progress(batch, progress)?;
        self.target.duplicates += appended.duplicates;
        Ok(())
    }
}

impl EventSink for Logged<'_> {
    fn append(&mut self, batch: EventBatch, rows_done: u64) -> Result<(), WriteError> {
        match self.waiting.replace((batch, rows_done)) {
            Some((earlier, rows_done)) => self.store(earlier, rows_done, false),
            None => Ok(()),
        }
    }

    fn finish(mut self: Box<Self>, rows_done: u64) -> Result<(), WriteError> {
        match self.waiting.take() {
            Some((last, _)) => self.store(last, rows_done, true),
            // Nothing to store: a bulk load of nothing notes the completion alone.
            None => self.target.store.bulk_load(self.key)?.finish(rows_done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::{ImportOptions, Meter, import_files};
    use std::path::PathBuf;

    fn import(store: &Store, file: &std::path::Path, options: &ImportOptions) -> (u64, bool, u64) {
        let mut target = StoreTarget::new(store.clone());
        let files = [PathBuf::from(file)];
        let reports = import_files(&files, options, &mut target, &Meter::default()).unwrap();
        (
            reports[0].events,
            reports[0].imported_before,
            target.duplicates(),
        )
    }

    #[test]
    fn imports_are_stored_once_with_and_without_message_ids() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.csv");
        let row = |row: u32| format!("{},{row},e,m{}\n", row % 7, row / 2);
        let rows: String = (0..100_000).map(row).collect();
        std::fs::write(&file, format!("user,time,event,id\n{rows}")).unwrap();
        let mut options = ImportOptions::new("user", "time", "event");
        let path = directory.path().join("store");
        let store = Store::builder(&path).open().unwrap();
        assert_eq!(import(&store, &file, &options), (100_000, false, 0));
        assert_eq!(import(&store, &file, &options), (0, true, 0));
        options.message_id = Some("id".to_owned());
        assert_eq!(import(&store, &file, &options), (100_000, false, 50_000));
        drop(store);
        let store = Store::builder(&path).open().unwrap();
        assert_eq!(import(&store, &file, &options), (0, true, 0));
        let stats = store.stats().unwrap();
        assert_eq!((stats.events, stats.users), (150_000, 7));
        store.verify().unwrap();
    }

    #[test]
    fn an_empty_file_is_complete_too() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.csv");
        std::fs::write(&file, "user,time,event,id\n").unwrap();
        let store = Store::builder(directory.path().join("store"))
            .open()
            .unwrap();
        for message_id in [None, Some("id".to_owned())] {
            let mut options = ImportOptions::new("user", "time", "event");
            options.message_id = message_id;
            assert_eq!(import(&store, &file, &options), (0, false, 0));
            assert_eq!(import(&store, &file, &options), (0, true, 0));
        }
    }
}
