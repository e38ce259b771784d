use std::collections::{HashMap, HashSet};

use pugmark_engine::batch::{IdColumn, Values};

use super::*;

fn ids(batch: &EventBatch) -> &[i64] {
    match batch.users() {
        IdColumn::Int(ids) => ids,
        IdColumn::Text(_) => panic!("generated ids are integers"),
    }
}

/// FNV-1a over everything a batch says.
fn hash_into(hash: &mut u64, batch: &EventBatch) {
    let mut byte = |byte: u8| *hash = (*hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
    for row in 0..batch.len() {
        ids(batch)[row]
            .to_le_bytes()
            .into_iter()
            .for_each(&mut byte);
        batch.times()[row]
            .to_le_bytes()
            .into_iter()
            .for_each(&mut byte);
        batch.events().get(row).bytes().for_each(&mut byte);
        for property in batch.properties() {
            let Some(part) = property.column.parts.first() else {
                continue;
            };
            let Some(index) = part.index_of(row as u32) else {
                continue;
            };
            property.name.bytes().for_each(&mut byte);
            match &part.values {
                Values::F64(values) => {
                    values[index]
                        .to_bits()
                        .to_le_bytes()
                        .into_iter()
                        .for_each(&mut byte);
                }
                Values::I64(values) => {
                    values[index].to_le_bytes().into_iter().for_each(&mut byte);
                }
                Values::Text(values) => values.get(index).bytes().for_each(&mut byte),
                other => panic!("unexpected {other:?}"),
            }
        }
    }
}

#[test]
fn the_first_hundred_thousand_events_never_change() {
    let mut hash = 0xCBF2_9CE4_8422_2325;
    for batch in Population::new(PopulationConfig::of_events(100_000)).batches() {
        hash_into(&mut hash, &batch);
    }
    assert_eq!(hash, GOLDEN, "{hash:#x}");
}

const GOLDEN: u64 = 0x9a2b_597f_86b3_5c73;

#[test]
fn exactly_as_many_events_and_users_as_asked() {
    for (events, users, days) in [
        (1, 1, 1),
        (10, 10, 3),
        (5_000, 5_000, 30),
        (70_000, 100, 1),
        (20_000, 900, 400),
    ] {
        let config = PopulationConfig {
            users,
            days,
            seed: 5,
            ..PopulationConfig::of_events(events)
        };
        let population = Population::new(config);
        let mut seen = HashSet::new();
        let mut last: HashMap<i64, i64> = HashMap::new();
        let (mut count, mut previous) = (0, i64::MIN);
        for batch in population.batches() {
            count += batch.len() as u64;
            for (&user, &time) in ids(&batch).iter().zip(batch.times()) {
                assert!(previous <= time && time >= population.config().start_micros);
                assert!(
                    time < population.end_micros() + 1_000_000,
                    "a tie moves by milliseconds"
                );
                previous = time;
                seen.insert(user);
                if let Some(last) = last.insert(user, time) {
                    assert!(last < time, "two events of {user} at {time}");
                }
            }
        }
        assert_eq!(
            (count, seen.len() as u64),
            (events, users),
            "over {days} days"
        );
    }
}

#[test]
fn small_populations_have_every_event_too() {
    let mut names = HashSet::new();
    for batch in Population::new(PopulationConfig::of_events(30_000)).batches() {
        names.extend((0..batch.len()).map(|row| batch.events().get(row).to_owned()));
    }
    assert_eq!(names.len(), NAMES.len());
}

#[test]
fn no_events_no_batches() {
    assert_eq!(
        Population::new(PopulationConfig::of_events(0))
            .batches()
            .count(),
        0
    );
}

#[test]
fn seeds_differ() {
    let of_seed = |seed| {
        let config = PopulationConfig {
            seed,
            ..PopulationConfig::of_events(100)
        };
        Population::new(config).batches().next()
    };
    assert_eq!(of_seed(3), of_seed(3));
    assert_ne!(of_seed(3), of_seed(4));
}

/// For each user, the times at which each name happened.
fn times_by_user(events: u64) -> HashMap<i64, HashMap<String, Vec<i64>>> {
    let mut users: HashMap<i64, HashMap<String, Vec<i64>>> = HashMap::new();
    for batch in Population::new(PopulationConfig::of_events(events)).batches() {
        for (row, &user) in ids(&batch).iter().enumerate() {
            let names = users.entry(user).or_default();
            let name = batch.events().get(row).to_owned();
            names.entry(name).or_default().push(batch.times()[row]);
        }
    }
    users
}

#[test]
fn the_shape_of_a_shop() {
    let users = times_by_user(1_000_000);
    let mut count: HashMap<&str, usize> = HashMap::new();
    let mut people: HashMap<&str, usize> = HashMap::new();
    let (mut second, mut third) = (0, 0);
    let day = 86_400_000_000;
    for names in users.values() {
        for (name, times) in names {
            *count.entry(name).or_default() += times.len();
            *people.entry(name).or_default() += 1;
        }
        let empty = Vec::new();
        let [views, carts, buys] =
            ["view", "cart", "purchase"].map(|name| names.get(name).unwrap_or(&empty));
        let last_view = |at: i64| views.iter().rev().copied().find(|&view| view < at);
        second += usize::from(
            carts
                .iter()
                .any(|&cart| last_view(cart).is_some_and(|view| cart - view <= day)),
        );
        third += usize::from(buys.iter().any(|&buy| {
            carts
                .iter()
                .any(|&cart| cart < buy && last_view(cart).is_some_and(|view| buy - view <= day))
        }));
    }
    let percent = |part: usize, whole: usize| part as f64 * 100.0 / whole as f64;
    let total: usize = count.values().sum();
    assert_eq!((total, count.len()), (1_000_000, NAMES.len()));
    assert!((55.0..65.0).contains(&percent(count["view"], total)));
    assert!((94.0..96.0).contains(&percent(people["view"], users.len())));
    assert!((40.0..44.0).contains(&percent(second, users.len())));
    assert!((9.0..11.0).contains(&percent(people["purchase"], users.len())));
    assert!((4.0..5.5).contains(&percent(third, users.len())));
}
