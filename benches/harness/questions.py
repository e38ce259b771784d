"""The questions in ClickHouse's SQL, each in the formulations that were ever fastest somewhere.

Their twins for Pugmark are in `benches/src/questions.rs`. The generated population has no two
events of one user at one time, times of whole milliseconds, and ids that fit 32 bits.
"""

DAY_MILLIS = 86_400_000
PLATFORMS = ("android", "ios", "web", "mobile_web", "tv")
STEPS = ("visit", "search", "view", "cart", "purchase")

# Name, what is asked, shape of the answer.
QUESTIONS = {
    "abandoned_cart": ("viewed AND put in cart AND NOT purchased, last 30 days", "count"),
    "counts_and_properties": (
        "viewed on ios >= 5 times AND put in cart at a price >= 100, last 30 days", "count"),
    "sleepers": ("NOT opened an e-mail in 90 days, over all known users", "count"),
    "funnel_3": ("funnel view > cart > purchase within 1 day, all events", "steps"),
    "funnel_5_by_platform": (
        "funnel " + " > ".join(STEPS) + " within 1 day, last 30 days, by platform of the chain's "
        "first event", "platforms"),
    "funnel_5_on_one_platform": (
        "the same five steps, all on one platform, for each platform", "platforms"),
}


class Formulations:
    """SQL over one table, as of one moment."""

    def __init__(self, table, users_table, as_of_millis):
        self.table = table
        self.users_table = users_table
        self.as_of_millis = as_of_millis

    def of(self, question):
        """The formulations of a question: name -> SQL."""
        return getattr(self, question)()

    def moment(self, days_before=0):
        millis = self.as_of_millis - days_before * DAY_MILLIS
        return f"fromUnixTimestamp64Milli({millis}, 'UTC')"

    def last(self, days):
        return f"time > {self.moment(days)} AND time <= {self.moment()}"

    def users_of(self, condition, days):
        return f"SELECT user_id FROM {self.table} WHERE {condition} AND {self.last(days)}"

    def abandoned_cart(self):
        views, carts, purchases = (
            self.users_of(f"event = '{name}'", 30) for name in ("view", "cart", "purchase"))
        events = f"FROM {self.table} WHERE event IN ('view', 'cart', 'purchase') AND {self.last(30)}"
        bitmap = "groupBitmapStateIf(user_id, event = '{}')".format
        return {
            "group by user, bit or": f"""
                SELECT count() FROM (SELECT user_id {events} GROUP BY user_id
                HAVING groupBitOr(multiIf(event = 'view', 1, event = 'cart', 2, 4)) = 3)""",
            "carts in views, not in purchases": f"""
                SELECT uniqExact(user_id) FROM ({carts}
                AND user_id IN ({views}) AND user_id NOT IN ({purchases}))""",
            "bitmaps in one pass": f"""
                SELECT bitmapAndnotCardinality(bitmapAnd({bitmap('view')}, {bitmap('cart')}),
                {bitmap('purchase')}) {events}""",
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
        known = f"time <= {self.moment()}"
        opened = self.users_of("event = 'email_open'", 90)
        return {
            "all users minus openers": f"""
                SELECT (SELECT uniqExact(user_id) FROM {self.table} WHERE {known})
                - (SELECT uniqExact(user_id) FROM ({opened}))""",
            "two counts in one pass": f"""
                SELECT uniqExact(user_id)
                - uniqExactIf(user_id, event = 'email_open' AND {self.last(90)})
                FROM {self.table} WHERE {known}""",
            "a ready table of users": f"""
                SELECT count() FROM {self.users_table}
                WHERE first_seen <= {self.moment()} AND user_id NOT IN ({opened})""",
        }

    def funnel_3(self, also=""):
        steps = "event = 'view', event = 'cart', event = 'purchase'"
        level = f"windowFunnel({DAY_MILLIS})(reinterpretAsUInt64(time), {steps})"
        events = f"FROM {self.table} WHERE event IN ('view', 'cart', 'purchase'){also}"
        carts = f"SELECT user_id FROM {self.table} WHERE event = 'cart'{also}"
        return {
            "windowFunnel": f"""
                SELECT countIf(level >= 1), countIf(level >= 2), countIf(level >= 3)
                FROM (SELECT {level} AS level {events} GROUP BY user_id)""",
            "windowFunnel over users with a cart": f"""
                SELECT (SELECT groupBitmap(user_id) FROM {self.table} WHERE event = 'view'{also}),
                countIf(level >= 2), countIf(level >= 3)
                FROM (SELECT {level} AS level {events} AND user_id IN ({carts})
                GROUP BY user_id)""",
        }

    def five_steps(self, columns, tail):
        steps = ", ".join(f"event = '{name}'" for name in STEPS)
        level = f"windowFunnel({DAY_MILLIS})(reinterpretAsUInt64(time), {steps}) AS level"
        return f"SELECT {level}, {columns} {self.of_steps()} {tail} HAVING level > 0"

    def of_steps(self):
        return f"FROM {self.table} WHERE event IN {STEPS} AND {self.last(30)}"

    def funnel_5_on_one_platform(self):
        users = self.five_steps("platform", "GROUP BY user_id, platform")
        return {"windowFunnel by user and platform":
                f"SELECT platform, {_reached()} FROM ({users}) GROUP BY platform"}

    def funnel_5_by_platform(self):
        """No function of ClickHouse tells where a funnel's chain began. Most users visit from one
        platform, for whom that does not matter; of the others the chains are rebuilt."""
        several = f"""SELECT user_id FROM {self.table} WHERE event = 'visit' AND {self.last(30)}
            GROUP BY user_id HAVING min(platform) != max(platform)"""
        easy = self.five_steps(
            f"anyIf({_platform_code()}, event = 'visit') AS platform",
            f"AND user_id NOT IN ({several}) GROUP BY user_id")
        rebuilt = self.chains(f"AND user_id IN ({several})")
        sums = ", ".join(f"sum(users_{k})" for k in range(1, 6))
        name = f"arrayElement({list(PLATFORMS)}, platform)"
        return {
            "windowFunnel, chains rebuilt where platforms differ": f"""
                SELECT {name}, {sums} FROM (
                SELECT platform, {_reached()} FROM ({easy}) GROUP BY platform UNION ALL
                SELECT platform, {_reached()} FROM ({rebuilt}) GROUP BY platform)
                GROUP BY platform""",
            "chains rebuilt by window functions": f"""
                SELECT {name}, {_reached()} FROM ({self.chains('')}) GROUP BY platform""",
        }

    def chains(self, restriction):
        """Level and first platform of each user's chain: the longest, of these the one that ends
        earliest, of these the one that starts latest. `start_k` is the latest start, with its
        platform in the low three bits, of a chain of k steps so far; being in order of time, the
        latest is the maximum."""
        step = f"toUInt8(indexOf({list(STEPS)}, event))"
        rows = f"""SELECT user_id, reinterpretAsUInt64(time) AS t, {step} AS step,
            t * 8 + {_platform_code()} AS begun {self.of_steps()} {restriction}"""
        so_far = """WINDOW so_far AS (PARTITION BY user_id ORDER BY t
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)"""
        rows = f"""SELECT *, max(if(step = 1, begun, 0)) OVER so_far AS start_1
            FROM ({rows}) {so_far}"""
        for k in (2, 3, 4):
            start = f"start_{k - 1}"
            rows = f"""SELECT *, max(if(step = {k} AND {_inside(start)}, {start}, 0))
                OVER so_far AS start_{k} FROM ({rows}) {so_far}"""
        start = "multiIf(step = 1, begun, step = 2, start_1, step = 3, start_2, " \
            "step = 4, start_3, start_4)"
        ends = f"""SELECT user_id, step, t, {start} AS start FROM ({rows})
            WHERE step = 1 OR {_inside('start')}"""
        # Times are below 1e14 milliseconds, so a longer chain always orders first.
        return f"""SELECT max(step) AS level, bitAnd(argMin(start,
            toInt64(t) - toInt64(step) * 100000000000000), 7) AS platform
            FROM ({ends}) GROUP BY user_id"""


def _inside(start):
    return f"({start} > 0 AND t <= bitShiftRight({start}, 3) + {DAY_MILLIS})"


def _platform_code():
    return f"toUInt8(indexOf({list(PLATFORMS)}, ifNull(platform, '')))"


def _reached():
    return ", ".join(f"countIf(level >= {k}) AS users_{k}" for k in range(1, 6))


def answer(question, rows):
    """Rows as Pugmark gives the answer."""
    shape = QUESTIONS[question][1]
    if shape == "count":
        return int(rows[0][0])
    if shape == "steps":
        return [int(figure) for figure in rows[0]]
    return {row[0]: [int(figure) for figure in row[1:]] for row in rows}
