//! Counts, sums and distinct users by name, period and texts, against a plain loop.

use std::collections::{BTreeMap, BTreeSet};

use pugmark_engine::batch::Kind;
use pugmark_engine::time::MICROS_PER_DAY;
use pugmark_engine::{BatchBuilder, Clock, Options, Store, Value};

use super::audience::{Audience, AudienceRow, AudienceValue};
use super::columns::table_of;
use super::control::Control;
use super::totals::{Measured, NumberTotal, Sum, TotalRow, Totals};
use super::uniques::Uniques;
use super::{Executor, QueryOptions};
use crate::behaviour::{Condition, TimeRange, any, event, property};
use crate::zone::{CalendarUnit, Zone};

const HOUR: i64 = MICROS_PER_DAY / 24;
const EVENTS: usize = 600;

#[derive(Clone, Debug)]
struct Event {
    user: u32,
    time: i64,
    name: &'static str,
    platform: Option<&'static str>,
    pieces: Option<i64>,
    price: Option<f64>,
}

/// Users, times, names and values that ties, days and weeks fall into in every way.
fn events() -> Vec<Event> {
    let mut seed = 7u64;
    let mut next = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % below
    };
    let event = |_| Event {
        name: ["view", "cart", "buy"][next(3) as usize],
        platform: [None, Some("ios"), Some("web"), Some("tv")][next(4) as usize],
        pieces: (next(3) > 0).then(|| next(100) as i64 - 50),
        // Quarters, so that sums are exact in any order.
        price: (next(2) > 0).then(|| next(400) as f64 / 4.0),
        user: next(40) as u32,
        time: next(24 * 50) as i64 * HOUR,
    };
    (0..EVENTS).map(event).collect()
}

fn append(store: &Store, events: &[Event]) {
    let mut batch = BatchBuilder::new();
    for event in events {
        let row = batch.event(&format!("u{}", event.user), event.time, event.name);
        let row = match event.platform {
            Some(platform) => row.property("platform", platform),
            None => row,
        };
        let row = match event.pieces {
            Some(pieces) => row.property("pieces", pieces),
            None => row,
        };
        if let Some(price) = event.price {
            row.property("price", price);
        }
    }
    store.append(batch.finish().unwrap()).unwrap();
}

/// Bitmaps tell who viewed, rows who has pieces.
fn view_or_pieces() -> Condition {
    event("view").or(property("pieces").gt(0))
}

/// The questions that are asked of every layout.
fn questions() -> Vec<Totals> {
    let periods = [
        None,
        Some(CalendarUnit::Hour),
        Some(CalendarUnit::Day),
        Some(CalendarUnit::Week),
        Some(CalendarUnit::Month),
    ];
    let ranges = [
        (i64::MIN, i64::MAX),
        (3 * MICROS_PER_DAY + 5 * HOUR, 40 * MICROS_PER_DAY),
    ];
    let conditions = [
        any(),
        event("view"),
        property("pieces").gt(0),
        view_or_pieces(),
    ];
    let numbers = || {
        let measured = |property: &str, whole| Measured {
            property: property.to_owned(),
            whole,
        };
        vec![measured("pieces", true), measured("price", false)]
    };
    let properties: [&[&str]; 3] = [&[], &["platform"], &["absent", "platform"]];
    let mut questions = Vec::new();
    for by_period in periods {
        for (first, last) in ranges {
            for condition in &conditions {
                for bits in 0..12usize {
                    questions.push(Totals {
                        condition: condition.clone(),
                        range: TimeRange { first, last },
                        by_event: bits & 1 > 0,
                        by_period,
                        by_properties: properties[bits / 4]
                            .iter()
                            .map(|&name| name.into())
                            .collect(),
                        times: bits & 2 > 0,
                        numbers: if bits & 2 > 0 { numbers() } else { Vec::new() },
                    });
                }
            }
        }
    }
    questions
}

type Key = (String, i64, Vec<Option<String>>);

/// The events that count, by name, first instant of the period, and texts.
fn grouped<'e>(totals: &Totals, events: &'e [Event]) -> BTreeMap<Key, Vec<&'e Event>> {
    let mut by: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for one in events {
        let holds = match &totals.condition {
            condition if *condition == any() => true,
            condition if *condition == event("view") => one.name == "view",
            condition => {
                let viewed = *condition == view_or_pieces() && one.name == "view";
                viewed || one.pieces.is_some_and(|pieces| pieces > 0)
            }
        };
        if holds && totals.range.contains(one.time) {
            let name = if totals.by_event { one.name } else { "" };
            let period = totals
                .by_period
                .map_or(0, |unit| Zone::UTC.bucket(unit, one.time).start);
            let texts = totals.by_properties.iter().map(|name| match name.as_str() {
                "platform" => one.platform.map(str::to_owned),
                _ => None,
            });
            by.entry((name.to_owned(), period, texts.collect()))
                .or_default()
                .push(one);
        }
    }
    by
}

fn sum<T: Copy + PartialOrd>(
    values: &[T],
    zero: T,
    float: fn(T) -> f64,
    add: fn(T, T) -> T,
) -> Option<Sum<T>> {
    let least = values
        .iter()
        .copied()
        .reduce(|a, b| if b < a { b } else { a })?;
    let greatest = values
        .iter()
        .copied()
        .reduce(|a, b| if b > a { b } else { a })?;
    Some(Sum {
        count: values.len() as u64,
        sum: values.iter().copied().fold(zero, add),
        float_sum: values.iter().copied().map(float).sum(),
        least,
        greatest,
    })
}

fn judged(totals: &Totals, events: &[Event]) -> Vec<TotalRow> {
    let rows = grouped(totals, events).into_iter();
    rows.map(|((event, period, properties), group)| {
        let mut total = totals.nothing();
        total.events = group.len() as u64;
        if totals.times {
            total.first = group.iter().map(|event| event.time).min().unwrap();
            total.last = group.iter().map(|event| event.time).max().unwrap();
            let pieces: Vec<i64> = group.iter().filter_map(|event| event.pieces).collect();
            if let Some(sum) = sum(&pieces, 0, |value| value as f64, |a, b| a + b) {
                total.numbers[0] = NumberTotal::Whole(sum);
            }
            let prices: Vec<f64> = group.iter().filter_map(|event| event.price).collect();
            if let Some(sum) = sum(&prices, 0.0, |value| value, |a, b| a + b) {
                total.numbers[1] = NumberTotal::Float(sum);
            }
        }
        TotalRow {
            event,
            period,
            properties,
            total,
        }
    })
    .collect()
}

/// Whole runs tell first and last times although nobody asked, so those are compared where asked.
fn check(executor: &Executor, totals: &Totals, events: &[Event]) {
    assert!(totals.fits(executor.snapshot()).unwrap());
    let (found, _) = executor.totals(totals).unwrap();
    // Absent NaNs are equal only by their bits.
    let told = |rows: &[TotalRow]| format!("{rows:?}");
    assert_eq!(told(&found), told(&judged(totals, events)), "{totals:?}");
    if !totals.by_properties.is_empty() {
        return;
    }
    if !totals.by_event && totals.by_period.is_none() {
        check_audiences(executor, totals, events);
    }
    check_uniques(executor, totals, events);
}

fn check_uniques(executor: &Executor, totals: &Totals, events: &[Event]) {
    let uniques = Uniques {
        condition: totals.condition.clone(),
        range: totals.range,
        by_event: totals.by_event,
        by_period: totals.by_period,
    };
    assert!(uniques.fits(executor.snapshot()));
    let (found, _) = executor.uniques(&uniques).unwrap();
    let users = grouped(totals, events).into_iter();
    let users = users.map(|((name, period, _), group)| {
        let users: BTreeSet<u32> = group.iter().map(|event| event.user).collect();
        ((name, period), users.len() as u64)
    });
    assert_eq!(found, users.collect(), "{uniques:?}");
}

fn check_audiences(executor: &Executor, totals: &Totals, events: &[Event]) {
    let counted = grouped(totals, events).into_values().flatten();
    let counted: Vec<&Event> = counted.collect();
    let text = |text: &str| AudienceValue::Text(text.to_owned());
    let value = |property: &str, event: &Event| match property {
        "platform" => event.platform.map(text),
        "pieces" => event.pieces.map(AudienceValue::Whole),
        _ => None,
    };
    for property in ["platform", "pieces", "absent"] {
        let audience = Audience {
            condition: totals.condition.clone(),
            range: totals.range,
            property: property.to_owned(),
        };
        assert!(audience.fits(executor.snapshot()).unwrap());
        let mut expected: BTreeMap<_, (u64, BTreeSet<u32>)> = BTreeMap::new();
        for event in &counted {
            let (events, users) = expected.entry(value(property, event)).or_default();
            *events += 1;
            users.insert(event.user);
        }
        let (mut found, _) = executor.audience(&audience).unwrap();
        found.sort_by(|one, other| one.value.cmp(&other.value));
        let expected = expected
            .into_iter()
            .map(|(value, (events, users))| AudienceRow {
                value,
                events,
                users: users.len() as u64,
            });
        assert_eq!(found, expected.collect::<Vec<_>>(), "{audience:?}");
    }
}

/// Two containers of users, of whom the second has fewer names and days.
#[test]
fn users_of_several_containers_equal_a_plain_count() {
    let event = |user: u32| Event {
        user,
        time: i64::from(user % 30 * 31) * HOUR + i64::from(user / 60_000),
        name: ["view", "cart", "buy"][if user < 65_536 { user as usize % 3 } else { 1 }],
        platform: None,
        pieces: user.is_multiple_of(5).then_some(i64::from(user % 4) - 1),
        price: None,
    };
    let events: Vec<Event> = (0..66_000).map(event).collect();
    let directory = tempfile::tempdir().unwrap();
    let store = Store::builder(directory.path()).open().unwrap();
    append(&store, &events);
    for _ in 0..2 {
        let options = QueryOptions {
            threads: Some(2),
            ..QueryOptions::default()
        };
        let executor = Executor::new(store.snapshot().unwrap()).with_options(options);
        let plain = |asked: &&Totals| asked.by_properties.is_empty() && !asked.times;
        for asked in questions().iter().filter(plain) {
            check_uniques(&executor, asked, &events);
        }
        store.compact().unwrap();
    }
}

#[test]
fn totals_and_users_equal_a_plain_count() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        clock: Clock::custom(|| 100 * MICROS_PER_DAY),
        ..Options::default()
    };
    let builder = || Store::builder(directory.path()).options(options.clone());
    let mut store = builder().open().unwrap();
    let events = events();
    for (part, chunk) in events.chunks(EVENTS / 3).enumerate() {
        append(&store, chunk);
        if part < 2 {
            store.flush().unwrap();
        }
    }
    for layout in 0..3 {
        match layout {
            0 => {}
            1 => {
                store.flush().unwrap();
                store.compact().unwrap();
            }
            _ => {
                drop(store);
                store = builder().open().unwrap();
            }
        }
        for threads in [1, 3] {
            let executor = Executor::new(store.snapshot().unwrap()).with_options(QueryOptions {
                threads: Some(threads),
                ..QueryOptions::default()
            });
            for totals in questions() {
                check(&executor, &totals, &events);
            }
        }
    }
}

/// Few different numbers, far apart, are stored as codes, which are counted without being unpacked each time.
#[test]
fn numbers_stored_through_a_table_count_alike() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::builder(directory.path()).open().unwrap();
    let numbered = |number: u32| {
        let piece = i64::from(number * number % 97);
        Event {
            user: number % 37,
            time: i64::from(number) * 60_000_000,
            name: ["view", "cart"][number as usize % 2],
            platform: None,
            pieces: (!number.is_multiple_of(3)).then_some(piece * 10_007 + piece % 7),
            // In every row: as many in each piece.
            price: Some(f64::from(number % 400) / 4.0),
        }
    };
    let events: Vec<Event> = (0..4_000).map(numbered).collect();
    append(&store, &events);
    store.flush().unwrap();
    store.compact().unwrap();
    let snapshot = store.snapshot().unwrap();
    let segment = &snapshot.event_segments()[0];
    let properties = segment.run("view").unwrap().properties().unwrap();
    let pieces = properties.get("pieces").unwrap().unwrap();
    assert!(pieces.part(Kind::I64).unwrap().table_len().is_some());
    let executor = Executor::new(snapshot.clone());
    for totals in questions() {
        check(&executor, &totals, &events);
    }
    // Where there is no room for tables, values are read as they are.
    let control = Control::start(executor.options());
    let mut full = control.reservation();
    full.grow(executor.options().memory_bytes).unwrap();
    let part = pieces.part(Kind::I64).unwrap();
    assert!(
        table_of(part, &mut control.reservation())
            .unwrap()
            .is_empty()
    );
    drop(full);
    assert!(
        !table_of(part, &mut control.reservation())
            .unwrap()
            .is_empty()
    );
}

/// Texts of which many are different have no codes, so other ways must count them.
#[test]
fn what_does_not_fit_is_told_before() {
    let store = {
        let storage = std::sync::Arc::new(pugmark_engine::storage::MemoryStorage::new());
        Store::builder("store").storage(storage).open().unwrap()
    };
    let mut batch = BatchBuilder::new();
    for number in 0..100 {
        let row = batch.event("ann", number, "view");
        row.property("mixed", number)
            .property("list", Value::List(vec!["a".into(), "b".into()]));
    }
    store.append(batch.finish().unwrap()).unwrap();
    let asked = |name: &str| Totals {
        condition: any(),
        range: TimeRange {
            first: i64::MIN,
            last: i64::MAX,
        },
        by_event: false,
        by_period: None,
        by_properties: vec![name.to_owned()],
        times: false,
        numbers: Vec::new(),
    };
    let snapshot = store.snapshot().unwrap();
    let audience = |name: &str| Audience {
        condition: any(),
        range: TimeRange {
            first: i64::MIN,
            last: i64::MAX,
        },
        property: name.to_owned(),
    };
    assert!(!audience("list").fits(&snapshot).unwrap());
    assert!(audience("mixed").fits(&snapshot).unwrap());
    let mut wide = BatchBuilder::new();
    for (time, number) in [(1, 0), (2, 1_i64 << 40)] {
        wide.event("bob", time, "view").property("mixed", number);
    }
    store.append(wide.finish().unwrap()).unwrap();
    assert!(!audience("mixed").fits(&store.snapshot().unwrap()).unwrap());
    assert!(!asked("mixed").fits(&snapshot).unwrap());
    assert!(!asked("list").fits(&snapshot).unwrap());
    assert!(asked("absent").fits(&snapshot).unwrap());
}
