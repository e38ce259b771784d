//! Every operation fails once, or for ever: a clear error, no panic, no hang, and a store that
//! opens again with everything that was acknowledged.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use pugmark_engine::storage::{Failure, Fault, FaultyStorage, MemoryStorage};
use pugmark_engine::{Options, VerifyError, WriteError};
use pugmark_tests::events::START;
use pugmark_tests::history::{HandClock, Script, States, Step, open, quiet_options, tiny_options};
use pugmark_tests::is_long;
use pugmark_tests::trail::dump;

/// No step of these takes longer, so whoever does hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Fails what does not return.
fn in_time<T: Send + 'static>(what: String, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = channel();
    let thread = std::thread::spawn(move || {
        let _nobody_waits = sender.send(work());
    });
    match receiver.recv_timeout(PATIENCE) {
        Ok(done) => done,
        Err(_) if thread.is_finished() => panic!("{what}: panicked: {:?}", thread.join()),
        Err(_) => panic!("{what}: hangs"),
    }
}

#[derive(Clone, Copy, Debug)]
struct Case {
    operation: u64,
    fault: Fault,
    for_ever: bool,
}

/// Takes all steps, whatever becomes of them, and keeps book. Steps of unknown outcome multiply
/// the possible states, so the client gives up after a few.
fn run_with_errors(case: Case, steps: &[Step], options: &Options) {
    let disk = MemoryStorage::new();
    let storage = FaultyStorage::new(Arc::new(disk.clone()));
    if case.for_ever {
        storage.fail_from(case.operation, case.fault);
    } else {
        storage.fail_once(case.operation, case.fault);
    }
    let mut states = States::new(options);
    let mut failures = 0;
    let mut poisoned = false;
    if let Ok(store) = open(Arc::new(storage.clone()), options) {
        for step in steps {
            match step.take(&store) {
                Ok(_) => {
                    let writes = matches!(step, Step::Append(_) | Step::SetTraits(_));
                    assert!(
                        !poisoned || !writes,
                        "{case:?}: {step:?} after the store was poisoned"
                    );
                    states.done(step, START);
                }
                // Nothing was tried, so nothing has happened; a load may come far without the log.
                Err(WriteError::Poisoned { .. })
                    if poisoned && !matches!(step, Step::Load { .. }) =>
                {
                    failures += 1;
                }
                Err(error) => {
                    poisoned |= matches!(error, WriteError::Poisoned { .. });
                    assert!(!error.to_string().is_empty());
                    states.perhaps(step, START);
                    failures += 1;
                }
            }
            if failures > 4 {
                break;
            }
            // What can be read is right, even now.
            let found = store.snapshot().map(|snapshot| dump(&snapshot));
            if let (Ok(Ok(found)), Some(known)) = (found, states.known()) {
                let difference = known.difference(&found);
                assert!(
                    difference.is_none(),
                    "{case:?}: {}",
                    difference.unwrap_or_default()
                );
            }
        }
    }
    assert_eq!(
        storage.repeated_syncs(),
        0,
        "{case:?}: synced a file again whose sync had failed"
    );
    storage.heal();
    let store = open(Arc::new(disk.clone()), options)
        .unwrap_or_else(|error| panic!("{case:?}: reopen: {error}"));
    states.settle(&dump(&store.snapshot().unwrap()).unwrap(), &|| {
        format!("{case:?}")
    });
    let verified: Result<_, VerifyError> = store.verify();
    verified.unwrap_or_else(|error| panic!("{case:?}: {error}"));
    for step in Script::new(99, "later", false).take(5) {
        step.take(&store)
            .unwrap_or_else(|error| panic!("{case:?}: later {step:?}: {error}"));
        states.done(&step, START);
    }
    states.settle(&dump(&store.snapshot().unwrap()).unwrap(), &|| {
        format!("{case:?}, later")
    });
}

fn fail_everywhere(steps: Vec<Step>, options: Options, every: u64) {
    let storage = FaultyStorage::new(Arc::new(MemoryStorage::new()));
    let store = open(Arc::new(storage.clone()), &options).unwrap();
    for step in &steps {
        step.take(&store).unwrap();
    }
    drop(store);
    let faults = [
        Fault::clean(Failure::InputOutput),
        Fault::short(Failure::InputOutput),
        Fault::short(Failure::NoSpace),
        Fault::clean(Failure::TooManyFiles),
    ];
    let mut number = 0u64;
    for operation in 1..=storage.operations() {
        for fault in faults {
            for for_ever in [false, true] {
                number += 1;
                if !number.is_multiple_of(every) {
                    continue;
                }
                let case = Case {
                    operation,
                    fault,
                    for_ever,
                };
                let (steps, options) = (steps.clone(), options.clone());
                in_time(format!("{case:?}"), move || {
                    run_with_errors(case, &steps, &options)
                });
            }
        }
    }
}

#[test]
fn at_every_operation() {
    let (scripts, every) = if is_long() { (4, 1) } else { (1, 2) };
    for script in 0..scripts {
        let steps = Script::new(script, "u", true).take(40).collect();
        fail_everywhere(steps, quiet_options(&HandClock::at(START)), every);
    }
}

#[test]
fn at_every_operation_with_background_work() {
    let (scripts, every) = if is_long() { (4, 1) } else { (1, 3) };
    for script in 50..50 + scripts {
        let steps = Script::new(script, "u", true).take(40).collect();
        let options = Options {
            clock: HandClock::at(START).clock(),
            ..tiny_options()
        };
        fail_everywhere(steps, options, every);
    }
}
