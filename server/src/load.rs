//! A store as the target of imports: large inputs go straight into segments, those with message
//! ids through the log, where they are de-duplicated. Both keep the ledger.

use pugmark_engine::{BulkLoad, EventBatch, Progress, Store, StoreBuilder, WriteError};

use crate::import::{Begun, EventSink, ImportError, ImportTarget};

/// Imports into a store, which is opened when the first input is found to be readable.
#[derive(Clone, Debug)]
pub struct StoreTarget {
    store: Opening,
    duplicates: u64,
}

/// A store that is open, or will be.
#[derive(Clone, Debug)]
enum Opening {
    Later(StoreBuilder),
    Open(Store),
}

impl StoreTarget {
    /// Imports into the store that `builder` opens or creates.
    pub fn new(builder: StoreBuilder) -> Self {
        Self {
            store: Opening::Later(builder),
            duplicates: 0,
        }
    }

    /// Imports into a store that is open already.
    pub fn over(store: Store) -> Self {
        Self {
            store: Opening::Open(store),
            duplicates: 0,
        }
    }

    /// The store, if anything was begun.
    pub fn store(&self) -> Option<&Store> {
        match &self.store {
            Opening::Open(store) => Some(store),
            Opening::Later(_) => None,
        }
    }

    /// Events whose message id had arrived before: acknowledged, not stored again.
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }
}

impl ImportTarget for StoreTarget {
    fn begin(&mut self, key: u128, message_ids: bool) -> Result<Begun<'_>, ImportError> {
        let store = match &self.store {
            Opening::Open(store) => store.clone(),
            Opening::Later(builder) => {
                let store = builder.clone().open()?;
                self.store = Opening::Open(store.clone());
                store
            }
        };
        let progress = store.progress(key)?;
        let rows_done = progress.map_or(0, |progress| progress.rows_done);
        if progress.is_some_and(|progress| progress.complete) {
            return Ok(Begun::Complete);
        }
        let sink: Box<dyn EventSink + '_> = match message_ids {
            true => Box::new(Logged {
                store,
                duplicates: &mut self.duplicates,
                key,
                waiting: None,
            }),
            false => Box::new(Bulk(store.bulk_load(key)?)),
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
    store: Store,
    duplicates: &'a mut u64,
    key: u128,
    waiting: Option<(EventBatch, u64)>,
}

impl Logged<'_> {
    fn log(&mut self, batch: EventBatch, rows_done: u64, complete: bool) -> Result<(), WriteError> {
        let progress = Progress {
            key: self.key,
            rows_done,
            complete,
        };
        let appended = self.store.append_with_progress(batch, progress)?;
        *self.duplicates += appended.duplicates;
        Ok(())
    }
}

impl EventSink for Logged<'_> {
    fn append(&mut self, batch: EventBatch, rows_done: u64) -> Result<(), WriteError> {
        match self.waiting.replace((batch, rows_done)) {
            Some((earlier, rows_done)) => self.log(earlier, rows_done, false),
            None => Ok(()),
        }
    }

    fn finish(mut self: Box<Self>, rows_done: u64) -> Result<(), WriteError> {
        match self.waiting.take() {
            Some((last, _)) => self.log(last, rows_done, true),
            // Nothing to store: a bulk load of nothing notes the completion alone.
            None => self.store.bulk_load(self.key)?.finish(rows_done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::{ImportOptions, Meter, import_files};
    use std::path::{Path, PathBuf};

    fn import(path: &Path, file: &Path, options: &ImportOptions) -> (u64, bool, u64) {
        let mut target = StoreTarget::new(Store::builder(path));
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
        assert_eq!(import(&path, &file, &options), (100_000, false, 0));
        assert_eq!(import(&path, &file, &options), (0, true, 0));
        options.message_id = Some("id".to_owned());
        assert_eq!(import(&path, &file, &options), (100_000, false, 50_000));
        let store = Store::builder(&path).open().unwrap();
        let stats = store.stats().unwrap();
        assert_eq!((stats.events, stats.users), (150_000, 7));
        store.verify().unwrap();
    }

    #[test]
    fn what_cannot_be_read_creates_no_store() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let file = directory.path().join("a.csv");
        std::fs::write(&file, "user,time\n").unwrap();
        for file in [file, directory.path().join("none.csv")] {
            let mut target = StoreTarget::new(Store::builder(&path));
            let options = ImportOptions::new("user", "time", "event");
            import_files(&[file], &options, &mut target, &Meter::default()).unwrap_err();
        }
        assert!(!path.exists());
    }

    #[test]
    fn an_empty_file_is_complete_too() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.csv");
        std::fs::write(&file, "user,time,event,id\n").unwrap();
        let path = directory.path().join("store");
        for message_id in [None, Some("id".to_owned())] {
            let mut options = ImportOptions::new("user", "time", "event");
            options.message_id = message_id;
            assert_eq!(import(&path, &file, &options), (0, false, 0));
            assert_eq!(import(&path, &file, &options), (0, true, 0));
        }
    }
}
