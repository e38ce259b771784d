//! The contract, kept by every storage; what the strict one forgets; how the faulty one fails.

use std::path::Path;
use std::sync::Arc;

use super::*;

/// What every storage does, whatever it is made of.
fn keeps_the_contract(storage: &dyn Storage) {
    storage.make_directory("").unwrap();
    storage.make_directory("a/b").unwrap();
    storage.make_directory("a/b").unwrap();

    let mut file = storage.create("a/b/one").unwrap();
    file.append(b"hello ").unwrap();
    assert_eq!(storage.read("a/b/one").unwrap(), b"hello ");
    file.append(b"world").unwrap();
    file.sync().unwrap();
    storage.sync_directory("a/b").unwrap();
    assert_eq!(storage.read("a/b/one").unwrap(), b"hello world");
    let again = storage.create("a/b/one").unwrap_err();
    assert_eq!(again.source.kind(), std::io::ErrorKind::AlreadyExists);

    let mapped = storage.map("a/b/one", 11).unwrap();
    assert_eq!(&mapped[..], b"hello world");
    assert_eq!(mapped.as_ptr() as usize % 8, 0);
    for wrong in [0, 10, 12, u64::MAX] {
        let error = storage.map("a/b/one", wrong).unwrap_err();
        assert!(matches!(error, ReadError::Corrupt(_)), "{wrong}: {error}");
    }
    write_sealed(storage, "", "empty", b"").unwrap();
    assert!(storage.map("empty", 0).unwrap().is_empty());

    write_sealed(storage, "a", "a/two", b"second").unwrap();
    storage.rename("a/two", "a/b/one").unwrap();
    assert_eq!(storage.read("a/b/one").unwrap(), b"second");
    assert_eq!(&mapped[..], b"hello world", "a map outlives its name");
    assert_eq!(storage.list("a").unwrap(), [""; 0]);
    assert_eq!(storage.list("a/b").unwrap(), ["one"]);

    storage.remove("a/b/one").unwrap();
    assert!(storage.read("a/b/one").unwrap_err().is_not_found());
    assert!(storage.remove("a/b/one").unwrap_err().is_not_found());
    assert!(storage.rename("a/b/one", "x").unwrap_err().is_not_found());
    assert!(storage.create("missing/file").unwrap_err().is_not_found());
    assert!(storage.list("missing").unwrap_err().is_not_found());
    let Err(ReadError::Storage(error)) = storage.map("a/b/one", 6) else {
        panic!("a missing file was mapped");
    };
    assert!(error.is_not_found());

    let lock = storage.lock().unwrap();
    assert!(matches!(storage.lock(), Err(LockError::Held { .. })));
    drop(lock);
    drop(storage.lock().unwrap());
}

#[test]
fn every_storage_keeps_the_contract() {
    let directory = tempfile::tempdir().unwrap();
    keeps_the_contract(&OsStorage::open(&directory.path().join("new/store")));
    keeps_the_contract(&OsStorage::without_maps(&directory.path().join("unmapped")));
    keeps_the_contract(&MemoryStorage::new());
    keeps_the_contract(&FaultyStorage::new(Arc::new(MemoryStorage::new())));
}

#[test]
fn names_stay_inside_the_root() {
    let directory = tempfile::tempdir().unwrap();
    let storage = OsStorage::open(&directory.path().join("store"));
    storage.make_directory("").unwrap();
    for name in ["../out", "/etc/passwd", "a/../../out", "./a"] {
        assert!(storage.create(name).is_err(), "{name}");
        assert!(storage.read(name).is_err(), "{name}");
        assert!(storage.remove(name).is_err(), "{name}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn a_held_lock_names_its_holder() {
    let directory = tempfile::tempdir().unwrap();
    let storage = OsStorage::open(directory.path());
    let _lock = storage.lock().unwrap();
    let Err(LockError::Held { holder }) = storage.lock() else {
        panic!("two hold the lock");
    };
    let process = format!("process {} (", std::process::id());
    assert!(holder.starts_with(&process), "{holder}");

    std::fs::write(directory.path().join("LOCK"), b"\x1b[31mred\n").unwrap();
    let Err(LockError::Held { holder }) = storage.lock() else {
        panic!("two hold the lock");
    };
    assert_eq!(holder, "another process");
}

#[test]
fn of_many_that_race_for_the_lock_one_wins() {
    let directory = tempfile::tempdir().unwrap();
    for storage in [
        Arc::new(OsStorage::open(directory.path())) as Arc<dyn Storage>,
        Arc::new(MemoryStorage::new()),
    ] {
        for _ in 0..20 {
            let race = |_| {
                let storage = storage.clone();
                std::thread::spawn(move || storage.lock())
            };
            let racers: Vec<_> = (0..8).map(race).collect();
            let locks: Vec<_> = racers.into_iter().map(|one| one.join().unwrap()).collect();
            assert_eq!(locks.iter().filter(|lock| lock.is_ok()).count(), 1);
        }
    }
}

#[test]
fn a_shorter_name_replaces_a_longer_one_in_the_lock_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("LOCK");
    std::fs::write(&path, vec![b'x'; 1_000]).unwrap();
    let _lock = OsStorage::open(directory.path()).lock().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(
        text.starts_with("process ") && text.ends_with(")\n"),
        "{text}"
    );
}

#[test]
fn a_missing_root_is_an_error_that_names_it() {
    let storage = OsStorage::open(Path::new("/nonexistent/store"));
    assert!(storage.list("").unwrap_err().is_not_found());
    let Err(LockError::Storage(error)) = storage.lock() else {
        panic!("a store that does not exist was locked");
    };
    assert!(error.to_string().contains("/nonexistent/store/LOCK"));
}

/// Every state of `storage` after a crash, as `look` sees it.
fn after_crashes<T: Ord>(
    storage: &MemoryStorage,
    look: impl Fn(&MemoryStorage) -> T,
) -> std::collections::BTreeSet<T> {
    (0..500).map(|seed| look(&storage.crash(seed))).collect()
}

#[test]
fn a_crash_keeps_what_was_synced_and_any_part_of_the_rest() {
    let storage = MemoryStorage::new();
    let mut file = storage.create("file").unwrap();
    storage.sync_directory("").unwrap();
    file.append(&[1; 1_000]).unwrap();
    file.sync().unwrap();
    file.append(&[2; 9_000]).unwrap();
    let seen = after_crashes(&storage, |after| {
        let bytes = after.read("file").unwrap();
        assert_eq!(bytes[..1_000], [1; 1_000]);
        bytes
    });
    assert!(seen.contains(&vec![1; 1_000]), "all lost");
    assert!(
        seen.iter()
            .any(|bytes| bytes.len() == 10_000 && bytes[9_999] == 2)
    );
    let has_hole = |bytes: &&Vec<u8>| {
        let lost = bytes[1_000..].iter().position(|&byte| byte != 2);
        lost.is_some_and(|at| bytes[1_000 + at..].contains(&2))
    };
    assert!(seen.iter().any(|bytes| has_hole(&bytes)), "reordered");
    let torn = |bytes: &Vec<u8>| {
        !bytes.len().is_multiple_of(512) && !matches!(bytes.len(), 1_000 | 10_000)
    };
    assert!(seen.iter().any(torn), "cut at any byte");
    let garbage = |bytes: &Vec<u8>| bytes.iter().any(|&byte| byte > 2);
    assert!(seen.iter().any(garbage));
    let read = |seed| storage.crash(seed).read("file").unwrap();
    assert_eq!(read(7), read(7));
}

#[test]
fn a_synced_file_without_a_synced_name_may_be_gone() {
    let storage = MemoryStorage::new();
    storage.make_directory("d").unwrap();
    let mut file = storage.create("d/file").unwrap();
    file.append(b"x").unwrap();
    file.sync().unwrap();
    let exists = |after: &MemoryStorage| after.read("d/file").is_ok();
    assert_eq!(after_crashes(&storage, exists).len(), 2);
    storage.sync_directory("").unwrap();
    assert_eq!(
        after_crashes(&storage, exists).len(),
        2,
        "another directory"
    );
    storage.sync_directory("d").unwrap();
    assert_eq!(after_crashes(&storage, exists), [true].into());
    storage.remove("d/file").unwrap();
    assert!(!exists(&storage));
    assert_eq!(after_crashes(&storage, exists).len(), 2, "removal undone");
}

#[test]
fn a_rename_is_durable_and_keeps_no_other_name() {
    let storage = MemoryStorage::new();
    write_sealed(&storage, "", "name", b"old").unwrap();
    let mut file = storage.create("new").unwrap();
    file.append(b"new").unwrap();
    assert!(storage.rename("new", "name").is_err(), "it is not synced");
    file.sync().unwrap();
    drop(storage.create("bystander").unwrap());
    storage.rename("new", "name").unwrap();
    let content = |after: &MemoryStorage| after.read("name").unwrap();
    assert_eq!(after_crashes(&storage, content), [b"new".to_vec()].into());
    let bystander = |after: &MemoryStorage| after.read("bystander").is_ok();
    assert_eq!(after_crashes(&storage, bystander).len(), 2);
    assert_eq!(
        after_crashes(&storage, |after| after.read("new").is_ok()),
        [false].into()
    );
}

#[test]
fn a_rename_that_is_cut_leaves_the_old_or_the_new() {
    let storage = MemoryStorage::new();
    write_sealed(&storage, "", "name", b"old").unwrap();
    write_sealed(&storage, "", "new", b"new").unwrap();
    storage.stop_after(storage.steps());
    storage.rename("new", "name").unwrap_err();
    let content = |after: &MemoryStorage| after.read("name").unwrap();
    let both = [b"old".to_vec(), b"new".to_vec()].into();
    assert_eq!(after_crashes(&storage, content), both);
    assert!(storage.read("name").is_err(), "the process is gone");
    assert_eq!(storage.kill().read("name").unwrap(), b"new");
}

#[test]
fn a_killed_process_leaves_what_a_crash_may_still_take() {
    let storage = MemoryStorage::new();
    write_sealed(&storage, "", "file", b"synced").unwrap();
    let _lock = storage.lock().unwrap();
    storage.create("other").unwrap().append(b"x").unwrap();
    let after = storage.kill();
    drop(after.lock().unwrap());
    assert_eq!(after.read("other").unwrap(), b"x");
    assert!(after_crashes(&after, |after| after.read("other").unwrap_or_default()).len() > 1);
}

#[test]
fn a_mapped_file_is_neither_unsynced_nor_written_again() {
    let storage = MemoryStorage::new();
    let mut file = storage.create("file").unwrap();
    file.append(b"x").unwrap();
    assert!(storage.map("file", 1).is_err());
    file.sync().unwrap();
    storage.map("file", 1).unwrap();
    assert!(file.append(b"y").is_err());
}

#[test]
fn the_faulty_storage_fails_what_it_was_told_to() {
    let inner = MemoryStorage::new();
    let storage = FaultyStorage::new(Arc::new(inner.clone()));
    let mut file = storage.create("file").unwrap();
    assert_eq!(storage.operations(), 1);

    storage.fail_once(2, Fault::clean(Failure::NoSpace));
    let error = file.append(b"1234").unwrap_err();
    assert_eq!(error.source.kind(), std::io::ErrorKind::StorageFull);
    file.append(b"1234").unwrap();
    storage.fail_once(4, Fault::short(Failure::InputOutput));
    file.append(b"5678").unwrap_err();
    assert_eq!(inner.read("file").unwrap(), b"123456");

    storage.fail_once(5, Fault::clean(Failure::InputOutput));
    let error = file.sync().unwrap_err();
    assert_eq!(
        error.source.raw_os_error(),
        Some(rustix::io::Errno::IO.raw_os_error())
    );
    storage.heal();
    file.sync().unwrap_err();
    assert_eq!((storage.failures(), storage.repeated_syncs()), (3, 1));

    storage.cut(storage.operations() + 1);
    assert!(storage.read("file").is_err());
    assert!(storage.list("").is_err());
    assert!(matches!(storage.lock(), Err(LockError::Storage(_))));
}
