//! Questions in SQL of the real files: those of the typed answers, and others that an unrelated
//! program has answered from the same files (`tests/crosscheck`).

use arrow_cast::display::{ArrayFormatter, FormatOptions};
use futures::TryStreamExt;
use pugmark_engine::Store;
use pugmark_query::sql::{Session, Settings};

/// Asks statements whose present is the last event; each has one row, or several told apart by
/// `;`, of values told apart by blanks.
fn expect(store: &Store, statements: &[(&str, &str)]) {
    let (_, last) = store.stats().unwrap().times.unwrap();
    let mut settings = Settings::default();
    settings.as_of = Some(last);
    let session = Session::new(store.clone()).with_settings(settings);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for (sql, expected) in statements {
        assert_eq!(&runtime.block_on(told(&session, sql)), expected, "{sql}");
    }
}

async fn told(session: &Session, sql: &str) -> String {
    let answer = session.sql(sql).await;
    let answer = answer.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let batches: Vec<_> = answer.rows.try_collect().await.unwrap();
    let options = FormatOptions::default().with_null("-");
    let mut rows = Vec::new();
    for batch in &batches {
        let columns: Vec<_> = (batch.columns().iter())
            .map(|column| ArrayFormatter::try_new(column, &options).unwrap())
            .collect();
        rows.extend((0..batch.num_rows()).map(|row| {
            let cells = columns.iter().map(|column| column.value(row).to_string());
            cells.collect::<Vec<_>>().join(" ")
        }));
    }
    rows.join("; ")
}

pub(super) fn rees46(store: &Store) {
    expect(
        store,
        &[
            ("SELECT count(*) FROM users", "4504"),
            (
                "SELECT event, count(*), count(DISTINCT user_id) FROM events GROUP BY event ORDER BY event",
                "cart 165 111; purchase 214 193; view 17055 4504",
            ),
            (
                "SELECT users FROM funnel('view', 'cart', 'purchase', within => INTERVAL '60 seconds') ORDER BY step",
                "4504; 91; 16",
            ),
            (
                "SELECT users FROM funnel('view', 'cart', 'purchase', within => INTERVAL '5 minutes') ORDER BY step",
                "4504; 110; 54",
            ),
            (
                "SELECT users FROM funnel('view', 'cart', 'purchase', within => INTERVAL '30 minutes') ORDER BY step",
                "4504; 111; 62",
            ),
            (
                "SELECT users FROM funnel('view', 'cart', 'purchase', holding => product_id) WHERE step = 3",
                "61",
            ),
            (
                "SELECT count(*) FROM users WHERE did('cart') AND NOT did('purchase')",
                "49",
            ),
            ("SELECT count(*), sum(events) FROM sessions()", "4518 17434"),
            (
                "SELECT round(sum(price), 2) FROM events WHERE event = 'purchase'",
                "59442.63",
            ),
        ],
    );
}

pub(super) fn online_retail(store: &Store) {
    expect(
        store,
        &[
            (
                "SELECT users FROM funnel('purchase', 'cancel', within => INTERVAL '30 days') ORDER BY step",
                "4339; 1392",
            ),
            // From the last purchase before the first return, half come within a week.
            (
                "SELECT users, median_seconds, p90_seconds FROM funnel('purchase', 'cancel') WHERE step = 2",
                "1508 593790.0 2991120.0",
            ),
            (
                "SELECT floor(epoch / 86400) AS days, count(*) FROM ( \
                   SELECT extract(epoch FROM times[2] - times[1]) AS epoch \
                     FROM funnel_users('purchase', 'cancel') WHERE level = 2) \
                  GROUP BY days ORDER BY days LIMIT 5",
                "0.0 240; 1.0 80; 2.0 74; 3.0 89; 4.0 104",
            ),
            (
                "SELECT x, y, users, round(confidence, 5), round(lift, 4) FROM affinity(item => StockCode, \
                 condition => 'purchase', per => InvoiceNo, top => 4)",
                "22386 85099B 546 0.62687 7.2622; 85099B 22386 546 0.34125 7.2622; \
                 22697 22699 541 0.78292 18.5342; 22699 22697 541 0.69093 18.5342",
            ),
        ],
    );
}

pub(super) fn bpic2012(store: &Store) {
    expect(
        store,
        &[
            (
                "SELECT users FROM funnel('A_SUBMITTED|COMPLETE', 'A_PREACCEPTED|COMPLETE', 'A_ACCEPTED|COMPLETE', \
                 'A_APPROVED|COMPLETE', within => INTERVAL '7 days') ORDER BY step",
                "13087; 7366; 5023; 126",
            ),
            (
                "SELECT count(*), sum(events), max(events), max(session) FROM sessions()",
                "67220 262200 42 63",
            ),
        ],
    );
}

pub(super) fn cdnow(store: &Store) {
    expect(
        store,
        &[
            (
                "SELECT count(*) FROM users WHERE did('purchase', at_least => 3)",
                "7583",
            ),
            (
                "SELECT count(*) FROM users WHERE did('purchase', idle_for => INTERVAL '180 days')",
                "18210",
            ),
            (
                "SELECT date_trunc('month', cohort) = cohort, size, k, users, incomplete \
                   FROM retention('purchase', 'purchase', period => 'month') \
                  WHERE k IN (0, 1, 17) ORDER BY cohort, k",
                "true 7846 0 844 false; true 7846 1 1157 false; true 7846 17 498 true; \
                 true 8476 0 891 false; true 8476 1 1312 false; \
                 true 7248 0 956 false; true 7248 1 1032 false",
            ),
            (
                "SELECT count(*), sum(users) FROM retention('purchase', 'purchase', period => 'month')",
                "51 34500",
            ),
            (
                "SELECT count(*) FROM retention_users('purchase', 'purchase', period => 'month', \
                 cohort => '1997-02-14', k => 16)",
                "551",
            ),
        ],
    );
}
