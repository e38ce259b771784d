//! Sessions, paths and trails over stores of every layout, against the judge.

use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::select;
use pugmark_engine::{BatchBuilder, Store, UserKey, Value};

use crate::behaviour::{
    Operand, PathDirection, PathPer, PathRow, Paths, Segment, SessionRow, Sessions, TimeSpec,
    Trail, any, event, event_name, micros, minutes, property, time, user_trait,
};
use crate::testing::computed_of;
use crate::{Executor, QueryError, QueryOptions};

use super::control::Control;
use super::tests::{Pair, Step, cases, condition, moment, options, play, segment, steps};

pub(super) const DAY: i64 = 86_400_000_000;
const MINUTE: i64 = 60_000_000;

/// Ranges with both ends, one, and none.
pub(super) fn range() -> impl Strategy<Value = TimeSpec> {
    let spec = |since, until, last: Option<i64>| TimeSpec {
        since,
        until,
        last: last.map(micros),
    };
    prop_oneof![
        3 => Just(spec(None, None, None)),
        1 => (moment(), 1..6_i64).prop_map(move |(since, halves)| spec(Some(since), Some(since + halves * DAY / 2), None)),
        1 => moment().prop_map(move |since| spec(Some(since), None, None)),
        1 => moment().prop_map(move |until| spec(None, Some(until), None)),
        1 => (1..24_i64).prop_map(move |halves| spec(None, None, Some(halves * DAY / 2))),
    ]
}

/// Anything that can be read of an event.
pub(super) fn operand() -> impl Strategy<Value = Operand> {
    let stored = prop_oneof![
        4 => select(vec!["item", "price", "tags"]).prop_map(property),
        2 => Just(event_name()),
        1 => Just(user_trait("plan")),
        1 => Just(time()),
    ];
    let stored = stored.boxed();
    prop_oneof![8 => stored.clone(), 1 => computed_of(stored)]
}

/// Gaps of nothing, of less and more than a quarter of a day, and just that.
fn gap() -> impl Strategy<Value = i64> {
    select(vec![0, 1, DAY / 4 - 1, DAY / 4, DAY / 2, DAY])
}

fn sessions() -> impl Strategy<Value = Sessions> {
    let condition = prop_oneof![1 => Just(any()), 2 => condition()];
    (
        condition,
        weighted(0.8, gap()),
        range(),
        weighted(0.2, segment()),
    )
        .prop_map(|(events, gap, range, users)| Sessions {
            events,
            gap: gap.map(micros),
            users,
            range,
        })
}

fn paths() -> impl Strategy<Value = Paths> {
    let anchor = prop_oneof![1 => Just(any()), 2 => condition()];
    let direction = select(vec![PathDirection::After, PathDirection::Before]);
    let per = select(vec![PathPer::User, PathPer::Session, PathPer::Event]);
    let how = (direction, per, proptest::bool::ANY, weighted(0.8, gap()));
    let value = prop_oneof![1 => Just(event_name()), 1 => operand()];
    let who = (range(), weighted(0.2, segment()));
    (anchor, 1..5_usize, how, value, who).prop_map(
        |(anchor, steps, (direction, per, collapse, gap), value, (range, users))| Paths {
            anchor,
            steps,
            direction,
            per,
            collapse,
            value,
            gap: gap.filter(|_| per == PathPer::Session).map(micros),
            users,
            range,
        },
    )
}

/// A present that all is before, or that some is after.
pub(super) fn present() -> impl Strategy<Value = i64> {
    prop_oneof![3 => Just(9 * DAY), 1 => moment()]
}

/// Threads, and rows that a morsel is cut at.
pub(super) fn work() -> impl Strategy<Value = (usize, u64)> {
    (1..4_usize, select(vec![1, 1 << 18]))
}

pub(super) fn ask(store: &Store, as_of: i64, (threads, morsel_rows): (usize, u64)) -> Executor {
    Executor::new(store.snapshot().unwrap()).with_options(options(as_of, threads, morsel_rows))
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn sessions_equal_the_judge(
        steps in steps(),
        questions in vec(sessions(), 1..6),
        as_of in present(),
        work in work(),
    ) {
        let Pair { store, model } = play(&steps);
        let executor = ask(&store, as_of, work);
        for sessions in &questions {
            let judged = model.sessions(sessions, as_of).unwrap().rows;
            let found = executor.sessions(sessions).unwrap().rows;
            prop_assert_eq!(&found, &judged, "{:?}", sessions);
            prop_assert_eq!(executor.session_count(sessions).unwrap(), judged.len() as u64);
        }
    }

    #[test]
    fn paths_equal_the_judge(
        steps in steps(),
        questions in vec(paths(), 1..6),
        as_of in present(),
        work in work(),
    ) {
        let Pair { store, model } = play(&steps);
        let executor = ask(&store, as_of, work);
        for paths in &questions {
            let judged = model.paths(paths, as_of).unwrap().rows;
            prop_assert_eq!(executor.paths(paths).unwrap().rows, judged, "{:?}", paths);
        }
    }

    #[test]
    fn trails_equal_the_judge(
        steps in steps(),
        range in range(),
        as_of in present(),
        work in work(),
    ) {
        let Pair { store, model } = play(&steps);
        let executor = ask(&store, as_of, work);
        for user in 0..8 {
            let mut trail = Trail::of(&format!("u{user}"));
            trail.range = range;
            let key = UserKey::from_text(&trail.user);
            let judged = match executor.snapshot().find(key).unwrap() {
                Some(ordinal) => model.trail(ordinal.0, &trail, as_of).unwrap(),
                None => Vec::new(),
            };
            prop_assert_eq!(executor.trail(&trail).unwrap(), judged, "{:?}", trail);
        }
    }
}

/// The question's users, halved: what threads find who share them.
pub(super) fn halves(users: Option<&Segment>) -> [Segment; 2] {
    [0, 1].map(|odd| {
        let half: roaring::RoaringBitmap = (0..8).filter(|user| user % 2 == odd).collect();
        let half = crate::users(half);
        match users {
            Some(users) => half.and(users.clone()),
            None => half,
        }
    })
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn paths_of_halves_of_the_users_add_up(steps in steps(), paths in paths()) {
        let Pair { store, model } = play(&steps);
        let as_of = 9 * DAY;
        let executor = ask(&store, as_of, (1, 1));
        let control = Control::start(executor.options());
        let mut parts = Vec::new();
        for half in halves(paths.users.as_ref()) {
            let half = Paths { users: Some(half), ..paths.clone() };
            parts.extend(executor.walks(&half, &control).unwrap().0);
        }
        let found = super::paths::rows(parts, &control).unwrap();
        prop_assert_eq!(found, model.paths(&paths, as_of).unwrap().rows);
    }
}

/// Users of several morsels, each with some events close together and some apart, in the order of
/// nobody's ordinal.
pub(super) fn crowd() -> Pair {
    let mut pair = play(&[]);
    let (mut batch, mut number) = (BatchBuilder::new(), 1_u32);
    for index in 0..8_000 {
        number = number.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        // Every user arrives once in the order of the ordinals, so that those are known.
        let user = if index < 3_000 {
            index
        } else {
            number >> 8 & 0xfff
        };
        let user = user % 3_000;
        let time = i64::from(number >> 4 & 0xff) * 7 * MINUTE;
        let name = ["view", "cart", "buy"][(number >> 20) as usize % 3];
        let item = Value::I64(i64::from(number >> 12 & 7));
        let row = batch.event(&format!("u{user}"), time, name);
        let _row = row.value("item", &item);
        pair.model.event(user, time, name).property("item", item);
    }
    pair.store.append(batch.finish().unwrap()).unwrap();
    pair
}

#[test]
fn answers_do_not_depend_on_threads() {
    let Pair { store, model } = crowd();
    let sessions = Sessions::new();
    let paths = Paths::new("cart", 2).per(PathPer::Session);
    let judged = (
        model.sessions(&sessions, 9 * DAY).unwrap().rows,
        model.paths(&paths, 9 * DAY).unwrap().rows,
    );
    for threads in 1..4 {
        let executor = ask(&store, 9 * DAY, (threads, 100));
        assert_eq!(executor.sessions(&sessions).unwrap().rows, judged.0);
        assert_eq!(executor.paths(&paths).unwrap().rows, judged.1);
    }
}

/// One user's events: minutes, name, page.
fn one_user(events: &[(i64, &str, &str)]) -> Executor {
    let steps: Vec<Step> = Vec::new();
    let Pair { store, .. } = play(&steps);
    let mut batch = BatchBuilder::new();
    for (minute, name, page) in events {
        let row = batch.event("ann", minute * MINUTE, name);
        let _row = row.value("page", &Value::from(*page));
    }
    store.append(batch.finish().unwrap()).unwrap();
    Executor::new(store.snapshot().unwrap())
}

#[test]
fn half_an_hour_is_inside_a_session_and_more_is_not() {
    let executor = one_user(&[
        (0, "open", "a"),
        (30, "view", "a"),
        (31, "mail", "a"),
        (61, "view", "b"),
    ]);
    let row = |session, started: i64, ended: i64, events| SessionRow {
        user: 0,
        session,
        started: started * MINUTE,
        ended: ended * MINUTE,
        events,
    };
    let rows = |sessions: &Sessions| executor.sessions(sessions).unwrap().rows;
    assert_eq!(rows(&Sessions::new()), [row(1, 0, 61, 4)]);
    // A mail that was sent neither opens a session nor keeps one open.
    let sent = Sessions::new().events(event("mail").not());
    assert_eq!(rows(&sent), [row(1, 0, 30, 2), row(2, 61, 61, 1)]);
    let short = sent.clone().gap(minutes(29));
    assert_eq!(executor.session_count(&short).unwrap(), 3);
    // The numbers are those inside the range.
    assert_eq!(rows(&sent.since(31 * MINUTE)), [row(1, 61, 61, 1)]);
}

#[test]
fn paths_lead_away_from_their_anchor() {
    let executor = one_user(&[
        (0, "view", "a"),
        (1, "view", "a"),
        (2, "cart", "a"),
        (3, "view", "b"),
        (90, "cart", "b"),
        (91, "buy", "c"),
    ]);
    let taken = |paths: Paths| {
        let rows = executor.paths(&paths).unwrap().rows;
        let line = |path: &[Option<String>]| {
            let texts: Vec<&str> = path.iter().flatten().map(String::as_str).collect();
            texts.join(" ")
        };
        rows.iter()
            .map(|row| (line(&row.path), row.users, row.occurrences))
            .collect::<Vec<_>>()
    };
    let path = |path: &str, occurrences| (path.to_owned(), 1, occurrences);
    let carts = || Paths::new("cart", 2);
    assert_eq!(taken(carts()), [path("cart view cart", 1)]);
    let before = carts().direction(PathDirection::Before);
    assert_eq!(taken(before.clone()), [path("cart view view", 1)]);
    assert_eq!(taken(before.collapse()), [path("cart view", 1)]);
    // The second session has only one event after its anchor.
    assert_eq!(
        taken(carts().per(PathPer::Session)),
        [path("cart buy", 1), path("cart view", 1)]
    );
    assert_eq!(
        taken(carts().per(PathPer::Event)),
        [path("cart buy", 1), path("cart view cart", 1)]
    );
    assert_eq!(
        taken(Paths::new("view", 1).per(PathPer::Event)),
        [path("view cart", 2), path("view view", 1)]
    );
    // The cart of a page that was viewed just before is the same stop, and still an anchor.
    let pages = carts().value(property("page")).collapse();
    assert_eq!(taken(pages.clone()), [path("a b c", 1)]);
    assert_eq!(
        taken(pages.per(PathPer::Event)),
        [path("a b c", 1), path("b c", 1)]
    );
}

#[test]
fn a_value_that_is_missing_has_a_place_in_its_path() {
    let executor = one_user(&[(0, "view", "a"), (1, "buy", "b")]);
    let rows = executor
        .paths(&Paths::new("view", 3).value(property("shop")))
        .unwrap()
        .rows;
    assert_eq!(rows[0].path, [None, None]);
}

#[test]
fn an_unknown_id_has_an_empty_trail() {
    let executor = one_user(&[(1, "buy", "b"), (0, "view", "a")]);
    assert_eq!(executor.trail(&Trail::of("nobody")).unwrap(), []);
    let rows = executor.trail(&Trail::of("ann")).unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!((rows[0].time, rows[0].event.as_str()), (0, "view"));
    assert_eq!(rows[1].properties["page"], Value::from("b"));
    let later = executor.trail(&Trail::of("ann").since(1)).unwrap();
    assert_eq!(later, rows[1..]);
}

/// More names than have runs of their own, so that some are read from the overflow run.
#[test]
fn names_without_a_run_of_their_own_are_told_apart() {
    let Pair { store, .. } = play(&[]);
    let names: Vec<String> = (0..10_050).map(|name| format!("name {name}")).collect();
    let mut batch = BatchBuilder::new();
    for (time, name) in (0..).zip(&names) {
        batch.event("ann", time, name);
    }
    store.append(batch.finish().unwrap()).unwrap();
    store.flush().unwrap();
    let executor = Executor::new(store.snapshot().unwrap());
    let runs = executor.snapshot().event_segments()[0].all_runs();
    assert!({ runs }.any(|run| run.is_overflow()));
    let rows = executor.trail(&Trail::of("ann")).unwrap();
    assert!(rows.iter().map(|row| &row.event).eq(&names));
    let paths = Paths::new(any(), 1).per(PathPer::Event);
    let rows = executor.paths(&paths).unwrap().rows;
    let next = |row: &&PathRow| row.path.len() == 2;
    assert_eq!(rows.iter().filter(next).count(), names.len() - 1);
    let last = Paths::new("name 10049", 1).direction(PathDirection::Before);
    let path = executor.paths(&last).unwrap().rows.remove(0).path;
    let expected = ["name 10049", "name 10048"].map(|name| Some(name.to_owned()));
    assert_eq!(path, expected);
}

/// A user with many different paths.
#[test]
fn limits_stop_sequences() {
    let steps: Vec<Step> = Vec::new();
    let Pair { store, .. } = play(&steps);
    let mut batch = BatchBuilder::new();
    for index in 0..20_000_i64 {
        let row = batch.event(&format!("{}", index % 100), index, "view");
        let _row = row.value("page", &Value::I64(index));
    }
    store.append(batch.finish().unwrap()).unwrap();
    let ask = |options: QueryOptions| {
        Executor::new(store.snapshot().unwrap()).with_options(QueryOptions {
            as_of: Some(DAY),
            threads: Some(1),
            ..options
        })
    };
    // All events are gathered in less than this.
    let small = ask(QueryOptions {
        memory_bytes: 5 << 20,
        ..QueryOptions::default()
    });
    let many = Paths::new(any(), 50)
        .per(PathPer::Event)
        .value(property("page"));
    assert!(matches!(
        small.paths(&many),
        Err(QueryError::OutOfMemory { .. })
    ));
    assert_eq!(small.paths(&Paths::new(any(), 50)).unwrap().rows.len(), 1);
    let stopped = ask(QueryOptions::default());
    stopped.options().cancel.cancel();
    let sessions = Sessions::new().gap(micros(0));
    assert!(matches!(
        stopped.sessions(&sessions),
        Err(QueryError::Cancelled)
    ));
    assert!(matches!(
        stopped.trail(&Trail::of("7")),
        Err(QueryError::Cancelled)
    ));
    let ample = ask(QueryOptions::default());
    assert_eq!(ample.session_count(&sessions).unwrap(), 20_000);
    assert_eq!(ample.trail(&Trail::of("7")).unwrap().len(), 200);
    assert_eq!(ample.paths(&many).unwrap().rows.len(), 20_000);
}
