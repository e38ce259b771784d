//! Files that clients send: kept beside the store until they are whole, then imported as by the
//! command line, one after the other.
//!
//! What a client calls its import by tells one from another. A file that broke off is gone on with
//! where it ended; one that was imported, or half imported when the service died, is known by the
//! store's own ledger when it is sent again.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use pugmark_engine::Store;
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::keys::Caller;
use crate::import::{FileReport, ImportError, ImportOptions, Meter, Phase, import_files};
use crate::load::StoreTarget;

/// Imports that are told of after their end.
const MOST_KNOWN: usize = 1_000;
/// How long a file that broke off is kept.
const KEPT: Duration = Duration::from_secs(7 * 86_400);
/// Bytes of refused rows that are told.
const MOST_TOLD: u64 = 16 << 10;

/// The imports of a service.
pub struct Imports {
    folder: PathBuf,
    known: Mutex<BTreeMap<String, Arc<Importing>>>,
    /// Imports run one after the other.
    turn: Arc<Mutex<()>>,
}

/// An import.
pub struct Importing {
    path: PathBuf,
    /// Somebody is sending it, or it is being stored.
    busy: AtomicBool,
    received: AtomicU64,
    meter: Meter,
    state: Mutex<State>,
}

enum State {
    Receiving,
    Waiting,
    Loading,
    Done(Json),
    Failed(String),
}

/// Why an import cannot be begun.
#[derive(Debug, Error)]
pub enum NotBegun {
    /// It is being sent or stored already.
    #[error("this import is being sent or stored; GET /v1/imports/{{key}} tells how far it is")]
    Busy,
    /// So much of it is there, and not as much as was said.
    #[error(
        "{0} bytes of this import are here; go on there (Upload-Offset), or begin anew without it"
    )]
    Elsewhere(u64),
    /// The file cannot be kept.
    #[error("the file cannot be kept: {0}")]
    Io(#[from] std::io::Error),
}

/// Why a file was not imported.
#[derive(Debug)]
pub struct NotLoaded {
    /// What is wrong.
    pub message: String,
    /// Whether the store, and not the file, is what is wrong.
    pub of_store: bool,
}

/// A file that is being received. Whoever drops it leaves it as it is.
pub struct Receiving {
    importing: Arc<Importing>,
    file: File,
}

impl Imports {
    /// Imports whose files are kept in `folder`. What broke off long ago is removed.
    pub fn new(folder: PathBuf) -> Self {
        let old = |path: &Path| {
            let modified = path.metadata().and_then(|metadata| metadata.modified());
            let age = modified
                .ok()
                .and_then(|at| SystemTime::now().duration_since(at).ok());
            age.is_some_and(|age| age > KEPT)
        };
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if old(&entry.path()) {
                let _still_there = std::fs::remove_file(entry.path());
            }
        }
        Self {
            folder,
            known: Mutex::default(),
            turn: Arc::default(),
        }
    }

    /// What an import is known by: nobody reaches those of others.
    pub fn id(caller: &Caller, key: &str) -> String {
        let of = caller.id().unwrap_or_default();
        let digest = Sha256::digest(format!("{of}\0{key}"));
        digest[..16]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// Begins to receive a file, from `offset` on, or anew.
    ///
    /// # Errors
    /// See [`NotBegun`].
    pub fn receive(&self, id: &str, offset: Option<u64>) -> Result<Receiving, NotBegun> {
        std::fs::create_dir_all(&self.folder)?;
        let importing = self.importing(id);
        if importing.busy.swap(true, Ordering::AcqRel) {
            return Err(NotBegun::Busy);
        }
        let opened = open(&importing, offset);
        if opened.is_err() {
            importing.busy.store(false, Ordering::Release);
        }
        Ok(Receiving {
            file: opened?,
            importing,
        })
    }

    /// How far an import is; `None` where there is none.
    pub fn progress(&self, id: &str) -> Option<Json> {
        let known = self.lock().get(id).cloned();
        match known {
            Some(importing) => Some(importing.told()),
            None => {
                let received = self.path(id).metadata().ok()?.len();
                Some(json!({ "state": "receiving", "received": received }))
            }
        }
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(id)
    }

    fn importing(&self, id: &str) -> Arc<Importing> {
        let mut known = self.lock();
        if known.len() >= MOST_KNOWN {
            known.retain(|_, importing| importing.busy.load(Ordering::Relaxed));
        }
        let importing = known.entry(id.to_owned()).or_insert_with(|| {
            Arc::new(Importing {
                path: self.path(id),
                busy: AtomicBool::new(false),
                received: AtomicU64::new(0),
                meter: Meter::default(),
                state: Mutex::new(State::Receiving),
            })
        });
        Arc::clone(importing)
    }

    /// Imports a file that is whole, on a thread of its own, which goes on where nobody waits.
    ///
    /// # Errors
    /// Where there is no thread.
    pub fn load(
        &self,
        receiving: Receiving,
        options: ImportOptions,
        store: Store,
        done: impl FnOnce(Result<Json, NotLoaded>) + Send + 'static,
    ) -> std::io::Result<()> {
        let turn = Arc::clone(&self.turn);
        let thread = std::thread::Builder::new().name("pugmark-import".to_owned());
        thread
            .spawn(move || {
                receiving.importing.set(State::Waiting);
                let turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
                receiving.importing.set(State::Loading);
                let loaded = load(&receiving.importing, options, store);
                drop(turn);
                receiving.importing.set(match &loaded {
                    Ok(report) => State::Done(report.clone()),
                    Err(error) => State::Failed(error.message.clone()),
                });
                drop(receiving);
                done(loaded);
            })
            .map(|_| ())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Importing>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(importing: &Importing, offset: Option<u64>) -> Result<File, NotBegun> {
    let mut options = OpenOptions::new();
    options.create(true).append(offset.is_some()).write(true);
    let file = options.truncate(offset.is_none()).open(&importing.path)?;
    let received = file.metadata()?.len();
    importing.received.store(received, Ordering::Relaxed);
    importing.set(State::Receiving);
    match offset {
        Some(offset) if offset != received => Err(NotBegun::Elsewhere(received)),
        _ => Ok(file),
    }
}

fn load(
    importing: &Importing,
    mut options: ImportOptions,
    store: Store,
) -> Result<Json, NotLoaded> {
    // Where it is kept is nobody's business.
    let kept = importing.path.display().to_string();
    let rejects = importing.path.with_extension("rejects");
    options.rejects = Some(rejects.clone());
    let mut target = StoreTarget::over(store);
    let files = [importing.path.clone()];
    let loaded = import_files(&files, &options, &mut target, &importing.meter);
    let refused = beginning(&rejects).map(|rows| rows.replace(&kept, "the file"));
    let _none = std::fs::remove_file(&rejects);
    // What failed to be written is kept, to be gone on with.
    let of_store = matches!(loaded, Err(ImportError::Write(_) | ImportError::Open(_)));
    if !of_store {
        let _gone = std::fs::remove_file(&importing.path);
    }
    match loaded {
        Ok(mut reports) => {
            let report = reports.pop().unwrap_or_default();
            Ok(told(&report, target.duplicates(), refused))
        }
        Err(error) => Err(NotLoaded {
            message: error.to_string().replace(&kept, "the file"),
            of_store,
        }),
    }
}

/// What became of a file.
fn told(report: &FileReport, duplicates: u64, refused: Option<String>) -> Json {
    json!({
        "imported_before": report.imported_before,
        "resumed_after": report.resumed_after,
        "rows": report.rows,
        "events": report.events - duplicates.min(report.events),
        "duplicates": duplicates,
        "rejected": report.rejected,
        "rejected_rows": refused,
    })
}

/// The beginning of a file of refused rows.
fn beginning(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    let file = File::open(path).ok()?;
    file.take(MOST_TOLD).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

impl Receiving {
    /// Keeps bytes that came; how many there are now.
    ///
    /// # Errors
    /// Where there is no space left, or the like.
    pub fn keep(&mut self, bytes: &[u8]) -> std::io::Result<u64> {
        self.file.write_all(bytes)?;
        let bytes = bytes.len() as u64;
        Ok(self.importing.received.fetch_add(bytes, Ordering::Relaxed) + bytes)
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.importing.busy.store(false, Ordering::Release);
    }
}

impl Importing {
    fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    fn told(&self) -> Json {
        let received = self.received.load(Ordering::Relaxed);
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (position, total) = self.meter.position();
        match &*state {
            State::Receiving => json!({ "state": "receiving", "received": received }),
            State::Waiting => json!({ "state": "waiting", "received": received }),
            State::Loading => match self.meter.phase() {
                Phase::Surveying => json!({
                    "state": "surveying", "received": received, "bytes_done": position, "bytes": total,
                }),
                Phase::Loading => json!({
                    "state": "loading", "received": received, "rows_done": position, "rows": total,
                }),
            },
            State::Done(report) => {
                json!({ "state": "done", "received": received, "report": report })
            }
            State::Failed(problem) => {
                json!({ "state": "failed", "received": received, "message": problem })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::{Limits, Scope};
    use super::*;

    #[test]
    fn files_are_received_in_parts_and_stored_once() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::builder(directory.path().join("store"))
            .open()
            .unwrap();
        let imports = Imports::new(directory.path().join("imports"));
        let id = Imports::id(&Caller::Anybody, "one");
        assert_ne!(
            id,
            Imports::id(
                &Caller::sample("k", Scope::Ingest, Limits::default()),
                "one"
            )
        );
        assert_eq!(imports.progress(&id), None);
        let mut receiving = imports.receive(&id, None).unwrap();
        receiving.keep(b"user,time,event\nann,1,").unwrap();
        assert!(matches!(imports.receive(&id, None), Err(NotBegun::Busy)));
        drop(receiving);
        // After a restart, too.
        let imports = Imports::new(directory.path().join("imports"));
        assert_eq!(imports.progress(&id).unwrap()["received"], 22);
        let elsewhere = imports.receive(&id, Some(5));
        assert!(matches!(elsewhere, Err(NotBegun::Elsewhere(22))));
        let load = |mut receiving: Receiving, bytes: &[u8]| {
            receiving.keep(bytes).unwrap();
            let (sender, done) = std::sync::mpsc::channel();
            let options = ImportOptions::new("user", "time", "event");
            let told = move |loaded| sender.send(loaded).unwrap();
            imports
                .load(receiving, options, store.clone(), told)
                .unwrap();
            done.recv().unwrap().unwrap()
        };
        let report = load(
            imports.receive(&id, Some(22)).unwrap(),
            b"view\nbob,x,view\n",
        );
        assert_eq!(
            (report["events"].clone(), report["rows"].clone()),
            (json!(1), json!(2))
        );
        let refused = report["rejected_rows"].as_str().unwrap();
        assert!(refused.contains("bob"), "{refused}");
        assert_eq!(imports.progress(&id).unwrap()["state"], "done");
        let again = b"user,time,event\nann,1,view\nbob,x,view\n";
        let report = load(imports.receive(&id, None).unwrap(), again);
        assert_eq!(report["imported_before"], true);
        assert_eq!(
            std::fs::read_dir(directory.path().join("imports"))
                .unwrap()
                .count(),
            0
        );
    }
}
