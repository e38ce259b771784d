"""The real files, how both sides read them, and what is asked of them."""

from dataclasses import dataclass, field

import shapes


@dataclass
class Source:
    name: str
    file: str
    options: list
    as_of: str
    table: str
    # Name, the question in Pugmark's SQL, and in DuckDB's.
    questions: list = field(default_factory=list)


def table(columns, read):
    """Events in total order, those of the file's rows that name a user."""
    return f"""
        CREATE TABLE raw AS SELECT row_number() OVER () AS seq, * FROM {read};
        CREATE TABLE named AS SELECT seq, {columns} FROM raw;
        CREATE TABLE events AS SELECT row_number() OVER (ORDER BY user_id, time, seq) AS ord, *
          FROM named WHERE user_id IS NOT NULL AND user_id <> ''"""


CSV = "read_csv('{file}', all_varchar = true, header = true)"
SHOP = table(
    "user_id, substr(event_time, 1, 19)::TIMESTAMP AS time, event_type AS event, product_id::BIGINT AS "
    "product_id, category_code, brand, price::DOUBLE AS price, user_session", CSV)
SHOP_OPTIONS = ["--user", "user_id", "--time", "event_time", "--event", "event_type"]

VIEW, CART, PURCHASE, CANCEL = (f"event = '{name}'" for name in ("view", "cart", "purchase", "cancel"))


def same(name, sql):
    """A question that both sides are asked in the same words."""
    return (name, sql, sql)


def segment(name, predicate, sql):
    """Who a predicate holds for, and the same in SQL that gives user_id."""
    return (name, f"SELECT user_id FROM users WHERE {predicate}", sql)


def having(condition, test):
    return f"SELECT user_id FROM events WHERE {condition} GROUP BY user_id HAVING {test}"


DAILY = same("unique users by day",
             "SELECT date_trunc('day', time) AS day, count(*) AS events, count(DISTINCT user_id) AS users "
             "FROM events GROUP BY 1")
NAMES = same("events and users by name",
             "SELECT event, count(*) AS events, count(DISTINCT user_id) AS users, min(time) AS first, max(time) AS last "
             "FROM events GROUP BY event")


def shop_funnels():
    steps = [VIEW, CART, PURCHASE]
    ask = "SELECT step, users FROM funnel('view', 'cart', 'purchase'"
    found = [(f"funnel within {span}", f"{ask}, within => INTERVAL '{span}')", shapes.funnel(steps, span))
             for span in ("60 seconds", "5 minutes", "30 minutes")]
    nothing = shapes.none_between("event = 'view'")
    return [
        *found,
        ("funnel", f"{ask})", shapes.funnel(steps)),
        ("funnel of one product", f"{ask}, holding => product_id)", shapes.funnel(steps, holding="product_id")),
        ("strict funnel", f"{ask}, mode => 'strict')", shapes.funnel(steps, gap=shapes.NEIGHBOURS)),
        ("funnel without views between", f"{ask}, exclude => 'view', after_step => 1, before_step => 3)",
         shapes.funnel(steps, gap=nothing)),
        ("funnel from the first view", "SELECT step, users FROM funnel('view', 'purchase', entries => 'first', "
         "within => INTERVAL '10 minutes')",
         shapes.funnel([VIEW, PURCHASE], "10 minutes", also="s1.ord IN (SELECT min(ord) FROM events WHERE "
                       "event = 'view' GROUP BY user_id)")),
        ("funnel in any order", "SELECT step, users FROM funnel('cart', 'purchase', mode => 'any_order', "
         "within => INTERVAL '2 minutes')", shapes.any_order(CART, PURCHASE, 120)),
        ("times of a funnel", "SELECT users, median_seconds, mean_seconds, p90_seconds FROM "
         "funnel('view', 'purchase', within => INTERVAL '1 hour') WHERE step = 2",
         shapes.funnel_times(VIEW, PURCHASE, "1 hour")),
        ("reported chains", "SELECT user_id, times[1] AS seen, times[2] AS bought FROM "
         "funnel_users('view', 'purchase', within => INTERVAL '1 hour') WHERE level = 2",
         f"SELECT user_id, t1, t2 FROM ({shapes.reported(VIEW, PURCHASE, '1 hour')})"),
        ("funnel by the hour", "SELECT bucket, step, users FROM funnel('view', 'purchase', "
         "within => INTERVAL '20 minutes', bucket => 'hour') WHERE users > 0",
         shapes.buckets(VIEW, PURCHASE, "20 minutes", "hour")),
        ("funnel by the product's brand", "SELECT by, users FROM funnel('view', 'purchase', by => brand, "
         "within => INTERVAL '1 hour') WHERE step = 2 AND users > 0",
         f"SELECT coalesce(brand, '(none)'), count(*) FROM ({shapes.reported(VIEW, PURCHASE, '1 hour')}) r "
         "JOIN events e ON e.ord = r.o1 GROUP BY 1"),
    ]


def shop_segments():
    return [
        segment("carted and did not buy", "did('cart') AND NOT did('purchase')",
                "SELECT user_id FROM events WHERE event = 'cart' EXCEPT SELECT user_id FROM events WHERE event = 'purchase'"),
        segment("saw five things", "did('view', at_least => 5, at_most => 7)",
                having(VIEW, "count(*) BETWEEN 5 AND 7")),
        segment("saw three brands", "did('view', count_distinct(brand) >= 3)", having(VIEW, "count(DISTINCT brand) >= 3")),
        segment("spent 500", "did('purchase', sum(price) > 500)", having(PURCHASE, "sum(price) > 500")),
        segment("spent 100 on average", "did('purchase', avg(price) < 100)", having(PURCHASE, "avg(price) < 100")),
        segment("phones", "did(event = 'view' AND category_code LIKE 'electronics.%' AND price > 800)",
                having("event = 'view' AND category_code LIKE 'electronics.%' AND price > 800", "true")),
        segment("no brand", "did(event = 'view' AND brand IS NULL) AND NOT did(brand = 'samsung')",
                "SELECT user_id FROM events WHERE event = 'view' AND brand IS NULL EXCEPT "
                "SELECT user_id FROM events WHERE brand = 'samsung'"),
        segment("in an hour for the first time", "did('view', first_time => true, since => '2019-10-01T01:00:00Z', "
                "until => '2019-10-01T02:00:00Z')",
                having(VIEW, "min(time) >= '2019-10-01 01:00:00' AND min(time) < '2019-10-01 02:00:00'")),
        segment("idle for two hours", "did('view', idle_for => INTERVAL '2 hours')",
                having(VIEW, "max(time) <= '2019-10-01 01:00:00'")),
        segment("carted and bought it soon", "did('cart', then => 'purchase', then_within => INTERVAL '3 minutes', "
                "holding => product_id)",
                "SELECT DISTINCT c.user_id FROM events c JOIN events p ON p.user_id = c.user_id AND p.ord > c.ord "
                "AND c.event = 'cart' AND p.event = 'purchase' AND p.product_id = c.product_id "
                "AND p.time - c.time <= INTERVAL '3 minutes'"),
        segment("abandoned", "did('cart', not_then => 'purchase', then_within => INTERVAL '30 minutes')",
                "SELECT DISTINCT user_id FROM events c WHERE event = 'cart' AND time <= TIMESTAMP '2019-10-01 02:30:00' "
                "AND NOT EXISTS (SELECT 1 FROM events p WHERE p.user_id = c.user_id AND p.event = 'purchase' "
                "AND p.ord > c.ord AND p.time - c.time <= INTERVAL '30 minutes')"),
    ]


def shop_more():
    credits = [
        (f"attribution, {model}",
         "SELECT touch, touches, users, conversions, value FROM attribution('purchase', event IN ('view', 'cart'), "
         f"by => brand, lookback => INTERVAL '20 minutes', model => '{model}', value => price)",
         shapes.attribution(PURCHASE, "event IN ('view', 'cart')", "brand", model, "20 minutes", "price"))
        for model in shapes.CREDITS
    ]
    return [
        *credits,
        ("sessions", "SELECT * FROM sessions()", shapes.sessions("30 minutes")),
        ("sessions of views", "SELECT * FROM sessions(gap => INTERVAL '5 minutes', events => 'view')",
         shapes.sessions("5 minutes", VIEW)),
        ("paths", "SELECT path, users, occurrences FROM paths('view', steps => 4)", shapes.paths(VIEW, 4)),
        ("paths of sessions", "SELECT path, users, occurrences FROM paths('cart', steps => 3, per => 'session', "
         "gap => INTERVAL '10 minutes')", shapes.paths(CART, 3, within_session="10 minutes")),
        ("paths without repeats", "SELECT path, users, occurrences FROM paths('view', steps => 4, collapse => true)",
         shapes.paths(VIEW, 4, collapse=True)),
        ("paths to the first purchase", "SELECT path, users, occurrences FROM paths('purchase', steps => 3, "
         "direction => 'before')", shapes.paths(PURCHASE, 3, backwards=True)),
        ("affinity of products", "SELECT * FROM affinity(item => product_id, condition => 'view', min_users => 5)",
         shapes.affinity("product_id::VARCHAR", VIEW, "user_id", 5)),
        ("affinity of brands in a visit", "SELECT * FROM affinity(item => brand, per => user_session, min_users => 2)",
         shapes.affinity("brand", "true", "user_session", 2)),
        ("experiment", "SELECT variant, users, pending, converted, rate, rate_low, rate_high, value_sum, value_mean FROM "
         "experiment('view', variant => brand, goal => 'purchase', within => INTERVAL '1 hour', value => price)",
         shapes.experiment(VIEW, "brand", PURCHASE, "1 hour", "price", SHOP_END)),
        ("purchases in order", "SELECT user_id, time, product_id, price, row_number() OVER (PARTITION BY user_id "
         "ORDER BY time, price) AS n FROM events WHERE event = 'purchase' AND price > 300",
         "SELECT user_id, time, product_id, price, row_number() OVER (PARTITION BY user_id ORDER BY time, price) AS n "
         "FROM events WHERE event = 'purchase' AND price > 300"),
        ("a trail", "SELECT time, event FROM trail('554754734')",
         "SELECT time, event FROM events WHERE user_id = '554754734'"),
        same("prices", "SELECT event, sum(price) AS revenue, avg(price) AS mean, min(price) AS low, max(price) AS high, "
             "count(DISTINCT brand) AS brands FROM events GROUP BY event"),
        same("brands", "SELECT brand, count(*) AS events, count(DISTINCT user_id) AS users FROM events "
             "WHERE price > 100 GROUP BY brand HAVING count(*) > 5"),
    ]


SHOP_END = "2019-10-01 03:00:00"

SHOP_SOURCE = Source(
    "rees46", "rees46-2019-oct.csv", SHOP_OPTIONS, "2019-10-01T03:00:00Z", SHOP,
    [DAILY, NAMES, *shop_segments(), *shop_funnels(), *shop_more()])

DUPLICATES = Source(
    "duplicates", "rees46-electronics-duplicates.csv", SHOP_OPTIONS, "2021-03-01T00:00:00Z", SHOP, [
        DAILY, NAMES,
        ("funnel", "SELECT step, users FROM funnel('view', 'cart', 'purchase')", shapes.funnel([VIEW, CART, PURCHASE])),
        ("twice in an instant", "SELECT step, users FROM funnel('view', 'view', within => INTERVAL '0 seconds')",
         shapes.funnel([VIEW, VIEW], "0 seconds")),
        ("sessions", "SELECT * FROM sessions(gap => INTERVAL '0 seconds')", shapes.sessions("0 seconds")),
        ("paths", "SELECT path, users, occurrences FROM paths(true, steps => 5)", shapes.paths("true", 5)),
    ])

RETAIL_TABLE = table(
    "CustomerID AS user_id, strptime(InvoiceDate, '%Y-%m-%d %H:%M:%S') AS time, "
    "CASE WHEN InvoiceNo LIKE 'C%' THEN 'cancel' ELSE 'purchase' END AS event, InvoiceNo AS invoice, "
    "StockCode AS stock, Quantity::BIGINT AS quantity, UnitPrice::DOUBLE AS price, Country AS country", CSV)
RETAIL_END = "2011-12-10 00:00:00"

RETAIL = Source(
    "retail", "online-retail.csv.gz",
    ["--user", "CustomerID", "--time", "InvoiceDate", "--event-name", "purchase", "--event-if",
     "InvoiceNo^=C:cancel"], "2011-12-10T00:00:00Z", RETAIL_TABLE, [
        DAILY, NAMES,
        ("days to the first return", "SELECT users, median_seconds, mean_seconds, p90_seconds FROM "
         "funnel('purchase', 'cancel', within => INTERVAL '30 days') WHERE step = 2",
         shapes.funnel_times(PURCHASE, CANCEL, "30 days")),
        ("funnel within 30 days", "SELECT step, users FROM funnel('purchase', 'cancel', within => INTERVAL '30 days')",
         shapes.funnel([PURCHASE, CANCEL], "30 days")),
        ("returned what was bought", "SELECT step, users FROM funnel('purchase', 'cancel', holding => StockCode, "
         "within => INTERVAL '7 days')", shapes.funnel([PURCHASE, CANCEL], "7 days", holding="stock")),
        ("every return", "SELECT step, users FROM funnel('purchase', 'cancel', within => INTERVAL '7 days', "
         "entries => 'every')", shapes.every(PURCHASE, CANCEL, "7 days")),
        ("bought together", "SELECT * FROM affinity(item => StockCode, condition => 'purchase', per => InvoiceNo, "
         "min_users => 150)", shapes.affinity("stock", PURCHASE, "invoice", 150)),
        ("bought by the same customers", "SELECT * FROM affinity(item => StockCode, condition => 'purchase', "
         "min_users => 200)", shapes.affinity("stock", PURCHASE, "user_id", 200)),
        ("retention by week", "SELECT * FROM retention('purchase', 'purchase', period => 'week')",
         shapes.retention(PURCHASE, PURCHASE, "week", RETAIL_END)),
        ("returns by month from one's own start", "SELECT * FROM retention('purchase', 'cancel', period => 'month', "
         "rolling => true)", shapes.retention(PURCHASE, CANCEL, "month", RETAIL_END, rolling=True)),
        ("lifecycle by month", "SELECT * FROM lifecycle('purchase', period => 'month')",
         shapes.lifecycle(PURCHASE, "month", RETAIL_END)),
        ("stickiness", "SELECT * FROM stickiness('purchase')", shapes.stickiness(PURCHASE, "month", "day")),
        ("rfm", "SELECT * FROM rfm('purchase', value => UnitPrice)", shapes.rfm(PURCHASE, "price", RETAIL_END)),
        same("countries", 'SELECT country, count(DISTINCT user_id) AS users, sum(quantity) AS pieces, count(*) AS "lines" '
             "FROM events WHERE event = 'purchase' GROUP BY country"),
        segment("many returns", "did('cancel', at_least => 10, on_days => 3)",
                having(CANCEL, "count(*) >= 10 AND count(DISTINCT date_trunc('day', time)) >= 3")),
    ])

LOANS_TABLE = table(
    "case_id AS user_id, make_timestamp(epoch_us(timestamp::TIMESTAMPTZ)) AS time, activity || '|' || lifecycle AS event, "
    "activity, lifecycle, nullif(resource, '') AS resource, case_attr::BIGINT AS amount", CSV)
LOANS_END = "2012-03-15 00:00:00"
LOAN_STEPS = [f"event = 'A_{name}|COMPLETE'" for name in ("SUBMITTED", "PREACCEPTED", "ACCEPTED", "APPROVED")]
LOAN_NAMES = ", ".join(f"'A_{name}|COMPLETE'" for name in ("SUBMITTED", "PREACCEPTED", "ACCEPTED", "APPROVED"))

LOANS = Source(
    "loans", "bpic2012.csv.gz",
    ["--user", "case_id", "--time", "timestamp", "--event", "activity,lifecycle"], "2012-03-15T00:00:00Z",
    LOANS_TABLE, [
        DAILY, NAMES,
        ("funnel within 7 days", f"SELECT step, users FROM funnel({LOAN_NAMES}, within => INTERVAL '7 days')",
         shapes.funnel(LOAN_STEPS, "7 days")),
        ("strict funnel", "SELECT step, users FROM funnel('A_SUBMITTED|COMPLETE', 'A_PARTLYSUBMITTED|COMPLETE', "
         "'A_PREACCEPTED|COMPLETE', mode => 'strict')",
         shapes.funnel([LOAN_STEPS[0], "event = 'A_PARTLYSUBMITTED|COMPLETE'", LOAN_STEPS[1]], gap=shapes.NEIGHBOURS)),
        ("times to acceptance", "SELECT users, median_seconds, mean_seconds, p90_seconds FROM "
         "funnel('A_SUBMITTED|COMPLETE', 'A_ACCEPTED|COMPLETE') WHERE step = 2",
         shapes.funnel_times(LOAN_STEPS[0], LOAN_STEPS[2], None)),
        ("sessions", "SELECT * FROM sessions()", shapes.sessions("30 minutes")),
        ("sessions by length", "SELECT events, count(*) AS sessions FROM sessions(gap => INTERVAL '8 hours') GROUP BY events",
         f"SELECT events, count(*) FROM (SELECT count(*) AS events FROM ({shapes.cut('8 hours')}) GROUP BY user_id, session) "
         "GROUP BY events"),
        ("paths", "SELECT path, users, occurrences FROM paths('A_SUBMITTED|COMPLETE', steps => 5)",
         shapes.paths(LOAN_STEPS[0], 5)),
        ("retention by week", "SELECT * FROM retention('A_SUBMITTED|COMPLETE', lifecycle = 'COMPLETE', period => 'week', "
         "mode => 'on_or_after')",
         shapes.retention(LOAN_STEPS[0], "lifecycle = 'COMPLETE'", "week", LOANS_END, mode="on_or_after")),
        ("lifecycle by week", "SELECT * FROM lifecycle()", shapes.lifecycle("true", "week", LOANS_END)),
        ("stickiness", "SELECT * FROM stickiness(period => 'week')", shapes.stickiness("true", "week", "day")),
        ("affinity of activities", "SELECT * FROM affinity(item => activity, condition => lifecycle = 'COMPLETE')",
         shapes.affinity("activity", "lifecycle = 'COMPLETE'", "user_id", 1)),
        same("activities by month", "SELECT date_trunc('month', time) AS month, activity, count(*) AS events, "
             "count(DISTINCT user_id) AS users FROM events GROUP BY 1, 2"),
    ])

CDNOW_TABLE = table(
    "fields[1] AS user_id, strptime(fields[2], '%Y%m%d') AS time, 'purchase' AS event, fields[3]::BIGINT AS number_of_cds, "
    "fields[4]::DOUBLE AS dollar_value",
    "(SELECT regexp_extract_all(line, '[^ ]+') AS fields FROM read_csv('{file}', columns = {{'line': 'VARCHAR'}}, "
    "header = true, delim = '|', quote = '', all_varchar = true) WHERE line NOT LIKE '%customer_id%')")
CDNOW_END = "1998-06-30 00:00:00"
BUY = "event = 'purchase'"

CDNOW = Source(
    "cdnow", "cdnow.txt",
    ["--user", "customer_id", "--time", "date", "--event-name", "purchase", "--delimiter", "blanks", "--time-format",
     "%Y%m%d"], "1998-06-30T00:00:00Z", CDNOW_TABLE, [
        DAILY, NAMES,
        segment("three purchases", "did('purchase', at_least => 3)", having(BUY, "count(*) >= 3")),
        segment("idle", "did('purchase', idle_for => INTERVAL '180 days')",
                having(BUY, "max(time) <= TIMESTAMP '1998-06-30' - INTERVAL 180 DAY")),
        *[(f"retention by {unit}, {name}", f"SELECT * FROM retention('purchase', 'purchase', period => '{unit}'{told})",
           shapes.retention(BUY, BUY, unit, CDNOW_END, **how))
          for unit in ("month", "week")
          for name, told, how in (
              ("on", "", {}), ("on or after", ", mode => 'on_or_after'", {"mode": "on_or_after"}),
              ("rolling", ", rolling => true", {"rolling": True}),
              ("recurring", ", recurring => true", {"recurring": True}))],
        ("lifecycle by month", "SELECT * FROM lifecycle(period => 'month')", shapes.lifecycle(BUY, "month", CDNOW_END)),
        ("lifecycle by week", "SELECT * FROM lifecycle()", shapes.lifecycle(BUY, "week", CDNOW_END)),
        ("stickiness", "SELECT * FROM stickiness()", shapes.stickiness(BUY, "month", "day")),
        ("rfm", "SELECT * FROM rfm('purchase', value => dollar_value)", shapes.rfm(BUY, "dollar_value", CDNOW_END)),
        ("days to the next purchase", "SELECT users, median_seconds, mean_seconds, p90_seconds FROM "
         "funnel('purchase', 'purchase') WHERE step = 2", shapes.funnel_times(BUY, BUY, None)),
        ("every second purchase", "SELECT step, users FROM funnel('purchase', 'purchase', within => INTERVAL '30 days', "
         "entries => 'every')", shapes.every(BUY, BUY, "30 days")),
        ("experiment", "SELECT variant, users, pending, converted, rate, rate_low, rate_high, value_sum, value_mean FROM "
         "experiment(number_of_cds < 6, variant => number_of_cds, goal => 'purchase', within => INTERVAL '90 days', "
         "value => dollar_value)",
         shapes.experiment("number_of_cds < 6", "number_of_cds::VARCHAR", "event = 'purchase'", "90 days", "dollar_value",
                           CDNOW_END)),
        ("affinity", "SELECT * FROM affinity(item => number_of_cds, min_users => 20)",
         shapes.affinity("number_of_cds::VARCHAR", "true", "user_id", 20)),
    ])

OTTO = Source(
    "otto", "otto.jsonl", ["--user", "session", "--time", "ts", "--event", "type", "--explode", "events"],
    "2022-09-01T00:00:00Z",
    table("session::VARCHAR AS user_id, make_timestamp(event.ts * 1000) AS time, event.type AS event, event.aid::BIGINT AS aid",
          "(SELECT session, unnest(events) AS event FROM read_json('{file}', format = 'newline_delimited'))"), [
        DAILY, NAMES,
        ("funnel of one article", "SELECT step, users FROM funnel('clicks', 'carts', 'orders', holding => aid)",
         shapes.funnel(["event = 'clicks'", "event = 'carts'", "event = 'orders'"], holding="aid")),
        ("sessions", "SELECT * FROM sessions()", shapes.sessions("30 minutes")),
        ("affinity", "SELECT * FROM affinity(item => aid, min_users => 2)",
         shapes.affinity("aid::VARCHAR", "true", "user_id", 2)),
        ("paths", "SELECT path, users, occurrences FROM paths('carts', steps => 2)", shapes.paths("event = 'carts'", 2)),
    ])

SOURCES = [SHOP_SOURCE, DUPLICATES, RETAIL, LOANS, CDNOW, OTTO]
