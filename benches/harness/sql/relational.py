"""The questions in SQL without functions of behaviour: what DuckDB and DataFusion share.

Times are whole milliseconds since the population's start, `t8` eight times that, which leaves
three bits for the platform of a chain's first event.
"""

from harness.population import COLUMNS, DAY_MILLIS, PLATFORMS, START_MICROS, STEPS
from harness.sql import (
    EXCLUDED, GAP_MILLIS, LONG_FUNNELS, LOOKBACK_MILLIS, PERIODS, PLAIN_FUNNELS, SHARED)

START_MILLIS = START_MICROS // 1_000

# Room for the time of a packed chain: level above it, time and platform in it.
PACK = 1 << 40


class Relational:
    """SQL over the tables `events` and `users`; a dialect says how times become numbers."""

    def __init__(self, asked):
        self.asked = asked
        self.now = asked.as_of_millis - START_MILLIS

    # What a dialect says.
    def millis(self, column):
        raise NotImplementedError

    def moment(self, days_before=0):
        raise NotImplementedError

    def last_known(self, column):
        """The window function of the last value that is not NULL."""
        raise NotImplementedError

    def of(self, question):
        if question in SHARED:
            return {"as it is": SHARED[question].format(events="events")}
        if question in PERIODS:
            return self.distinct_users(PERIODS[question])
        if question in PLAIN_FUNNELS:
            return self.plain_funnel(question)
        if question in LONG_FUNNELS:
            return self.long_funnel(question)
        return getattr(self, question)()

    def last(self, days):
        known = f"time <= {self.moment()}"
        return known if days is None else f"time > {self.moment(days)} AND {known}"

    def t8(self):
        return f"({self.millis('time')} - {START_MILLIS}) * 8"

    def distinct_users(self, period):
        return {
            "count distinct": f"""SELECT date_trunc('{period}', time), count(DISTINCT user_id)
                FROM events GROUP BY 1""",
            "distinct first": f"""SELECT start, count(*) FROM (SELECT DISTINCT
                date_trunc('{period}', time) AS start, user_id FROM events) AS seen
                GROUP BY start""",
        }

    def abandoned(self, selected):
        return f"""SELECT {selected} FROM (SELECT user_id FROM events
            WHERE event IN ('view', 'cart', 'purchase') AND {self.last(30)} GROUP BY user_id
            HAVING bool_or(event = 'view') AND bool_or(event = 'cart')
            AND NOT bool_or(event = 'purchase')) AS abandoned"""

    def semi_joins(self, selected):
        did = f"(SELECT user_id FROM events WHERE event = '{{}}' AND {self.last(30)})".format
        return f"""SELECT {selected} FROM events WHERE event = 'cart' AND {self.last(30)}
            AND user_id IN {did('view')} AND user_id NOT IN {did('purchase')}"""

    def abandoned_cart(self):
        return {"group by user": self.abandoned("count(*)"),
                "semi joins": self.semi_joins("count(DISTINCT user_id)")}

    def export_ids(self):
        return {"group by user": self.abandoned("user_id"),
                "semi joins": self.semi_joins("DISTINCT user_id")}

    def counts_and_properties(self):
        view, cart = "event = 'view' AND platform = 'ios'", "event = 'cart' AND price >= 100"
        carts = f"(SELECT user_id FROM events WHERE {cart} AND {self.last(30)})"
        return {
            "group by user": f"""SELECT count(*) FROM (SELECT user_id FROM events
                WHERE (({view}) OR ({cart})) AND {self.last(30)} GROUP BY user_id
                HAVING count(*) FILTER (WHERE event = 'view') >= 5
                AND bool_or(event = 'cart')) AS counted""",
            "counted views in carts": f"""SELECT count(*) FROM (SELECT user_id FROM events
                WHERE {view} AND {self.last(30)} AND user_id IN {carts}
                GROUP BY user_id HAVING count(*) >= 5) AS counted""",
        }

    def sleepers(self):
        return {"a ready table of users": f"""SELECT count(*) FROM users
            WHERE first_seen <= {self.moment()} AND user_id NOT IN
            (SELECT user_id FROM events WHERE event = 'email_open' AND {self.last(90)})"""}

    def plain_funnel(self, question):
        steps = PLAIN_FUNNELS[question]
        also = ("product_id",) if question == "funnel_holding" else ()
        excluded = EXCLUDED if question == "funnel_exclusion" else None
        level = "count(*) FILTER (WHERE level >= {})".format
        found = {}
        if asof := self.asof(steps, DAY_MILLIS, None, also, excluded):
            heads, packs = asof
            found["ASOF joins"] = f"""{heads} SELECT {level(1)}, {level(2)}, {level(3)}
                FROM ({_unpacked(packs, 3)}) AS levels"""
        _, packs = self.windows(steps, DAY_MILLIS, None, also, excluded, self.among(steps, also))
        first = f"SELECT count(DISTINCT user_id) FROM events WHERE event = '{steps[0]}' " \
            f"AND {self.last(None)}"
        found[f"window functions where there is a {steps[1]}"] = f"""SELECT ({first}), {level(2)},
            {level(3)} FROM ({_unpacked(packs, 3)}) AS levels"""
        return found

    def among(self, steps, also):
        """Only events of those who have the second step."""
        same = " AND ".join(f"second.{name} = events.{name}" for name in ("user_id", *also))
        return f""" AND EXISTS (SELECT 1 FROM events AS second
            WHERE second.event = '{steps[1]}' AND {same})"""

    def long_funnel(self, question):
        window, days = LONG_FUNNELS[question]
        chains = {"window functions": self.windows(STEPS, window, days)}
        if asof := self.asof(STEPS, window, days):
            chains["ASOF joins"] = asof
        counts = ", ".join(f"count(*) FILTER (WHERE level >= {k})" for k in range(1, 6))
        platform = " ".join(f"WHEN {code} THEN '{name}'" for code, name in enumerate(PLATFORMS))
        return {name: f"""{heads} SELECT CASE platform {platform} END, {counts}
                    FROM ({_unpacked(packs, 5)}) AS levels GROUP BY 1"""
                for name, (heads, packs) in chains.items()}

    def platform_code(self):
        codes = " ".join(f"WHEN '{name}' THEN {code}" for code, name in enumerate(PLATFORMS))
        return f"CASE platform {codes} ELSE 7 END"

    def windows(self, steps, window, days, also=(), excluded=None, among=""):
        """A packed chain for each event that ends one: by user, how many steps are missing, when
        it ends, and its platform. `start_k` is the latest start of a chain of k steps so far."""
        columns = "".join(f", {name}" for name in also)
        code = self.platform_code() if len(steps) == len(STEPS) else "0"
        number = " ".join(f"WHEN '{name}' THEN {k}" for k, name in enumerate(steps, 1))
        names = ", ".join(f"'{name}'" for name in (*steps, *([excluded] if excluded else [])))
        rows = f"""SELECT user_id{columns}, {self.t8()} AS t8, {self.t8()} + {code} AS begun,
            CASE event {number} ELSE 0 END AS step FROM events
            WHERE event IN ({names}) AND {self.last(days)}{among}"""
        over = f"""OVER (PARTITION BY user_id{columns} ORDER BY t8
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)"""
        first = f"max(CASE WHEN step = 1 THEN begun END) {over} AS start_1"
        cut = f", max(CASE WHEN step = 0 THEN t8 ELSE -1 END) {over} AS cut" if excluded else ""
        rows = f"SELECT *, {first}{cut} FROM ({rows}) AS level_1"
        inside = f"t8 <= {{0}} + {window * 8}".format
        if excluded:
            inside = f"t8 <= {{0}} + {window * 8} AND {{0}} > cut".format
        for k in range(2, len(steps)):
            start = f"start_{k - 1}"
            rows = f"""SELECT *, max(CASE WHEN step = {k} AND {inside(start)} THEN {start} END)
                {over} AS start_{k} FROM ({rows}) AS level_{k}"""
        starts = " ".join(f"WHEN {k} THEN start_{k - 1}" for k in range(2, len(steps) + 1))
        ends = f"SELECT *, CASE step WHEN 1 THEN begun {starts} END AS start FROM ({rows}) AS ends"
        return "", f"""SELECT user_id, {_pack(len(steps), 'step', 'start')} AS pack
            FROM ({ends}) AS reached WHERE step = 1 OR (step > 1 AND {inside('start')})"""

    def asof(self, steps, window, days, also=(), excluded=None):
        """The same by ASOF joins, step by step; nothing where the dialect has none."""
        return None

    def weekly_retention(self):
        known = self.last(None)
        weeks = f"({self.millis('week')} - {self.millis('cohort')}) / {7 * DAY_MILLIS}"
        return {"purchases joined with first visits": f"""
            WITH visits AS (SELECT user_id, min(time) AS first FROM events
            WHERE event = 'visit' AND {known} GROUP BY user_id),
            sizes AS (SELECT date_trunc('week', first) AS cohort, count(*) AS size
            FROM visits GROUP BY 1),
            cells AS (SELECT date_trunc('week', first) AS cohort, date_trunc('week', time) AS week,
            count(DISTINCT events.user_id) AS users FROM events
            JOIN visits ON events.user_id = visits.user_id
            WHERE event = 'purchase' AND {known} AND time > first GROUP BY 1, 2)
            SELECT cells.cohort, size, CAST({weeks.replace('cohort', 'cells.cohort')} AS BIGINT),
            users FROM cells JOIN sizes ON cells.cohort = sizes.cohort"""}

    def opened(self, more=""):
        t = self.millis("time")
        return f"""SELECT user_id, time, {t} AS t, CASE WHEN {t} - lag({t}) OVER by_time
            <= {GAP_MILLIS} THEN 0 ELSE 1 END AS opens{more}
            FROM events WHERE {self.last(None)}
            WINDOW by_time AS (PARTITION BY user_id ORDER BY time)"""

    def session_count(self):
        return {"a window function": f"SELECT sum(opens) FROM ({self.opened()}) AS opened"}

    def sessions(self):
        t = self.millis("time")
        more = f""", CASE WHEN lead({t}) OVER by_time - {t} <= {GAP_MILLIS} THEN 0 ELSE 1 END
            AS closes, row_number() OVER by_time AS place"""
        day = "SELECT date_trunc('day', started), count(*), sum(events), avg(length) / 1000.0 FROM"
        return {
            "running sums": f"""{day} (SELECT min(time) AS started, count(*) AS events,
                max(t) - min(t) AS length FROM (SELECT user_id, time, t, sum(opens) OVER
                (PARTITION BY user_id ORDER BY time) AS session FROM ({self.opened()}) AS opened)
                AS numbered GROUP BY user_id, session) AS sessions GROUP BY 1""",
            "openings and closings": f"""{day} (SELECT opens, time AS started,
                CASE closes WHEN 1 THEN 0 ELSE lead(t) OVER by_time - t END AS length,
                CASE closes WHEN 1 THEN 1 ELSE lead(place) OVER by_time - place + 1 END AS events
                FROM ({self.opened(more)}) AS opened WHERE opens + closes > 0
                WINDOW by_time AS (PARTITION BY user_id ORDER BY time)) AS edges
                WHERE opens = 1 GROUP BY 1""",
        }

    def paths(self):
        return {"window functions": f"""SELECT concat_ws(' > ', event, second, third) AS way,
            count(DISTINCT user_id), count(*) AS occurrences FROM (SELECT user_id, event,
            lead(event, 1) OVER by_time AS second, lead(event, 2) OVER by_time AS third
            FROM events WHERE {self.last(None)}
            WINDOW by_time AS (PARTITION BY user_id ORDER BY time)) AS stops
            WHERE event = 'visit' GROUP BY event, second, third
            ORDER BY occurrences DESC, way LIMIT 20"""}

    def attribution(self):
        known = self.last(None)
        touched = f"event = 'visit' AND campaign IS NOT NULL AND {known}"
        touch = f"CASE WHEN event = 'visit' THEN {self.millis('time')} END"
        credited = f"""SELECT coalesce(CASE WHEN {self.millis('time')} - touched
            <= {LOOKBACK_MILLIS} THEN last_campaign END, '(direct)') AS touch,
            count(DISTINCT user_id) AS users, count(*) AS conversions, sum(amount) AS value
            FROM (SELECT user_id, event, time, amount, {self.last_known('campaign')} OVER so_far
            AS last_campaign, max({touch}) OVER so_far AS touched FROM events
            WHERE (event = 'purchase' OR (event = 'visit' AND campaign IS NOT NULL)) AND {known}
            WINDOW so_far AS (PARTITION BY user_id ORDER BY time
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)) AS rows
            WHERE event = 'purchase' GROUP BY 1"""
        return {"a window function": f"{_credits(credited, touched)}"}

    def trail(self):
        return {"as it is": f"""SELECT {', '.join(COLUMNS[1:])} FROM events
            WHERE user_id = {self.asked.user} AND {self.last(None)} ORDER BY time"""}

    def join_users(self):
        return {"joined": """SELECT date_trunc('month', first_seen), count(*), sum(amount)
            FROM events JOIN users ON events.user_id = users.user_id
            WHERE event = 'purchase' GROUP BY 1"""}


def _credits(credited, touched):
    return f"""WITH credited AS ({credited}), touches AS (SELECT campaign AS touch,
        count(*) AS touches FROM events WHERE {touched} GROUP BY 1)
        SELECT coalesce(credited.touch, touches.touch), coalesce(touches, 0), coalesce(users, 0),
        coalesce(conversions, 0), coalesce(value, 0)
        FROM credited FULL JOIN touches ON credited.touch = touches.touch"""


def _pack(steps, step, start):
    """Smallest for the chain that is longest, and of these ends earliest."""
    return f"({steps} - {step}) * {PACK} + t8 + {start} % 8"


def _unpacked(packs, steps):
    """Level and platform of each user."""
    return f"""SELECT {steps} - pack / {PACK} AS level, pack % 8 AS platform FROM (
        SELECT user_id, min(pack) AS pack FROM ({packs}) AS packs GROUP BY user_id) AS best"""


class DuckDB(Relational):
    """DuckDB's dialect: times are TIMESTAMPs, and there are ASOF joins."""

    def millis(self, column):
        return f"epoch_ms({column})"

    def moment(self, days_before=0):
        micros = (self.asked.as_of_millis - days_before * DAY_MILLIS) * 1_000
        return f"make_timestamp({micros})"

    def last_known(self, column):
        return f"last_value({column} IGNORE NULLS)"

    def of(self, question):
        # `/` is a division of floats.
        return {name: sql.replace(f"pack / {PACK}", f"pack // {PACK}")
                for name, sql in super().of(question).items()}

    def asof(self, steps, window, days, also=(), excluded=None):
        same = " AND ".join(f"later.{name} = earlier.{name}" for name in ("user_id", *also))
        columns = "".join(f", {name}" for name in also)
        code = self.platform_code() if len(steps) == len(STEPS) else "0"
        named = f"""SELECT user_id{columns}, {self.t8()} AS t8, {{}} FROM events
            WHERE event = '{{}}' AND {self.last(days)}""".format
        heads = ["step_1 AS MATERIALIZED (" + named(f"t8 + {code} AS start", steps[0]) + ")"]
        if excluded:
            heads.append(f"cuts AS MATERIALIZED ({named('t8 AS cut', excluded)})")
        for k, step in enumerate(steps[1:], 2):
            later = named("0 AS cut", step)
            if excluded:
                later = f"""SELECT later.*, coalesce(earlier.cut, -1) AS cut
                    FROM ({named('0 AS none', step)}) AS later ASOF LEFT JOIN cuts AS earlier
                    ON {same} AND later.t8 > earlier.t8"""
            uncut = " AND start > cut" if excluded else ""
            heads.append(f"""step_{k} AS MATERIALIZED (SELECT later.user_id{''.join(
                f', later.{name}' for name in also)}, later.t8, start FROM ({later}) AS later
                ASOF JOIN step_{k - 1} AS earlier ON {same} AND later.t8 > earlier.t8
                WHERE later.t8 <= start + {window * 8}{uncut})""")
        packs = " UNION ALL ".join(
            f"SELECT user_id, {_pack(len(steps), k, 'start')} AS pack FROM step_{k}"
            for k in range(1, len(steps) + 1))
        return f"WITH {', '.join(heads)}", packs

    def weekly_retention(self):
        return {name: sql.replace("visits AS (", "visits AS MATERIALIZED (", 1)
                for name, sql in super().weekly_retention().items()}

    def attribution(self):
        known = self.last(None)
        touched = f"event = 'visit' AND campaign IS NOT NULL AND {known}"
        credited = f"""SELECT coalesce(CASE WHEN epoch_ms(bought.time) - epoch_ms(touched.time)
            <= {LOOKBACK_MILLIS} THEN campaign END, '(direct)') AS touch,
            count(DISTINCT bought.user_id) AS users, count(*) AS conversions, sum(amount) AS value
            FROM (SELECT user_id, time, amount FROM events WHERE event = 'purchase' AND {known})
            AS bought ASOF LEFT JOIN (SELECT user_id, time, campaign FROM events WHERE {touched})
            AS touched ON bought.user_id = touched.user_id AND bought.time > touched.time
            GROUP BY 1"""
        return {"ASOF join": _credits(credited, touched)}


class DataFusion(Relational):
    """DataFusion's dialect: times are Timestamps of milliseconds."""

    def millis(self, column):
        return f"CAST({column} AS BIGINT)"

    def moment(self, days_before=0):
        millis = self.asked.as_of_millis - days_before * DAY_MILLIS
        return f"arrow_cast({millis}, 'Timestamp(Millisecond, None)')"

    def last_known(self, column):
        return f"last_value({column}) IGNORE NULLS"
