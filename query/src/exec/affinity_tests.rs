//! Affinity over stores of every layout, against the judge.

use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::select;
use pugmark_engine::{BatchBuilder, Value};

use crate::behaviour::{Affinity, any, property, time};
use crate::{Executor, QueryError, QueryOptions};

use super::control::Control;
use super::sequence_tests::{DAY, ask, crowd, halves, operand, present, range, work};
use super::tests::{Pair, cases, condition, play, segment, steps};

fn affinity() -> impl Strategy<Value = Affinity> {
    let condition = prop_oneof![1 => Just(any()), 1 => condition()];
    let item = prop_oneof![3 => select(vec!["item", "tags"]).prop_map(property), 1 => operand()];
    let which = (
        weighted(0.2, select(vec!["a", "b", "2", "nothing"])),
        weighted(0.3, 1..3_u64),
        weighted(0.3, 1..5_usize),
    );
    let who = (range(), weighted(0.2, segment()));
    (item, condition, weighted(0.5, operand()), which, who).prop_map(
        |(item, condition, per, (for_item, min_users, top), (range, users))| Affinity {
            item,
            condition,
            per,
            for_item: for_item.map(str::to_owned),
            min_users,
            top,
            users,
            range,
        },
    )
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn affinity_equals_the_judge(
        steps in steps(),
        questions in vec(affinity(), 1..6),
        as_of in present(),
        work in work(),
    ) {
        let Pair { store, model } = play(&steps);
        let executor = ask(&store, as_of, work);
        for affinity in &questions {
            let judged = model.affinity(affinity, as_of).unwrap();
            let found = executor.affinity(affinity).unwrap();
            prop_assert_eq!(found.rows, judged.rows, "{:?}", affinity);
            prop_assert_eq!(found.baskets, judged.baskets, "{:?}", affinity);
        }
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn baskets_of_halves_of_the_users_come_together(steps in steps(), affinity in affinity()) {
        let Pair { store, model } = play(&steps);
        let as_of = 9 * DAY;
        let executor = ask(&store, as_of, (1, 1));
        let control = Control::start(executor.options());
        let mut parts = Vec::new();
        for half in halves(affinity.users.as_ref()) {
            let half = Affinity { users: Some(half), ..affinity.clone() };
            parts.extend(executor.contents(&half, &control).unwrap().0);
        }
        let found = super::affinity::result(&affinity, parts, 2, &control).unwrap();
        let judged = model.affinity(&affinity, as_of).unwrap();
        prop_assert_eq!(found.rows, judged.rows);
        prop_assert_eq!(found.baskets, judged.baskets);
    }
}

#[test]
fn affinity_does_not_depend_on_threads() {
    let Pair { store, model } = crowd();
    let users = Affinity::new(property("item"));
    // Baskets that hold events of many users, and more items than a thread takes at a time.
    let times = Affinity::new(time()).per(property("item")).top(500);
    for affinity in [users, times] {
        let judged = model.affinity(&affinity, 9 * DAY).unwrap();
        for threads in 1..4 {
            let executor = ask(&store, 9 * DAY, (threads, 100));
            assert_eq!(executor.affinity(&affinity).unwrap(), judged);
        }
    }
}

/// Each user's purchases: user, invoice, items.
fn shop(purchases: &[(&str, i64, &[&str])], options: QueryOptions) -> Executor {
    let Pair { store, .. } = play(&[]);
    let mut batch = BatchBuilder::new();
    for (index, (user, invoice, items)) in (0..).zip(purchases) {
        let items = items.iter().map(|item| Value::from(*item)).collect();
        let row = batch.event(user, index, "buy");
        let row = row.value("invoice", &Value::I64(*invoice));
        let _row = row.value("item", &Value::List(items));
    }
    store.append(batch.finish().unwrap()).unwrap();
    Executor::new(store.snapshot().unwrap()).with_options(options)
}

#[test]
fn an_invoice_is_one_basket_whoever_pays_it() {
    let executor = shop(
        &[
            ("ann", 1, &["tea"]),
            ("bob", 1, &["milk"]),
            ("ann", 2, &["tea", "milk", "cup"]),
            ("cid", 3, &["tea"]),
            ("cid", 4, &["cup"]),
            ("cid", 5, &[]),
        ],
        QueryOptions::default(),
    );
    let rows = |affinity: &Affinity| {
        let result = executor.affinity(affinity).unwrap();
        let pairs = result.rows.iter();
        let pairs: Vec<_> = pairs
            .map(|row| (row.x.clone() + " " + &row.y, row.users))
            .collect();
        (result.baskets, pairs)
    };
    let pair = |pair: &str, users| (pair.to_owned(), users);
    let items = Affinity::new(property("item")).condition("buy");
    // Users: ann has tea, milk and cup; bob milk; cid tea and cup.
    let (baskets, pairs) = rows(&items);
    assert_eq!((baskets, pairs.len()), (3, 6));
    assert_eq!(pairs[..2], [pair("cup tea", 2), pair("tea cup", 2)]);
    // Invoices: 1 tea milk; 2 tea milk cup; 3 tea; 4 cup; and 5 has no item.
    let invoices = items.per(property("invoice")).for_item("tea");
    let expected = vec![pair("tea milk", 2), pair("tea cup", 1)];
    assert_eq!(rows(&invoices), (4, expected));
    assert_eq!(rows(&invoices.clone().min_users(2)).1.len(), 1);
    assert_eq!(rows(&invoices.clone().top(1)).1.len(), 1);
    let row = executor.affinity(&invoices).unwrap().rows.remove(0);
    assert_eq!((row.support, row.jaccard), (0.5, 2.0 / 3.0));
    assert_eq!((row.confidence, row.lift), (2.0 / 3.0, 4.0 / 3.0));
}

#[test]
fn pairs_take_no_more_memory_than_is_allowed() {
    let names: Vec<String> = (0..600).map(|item| format!("item {item}")).collect();
    let items: Vec<&str> = names.iter().map(String::as_str).collect();
    let options = QueryOptions {
        memory_bytes: 3 << 20,
        threads: Some(1),
        ..QueryOptions::default()
    };
    let executor = shop(&[("ann", 1, &items)], options);
    let all = Affinity::new(property("item"));
    assert!(matches!(
        executor.affinity(&all),
        Err(QueryError::OutOfMemory { .. })
    ));
    let some = executor.affinity(&all.clone().top(10)).unwrap().rows;
    assert_eq!(some.len(), 10);
    assert_eq!(
        (some[9].x.as_str(), some[9].y.as_str()),
        ("item 0", "item 107")
    );
    let one = executor.affinity(&all.for_item("item 7")).unwrap().rows;
    assert_eq!(one.len(), 599);
    executor.options().cancel.cancel();
    let stopped = executor.affinity(&Affinity::new(property("item")));
    assert!(matches!(stopped, Err(QueryError::Cancelled)));
}
