//! RFM over stores of every layout, against the judge.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::attribution_tests::{common, crowd, operand, present, range};
use super::tests::{DAY, Pair, cases, options, play, segment, steps};
use crate::behaviour::{Rfm, property};
use crate::{Executor, QueryOptions};

fn rfm() -> impl Strategy<Value = Rfm> {
    (
        common(),
        operand(),
        range(),
        option::weighted(0.2, segment()),
    )
        .prop_map(|(purchase, value, range, users)| {
            let mut rfm = Rfm::new(purchase, value);
            rfm.range = range;
            rfm.users = users;
            rfm
        })
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn rfm_equals_the_judge(
        steps in steps(),
        questions in vec(rfm(), 1..5),
        as_of in present(),
        (threads, morsel_rows) in (1..4_usize, select(vec![1_u64, 1 << 18])),
    ) {
        let Pair { store, model } = play(&steps);
        let executor = Executor::new(store.snapshot().unwrap())
            .with_options(options(as_of, threads, morsel_rows));
        for rfm in questions {
            let judged = model.rfm(&rfm, as_of).unwrap().rows;
            prop_assert_eq!(&judged, &executor.rfm(&rfm).unwrap().rows, "{:?}", rfm);
        }
    }
}

/// Twenty users, of whom user `i` bought `i / 2 + 1` times, last on day `i / 4`.
#[test]
fn quintiles_are_as_computed_by_hand() {
    let Pair { store, .. } = play(&[]);
    let mut batch = pugmark_engine::BatchBuilder::new();
    for user in 0..20_i64 {
        for purchase in 0..=user / 2 {
            let id = format!("u{user}");
            batch
                .event(&id, user / 4 * DAY - purchase, "buy")
                .property("price", if user == 7 { 1_000.0 } else { 1.0 });
        }
    }
    store.append(batch.finish().unwrap()).unwrap();
    let executor = Executor::new(store.snapshot().unwrap()).with_options(QueryOptions {
        as_of: Some(10 * DAY - 1),
        ..QueryOptions::default()
    });
    let rows = executor
        .rfm(&Rfm::new("buy", property("price")))
        .unwrap()
        .rows;
    let numbers = |user: usize| {
        let row = &rows[user];
        (
            row.recency_days,
            row.frequency,
            row.monetary,
            row.r,
            row.f,
            row.m,
        )
    };
    // Users in fours share a day: 0, 4, 8 … do worse.
    assert_eq!(numbers(0), (9, 1, 1.0, 1, 1, 1));
    assert_eq!(numbers(3), (9, 2, 2.0, 1, 1, 1));
    assert_eq!(numbers(4), (8, 3, 3.0, 2, 2, 2));
    // 4 * 1 000: the most, though 6 users bought less often.
    assert_eq!(numbers(7), (8, 4, 4_000.0, 2, 2, 5));
    // Eight bought less often, but only seven for less.
    assert_eq!(numbers(8), (7, 5, 5.0, 3, 3, 2));
    assert_eq!(numbers(19), (5, 10, 10.0, 5, 5, 5));
}

#[test]
fn users_of_all_threads_are_ranked_together() {
    let Pair { store, model } = crowd();
    let executor = Executor::new(store.snapshot().unwrap()).with_options(options(2 * DAY, 3, 1));
    let rfm = Rfm::new("view", property("price"));
    let rows = executor.rfm(&rfm).unwrap().rows;
    assert_eq!(rows, model.rfm(&rfm, 2 * DAY).unwrap().rows);
    assert_eq!(rows.len(), 3_000);
    assert!((1..=5).all(|quintile| rows.iter().any(|row| row.m == quintile)));
}
