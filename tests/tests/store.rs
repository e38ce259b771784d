//! The store does what the reference does, whatever is asked of it in whatever order.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use pugmark_engine::storage::{MemoryStorage, OsStorage, Storage};
use pugmark_engine::{Options, Snapshot, Store};
use pugmark_tests::events::{self, DAY, Event, START, event, event_with_id};
use pugmark_tests::history::{HandClock, States, Step, open, quiet_options, tiny_options};
use pugmark_tests::layouts::{Input, every_layout};
use pugmark_tests::reference::{Reference, Trails};
use pugmark_tests::trail::dump;
use pugmark_tests::{cases, config, scratch};

/// What a test does to a store; steps of a client, and what befalls the process.
#[derive(Clone, Debug)]
enum Action {
    Take(Step),
    Reopen,
    Advance(i64),
    /// Take a snapshot and keep it; it must never change.
    Hold,
}

fn action() -> impl Strategy<Value = Action> {
    let batch = || prop::collection::vec(event(), 0..12);
    let loads = (
        0..6u128,
        prop::collection::vec(prop::collection::vec(event(), 1..8), 0..4),
    );
    prop_oneof![
        6 => batch().prop_map(|events| Action::Take(Step::Append(events))),
        4 => prop::collection::vec(event_with_id(), 0..12)
            .prop_map(|events| Action::Take(Step::Append(events))),
        2 => events::traits().prop_map(|traits| Action::Take(Step::SetTraits(traits))),
        2 => Just(Action::Take(Step::Flush)),
        1 => Just(Action::Take(Step::Compact)),
        1 => (-50..130i64).prop_map(|day| Action::Take(Step::DropBefore(START + day * DAY))),
        1 => loads.prop_map(|(key, batches)| Action::Take(Step::Load { key, batches })),
        1 => Just(Action::Reopen),
        1 => prop_oneof![Just(DAY), Just(6 * DAY), 0..3 * DAY].prop_map(Action::Advance),
        1 => Just(Action::Hold),
    ]
}

fn expect_same(found: &Trails, expected: &Trails, what: &str) -> Result<(), TestCaseError> {
    match expected.difference(found) {
        None => Ok(()),
        Some(difference) => Err(TestCaseError::fail(format!("{what}: {difference}"))),
    }
}

/// Runs the actions against a store in `storage` and against the reference.
fn check(
    storage: Arc<dyn Storage>,
    options: &Options,
    clock: &HandClock,
    actions: &[Action],
) -> Result<(), TestCaseError> {
    let reopen = || open(Arc::clone(&storage), options).unwrap();
    let mut store = reopen();
    let mut states = States::new(options);
    let mut held: Vec<(Snapshot, Trails)> = Vec::new();
    let mut loads_begun = Vec::new();
    for action in actions {
        match action {
            // Another input under the key of an earlier one is the caller's mistake.
            Action::Take(Step::Load { key, .. }) if loads_begun.contains(key) => continue,
            Action::Take(step) => {
                if let Step::Load { key, .. } = step {
                    loads_begun.push(*key);
                }
                let stored = step.take(&store).unwrap();
                prop_assert_eq!(stored, states.done(step, clock.now()));
            }
            Action::Reopen => {
                drop(store);
                store = reopen();
            }
            Action::Advance(micros) => clock.advance(*micros),
            Action::Hold => {
                let snapshot = store.snapshot().unwrap();
                held.push((snapshot, states.known().unwrap()));
            }
        }
        let snapshot = store.snapshot().unwrap();
        let expected = states.known().unwrap();
        expect_same(
            &dump(&snapshot).unwrap(),
            &expected,
            &format!("after {action:?}"),
        )?;
        prop_assert_eq!(snapshot.events(), expected.event_count());
    }
    for (snapshot, expected) in &held {
        expect_same(&dump(snapshot).unwrap(), expected, "a held snapshot")?;
    }
    let reader = Store::builder("")
        .storage(Arc::clone(&storage))
        .read_only()
        .open()
        .unwrap();
    let expected = states.known().unwrap();
    expect_same(
        &dump(&reader.snapshot().unwrap()).unwrap(),
        &expected,
        "a reader",
    )?;
    store.verify().unwrap();
    Ok(())
}

proptest! {
    #![proptest_config(config(200))]

    /// Memory tables that never fill, so that layouts are those asked for.
    #[test]
    fn any_order_of_actions_equals_the_reference(
        actions in prop::collection::vec(action(), 1..40),
    ) {
        let clock = HandClock::at(START);
        let options = quiet_options(&clock);
        check(Arc::new(MemoryStorage::new()), &options, &clock, &actions)?;
    }

    /// Flushes and compactions at any moment, in the background.
    #[test]
    fn background_work_changes_no_answer(actions in prop::collection::vec(action(), 1..40)) {
        let clock = HandClock::at(START);
        let options = Options { clock: clock.clock(), ..tiny_options() };
        check(Arc::new(MemoryStorage::new()), &options, &clock, &actions)?;
    }

    #[test]
    fn every_layout_holds_the_same_rows(
        batches in prop::collection::vec(prop::collection::vec(event(), 0..30), 1..12),
        traits in prop::collection::vec(events::traits(), 0..5),
    ) {
        let mut reference = Reference::new(DAY, 0);
        let mut inputs = Vec::new();
        for events in batches {
            reference.append(&events, 0);
            inputs.push(Input::Events(events));
        }
        for traits in traits {
            reference.set_traits(&traits);
            inputs.push(Input::Traits(traits));
        }
        let directory = scratch();
        let expected = reference.trails();
        every_layout(&inputs, START, directory.path(), |layout, snapshot| {
            let difference = expected.difference(&dump(snapshot).unwrap());
            assert!(difference.is_none(), "{layout}: {}", difference.unwrap_or_default());
        });
    }
}

proptest! {
    // Real files sync, so fewer cases.
    #![proptest_config(ProptestConfig { cases: cases(200).div_ceil(20), ..config(0) })]

    #[test]
    fn real_files_equal_the_reference(actions in prop::collection::vec(action(), 1..25)) {
        let clock = HandClock::at(START);
        let options = Options { clock: clock.clock(), ..tiny_options() };
        for maps in [true, false] {
            let directory = scratch();
            let storage: Arc<dyn Storage> = if maps {
                Arc::new(OsStorage::open(directory.path()))
            } else {
                Arc::new(OsStorage::without_maps(directory.path()))
            };
            check(storage, &options, &clock, &actions)?;
        }
    }
}

/// Retries arrive late, early, in other batches, after restarts; each event is stored once.
#[test]
fn the_window_of_message_ids_ends_to_the_millisecond() {
    let clock = HandClock::at(START);
    let options = Options {
        dedup_window_micros: 1_000_000,
        ..quiet_options(&clock)
    };
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let mut store = open(Arc::clone(&storage), &options).unwrap();
    let event = Event {
        user: "ann".to_owned(),
        time: START,
        name: "view".to_owned(),
        properties: Vec::new(),
        message_id: Some("m-1".to_owned()),
    };
    let append = |store: &Store| {
        let done = store
            .append(events::batch_of(std::slice::from_ref(&event)))
            .unwrap();
        (done.stored, done.duplicates)
    };
    assert_eq!(append(&store), (1, 0));
    clock.advance(1_000_000);
    assert_eq!(append(&store), (0, 1), "the last instant of the window");
    store.flush().unwrap();
    assert_eq!(append(&store), (0, 1), "the same, the ids in a file");
    drop(store);
    store = open(Arc::clone(&storage), &options).unwrap();
    assert_eq!(append(&store), (0, 1), "the same, after a restart");
    clock.advance(1_000);
    assert_eq!(append(&store), (1, 0), "a millisecond after the window");
    assert_eq!(store.snapshot().unwrap().events(), 2);
}
