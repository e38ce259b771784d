"""The questions in Pugmark's SQL; its present is a setting."""

from harness.population import STEPS
from harness.sql import PERIODS, SHARED

ABANDONED = """FROM users WHERE did('view', last => INTERVAL '30 days')
    AND did('cart', last => INTERVAL '30 days')
    AND NOT did('purchase', last => INTERVAL '30 days')"""
FIVE = ", ".join(f"step('{step}')" for step in STEPS)
SESSIONS = "sessions(gap => INTERVAL '30 minutes')"

OWN = {
    "abandoned_cart": f"SELECT count(*) {ABANDONED}",
    "export_ids": f"SELECT user_id {ABANDONED}",
    "counts_and_properties": """SELECT count(*) FROM users
        WHERE did(event = 'view' AND platform = 'ios', at_least => 5, last => INTERVAL '30 days')
        AND did(event = 'cart' AND price >= 100, last => INTERVAL '30 days')""",
    "sleepers": """SELECT count(*) FROM users
        WHERE NOT did('email_open', last => INTERVAL '90 days')""",
    "funnel_3": """SELECT step, users FROM funnel('view', 'cart', 'purchase',
        within => INTERVAL '1 day')""",
    "funnel_5_by_platform": f"""SELECT "by", step, users FROM funnel({FIVE},
        within => INTERVAL '1 day', last => INTERVAL '30 days', by => platform)""",
    "funnel_5_week": f"""SELECT "by", step, users FROM funnel({FIVE},
        within => INTERVAL '7 days', by => platform)""",
    "funnel_holding": """SELECT step, users FROM funnel('view', 'cart', 'purchase',
        within => INTERVAL '1 day', holding => product_id)""",
    "funnel_exclusion": """SELECT step, users FROM funnel('visit', 'cart', 'purchase',
        within => INTERVAL '1 day', exclude => 'search')""",
    "weekly_retention": """SELECT cohort, size, k, users
        FROM retention(start => 'visit', returns => 'purchase', period => 'week')
        WHERE users > 0""",
    "session_count": f"SELECT count(*) FROM {SESSIONS}",
    "sessions": f"""SELECT date_trunc('day', started), count(*), sum(events),
        avg(CAST(ended AS BIGINT) - CAST(started AS BIGINT)) / 1e6 FROM {SESSIONS} GROUP BY 1""",
    "paths": """SELECT array_to_string(path, ' > ') AS way, users, occurrences
        FROM paths('visit', steps => 2, per => 'event')
        ORDER BY occurrences DESC, way LIMIT 20""",
    "attribution": """SELECT touch, touches, users, conversions, value
        FROM attribution('purchase', event = 'visit' AND campaign IS NOT NULL, by => campaign,
        lookback => INTERVAL '7 days', model => 'last', value => amount)""",
    "join_users": """SELECT date_trunc('month', first_seen), count(*), sum(amount)
        FROM events JOIN users ON events.user_id = users.user_id
        WHERE event = 'purchase' GROUP BY 1""",
}


def formulations(question, asked):
    if question in SHARED:
        return {"": SHARED[question].format(events="events")}
    if question in PERIODS:
        return {"": f"SELECT date_trunc('{PERIODS[question]}', time), count(DISTINCT user_id) "
                    "FROM events GROUP BY 1"}
    if question == "trail":
        return {"": f"SELECT time, event, properties FROM trail('{asked.user}')"}
    return {"": OWN[question]}
