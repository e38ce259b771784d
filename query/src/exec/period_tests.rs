//! Retention, lifecycle and stickiness over stores of every layout, against the judge.

use proptest::prelude::*;
use proptest::sample::select;
use pugmark_engine::{BatchBuilder, Store};

use super::tests::{NAMES, Pair, Step, cases, condition, options, play, steps};
use crate::behaviour::{
    self, Condition, Lifecycle, LifecycleStatus, Retention, RetentionRow, ReturnMode, Segment,
    Stickiness, TimeSpec, days, did, event, everyone, micros, not,
};
use crate::model::ModelStore;
use crate::zone::{CalendarUnit, Zone};
use crate::{Executor, QueryError, QueryOptions};

const DAY: i64 = 86_400_000_000;
const HOUR: i64 = DAY / 24;

const UNITS: [CalendarUnit; 4] = [
    CalendarUnit::Hour,
    CalendarUnit::Day,
    CalendarUnit::Week,
    CalendarUnit::Month,
];

fn at(text: &str) -> i64 {
    let instant: jiff::Timestamp = text.parse().unwrap();
    instant.as_microsecond()
}

/// Where and how widely the drawn days are laid on the calendar.
#[derive(Clone, Copy, Debug)]
struct Laid {
    zero: i64,
    /// In eighths: the drawn times are quarters of days.
    stretch: i64,
}

impl Laid {
    fn time(self, drawn: i64) -> i64 {
        self.zero + drawn / 8 * self.stretch
    }

    fn steps(self, mut steps: Vec<Step>) -> Vec<Step> {
        for step in &mut steps {
            if let Step::Event { time, .. } | Step::Trait { time, .. } = step {
                *time = self.time(*time);
            }
        }
        steps
    }
}

/// The clocks change in the midst of the drawn days, or a month ends there, or nothing is special;
/// steps of an hour and a half, of a quarter of a day, and of days and a half.
fn laid() -> impl Strategy<Value = Laid> {
    let zeros = [
        "2024-03-30T22:30:00Z",
        "2024-10-26T23:30:00Z",
        "2024-01-31T09:00:00Z",
        "1970-01-01T00:00:00Z",
    ];
    (select(zeros.map(at).to_vec()), select(vec![2, 8, 80]))
        .prop_map(|(zero, stretch)| Laid { zero, stretch })
}

/// Quarters of days, as the events' times are drawn.
fn moment() -> impl Strategy<Value = i64> {
    (-4_i64..17).prop_map(|quarters| quarters * (DAY / 4))
}

fn range() -> impl Strategy<Value = TimeSpec> {
    prop_oneof![
        4 => Just((None, None, None)),
        1 => moment().prop_map(|since| (Some(since), None, None)),
        1 => moment().prop_map(|until| (None, Some(until), None)),
        1 => (moment(), 1_i64..16).prop_map(|(since, quarters)| (Some(since), Some(since + quarters * DAY / 4), None)),
        1 => (1_i64..40).prop_map(|quarters| (None, None, Some(quarters * DAY / 4))),
    ]
    .prop_map(|(since, until, last)| TimeSpec {
        since,
        until,
        last: last.map(micros),
    })
}

fn laid_range(range: TimeSpec, laid: Laid) -> TimeSpec {
    TimeSpec {
        since: range.since.map(|time| laid.time(time)),
        until: range.until.map(|time| laid.time(time)),
        last: range
            .last
            .map(|span| micros(span.micros / 8 * laid.stretch)),
    }
}

fn zone() -> impl Strategy<Value = Zone> {
    // Half of them by bitmaps of days.
    select(vec![
        "UTC",
        "UTC",
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Asia/Kolkata",
    ])
    .prop_map(|name| Zone::named(name).unwrap())
}

fn population() -> impl Strategy<Value = Option<Segment>> {
    let some = prop_oneof![
        2 => condition().prop_map(|condition| Segment::from(did(condition))),
        1 => condition().prop_map(|condition| not(did(condition))),
        1 => Just(everyone()),
    ];
    prop::option::weighted(0.3, some)
}

/// What all questions have: where days begin, which users, over which range.
fn common() -> impl Strategy<Value = (Zone, Option<Segment>, TimeSpec)> {
    (zone(), population(), range())
}

fn present() -> impl Strategy<Value = i64> {
    prop_oneof![3 => Just(9 * DAY), 2 => moment()]
}

/// Mostly names alone, which bitmaps answer.
fn active() -> impl Strategy<Value = Condition> {
    let name = || select(NAMES.to_vec()).prop_map(event);
    prop_oneof![
        2 => name(),
        1 => (name(), name()).prop_map(|(one, other)| one.or(other)),
        1 => Just(behaviour::any()),
        3 => condition(),
    ]
}

fn retention() -> impl Strategy<Value = Retention> {
    let flags = (any::<bool>(), any::<bool>());
    let mode = select(vec![ReturnMode::On, ReturnMode::OnOrAfter]);
    let options = (
        select(UNITS.to_vec()),
        prop::option::weighted(0.3, 0_u64..6),
        mode,
        flags,
    );
    (active(), active(), options, common()).prop_map(
        |(start, returns, (period, periods, mode, flags), (zone, users, range))| Retention {
            start,
            returns,
            period,
            periods,
            mode,
            rolling: flags.0,
            recurring: flags.1,
            zone,
            users,
            range,
        },
    )
}

fn lifecycle() -> impl Strategy<Value = Lifecycle> {
    (active(), select(UNITS.to_vec()), common()).prop_map(
        |(active, period, (zone, users, range))| Lifecycle {
            active,
            period,
            zone,
            users,
            range,
        },
    )
}

fn stickiness() -> impl Strategy<Value = Stickiness> {
    let calendars = (select(UNITS.to_vec()), select(UNITS.to_vec()));
    let calendars = calendars.prop_filter("unit is shorter", |(unit, period)| unit < period);
    (active(), calendars, common()).prop_map(|(active, (unit, period), (zone, users, range))| {
        Stickiness {
            active,
            period,
            unit,
            zone,
            users,
            range,
        }
    })
}

fn executor(store: &Store, as_of: i64, (threads, morsel_rows): (usize, u64)) -> Executor {
    let options = options(as_of, threads, morsel_rows);
    Executor::new(store.snapshot().unwrap()).with_options(options)
}

fn running() -> impl Strategy<Value = (usize, u64)> {
    (1_usize..4, select(vec![1_u64, 1 << 18]))
}

/// What holds of any table of retention, whatever the events.
fn plausible(retention: &Retention, rows: &[RetentionRow]) -> Result<(), TestCaseError> {
    for cohort in rows.chunk_by(|left, right| left.cohort == right.cohort) {
        for (index, row) in cohort.iter().enumerate() {
            prop_assert_eq!(row.k, index as u64);
            prop_assert!(row.users <= row.size && row.size > 0);
        }
        if let Some(periods) = retention.periods {
            prop_assert_eq!(cohort.len() as u64, periods + 1);
        }
        let falls = cohort.is_sorted_by(|left, right| left.users >= right.users);
        prop_assert!(falls || retention.mode == ReturnMode::On);
        prop_assert!(cohort.is_sorted_by_key(|row| row.incomplete));
    }
    prop_assert!(rows.is_sorted_by_key(|row| (row.cohort, row.k)));
    Ok(())
}

/// The users that a question about a cell gives, as the judge gives them.
fn found(users: crate::UserSet) -> Vec<u32> {
    users.ordinals().iter().collect()
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn retention_equals_the_judge(
        steps in steps(),
        laid in laid(),
        retentions in prop::collection::vec(retention(), 1..4),
        as_of in present(),
        running in running(),
    ) {
        let Pair { store, model } = play(&laid.steps(steps));
        let as_of = laid.time(as_of);
        let executor = executor(&store, as_of, running);
        for mut retention in retentions {
            retention.range = laid_range(retention.range, laid);
            prop_assume!(retention.validate().is_ok());
            let judged = model.retention(&retention, as_of).unwrap();
            let rows = executor.retention(&retention).unwrap().rows;
            prop_assert_eq!(&judged.rows, &rows, "{:?}", retention);
            plausible(&retention, &rows)?;
            // Every eighth cell is enough: each asks all over again.
            for row in rows.iter().step_by(8) {
                let behind = found(executor.retention_users(&retention, row.cohort, row.k).unwrap());
                prop_assert_eq!(behind.len() as u64, row.users);
                let judged = model.retention_users(&retention, row.cohort, row.k, as_of).unwrap();
                prop_assert_eq!(behind, judged.into_iter().collect::<Vec<_>>());
                let cohort = executor.retention_cohort(&retention, row.cohort).unwrap();
                prop_assert_eq!(cohort.len(), row.size);
            }
        }
    }

    #[test]
    fn lifecycle_equals_the_judge(
        steps in steps(),
        laid in laid(),
        lifecycles in prop::collection::vec(lifecycle(), 1..4),
        as_of in present(),
        running in running(),
    ) {
        let Pair { store, model } = play(&laid.steps(steps));
        let as_of = laid.time(as_of);
        let executor = executor(&store, as_of, running);
        for mut lifecycle in lifecycles {
            lifecycle.range = laid_range(lifecycle.range, laid);
            prop_assume!(lifecycle.validate().is_ok());
            let judged = model.lifecycle(&lifecycle, as_of).unwrap();
            let rows = executor.lifecycle(&lifecycle).unwrap().rows;
            prop_assert_eq!(&judged.rows, &rows, "{:?}", lifecycle);
            for row in rows.iter().step_by(4) {
                let behind = executor.lifecycle_users(&lifecycle, row.period, row.status);
                let judged = model.lifecycle_users(&lifecycle, row.period, row.status, as_of);
                let behind = found(behind.unwrap());
                prop_assert_eq!(behind.len() as u64, row.users);
                prop_assert_eq!(behind, judged.unwrap().into_iter().collect::<Vec<_>>());
            }
            balanced(&executor, &lifecycle)?;
        }
    }

    #[test]
    fn stickiness_equals_the_judge(
        steps in steps(),
        laid in laid(),
        questions in prop::collection::vec(stickiness(), 1..4),
        as_of in present(),
        running in running(),
    ) {
        let Pair { store, model } = play(&laid.steps(steps));
        let as_of = laid.time(as_of);
        let executor = executor(&store, as_of, running);
        for mut stickiness in questions {
            stickiness.range = laid_range(stickiness.range, laid);
            prop_assume!(stickiness.validate().is_ok());
            let judged = model.stickiness(&stickiness, as_of).unwrap();
            let rows = executor.stickiness(&stickiness).unwrap().rows;
            prop_assert_eq!(&judged.rows, &rows, "{:?}", stickiness);
            for row in rows.iter().step_by(3) {
                let behind = executor.stickiness_users(&stickiness, row.period, row.units);
                let judged = model.stickiness_users(&stickiness, row.period, row.units, as_of);
                let behind = found(behind.unwrap());
                prop_assert_eq!(behind.len() as u64, row.users);
                prop_assert_eq!(behind, judged.unwrap().into_iter().collect::<Vec<_>>());
            }
        }
    }
}

/// Whoever was active in a period is returning or dormant in the next.
fn balanced(executor: &Executor, lifecycle: &Lifecycle) -> Result<(), TestCaseError> {
    let whole = Lifecycle {
        range: TimeSpec::default(),
        ..lifecycle.clone()
    };
    let rows = executor.lifecycle(&whole).unwrap().rows;
    let sum = |period: i64, wanted: fn(LifecycleStatus) -> bool| {
        let rows = rows.iter();
        let rows = rows.filter(|row| row.period == period && wanted(row.status));
        rows.map(|row| row.users).sum::<u64>()
    };
    let present = whole.zone.bucket(whole.period, executor.as_of());
    for row in &rows {
        let next = whole.zone.bucket(whole.period, row.period).end;
        if next < present.end {
            let active = sum(row.period, |status| status != LifecycleStatus::Dormant);
            let kept_or_lost = sum(next, |status| {
                matches!(
                    status,
                    LifecycleStatus::Returning | LifecycleStatus::Dormant
                )
            });
            prop_assert_eq!(active, kept_or_lost);
        }
    }
    Ok(())
}

/// A store of these events: user, time, name.
fn stored(events: &[(&str, &str, &str)]) -> Store {
    let storage = std::sync::Arc::new(pugmark_engine::storage::MemoryStorage::new());
    let store = Store::builder("store").storage(storage).open().unwrap();
    let mut batch = BatchBuilder::new();
    for (user, time, name) in events {
        batch.event(user, at(time), name);
    }
    store.append(batch.finish().unwrap()).unwrap();
    store
}

fn asked(store: &Store, as_of: &str) -> Executor {
    executor(store, at(as_of), (1, 1 << 18))
}

/// Rows as (cohort, size, k, users, incomplete).
fn short(rows: &[RetentionRow]) -> Vec<(&'static str, u64, u64, u64, bool)> {
    let day = |micros: i64| match micros {
        _ if micros == at("2024-01-01T00:00:00Z") => "1st",
        _ if micros == at("2024-01-02T00:00:00Z") => "2nd",
        _ => "another",
    };
    rows.iter()
        .map(|row| (day(row.cohort), row.size, row.k, row.users, row.incomplete))
        .collect()
}

fn people() -> Store {
    stored(&[
        ("ann", "2024-01-01T10:00:00Z", "open"),
        ("ann", "2024-01-01T10:00:00Z", "open"),
        ("ann", "2024-01-02T09:00:00Z", "open"),
        ("ben", "2024-01-01T23:00:00Z", "open"),
        ("ben", "2024-01-03T22:59:00Z", "open"),
        ("cleo", "2024-01-02T12:00:00Z", "open"),
        ("dan", "2024-01-04T12:00:00Z", "see"),
    ])
}

#[test]
fn a_table_reaches_to_the_last_event_of_anybody() {
    let executor = asked(&people(), "2024-01-04T13:00:00Z");
    let rows = |retention: &Retention| executor.retention(retention).unwrap().rows;
    let daily = Retention::new("open", "open");
    // Ann's second event of the same instant comes after her start.
    let expected = [
        ("1st", 2, 0, 1, false),
        ("1st", 2, 1, 1, false),
        ("1st", 2, 2, 1, false),
        ("1st", 2, 3, 0, true),
        ("2nd", 1, 0, 0, false),
        ("2nd", 1, 1, 0, false),
        ("2nd", 1, 2, 0, true),
    ];
    assert_eq!(short(&rows(&daily)), expected);
    assert_eq!(rows(&daily)[0].rate, 0.5);
    // Dan is not asked about, so that the last event is Ben's.
    let openers = rows(&daily.clone().users(did("open")));
    assert_eq!(short(&openers), [&expected[..3], &expected[4..6]].concat());
    let two = rows(&daily.clone().periods(5).until(at("2024-01-02T00:00:00Z")));
    let users: Vec<_> = two.iter().map(|row| row.users).collect();
    assert_eq!(users, [1, 0, 0, 0, 0, 0]);
    let later = rows(&daily.clone().mode(ReturnMode::OnOrAfter));
    let users: Vec<_> = later.iter().map(|row| row.users).collect();
    assert_eq!(users, [2, 2, 1, 0, 0, 0, 0]);
    let again = rows(&daily.clone().recurring());
    let sizes: Vec<_> = again.iter().map(|row| (row.cohort, row.size)).collect();
    assert_eq!(sizes[4], (at("2024-01-02T00:00:00Z"), 2));
    let ids = executor.retention_users(&daily, at("2024-01-01T15:00:00Z"), 2);
    assert_eq!(ids.unwrap().ids().unwrap(), ["ben"]);
    let ids = executor.retention_cohort(&daily, at("2024-01-02T00:00:00Z"));
    assert_eq!(ids.unwrap().ids().unwrap(), ["cleo"]);
}

#[test]
fn rolling_periods_begin_with_the_user() {
    let executor = asked(&people(), "2024-01-04T13:00:00Z");
    let rows = executor.retention(&Retention::new("open", "open").rolling());
    // Ann came back 23 hours later, Ben a minute before his second day was over.
    let expected = [
        ("1st", 2, 0, 1, false),
        ("1st", 2, 1, 1, false),
        ("1st", 2, 2, 0, true),
        ("1st", 2, 3, 0, true),
        ("2nd", 1, 0, 0, false),
        ("2nd", 1, 1, 0, true),
        ("2nd", 1, 2, 0, true),
    ];
    assert_eq!(short(&rows.unwrap().rows), expected);
}

#[test]
fn a_day_of_23_hours_is_a_day() {
    let store = stored(&[
        ("ann", "2024-03-30T11:00:00Z", "open"),
        ("ann", "2024-03-31T10:00:00Z", "open"),
        ("ben", "2024-03-30T22:59:00Z", "open"),
        ("ben", "2024-03-31T22:01:00Z", "open"),
    ]);
    let executor = asked(&store, "2024-04-10T00:00:00Z");
    let berlin = Retention::new("open", "open").zone(Zone::named("Europe/Berlin").unwrap());
    let users = |retention: &Retention| -> Vec<u64> {
        let rows = executor.retention(retention).unwrap().rows;
        rows.iter().map(|row| row.users).collect()
    };
    // Noon to noon is one day in Berlin, though 23 hours; Ben came back on the day after the next.
    assert_eq!(users(&berlin), [0, 1, 1]);
    assert_eq!(users(&berlin.clone().rolling()), [0, 2, 0]);
    let hours = berlin.period(CalendarUnit::Hour).rolling();
    let rows = executor.retention(&hours).unwrap().rows;
    let back: Vec<_> = rows
        .iter()
        .filter(|row| row.users > 0)
        .map(|row| row.k)
        .collect();
    assert_eq!(back, [23, 23]);
}

#[test]
fn lives_by_the_week() {
    let store = stored(&[
        ("ann", "2024-01-01T00:00:00Z", "open"),
        ("ann", "2024-01-08T00:00:00Z", "open"),
        ("ann", "2024-01-22T00:00:00Z", "open"),
        ("ben", "2024-01-21T23:59:00Z", "open"),
    ]);
    let executor = asked(&store, "2024-01-30T00:00:00Z");
    let weeks = Lifecycle::new("open").since(at("2024-01-10T00:00:00Z"));
    let rows = executor.lifecycle(&weeks).unwrap().rows;
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                (row.period - at("2024-01-01T00:00:00Z")) / (7 * DAY),
                row.status.label(),
                row.users,
            )
        })
        .collect();
    let expected = [
        (1, "returning", 1),
        (2, "new", 1),
        (2, "dormant", 1),
        (3, "resurrecting", 1),
        (3, "dormant", 1),
        (4, "dormant", 1),
    ];
    assert_eq!(rows, expected);
    let dormant =
        executor.lifecycle_users(&weeks, at("2024-01-28T12:00:00Z"), LifecycleStatus::Dormant);
    assert_eq!(dormant.unwrap().ids().unwrap(), ["ben"]);
    let before = executor.lifecycle_users(&weeks, at("2024-01-01T00:00:00Z"), LifecycleStatus::New);
    assert!(before.unwrap().is_empty());
}

#[test]
fn active_days_of_months() {
    let store = stored(&[
        ("ann", "2024-01-30T10:00:00Z", "open"),
        ("ann", "2024-01-30T11:00:00Z", "open"),
        ("ann", "2024-01-31T10:00:00Z", "open"),
        ("ann", "2024-02-01T10:00:00Z", "open"),
        ("ben", "2024-01-31T10:00:00Z", "open"),
    ]);
    let executor = asked(&store, "2024-03-01T00:00:00Z");
    let rows = |stickiness: &Stickiness| -> Vec<_> {
        let rows = executor.stickiness(stickiness).unwrap().rows;
        let january = at("2024-01-01T00:00:00Z");
        rows.iter()
            .map(|row| (row.period == january, row.units, row.users))
            .collect()
    };
    let days = Stickiness::new("open");
    assert_eq!(rows(&days), [(true, 1, 1), (true, 2, 1), (false, 1, 1)]);
    // The week of 29 January lies in both months.
    let weeks = days.clone().unit(CalendarUnit::Week);
    assert_eq!(rows(&weeks), [(true, 1, 2), (false, 1, 1)]);
    let ids = executor.stickiness_users(&days, at("2024-01-15T00:00:00Z"), 2);
    assert_eq!(ids.unwrap().ids().unwrap(), ["ann"]);
}

/// Periods far apart, so that there are both near and far ones, and a table too long for the budget.
#[test]
fn long_tables_are_counted_and_bounded() {
    let mut model = ModelStore::new();
    let mut batch = BatchBuilder::new();
    for (user, time) in [
        (0, 0),
        (0, 5_000 * HOUR),
        (0, 5_000 * HOUR + 1),
        (1, 2),
        (1, 9_000 * HOUR),
    ] {
        model.event(user, time, "open");
        batch.event(&format!("u{user}"), time, "open");
    }
    let store = stored(&[]);
    store.append(batch.finish().unwrap()).unwrap();
    let as_of = 10_000 * HOUR;
    let hourly = Retention::new("open", "open").period(CalendarUnit::Hour);
    for retention in [
        hourly.clone(),
        hourly.clone().mode(ReturnMode::OnOrAfter).recurring(),
    ] {
        let judged = model.retention(&retention, as_of).unwrap();
        let rows = executor(&store, as_of, (2, 1))
            .retention(&retention)
            .unwrap()
            .rows;
        assert_eq!(judged.rows, rows);
    }
    let narrow = QueryOptions {
        as_of: Some(as_of),
        memory_bytes: 3 << 20,
        ..QueryOptions::default()
    };
    let ask = |retention: &Retention, options: QueryOptions| {
        let executor = Executor::new(store.snapshot().unwrap()).with_options(options);
        executor.retention(retention)
    };
    let endless = hourly.clone().periods(100_000);
    let failed = ask(&endless, narrow.clone());
    assert!(matches!(failed, Err(QueryError::OutOfMemory { .. })));
    assert!(ask(&endless.periods(100), narrow).is_ok());
    let stopped = QueryOptions::default();
    stopped.cancel.cancel();
    assert!(matches!(ask(&hourly, stopped), Err(QueryError::Cancelled)));
    let late = QueryOptions {
        deadline: Some(std::time::Duration::ZERO),
        ..QueryOptions::default()
    };
    assert!(matches!(
        ask(&hourly, late),
        Err(QueryError::DeadlineExceeded(_))
    ));
    assert!(
        ask(&hourly.last(days(1)), QueryOptions::default())
            .unwrap()
            .rows
            .is_empty()
    );
}
