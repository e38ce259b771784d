//! Random small populations and questions, made to collide: few times, few names, few values.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use pugmark_engine::Value;

use crate::behaviour::{
    Aggregate, Attribute, Comparison, Condition, Did, Entries, Funnel, FunnelMode, Literal,
    Operand, Segment, TextTest, TimeSpec, any as any_event, computed, did, event, event_name,
    micros, property, step, time, timestamp, user_trait,
};
use crate::model::{ModelEvent, ModelStore};
use crate::zone::{CalendarUnit, Zone};

/// A third of an hour, so that hourly buckets have some events each.
pub(crate) const UNIT: i64 = 1_200_000_000;

/// How many cases a property is tested with: `PUGMARK_CASES`, or `ordinary`.
pub(crate) fn cases(ordinary: u32) -> ProptestConfig {
    let asked = std::env::var("PUGMARK_CASES").ok();
    let cases = asked.and_then(|cases| cases.parse().ok());
    ProptestConfig {
        cases: cases.unwrap_or(ordinary),
        max_shrink_iters: 20_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => select(vec!["x", "y", "z"]).prop_map(Value::from),
        2 => (1..4_i64).prop_map(Value::I64),
        1 => select(vec![1.0, 1.5, 3.0, f64::NAN, -0.25]).prop_map(Value::F64),
        1 => prop::bool::ANY.prop_map(Value::Bool),
        1 => (0..3_i64).prop_map(|time| Value::Timestamp(time * UNIT)),
        1 => select(vec!["1", "2", "10"]).prop_map(Value::from),
    ]
}

/// A value, or several.
pub(crate) fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => scalar(),
        1 => vec(scalar(), 1..4).prop_map(Value::List),
    ]
}

fn properties() -> impl Strategy<Value = Vec<(&'static str, Value)>> {
    let held = || {
        prop_oneof![
            3 => select(vec!["x", "y"]).prop_map(Value::from),
            1 => Just(Value::List(vec!["x".into(), "y".into()])),
            1 => Just(Value::List(vec!["y".into(), "z".into()])),
        ]
    };
    (
        option::weighted(0.8, held()),
        option::weighted(0.8, held()),
        option::of(value()),
    )
        .prop_map(|(p, q, r)| {
            let named = [("p", p), ("q", q), ("r", r)];
            let present = named.into_iter();
            present
                .filter_map(|(name, value)| Some((name, value?)))
                .collect()
        })
}

/// Events of `users` users in random order of time, each with its number as property `id`.
pub(crate) fn store(users: u32, events: usize) -> impl Strategy<Value = ModelStore> {
    let event = (
        0..users,
        0..12_i64,
        select(vec!["a", "b", "c", "d"]),
        properties(),
    );
    let change = (
        0..users + 1,
        0..12_i64,
        select(vec!["t", "u"]),
        option::weighted(0.8, value()),
    );
    (vec(event, 0..=events), vec(change, 0..4)).prop_map(|(events, traits)| {
        let mut store = ModelStore::new();
        for (id, (user, time, name, properties)) in events.into_iter().enumerate() {
            let properties = properties.into_iter();
            let mut properties: std::collections::BTreeMap<_, _> = properties
                .map(|(name, value)| (name.to_owned(), value))
                .collect();
            properties.insert("id".to_owned(), Value::I64(id as i64));
            // A whole number that every event has, and a text that those of one name have not.
            properties.insert("k".to_owned(), Value::I64(id as i64 % 3));
            if name != "d" {
                properties.insert("s".to_owned(), Value::from(["x", "y"][id % 2]));
            }
            store.push(ModelEvent {
                user,
                time: time * UNIT,
                event: name.to_owned(),
                properties,
            });
        }
        for (user, time, name, value) in traits {
            store.set_trait(user, time * UNIT, name, value.unwrap_or(Value::Null));
        }
        store
    })
}

/// A present: within the events' times, or after them.
pub(crate) fn present() -> impl Strategy<Value = i64> {
    prop_oneof![4 => Just(20), 1 => 0..14_i64].prop_map(|time| time * UNIT)
}

fn operand() -> impl Strategy<Value = Operand> {
    prop_oneof![6 => stored_operand(), 1 => computed_of(stored_operand())]
}

fn stored_operand() -> impl Strategy<Value = Operand> {
    prop_oneof![
        3 => select(vec!["p", "q", "r", "none"]).prop_map(property),
        1 => Just(event_name()),
        1 => Just(time()),
        1 => select(vec!["t", "u"]).prop_map(user_trait),
    ]
}

/// The first of several operands that an event has, or their texts in a row.
pub(crate) fn computed_of(
    stored: impl Strategy<Value = Operand>,
) -> impl Strategy<Value = Operand> {
    let first = |of: &[Option<Value>]| of.iter().flatten().next().cloned();
    let joined = |of: &[Option<Value>]| {
        let scalars = of.iter().flatten().flat_map(Value::scalars);
        let texts = scalars.map(|scalar| scalar.canonical_text().into_owned());
        Some(Value::Text(texts.collect::<Vec<_>>().join("+"))).filter(|text| *text != "".into())
    };
    (vec(stored, 1..3), prop::bool::ANY).prop_map(move |(inputs, is_first)| match is_first {
        true => computed("first", inputs, first),
        false => computed("joined", inputs, joined),
    })
}

fn literal() -> impl Strategy<Value = Literal> {
    prop_oneof![
        4 => select(vec!["x", "y", "a", "1", "true", "1970-01-01T00:20:00Z"]).prop_map(Literal::from),
        2 => (0..4_i64).prop_map(Literal::I64),
        2 => select(vec![1.0, 1.5, 3.0, f64::NAN]).prop_map(Literal::F64),
        1 => prop::bool::ANY.prop_map(Literal::Bool),
        2 => (0..12_i64).prop_map(|time| timestamp(time * UNIT)),
        1 => Just(Literal::Null),
    ]
}

pub(crate) fn comparison() -> impl Strategy<Value = Comparison> {
    select(vec![
        Comparison::Equal,
        Comparison::NotEqual,
        Comparison::Less,
        Comparison::LessOrEqual,
        Comparison::Greater,
        Comparison::GreaterOrEqual,
    ])
}

fn text_test() -> impl Strategy<Value = TextTest> {
    let test = select(vec![
        TextTest::starts_with("1"),
        TextTest::ends_with("e"),
        TextTest::contains("A"),
        TextTest::like("_"),
        TextTest::like("%X%"),
        TextTest::like("197%Z"),
    ]);
    (test, prop::bool::ANY).prop_map(
        |(test, ignoring)| {
            if ignoring { test.ignoring_case() } else { test }
        },
    )
}

/// Any condition at all.
pub(crate) fn condition() -> impl Strategy<Value = Condition> {
    let leaf = prop_oneof![
        4 => (operand(), comparison(), literal())
            .prop_map(|(operand, comparison, literal)| operand.compare(comparison, literal)),
        2 => (operand(), vec(literal(), 0..3))
            .prop_map(|(operand, literals)| operand.is_in(literals)),
        2 => (operand(), text_test()).prop_map(|(operand, test)| operand.text(test)),
        1 => operand().prop_map(Operand::is_null),
        2 => select(vec!["a", "b", "c"]).prop_map(event),
        1 => Just(crate::any()),
    ];
    leaf.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Condition::And),
            vec(inner.clone(), 0..3).prop_map(Condition::Or),
            inner.prop_map(Condition::not),
        ]
    })
}

/// Conditions that events satisfy often, several at once.
pub(crate) fn step_condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        8 => select(vec!["a", "b", "c", "d"]).prop_map(event),
        2 => Just(event("a").or(event("b"))),
        1 => Just(any_event()),
        1 => Just(property("p").eq("x")),
        1 => Just(event("b").and(property("q").eq("y"))),
        1 => Just(user_trait("t").is_null()),
    ]
}

fn range() -> impl Strategy<Value = TimeSpec> {
    prop_oneof![
        5 => Just((None, None, None)),
        1 => (1..8_i64).prop_map(|since| (Some(since), None, None)),
        1 => (1..12_i64).prop_map(|until| (None, Some(until), None)),
        1 => (0..6_i64, 6..12_i64).prop_map(|(since, until)| (Some(since), Some(until), None)),
        1 => (1..12_i64).prop_map(|last| (None, None, Some(last))),
    ]
    .prop_map(|(since, until, last)| TimeSpec {
        since: since.map(|time| time * UNIT),
        until: until.map(|time| time * UNIT),
        last: last.map(|span| micros(span * UNIT)),
    })
}

fn span() -> impl Strategy<Value = crate::Span> {
    (0..9_i64).prop_map(|units| micros(units * UNIT))
}

fn zone() -> impl Strategy<Value = Zone> {
    select(vec!["UTC", "Asia/Kolkata", "America/New_York"])
        .prop_map(|name| Zone::named(name).unwrap_or_default())
}

/// Funnels with several steps to skip, over few names, so that chains compete.
pub(crate) fn optional_funnel() -> impl Strategy<Value = Funnel> {
    let steps = vec(
        (select(vec!["a", "b", "c"]), prop::bool::weighted(0.7)),
        3..=5,
    );
    let excluded = option::weighted(0.3, select(vec!["c", "d"]));
    (steps, option::weighted(0.6, span()), excluded).prop_map(|(steps, within, excluded)| {
        let mut funnel = Funnel::new(steps.iter().map(|(name, _)| step(*name)));
        funnel.within = within;
        for (index, (_, optional)) in steps.iter().enumerate().skip(1) {
            funnel.steps[index].optional = *optional;
        }
        let last = steps
            .iter()
            .rposition(|(_, optional)| !optional)
            .unwrap_or(0);
        if last > 0 {
            funnel.steps[last].optional = false;
            funnel.before_step = excluded.map(|_| last + 1);
            funnel.exclude = excluded.map(event);
        }
        funnel
    })
}

/// Excludes events between the drawn steps, as far as that does not contradict the rest.
fn exclude(
    funnel: &mut Funnel,
    (condition, after, before): (Condition, Option<usize>, Option<usize>),
) {
    let plain = funnel.clone();
    funnel.exclude = Some(condition);
    if funnel.mode != FunnelMode::AnyOrder {
        funnel.after_step = after;
        funnel.before_step = before;
    }
    if funnel.validate().is_err() {
        (funnel.after_step, funnel.before_step) = (None, None);
    }
    if funnel.validate().is_err() {
        *funnel = plain;
    }
}

/// A valid funnel: what was drawn, less what contradicts the rest.
pub(crate) fn funnel() -> impl Strategy<Value = Funnel> {
    let steps = vec((step_condition(), prop::bool::weighted(0.3)), 1..=4);
    let mode = prop_oneof![
        3 => Just(FunnelMode::Ordered),
        1 => Just(FunnelMode::Strict),
        1 => Just(FunnelMode::AnyOrder),
    ];
    let exclusion = option::weighted(
        0.4,
        (
            step_condition(),
            option::of(1..4_usize),
            option::of(2..5_usize),
        ),
    );
    let holding = select(vec![vec![], vec![], vec!["p"], vec!["p", "q"]]);
    let entries = select(vec![
        Entries::Best,
        Entries::Best,
        Entries::First,
        Entries::Every,
    ]);
    let by = select(vec![
        property("p"),
        property("r"),
        user_trait("t"),
        event_name(),
    ]);
    let by = prop_oneof![4 => by.clone(), 1 => computed_of(by)];
    let by = option::weighted(0.4, by);
    let attribute = option::of(select(vec![Attribute::First, Attribute::Last]));
    let bucket = option::weighted(0.3, select(vec![CalendarUnit::Hour, CalendarUnit::Day]));
    (
        (steps, option::weighted(0.7, span()), mode, exclusion),
        (holding, entries, by, attribute, option::of(1..3_usize)),
        (bucket, zone(), range()),
    )
        .prop_map(
            |(
                (steps, within, mode, exclusion),
                (holding, entries, by, attribute, top),
                (bucket, zone, range),
            )| {
                let mut funnel =
                    Funnel::new(steps.iter().map(|(condition, _)| step(condition.clone())));
                funnel.within = within;
                funnel.mode = mode;
                funnel.holding = holding.into_iter().map(str::to_owned).collect();
                funnel.entries = entries;
                if mode == FunnelMode::AnyOrder {
                    funnel.entries = Entries::Best;
                }
                for (index, (_, optional)) in steps.iter().enumerate().skip(1) {
                    funnel.steps[index].optional = *optional && mode == FunnelMode::Ordered;
                }
                if let Some(exclusion) = exclusion {
                    exclude(&mut funnel, exclusion);
                }
                funnel.bucket = bucket;
                funnel.zone = zone;
                funnel.range = range;
                if let Some(by) = by {
                    funnel.by = Some(by);
                    funnel.attribute = attribute.filter(|_| mode != FunnelMode::AnyOrder);
                    funnel.top = top;
                }
                funnel
            },
        )
        .prop_filter("options contradict each other", |funnel| {
            funnel.validate().is_ok()
        })
}

/// A valid `did(…)`.
pub(crate) fn a_did() -> impl Strategy<Value = Did> {
    let counts = (
        option::of(1..4_u64),
        option::of(1..4_u64),
        option::weighted(0.2, 1..4_u64),
    );
    let follower = || option::weighted(0.3, step_condition());
    let aggregate = (
        select(vec![
            Aggregate::Sum,
            Aggregate::Avg,
            Aggregate::Min,
            Aggregate::Max,
            Aggregate::CountDistinct,
        ]),
        select(vec!["r", "r", "id", "p"]),
        comparison(),
        prop_oneof![
            2 => (0..5_i64).prop_map(Literal::I64),
            1 => select(vec![1.5, 2.0, 4.0]).prop_map(Literal::F64),
            1 => (0..3_i64).prop_map(|time| timestamp(time * UNIT)),
        ],
    );
    (
        (step_condition(), counts, range(), zone()),
        (option::weighted(0.2, 1..3_u64), vec(aggregate, 0..2)),
        (
            follower(),
            follower(),
            option::of(span()),
            select(vec![vec![], vec!["p"], vec!["p", "q"]]),
        ),
        (prop::bool::weighted(0.2), option::weighted(0.2, span())),
    )
        .prop_map(
            |((condition, counts, range, zone), (on_days, aggregates), followers, ends)| {
                let mut did = did(condition);
                (did.at_least, did.at_most, did.exactly) = counts;
                did.range = range;
                did.zone = zone;
                did.on_days = on_days;
                for (aggregate, property, comparison, literal) in aggregates {
                    let with = did
                        .clone()
                        .aggregate(aggregate, property, comparison, literal);
                    if with.validate().is_ok() {
                        did = with;
                    }
                }
                (did.then, did.not_then) = (followers.0, followers.1);
                if did.then.is_some() || did.not_then.is_some() {
                    did.then_within = followers.2;
                    did.holding = followers.3.into_iter().map(str::to_owned).collect();
                }
                (did.first_time, did.idle_for) = ends;
                did
            },
        )
        .prop_filter("options contradict each other", |did| {
            did.validate().is_ok()
        })
}

/// Any segment over users 0 to 3.
pub(crate) fn segment() -> impl Strategy<Value = Segment> {
    let traits = (select(vec!["t", "u"]), comparison(), literal()).prop_map(
        |(name, comparison, literal)| Segment::Trait(user_trait(name).compare(comparison, literal)),
    );
    let leaf = prop_oneof![
        6 => a_did().prop_map(Segment::from),
        2 => traits,
        1 => Just(Segment::Everyone),
        1 => vec(0..4_u32, 0..3).prop_map(|users| {
            let set: roaring::RoaringBitmap = users.into_iter().collect();
            crate::behaviour::users(set)
        }),
    ];
    leaf.prop_recursive(3, 6, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Segment::And),
            vec(inner.clone(), 0..3).prop_map(Segment::Or),
            inner
                .clone()
                .prop_map(|inner| Segment::Not(Box::new(inner))),
            (inner.clone(), inner).prop_map(|(left, right)| left.except(right)),
        ]
    })
}
