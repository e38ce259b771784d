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

use super::control::{CancelToken, Control, QueryError};
use super::gather::{Asked, Gather, Gathering};
use super::in_order::InOrder;
use super::morsel::Morsel;
use super::scan::Scan;
use super::tests::{DAY, NAMES, Step, cases, condition, play};
use super::times_in_order::OrderedTimes;
use super::traits::TraitTable;
use super::user_times::UserTimes;

const ALL: TimeRange = TimeRange {
    first: i64::MIN,
    last: i64::MAX,
};

/// All conditions are bits of the masks.
const STEPS: Asked = Asked {
    steps: 64,
    every_row: false,
};

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
            let (scan, morsel, wanted, traits) = (&scan, &morsel, &wanted, &traits);
            let of = Gathering { scan, morsel, wanted, traits, asked };
            one.fill_in_order(of, &mut skipped).unwrap();
            other.fill_sorted(of, &mut skipped_too).unwrap();
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
    let control = Control::start(&QueryOptions::default());
    for condition in [any(), event("cart")] {
        let scan = Scan::prepare(&snapshot, &[&condition], ALL, false);
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
        let of = Gathering {
            scan: &scan,
            morsel: &morsel,
            wanted: &wanted,
            traits: &traits,
            asked: STEPS,
        };
        let events = gather.fill_in_order(of, &mut Skipped::default());
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
    let control = Control::start(&QueryOptions::default());
    let is_used = |condition: &Condition, range, morsel: &Morsel, wanted: &Words, cost| {
        let scan = Scan::prepare(&snapshot, &[condition], range, false);
        let mut rows = InOrder::new(&control);
        rows.find(&scan, morsel, wanted, cost).unwrap()
    };
    // 60 rows, of which 15 are carts; to get ready costs as much as 32 more.
    let (every, cart) = (any(), event("cart"));
    assert!(is_used(&every, ALL, &whole, &wanted, 1.6));
    assert!(!is_used(&every, ALL, &whole, &wanted, 1.5));
    assert!(is_used(&cart, ALL, &whole, &wanted, 6.2));
    assert!(!is_used(&cart, ALL, &whole, &wanted, 6.1));
    // One of seven users, a quarter of the time, values that decide.
    let one = Words::of_range(0..1);
    assert!(is_used(&every, ALL, &whole, &one, 10.8));
    assert!(!is_used(&every, ALL, &whole, &one, 10.7));
    let quarter = TimeRange {
        first: 45_000_000,
        last: i64::MAX,
    };
    assert!(is_used(&every, quarter, &whole, &wanted, 7.0));
    assert!(!is_used(&every, quarter, &whole, &wanted, 6.0));
    let free = property("item").eq(1);
    assert!(is_used(&free, ALL, &whole, &wanted, 12.5));
    assert!(!is_used(&free, ALL, &whole, &wanted, 12.0));
    // A quarter of the container: everybody is in it, but the others' rows are no concern of it, and
    // segments are made ready four times.
    let lows = 0..16_384;
    let cut = Morsel { lows, ..whole };
    assert!(is_used(&every, ALL, &cut, &wanted, 3.2));
    assert!(!is_used(&every, ALL, &cut, &wanted, 3.1));
}

/// Gathers the events of a morsel's users both ways; gives those in order.
fn both_ways<'c>(
    control: &'c Control,
    scan: &Scan<'_>,
    morsel: &Morsel,
    wanted: &Words,
) -> Gather<'c> {
    let (mut one, mut other) = (Gather::new(control), Gather::new(control));
    let of = Gathering {
        scan,
        morsel,
        wanted,
        traits: &TraitTable::default(),
        asked: STEPS,
    };
    let rows = &mut one.in_order;
    assert!(rows.find(scan, morsel, wanted, f64::INFINITY).unwrap());
    one.fill_in_order(of, &mut Skipped::default()).unwrap();
    other.fill_sorted(of, &mut Skipped::default()).unwrap();
    assert!(gathered(&one) == gathered(&other));
    one
}

fn of_batch(batch: BatchBuilder) -> Snapshot {
    let storage = Arc::new(MemoryStorage::new());
    let store = Store::builder("store").storage(storage).open().unwrap();
    store.append(batch.finish().unwrap()).unwrap();
    store.compact().unwrap();
    store.snapshot().unwrap()
}

#[test]
fn names_that_share_a_run_come_in_order_too() {
    let mut batch = BatchBuilder::new();
    // More names than have a run of their own, with a user of each and one of all.
    let names = pugmark_engine::limits::MAX_NAME_RUNS as i64 + 5;
    for number in 0..names {
        let name = format!("name{number:05}");
        batch.event(&format!("u{number}"), number, &name);
        batch.event("u7", number % 100, &name);
    }
    let (snapshot, control) = (of_batch(batch), Control::start(&QueryOptions::default()));
    let (key, lows, rows) = (0, 0..65_536, 2 * names as u64);
    let (morsel, wanted) = (Morsel { key, lows, rows }, Words::of_range(0..65_536));
    let (every, last) = (any(), event(&format!("name{:05}", names - 1)));
    let scan = Scan::prepare(&snapshot, &[&every, &last], ALL, false);
    let found = both_ways(&control, &scan, &morsel, &wanted);
    assert_eq!(found.times.len() as i64, 2 * names);
    assert_eq!(found.masks.iter().filter(|&&mask| mask == 3).count(), 2);
}

#[test]
fn users_of_a_later_container_come_in_order_too() {
    let mut batch = BatchBuilder::new();
    for user in 0..66_000 {
        for number in 0..1 + user % 4 {
            let name = NAMES[(user * 7 + number) as usize % 3];
            batch.event(&format!("u{user}"), 5 - number, name);
        }
    }
    let (snapshot, control) = (of_batch(batch), Control::start(&QueryOptions::default()));
    let every = any();
    let scan = Scan::prepare(&snapshot, &[&every], ALL, false);
    let mut events = 0;
    for (key, lows) in [(0, 0..32_768), (0, 32_768..65_536), (1, 0..65_536)] {
        let wanted = Words::of_range(lows.clone());
        let rows = 1;
        let found = both_ways(&control, &scan, &Morsel { key, lows, rows }, &wanted);
        events += found.times.len();
    }
    assert_eq!(events, 66_000 / 4 * (1 + 2 + 3 + 4));
}

/// Finds the rows of all users and, after `between`, gathers their events and reads their times.
fn read_after(options: &QueryOptions, between: impl Fn()) -> [Result<(), QueryError>; 3] {
    let (snapshot, (morsel, wanted)) = (small(), everybody());
    let (every, traits) = (any(), TraitTable::default());
    let scan = Scan::prepare(&snapshot, &[&every], ALL, false);
    let control = Control::start(options);
    let of = Gathering {
        scan: &scan,
        morsel: &morsel,
        wanted: &wanted,
        traits: &traits,
        asked: STEPS,
    };
    let find = |rows: &mut InOrder<'_>| {
        let found = rows.find(&scan, &morsel, &wanted, f64::INFINITY);
        found.map(|found| assert!(found))
    };
    let mut gather = Gather::new(&control);
    if let Err(error) = find(&mut gather.in_order) {
        return [Err(error.clone()), Err(error.clone()), Err(error)];
    }
    between();
    let events = gather.fill_in_order(of, &mut Skipped::default());
    drop(gather);
    let fresh = QueryOptions {
        cancel: Default::default(),
        ..options.clone()
    };
    let (before, control) = (Control::start(&fresh), Control::start(options));
    let mut rows = InOrder::new(&before);
    find(&mut rows).unwrap();
    let users = (&morsel, &wanted);
    let times = OrderedTimes::new(&control).for_each(&rows, &scan, users, |_, _| Ok(()));
    [Ok(()), events, times]
}

#[test]
fn memory_runs_out_in_order() {
    let with = |memory_bytes| {
        let options = QueryOptions {
            memory_bytes,
            ..QueryOptions::default()
        };
        read_after(&options, || ()).map(|done| match done {
            Ok(()) => true,
            Err(QueryError::OutOfMemory { .. }) => false,
            Err(error) => panic!("{error}"),
        })
    };
    assert_eq!(with(8 << 20), [true; 3]);
    // The least with which rows are found does not do for their events.
    let (mut less, mut enough) = (0, 8 << 20);
    while less + 1 < enough {
        let half = (less + enough) / 2;
        match with(half)[0] {
            true => enough = half,
            false => less = half,
        }
    }
    assert_eq!(with(enough)[..2], [true, false]);
    assert_eq!(with(enough + (16 << 10))[..2], [true, true]);
}

#[test]
fn whoever_is_cancelled_stops_in_order() {
    let cancel = CancelToken::new();
    let options = QueryOptions {
        cancel: cancel.clone(),
        ..QueryOptions::default()
    };
    let [found, events, times] = read_after(&options, || cancel.cancel());
    assert!(found.is_ok());
    assert!(matches!(events, Err(QueryError::Cancelled)), "{events:?}");
    assert!(matches!(times, Err(QueryError::Cancelled)), "{times:?}");
    let [found, ..] = read_after(&options, || ());
    assert!(matches!(found, Err(QueryError::Cancelled)), "{found:?}");
}
