"""The questions: what each asks, what ratio is wanted, and how answers of all engines compare.

The words for each engine are in `harness/sql/`, the typed plans in `benches/src/questions.rs`.
"""

import json
import math
import re
import zlib
from collections import namedtuple

from harness.population import PROPERTIES

# An ordinary query may take half as long again as the slower peer.
ORDINARY = 1 / 1.5

# Answers of as many rows as there are users: of them a digest is compared.
DIGESTED = ("export_ids",)

# `least`: how many times faster than a peer is wanted, None for ordinary queries. `whole`: asked of
# all events, and not as of the middle of the last day. `typed`: has a twin in questions.rs.
Question = namedtuple("Question", "text least whole typed")


def behaviour(text, least, typed=True):
    return Question(text, least, False, typed)


def ordinary(text, least=None):
    return Question(text, least, True, False)


QUESTIONS = {
    "abandoned_cart": behaviour("viewed AND put in cart AND NOT purchased, last 30 days", 200),
    "counts_and_properties": behaviour(
        "viewed on ios >= 5 times AND put in cart at a price >= 100, last 30 days", None),
    "sleepers": behaviour("NOT opened an e-mail in 90 days, over all known users", None),
    "export_ids": behaviour("all user ids of the abandoned carts, read whole", None),
    "funnel_3": behaviour("funnel view > cart > purchase within 1 day", 40),
    "funnel_5_by_platform": behaviour(
        "funnel of five steps within 1 day, last 30 days, by platform of the chain's first event",
        40),
    "funnel_5_week": behaviour(
        "the same five steps within 7 days, over 90 days, by platform", 40),
    "funnel_holding": behaviour(
        "funnel view > cart > purchase of the same product within 1 day", 20),
    "funnel_exclusion": behaviour(
        "funnel visit > cart > purchase within 1 day, without a search between", 40),
    "weekly_retention": behaviour(
        "retention of visitors as buyers, by week, with the cohorts' sizes", 30),
    "session_count": behaviour("number of sessions, cut by 30 minutes", 5),
    "sessions": behaviour("sessions, their length and events, by day", 5, typed=False),
    "paths": behaviour("the 20 most common paths of three events from a visit on", 5),
    "attribution": behaviour(
        "revenue by the last campaign visit in the 7 days before a purchase", 10),
    "trail": behaviour("all events of one user, in order", None),
    "daily_users": ordinary("distinct users by day", 100),
    "weekly_users": ordinary("distinct users by week", 100),
    "monthly_users": ordinary("distinct users by month", 100),
    "top_products": ordinary("the ten products with most different viewers"),
    "sum_by_event": ordinary("GROUP BY event, with a sum", 5),
    "scan": ordinary("two sums and a maximum over all events"),
    "filter": ordinary("events of one platform in a range of prices: count and average"),
    "group_by_one": ordinary("GROUP BY category, with an average"),
    "group_by_two": ordinary("GROUP BY platform, category, with a maximum"),
    "top_n": ordinary("the ten largest purchases"),
    "join_users": ordinary("purchases JOIN users, by month of the first visit"),
    "distinct": ordinary("count(DISTINCT product) of views"),
}

# Wanted of a segment beside bitmaps of users by event and day that were made ready before.
LEAST_OF_BITMAPS = {"abandoned_cart": 5, "sleepers": 5}


def wanted(name):
    return QUESTIONS[name].least or ORDINARY


def normal(name, rows):
    """Rows of any engine in one spelling and order."""
    if name in ("funnel_3", "funnel_holding", "funnel_exclusion") and len(rows) == 1:
        rows = [[step + 1, users] for step, users in enumerate(rows[0])]
    if name in ("funnel_5_by_platform", "funnel_5_week") and rows and len(rows[0]) > 3:
        rows = [[row[0], step + 1, users] for row in rows for step, users in enumerate(row[1:])]
    if name == "trail" and rows and len(rows[0]) == 3:
        rows = [_with_properties(row) for row in rows]
    if name in DIGESTED:
        return [[float(len(rows)), float(digest(rows))]]
    rows = [[value_of(value) for value in row] for row in rows]
    return sorted(rows, key=lambda row: [_key(value) for value in row])


def _with_properties(row):
    """An event whose properties are JSON text, with a column for each property."""
    properties = json.loads(row[2])
    return [*row[:2], *(properties.get(name) for name in PROPERTIES)]


def digest(rows):
    """Of many rows in whatever order."""
    return sum(zlib.crc32("\t".join(map(str, row)).encode()) for row in rows)


def _key(value):
    return f"{value:.6g}" if isinstance(value, float) else value


def same(rows, others):
    """Whether normal rows say the same; sums of floats depend on their order."""
    return len(rows) == len(others) and all(
        len(row) == len(other) and all(map(_same_value, row, other))
        for row, other in zip(rows, others))


def _same_value(value, other):
    if isinstance(value, float) and isinstance(other, float):
        return math.isclose(value, other, rel_tol=1e-9)
    return value == other


def differing(rows, others):
    """A few rows that differ, for a message."""
    pairs = zip(rows, others)
    found = [pair for pair in pairs if not same([pair[0]], [pair[1]])][:3]
    return f"{len(rows)} rows are expected, there are {len(others)}; these differ: {found}"


MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d+))?(?:Z|\+00:00)?$")


def value_of(value):
    """A number or text; a moment without what is zero at its end."""
    text = "" if value is None else str(value)
    text = "" if text in ("\\N", "NULL") else text
    try:
        return float(text)
    except ValueError:
        pass
    moment = MOMENT.match(text)
    if not moment:
        return text
    day, clock, fraction = moment.groups()
    fraction = (fraction or "").rstrip("0")
    clock = f"{clock}.{fraction}" if fraction else clock
    return day if clock == "00:00:00" else f"{day} {clock}"
