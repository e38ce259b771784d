"""The questions in SQL of every engine: behaviour as Pugmark's functions say it and as others must,
and ordinary SQL that is nearly the same everywhere.

Of ClickHouse and of DuckDB there are several formulations where it was not clear which is fastest.
The least ratios are what Pugmark promises: how many times faster than ClickHouse's best layout, or,
of ordinary queries, at least `ORDINARY` of the slower of the two peers.
"""

import math

from harness.questions import Formulations, STEPS

ORDINARY = 1 / 1.5

# Name, what is asked, least ratio to ClickHouse; `None` for ordinary queries.
STATEMENTS = {
    "abandoned_cart": ("viewed AND put in cart AND NOT purchased, last 30 days", 80),
    "sleepers": ("NOT opened an e-mail in 90 days, over all known users", None),
    "funnel_3": ("funnel view > cart > purchase within 1 day", 20),
    "funnel_5_by_platform": ("funnel of five steps within 1 day, last 30 days, by platform", 20),
    "weekly_retention": ("retention of visitors as buyers, by week, with the cohorts' sizes", 20),
    "daily_users": ("distinct users by day, all events", 20),
    "sum_by_event": ("GROUP BY event, with a sum", 3),
    "scan": ("two sums and a maximum over all events", None),
    "filter": ("events of one platform in a range of prices: count and average", None),
    "group_by_one": ("GROUP BY category, with an average", None),
    "group_by_two": ("GROUP BY platform, category, with a maximum", None),
    "top_n": ("the ten largest purchases", None),
    "join_users": ("purchases JOIN users, by month of the first visit", None),
    "distinct": ("count(DISTINCT product) of views", None),
}

# Ordinary SQL in the words that all engines share, but for the table's name.
SHARED = {
    "sum_by_event": "SELECT event, count(*), sum(amount) FROM {events} GROUP BY event",
    "scan": "SELECT sum(price), sum(amount), max(product_id) FROM {events}",
    "filter": """SELECT count(*), avg(price) FROM {events}
        WHERE platform = 'ios' AND price BETWEEN 50 AND 100""",
    "group_by_one": """SELECT category_code, count(*), avg(price) FROM {events}
        GROUP BY category_code""",
    "group_by_two": """SELECT platform, category_code, count(*), max(price) FROM {events}
        GROUP BY platform, category_code""",
    "top_n": """SELECT user_id, amount FROM {events} WHERE event = 'purchase'
        ORDER BY amount DESC, user_id LIMIT 10""",
    "distinct": "SELECT count(DISTINCT product_id) FROM {events} WHERE event = 'view'",
}


# What is asked of all events, and not as of the middle of the last day.
WHOLE = {*SHARED, "daily_users", "join_users"}


def pugmark(name):
    """A question in Pugmark's SQL; its present is a setting."""
    steps = ", ".join(f"step('{step}')" for step in STEPS)
    own = {
        "abandoned_cart": """SELECT count(*) FROM users WHERE did('view', last => INTERVAL '30 days')
            AND did('cart', last => INTERVAL '30 days')
            AND NOT did('purchase', last => INTERVAL '30 days')""",
        "sleepers": """SELECT count(*) FROM users
            WHERE NOT did('email_open', last => INTERVAL '90 days')""",
        "funnel_3": """SELECT step, users FROM funnel(step('view'), step('cart'), step('purchase'),
            within => INTERVAL '1 day')""",
        "funnel_5_by_platform": f"""SELECT "by", step, users FROM funnel({steps},
            within => INTERVAL '1 day', last => INTERVAL '30 days', by => platform)""",
        "weekly_retention": """SELECT cohort, size, k, users
            FROM retention(start => 'visit', returns => 'purchase', period => 'week')
            WHERE users > 0""",
        "daily_users": """SELECT date_trunc('day', time), count(DISTINCT user_id) FROM events
            GROUP BY 1""",
        "join_users": """SELECT date_trunc('month', first_seen), count(*), sum(amount)
            FROM events JOIN users ON events.user_id = users.user_id
            WHERE event = 'purchase' GROUP BY 1""",
    }
    return own[name] if name in own else SHARED[name].format(events="events")


class ClickHouse(Formulations):
    """Over one layout."""

    def of(self, name):
        if name in SHARED:
            return {"as it is": SHARED[name].format(events=self.table)}
        return getattr(self, name)()

    def funnel_3(self):
        return super().funnel_3(f" AND time <= {self.moment()}")

    def weekly_retention(self):
        events = f"FROM {self.table} WHERE event IN ('visit', 'purchase') " \
            f"AND time <= {self.moment()}"
        week = "toRelativeWeekNum({}, 'UTC')".format
        sizes = f"""SELECT toMonday(first) AS cohort, count() AS size FROM (
            SELECT min(time) AS first FROM {self.table} WHERE event = 'visit'
            AND time <= {self.moment()} GROUP BY user_id) GROUP BY cohort"""
        return {
            "arrays by user": f"""SELECT cohort, size, k, users FROM (
                SELECT cohort, k, users, sumIf(users, k < 0) OVER (PARTITION BY cohort) AS size
                FROM (SELECT cohort, k, count() AS users FROM (
                SELECT toMonday(first) AS cohort, arrayJoin(arrayConcat([toInt64(-1)],
                arrayDistinct(arrayMap(t -> toInt64({week('t')}) - {week('first')},
                arrayFilter(t -> t > first, bought))))) AS k
                FROM (SELECT minIf(time, event = 'visit') AS first,
                groupArrayIf(time, event = 'purchase') AS bought
                {events} GROUP BY user_id HAVING countIf(event = 'visit') > 0))
                GROUP BY cohort, k)) WHERE k >= 0""",
            "purchases joined with first visits, sizes apart": f"""
                SELECT cohort, size, k, users FROM (SELECT toMonday(first) AS cohort,
                {week('time')} - {week('first')} AS k, uniqExact(user_id) AS users
                FROM (SELECT user_id, time FROM {self.table} WHERE event = 'purchase'
                AND time <= {self.moment()}) AS bought
                INNER JOIN (SELECT user_id, min(time) AS first FROM {self.table}
                WHERE event = 'visit' AND time <= {self.moment()}
                AND user_id IN (SELECT user_id FROM {self.table} WHERE event = 'purchase')
                GROUP BY user_id) AS visits USING user_id
                WHERE time > first GROUP BY cohort, k) AS cells
                INNER JOIN ({sizes}) AS sizes USING cohort""",
        }

    def daily_users(self):
        return {
            "uniqExact": f"SELECT toDate(time) AS day, uniqExact(user_id) FROM {self.table} "
                         "GROUP BY day",
            "groupBitmap": f"SELECT toDate(time) AS day, groupBitmap(user_id) FROM {self.table} "
                           "GROUP BY day",
        }

    def join_users(self):
        return {"joined": f"""SELECT toStartOfMonth(first_seen) AS month, count(), sum(amount)
            FROM {self.table} AS events INNER JOIN {self.users_table} AS users
            ON events.user_id = users.user_id WHERE event = 'purchase' GROUP BY month"""}


def duckdb(name, as_of):
    """Formulations in DuckDB's SQL; `as_of` is a timestamp's text."""
    known = f"time <= TIMESTAMP '{as_of}'"
    last = f"time > TIMESTAMP '{as_of}' - INTERVAL {{}} DAY AND {known}".format
    own = {
        "abandoned_cart": lambda: {
            "group by user": f"""SELECT count(*) FROM (SELECT user_id FROM events
                WHERE event IN ('view', 'cart', 'purchase') AND {last(30)} GROUP BY user_id
                HAVING bool_or(event = 'view') AND bool_or(event = 'cart')
                AND NOT bool_or(event = 'purchase'))""",
            "semi joins": f"""SELECT count(DISTINCT user_id) FROM events
                WHERE event = 'cart' AND {last(30)}
                AND user_id IN (SELECT user_id FROM events WHERE event = 'view' AND {last(30)})
                AND user_id NOT IN (SELECT user_id FROM events
                WHERE event = 'purchase' AND {last(30)})"""},
        "sleepers": lambda: {
            "a ready table of users": f"""SELECT count(*) FROM users
                WHERE first_seen <= TIMESTAMP '{as_of}' AND user_id NOT IN
                (SELECT user_id FROM events WHERE event = 'email_open' AND {last(90)})"""},
        "funnel_3": lambda: {"self joins": _duckdb_funnel(known)},
        "weekly_retention": lambda: {"purchases joined with first visits": f"""
            WITH visits AS MATERIALIZED (SELECT user_id, min(time) AS first FROM events
            WHERE event = 'visit' AND {known} GROUP BY user_id),
            sizes AS (SELECT date_trunc('week', first) AS cohort, count(*) AS size
            FROM visits GROUP BY 1)
            SELECT cohort, any_value(size),
            date_diff('day', cohort, date_trunc('week', time)) // 7 AS k,
            count(DISTINCT user_id) FROM events JOIN visits USING (user_id)
            JOIN sizes ON cohort = date_trunc('week', first)
            WHERE event = 'purchase' AND {known} AND time > first GROUP BY cohort, k"""},
        "daily_users": lambda: {
            "count distinct": """SELECT date_trunc('day', time), count(DISTINCT user_id)
                FROM events GROUP BY 1""",
            "distinct first": """SELECT day, count(*) FROM (SELECT DISTINCT
                date_trunc('day', time) AS day, user_id FROM events) GROUP BY day"""},
        "join_users": lambda: {"joined": """SELECT date_trunc('month', first_seen), count(*),
            sum(amount) FROM events JOIN users USING (user_id) WHERE event = 'purchase'
            GROUP BY 1"""},
    }
    if name in SHARED:
        return {"as it is": SHARED[name].format(events="events")}
    return own[name]() if name in own else {}


def _duckdb_funnel(known):
    """How far each user comes, by self joins; DuckDB has no function for funnels. Carts within a
    day of a view, then purchases within a day of the last such view."""
    return f"""
        WITH steps AS (SELECT user_id, time, event FROM events
            WHERE event IN ('view', 'cart', 'purchase') AND {known}),
        viewed AS (SELECT *, max(CASE WHEN event = 'view' THEN time END) OVER so_far AS began
            FROM steps WINDOW so_far AS (PARTITION BY user_id ORDER BY time)),
        carted AS (SELECT user_id, time, event, max(CASE WHEN event = 'cart'
            AND time <= began + INTERVAL 1 DAY THEN began END) OVER so_far AS carts_began
            FROM viewed WINDOW so_far AS (PARTITION BY user_id ORDER BY time)),
        levels AS (SELECT user_id, max(CASE
            WHEN event = 'purchase' AND time <= carts_began + INTERVAL 1 DAY THEN 3
            WHEN carts_began IS NOT NULL THEN 2 WHEN event = 'view' THEN 1 END) AS level
            FROM carted GROUP BY user_id)
        SELECT unnest([1, 2, 3]), unnest([count(*) FILTER (level >= 1),
            count(*) FILTER (level >= 2), count(*) FILTER (level >= 3)]) FROM levels"""


def normal(name, rows):
    """Rows of any engine in one spelling and order."""
    if name == "funnel_3" and len(rows) == 1:
        rows = [[step + 1, users] for step, users in enumerate(rows[0])]
    if name == "funnel_5_by_platform" and rows and len(rows[0]) > 3:
        rows = [[row[0], step + 1, users] for row in rows for step, users in enumerate(row[1:])]
    rows = [[_value(value) for value in row] for row in rows]
    return sorted(rows, key=lambda row: [f"{value:.6g}" if isinstance(value, float) else value
                                         for value in row])


def same(rows, others):
    """Whether normal rows say the same; sums of floats depend on their order."""
    return len(rows) == len(others) and all(
        len(row) == len(other) and all(map(_same_value, row, other))
        for row, other in zip(rows, others))


def _same_value(value, other):
    if isinstance(value, float) and isinstance(other, float):
        return math.isclose(value, other, rel_tol=1e-9)
    return value == other


def _value(value):
    """A number or text."""
    text = "" if value is None else str(value)
    text = "" if text in ("\\N", "NULL") else text
    try:
        return float(text)
    except ValueError:
        # Only calendar days are asked for.
        return text[:10] if text[4:5] == "-" and text[7:8] == "-" else text
