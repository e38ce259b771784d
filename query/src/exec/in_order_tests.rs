//! Events as segments' orders of rows tell them, against the same events sorted.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use pugmark_engine::bitmap::Words;
use pugmark_engine::storage::MemoryStorage;
use pugmark_engine::{BatchBuilder, Snapshot, Store, Value};

use crate::QueryOptions;
use crate::behaviour::{Condition, Skipped, TimeRange, any, event, property};

use super::control::{Control, QueryError};
use super::gather::{Asked, Gather};
use super::in_order::InOrder;
use super::morsel::Morsel;
use super::scan::Scan;
use super::tests::{DAY, NAMES, Step, cases, condition, play};
use super::times_in_order::OrderedTimes;
use super::traits::TraitTable;
use super::user_times::UserTimes;

/// Events of up to 200 users over some partitions, with times that are far apart, near, or the same;
/// compacted.
fn compacted() -> impl Strategy<Value = Snapshot> {
    let happened = (0u8..200, 0u8..4, 0i64..5, 0i64..6, 0i64..4);
    (vec(happened, 1..300), select(vec![1, 1_500, DAY / 8])).prop_map(|(events, unit)| {
        let event = |(user, name, day, units, item)| Step::Event {
            user,
            name,
            time: day * DAY + units * unit,
            properties: vec![(0, Value::I64(item))],
        };
        let events = events.into_iter().map(event);
        let steps: Vec<Step> = events.chain([Step::Compact]).collect();
        play(&steps).store.snapshot().unwrap()
    })
}

/// Everything, the middle, or the beginning.
fn range() -> impl Strategy<Value = TimeRange> {
    select(vec![(i64::MIN, i64::MAX), (DAY, 3 * DAY), (0, DAY + 3)])
        .prop_map(|(first, last)| TimeRange { first, last })
}

/// Users of the one container, and those of them who are wanted.
fn users() -> impl Strategy<Value = (Morsel, Words)> {
    let lows = select(vec![0..65_536, 0..64, 128..256]);
    let wanted = prop_oneof![Just(u64::MAX), 0..u64::MAX];
    (lows, wanted).prop_map(|(lows, bits)| {
        let members = (0..256).filter(|low| bits >> (low % 61) & 1 == 1);
        let mut wanted: Words = members.collect();
        wanted.restrict(lows.clone());
        let (key, rows) = (0, 1);
        (Morsel { key, lows, rows }, wanted)
    })
}

/// What is known of all events: of whom, when, the conditions that hold, where.
fn gathered(gather: &Gather<'_>) -> impl PartialEq + std::fmt::Debug {
    let columns = (gather.times.clone(), gather.masks.clone());
    let users = (gather.lows.clone(), gather.starts.clone());
    (users, columns, gather.flags.clone(), gather.rows.clone())
}

fn names() -> impl Strategy<Value = Condition> {
    let one = || select(NAMES.to_vec()).prop_map(event);
    prop_oneof![
        Just(any()),
        one(),
        (one(), one()).prop_map(|(one, other)| one.or(other))
    ]
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn events_come_in_the_order_of_sorting(
        snapshot in compacted(),
        conditions in vec(prop_oneof![condition(), names()], 1..4),
        (range, steps, every_row) in (range(), 0usize..4, proptest::bool::ANY),
        (morsel, wanted) in users(),
    ) {
        let control = Control::start(&QueryOptions::default());
        let conditions: Vec<&Condition> = conditions.iter().collect();
        let scan = Scan::prepare(&snapshot, &conditions, range, every_row);
        let traits = TraitTable::read(&snapshot, &scan.traits, &morsel, i64::MAX).unwrap();
        let asked = Asked { steps: steps.min(conditions.len()), every_row };
        let (mut one, mut other) = (Gather::new(&control), Gather::new(&control));
        // What was gathered before does not matter.
        for _ in 0..2 {
            let (mut skipped, mut skipped_too) = (Skipped::default(), Skipped::default());
            prop_assert!(wanted.is_empty() || scan.runs.is_empty() || one.in_order.find(&scan, &morsel, &wanted, f64::INFINITY).unwrap());
            one.fill_in_order(&scan, &morsel, &wanted, &traits, asked, &mut skipped).unwrap();
            other.fill_sorted(&scan, &morsel, &wanted, &traits, asked, &mut skipped_too).unwrap();
            prop_assert_eq!(gathered(&one), gathered(&other));
            prop_assert_eq!(format!("{skipped:?}"), format!("{skipped_too:?}"));
        }
    }

    #[test]
    fn times_come_in_order(
        snapshot in compacted(),
        condition in names(),
        range in range(),
        (morsel, wanted) in users(),
    ) {
        let control = Control::start(&QueryOptions::default());
        let scan = Scan::prepare(&snapshot, &[&condition], range, false);
        let mut rows = InOrder::new(&control);
        prop_assert!(wanted.is_empty() || scan.runs.is_empty() || rows.find(&scan, &morsel, &wanted, f64::INFINITY).unwrap());
        let mut found = BTreeMap::new();
        OrderedTimes::new(&control).for_each(&rows, &scan, (&morsel, &wanted), |user, times| {
            found.insert(user, times.to_vec());
            Ok(())
        }).unwrap();
        let mut times = UserTimes::new(&control);
        times.find(&scan, &morsel, &wanted, &TraitTable::default(), &mut Skipped::default()).unwrap();
        let mut sorted = BTreeMap::new();
        times.for_each(&scan, &morsel, |user, times| {
            let mut times = times.to_vec();
            times.sort_unstable();
            sorted.insert(user, times);
            Ok(())
        }).unwrap();
        prop_assert_eq!(found, sorted);
    }
}

/// A store in which users have events of several names.
fn small() -> Snapshot {
    let event = |number: u8| Step::Event {
        user: number % 7,
        name: number % 4,
        time: i64::from(number) * 1_000_000,
        properties: Vec::new(),
    };
    let steps: Vec<Step> = (0..60).map(event).chain([Step::Compact]).collect();
    play(&steps).store.snapshot().unwrap()
}

fn everybody() -> (Morsel, Words) {
    let (key, lows, rows) = (0, 0..65_536, 60);
    (Morsel { key, lows, rows }, Words::of_range(0..7))
}

#[test]
fn an_order_that_is_not_that_of_the_rows_is_corruption() {
    let (snapshot, (morsel, wanted), traits) = (small(), everybody(), TraitTable::default());
    let all = TimeRange {
        first: i64::MIN,
        last: i64::MAX,
    };
    let control = Control::start(&QueryOptions::default());
    for condition in [any(), event("cart")] {
        let scan = Scan::prepare(&snapshot, &[&condition], all, false);
        let mut rows = InOrder::new(&control);
        let mut gather = Gather::new(&control);
        for rows in [&mut rows, &mut gather.in_order] {
            assert!(rows.find(&scan, &morsel, &wanted, f64::INFINITY).unwrap());
            // A cart becomes something else.
            let runs = &mut rows.pieces[0].runs;
            let cart = runs.iter().position(|&run| run == 1).unwrap();
            runs[cart] = 2;
        }
        let users = (&morsel, &wanted);
        let times = OrderedTimes::new(&control).for_each(&rows, &scan, users, |_, _| Ok(()));
        let asked = Asked {
            steps: 1,
            every_row: false,
        };
        let skipped = &mut Skipped::default();
        let events = gather.fill_in_order(&scan, &morsel, &wanted, &traits, asked, skipped);
        for failed in [times, events] {
            let Err(QueryError::Read(error)) = failed else {
                panic!("{condition:?}: {failed:?}");
            };
            assert!(error.to_string().contains("the order of rows"), "{error}");
        }
    }
}

#[test]
fn few_rows_are_sorted_instead() {
    let (snapshot, (whole, wanted)) = (small(), everybody());
    let all = TimeRange {
        first: i64::MIN,
        last: i64::MAX,
    };
    let control = Control::start(&QueryOptions::default());
    let is_used = |condition: &Condition, range, morsel: &Morsel, wanted: &Words, cost| {
        let scan = Scan::prepare(&snapshot, &[condition], range, false);
        let mut rows = InOrder::new(&control);
        rows.find(&scan, morsel, wanted, cost).unwrap()
    };
    // 60 rows, of which 15 are carts; to get ready costs as much as 32 more.
    let (every, cart) = (any(), event("cart"));
    assert!(is_used(&every, all, &whole, &wanted, 1.6));
    assert!(!is_used(&every, all, &whole, &wanted, 1.5));
    assert!(is_used(&cart, all, &whole, &wanted, 6.2));
    assert!(!is_used(&cart, all, &whole, &wanted, 6.1));
    // One of seven users, a quarter of the time, values that decide.
    let one = Words::of_range(0..1);
    assert!(is_used(&every, all, &whole, &one, 10.8));
    assert!(!is_used(&every, all, &whole, &one, 10.7));
    let quarter = TimeRange {
        first: 45_000_000,
        last: i64::MAX,
    };
    assert!(is_used(&every, quarter, &whole, &wanted, 7.0));
    assert!(!is_used(&every, quarter, &whole, &wanted, 6.0));
    let free = property("item").eq(1);
    assert!(is_used(&free, all, &whole, &wanted, 12.5));
    assert!(!is_used(&free, all, &whole, &wanted, 12.0));
    // A quarter of the container: everybody is in it, but the others' rows are no concern of it, and
    // segments are made ready four times.
    let lows = 0..16_384;
    let cut = Morsel { lows, ..whole };
    assert!(is_used(&every, all, &cut, &wanted, 3.2));
    assert!(!is_used(&every, all, &cut, &wanted, 3.1));
}

#[test]
fn names_that_share_a_run_come_in_order_too() {
    let storage = Arc::new(MemoryStorage::new());
    let store = Store::builder("store").storage(storage).open().unwrap();
    let mut batch = BatchBuilder::new();
    // More names than have a run of their own, with a user of each and one of all.
    let names = pugmark_engine::limits::MAX_NAME_RUNS as i64 + 5;
    for number in 0..names {
        let name = format!("name{number:05}");
        batch.event(&format!("u{number}"), number, &name);
        batch.event("u7", number % 100, &name);
    }
    store.append(batch.finish().unwrap()).unwrap();
    store.compact().unwrap();
    let snapshot = store.snapshot().unwrap();
    let control = Control::start(&QueryOptions::default());
    let all = TimeRange {
        first: i64::MIN,
        last: i64::MAX,
    };
    let (key, lows, rows) = (0, 0..65_536, 2 * names as u64);
    let (morsel, wanted) = (Morsel { key, lows, rows }, Words::of_range(0..65_536));
    let (every, last) = (any(), event(&format!("name{:05}", names - 1)));
    let scan = Scan::prepare(&snapshot, &[&every, &last], all, false);
    let (mut one, mut other) = (Gather::new(&control), Gather::new(&control));
    let (traits, mut skipped) = (TraitTable::default(), Skipped::default());
    let asked = Asked {
        steps: 2,
        every_row: false,
    };
    let rows = &mut one.in_order;
    assert!(rows.find(&scan, &morsel, &wanted, f64::INFINITY).unwrap());
    one.fill_in_order(&scan, &morsel, &wanted, &traits, asked, &mut skipped)
        .unwrap();
    other
        .fill_sorted(&scan, &morsel, &wanted, &traits, asked, &mut skipped)
        .unwrap();
    assert_eq!(one.times.len() as i64, 2 * names);
    assert_eq!(one.masks.iter().filter(|&&mask| mask == 3).count(), 2);
    assert!(gathered(&one) == gathered(&other));
}

#[test]
fn memory_runs_out_in_order() {
    let (snapshot, (morsel, wanted), traits) = (small(), everybody(), TraitTable::default());
    let all = TimeRange {
        first: i64::MIN,
        last: i64::MAX,
    };
    let every = any();
    let scan = Scan::prepare(&snapshot, &[&every], all, false);
    let asked = Asked {
        steps: 1,
        every_row: false,
    };
    let try_with = |memory_bytes| {
        let options = QueryOptions {
            memory_bytes,
            ..QueryOptions::default()
        };
        let control = Control::start(&options);
        let mut gather = Gather::new(&control);
        let found = gather.in_order.find(&scan, &morsel, &wanted, f64::INFINITY);
        let events = found.and_then(|_| {
            let skipped = &mut Skipped::default();
            gather.fill_in_order(&scan, &morsel, &wanted, &traits, asked, skipped)
        });
        let mut rows = InOrder::new(&control);
        let found = rows.find(&scan, &morsel, &wanted, f64::INFINITY);
        let times = found.and_then(|_| {
            let users = (&morsel, &wanted);
            OrderedTimes::new(&control).for_each(&rows, &scan, users, |_, _| Ok(()))
        });
        [events, times].map(|done| match done {
            Ok(()) => true,
            Err(QueryError::OutOfMemory { .. }) => false,
            Err(error) => panic!("{error}"),
        })
    };
    assert_eq!(try_with(8 << 20), [true, true]);
    assert_eq!(try_with(8 << 10), [false, false]);
    // Everything in between is one or the other.
    for kilobytes in 8..64 {
        try_with(kilobytes << 14);
    }
}
