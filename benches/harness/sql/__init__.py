"""The questions in the words of each engine: several formulations, by name, where it is not clear
which is fastest."""

from collections import namedtuple

# What formulations need to know: the present, the days of the population, the user whose trail is
# asked for, and, of an engine with several tables, which.
Asked = namedtuple("Asked", "as_of_millis days user table")

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
    "top_products": """SELECT product_id, count(DISTINCT user_id) AS viewers FROM {events}
        WHERE event = 'view' GROUP BY product_id ORDER BY viewers DESC, product_id LIMIT 10""",
}

PERIODS = {"daily_users": "day", "weekly_users": "week", "monthly_users": "month"}

# Steps and milliseconds of the funnels without a breakdown.
PLAIN_FUNNELS = {
    "funnel_3": ("view", "cart", "purchase"),
    "funnel_holding": ("view", "cart", "purchase"),
    "funnel_exclusion": ("visit", "cart", "purchase"),
}
EXCLUDED = "search"

# Milliseconds of the window and days of the range of the funnels by platform.
LONG_FUNNELS = {"funnel_5_by_platform": (86_400_000, 30), "funnel_5_week": (7 * 86_400_000, None)}

GAP_MILLIS = 1_800_000
LOOKBACK_MILLIS = 7 * 86_400_000
