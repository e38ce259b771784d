"""The questions in ClickHouse's SQL, each in the formulations that were ever fastest somewhere.

The generated population has no two events of one user at one time, times of whole milliseconds,
and ids that fit 32 bits.
"""

from harness.population import COLUMNS, DAY_MILLIS, PLATFORMS, STEPS
from harness.sql import (
    EXCLUDED, GAP_MILLIS, LONG_FUNNELS, LOOKBACK_MILLIS, PERIODS, PLAIN_FUNNELS, SHARED)

DATABASE = "bench"
USERS = f"{DATABASE}.users"
STARTS = {"day": "toDate({})", "week": "toMonday({})", "month": "toStartOfMonth({})"}
TIME = "reinterpretAsUInt64(time)"


def formulations(question, asked):
    if question in SHARED:
        return shared(question, f"{DATABASE}.{asked.table}")
    return getattr(Formulations(asked), question)()


def shared(question, table):
    found = {"as it is": SHARED[question].format(events=table)}
    if question == "distinct":
        found["groupBitmap"] = f"SELECT groupBitmap(product_id) FROM {table} WHERE event = 'view'"
    if question == "top_products":
        found["groupBitmap"] = f"""SELECT product_id, groupBitmap(user_id) AS viewers FROM {table}
            WHERE event = 'view' GROUP BY product_id ORDER BY viewers DESC, product_id LIMIT 10"""
    return found


class Moments:
    """The present and what was before it, in ClickHouse's words."""

    def __init__(self, asked):
        self.asked = asked
        self.as_of_millis = asked.as_of_millis

    def moment(self, days_before=0):
        millis = self.as_of_millis - days_before * DAY_MILLIS
        return f"fromUnixTimestamp64Milli({millis}, 'UTC')"

    def last(self, days):
        if days is None:
            return self.known()
        return f"time > {self.moment(days)} AND {self.known()}"

    def known(self):
        return f"time <= {self.moment()}"


class Formulations(Moments):
    """SQL over one table of events, as of one moment: name -> SQL for each question."""

    def __init__(self, asked):
        super().__init__(asked)
        self.table = f"{DATABASE}.{asked.table}"

    def users_of(self, condition, days):
        return f"SELECT user_id FROM {self.table} WHERE {condition} AND {self.last(days)}"

    def three_sets(self):
        return (self.users_of(f"event = '{name}'", 30) for name in ("view", "cart", "purchase"))

    def three_names(self):
        return f"FROM {self.table} WHERE event IN ('view', 'cart', 'purchase') AND {self.last(30)}"

    def abandoned_cart(self):
        views, carts, purchases = self.three_sets()
        bitmap = "groupBitmapStateIf(user_id, event = '{}')".format
        return {
            "group by user, bit or": f"""
                SELECT count() FROM (SELECT user_id {self.three_names()} GROUP BY user_id
                HAVING groupBitOr(multiIf(event = 'view', 1, event = 'cart', 2, 4)) = 3)""",
            "carts in views, not in purchases": f"""
                SELECT uniqExact(user_id) FROM ({carts}
                AND user_id IN ({views}) AND user_id NOT IN ({purchases}))""",
            "bitmaps in one pass": f"""
                SELECT bitmapAndnotCardinality(bitmapAnd({bitmap('view')}, {bitmap('cart')}),
                {bitmap('purchase')}) {self.three_names()}""",
        }

    def export_ids(self):
        views, carts, purchases = self.three_sets()
        bitmap = "groupBitmapStateIf(user_id, event = '{}')".format
        return {
            "group by user, bit or": f"""
                SELECT user_id {self.three_names()} GROUP BY user_id
                HAVING groupBitOr(multiIf(event = 'view', 1, event = 'cart', 2, 4)) = 3""",
            "carts in views, not in purchases": f"""
                SELECT DISTINCT user_id FROM ({carts}
                AND user_id IN ({views}) AND user_id NOT IN ({purchases}))""",
            "bitmaps in one pass": f"""
                SELECT arrayJoin(bitmapToArray(bitmapAndnot(bitmapAnd({bitmap('view')},
                {bitmap('cart')}), {bitmap('purchase')}))) {self.three_names()}""",
        }

    def counts_and_properties(self):
        view, cart = "event = 'view' AND platform = 'ios'", "event = 'cart' AND price >= 100"
        views, carts = self.users_of(view, 30), self.users_of(cart, 30)
        return {
            "group by user": f"""
                SELECT count() FROM (SELECT user_id FROM {self.table}
                WHERE (({view}) OR ({cart})) AND {self.last(30)} GROUP BY user_id
                HAVING countIf(event = 'view') >= 5 AND countIf(event = 'cart') > 0)""",
            "counted views in carts": f"""
                SELECT count() FROM ({views} AND user_id IN ({carts})
                GROUP BY user_id HAVING count() >= 5)""",
            "carts in counted views": f"""
                SELECT uniqExact(user_id) FROM ({carts}
                AND user_id IN ({views} GROUP BY user_id HAVING count() >= 5))""",
        }

    def sleepers(self):
        opened = self.users_of("event = 'email_open'", 90)
        return {
            "two counts in one pass": f"""
                SELECT uniqExact(user_id)
                - uniqExactIf(user_id, event = 'email_open' AND {self.last(90)})
                FROM {self.table} WHERE {self.known()}""",
            "a ready table of users": f"""
                SELECT count() FROM {USERS}
                WHERE first_seen <= {self.moment()} AND user_id NOT IN ({opened})""",
        }

    def plain_funnel(self, question, group="user_id", holds="true"):
        """windowFunnel over all users, and over those who have the second step at all."""
        first, second, _ = steps = PLAIN_FUNNELS[question]
        conditions = ", ".join(f"event = '{step}'" for step in steps)
        level = f"windowFunnel({DAY_MILLIS})({TIME}, {conditions}) AS level"
        events = f"FROM {self.table} WHERE event IN {steps} AND {self.known()}"
        seconds = self.users_of(f"event = '{second}'", None).replace("user_id", group, 1)
        firsts = self.users_of(f"event = '{first}'", None).replace(
            "user_id", "groupBitmap(user_id)", 1)
        best = f"SELECT max(level) AS level FROM (SELECT user_id, {level} {{}} GROUP BY {group}) " \
            "GROUP BY user_id" if group != "user_id" else f"SELECT {level} {{}} GROUP BY user_id"
        among = f"({group}) IN ({seconds})"
        whole = {"windowFunnel": f"""
            SELECT countIf(level >= 1), countIf(level >= 2), countIf(level >= 3)
            FROM ({best.format(events)})"""} if group == "user_id" else {}
        return whole | {
            f"windowFunnel where there is a {second}": f"""
                SELECT ({firsts}), countIf(level >= 2), countIf(level >= 3)
                FROM ({best.format(f'{events} AND {among}')})""",
        }

    def funnel_3(self):
        return self.plain_funnel("funnel_3")

    def funnel_holding(self):
        return self.plain_funnel("funnel_holding", "user_id, product_id")

    def funnel_exclusion(self):
        """What is excluded between the first and the last step cuts a user's events into pieces,
        each with chains of its own."""
        first, second, third = PLAIN_FUNNELS["funnel_exclusion"]
        names = (first, second, third, EXCLUDED)
        events = f"FROM {self.table} WHERE event IN {names} AND {self.known()}"
        conditions = ", ".join(f"event = '{step}'" for step in names[:3])
        pieces = f"""SELECT user_id, time, event, countIf(event = '{EXCLUDED}')
            OVER (PARTITION BY user_id ORDER BY time) AS piece {events}"""
        codes = ", ".join(f"event = '{step}', {code}" for code, step in enumerate(names[:3], 1))
        arrays = f"""SELECT arrayMax(part -> arrayReduce('windowFunnel({DAY_MILLIS})',
            part.1, arrayMap(x -> x = 1, part.2), arrayMap(x -> x = 2, part.2),
            arrayMap(x -> x = 3, part.2)), arrayMap(part -> (part.1, part.2), pieces)) AS level
            FROM (SELECT arrayMap(part -> (arrayMap(x -> x.1, part), arrayMap(x -> x.2, part)),
            arraySplit(x -> x.2 = 4, arraySort(groupArray(({TIME}, multiIf({codes}, 4))))))
            AS pieces {{}} GROUP BY user_id)"""
        counts = "SELECT {}, countIf(level >= 2), countIf(level >= 3) FROM ({})".format
        seconds = f"user_id IN ({self.users_of(f'event = {second!r}', None)})"
        firsts = f"(SELECT groupBitmap(user_id) FROM {self.table} WHERE event = '{first}' " \
            f"AND {self.known()})"
        numbered = f"""SELECT max(level) AS level FROM (SELECT user_id,
            windowFunnel({DAY_MILLIS})({TIME}, {conditions}) AS level
            FROM ({{}}) GROUP BY user_id, piece) GROUP BY user_id"""
        return {
            "windowFunnel of numbered pieces where there is a cart": counts(
                firsts, numbered.format(f"{pieces[:pieces.rindex('FROM')]}{events} AND {seconds}")),
            "windowFunnel of arrays where there is a cart": counts(
                firsts, arrays.format(f"{events} AND {seconds}")),
        }

    def five_steps(self, question, columns, tail):
        window, _ = LONG_FUNNELS[question]
        steps = ", ".join(f"event = '{name}'" for name in STEPS)
        level = f"windowFunnel({window})({TIME}, {steps}) AS level"
        return f"SELECT {level}, {columns} {self.of_steps(question)} {tail} HAVING level > 0"

    def of_steps(self, question):
        _, days = LONG_FUNNELS[question]
        return f"FROM {self.table} WHERE event IN {STEPS} AND {self.last(days)}"

    def funnel_5_by_platform(self):
        return self.by_platform("funnel_5_by_platform")

    def funnel_5_week(self):
        return self.by_platform("funnel_5_week")

    def by_platform(self, question):
        """No function of ClickHouse tells where a funnel's chain began. Most users visit from one
        platform, for whom that does not matter; of the others the chains are rebuilt."""
        visits = f"event = 'visit' AND {self.last(LONG_FUNNELS[question][1])}"
        several = f"""SELECT user_id FROM {self.table} WHERE {visits}
            GROUP BY user_id HAVING min(platform) != max(platform)"""
        easy = self.five_steps(
            question, f"anyIf({_platform_code()}, event = 'visit') AS platform",
            f"AND user_id NOT IN ({several}) GROUP BY user_id")
        rebuilt = self.chains(question, f"AND user_id IN ({several})")
        sums = ", ".join(f"sum(users_{k})" for k in range(1, 6))
        name = f"arrayElement({list(PLATFORMS)}, platform)"
        return {
            "windowFunnel, chains rebuilt where platforms differ": f"""
                SELECT {name}, {sums} FROM (
                SELECT platform, {_reached()} FROM ({easy}) GROUP BY platform UNION ALL
                SELECT platform, {_reached()} FROM ({rebuilt}) GROUP BY platform)
                GROUP BY platform""",
            "chains rebuilt by window functions": f"""
                SELECT {name}, {_reached()} FROM ({self.chains(question, '')})
                GROUP BY platform""",
        }

    def chains(self, question, restriction):
        """Level and first platform of each user's chain: the longest, of these the one that ends
        earliest, of these the one that starts latest. `start_k` is the latest start, with its
        platform in the low three bits, of a chain of k steps so far; being in order of time, the
        latest is the maximum."""
        window, _ = LONG_FUNNELS[question]
        step = f"toUInt8(indexOf({list(STEPS)}, event))"
        inside = f"({{0}} > 0 AND t <= bitShiftRight({{0}}, 3) + {window})".format
        rows = f"""SELECT user_id, {TIME} AS t, {step} AS step,
            t * 8 + {_platform_code()} AS begun {self.of_steps(question)} {restriction}"""
        so_far = """WINDOW so_far AS (PARTITION BY user_id ORDER BY t
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)"""
        rows = f"""SELECT *, max(if(step = 1, begun, 0)) OVER so_far AS start_1
            FROM ({rows}) {so_far}"""
        for k in (2, 3, 4):
            start = f"start_{k - 1}"
            rows = f"""SELECT *, max(if(step = {k} AND {inside(start)}, {start}, 0))
                OVER so_far AS start_{k} FROM ({rows}) {so_far}"""
        start = "multiIf(step = 1, begun, step = 2, start_1, step = 3, start_2, " \
            "step = 4, start_3, start_4)"
        ends = f"""SELECT user_id, step, t, {start} AS start FROM ({rows})
            WHERE step = 1 OR {inside('start')}"""
        # Times are below 1e14 milliseconds, so a longer chain always orders first.
        return f"""SELECT max(step) AS level, bitAnd(argMin(start,
            toInt64(t) - toInt64(step) * 100000000000000), 7) AS platform
            FROM ({ends}) GROUP BY user_id"""

    def weekly_retention(self):
        events = f"FROM {self.table} WHERE event IN ('visit', 'purchase') AND {self.known()}"
        week = "toRelativeWeekNum({}, 'UTC')".format
        sizes = f"""SELECT toMonday(first) AS cohort, count() AS size FROM (
            SELECT min(time) AS first FROM {self.table} WHERE event = 'visit'
            AND {self.known()} GROUP BY user_id) GROUP BY cohort"""
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
                AND {self.known()}) AS bought
                INNER JOIN (SELECT user_id, min(time) AS first FROM {self.table}
                WHERE event = 'visit' AND {self.known()}
                AND user_id IN (SELECT user_id FROM {self.table} WHERE event = 'purchase')
                GROUP BY user_id) AS visits USING user_id
                WHERE time > first GROUP BY cohort, k) AS cells
                INNER JOIN ({sizes}) AS sizes USING cohort""",
        }

    def pieces(self):
        """An array of sessions for each user: arrays of times."""
        times = f"arraySort(groupArray({TIME}))"
        return f"""SELECT arraySplit((t, since) -> since > {GAP_MILLIS}, times,
            arrayDifference(times)) AS pieces FROM (SELECT {times} AS times
            FROM {self.table} WHERE {self.known()} GROUP BY user_id)"""

    def opened(self):
        """The events, each with whether it opens a session."""
        return f"""SELECT user_id, {TIME} AS t, t - lagInFrame(t, 1, 0) OVER
            (PARTITION BY user_id ORDER BY t ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
            > {GAP_MILLIS} AS opens FROM {self.table} WHERE {self.known()}"""

    def session_count(self):
        return {
            "arrays by user": f"""SELECT sum(1 + arrayCount(since -> since > {GAP_MILLIS},
                arrayDifference(times))) FROM (SELECT arraySort(groupArray({TIME})) AS times
                FROM {self.table} WHERE {self.known()} GROUP BY user_id)""",
            "a window function": f"SELECT countIf(opens) FROM ({self.opened()})",
        }

    def sessions(self):
        day = "toDate(fromUnixTimestamp64Milli(toInt64({}), 'UTC'))".format
        return {
            "arrays by user": f"""SELECT {day('piece[1]')} AS day, count(), sum(length(piece)),
                avg(piece[-1] - piece[1]) / 1000
                FROM (SELECT arrayJoin(pieces) AS piece FROM ({self.pieces()})) GROUP BY day""",
            "window functions": f"""SELECT {day('started')} AS day, count(), sum(events),
                avg(ended - started) / 1000 FROM (SELECT min(t) AS started, max(t) AS ended,
                count() AS events FROM (SELECT user_id, t, sum(opens) OVER
                (PARTITION BY user_id ORDER BY t) AS session FROM ({self.opened()}))
                GROUP BY user_id, session) GROUP BY day""",
        }

    def paths(self):
        events = f"FROM {self.table} WHERE {self.known()}"
        counted = """SELECT arrayStringConcat(path, ' > ') AS way, uniqExact(user_id),
            count() AS occurrences FROM ({}) GROUP BY path
            ORDER BY occurrences DESC, way LIMIT 20""".format
        lead = "leadInFrame(toString(event), {}) OVER next".format
        return {
            "arrays by user": counted(f"""SELECT user_id, arrayJoin(arrayMap(i ->
                arraySlice(names, i, 3), arrayFilter(i -> names[i] = 'visit',
                arrayEnumerate(names)))) AS path FROM (SELECT user_id,
                arrayMap(x -> x.2, arraySort(x -> x.1, groupArray(({TIME}, event)))) AS names
                {events} GROUP BY user_id)"""),
            "window functions": counted(f"""SELECT user_id, arrayFilter(name -> name != '',
                [toString(event), second, third]) AS path FROM (SELECT user_id, event,
                {lead(1)} AS second, {lead(2)} AS third {events} WINDOW next AS (PARTITION BY
                user_id ORDER BY time ROWS BETWEEN CURRENT ROW AND 2 FOLLOWING))
                WHERE event = 'visit'"""),
        }

    def attribution(self):
        bought = f"""SELECT user_id, time, amount FROM {self.table}
            WHERE event = 'purchase' AND {self.known()}"""
        touched = f"""SELECT user_id, time, assumeNotNull(campaign) AS source FROM {self.table}
            WHERE event = 'visit' AND campaign IS NOT NULL AND {self.known()}"""
        inside = f"dateDiff('millisecond', touched.time, bought.time) <= {LOOKBACK_MILLIS}"
        credited = f"""SELECT if(touched.source != '' AND {inside}, toString(touched.source),
            '(direct)') AS touch, uniqExact(bought.user_id) AS users, count() AS conversions,
            sum(amount) AS value FROM ({bought}) AS bought ASOF LEFT JOIN ({touched}) AS touched
            ON bought.user_id = touched.user_id AND bought.time > touched.time GROUP BY touch"""
        touches = f"SELECT toString(source) AS touch, count() AS touches FROM ({touched}) " \
            "GROUP BY touch"
        return {"ASOF join": f"""SELECT touch, touches, users, ifNull(conversions, 0),
            ifNull(value, 0) FROM ({credited}) AS credited FULL JOIN ({touches}) AS touches
            USING touch"""}

    def trail(self):
        return {"as it is": f"""SELECT {', '.join(COLUMNS[1:])} FROM {self.table}
            WHERE user_id = {self.asked.user} AND {self.known()} ORDER BY time"""}

    def distinct_users(self, period):
        start = STARTS[period].format("time")
        return {name: f"SELECT {start} AS start, {name}(user_id) FROM {self.table} GROUP BY start"
                for name in ("uniqExact", "groupBitmap")}

    def daily_users(self):
        return self.distinct_users("day")

    def weekly_users(self):
        return self.distinct_users("week")

    def monthly_users(self):
        return self.distinct_users("month")

    def join_users(self):
        return {"joined": f"""SELECT toStartOfMonth(first_seen) AS month, count(), sum(amount)
            FROM {self.table} AS events INNER JOIN {USERS} AS users
            ON events.user_id = users.user_id WHERE event = 'purchase' GROUP BY month"""}


def _platform_code():
    return f"toUInt8(indexOf({list(PLATFORMS)}, ifNull(platform, '')))"


def _reached():
    return ", ".join(f"countIf(level >= {k}) AS users_{k}" for k in range(1, 6))


class Bitmaps(Moments):
    """Sets of users by event and day, made ready; what lies on a broken day comes from the table
    of events that is in order of time."""

    ANSWERED = ("abandoned_cart", "export_ids", "sleepers", *PERIODS)
    USER = {"bitmaps": "user_id", "bitmaps_raw": "sipHash64(user_id)"}

    def __init__(self, asked):
        super().__init__(asked)
        self.table = f"{DATABASE}.{asked.table}"
        self.user = self.USER[asked.table]

    @classmethod
    def left_out(cls, question, table):
        if question not in cls.ANSWERED:
            return "no question of sets of users by event and day"
        if question == "export_ids" and table == "bitmaps_raw":
            return "hashes are no ids"
        return None

    def of(self, question):
        if question in PERIODS:
            start = STARTS[PERIODS[question]].format("day")
            return {"merged": f"SELECT {start} AS start, groupBitmapMerge(users) "
                              f"FROM {self.table} GROUP BY start"}
        return {"merged, and the edges from rows": getattr(self, question)()}

    def states(self, names, days):
        """Name and a bitmap of its users, in several rows: whole days ready, broken ones from
        rows."""
        first = self.as_of_millis - days * DAY_MILLIS
        begin, end = -(-first // DAY_MILLIS), self.as_of_millis // DAY_MILLIS
        named = f"event IN ({', '.join(map(repr, names))})"
        day = "toDate({})".format
        edges = [f"time > {self.moment(days)} AND time < {_midnight(begin)}",
                 f"time >= {_midnight(end)} AND {self.known()}"]
        rows = " UNION ALL ".join(
            f"SELECT event, groupBitmapState({self.user}) AS users FROM {DATABASE}.by_event_time "
            f"WHERE {named} AND {edge} GROUP BY event" for edge in edges)
        return f"""SELECT event, users FROM {self.table} WHERE {named}
            AND day >= {day(begin)} AND day < {day(end)} UNION ALL {rows}"""

    def abandoned(self, wanted):
        bitmap = "groupBitmapMergeStateIf(users, event = '{}')".format
        states = self.states(("view", "cart", "purchase"), 30)
        return f"SELECT {wanted}(bitmapAnd({bitmap('view')}, {bitmap('cart')}), " \
            f"{bitmap('purchase')}) FROM ({states})"

    def abandoned_cart(self):
        return self.abandoned("bitmapAndnotCardinality")

    def export_ids(self):
        return f"SELECT arrayJoin(bitmapToArray(({self.abandoned('bitmapAndnot')})))"

    def sleepers(self):
        return f"""SELECT (SELECT count() FROM {USERS} WHERE first_seen <= {self.moment()})
            - (SELECT groupBitmapMerge(users) FROM ({self.states(('email_open',), 90)}))"""


def _midnight(day):
    return f"fromUnixTimestamp64Milli({day * DAY_MILLIS}, 'UTC')"
