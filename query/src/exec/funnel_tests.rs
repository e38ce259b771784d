//! Funnels over stores of every layout, against the judge.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use pugmark_engine::storage::MemoryStorage;
use pugmark_engine::{BatchBuilder, Clock, Options, Store};

use crate::behaviour::{Entries, Funnel, Segment, micros};
use crate::model::ModelStore;
use crate::testing::{self, UNIT};
use crate::{Executor, QueryError, QueryOptions};

const DAY: i64 = 86_400_000_000;

/// What happens to a store after an event.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Layout {
    Nothing,
    /// The next event begins another batch.
    Cut,
    Flush,
    Compact,
    Reopen,
}

fn layouts() -> impl Strategy<Value = Vec<Layout>> {
    let some = prop_oneof![
        8 => Just(Layout::Nothing),
        2 => Just(Layout::Cut),
        1 => Just(Layout::Flush),
        1 => Just(Layout::Compact),
        1 => Just(Layout::Reopen),
    ];
    prop_oneof![
        1 => Just(Vec::new()),
        1 => Just(vec![Layout::Compact; 3]),
        3 => vec(some, 0..24),
    ]
}

/// The judge's events with its times spread over days (`spread` to the unit), and its users in
/// the order that they arrive in.
fn arranged(drawn: &ModelStore, spread: i64) -> ModelStore {
    let mut order: Vec<u32> = Vec::new();
    let mut ordinal = |user: u32| {
        let known = order.iter().position(|known| *known == user);
        known.unwrap_or_else(|| {
            order.push(user);
            order.len() - 1
        }) as u32
    };
    let mut model = ModelStore::new();
    for event in drawn.events() {
        let mut event = event.clone();
        event.user = ordinal(event.user);
        event.time *= spread;
        model.push(event);
    }
    for (user, time, name, value) in drawn.trait_changes() {
        model.set_trait(ordinal(user), time * spread, name, value.clone());
    }
    model
}

/// The same events in a store.
fn stored(model: &ModelStore, layouts: &[Layout]) -> Store {
    let options = Options {
        partition_micros: 2 * DAY,
        memtable_bytes: 2_048,
        clock: Clock::custom(|| 1_000 * DAY),
        background_compaction: false,
        ..Options::default()
    };
    let storage = Arc::new(MemoryStorage::new());
    let builder = Store::builder("store").storage(storage).options(options);
    let mut store = builder.clone().open().unwrap();
    let mut batch = BatchBuilder::new();
    for (index, event) in model.events().iter().enumerate() {
        let user = format!("u{}", event.user);
        let mut row = batch.event(&user, event.time, &event.event);
        for (name, value) in &event.properties {
            row = row.value(name, value);
        }
        let _row = row;
        let layout = layouts.get(index).copied().unwrap_or(Layout::Nothing);
        if layout != Layout::Nothing {
            let full = std::mem::take(&mut batch).finish().unwrap();
            batch = BatchBuilder::new();
            store.append(full).unwrap();
        }
        match layout {
            Layout::Nothing | Layout::Cut => {}
            Layout::Flush => store.flush().unwrap(),
            Layout::Compact => store.compact().unwrap(),
            Layout::Reopen => {
                drop(store);
                store = builder.clone().open().unwrap();
            }
        }
    }
    store.append(batch.finish().unwrap()).unwrap();
    for (user, time, name, value) in model.trait_changes() {
        let traits = [(name, value.clone())];
        store.set_traits(&format!("u{user}"), time, traits).unwrap();
    }
    if layouts.last() == Some(&Layout::Compact) {
        store.compact().unwrap();
    }
    store
}

/// Funnels that bitmaps and lists of times answer, now and then with an option that they do not.
fn plain_funnel() -> impl Strategy<Value = Funnel> {
    let names = Just(vec!["a", "b", "c", "d"]).prop_shuffle();
    let by = prop::option::weighted(0.4, select(vec!["p", "r", "q", "k"]));
    let within = prop::option::weighted(0.7, 0..9_i64);
    let range = (prop::option::of(0..10_i64), prop::option::of(1..6_i64));
    let holding = select(vec![None, None, Some("k"), Some("s"), Some("r")]);
    let options = (within, by, holding, range);
    (names, 1..=4_usize, options).prop_map(|(names, steps, (within, by, holding, range))| {
        let mut funnel = Funnel::new(names[..steps].to_vec());
        funnel.holding = holding.into_iter().map(str::to_owned).collect();
        funnel.within = within.map(|units| micros(units * UNIT));
        funnel.by = by.map(crate::property);
        funnel.top = funnel.by.is_some().then_some(2);
        funnel.range.since = range.0.map(|time| time * UNIT);
        let until = range.0.unwrap_or(2) + range.1.unwrap_or(20);
        funnel.range.until = range.1.map(|_| until * UNIT);
        funnel
    })
}

/// The same question about times that are spread out.
fn spread_out(mut funnel: Funnel, spread: i64) -> Funnel {
    let within = funnel.within.as_mut().into_iter();
    let spans = within.chain(funnel.range.last.as_mut());
    spans.for_each(|span| span.micros *= spread);
    let ends = funnel.range.since.iter_mut().chain(&mut funnel.range.until);
    ends.for_each(|end| *end *= spread);
    funnel
}

fn compare(model: &ModelStore, executor: &Executor, funnel: &Funnel) -> Result<(), TestCaseError> {
    let as_of = executor.as_of();
    let judged = model.funnel(funnel, as_of).unwrap();
    prop_assert_eq!(&judged.rows, &executor.funnel(funnel).unwrap().rows);
    let counted = funnel.clone().without_times();
    let judged = model.funnel(&counted, as_of).unwrap();
    prop_assert_eq!(&judged.rows, &executor.funnel(&counted).unwrap().rows);
    let values = ["id", "r"];
    let judged = model.funnel_users(funnel, &values, as_of).unwrap();
    let found = executor.funnel_users(funnel, &values).unwrap();
    // NaN is not equal to itself, but prints the same.
    prop_assert_eq!(format!("{:?}", judged.rows), format!("{:?}", found.rows));
    if funnel.steps.len() > 1 && funnel.by.is_none() && funnel.bucket.is_none() {
        let (from, to) = (1, funnel.steps.len());
        let judged = model.funnel_times(funnel, from, to, 3, as_of).unwrap();
        prop_assert_eq!(judged, executor.funnel_times(funnel, from, to, 3).unwrap());
    }
    Ok(())
}

proptest! {
    #![proptest_config(super::tests::cases())]

    #[test]
    fn funnels_equal_the_judge(
        drawn in testing::store(4, 20),
        layouts in layouts(),
        funnels in vec((prop_oneof![testing::funnel(), plain_funnel()], prop::option::weighted(0.2, testing::segment())), 1..4),
        as_of in testing::present(),
        // Seven hours apart, times are offsets of 32 bits in partitions of some times each.
        spread in select(vec![1, 7, 24]),
        (threads, morsel_rows) in (1..4_usize, select(vec![1_u64, 1 << 18])),
    ) {
        let model = arranged(&drawn, spread);
        let store = stored(&model, &layouts);
        let executor = Executor::new(store.snapshot().unwrap())
            .with_options(super::tests::options(as_of * spread, threads, morsel_rows));
        for (funnel, users) in funnels {
            let mut funnel = spread_out(funnel, spread);
            funnel.users = users.filter(|users: &Segment| users.validate().is_ok());
            compare(&model, &executor, &funnel)?;
        }
    }
}

/// Few different numbers, far apart, are stored as codes: chains hold what the codes stand for.
#[test]
fn numbers_stored_through_a_table_hold_alike() {
    let mut seed = 7_u64;
    let mut next = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % below
    };
    let mut model = ModelStore::new();
    for time in 0..9_000 {
        let (step, user) = (next(3), next(2_000));
        let name = ["a", "b", "c"][step as usize];
        // Some values are those of one name only, so that equal codes are not equal values. Users have few
        // events: who has many goes the general way.
        let value = match next(5) {
            0 if step > 0 => -1 - next(7 * step) as i64,
            _ => (user % 40) as i64,
        };
        let event = model.event(user as u32, time, name);
        // Not all events of the later steps hold something.
        if name == "a" || next(11) > 0 {
            let _event = event.property("k", value * 1_000_003 + value % 7);
        }
    }
    let model = arranged(&model, 1);
    let store = stored(&model, &[]);
    store.flush().unwrap();
    store.compact().unwrap();
    let snapshot = store.snapshot().unwrap();
    for name in ["a", "b"] {
        let run = snapshot.event_segments()[0].run(name).unwrap();
        let column = run.properties().unwrap().get("k").unwrap().unwrap();
        assert!(column.parts()[0].table_len().is_some());
    }
    for threads in [1, 3] {
        let executor = Executor::new(snapshot.clone()).with_options(super::tests::options(
            10_000,
            threads,
            1 << 18,
        ));
        for within in [4_000, 9_000] {
            let funnel = Funnel::new(["a", "b", "c"])
                .holding("k")
                .within(micros(within));
            let judged = model.funnel(&funnel, executor.as_of()).unwrap();
            assert!(judged.rows.iter().all(|row| row.users > 0));
            compare(&model, &executor, &funnel).unwrap();
        }
    }
}

/// A store in which the budget, cancelling and deadlines have something to stop.
fn crowd() -> Store {
    let mut model = ModelStore::new();
    for index in 0..20_000_i64 {
        let name = ["a", "b", "c"][index as usize % 3];
        model.event((index % 500) as u32, index, name);
    }
    stored(&model, &[])
}

#[test]
fn limits_stop_a_funnel() {
    let snapshot = crowd().snapshot().unwrap();
    let funnel = Funnel::new(["a", "b"]).holding("p").entries(Entries::Every);
    let ask = |options: QueryOptions| {
        let executor = Executor::new(snapshot.clone()).with_options(options);
        executor.funnel(&funnel)
    };
    let small = QueryOptions {
        memory_bytes: 1 << 20,
        ..QueryOptions::default()
    };
    assert!(matches!(ask(small), Err(QueryError::OutOfMemory { .. })));
    let late = QueryOptions {
        deadline: Some(std::time::Duration::ZERO),
        ..QueryOptions::default()
    };
    assert!(matches!(ask(late), Err(QueryError::DeadlineExceeded(_))));
    let stopped = QueryOptions::default();
    stopped.cancel.cancel();
    assert!(matches!(ask(stopped), Err(QueryError::Cancelled)));
    assert_eq!(ask(QueryOptions::default()).unwrap().rows.len(), 2);
}
