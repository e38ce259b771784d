//! Statements over a small population whose answers are plain to see.

use std::collections::HashMap;

use futures::TryStreamExt;
use pugmark_engine::{BatchBuilder, Clock, Store, Value};

use super::{Session, Settings, SqlError};

const MINUTE: i64 = 60_000_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// 2025-03-01T00:00:00Z, a Saturday.
const START: i64 = 1_740_787_200_000_000;

pub(super) struct Fixture {
    pub(super) session: Session,
    pub(super) runtime: tokio::runtime::Runtime,
    _directory: tempfile::TempDir,
}

fn view(batch: &mut BatchBuilder, user: &str, at: i64, product: &str, price: f64) {
    add(
        batch,
        user,
        at,
        "view",
        &[
            ("product_id", product.into()),
            ("price", price.into()),
            ("context.page.url", format!("/{product}").into()),
        ],
    );
}

fn add(batch: &mut BatchBuilder, user: &str, at: i64, event: &str, properties: &[(&str, Value)]) {
    let mut row = batch.event(user, START + at, event);
    for (name, value) in properties {
        row = row.value(name, value);
    }
}

impl Fixture {
    /// `users` users with four events each: two that look, one that carts, one that pays, each with
    /// a note of 60 bytes.
    pub(super) fn of_many(users: u32) -> Self {
        let (store, directory) = Self::store();
        let mut batch = BatchBuilder::new();
        for user in 0..users {
            let id = format!("user-{user}");
            for (number, event) in ["view", "view", "cart", "purchase"].into_iter().enumerate() {
                let place = u64::from(user) * 4 + number as u64;
                let note = format!("{:060}", place.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                let at = i64::from(user % 1_000) * MINUTE + number as i64;
                add(&mut batch, &id, at, event, &[("note", note.into())]);
            }
        }
        store.append(batch.finish().unwrap()).unwrap();
        Self::over(store, directory)
    }

    fn store() -> (Store, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::builder(directory.path())
            .options(pugmark_engine::Options {
                clock: Clock::custom(|| START + 30 * DAY),
                ..Default::default()
            })
            .open()
            .unwrap();
        (store, directory)
    }

    pub(super) fn new() -> Self {
        let (store, directory) = Self::store();
        let mut batch = BatchBuilder::new();
        view(&mut batch, "ann", 0, "shoe", 50.0);
        view(&mut batch, "ann", 2 * MINUTE, "hat", 20.0);
        view(&mut batch, "bob", HOUR, "shoe", 50.0);
        view(&mut batch, "cem", 3 * DAY, "hat", 20.0);
        let shoe = ("product_id", Value::from("shoe"));
        add(
            &mut batch,
            "ann",
            5 * MINUTE,
            "cart",
            std::slice::from_ref(&shoe),
        );
        add(
            &mut batch,
            "bob",
            2 * HOUR,
            "cart",
            std::slice::from_ref(&shoe),
        );
        let paid = ("price", Value::from(50.0));
        let name = ("Name", Value::from("first order"));
        add(
            &mut batch,
            "ann",
            10 * MINUTE,
            "purchase",
            &[shoe, paid, name],
        );
        store.append(batch.finish().unwrap()).unwrap();
        store
            .set_traits(
                "ann",
                START,
                [
                    ("plan", "pro".into()),
                    ("age", 30.into()),
                    ("subscribed", true.into()),
                ],
            )
            .unwrap();
        store
            .set_traits(
                "dee",
                START,
                [("plan", "free".into()), ("subscribed", false.into())],
            )
            .unwrap();
        Self::over(store, directory)
    }

    fn over(store: Store, directory: tempfile::TempDir) -> Self {
        Self {
            session: Session::new(store),
            runtime: tokio::runtime::Runtime::new().unwrap(),
            _directory: directory,
        }
    }

    pub(super) fn try_rows(&self, sql: &str) -> Result<Vec<String>, SqlError> {
        self.runtime.block_on(async {
            let answer = self.session.sql(sql).await?;
            let batches: Vec<_> = answer.rows.try_collect().await?;
            let options = datafusion::arrow::util::display::FormatOptions::default();
            let mut rows = Vec::new();
            for batch in &batches {
                let columns: Vec<_> = batch
                    .columns()
                    .iter()
                    .map(|column| {
                        datafusion::arrow::util::display::ArrayFormatter::try_new(column, &options)
                            .unwrap()
                    })
                    .collect();
                for row in 0..batch.num_rows() {
                    let cells: Vec<String> = columns
                        .iter()
                        .map(|column| column.value(row).to_string())
                        .collect();
                    rows.push(cells.join("|"));
                }
            }
            Ok(rows)
        })
    }

    pub(super) fn rows(&self, sql: &str) -> Vec<String> {
        self.try_rows(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    pub(super) fn error(&self, sql: &str) -> String {
        match self.try_rows(sql) {
            Ok(rows) => panic!("{sql}: answered {rows:?}"),
            Err(error) => error.to_string(),
        }
    }
}

#[test]
fn events_and_users_are_tables() {
    let fixture = Fixture::new();
    assert_eq!(fixture.rows("SELECT count(*) FROM events"), ["7"]);
    assert_eq!(
        fixture
            .rows("SELECT event, count(*), sum(price) FROM events GROUP BY event ORDER BY event"),
        ["cart|2|", "purchase|1|50.0", "view|4|140.0"]
    );
    assert_eq!(
        fixture.rows("SELECT user_id, plan, age FROM users ORDER BY user_id"),
        ["ann|pro|30", "bob||", "cem||", "dee|free|"]
    );
    assert_eq!(
        fixture.rows("SELECT user_id, first_seen, last_seen FROM users WHERE user_id IN ('ann', 'dee') ORDER BY 1"),
        ["ann|2025-03-01T00:00:00Z|2025-03-01T00:10:00Z", "dee||"]
    );
    assert_eq!(
        fixture.rows("SELECT user_id, context.page.url FROM events WHERE time >= '2025-03-02'"),
        ["cem|/hat"]
    );
}

#[test]
fn did_is_a_predicate_anywhere() {
    let fixture = Fixture::new();
    assert_eq!(
        fixture.rows("SELECT user_id FROM users WHERE did('cart') AND NOT did('purchase')"),
        ["bob"]
    );
    assert_eq!(
        fixture.rows(
            "SELECT count(*) FROM users WHERE did(event = 'view' AND price > 30, at_least => 1)"
        ),
        ["2"]
    );
    assert_eq!(
        fixture.rows(
            "SELECT user_id, CASE WHEN did('purchase') THEN 'buyer' WHEN did(true) THEN 'guest' ELSE 'none' END kind \
             FROM users ORDER BY 1"
        ),
        ["ann|buyer", "bob|guest", "cem|guest", "dee|none"]
    );
    assert_eq!(
        fixture
            .rows("SELECT * FROM users u WHERE did('view') OR u.plan = 'free' ORDER BY u.user_id"),
        [
            "ann|2025-03-01T00:00:00Z|2025-03-01T00:10:00Z|30|pro|true",
            "bob|2025-03-01T01:00:00Z|2025-03-01T02:00:00Z|||",
            "cem|2025-03-04T00:00:00Z|2025-03-04T00:00:00Z|||",
            "dee||||free|false"
        ]
    );
    assert_eq!(
        fixture.rows(
            "SELECT did('purchase') AS bought, count(*) FROM users GROUP BY did('purchase') ORDER BY 1"
        ),
        ["false|3", "true|1"]
    );
    assert_eq!(
        fixture.rows(
            "SELECT u.user_id, count(*) FROM users u JOIN events e ON e.user_id = u.user_id \
             WHERE did('cart') GROUP BY 1 ORDER BY 1"
        ),
        ["ann|4", "bob|2"]
    );
    assert_eq!(
        fixture.rows("SELECT user_id FROM users WHERE did('view', sum(price) > 60)"),
        ["ann"]
    );
    assert_eq!(
        fixture.rows(
            "SELECT user_id FROM users WHERE did('cart', not_then => 'purchase', then_within => INTERVAL '1 hour', holding => product_id)"
        ),
        ["bob"]
    );
    assert_eq!(
        fixture.rows(
            "SELECT user_id FROM users WHERE did(event = 'view' AND product_id IN (SELECT product_id FROM events WHERE event = 'purchase')) ORDER BY 1"
        ),
        ["ann", "bob"]
    );
}

#[test]
fn questions_are_tables() {
    let fixture = Fixture::new();
    assert_eq!(
        fixture.rows(
            "SELECT step, name, users, from_start FROM funnel(step(event = 'view'), step('cart'), step('purchase'), within => INTERVAL '30 minutes', holding => product_id)"
        ),
        ["1|view|3|1.0", "2|cart|1|0.3333333333333333", "3|purchase|1|0.3333333333333333"]
    );
    assert_eq!(
        fixture.rows("SELECT user_id, level, product_id FROM funnel_users('view', 'cart', values => product_id) WHERE level = 2 ORDER BY 1"),
        ["ann|2|[hat, shoe]", "bob|2|[shoe, shoe]"]
    );
    assert_eq!(
        fixture.rows("SELECT count(*), sum(events) FROM sessions(gap => INTERVAL '30 minutes')"),
        ["4|7"]
    );
    assert_eq!(
        fixture.rows("SELECT event, properties FROM trail('bob')"),
        [
            "view|{\"context.page.url\":\"/shoe\",\"price\":50.0,\"product_id\":\"shoe\"}",
            "cart|{\"product_id\":\"shoe\"}"
        ]
    );
    assert_eq!(
        fixture.rows(
            "SELECT u.plan, f.level FROM funnel_users('view', 'cart') f JOIN users u USING (user_id) WHERE plan IS NOT NULL"
        ),
        ["pro|2"]
    );
    for call in [
        "retention('view', 'purchase', period => 'week')",
        "paths('view', steps => 2)",
        "attribution('purchase', 'view', by => product_id)",
        "attribution_users('purchase', 'view', by => product_id)",
        "experiment('view', variant => product_id, goal => 'purchase')",
        "experiment_users('view', variant => product_id, goal => 'purchase')",
        "affinity(item => product_id)",
        "lifecycle(period => 'day')",
        "stickiness()",
        "rfm('purchase', value => price)",
        "funnel_times('view', 'cart', bins => 3)",
        "retention_users('view', 'purchase', cohort => '2025-03-01', k => 0, period => 'day')",
    ] {
        assert!(
            !fixture.rows(&format!("SELECT * FROM {call}")).is_empty(),
            "{call}"
        );
    }
}

#[test]
fn errors_name_the_place_and_the_nearest_name() {
    let fixture = Fixture::new();
    let errors = [
        (
            "SELECT count(*)\nFROM users WHERE did(prce > 3)",
            "line 2, column 22: ",
            "did you mean `price`",
        ),
        (
            "SELECT * FROM funnel('view', 'cart', withn => INTERVAL '1 day')",
            "line 1, column 38: ",
            "did you mean `within`",
        ),
        (
            "SELECT * FROM users WHERE did('view', at_least => 0)",
            "line 1, column 27: ",
            "NOT did",
        ),
        (
            "SELECT * FROM funnel()",
            "line 1, column 15: ",
            "give steps",
        ),
        (
            "SELECT * FROM events WHERE did('view')",
            "line 1, column 28: ",
            "put `users` into this FROM",
        ),
        (
            "SELECT nothing FROM events",
            "line 1, column 8: ",
            "nothing",
        ),
        ("SELEC 1", "line 1, column 1", ""),
        ("DROP TABLE events", "", "only queries"),
        (
            "SELECT * FROM retention('view', 'view', period => 'year')",
            "line 1, column ",
            "'month'",
        ),
    ];
    for (sql, place, hint) in errors {
        let error = fixture.error(sql);
        assert!(
            error.starts_with(place) && error.contains(hint),
            "{sql}: {error}"
        );
    }
}

#[test]
fn the_present_can_be_set() {
    let fixture = Fixture::new();
    fixture.rows("SET as_of = '2025-03-01T00:06:00Z'");
    assert_eq!(fixture.rows("SELECT count(*) FROM events"), ["3"]);
    assert_eq!(fixture.rows("SELECT now()"), ["2025-03-01T00:06:00Z"]);
    assert_eq!(
        fixture.rows("SELECT user_id FROM users WHERE did(true)"),
        ["ann"]
    );
    let session = Settings::default().zone("Europe/Berlin").unwrap();
    assert_eq!(session.zone_name(), "Europe/Berlin");
    fixture.rows("SET as_of = default");
    fixture.rows("SET time_zone = 'Europe/Berlin'");
    assert_eq!(
        fixture.rows("SELECT DISTINCT date_trunc('day', time) FROM events ORDER BY 1 LIMIT 1"),
        ["2025-03-01T00:00:00+01:00"]
    );
}

/// Plain SQL that asks who did something gives the same with and without bitmaps.
#[test]
fn sessions_come_in_pieces_of_users() {
    let (store, directory) = Fixture::store();
    let mut batch = BatchBuilder::new();
    // Three containers of users; every third user has a second session.
    let users = 2 * 65_536 + 10;
    for user in 0..users {
        view(&mut batch, &user.to_string(), 0, "shoe", 1.0);
        if user % 3 == 0 {
            view(&mut batch, &user.to_string(), HOUR, "shoe", 1.0);
        }
    }
    store.append(batch.finish().unwrap()).unwrap();
    let fixture = Fixture::over(store, directory);
    let asked = "FROM sessions(gap => INTERVAL '30 minutes')";
    let again = (users + 2) / 3;
    assert_eq!(
        fixture.rows(&format!(
            "SELECT count(*), count(DISTINCT user_id), sum(session - 1), sum(events) {asked}"
        )),
        [format!(
            "{}|{users}|{again}|{}",
            users + again,
            users + again
        )]
    );
    let some = fixture.rows(&format!("SELECT * {asked} LIMIT 70000"));
    assert_eq!(some.len(), 70_000);
    let rows = fixture.rows(&format!(
        "SELECT user_id, session, CAST(ended AS BIGINT) - CAST(started AS BIGINT) AS long, events {asked}"
    ));
    // Pieces come in any order, but a user's sessions together and in order.
    let expected = (0..users).flat_map(|user| {
        let sessions = if user % 3 == 0 { 2 } else { 1 };
        (1..=sessions).map(move |session| format!("{user}|{session}|0|1"))
    });
    let places: HashMap<&str, usize> = rows.iter().map(String::as_str).zip(0..).collect();
    assert_eq!(rows.len(), places.len());
    let mut before = None;
    for row in expected {
        let place = places.get(row.as_str()).copied();
        assert!(place.is_some(), "{row}");
        if row.contains("|2|") {
            assert_eq!(place, before.map(|before: usize| before + 1), "{row}");
        }
        before = place;
    }
}

#[test]
fn idioms_mean_what_they_say() {
    let fixture = Fixture::new();
    let statements = [
        (
            "SELECT user_id FROM users WHERE user_id IN (SELECT user_id FROM events WHERE event = 'cart') ORDER BY 1",
            true,
        ),
        (
            "SELECT user_id FROM users WHERE user_id NOT IN (SELECT e.user_id FROM events e WHERE e.price > 30 OR event = 'cart') ORDER BY 1",
            true,
        ),
        (
            "SELECT user_id FROM users WHERE user_id IN (SELECT user_id FROM events WHERE event = 'view' GROUP BY user_id HAVING count(*) >= 2)",
            true,
        ),
        (
            "SELECT count(*) FROM users u WHERE EXISTS (SELECT 1 FROM events e WHERE e.user_id = u.user_id AND e.event = 'view' AND e.time < '2025-03-02')",
            true,
        ),
        (
            "SELECT u.user_id FROM users u WHERE plan = 'pro' OR NOT EXISTS (SELECT * FROM events WHERE events.user_id = u.user_id) ORDER BY 1",
            true,
        ),
        (
            "SELECT count(DISTINCT user_id) FROM events WHERE event = 'view'",
            true,
        ),
        (
            "SELECT count(DISTINCT user_id) AS viewers FROM events",
            true,
        ),
        (
            "SELECT DISTINCT user_id FROM events WHERE price < 30 ORDER BY user_id",
            true,
        ),
        (
            "SELECT user_id FROM events WHERE event = 'view' EXCEPT SELECT user_id FROM events WHERE event = 'purchase' ORDER BY 1",
            true,
        ),
        (
            "SELECT user_id FROM events WHERE event = 'view' INTERSECT (SELECT user_id FROM events WHERE event = 'cart' UNION SELECT user_id FROM events WHERE price = 20) ORDER BY 1",
            true,
        ),
        (
            "SELECT user_id FROM users WHERE user_id IN (SELECT user_id FROM events WHERE length(event) > 5)",
            false,
        ),
        (
            "SELECT user_id FROM users WHERE user_id IN (SELECT user_id FROM events GROUP BY user_id HAVING sum(price) > 60)",
            false,
        ),
        (
            "SELECT count(DISTINCT user_id) FROM events WHERE price > '30'",
            false,
        ),
        (
            "SELECT DISTINCT e.user_id FROM events e WHERE e.event = 'view' ORDER BY e.user_id",
            false,
        ),
        (
            "SELECT o.c, (SELECT count(DISTINCT e.user_id) FROM events e WHERE e.event = o.c) AS n FROM (VALUES ('view')) o(c)",
            false,
        ),
        (
            "WITH events AS (SELECT 'ann' AS user_id) SELECT user_id FROM users WHERE user_id IN (SELECT user_id FROM events)",
            false,
        ),
    ];
    for (sql, recognised) in statements {
        let explained = fixture.rows(&format!("EXPLAIN {sql}")).join("\n");
        assert_eq!(explained.contains("did("), recognised, "{explained}");
        let fast = fixture.rows(sql);
        fixture
            .session
            .change(|settings| settings.shortcuts = false);
        let slow = fixture.rows(sql);
        fixture.session.change(|settings| settings.shortcuts = true);
        assert_eq!(fast, slow, "{sql}");
        assert!(!fast.is_empty(), "{sql}");
    }
    // These ask of another id than that of the events, or of the users in reach. DataFusion has no
    // plan for them; a `did` in their place would answer something else.
    for other in [
        "SELECT user_id FROM users u WHERE u.user_id IN (SELECT u.user_id FROM events e)",
        "SELECT o.user_id FROM (VALUES ('ann'), ('zoe')) o(user_id) WHERE EXISTS \
         (SELECT 1 FROM users u WHERE o.user_id IN (SELECT user_id FROM events))",
    ] {
        fixture.error(other);
    }
}

#[test]
fn names_need_no_quotes() {
    let fixture = Fixture::new();
    assert_eq!(
        fixture.rows("SELECT e.context.page.url, Product_Id FROM events e WHERE e.Context.Page.URL = '/hat' ORDER BY time"),
        ["/hat|hat", "/hat|hat"]
    );
}

#[test]
fn events_that_never_were_are_remarked_on() {
    let fixture = Fixture::new();
    let remarks = fixture.runtime.block_on(async {
        let answer = fixture
            .session
            .sql("SELECT count(*) FROM users WHERE did('purchse')")
            .await;
        answer.unwrap().rows.remarks()
    });
    assert_eq!(
        remarks,
        ["no event is named `purchse`; did you mean `purchase`?"]
    );
}

/// Aggregates answered from bitmaps and run lengths equal those that DataFusion makes of rows.
#[test]
fn groups_equal_aggregates_of_rows() {
    let fixture = Fixture::new();
    let statements = [
        (
            "SELECT event, count(*), count(DISTINCT user_id), min(time), max(time), sum(price) FROM events GROUP BY event ORDER BY 1",
            true,
        ),
        (
            "SELECT date_trunc('day', time) AS day, count(DISTINCT e.user_id) FROM events e WHERE e.event = 'view' GROUP BY 1 ORDER BY 1",
            true,
        ),
        (
            "SELECT date_trunc('week', time), event, count(*) n FROM events GROUP BY 1, 2 HAVING count(*) > 1 ORDER BY 1, 2",
            true,
        ),
        (
            "SELECT count(*), max(time) FROM events WHERE price > 30 AND time < '2025-03-02'",
            true,
        ),
        (
            "SELECT count(*), min(time), sum(price) FROM events WHERE event = 'none'",
            true,
        ),
        (
            "SELECT date_trunc('hour', time) AS hour, sum(price) + 1 FROM events GROUP BY 1 ORDER BY 1",
            true,
        ),
        (
            "SELECT n, count(*) FROM (SELECT user_id, count(*) AS n FROM events GROUP BY user_id) GROUP BY n ORDER BY n",
            false,
        ),
        (
            "SELECT event, count(price) FROM events GROUP BY event ORDER BY 1",
            true,
        ),
        (
            "SELECT event, count(*) FILTER (WHERE price > 30) FROM events GROUP BY event ORDER BY 1",
            false,
        ),
        (
            "SELECT product_id, count(*) FROM events GROUP BY 1 ORDER BY 1",
            true,
        ),
        (
            "SELECT product_id, event, count(*), avg(price), min(price), max(price), count(price), sum(price) \
               FROM events WHERE price IS NULL OR price > 1 GROUP BY 1, 2 ORDER BY 1, 2",
            true,
        ),
        (
            "SELECT avg(price), min(price), max(price), count(price), count(*) FROM events WHERE event = 'nobody'",
            true,
        ),
        (
            "SELECT date_trunc('day', time), count(DISTINCT user_id) FROM events GROUP BY 1 ORDER BY 1",
            true,
        ),
        (
            "SELECT event, max(time), count(DISTINCT user_id), avg(price) FROM events \
              WHERE time >= TIMESTAMP '2024-01-01T00:00:00Z' GROUP BY 1 ORDER BY 1",
            true,
        ),
        (
            "SELECT date_bin(INTERVAL '3 days', time), count(*) FROM events GROUP BY 1 ORDER BY 1",
            false,
        ),
        (
            "SELECT date_bin(INTERVAL '1 day', time), count(DISTINCT user_id), max(time) FROM events GROUP BY 1 ORDER BY 1",
            true,
        ),
        (
            "SELECT date_bin(INTERVAL '60 minutes', time), event, count(*) FROM events GROUP BY 1, 2 ORDER BY 1, 2",
            true,
        ),
        (
            "SELECT event, avg(price), sum(price), max(price), count(price) FROM events WHERE event = 'nobody' GROUP BY event",
            true,
        ),
        (
            "SELECT event, avg(CAST(price AS BIGINT)) FROM events GROUP BY 1 ORDER BY 1",
            false,
        ),
        (
            "SELECT event, avg(CAST(price AS REAL)) FROM events GROUP BY 1 ORDER BY 1",
            false,
        ),
        (
            "SELECT product_id, count(DISTINCT user_id) FROM events GROUP BY 1 ORDER BY 1",
            true,
        ),
        (
            "SELECT count(*), product_id p, count(DISTINCT user_id) u FROM events WHERE price > 1 GROUP BY 2 HAVING count(*) > 1 ORDER BY u, p",
            true,
        ),
        (
            "SELECT product_id, count(DISTINCT user_id), sum(price) FROM events GROUP BY 1 ORDER BY 1",
            false,
        ),
        (
            "SELECT product_id, event, count(DISTINCT user_id) FROM events GROUP BY 1, 2 ORDER BY 1, 2",
            false,
        ),
    ];
    for (sql, recognised) in statements {
        let explained = fixture.rows(&format!("EXPLAIN {sql}")).join("\n");
        assert_eq!(
            explained.contains("PugmarkExec: counts of"),
            recognised,
            "{explained}"
        );
        let fast = fixture.rows(sql);
        fixture
            .session
            .change(|settings| settings.shortcuts = false);
        let slow = fixture.rows(sql);
        fixture.session.change(|settings| settings.shortcuts = true);
        assert_eq!(fast, slow, "{sql}");
    }
}

/// The first rows in an order are those of all rows in this order; what the scan leaves out on the
/// way is nobody's.
#[test]
fn late_filters_leave_out_what_nobody_wants() {
    let fixture = Fixture::of_many(12_000);
    let ordered = [
        "SELECT user_id, note FROM events ORDER BY note DESC",
        "SELECT user_id FROM events WHERE event = 'view' ORDER BY time DESC, user_id",
        "SELECT user_id, time, event FROM events ORDER BY event, time, user_id",
        "SELECT user_id, note FROM events ORDER BY user_id, note",
        "SELECT note FROM events WHERE date_part('microsecond', time) % 2 = 0 ORDER BY substr(note, 50), note",
    ];
    for sql in ordered {
        let first = format!("{sql} LIMIT 7");
        let explained = fixture.rows(&format!("EXPLAIN {first}")).join("\n");
        assert!(explained.contains("late filters=1"), "{explained}");
        let all = fixture.rows(sql);
        assert_eq!(fixture.rows(&first), all[..7], "{sql}");
    }
    // A filter must not come before the one that guards it, nor meet the other side of a join.
    let guarded = "SELECT note FROM events WHERE CAST(date_part('microsecond', time) AS BIGINT) % 4 <> 0 \
                   ORDER BY 100 / (CAST(date_part('microsecond', time) AS BIGINT) % 4), note";
    assert_eq!(
        fixture.rows(&format!("{guarded} LIMIT 3")),
        fixture.rows(guarded)[..3]
    );
    let sides = "SELECT p.time, v.time, upper(v.note) FROM events p JOIN events v ON p.user_id = v.user_id \
                 WHERE p.event = 'purchase' AND v.event = 'view' ORDER BY p.time, v.time, 3";
    let explained = fixture.rows(&format!("EXPLAIN {sides} LIMIT 5")).join("\n");
    assert!(!explained.contains("late filters"), "{explained}");
    assert_eq!(
        fixture.rows(&format!("{sides} LIMIT 5")),
        fixture.rows(sides)[..5]
    );
    let joined = "SELECT count(*) FROM events e JOIN (SELECT note FROM events WHERE user_id = 'user-77') n \
                  ON e.note = n.note";
    assert_eq!(fixture.rows(joined), ["4"]);
}

/// Users counted in bitmaps are as many as the rows that DataFusion counts.
#[test]
fn users_are_counted_in_bitmaps() {
    let fixture = Fixture::new();
    let statements = [
        ("SELECT count(*) FROM users", true),
        (
            "SELECT count(*), count(user_id), count(DISTINCT user_id) FROM users WHERE did('view')",
            true,
        ),
        (
            "SELECT count(*) + 1 AS more FROM users u WHERE NOT did('purchase') AND plan = 'pro'",
            true,
        ),
        (
            "SELECT count(*) FROM users WHERE did('view') AND user_id IN ('ann', 'nobody')",
            true,
        ),
        (
            "SELECT count(*) FROM (SELECT user_id FROM users WHERE did('view')) WHERE true",
            false,
        ),
        (
            "SELECT count(*) FROM users WHERE first_seen > '2025-03-01'",
            false,
        ),
        ("SELECT count(plan) FROM users WHERE did('view')", false),
        (
            "SELECT count(*) FILTER (WHERE plan = 'pro') FROM users",
            false,
        ),
        (
            "SELECT plan, count(*) FROM users GROUP BY plan ORDER BY plan",
            false,
        ),
        ("SELECT count(*) FROM (SELECT * FROM users LIMIT 1)", false),
        (
            "SELECT (SELECT count(*) FROM users WHERE did('cart')) * 2",
            true,
        ),
        ("SELECT count(*) FROM users HAVING count(*) > 1000", true),
    ];
    for (sql, recognised) in statements {
        let explained = fixture.rows(&format!("EXPLAIN {sql}")).join("\n");
        let counted = explained.contains("count of users");
        assert_eq!(counted, recognised, "{explained}");
        let fast = fixture.rows(sql);
        fixture
            .session
            .change(|settings| settings.shortcuts = false);
        let slow = fixture.rows(sql);
        fixture.session.change(|settings| settings.shortcuts = true);
        assert_eq!(fast, slow, "{sql}");
    }
}

#[test]
fn truth_is_of_three_values() {
    let fixture = Fixture::new();
    assert_eq!(
        fixture.rows("SELECT user_id FROM users WHERE NOT subscribed"),
        ["dee"]
    );
    assert_eq!(
        fixture.rows("SELECT user_id FROM users WHERE plan <> 'pro'"),
        ["dee"]
    );
    assert_eq!(
        fixture
            .rows("SELECT user_id FROM users WHERE NOT (plan = 'pro' AND did('cart'))  ORDER BY 1"),
        ["cem", "dee"]
    );
    assert_eq!(
        fixture.rows("SELECT users FROM funnel(true, users => NOT (users.plan = 'free'))"),
        ["1"]
    );
}

#[test]
fn names_of_the_statement_come_first() {
    let fixture = Fixture::new();
    assert_eq!(
        fixture.rows("SELECT name FROM funnel('view', 'cart') f WHERE f.name = 'cart'"),
        ["cart"]
    );
    assert_eq!(
        fixture
            .rows("SELECT event, count(*) AS name FROM events GROUP BY event ORDER BY name, event"),
        ["purchase|1", "cart|2", "view|4"]
    );
    assert_eq!(
        fixture.rows("WITH t AS (SELECT max(price) AS name FROM events) SELECT name FROM t"),
        ["50.0"]
    );
    assert_eq!(
        fixture.rows("SELECT name FROM events WHERE name IS NOT NULL"),
        ["first order"]
    );
    assert_eq!(
        fixture.rows("WITH users AS (SELECT * FROM users WHERE did('cart')) SELECT user_id FROM users ORDER BY 1"),
        ["ann", "bob"]
    );
    let headers = fixture.runtime.block_on(async {
        let sql = "SELECT did('view'), count(DISTINCT user_id) FROM users GROUP BY did('view')";
        let answer = fixture.session.sql(sql).await.unwrap();
        answer.schema.field(0).name().clone()
    });
    assert_eq!(headers, "did('view')");
}

#[test]
fn what_has_no_meaning_is_refused() {
    let fixture = Fixture::new();
    for (call, what) in [
        ("did('view', sum(DISTINCT price) > 1)", "DISTINCT"),
        ("did('view') FILTER (WHERE true)", "FILTER"),
        ("did('view', sum(price) || 'x')", "is no test"),
    ] {
        let error = fixture.error(&format!("SELECT count(*) FROM users WHERE {call}"));
        assert!(
            error.starts_with("line 1, column ") && error.contains(what),
            "{call}: {error}"
        );
    }
}

#[test]
fn a_call_has_its_own_present() {
    let fixture = Fixture::new();
    let recent = "event = 'view' AND time > now() - INTERVAL '1 hour'";
    let sql = format!("SELECT users FROM funnel(step({recent}), as_of => '2025-03-01T00:30:00Z')");
    assert_eq!(fixture.rows(&sql), ["1"]);
    let trail = "SELECT count(*) FROM trail('bob', users => did('purchase'))";
    assert_eq!(fixture.rows(trail), ["0"]);
}

#[test]
fn long_chains_are_answered_or_refused() {
    let fixture = Fixture::new();
    let chain = |links: usize| {
        let parts: Vec<String> = (0..links / 2).map(|n| format!("price > {n}")).collect();
        parts.join(" OR ")
    };
    let statements = |links| {
        [
            format!("SELECT count(*) FROM users WHERE did({})", chain(links)),
            format!("SELECT count(*) FROM events WHERE {}", chain(links)),
            format!(
                "SELECT count(*) FROM events WHERE length(event) > 1 AND ({})",
                chain(links)
            ),
        ]
    };
    for sql in statements(560) {
        assert_eq!(fixture.rows(&sql).len(), 1);
    }
    for sql in statements(5_000) {
        assert!(fixture.error(&sql).contains("chains more than"));
    }
    let tables: Vec<String> = (0..100).map(|n| format!("users u{n}")).collect();
    let error = fixture.error(&format!("SELECT 1 FROM {}", tables.join(", ")));
    assert!(error.contains("more than 64 tables"), "{error}");
}

#[test]
fn rows_become_events() {
    let fixture = Fixture::new();
    let sql = "INSERT INTO events (user_id, time, event, price, gift, tags) \
        SELECT user_id, time + INTERVAL '1 day', 'return', -price, true, make_array('a', product_id) \
          FROM events WHERE event = 'purchase'";
    assert_eq!(fixture.rows(sql), ["1|0"]);
    let sql = "SELECT user_id, price, gift, tags FROM events WHERE event = 'return'";
    assert_eq!(fixture.rows(sql), ["ann|-50.0|true|[a, shoe]"]);
    // Ids as numbers, times as text, columns by the names of the query.
    let sql = "INSERT INTO events SELECT 7 AS user_id, '2024-01-02T03:04:05Z' AS time, 'call' AS event, NULL AS price";
    assert_eq!(fixture.rows(sql), ["1|0"]);
    let sql = "SELECT user_id, time, price FROM events WHERE event = 'call'";
    assert_eq!(fixture.rows(sql), ["7|2024-01-02T03:04:05Z|"]);
    assert_eq!(
        fixture.rows("SELECT user_id FROM users WHERE did('call')"),
        ["7"]
    );
}

#[test]
fn messages_are_inserted_once() {
    let fixture = Fixture::new();
    let sql = "INSERT INTO events (user_id, time, event, message_id) \
        VALUES ('ann', TIMESTAMP '2024-01-05', 'call', 'm1'), ('bob', TIMESTAMP '2024-01-05', 'call', 'm2')";
    assert_eq!(fixture.rows(sql), ["2|0"]);
    assert_eq!(fixture.rows(sql), ["0|2"]);
    assert_eq!(
        fixture.rows("SELECT count(*) FROM events WHERE event = 'call'"),
        ["2"]
    );
}

#[test]
fn an_insert_with_a_wrong_row_stores_nothing() {
    let fixture = Fixture::new();
    let refused = [
        (
            "INSERT INTO events (user_id, time, event) VALUES ('ann', now(), 'call'), (NULL, now(), 'call')",
            "row 2: `user_id` is null; nothing was stored",
        ),
        (
            "INSERT INTO events (user_id, time, event) VALUES ('ann', 'noon', 'call')",
            "which is no point in time",
        ),
        (
            "INSERT INTO events (user_id, time, event) VALUES ('', now(), 'call')",
            "nothing was stored",
        ),
        (
            "INSERT INTO events (user_id, time) VALUES ('ann', now())",
            "needs a column `event`",
        ),
        (
            "INSERT INTO events (user_id, time, event) SELECT 'ann', now()",
            "names 3 columns, its query has 2",
        ),
        (
            "INSERT INTO events (user_id, time, event, x) SELECT 'ann', now(), 'call', INTERVAL '1 day'",
            "`x` is of type",
        ),
        (
            "INSERT INTO users (user_id) VALUES ('ann')",
            "only `events` takes rows",
        ),
        (
            "INSERT INTO events (user_id, time, event) VALUES ('ann', now(), 'call') RETURNING *",
            "and nothing else",
        ),
    ];
    for (sql, told) in refused {
        let error = fixture.error(sql);
        assert!(error.contains(told), "{sql}: {error}");
    }
    assert_eq!(fixture.rows("SELECT count(*) FROM events"), ["7"]);
    let (store, directory) = Fixture::store();
    drop(store);
    let reader = Store::builder(directory.path()).read_only().open().unwrap();
    let reader = Fixture::over(reader, directory);
    let error =
        reader.error("INSERT INTO events SELECT 'ann' AS user_id, now() AS time, 'x' AS event");
    assert!(error.contains("open for reading only"), "{error}");
}
