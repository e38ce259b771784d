//! One process writes a store at a time, and a killed one leaves no lock behind.

use std::time::Duration;

use pugmark_engine::{OpenError, Store};
use pugmark_tests::{is_long, scratch};

use crate::child::Running;

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn of_many_processes_one_wins() {
    let directory = scratch();
    let (rounds, racers) = if is_long() { (200, 20) } else { (3, 6) };
    for round in 0..rounds {
        let running: Vec<Running> = (0..racers)
            .map(|_| Running::lock(directory.path()))
            .collect();
        let answers: Vec<String> = running
            .iter()
            .map(|child| child.line(PATIENCE).unwrap())
            .collect();
        let winners: Vec<usize> = (0..racers)
            .filter(|&racer| answers[racer] == "won")
            .collect();
        assert_eq!(winners.len(), 1, "round {round}: {answers:?}");
        for (racer, answer) in answers.iter().enumerate() {
            // Who asks in the very moment of locking cannot be told the name yet.
            let told = answer.starts_with("locked: ")
                && (answer.contains("another process")
                    || answer.contains(&holder(&running[winners[0]])));
            assert!(racer == winners[0] || told, "round {round}: {answer}");
        }
        for (racer, mut child) in running.into_iter().enumerate() {
            if racer == winners[0] {
                refused(directory.path(), &holder(&child));
                child.kill();
            } else {
                child.release();
                assert!(child.wait(), "a loser ends in good order");
            }
        }
        // The lock of the killed winner is free at once.
        let store = Store::builder(directory.path()).open().unwrap();
        refused(directory.path(), &format!("process {}", std::process::id()));
        drop(store);
    }
}

fn holder(child: &Running) -> String {
    format!("process {}", child.id())
}

/// Opening for writing is refused and names the holder; opening for reading is not.
fn refused(directory: &std::path::Path, holder: &str) {
    let error = Store::builder(directory).open().unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    assert!(
        error.to_string().contains(holder),
        "{error} does not name {holder}"
    );
    Store::builder(directory).read_only().open().unwrap();
}

/// A load in progress keeps the lock, since it writes.
#[test]
fn an_unfinished_load_keeps_the_lock() {
    let directory = scratch();
    let store = Store::builder(directory.path()).open().unwrap();
    let load = store.bulk_load(1).unwrap();
    drop(store);
    let error = Store::builder(directory.path()).open().unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    drop(load);
    Store::builder(directory.path()).open().unwrap();
}
