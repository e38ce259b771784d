//! Opening a store: from whatever a crash left to a consistent state.
//!
//! 1. Take the writer's lock.
//! 2. Read the manifest, or make a new store.
//! 3. Map what it names: segments, the id dictionary, message ids. Nothing is read but footers.
//! 4. Remove files that no manifest names: what a crash left of unpublished work.
//! 5. Replay the log into the memory table, in the order it was written.
//! 6. Start a new log file; from here on the store takes appends.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::dedup::MessageIds;
use crate::dictionary::Dictionary;
use crate::error::{Corruption, OpenError, WriteError};
use crate::manifest::{MANIFEST, Manifest, ids_file, message_ids_file, segment_file};
use crate::options::Options;
use crate::segment::{BuildOptions, Partition};
use crate::storage::{LockError, Storage, WriterLock};
use crate::store::shared::{Shared, Version, lock};
use crate::write::append::{AppendState, resolve};
use crate::write::flush::log_numbers;
use crate::write::group::GroupLog;
use crate::write::log::{LOG_DIRECTORY, LogRecord, log_name, recover_logs};
use crate::write::memtable::{MemBatch, Memtable, partition_of};
use crate::write::record::{self, BatchKind, Record};

/// Directories of a store besides its root.
const DIRECTORIES: [&str; 4] = [LOG_DIRECTORY, "segments", "ids", "dedup"];

/// Opens a store for writing, creating it where there is none.
pub(crate) fn open(
    storage: Arc<dyn Storage>,
    options: Options,
) -> Result<(Arc<Shared>, Box<dyn WriterLock>), OpenError> {
    let writer_lock = take_lock(&*storage)?;
    let manifest = match Manifest::load(&*storage)? {
        Some(manifest) => manifest,
        None => {
            refuse_lost_manifest(&*storage)?;
            create(&*storage, &options)?
        }
    };
    let next_file = remove_garbage(&*storage, &manifest)?;
    crate::crash::crash_point!("recover.garbage_removed");

    let seed = manifest.seed;
    let dictionary = Dictionary::open(Arc::clone(&storage), seed, &manifest.ids)?;
    let mut message_ids = MessageIds::open(
        Arc::clone(&storage),
        seed,
        options.dedup_window_micros,
        &manifest.message_ids,
    )?;
    let build = build_options(&options);
    let logs = log_numbers(&*storage)?;
    let logs = recover_logs(&*storage, &logs, manifest.log_record)?;
    let version = Version::open(manifest, &*storage, None)?;

    let replayed = replay(
        &*storage,
        &logs.records,
        &dictionary,
        Some(&mut message_ids),
    )?;
    let next_arrival = replayed.last().map_or(0, |batch| batch.arrival + 1);
    let next_arrival = next_arrival.max(version.manifest.next_arrival);
    let partitions = partitions_of(&version.manifest, &replayed);
    let mut append = AppendState::new(message_ids, next_arrival, partitions);
    append.active_bytes = replayed.iter().map(|batch| batch.bytes).sum();

    let durability = options.durability;
    let log = GroupLog::create(
        Arc::clone(&storage),
        next_file,
        logs.next_record,
        durability,
    )?;
    let shared = Shared::new(
        storage,
        options,
        build,
        Arc::new(dictionary),
        log,
        append,
        version,
        next_file + 1,
    );
    crate::crash::crash_point!("recover.replayed");
    let active = shared.state().active;
    for batch in replayed {
        active.publish(batch);
    }
    Ok((Arc::new(shared), writer_lock))
}

fn take_lock(storage: &dyn Storage) -> Result<Box<dyn WriterLock>, OpenError> {
    storage.make_directory("")?;
    storage.lock().map_err(|error| match error {
        LockError::Held { holder } => OpenError::Locked {
            path: storage.path(""),
            holder,
        },
        LockError::Storage(error) => error.into(),
    })
}

/// How segments are built under these options.
pub(crate) fn build_options(options: &Options) -> BuildOptions {
    BuildOptions {
        target_bytes: options.segment_bytes,
        ..BuildOptions::default()
    }
}

/// The manifest is the first file of a store, so others without it are a damaged store; making a
/// new one here would remove them as garbage.
fn refuse_lost_manifest(storage: &dyn Storage) -> Result<(), OpenError> {
    for directory in DIRECTORIES {
        let files = match storage.list(directory) {
            Err(error) if error.is_not_found() => continue,
            files => files?,
        };
        if !files.is_empty() {
            let what = "is missing, but other files of a store are there";
            return Err(Corruption::new(&storage.path(MANIFEST), 0, what).into());
        }
    }
    Ok(())
}

fn create(storage: &dyn Storage, options: &Options) -> Result<Manifest, OpenError> {
    for directory in DIRECTORIES {
        storage.make_directory(directory)?;
    }
    let seed = RandomState::new().build_hasher().finish();
    let manifest = Manifest::new(options.partition_micros, seed);
    manifest.publish(storage)?;
    Ok(manifest)
}

/// Removes the files that no manifest names, and returns a number above that of every file.
fn remove_garbage(storage: &dyn Storage, manifest: &Manifest) -> Result<u64, OpenError> {
    let mut next = manifest.next_file;
    let mut named: BTreeSet<String> = BTreeSet::new();
    named.extend(
        manifest
            .segments
            .iter()
            .map(|entry| segment_file(entry.number)),
    );
    named.extend(manifest.ids.iter().map(|run| ids_file(run.number)));
    named.extend(
        manifest
            .message_ids
            .iter()
            .map(|run| message_ids_file(run.number)),
    );
    for directory in DIRECTORIES {
        // A crash while the store was being made may have left directories out.
        storage.make_directory(directory)?;
        for file in storage.list(directory)? {
            let number: Option<u64> = file.split('.').next().and_then(|stem| stem.parse().ok());
            next = next.max(number.map_or(0, |number| number + 1));
            let name = format!("{directory}/{file}");
            let is_old_log = directory == LOG_DIRECTORY
                && number
                    .is_none_or(|number| number < manifest.log_file || name != log_name(number));
            if is_old_log || (directory != LOG_DIRECTORY && !named.contains(&name)) {
                storage.remove(&name)?;
            }
        }
    }
    Ok(next)
}

/// Decodes log records into batches, giving new users the ordinals that they had.
pub(crate) fn replay(
    storage: &dyn Storage,
    records: &[LogRecord],
    dictionary: &Dictionary,
    mut message_ids: Option<&mut MessageIds>,
) -> Result<Vec<Arc<MemBatch>>, OpenError> {
    let mut batches = Vec::with_capacity(records.len());
    for logged in records {
        let bytes = logged.payload.len();
        let record = record::decode(&logged.payload).map_err(|error| {
            Corruption::new(&storage.path(LOG_DIRECTORY), error.at as u64, error.what)
        })?;
        if let Some(message_ids) = message_ids.as_deref_mut() {
            note_message_ids(message_ids, &record);
        }
        let Record {
            kind,
            arrival,
            progress,
            batch,
            ..
        } = record;
        let users = dictionary
            .find_or_assign_many(&batch.users)
            .map_err(read_error)?;
        let rows = resolve(batch, users);
        batches.push(Arc::new(MemBatch {
            kind,
            arrival,
            rows,
            bytes,
            progress,
        }));
    }
    Ok(batches)
}

/// What was logged was new when it arrived, so it is noted without asking again.
fn note_message_ids(message_ids: &mut MessageIds, record: &Record) {
    let Some(ids) = &record.batch.message_ids else {
        return;
    };
    for row in 0..ids.codes.len() {
        let id = ids.get(row);
        if !id.is_empty() {
            message_ids.insert(id, record.arrived_at);
        }
    }
}

fn read_error(error: WriteError) -> OpenError {
    match error {
        WriteError::Storage(error) => error.into(),
        WriteError::Corrupt(error) => error.into(),
        other => OpenError::Option {
            option: "log",
            problem: other.to_string(),
        },
    }
}

fn partitions_of(manifest: &Manifest, replayed: &[Arc<MemBatch>]) -> BTreeSet<Partition> {
    let mut partitions: BTreeSet<Partition> = manifest
        .segments
        .iter()
        .map(|entry| entry.meta.partition)
        .collect();
    for batch in replayed
        .iter()
        .filter(|batch| batch.kind == BatchKind::Events)
    {
        let times = batch.rows.times.iter();
        partitions.extend(times.map(|&time| partition_of(time, manifest.partition_micros)));
    }
    partitions
}

/// A memory table with the batches that a reader found in the log.
pub(crate) fn memtable_of(
    batches: Vec<Arc<MemBatch>>,
    partition_micros: i64,
    build: BuildOptions,
) -> Memtable {
    let memtable = Memtable::new(partition_micros, build);
    for batch in batches {
        memtable.publish(batch);
    }
    memtable
}

/// Closes the write path: no more appends, the log sealed.
pub(crate) fn close(shared: &Shared) -> Result<(), WriteError> {
    lock(&shared.append).closed = true;
    shared.closing.store(true, Ordering::SeqCst);
    {
        let _waiters_wait = lock(&shared.flush_wait);
        shared.flushed.notify_all();
    }
    shared.log.close()
}
