//! Attributions over stores of every layout, against the judge.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::tests::{DAY, Pair, cases, condition, moment, options, play, segment, steps};
use crate::behaviour::{
    Attribution, AttributionModel, AttributionRow, Condition, Operand, TimeSpec, TouchKey, event,
    event_name, hours, micros, property, time, user_trait,
};
use crate::model::ModelStore;
use crate::testing::computed_of;
use crate::{Executor, QueryError, QueryOptions};

/// Conditions that many events satisfy.
pub(super) fn common() -> impl Strategy<Value = Condition> {
    let name = || select(vec!["view", "cart", "buy"]).prop_map(event);
    prop_oneof![
        6 => name(),
        2 => (name(), name()).prop_map(|(one, other)| one.or(other)),
        1 => condition(),
    ]
}

pub(super) fn operand() -> impl Strategy<Value = Operand> {
    let stored = prop_oneof![
        6 => select(vec!["item", "price", "tags", "none"]).prop_map(property),
        1 => select(vec!["plan", "age"]).prop_map(user_trait),
        1 => Just(event_name()),
        1 => Just(time()),
    ];
    let stored = stored.boxed();
    prop_oneof![8 => stored.clone(), 1 => computed_of(stored)]
}

pub(super) fn range() -> impl Strategy<Value = TimeSpec> {
    let spec = |since, until, last| TimeSpec { since, until, last };
    prop_oneof![
        4 => Just(spec(None, None, None)),
        2 => moment().prop_map(move |since| spec(Some(since), None, None)),
        1 => moment().prop_map(move |until| spec(None, Some(until), None)),
        2 => (moment(), 1..6_i64).prop_map(move |(since, halves)| {
            spec(Some(since), Some(since + halves * DAY / 2), None)
        }),
        1 => (1..24_i64).prop_map(move |halves| spec(None, None, Some(micros(halves * DAY / 2)))),
    ]
}

/// Presents: most after all events, some among them.
pub(super) fn present() -> impl Strategy<Value = i64> {
    prop_oneof![3 => Just(9 * DAY), 1 => moment()]
}

/// True of numbers that differ by rounding at most.
pub(super) fn alike(one: Option<f64>, other: Option<f64>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => {
            let scale = 1.0 + one.abs() + other.abs();
            one == other || (one - other).abs() <= 1e-9 * scale
        }
        (None, None) => true,
        _ => false,
    }
}

fn attribution() -> impl Strategy<Value = Attribution> {
    let model = select(vec![
        AttributionModel::First,
        AttributionModel::Last,
        AttributionModel::Linear,
        AttributionModel::Position,
        AttributionModel::TimeDecay,
        AttributionModel::AnyTouch,
    ]);
    (
        (common(), touches()),
        (
            option::weighted(0.7, 0..16_i64),
            model,
            option::of(1..60_i64),
        ),
        (option::weighted(0.6, operand()), range()),
    )
        .prop_map(
            |((conversion, (touch, by)), (lookback, model, half_life), (value, range))| {
                let mut attribution = Attribution::new(conversion, touch, by).model(model);
                attribution.lookback = lookback.map(|quarters| micros(quarters * DAY / 4));
                attribution.half_life = half_life
                    .filter(|_| model == AttributionModel::TimeDecay)
                    .map(hours);
                attribution.value = value;
                attribution.range = range;
                attribution
            },
        )
}

/// Touches and what tells them apart, which all of them may be wanted to have.
fn touches() -> impl Strategy<Value = (Condition, Operand)> {
    (common(), operand(), prop::bool::weighted(0.4)).prop_map(|(touch, by, has)| match has {
        true => (touch.and(by.clone().is_not_null()), by),
        false => (touch, by),
    })
}

fn same_rows(judged: &[AttributionRow], found: &[AttributionRow]) -> bool {
    let same = |(one, other): (&AttributionRow, &AttributionRow)| {
        one.touch == other.touch
            && one.touches == other.touches
            && one.users == other.users
            && alike(Some(one.conversions), Some(other.conversions))
            && alike(one.value, other.value)
    };
    judged.len() == found.len() && judged.iter().zip(found).all(same)
}

/// What holds whatever the events are.
fn check_laws(
    attribution: &Attribution,
    rows: &[AttributionRow],
    conversions: u64,
) -> Result<(), TestCaseError> {
    let credited: f64 = rows.iter().map(|row| row.conversions).sum();
    if attribution.model == AttributionModel::AnyTouch {
        prop_assert!(credited > conversions as f64 - 1e-6);
    } else {
        prop_assert!((credited - conversions as f64).abs() < 1e-6);
    }
    for row in rows {
        prop_assert_eq!(row.value.is_some(), attribution.value.is_some());
        prop_assert_eq!(row.users > 0, row.conversions > 0.0);
        prop_assert!(row.touches > 0 || row.users > 0);
    }
    Ok(())
}

/// How many conversions there are in the range.
fn conversions(model: &ModelStore, attribution: &Attribution, as_of: i64) -> u64 {
    let counted = Attribution::new(
        attribution.conversion.clone(),
        event("no such event"),
        property("none"),
    );
    let mut counted = counted.model(AttributionModel::First);
    counted.range = attribution.range;
    counted.users = attribution.users.clone();
    let rows = model.attribution(&counted, as_of).unwrap().rows;
    rows.iter().map(|row| row.conversions as u64).sum()
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn attributions_equal_the_judge(
        steps in steps(),
        attributions in vec((attribution(), option::weighted(0.2, segment())), 1..5),
        as_of in present(),
        (threads, morsel_rows) in (1..4_usize, select(vec![1_u64, 1 << 18])),
    ) {
        let Pair { store, model } = play(&steps);
        let snapshot = store.snapshot().unwrap();
        let executor = Executor::new(snapshot.clone())
            .with_options(options(as_of, threads, morsel_rows));
        let alone = Executor::new(snapshot).with_options(options(as_of, 1, 1 << 18));
        for (mut attribution, users) in attributions {
            attribution.users = users;
            let judged = model.attribution(&attribution, as_of).unwrap().rows;
            let found = executor.attribution(&attribution).unwrap();
            prop_assert!(same_rows(&judged, &found.rows), "{attribution:?}\n{judged:?}\n{found:?}");
            check_laws(&attribution, &found.rows, conversions(&model, &attribution, as_of))?;
            // The same to the last bit, however the users are cut.
            prop_assert_eq!(&found, &alone.attribution(&attribution).unwrap());
            let judged = model.attribution_users(&attribution, as_of).unwrap();
            let users = executor.attribution_users(&attribution).unwrap();
            prop_assert_eq!(&judged.rows, &users.rows);
            for row in &found.rows {
                let own = users.rows.iter().filter(|user| user.touch == row.touch);
                let own: BTreeSet<u32> = own.map(|user| user.user).collect();
                prop_assert_eq!(own.len() as u64, row.users);
            }
        }
    }
}

/// A user who comes by an advertisement, twice by search and once by e-mail, and buys; and one
/// who buys without.
fn visits() -> Pair {
    let mut pair = play(&[]);
    let mut batch = pugmark_engine::BatchBuilder::new();
    let days = [
        (0, "ann", "visit", "ad"),
        (1, "ann", "visit", "search"),
        (2, "ann", "visit", "search"),
        (3, "ann", "visit", "mail"),
        (4, "ann", "buy", "cash"),
        (5, "bob", "buy", "card"),
        (6, "bob", "visit", "ad"),
    ];
    for (day, user, name, channel) in days {
        batch
            .event(user, day * DAY, name)
            .property("channel", channel)
            .property("price", 10.0);
        let ordinal = u32::from(user == "bob");
        let judged = pair.model.event(ordinal, day * DAY, name);
        judged.property("channel", channel).property("price", 10.0);
    }
    pair.store.append(batch.finish().unwrap()).unwrap();
    pair
}

fn by_hand(attribution: &Attribution) -> Vec<(String, u64, u64, f64, f64)> {
    let pair = visits();
    let executor = Executor::new(pair.store.snapshot().unwrap());
    let rows = executor.attribution(attribution).unwrap().rows;
    let judged = pair.model.attribution(attribution, executor.as_of());
    assert!(same_rows(&judged.unwrap().rows, &rows));
    // To nine digits, so that a share of a third can be written.
    let round = |number: f64| (number * 1e9).round() / 1e9;
    rows.into_iter()
        .map(|row| {
            let (conversions, value) = (round(row.conversions), round(row.value.unwrap_or(-1.0)));
            let label = row.touch.label().to_owned();
            (label, row.touches, row.users, conversions, value)
        })
        .collect()
}

#[test]
fn every_model_shares_as_computed_by_hand() {
    let ask = |model| {
        let attribution = Attribution::new("buy", "visit", property("channel"));
        let attribution = attribution.model(model).value(property("price"));
        let rows = by_hand(&attribution);
        let direct = rows.iter().find(|row| row.0 == "(direct)").unwrap();
        assert_eq!(*direct, ("(direct)".to_owned(), 0, 1, 1.0, 10.0));
        let shares = rows.iter().filter(|row| row.3 > 0.0 && row.0 != "(direct)");
        let shares: Vec<_> = shares.map(|row| (row.0.clone(), row.3)).collect();
        shares
    };
    let named = |rows: &[(&str, f64)]| -> Vec<(String, f64)> {
        let rows = rows.iter();
        rows.map(|(name, share)| ((*name).to_owned(), *share))
            .collect()
    };
    assert_eq!(ask(AttributionModel::First), named(&[("ad", 1.0)]));
    assert_eq!(ask(AttributionModel::Last), named(&[("mail", 1.0)]));
    let linear = [("ad", 0.25), ("mail", 0.25), ("search", 0.5)];
    assert_eq!(ask(AttributionModel::Linear), named(&linear));
    let position = [("ad", 0.4), ("mail", 0.4), ("search", 0.2)];
    assert_eq!(ask(AttributionModel::Position), named(&position));
    let all = [("ad", 1.0), ("mail", 1.0), ("search", 1.0)];
    assert_eq!(ask(AttributionModel::AnyTouch), named(&all));
}

#[test]
fn weights_halve_with_every_half_life() {
    let attribution = Attribution::new("buy", "visit", property("channel"))
        .model(AttributionModel::TimeDecay)
        .half_life(hours(24));
    let rows = by_hand(&attribution);
    // Weights 1/8, 1/4 + 1/2 and 1 of 15/8.
    let round = |number: f64| (number * 1e9).round() / 1e9;
    assert_eq!(rows[0], ("ad".to_owned(), 2, 1, round(1.0 / 15.0), -1.0));
    assert_eq!(rows[1], ("mail".to_owned(), 1, 1, round(8.0 / 15.0), -1.0));
    assert_eq!(
        rows[2],
        ("search".to_owned(), 2, 1, round(6.0 / 15.0), -1.0)
    );
    // However short it is, the last touch keeps its weight.
    let attribution = attribution.half_life(micros(1));
    let pair = visits();
    let executor = Executor::new(pair.store.snapshot().unwrap());
    let rows = executor.attribution(&attribution).unwrap().rows;
    assert_eq!(rows[1].touch, TouchKey::Value("mail".to_owned()));
    assert_eq!(rows[1].conversions, 1.0);
}

#[test]
fn touches_precede_the_range_and_the_lookback_is_inclusive() {
    let attribution = Attribution::new("buy", "visit", property("channel"))
        .model(AttributionModel::Linear)
        .since(4 * DAY)
        .lookback(hours(48));
    let rows = by_hand(&attribution);
    let row = |name: &str, touches, conversions| {
        let users = u64::from(conversions > 0.0);
        (name.to_owned(), touches, users, conversions, -1.0)
    };
    let expected = [
        row("ad", 1, 0.0),
        row("mail", 0, 0.5),
        row("search", 0, 0.5),
        row("(direct)", 0, 1.0),
    ];
    assert_eq!(rows, expected);
    // A conversion is no touch of its own, but one of the conversions after it.
    let both = event("buy").or(event("visit"));
    let attribution = Attribution::new(both.clone(), both, event_name());
    let rows = by_hand(&attribution.until(2 * DAY));
    assert_eq!(rows, [row("visit", 2, 1.0), row("(direct)", 0, 1.0)]);
}

/// Some thousand users, who are cut into many morsels.
pub(super) fn crowd() -> Pair {
    let mut pair = play(&[]);
    let mut batch = pugmark_engine::BatchBuilder::new();
    for user in 0..3_000_u32 {
        let mut event = |time: u32, name: &str, channel: &str| {
            let (time, price) = (i64::from(time) * DAY / 8, f64::from(user % 70) / 10.0);
            let id = format!("u{user}");
            let row = batch.event(&id, time, name);
            row.property("item", channel).property("price", price);
            let judged = pair.model.event(user, time, name);
            judged.property("item", channel).property("price", price);
        };
        let channels = ["a", "b", "c"];
        event(user % 5, "view", channels[user as usize % 3]);
        event(user % 7, "view", channels[user as usize % 2]);
        if user % 3 == 0 {
            event(user % 11, "buy", "x");
        }
    }
    pair.store.append(batch.finish().unwrap()).unwrap();
    pair
}

#[test]
fn sums_of_threads_merge() {
    let Pair { store, model } = crowd();
    let attribution = Attribution::new("buy", "view", property("item"))
        .model(AttributionModel::Linear)
        .value(property("price"));
    let ask = |threads| {
        let executor = Executor::new(store.snapshot().unwrap());
        executor.with_options(options(9 * DAY, threads, 1))
    };
    let judged = model.attribution(&attribution, 9 * DAY).unwrap().rows;
    let found = ask(3).attribution(&attribution).unwrap();
    assert_eq!(found.rows.len(), 4);
    assert!(same_rows(&judged, &found.rows), "{judged:?}\n{found:?}");
    // One thread may be done before the others begin, but hardly each time.
    for threads in [1, 3, 3, 3, 3, 3, 3, 3, 3, 3] {
        assert_eq!(found, ask(threads).attribution(&attribution).unwrap());
    }
    let judged = model.attribution_users(&attribution, 9 * DAY).unwrap();
    let users = ask(3).attribution_users(&attribution).unwrap();
    assert_eq!(judged.rows, users.rows);
}

/// Touches of texts that have codes, in a range that cuts their runs, told apart by what all of them must have.
#[test]
fn touches_are_counted_inside_the_range() {
    let Pair { store, model } = crowd();
    let touches = event("view").and(property("item").is_not_null());
    let attribution = Attribution::new("buy", touches, property("item"));
    let whole = model.attribution(&attribution, 9 * DAY).unwrap().rows;
    for (since, until) in [(0, DAY), (DAY / 2, 2 * DAY), (-DAY, DAY / 3)] {
        let mut attribution = attribution.clone();
        attribution.range = TimeSpec {
            since: Some(since),
            until: Some(until),
            last: None,
        };
        let judged = model.attribution(&attribution, 9 * DAY).unwrap().rows;
        assert_ne!(judged, whole, "the range cuts nothing");
        let executor = Executor::new(store.snapshot().unwrap());
        let executor = executor.with_options(options(9 * DAY, 2, 1));
        let found = executor.attribution(&attribution).unwrap().rows;
        assert!(same_rows(&judged, &found), "{judged:?}\n{found:?}");
    }
}

#[test]
fn limits_stop_an_attribution() {
    let pair = visits();
    let attribution = Attribution::new("buy", "visit", property("channel"));
    let ask = |options: QueryOptions| {
        let executor = Executor::new(pair.store.snapshot().unwrap()).with_options(options);
        executor.attribution(&attribution)
    };
    let small = QueryOptions {
        memory_bytes: 1 << 10,
        ..QueryOptions::default()
    };
    assert!(matches!(ask(small), Err(QueryError::OutOfMemory { .. })));
    let stopped = QueryOptions::default();
    stopped.cancel.cancel();
    assert!(matches!(ask(stopped), Err(QueryError::Cancelled)));
    let refused = attribution.clone().lookback(micros(-1));
    let executor = Executor::new(pair.store.snapshot().unwrap());
    let answer = executor.attribution(&refused);
    assert!(matches!(answer, Err(QueryError::Invalid(_))));
}
