//! Experiments over stores of every layout, against the judge.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::attribution_tests::{alike, common, crowd, operand, present, range};
use super::tests::{DAY, Pair, cases, options, play, segment, steps};
use crate::behaviour::{Experiment, ExperimentRow, ExperimentUser, Variant, micros, property};
use crate::{Executor, QueryOptions, days};

fn experiment() -> impl Strategy<Value = Experiment> {
    (
        (common(), operand(), common()),
        (
            option::weighted(0.8, 0..40_i64),
            option::weighted(0.7, operand()),
        ),
        (
            option::weighted(0.8, select(vec!["a", "b", "1", "2", "x", "view"])),
            range(),
        ),
    )
        .prop_map(
            |((exposure, variant, goal), (within, value), (control, range))| {
                let mut experiment = Experiment::new(exposure, variant, goal);
                experiment.within = within.map(|quarters| micros(quarters * DAY / 4));
                experiment.value = value;
                experiment.control = control.map(str::to_owned);
                experiment.range = range;
                experiment
            },
        )
}

fn same_rows(judged: &[ExperimentRow], found: &[ExperimentRow]) -> bool {
    let figures = |row: &ExperimentRow| {
        [
            row.rate,
            row.rate_low,
            row.rate_high,
            row.lift,
            row.p_value,
            row.value_sum,
            row.value_mean,
            row.value_p,
        ]
    };
    let counts = |row: &ExperimentRow| (row.users, row.pending, row.converted);
    let same = |(one, other): (&ExperimentRow, &ExperimentRow)| {
        let mut pairs = figures(one).into_iter().zip(figures(other));
        one.variant == other.variant
            && counts(one) == counts(other)
            && pairs.all(|(one, other)| alike(one, other))
    };
    judged.len() == found.len() && judged.iter().zip(found).all(same)
}

/// The users behind a row are exactly those that it counts.
fn check_users(row: &ExperimentRow, users: &[ExperimentUser]) -> Result<(), TestCaseError> {
    let own: Vec<_> = users
        .iter()
        .filter(|user| user.variant == row.variant)
        .collect();
    let count = |converted| {
        own.iter()
            .filter(|user| user.converted == converted)
            .count() as u64
    };
    prop_assert_eq!(own.len() as u64, row.users);
    prop_assert!(own.windows(2).all(|pair| pair[0].user < pair[1].user));
    prop_assert_eq!(count(Some(true)), row.converted);
    if row.variant == Variant::Several {
        prop_assert_eq!(count(None), row.users);
    } else {
        prop_assert_eq!(count(None), row.pending);
        prop_assert_eq!(row.rate.is_some(), row.users > row.pending);
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn experiments_equal_the_judge(
        steps in steps(),
        experiments in vec((experiment(), option::weighted(0.2, segment())), 1..5),
        as_of in present(),
        (threads, morsel_rows) in (1..4_usize, select(vec![1_u64, 1 << 18])),
    ) {
        let Pair { store, model } = play(&steps);
        let snapshot = store.snapshot().unwrap();
        let executor = Executor::new(snapshot.clone())
            .with_options(options(as_of, threads, morsel_rows));
        let alone = Executor::new(snapshot).with_options(options(as_of, 1, 1 << 18));
        for (mut experiment, users) in experiments {
            experiment.users = users;
            let judged = model.experiment(&experiment, as_of).unwrap().rows;
            let found = executor.experiment(&experiment).unwrap();
            prop_assert!(same_rows(&judged, &found.rows), "{experiment:?}\n{judged:?}\n{found:?}");
            // The same to the last bit, however the users are cut.
            prop_assert_eq!(&found, &alone.experiment(&experiment).unwrap());
            let judged = model.experiment_users(&experiment, as_of).unwrap();
            let users = executor.experiment_users(&experiment).unwrap();
            prop_assert_eq!(&judged.rows, &users.rows);
            for row in &found.rows {
                check_users(row, &users.rows)?;
            }
        }
    }
}

/// Forty users see the old page and forty the new one. Of each ten, two (of the new, six) buy for
/// 1 to 40 within a week, one more buys late; one saw both and one was exposed just now.
fn shop() -> Executor {
    let pair = play(&[]);
    let mut batch = pugmark_engine::BatchBuilder::new();
    for index in 0..80_i64 {
        let user = format!("u{index}");
        let (page, buyers) = if index < 40 { ("old", 2) } else { ("new", 6) };
        batch.event(&user, DAY, "exposed").property("page", page);
        if index % 10 < buyers {
            let price = (index % 40 + 1) as f64;
            batch.event(&user, 8 * DAY, "buy").property("price", price);
        } else if index % 10 == 9 {
            batch
                .event(&user, 8 * DAY + 1, "buy")
                .property("price", 500.0);
        }
    }
    batch.event("both", DAY, "exposed").property("page", "old");
    batch
        .event("both", 2 * DAY, "exposed")
        .property("page", "new");
    batch
        .event("late", 3 * DAY + 1, "exposed")
        .property("page", "old");
    batch.event("late", 4 * DAY, "buy").property("price", 9.0);
    pair.store.append(batch.finish().unwrap()).unwrap();
    Executor::new(pair.store.snapshot().unwrap()).with_options(QueryOptions {
        as_of: Some(10 * DAY),
        ..QueryOptions::default()
    })
}

#[test]
fn figures_are_as_computed_by_hand() {
    let experiment = Experiment::new("exposed", property("page"), "buy")
        .within(days(7))
        .value(property("price"))
        .control("old");
    let rows = shop().experiment(&experiment).unwrap().rows;
    let labels: Vec<_> = rows.iter().map(|row| row.variant.label()).collect();
    assert_eq!(labels, ["new", "old", "(several)"]);
    let counts: Vec<_> = rows
        .iter()
        .map(|row| (row.users, row.pending, row.converted))
        .collect();
    assert_eq!(counts, [(40, 0, 24), (41, 1, 8), (1, 0, 0)]);
    let (new, old) = (&rows[0], &rows[1]);
    assert_eq!((new.rate, old.rate), (Some(0.6), Some(0.2)));
    assert!(alike(new.lift, Some(2.0)));
    // z = 0.4 / sqrt(0.4 * 0.6 * 2 / 40) = sqrt(40 / 3).
    assert!(alike(new.p_value, Some(0.0002607296328553168)));
    assert_eq!((old.lift, old.p_value, old.value_p), (None, None, None));
    assert_eq!(old.value_sum, Some(132.0));
    assert_eq!(old.value_mean, Some(3.3));
    assert!(new.value_p.is_some_and(|p| 0.0 < p && p < 0.01));
    assert_eq!((rows[2].rate, rows[2].value_sum), (None, None));
}

#[test]
fn without_a_window_goals_count_until_the_present() {
    let experiment = Experiment::new("exposed", property("page"), "buy").until(2 * DAY);
    let rows = shop().experiment(&experiment).unwrap().rows;
    let counts: Vec<_> = rows
        .iter()
        .map(|row| (row.variant.label(), row.users, row.pending, row.converted))
        .collect();
    // The one who saw both saw the new page only when the range was over.
    assert_eq!(counts, [("new", 40, 0, 28), ("old", 41, 0, 12)]);
    assert_eq!((rows[0].lift, rows[0].value_sum), (None, None));
}

#[test]
fn sums_of_threads_merge() {
    let Pair { store, model } = crowd();
    let experiment = Experiment::new("view", property("item"), "buy")
        .within(days(1))
        .value(property("price"))
        .control("b");
    let ask = |threads| {
        let executor = Executor::new(store.snapshot().unwrap());
        executor.with_options(options(5 * DAY / 4, threads, 1))
    };
    let judged = model.experiment(&experiment, 5 * DAY / 4).unwrap().rows;
    let found = ask(3).experiment(&experiment).unwrap();
    assert!(same_rows(&judged, &found.rows), "{judged:?}\n{found:?}");
    // One thread may be done before the others begin, but hardly each time.
    for threads in [1, 3, 3, 3, 3, 3, 3, 3, 3, 3] {
        assert_eq!(found, ask(threads).experiment(&experiment).unwrap());
    }
    // Everything that a row can say is said by some.
    assert!(found.rows.iter().any(|row| row.pending > 0));
    assert!(found.rows.iter().any(|row| row.value_p.is_some()));
    assert!(found.rows.iter().any(|row| row.variant == Variant::Several));
    let judged = model.experiment_users(&experiment, 5 * DAY / 4).unwrap();
    let users = ask(3).experiment_users(&experiment).unwrap();
    assert_eq!(judged.rows, users.rows);
}
