//! Power is lost at every operation of a workload: what was acknowledged is there, nothing is
//! half, and the store goes on.
//!
//! The storage forgets whatever was not synced, in any combination. The client runs a script
//! until the cut and keeps book of what was acknowledged; after the crash it opens the store,
//! compares, repeats the step that was cut off, goes on, and compares again.

use std::sync::Arc;

use pugmark_engine::storage::{FaultyStorage, MemoryStorage, Storage};
use pugmark_engine::{OpenError, Options, Store};
use pugmark_tests::dice::Dice;
use pugmark_tests::events::START;
use pugmark_tests::history::{HandClock, Script, States, Step, open, quiet_options, tiny_options};
use pugmark_tests::is_long;
use pugmark_tests::trail::dump;

/// A workload that can be repeated, and the options it runs under.
struct Workload {
    steps: Vec<Step>,
    options: Options,
}

impl Workload {
    /// Everything a store does, and only when it is asked for.
    fn quiet(seed: u64) -> Self {
        Self {
            steps: Script::new(seed, "u", true).take(45).collect(),
            options: quiet_options(&HandClock::at(START)),
        }
    }

    /// Tiny memory tables, so that flushes and compactions come at any moment.
    fn busy(seed: u64) -> Self {
        let options = Options {
            clock: HandClock::at(START).clock(),
            ..tiny_options()
        };
        Self {
            steps: Script::new(seed, "u", true).take(60).collect(),
            options,
        }
    }

    /// Runs until the first failure. Returns the states possible then, and the step that failed.
    fn run(&self, storage: Arc<dyn Storage>) -> (States, Option<usize>) {
        let mut states = States::new(&self.options);
        let Ok(store) = open(storage, &self.options) else {
            return (states, Some(0));
        };
        for (index, step) in self.steps.iter().enumerate() {
            if step.take(&store).is_err() {
                states.perhaps(step, START);
                return (states, Some(index));
            }
            states.done(step, START);
        }
        (states, None)
    }

    /// Operations of a run without faults.
    fn operations(&self) -> u64 {
        let storage = FaultyStorage::new(Arc::new(MemoryStorage::new()));
        let (_, failed) = self.run(Arc::new(storage.clone()));
        assert_eq!(failed, None);
        storage.operations()
    }
}

/// Opens what a crash left and compares it with what may be there. Then takes the step that was
/// cut off once more, and those after it.
fn recover_and_go_on(
    workload: &Workload,
    storage: &MemoryStorage,
    mut states: States,
    failed: usize,
    context: &dyn Fn() -> String,
) {
    let reopen =
        || -> Result<Store, OpenError> { open(Arc::new(storage.clone()), &workload.options) };
    let store = reopen().unwrap_or_else(|error| panic!("{}: {error}", context()));
    states.settle(&dump(&store.snapshot().unwrap()).unwrap(), context);
    if let Err(error) = store.verify() {
        panic!("{}: {error}", context());
    }
    for step in workload.steps.iter().skip(failed).take(6) {
        step.take(&store)
            .unwrap_or_else(|error| panic!("{}: {step:?}: {error}", context()));
        states.done(step, START);
    }
    states.settle(&dump(&store.snapshot().unwrap()).unwrap(), context);
    drop(store);
    let store = reopen().unwrap_or_else(|error| panic!("{}, again: {error}", context()));
    states.settle(&dump(&store.snapshot().unwrap()).unwrap(), context);
    store.verify().unwrap();
}

/// How an operation is cut off.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// It has not happened; a write, half.
    Before(u64),
    /// It has happened, but nothing of it was synced. Counted in steps that change something.
    After(u64),
}

/// Runs the workload up to the cut. `None` where it ends before.
fn run_cut(workload: &Workload, cut: Cut) -> Option<(MemoryStorage, States, usize)> {
    let disk = MemoryStorage::new();
    let storage = FaultyStorage::new(Arc::new(disk.clone()));
    match cut {
        Cut::Before(operation) => storage.cut(operation),
        Cut::After(step) => disk.stop_after(step),
    }
    let (states, failed) = workload.run(Arc::new(storage));
    failed.map(|failed| (disk, states, failed))
}

fn cut_everywhere(workload: &Workload, seeds: u64) -> u64 {
    let operations = workload.operations();
    let mut tried = 0;
    for number in 1..=operations {
        for cut in [Cut::Before(number), Cut::After(number - 1)] {
            let Some((disk, states, failed)) = run_cut(workload, cut) else {
                continue;
            };
            for seed in 0..seeds {
                let context = || format!("{cut:?} of {operations}, damage {seed}");
                let left = disk.crash(seed);
                recover_and_go_on(workload, &left, states.clone(), failed, &context);
                tried += 1;
            }
        }
    }
    tried
}

#[test]
fn at_every_operation() {
    let (scripts, seeds) = if is_long() { (12, 10) } else { (1, 2) };
    let tried: u64 = (0..scripts)
        .map(|script| cut_everywhere(&Workload::quiet(script), seeds))
        .sum();
    assert!(tried > 1_000, "only {tried} crashes");
}

/// Operations have no fixed order here, so each number cuts off something else in each run.
#[test]
fn at_every_operation_with_background_work() {
    let (scripts, seeds) = if is_long() { (8, 5) } else { (1, 1) };
    for script in 100..100 + scripts {
        cut_everywhere(&Workload::busy(script), seeds);
    }
}

/// The second crash comes while the store is being opened after the first.
#[test]
fn in_the_middle_of_recovery() {
    let rounds = if is_long() { 1_000 } else { 60 };
    let workload = Workload::quiet(7);
    let operations = workload.operations();
    let mut dice = Dice::new(1);
    for round in 0..rounds {
        let first = Cut::Before(1 + dice.below(operations));
        let Some((disk, states, failed)) = run_cut(&workload, first) else {
            continue;
        };
        let left = disk.crash(dice.any());
        let probe = FaultyStorage::new(Arc::new(left.crash(0)));
        drop(open(Arc::new(probe.clone()), &workload.options).unwrap());
        for second in 1..=probe.operations() {
            if !is_long() && !dice.one_in(3) {
                continue;
            }
            let left = left.crash(0);
            let storage = FaultyStorage::new(Arc::new(left.clone()));
            storage.cut(second);
            let opened = open(Arc::new(storage), &workload.options);
            drop(opened);
            let left = left.crash(dice.any());
            let context = || format!("round {round}: {first:?}, then {second} of recovery");
            recover_and_go_on(&workload, &left, states.clone(), failed, &context);
        }
    }
}

/// The test's own test: a storage that loses what was synced is noticed.
#[test]
#[should_panic(expected = "possible states")]
fn a_lost_acknowledged_batch_is_noticed() {
    let workload = Workload::quiet(3);
    let storage = MemoryStorage::new();
    let (mut states, failed) = workload.run(Arc::new(storage.clone()));
    assert_eq!(failed, None);
    let last = Script::new(9, "lost", false).find(|step| matches!(step, Step::Append(_)));
    states.done(&last.unwrap(), START);
    let store = open(Arc::new(storage), &workload.options).unwrap();
    states.settle(&dump(&store.snapshot().unwrap()).unwrap(), &String::new);
}
