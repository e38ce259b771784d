//! Segments over stores of every layout, against the judge.

use std::sync::Arc;

use proptest::prelude::*;
use pugmark_engine::storage::MemoryStorage;
use pugmark_engine::{BatchBuilder, Clock, Options, Store, Value};

use crate::behaviour::{
    Aggregate, Comparison, Condition, Did, Literal, Segment, any, event, micros, not, property,
    timestamp, traits, user_trait,
};
use crate::model::ModelStore;
use crate::zone::Zone;
use crate::{Executor, QueryOptions, did, everyone, time, users};

pub(super) const DAY: i64 = 86_400_000_000;

/// One thing that happens to a store.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Event {
        user: u8,
        time: i64,
        name: u8,
        properties: Vec<(u8, Value)>,
    },
    Trait {
        user: u8,
        time: i64,
        name: u8,
        value: Value,
    },
    /// What came before becomes a batch of its own.
    Cut,
    Flush,
    Compact,
    Reopen,
}

pub(super) const NAMES: [&str; 4] = ["view", "cart", "buy", "rare"];
const PROPERTIES: [&str; 3] = ["item", "price", "tags"];
const TRAITS: [&str; 2] = ["plan", "age"];

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => (0i64..4).prop_map(Value::I64),
        3 => prop::sample::select(vec!["a", "b", "2", "x"]).prop_map(Value::from),
        1 => (0i64..4).prop_map(|half| Value::F64(half as f64 / 2.0)),
        1 => any_bool().prop_map(Value::Bool),
        1 => (0i64..4).prop_map(|day| Value::Timestamp(day * DAY)),
    ]
}

fn any_bool() -> impl Strategy<Value = bool> {
    proptest::bool::ANY
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        6 => scalar(),
        1 => prop::collection::vec(scalar(), 1..4).prop_map(Value::List),
    ]
}

/// Few distinct times, so that ties are common; days apart, so that partitions and day bitmaps
/// are crossed.
pub(super) fn moment() -> impl Strategy<Value = i64> {
    (0i64..5, 0i64..4).prop_map(|(day, within)| (day - 1) * DAY + within * (DAY / 4))
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let properties = prop::collection::btree_map(0u8..3, value(), 0..3);
    let event =
        (0u8..5, moment(), 0u8..4, properties).prop_map(|(user, time, name, properties)| {
            Step::Event {
                user,
                time,
                name,
                properties: properties.into_iter().collect(),
            }
        });
    let removed = prop_oneof![5 => scalar(), 1 => Just(Value::Null)];
    let set_trait =
        (0u8..6, moment(), 0u8..2, removed).prop_map(|(user, time, name, value)| Step::Trait {
            user,
            time,
            name,
            value,
        });
    let step = prop_oneof![
        20 => event,
        2 => set_trait,
        2 => Just(Step::Cut),
        1 => Just(Step::Flush),
        1 => Just(Step::Compact),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 0..60)
}

/// A store and its judge after the same steps.
pub(super) struct Pair {
    pub(super) store: Store,
    pub(super) model: ModelStore,
}

/// Plays the steps; ordinals are given in order of first arrival, in both.
pub(super) fn play(steps: &[Step]) -> Pair {
    let storage = Arc::new(MemoryStorage::new());
    let options = Options {
        partition_micros: 2 * DAY,
        memtable_bytes: 2_048,
        clock: Clock::custom(|| 10 * DAY),
        background_compaction: false,
        ..Options::default()
    };
    let builder = Store::builder("store").storage(storage).options(options);
    let mut store = builder.clone().open().unwrap();
    let mut model = ModelStore::new();
    let mut known: Vec<u8> = Vec::new();
    let mut batch = BatchBuilder::new();
    let mut ordinal = |user: u8| {
        let place = known
            .iter()
            .position(|known| *known == user)
            .unwrap_or_else(|| {
                known.push(user);
                known.len() - 1
            });
        place as u32
    };
    for step in steps {
        match step {
            Step::Event {
                user,
                time,
                name,
                properties,
            } => {
                let event = NAMES[usize::from(*name)];
                let mut row = batch.event(&format!("u{user}"), *time, event);
                let mut judged = model.event(ordinal(*user), *time, event);
                for (name, value) in properties {
                    let name = PROPERTIES[usize::from(*name)];
                    row = row.value(name, value);
                    judged = judged.property(name, value.clone());
                }
                continue;
            }
            _ => {
                let full = std::mem::take(&mut batch);
                batch = BatchBuilder::new();
                store.append(full.finish().unwrap()).unwrap();
            }
        }
        match step {
            Step::Trait {
                user,
                time,
                name,
                value,
            } => {
                let name = TRAITS[usize::from(*name)];
                store
                    .set_traits(&format!("u{user}"), *time, [(name, value.clone())])
                    .unwrap();
                model.set_trait(ordinal(*user), *time, name, value.clone());
            }
            Step::Flush => store.flush().unwrap(),
            Step::Compact => store.compact().unwrap(),
            Step::Reopen => {
                drop(store);
                store = builder.clone().open().unwrap();
            }
            Step::Cut | Step::Event { .. } => {}
        }
    }
    store.append(batch.finish().unwrap()).unwrap();
    Pair { store, model }
}

fn literal() -> impl Strategy<Value = Literal> {
    prop_oneof![
        3 => (0i64..4).prop_map(Literal::I64),
        3 => prop::sample::select(vec!["a", "b", "2", "x", "zz"]).prop_map(Literal::from),
        1 => (0i64..6).prop_map(|half| Literal::F64(half as f64 / 2.0)),
        1 => any_bool().prop_map(Literal::Bool),
        1 => moment().prop_map(Literal::Timestamp),
        1 => Just(Literal::Null),
    ]
}

fn comparison() -> impl Strategy<Value = Comparison> {
    prop::sample::select(vec![
        Comparison::Equal,
        Comparison::NotEqual,
        Comparison::Less,
        Comparison::LessOrEqual,
        Comparison::Greater,
        Comparison::GreaterOrEqual,
    ])
}

pub(super) fn condition() -> impl Strategy<Value = Condition> {
    let name = prop::sample::select(NAMES.to_vec());
    let of = prop::sample::select(PROPERTIES.to_vec());
    let leaf = prop_oneof![
        6 => name.clone().prop_map(event),
        1 => Just(any()),
        3 => (of.clone(), comparison(), literal()).prop_map(|(name, how, literal)| property(name).compare(how, literal)),
        1 => (of.clone(), prop::collection::vec(literal(), 0..3)).prop_map(|(name, literals)| property(name).is_in(literals)),
        1 => of.clone().prop_map(|name| property(name).is_null()),
        1 => of.prop_map(|name| property(name).like("_")),
        1 => (comparison(), moment()).prop_map(|(how, at)| time().compare(how, timestamp(at))),
        1 => (comparison(), literal()).prop_map(|(how, literal)| user_trait("plan").compare(how, literal)),
    ];
    leaf.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(one, other)| one.and(other)),
            (inner.clone(), inner.clone()).prop_map(|(one, other)| one.or(other)),
            inner.prop_map(Condition::not),
        ]
    })
}

fn any_did() -> impl Strategy<Value = Did> {
    let range = prop_oneof![
        2 => Just((None, None, None)),
        1 => (moment(), 1i64..4).prop_map(|(since, days)| (Some(since), Some(since + days * DAY / 2), None)),
        1 => moment().prop_map(|since| (Some(since), None, None)),
        1 => (1i64..12).prop_map(|half| (None, None, Some(half * DAY / 2 + 7 * DAY))),
    ];
    let counts = prop_oneof![
        4 => Just((None, None)),
        1 => (1u64..4).prop_map(|least| (Some(least), None)),
        1 => (1u64..4).prop_map(|most| (None, Some(most))),
    ];
    let followers = (
        prop::option::weighted(0.2, condition()),
        prop::option::weighted(0.2, condition()),
        prop::option::weighted(0.5, 0i64..8),
        any_bool(),
    );
    let aggregate = prop::option::weighted(
        0.2,
        (
            prop::sample::select(vec![
                Aggregate::Sum,
                Aggregate::Avg,
                Aggregate::Min,
                Aggregate::Max,
                Aggregate::CountDistinct,
            ]),
            comparison(),
            0i64..5,
        ),
    );
    let others = (
        prop::option::weighted(0.2, 1u64..3),
        proptest::bool::weighted(0.2),
        prop::option::weighted(0.2, 0i64..20),
    );
    (condition(), range, counts, followers, aggregate, others).prop_map(
        |(condition, range, counts, followers, aggregate, others)| {
            let mut did = did(condition);
            (did.range.since, did.range.until, did.range.last) =
                (range.0, range.1, range.2.map(micros));
            (did.at_least, did.at_most) = counts;
            (did.then, did.not_then) = (followers.0, followers.1);
            if did.then.is_some() || did.not_then.is_some() {
                did.then_within = followers.2.map(|quarters| micros(quarters * DAY / 4));
                if followers.3 {
                    did.holding.push("item".to_owned());
                }
            }
            if let Some((aggregate, how, literal)) = aggregate {
                did = did.aggregate(aggregate, "price", how, literal);
            }
            did.on_days = others.0;
            did.zone = Zone::UTC;
            did.first_time = others.1;
            did.idle_for = others.2.map(|half| micros(half * DAY / 2));
            did
        },
    )
}

pub(super) fn segment() -> impl Strategy<Value = Segment> {
    let leaf = prop_oneof![
        8 => any_did().prop_map(Segment::from),
        1 => Just(everyone()),
        1 => (comparison(), literal()).prop_map(|(how, literal)| traits(user_trait("plan").compare(how, literal))),
        1 => Just(traits(user_trait("age").is_null())),
        1 => prop::collection::btree_set(0u32..8, 0..5).prop_map(|ordinals| users(ordinals.into_iter().collect::<roaring::RoaringBitmap>())),
    ];
    leaf.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(one, other)| one.and(other)),
            (inner.clone(), inner.clone()).prop_map(|(one, other)| one.or(other)),
            (inner.clone(), inner.clone()).prop_map(|(one, other)| one.except(other)),
            inner.prop_map(not),
        ]
    })
}

pub(super) fn cases() -> ProptestConfig {
    let cases = std::env::var("PUGMARK_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok());
    ProptestConfig {
        cases: cases.unwrap_or(2_000) / 4,
        ..ProptestConfig::default()
    }
}

pub(super) fn options(as_of: i64, threads: usize, morsel_rows: u64) -> QueryOptions {
    QueryOptions {
        as_of: Some(as_of),
        threads: Some(threads),
        morsel_rows,
        ..QueryOptions::default()
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn segments_equal_the_judge(
        steps in steps(),
        segments in prop::collection::vec(segment(), 1..6),
        as_of in prop_oneof![3 => Just(9 * DAY), 1 => moment()],
        (threads, morsel_rows) in (1usize..4, prop_oneof![Just(1u64), Just(1 << 18)]),
    ) {
        let Pair { store, model } = play(&steps);
        let executor = Executor::new(store.snapshot().unwrap())
            .with_options(options(as_of, threads, morsel_rows));
        for segment in &segments {
            let found = executor.users(segment.clone()).unwrap();
            let judged = model.segment(segment, as_of).unwrap();
            prop_assert_eq!(found.ordinals().iter().collect::<Vec<_>>(), judged.into_iter().collect::<Vec<_>>(), "{:?}", segment);
            prop_assert_eq!(executor.count(segment).unwrap(), found.len());
        }
    }
}
