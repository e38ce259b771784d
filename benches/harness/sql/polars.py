"""The questions in Polars' expressions, over a file in the order of user and time.

That order spares most questions a sort and groups by user: `key` is the user and the time in one
number, so that two events lie within a window, of one user, where their keys do. Whatever
was last (`forward_fill`) of another user has a key that is too far away.
"""

from datetime import datetime, timedelta, timezone

from harness.population import COLUMNS, DAY_MILLIS, PLATFORMS, START_MICROS, STEPS
from harness.sql import (
    EXCLUDED, GAP_MILLIS, LONG_FUNNELS, LOOKBACK_MILLIS, PERIODS, PLAIN_FUNNELS)

WEEK_DAYS = 7
STARTS = {"day": "1d", "week": "1w", "month": "1mo"}


def formulations(question, asked):
    """Name -> what makes a lazy frame of the two files' frames."""
    return Formulations(asked).of(question)


class Formulations:
    """All methods take lazy frames of events and of users and give a lazy frame."""

    def __init__(self, asked):
        import polars
        self.pl = polars
        self.asked = asked
        self.now = datetime.fromtimestamp(0, timezone.utc).replace(tzinfo=None) \
            + timedelta(milliseconds=asked.as_of_millis)
        # Of one user's key and the next's: the days of the population and the longest window.
        self.stride = (asked.days + 2 * WEEK_DAYS) * DAY_MILLIS

    def of(self, question):
        pl = self.pl
        if question in PERIODS:
            return self.distinct_users(STARTS[PERIODS[question]])
        if question in PLAIN_FUNNELS:
            return self.plain_funnels(question)
        if question in LONG_FUNNELS:
            return {"keys filled forward": lambda events, users:
                    self.long_funnel(events, question)}
        return getattr(self, question)(pl.col, pl)

    def known(self, events, days=None):
        time = self.pl.col("time")
        events = events.filter(time <= self.now)
        return events if days is None else events.filter(time > self.now - timedelta(days=days))

    def key(self):
        time = self.pl.col("time").dt.epoch("ms") - START_MICROS // 1_000
        return self.pl.col("user_id").cast(self.pl.Int64) * self.stride + time

    def distinct_users(self, every):
        start = self.pl.col("time").dt.truncate(every)
        return {
            "distinct by group": lambda events, users: events.group_by(start).agg(
                self.pl.col("user_id").n_unique()),
            "distinct first": lambda events, users: events.select(start, "user_id").unique()
                .group_by("time").len(),
        }

    def abandoned(self, events):
        col = self.pl.col
        did = lambda name: (col("event") == name).any()
        events = self.known(events.filter(col("event").is_in(["view", "cart", "purchase"])), 30)
        return events.group_by("user_id").agg(
            abandoned=did("view") & did("cart") & ~did("purchase")).filter("abandoned")

    def joined(self, events):
        users = lambda name: self.known(
            events.filter(self.pl.col("event") == name), 30).select("user_id")
        carts = users("cart").unique().join(users("view"), on="user_id", how="semi")
        return carts.join(users("purchase"), on="user_id", how="anti")

    def abandoned_cart(self, col, pl):
        return {"group by user": lambda events, users: self.abandoned(events).select(pl.len()),
                "joins": lambda events, users: self.joined(events).select(pl.len())}

    def export_ids(self, col, pl):
        return {"group by user": lambda events, users: self.abandoned(events).select("user_id"),
                "joins": lambda events, users: self.joined(events).select("user_id")}

    def counts_and_properties(self, col, pl):
        def joined(events, users):
            views = (col("event") == "view") & (col("platform") == "ios")
            carts = (col("event") == "cart") & (col("price") >= 100)
            counted = self.known(events.filter(views), 30).group_by("user_id").len()
            carts = self.known(events.filter(carts), 30).select("user_id")
            return counted.filter(col("len") >= 5).join(carts, on="user_id", how="semi").select(
                pl.len())
        return {"joins": joined}

    def sleepers(self, col, pl):
        return {"a ready table of users": lambda events, users:
                users.filter(col("first_seen") <= self.now).join(
                    self.known(events.filter(col("event") == "email_open"), 90).select("user_id"),
                    on="user_id", how="anti").select(pl.len())}

    def chains(self, events, steps, window, days, excluded=None):
        """Level and platform of each user: the longest chain, of these the one that ends earliest,
        of these the one that starts latest."""
        pl, col = self.pl, self.pl.col
        event = col("event").cast(pl.String)
        names = [*steps, *([excluded] if excluded else [])]
        events = self.known(events.filter(col("event").is_in(names)), days)
        codes = {name: code for code, name in enumerate(PLATFORMS)}
        rows = events.select(
            "user_id", key=self.key(),
            step=event.replace_strict({name: k for k, name in enumerate(steps, 1)}, default=0,
                                      return_dtype=pl.Int64),
            code=col("platform").cast(pl.String).replace_strict(codes, default=7,
                                                                return_dtype=pl.Int64))
        last = lambda when, name: pl.when(when).then(name).forward_fill()
        if excluded:
            rows = rows.with_columns(cut=last(col("step") == 0, col("key")).fill_null(-1))
        rows = rows.with_columns(start_1=last(col("step") == 1, col("key")),
                                 code_1=last(col("step") == 1, col("code")))
        inside = lambda start: (col("key") - col(start) <= window) & (
            (col(start) > col("cut")) if excluded else True)
        for k in range(2, len(steps)):
            ends = (col("step") == k) & inside(f"start_{k - 1}")
            rows = rows.with_columns(**{
                f"start_{k}": last(ends, col(f"start_{k - 1}")),
                f"code_{k}": last(ends, col(f"code_{k - 1}"))})
        reached = (col("step") == 1).alias("reached")
        code = pl.when(col("step") == 1).then("code_1")
        for k in range(2, len(steps) + 1):
            reached |= (col("step") == k) & inside(f"start_{k - 1}")
            code = code.when(col("step") == k).then(f"code_{k - 1}")
        # A number that is smallest for the longest chain that ends earliest.
        pack = (len(steps) - col("step")) * (self.stride * 8) + col("key") % self.stride * 8 + code
        best = rows.filter(reached.fill_null(False)).group_by("user_id").agg(best=pack.min())
        return best.select(level=len(steps) - col("best") // (self.stride * 8),
                           platform=col("best") % 8)

    def plain_funnels(self, question):
        """Whoever holds a product is not in the order of the file."""
        found = {}
        if question != "funnel_holding":
            found["keys filled forward"] = lambda events, users: self.plain_funnel(
                events, question)
        if question != "funnel_exclusion":
            by = ["user_id", "product_id"] if question == "funnel_holding" else ["user_id"]
            found["join_asof"] = lambda events, users: self.joined_funnel(
                events, PLAIN_FUNNELS[question], by)
        return found

    def joined_funnel(self, events, steps, by):
        """Of each cart the last view before it, then of each purchase the last such cart."""
        pl, time = self.pl, self.pl.col("time")
        named = lambda name: self.known(
            events.filter(pl.col("event") == name)).select(*by, "time").sort("time")
        before = lambda later, earlier: later.join_asof(
            earlier, on="time", by=by, allow_exact_matches=False, check_sortedness=False).filter(
            time - pl.col("start") <= timedelta(milliseconds=DAY_MILLIS))
        first, second, third = (named(step) for step in steps)
        begun = first.join(second, on=by, how="semi").with_columns(start=time).sort("time")
        reached = before(second, begun)
        bought = before(third, reached)
        return pl.concat([frame.select(pl.col("user_id").n_unique().alias(f"users_{k}"))
                          for k, frame in enumerate((first, reached, bought))], how="horizontal")

    def plain_funnel(self, events, question):
        excluded = EXCLUDED if question == "funnel_exclusion" else None
        levels = self.chains(events, PLAIN_FUNNELS[question], DAY_MILLIS, None, excluded)
        return levels.select(*self.reached(3))

    def long_funnel(self, events, question):
        window, days = LONG_FUNNELS[question]
        levels = self.chains(events, STEPS, window, days)
        names = {code: name for code, name in enumerate(PLATFORMS)}
        return levels.group_by(self.pl.col("platform").replace_strict(
            names, default=None, return_dtype=self.pl.String)).agg(*self.reached(5))

    def reached(self, steps):
        return [(self.pl.col("level") >= k).sum().alias(f"users_{k}")
                for k in range(1, steps + 1)]

    def weekly_retention(self, col, pl):
        def joined(events, users):
            time = col("time")
            known = lambda name: self.known(events.filter(col("event") == name))
            visits = known("visit").group_by("user_id").agg(first=time.min())
            week = lambda moment: moment.dt.truncate("1w")
            sizes = visits.group_by(cohort=week(col("first"))).agg(size=pl.len())
            cells = known("purchase").select("user_id", "time").join(visits, on="user_id").filter(
                time > col("first")).group_by(cohort=week(col("first")), week=week(time)).agg(
                users=col("user_id").n_unique())
            k = (col("week") - col("cohort")).dt.total_days() // WEEK_DAYS
            return cells.join(sizes, on="cohort").select("cohort", "size", k.alias("k"), "users")
        return {"purchases joined with first visits": joined}

    def opened(self, events):
        """The events, each with whether it opens a session."""
        key = self.key()
        rows = self.known(events).select("time", key=key)
        return rows.with_columns(opens=(self.pl.col("key").diff() > GAP_MILLIS).fill_null(True))

    def session_count(self, col, pl):
        return {"keys": lambda events, users: self.opened(events).select(col("opens").sum())}

    def sessions(self, col, pl):
        def edges(events, users):
            rows = self.opened(events).with_row_index("place").with_columns(
                closes=col("opens").shift(-1, fill_value=True))
            rows = rows.filter(col("opens") | col("closes"))
            rows = rows.with_columns(
                length=pl.when(col("closes")).then(0).otherwise(
                    col("key").shift(-1) - col("key")),
                events=pl.when(col("closes")).then(1).otherwise(
                    col("place").cast(pl.Int64).shift(-1) - col("place") + 1))
            return rows.filter("opens").group_by(col("time").dt.truncate("1d")).agg(
                pl.len(), col("events").sum(), col("length").mean() / 1_000)

        def grouped(events, users):
            rows = self.opened(events).with_columns(session=col("opens").cum_sum())
            each = rows.group_by("session").agg(
                started=col("time").min(), events=pl.len(),
                length=col("key").max() - col("key").min())
            return each.group_by(col("started").dt.truncate("1d")).agg(
                pl.len(), col("events").sum(), col("length").mean() / 1_000)
        return {"openings and closings": edges, "running sums": grouped}

    def paths(self, col, pl):
        def shifted(events, users):
            user = col("user_id")
            stop = lambda place: pl.when(user.shift(-place) == user).then(
                col("event").shift(-place)).alias(f"stop_{place}")
            rows = self.known(events).select("user_id", "event", stop(1), stop(2))
            counted = rows.filter(col("event") == "visit").group_by(
                "event", "stop_1", "stop_2").agg(
                users=user.n_unique(), occurrences=pl.len())
            way = pl.concat_str(*(col(name).cast(pl.String) for name in (
                "event", "stop_1", "stop_2")), separator=" > ", ignore_nulls=True)
            return counted.select(way.alias("way"), "users", "occurrences").sort(
                "occurrences", "way", descending=[True, False]).head(20)
        return {"shifts": shifted}

    def attribution(self, col, pl):
        def joined(events, users):
            touched = self.known(events.filter(
                (col("event") == "visit") & col("campaign").is_not_null()))
            touched = touched.select("user_id", "time", touch=col("campaign").cast(pl.String))
            bought = self.known(events.filter(col("event") == "purchase"))
            bought = bought.select("user_id", "time", "amount").sort("time")
            pairs = bought.join_asof(
                touched.sort("time"), on="time", by="user_id", allow_exact_matches=False,
                check_sortedness=False,
                tolerance=timedelta(milliseconds=LOOKBACK_MILLIS))
            credited = pairs.group_by(col("touch").fill_null("(direct)")).agg(
                users=col("user_id").n_unique(), conversions=pl.len(), value=col("amount").sum())
            touches = touched.group_by("touch").agg(touches=pl.len())
            rows = credited.join(touches, on="touch", how="full", coalesce=True)
            return rows.select("touch", *(col(name).fill_null(0) for name in (
                "touches", "users", "conversions", "value")))
        return {"join_asof": joined}

    def trail(self, col, pl):
        return {"as it is": lambda events, users: self.known(
            events.filter(col("user_id") == self.asked.user)).select(COLUMNS[1:])}

    def join_users(self, col, pl):
        return {"joined": lambda events, users: events.filter(col("event") == "purchase")
                .select("user_id", "amount").join(users, on="user_id")
                .group_by(col("first_seen").dt.truncate("1mo")).agg(
                    pl.len(), col("amount").sum())}

    def sum_by_event(self, col, pl):
        return {"as it is": lambda events, users: events.group_by("event").agg(
            pl.len(), col("amount").count().alias("amounts"), col("amount").sum()).select(
            "event", "len", pl.when(col("amounts") > 0).then("amount"))}

    def scan(self, col, pl):
        return {"as it is": lambda events, users: events.select(
            col("price").sum(), col("amount").sum(), col("product_id").max())}

    def filter(self, col, pl):
        return {"as it is": lambda events, users: events.filter(
            (col("platform") == "ios") & col("price").is_between(50, 100)).select(
            pl.len(), col("price").mean())}

    def group_by_one(self, col, pl):
        return {"as it is": lambda events, users: events.group_by("category_code").agg(
            pl.len(), col("price").mean())}

    def group_by_two(self, col, pl):
        return {"as it is": lambda events, users: events.group_by(
            "platform", "category_code").agg(pl.len(), col("price").max())}

    def top_n(self, col, pl):
        return {"as it is": lambda events, users: events.filter(
            col("event") == "purchase").select("user_id", "amount").sort(
            "amount", "user_id", descending=[True, False]).head(10)}

    def distinct(self, col, pl):
        return {"as it is": lambda events, users: events.filter(
            col("event") == "view").select(col("product_id").n_unique())}

    def top_products(self, col, pl):
        viewed = lambda events: events.filter(col("event") == "view")
        top = lambda counted: counted.sort(
            "viewers", "product_id", descending=[True, False]).head(10)
        return {
            "distinct by group": lambda events, users: top(viewed(events).group_by(
                "product_id").agg(viewers=col("user_id").n_unique())),
            "distinct first": lambda events, users: top(viewed(events).select(
                "product_id", "user_id").unique().group_by("product_id").agg(viewers=pl.len())),
        }
