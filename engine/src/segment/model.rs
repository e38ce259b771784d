//! The model of segments: plain rows in arrival order, and loops over them. Test code.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::{Hours, NameRun, Partition, Segment, SegmentImage, UserStarts};
use crate::batch::testing::{bits, column_of, rows_of};
use crate::batch::{Property, ResolvedBatch, TextColumn};
use crate::bitmap::{BitmapView, Words, join, split};
use crate::time::{MICROS_PER_DAY, day_of};
use crate::value::Value;

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) user: u32,
    pub(super) time: i64,
    pub(super) name: String,
    /// The values of [`PROPERTIES`].
    pub(super) values: Vec<Option<Value>>,
}

/// The properties of every row: few texts, many texts, numbers of two types, lists, anything
/// (which only two names have), and one text for all.
pub(super) const PROPERTIES: [&str; 6] = ["plan", "item", "price", "tags", "any", "currency"];

/// The values of a row, from random bits.
pub(super) fn values(seed: u64, name: usize) -> Vec<Option<Value>> {
    let bits = |at: u32, count: u32| (seed >> at) & ((1 << count) - 1);
    let text = |prefix: &str, number: u64| Some(Value::Text(format!("{prefix}{number}")));
    let price = match bits(12, 4) {
        0 => None,
        1 => Some(Value::F64(bits(16, 8) as f64 / 8.0)),
        2..6 => Some(Value::I64(-(bits(16, 40) as i64))),
        _ => Some(Value::I64(bits(16, 8) as i64)),
    };
    let tags = (bits(24, 3) == 0).then(|| {
        let tags = (0..=bits(27, 2)).map(|at| Value::Text(format!("tag {}", bits(29, 2) + at)));
        Value::List(tags.collect())
    });
    let any = match bits(32, 4) {
        _ if name > 1 => None,
        0 => Some(Value::Null),
        1 => Some(Value::Bool(bits(36, 1) == 1)),
        2 => Some(Value::Timestamp(bits(36, 20) as i64)),
        3..5 => text("plan ", bits(36, 2)),
        _ => None,
    };
    let plan = (bits(0, 3) != 0)
        .then(|| text("plan ", bits(3, 2)))
        .flatten();
    let currency = Some(Value::from("EUR"));
    vec![plan, text("item ", bits(5, 7)), price, tags, any, currency]
}

/// How the times of a case are spread.
#[derive(Clone, Copy, Debug)]
struct TimeShape {
    start: i64,
    unit: i64,
    steps: i64,
}

fn time_shape() -> impl Strategy<Value = TimeShape> {
    let start = prop_oneof![
        Just(0),
        Just(1_569_888_000_000_000),
        Just(1_569_888_000_123_456),
        Just(-3 * MICROS_PER_DAY - 7),
    ];
    let spread = prop_oneof![
        Just((1_000_000, 5)),
        Just((1_000_000, 90_000)),
        Just((1_000, 3 * 86_400_000)),
        Just((1, 300)),
        Just((1, 40 * MICROS_PER_DAY)),
        Just((MICROS_PER_DAY, 4)),
    ];
    (start, spread).prop_map(|(start, (unit, steps))| TimeShape { start, unit, steps })
}

/// Rows in arrival order: few users with many rows and many with few, in up to three containers.
pub(super) fn rows(most: usize) -> impl Strategy<Value = Vec<Row>> {
    let user = prop_oneof![
        3 => 0u32..6,
        2 => 0u32..2_000,
        2 => 65_530u32..65_545,
        1 => 0u32..200_000,
    ];
    let name = prop_oneof![4 => 0usize..2, 2 => 0usize..6, 1 => 0usize..12];
    let row = (user, any::<prop::sample::Index>(), name, any::<u64>());
    (time_shape(), prop::collection::vec(row, 0..most)).prop_map(|(shape, rows)| {
        rows.into_iter()
            .map(|(user, step, name, seed)| Row {
                user,
                time: shape.start + step.index(shape.steps as usize) as i64 * shape.unit,
                name: format!("name {name}"),
                values: values(seed, name),
            })
            .collect()
    })
}

/// Rows as a batch.
pub(super) fn batch(rows: &[Row]) -> ResolvedBatch {
    let mut events = TextColumn::default();
    let mut codes: BTreeMap<&str, u32> = BTreeMap::new();
    for row in rows {
        let code = *codes
            .entry(&row.name)
            .or_insert_with(|| events.values.push(&row.name));
        events.codes.push(code);
    }
    ResolvedBatch {
        users: rows.iter().map(|row| row.user).collect(),
        times: rows.iter().map(|row| row.time).collect(),
        events,
        properties: (0..PROPERTIES.len())
            .map(|at| {
                let values: Vec<_> = rows.iter().map(|row| row.values[at].clone()).collect();
                let name = PROPERTIES[at].to_owned();
                let column = column_of(&values);
                Property { name, column }
            })
            .filter(|property| !property.column.parts.is_empty())
            .collect(),
    }
}

/// Opens an image, whose meta must be what its footer says.
pub(super) fn open(image: SegmentImage) -> Arc<Segment> {
    let segment = Segment::open(image.bytes.into(), Path::new("test.seg")).unwrap();
    assert_eq!(*segment.meta(), image.meta);
    Arc::new(segment)
}

/// Checks that `segments` hold exactly `rows`, which are in arrival order.
pub(super) fn check(segments: &[Arc<Segment>], rows: &[Row], most_runs: usize) {
    let mut seen = 0;
    let mut next_container = 0;
    for segment in segments {
        let meta = segment.meta();
        assert!(u32::from(meta.first_container) >= next_container);
        next_container = u32::from(meta.last_container) + 1;
        let inside: Vec<&Row> = rows
            .iter()
            .filter(|row| (meta.first_container..=meta.last_container).contains(&split(row.user).0))
            .collect();
        seen += inside.len();
        check_segment(segment, &inside, most_runs);
    }
    assert_eq!(seen, rows.len());
}

fn check_segment(segment: &Segment, rows: &[&Row], most_runs: usize) {
    let meta = segment.meta();
    assert_eq!(meta.rows as usize, rows.len());
    let report = segment.verify().unwrap();
    assert_eq!(report.rows as usize, rows.len());
    assert_eq!(report.bytes as usize, segment.byte_len());
    assert_eq!(report.runs as usize, segment.all_runs().len());
    assert_eq!(
        meta.min_time,
        rows.iter().map(|row| row.time).min().unwrap()
    );
    assert_eq!(
        meta.max_time,
        rows.iter().map(|row| row.time).max().unwrap()
    );
    let containers = rows.iter().map(|row| split(row.user).0);
    assert_eq!(meta.first_container, containers.clone().min().unwrap());
    assert_eq!(meta.last_container, containers.max().unwrap());
    let users: BTreeSet<u32> = rows.iter().map(|row| row.user).collect();
    assert_eq!(report.users as usize, users.len());
    check_bitmap(segment.any_users().unwrap(), &users);

    let own = own_names(rows, most_runs);
    check_order(segment, rows, &own);
    assert!(segment.runs().map(|run| run.name()).eq(own.iter().copied()));
    let run_of = |row: &Row| own.iter().position(|&name| name == row.name);
    let ranks = ranks(rows, run_of);
    for number in (0..own.len()).map(Some).chain([None]) {
        let mut inside: Vec<usize> = (0..rows.len())
            .filter(|&at| run_of(rows[at]) == number)
            .collect();
        inside.sort_by_key(|&at| (rows[at].user, rows[at].time, at));
        let run = match number {
            Some(number) => segment.run(own[number]),
            None => segment.overflow(),
        };
        assert_eq!(run.is_some(), !inside.is_empty());
        if let Some(run) = run {
            assert_eq!(run.is_overflow(), number.is_none());
            let expected: Vec<&Row> = inside.iter().map(|&at| rows[at]).collect();
            let ranks: Vec<u32> = inside.iter().map(|&at| ranks[at]).collect();
            check_run(run, &expected, &ranks);
        }
    }
}

/// The runs of all rows, user after user in total order: from any place, and of some users of each
/// container.
fn check_order(segment: &Segment, rows: &[&Row], own: &[&str]) {
    let mut places: Vec<usize> = (0..rows.len()).collect();
    places.sort_by_key(|&at| (rows[at].user, rows[at].time, at));
    let run_of = |at: usize| own.iter().position(|&name| name == rows[at].name);
    let expected = places
        .iter()
        .map(|&at| run_of(at).unwrap_or(own.len()) as u16);
    let expected: Vec<u16> = expected.collect();
    let order = segment.order().unwrap();
    let all = rows.len() as u32;
    for asked in [0..all, all / 3..all, 0..all / 2, all / 2..all / 2] {
        let mut found = vec![7];
        order.runs(asked.clone(), &mut found).unwrap();
        assert_eq!(found[0], 7, "what is there stays");
        assert_eq!(
            found[1..],
            expected[asked.start as usize..asked.end as usize]
        );
    }
    assert!(order.runs(0..all + 1_000, &mut Vec::new()).is_err());
    let users: Vec<u32> = places.iter().map(|&at| rows[at].user).collect();
    for (key, _) in segment.any_users().unwrap().keys() {
        let places = order.container_rows(key).unwrap();
        let of_key = users
            .iter()
            .zip(0..)
            .filter(|(user, _)| split(**user).0 == key);
        assert!(of_key.map(|(_, place)| place).eq(places));
        for lows in [0..65_536, 64..40_000] {
            let mut found = UserStarts::default();
            order.user_starts(key, lows.clone(), &mut found).unwrap();
            let mut own = Vec::new();
            found.for_each(|low, places| own.extend(places.map(|place| (place, join(key, low)))));
            let inside = users.iter().zip(0..).filter(|(user, _)| {
                split(**user).0 == key && lows.contains(&u32::from(split(**user).1))
            });
            assert!(inside.map(|(&user, place)| (place, user)).eq(own));
        }
    }
}

/// The names that have a run of their own, sorted.
fn own_names<'a>(rows: &[&'a Row], most: usize) -> Vec<&'a str> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows {
        *counts.entry(&row.name).or_default() += 1;
    }
    let mut names: Vec<&str> = counts.keys().copied().collect();
    names.sort_by_key(|name| std::cmp::Reverse(counts[name]));
    names.truncate(most);
    names.sort_unstable();
    names
}

/// The rank of each row: its place by arrival among the rows of its user and time, from 1, where
/// these lie in several runs.
fn ranks(rows: &[&Row], run_of: impl Fn(&Row) -> Option<usize>) -> Vec<u32> {
    let mut groups: BTreeMap<(u32, i64), Vec<usize>> = BTreeMap::new();
    for (at, row) in rows.iter().enumerate() {
        groups.entry((row.user, row.time)).or_default().push(at);
    }
    let mut ranks = vec![0; rows.len()];
    for group in groups.values() {
        let runs: BTreeSet<_> = group.iter().map(|&at| run_of(rows[at])).collect();
        if runs.len() > 1 {
            (1..).zip(group).for_each(|(rank, &at)| ranks[at] = rank);
        }
    }
    ranks
}

pub(super) fn check_bitmap(view: BitmapView<'_>, users: &BTreeSet<u32>) {
    view.check().unwrap();
    assert!(view.iter().eq(users.iter().copied()));
}

fn check_run(run: NameRun<'_>, rows: &[&Row], ranks: &[u32]) {
    let users: BTreeSet<u32> = rows.iter().map(|row| row.user).collect();
    assert_eq!(run.rows() as usize, rows.len());
    assert_eq!(run.user_count() as usize, users.len());
    check_bitmap(run.users().unwrap(), &users);
    assert_eq!(
        run.min_time(),
        rows.iter().map(|row| row.time).min().unwrap()
    );
    assert_eq!(
        run.max_time(),
        rows.iter().map(|row| row.time).max().unwrap()
    );
    check_user_rows(run, rows, &users);
    check_times(run, rows, ranks);
    let is_traits = run.segment.meta().partition == Partition::Traits;
    if is_traits {
        assert_eq!(run.days().unwrap().len(), 0);
    } else {
        check_days(run, rows, &users);
    }
    check_properties(run, rows, is_traits);
    check_values(run, rows, &users);
    match run.overflow_names(0..run.rows()) {
        Ok(names) => {
            assert!(run.is_overflow());
            let found = (0..rows.len()).map(|row| names.get(row));
            assert!(found.eq(rows.iter().map(|row| &*row.name)));
        }
        Err(_) => assert!(!run.is_overflow()),
    }
}

/// The values of one property in rows; explicit nulls are missing ones but in traits.
fn values_of(rows: &[&Row], at: usize, is_traits: bool) -> Vec<Option<Value>> {
    let values = rows.iter().map(|row| row.values[at].clone());
    values
        .map(|value| value.filter(|value| is_traits || *value != Value::Null))
        .collect()
}

fn check_properties(run: NameRun<'_>, rows: &[&Row], is_traits: bool) {
    let properties = run.properties().unwrap();
    for (at, name) in PROPERTIES.iter().enumerate() {
        let expected = values_of(rows, at, is_traits);
        let view = properties.get(name).unwrap();
        let Some(view) = view else {
            assert!(expected.iter().all(Option::is_none), "{name} is missing");
            continue;
        };
        assert!(expected.iter().any(Option::is_some), "{name} is empty");
        let column = view.decode(0..run.rows()).unwrap();
        assert_eq!(bits(&rows_of(&column)), bits(&expected));
    }
    assert!(properties.len() <= PROPERTIES.len());
}

fn check_values(run: NameRun<'_>, rows: &[&Row], users: &BTreeSet<u32>) {
    let listed = run.value_properties().unwrap();
    for (at, name) in PROPERTIES.iter().enumerate() {
        let mut of_value: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
        let mut only_text = true;
        for row in rows {
            match &row.values[at] {
                Some(Value::Text(text)) => {
                    of_value.entry(text).or_default().insert(row.user);
                }
                None | Some(Value::Null) => {}
                Some(_) => only_text = false,
            }
        }
        let found = run.value_bitmaps(name).unwrap();
        assert_eq!(found.is_some(), listed.contains(name));
        let Some(found) = found else {
            let cost = |(text, with): (&&str, &BTreeSet<u32>)| {
                let bitmap = if with == users {
                    0
                } else {
                    8 + 10 * with.len()
                };
                20 + text.len() + bitmap
            };
            let cost: usize = of_value.iter().map(cost).sum();
            let cheap = !of_value.is_empty() && of_value.len() <= 64 && cost * 10 <= rows.len() * 3;
            assert!(!only_text || !cheap, "{name} has cheap values");
            continue;
        };
        assert!(only_text);
        assert_eq!(found.len(), of_value.len());
        for (found, (&text, with)) in found.iter().zip(&of_value) {
            assert_eq!(found.value, text);
            check_bitmap(found.users, with);
            check_bitmap(run.value_users(name, text).unwrap().unwrap(), with);
        }
        let none = run.value_users(name, "no such value").unwrap();
        assert!(none.unwrap().is_empty());
    }
}

fn check_user_rows(run: NameRun<'_>, rows: &[&Row], users: &BTreeSet<u32>) {
    let range_of = |user: u32| {
        let start = rows.partition_point(|row| row.user < user) as u32;
        start..rows.partition_point(|row| row.user <= user) as u32
    };
    for &user in users.iter().step_by(users.len() / 50 + 1) {
        assert_eq!(run.user_rows(user).unwrap(), range_of(user));
        if !users.contains(&(user + 1)) {
            assert_eq!(run.user_rows(user + 1).unwrap(), 0..0);
        }
    }
    let keys: BTreeSet<u16> = users.iter().map(|&user| split(user).0).collect();
    let mut starts = vec![0; 65_537];
    for key in keys.iter().copied().chain([9]) {
        let first = rows.partition_point(|row| split(row.user).0 < key) as u32;
        let end = rows.partition_point(|row| split(row.user).0 <= key) as u32;
        let expected = if first == end { 0..0 } else { first..end };
        assert_eq!(run.container_rows(key).unwrap(), expected);
        run.row_starts(key, &mut starts).unwrap();
        let base = u32::from(key) << 16;
        let inside = users.range(base..=base | 0xffff);
        let mut found = UserStarts::default();
        for lows in [0..65_536, 0..1, 7..1_000, 65_000..65_536, 300..300] {
            run.user_starts(key, lows.clone(), &mut found).unwrap();
            let asked = inside
                .clone()
                .filter(|&&user| lows.contains(&(user & 0xffff)));
            assert!(
                found
                    .users
                    .iter()
                    .eq(asked.clone().map(|&user| split(user).1))
            );
            for (place, &user) in asked.enumerate() {
                let range = range_of(user);
                assert_eq!(found.starts[place..place + 2], [range.start, range.end]);
            }
        }
        let mut dense = 0;
        for &user in inside {
            let (low, range) = (split(user).1 as usize, range_of(user));
            assert_eq!(starts[low..low + 2], [range.start, range.end]);
            assert!(starts[dense..low].iter().all(|&start| start == range.start));
            dense = low + 1;
        }
        assert!(starts[dense..].iter().all(|&start| start == expected.end));
        let wanted: Vec<u16> = (0..65_536u32).step_by(3).map(|low| low as u16).collect();
        let mut visited = Vec::new();
        run.rows_of_users(key, &wanted, |low, rows| visited.push((low, rows)))
            .unwrap();
        let sought = users
            .range(base..=base | 0xffff)
            .filter(|&user| user % 65_536 % 3 == 0);
        assert!(
            visited
                .into_iter()
                .eq(sought.map(|&user| (split(user).1, range_of(user))))
        );
    }
}

fn check_times(run: NameRun<'_>, rows: &[&Row], ranks: &[u32]) {
    let all = run.times(0..run.rows()).unwrap();
    let (third, half) = (rows.len() / 3, rows.len() / 2);
    let part = run.times(third as u32..half as u32).unwrap();
    let mut copied = Vec::new();
    all.append_to(&mut copied);
    assert!(copied.iter().copied().eq(rows.iter().map(|row| row.time)));
    for (place, row) in rows.iter().enumerate() {
        assert_eq!(all.get(place), row.time);
        assert_eq!(all.offset_from(row.time), all.offset(place));
        assert!(all.time_of(all.offset_from(row.time + 1)) > row.time);
        let same = rows[place..]
            .iter()
            .take_while(|other| other.user == row.user);
        let user = place..place + same.count();
        for time in [row.time, row.time + 1, i64::MAX] {
            let before = rows[user.clone()].partition_point(|other| other.time < time);
            assert_eq!(all.first_from(user.clone(), time), place + before);
        }
        if (third..half).contains(&place) {
            assert_eq!(part.get(place - third), row.time);
            assert_eq!(all.slice(third..half).get(place - third), row.time);
        }
    }
    let ties = run.ties(0..run.rows()).unwrap();
    let some = run.ties(third as u32..half as u32).unwrap();
    let listed = ranks.iter().filter(|&&rank| rank > 0).count();
    assert_eq!(ties.pairs().len(), listed);
    for (place, &rank) in ranks.iter().enumerate() {
        assert_eq!(ties.rank(place as u32), rank);
        let expected = if (third..half).contains(&place) {
            rank
        } else {
            0
        };
        assert_eq!(some.rank(place as u32), expected);
    }
}

fn check_days(run: NameRun<'_>, rows: &[&Row], users: &BTreeSet<u32>) {
    let mut days: BTreeMap<i64, BTreeSet<u32>> = BTreeMap::new();
    for row in rows {
        days.entry(day_of(row.time)).or_default().insert(row.user);
    }
    let counts = days.iter().map(|(&day, users)| (day, users.len() as u32));
    assert!(run.days().unwrap().eq(counts));
    for (&day, expected) in &days {
        check_bitmap(run.day_users(day).unwrap().unwrap(), expected);
    }
    assert!(run.day_users(1_000_000).unwrap().is_none());
    assert!(!users.is_empty());
    check_spans(run, &days);
    let times = rows.iter().map(|row| (row.user, row.time));
    check_hours(run, &days, &times.collect::<Vec<_>>());
}

/// Ranges around every row's time, of each day that has rows; each twice, so that what was kept
/// answers too.
fn check_hours(run: NameRun<'_>, days: &BTreeMap<i64, BTreeSet<u32>>, rows: &[(u32, i64)]) {
    const HOUR: i64 = MICROS_PER_DAY / 24;
    assert!(run.day_hours(1_000_000).unwrap().is_none());
    for (&day, users) in days {
        let key = run.users().unwrap().keys().next().unwrap().0;
        let given_up = run.day_hours(day).unwrap().unwrap();
        run.segment.kept_hours.give_up();
        let (mut ones, mut twos) = (Words::new(), Words::new());
        let (all, _) = Hours::of_range(day, i64::MIN, i64::MAX);
        let known = given_up.or_into(key, (all, &mut ones), (all, &mut twos));
        assert!(!known.unwrap() && ones.is_empty() && twos.is_empty());
        let hours = run.day_hours(day).unwrap();
        let hours = hours.expect("a table of so few users may be kept");
        let of_day = rows.iter().filter(|(_, time)| day_of(*time) == day);
        for (_, time) in of_day.clone().step_by(1 + rows.len() / 8) {
            for (first, last) in [
                (*time, i64::MAX),
                (i64::MIN, time - 1),
                (time - HOUR, time + HOUR),
            ] {
                let (whole, broken) = Hours::of_range(day, first, last);
                let in_whole = |time: i64| {
                    let start = time - time.rem_euclid(HOUR);
                    first <= start && start + HOUR - 1 <= last
                };
                let in_broken = |time: i64| {
                    let start = time - time.rem_euclid(HOUR);
                    !in_whole(time) && first < start + HOUR && start <= last
                };
                let of = |holds: &dyn Fn(i64) -> bool| -> BTreeSet<u32> {
                    let rows = of_day.clone().filter(|(_, time)| holds(*time));
                    rows.map(|(user, _)| *user).collect()
                };
                let (surely, possibly) = (of(&in_whole), of(&in_broken));
                for (key, _) in run.users().unwrap().keys() {
                    let (mut ones, mut twos) = (Words::new(), Words::new());
                    let known = hours.or_into(key, (whole, &mut ones), (broken, &mut twos));
                    assert!(known.unwrap());
                    check_container(key, &ones, &surely);
                    check_container(key, &twos, &possibly);
                    let mut lows = vec![7];
                    assert!(hours.common(key, whole, &twos, &mut lows).unwrap());
                    ones.and(&twos);
                    assert_eq!(lows[0], 7, "what is there stays");
                    assert_eq!(lows[1..], ones.iter().collect::<Vec<_>>());
                }
            }
        }
        assert!(!users.is_empty());
    }
}

fn check_container(key: u16, found: &Words, expected: &BTreeSet<u32>) {
    let expected = expected.range(join(key, 0)..=join(key, u16::MAX)).copied();
    let found = found.iter().map(|low| join(key, low));
    assert!(found.eq(expected), "container {key}");
}

/// Every span between days that have rows, and one day around them: where its union is made, kept, and
/// given up before it is made.
fn check_spans(run: NameRun<'_>, days: &BTreeMap<i64, BTreeSet<u32>>) {
    let bounds: BTreeSet<i64> = days
        .keys()
        .flat_map(|day| [day - 1, *day, day + 1])
        .collect();
    for (&first, &last) in bounds
        .iter()
        .flat_map(|first| bounds.iter().map(move |last| (first, last)))
    {
        let inside = days.iter().filter(|&(day, _)| (first..=last).contains(day));
        let expected: BTreeSet<u32> = inside.flat_map(|(_, users)| users).copied().collect();
        for given_up in [false, false, true] {
            let kept = &run.segment.kept_spans;
            if given_up {
                kept.give_up();
            }
            let span = run.span_users(first..=last).unwrap();
            if given_up {
                kept.give_up();
            }
            assert!(span.most_users() >= expected.len() as u64);
            let mut found = BTreeSet::new();
            for (key, _) in run.users().unwrap().keys() {
                let mut users = Words::new();
                span.or_into(key, &mut users).unwrap();
                found.extend(users.iter().map(|low| join(key, low)));
            }
            assert_eq!(found, expected, "days {first} to {last}");
        }
    }
}
