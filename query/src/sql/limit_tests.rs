//! What statements may hold and how they end: one limit of memory, files for what does not fit,
//! deadlines and lost readers.

use std::sync::Weak;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};

use super::tests::Fixture;
use super::watch::Stop;
use crate::exec::MemoryBudget;

/// Waits for what happens on other threads; long enough for any machine that does it at all.
fn soon(what: &str, happened: impl Fn() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Reads an answer, or the first `batches` of it. What the statement held, and who works on it.
fn read(fixture: &Fixture, sql: &str, batches: usize) -> (MemoryBudget, Weak<Stop>) {
    fixture.runtime.block_on(async {
        let answer = fixture.session.sql(sql).await.unwrap();
        let watch = answer.rows.watch();
        let rows = answer.rows.take(batches);
        let _told = rows.try_for_each(|_| async { Ok(()) }).await;
        watch
    })
}

fn given_back(what: &str, (memory, working): &(MemoryBudget, Weak<Stop>)) {
    soon(what, || memory.used() == 0 && working.strong_count() == 0);
}

#[test]
fn all_of_a_statement_has_one_limit_and_gives_it_back() {
    let fixture = Fixture::of_many(20_000);
    fixture.rows("SET memory_limit = '96MB'");
    fixture.rows("SET threads = 3");
    let sql = "SELECT f.users, s.n, e.n FROM funnel('view', 'cart', 'purchase') f, \
               (SELECT count(*) n FROM paths('view', per => 'event')) s, \
               (SELECT count(*) n FROM (SELECT note, count(*) FROM events GROUP BY note)) e";
    let watch = read(&fixture, sql, usize::MAX);
    given_back("an answer", &watch);
    let peak = watch.0.peak();
    assert!((8 << 20..=96 << 20).contains(&peak), "{peak}");
    // Part of an answer.
    given_back("a part", &read(&fixture, "SELECT * FROM events", 1));
    // Less than the events of the paths take while they are gathered, whatever else runs meanwhile.
    fixture.rows("SET memory_limit = '3MB'");
    given_back("a failure", &read(&fixture, sql, usize::MAX));
    assert!(fixture.error(sql).contains("more than its 3 MB of memory"));
}

#[test]
fn refusals_name_the_limit_and_the_setting() {
    let fixture = Fixture::of_many(20_000);
    fixture.rows("SET memory_limit = '3MB'");
    for sql in [
        "SELECT count(*) FROM paths('view', per => 'event')",
        "SELECT count(*) FROM events a JOIN events b ON a.note = b.note",
        "SELECT user_id FROM funnel_users('view', 'cart') ORDER BY 1",
        "SELECT count(*) FROM events WHERE note IN (SELECT note FROM events)",
        "SELECT count(*) FROM users WHERE did(note IN (SELECT note FROM events))",
    ] {
        let error = fixture.error(sql);
        let named =
            error.contains("more than its 3 MB of memory") && error.contains("memory_limit");
        assert!(named, "{sql}: {error}");
    }
    fixture.rows("SET memory_limit = default");
    assert_eq!(
        fixture.rows("SELECT count(DISTINCT note) FROM events"),
        ["80000"]
    );
}

#[test]
fn sorts_and_groups_that_do_not_fit_go_through_files() {
    let fixture = Fixture::of_many(20_000);
    let statements = [
        "SELECT note, user_id FROM events ORDER BY note, user_id",
        "SELECT note, count(*) n, max(time) FROM events GROUP BY note ORDER BY note",
    ];
    let files = tempfile::tempdir().unwrap();
    for sql in statements {
        fixture.rows("SET memory_limit = default");
        let right = fixture.rows(sql);
        fixture.session.change(|settings| {
            settings.memory_bytes = 16 << 20;
            settings.threads = Some(2);
            settings.temp_directory = Some(files.path().to_owned());
        });
        assert!(fixture.rows(sql) == right, "{sql}");
        let explained = fixture.rows(&format!("EXPLAIN ANALYZE {sql}")).join("\n");
        let spilled = explained
            .split("spill_count=")
            .skip(1)
            .any(|rest| !rest.starts_with('0'));
        assert!(spilled, "{explained}");
        fixture.rows("SET spill_limit = '10kB'");
        let error = fixture.error(sql);
        assert!(error.contains("spill_limit"), "{error}");
        fixture.rows("SET spill_limit = default");
    }
    soon("files stay", || {
        std::fs::read_dir(files.path()).unwrap().next().is_none()
    });
}

/// Plans that compute for hours without a pause, or without an end.
const ENDLESS: [&str; 5] = [
    "SELECT count(*) FROM generate_series(1, 300000) a, generate_series(1, 10000000) b \
     WHERE a.value * b.value < 0",
    "SELECT sum(a.value + b.value) FROM generate_series(1, 300000) a, \
     generate_series(1, 10000000) b",
    "SELECT count(*) FROM generate_series(1, 100000) a JOIN generate_series(1, 10000000) b \
     ON a.value % 1 = b.value % 1 AND a.value * b.value < 0",
    "SELECT count(*) FROM generate_series(1, 100000) a LEFT JOIN generate_series(1, 10000000) b \
     ON a.value * b.value < 0",
    "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 - 1 FROM t) SELECT n FROM t \
     WHERE n < 0",
];

#[test]
fn nothing_computes_on_after_the_deadline() {
    let fixture = Fixture::new();
    fixture.rows("SET deadline = '200ms'");
    for sql in ENDLESS {
        let (watch, error) = fixture.runtime.block_on(async {
            let answer = fixture.session.sql(sql).await.unwrap();
            let watch = answer.rows.watch();
            let error = answer.rows.try_collect::<Vec<_>>().await.unwrap_err();
            (watch, error.to_string())
        });
        assert!(error.contains("took longer than its 200 ms"), "{error}");
        given_back(sql, &watch);
    }
}

#[test]
fn nothing_computes_on_for_nobody() {
    let fixture = Fixture::new();
    for sql in ENDLESS {
        let watch = fixture.runtime.block_on(async {
            let answer = fixture.session.sql(sql).await.unwrap();
            let watch = answer.rows.watch();
            let mut rows = answer.rows;
            let some_time = Duration::from_millis(100);
            let _none_in_time = tokio::time::timeout(some_time, rows.next()).await;
            watch
        });
        given_back(sql, &watch);
    }
}

#[test]
fn subqueries_of_conditions_end_with_the_statement() {
    let fixture = Fixture::new();
    fixture.rows("SET deadline = '200ms'");
    let endless = "SELECT count(*) FROM users WHERE did(price IN (SELECT a.value FROM \
                   generate_series(1, 300000) a, generate_series(1, 10000000) b \
                   WHERE a.value * b.value < 0))";
    let error = fixture.error(endless);
    assert!(error.contains("took longer than its 200 ms"), "{error}");
}

#[test]
fn explain_tells_what_is_touched() {
    let fixture = Fixture::of_many(2_000);
    let explain = |sql: &str| fixture.rows(sql).join("\n");
    let plan = explain("EXPLAIN SELECT note FROM events WHERE event = 'cart'");
    assert!(plan.contains("segments=1 of 1, bitmaps=0"), "{plan}");
    let plan = explain("EXPLAIN SELECT note FROM events WHERE event = 'none'");
    assert!(plan.contains("segments=0 of 1, bitmaps=0"), "{plan}");
    let plan = explain("EXPLAIN SELECT user_id FROM users WHERE did('cart')");
    assert!(plan.contains("segments=1 of 1, bitmaps=1"), "{plan}");
    for (sql, segments, told) in [
        (
            "SELECT note FROM events WHERE event = 'cart' AND note > '5'",
            "segments_pruned=0, segments_read=1",
            "bitmaps=0, bytes_read=32.00 K, morsels=1, rows_read=2.00 K",
        ),
        (
            "SELECT note FROM events WHERE time < '2020-01-01'",
            "segments_pruned=1, segments_read=0",
            "bitmaps=0, bytes_read=0, morsels=0, rows_read=0",
        ),
        (
            "SELECT user_id FROM users WHERE did('cart')",
            "segments_pruned=0, segments_read=1",
            "bitmaps=1, bytes_read=0, morsels=1, rows_read=0",
        ),
        (
            "SELECT * FROM sessions()",
            "segments_pruned=0, segments_read=1",
            "bitmaps=0, bytes_read=64.00 K, morsels=1, rows_read=8.00 K",
        ),
        (
            "SELECT event, count(*) FROM events GROUP BY event",
            "segments_pruned=0, segments_read=1",
            // Stretches are short in tests.
            "bitmaps=0, bytes_read=0, morsels=32, rows_read=0",
        ),
    ] {
        let plan = explain(&format!("EXPLAIN ANALYZE {sql}"));
        let all = plan.contains(told) && plan.contains(segments);
        assert!(all && plan.contains("elapsed_compute="), "{sql}: {plan}");
    }
}
