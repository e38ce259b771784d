"""Questions of `docs/semantics.md` in ordinary SQL over a table `events` whose column `ord` numbers
the events in total order, user by user."""


def within(later, earlier, span):
    return f" AND {later}.time - {earlier}.time <= INTERVAL '{span}'" if span else ""


def chain(steps, span, holding, gap):
    """FROM and ON of all chains of these steps, called s1, s2 …"""
    tables = [f"events s{number}" for number in range(1, len(steps) + 1)]
    holds = [f"s{number}.{condition}" for number, condition in enumerate(steps, 1)]
    for number in range(2, len(steps) + 1):
        step, before = f"s{number}", f"s{number - 1}"
        holds.append(f"{step}.user_id = s1.user_id AND {step}.ord > {before}.ord" + within(step, "s1", span))
        if gap:
            holds.append(gap.format(step=step, before=before))
        if holding:
            holds.append(f"{step}.{holding} = s1.{holding}")
    if holding:
        holds.append(f"s1.{holding} IS NOT NULL")
    return f"FROM {', '.join(tables)} WHERE {' AND '.join(holds)}"


def funnel(steps, span=None, holding=None, gap=None, also="true"):
    """Step and users. Steps compare a column: `event = 'view'`. `gap` says what must hold between
    neighbours, `also` of the first event."""
    rows = [
        f"SELECT {length} AS step, count(DISTINCT s1.user_id) AS users "
        f"{chain(steps[:length], span, holding, gap)} AND {also}"
        for length in range(1, len(steps) + 1)
    ]
    return " UNION ALL ".join(rows)


# What must hold between neighbours of a chain.
NEIGHBOURS = "{step}.ord = {before}.ord + 1"


def none_between(condition):
    return (f"NOT EXISTS (SELECT 1 FROM events x WHERE x.user_id = s1.user_id AND x.{condition} "
            "AND x.ord > {before}.ord AND x.ord < {step}.ord)")


def reported(first, second, span):
    """The reported chain of two steps of each user who has one: earliest end, then latest start."""
    return f"""
        SELECT user_id, arg_max(t1, o1) AS t1, any_value(t2) AS t2, max(o1) AS o1, any_value(o2) AS o2 FROM (
            SELECT s1.user_id, s1.time AS t1, s2.time AS t2, s1.ord AS o1, s2.ord AS o2,
                   min(s2.ord) OVER (PARTITION BY s1.user_id) AS earliest
              {chain([first, second], span, None, None)}) WHERE o2 = earliest GROUP BY user_id"""


def funnel_times(first, second, span):
    """Of the second step: users, median, mean and p90 of seconds."""
    return f"""
        WITH r AS (SELECT epoch_us(t2) - epoch_us(t1) AS us FROM ({reported(first, second, span)}))
        SELECT count(*), quantile_cont(us, 0.5) / 1e6, avg(us) / 1e6,
               list_sort(list(us))[CAST(ceil(0.9 * count(*)) AS INTEGER)] / 1e6 FROM r"""


def buckets(first, second, span, unit):
    """Bucket, step and users of a funnel of two steps by when chains start."""
    starts = f"date_trunc('{unit}', s1.time)"
    return " UNION ALL ".join(
        f"SELECT {starts} AS bucket, {length} AS step, count(DISTINCT s1.user_id) AS users "
        f"{chain([first, second][:length], span, None, None)} GROUP BY 1"
        for length in (1, 2))


def every(first, second, span):
    """Step and count of chains of two steps, each starting after the one before ends. Of the chains
    that end in an event the one that starts latest leaves most room."""
    return f"""
        WITH RECURSIVE pair AS (
            SELECT s1.user_id, max(s1.ord) AS begins, s2.ord AS ends {chain([first, second], span, None, None)}
             GROUP BY s1.user_id, s2.ord),
        found AS (
            SELECT user_id, min(ends) AS ends FROM pair GROUP BY user_id
            UNION ALL SELECT pair.user_id, min(pair.ends) FROM found JOIN pair
                ON pair.user_id = found.user_id AND pair.begins > found.ends GROUP BY pair.user_id)
        SELECT 1, count(*) FROM events WHERE {first} UNION ALL SELECT 2, count(*) FROM found"""


def any_order(first, second, span):
    """Step and users of a funnel of two steps in any order."""
    return f"""
        SELECT 1, count(DISTINCT user_id) FROM events WHERE {first} OR {second}
        UNION ALL SELECT 2, count(DISTINCT a.user_id) FROM events a, events b
         WHERE a.{first} AND b.{second} AND a.user_id = b.user_id AND a.ord <> b.ord
           AND abs(epoch_us(a.time) - epoch_us(b.time)) <= {span} * 1000000"""


def retention(start, returns, unit, as_of, mode="on", rolling=False, recurring=False):
    """Cohort, size, k, users, rate, incomplete."""
    begins = f"date_trunc('{unit}', time)"
    cohort = f", {begins}" if recurring else ""
    count = "date_sub" if rolling else "date_diff"
    since = "b.time" if rolling else "b.cohort"
    reaches = "hit.k >= cell.k" if mode == "on_or_after" else "hit.k = cell.k"
    later = 2 if rolling else 1
    return f"""
        WITH b AS (SELECT user_id, min(ord) AS ord, arg_min(time, ord) AS time, min({begins}) AS cohort
                     FROM events WHERE {start} GROUP BY user_id{cohort}),
             size AS (SELECT cohort, count(*) AS size FROM b GROUP BY cohort),
             last AS (SELECT date_trunc('{unit}', max(time)) AS last FROM events),
             cell AS (SELECT cohort, size, unnest(range(0, date_diff('{unit}', cohort, last) + 1)) AS k
                        FROM size, last),
             hit AS (SELECT DISTINCT b.cohort, b.user_id, {count}('{unit}', {since}, e.time) AS k
                       FROM b JOIN (SELECT user_id, ord, time FROM events WHERE {returns}) e
                         ON e.user_id = b.user_id AND e.ord > b.ord)
        SELECT cell.cohort, size, cell.k, count(DISTINCT hit.user_id) AS users,
               count(DISTINCT hit.user_id) / size AS rate,
               cell.cohort + INTERVAL 1 {unit} * (cell.k + {later}) > TIMESTAMP '{as_of}' AS incomplete
          FROM cell LEFT JOIN hit ON hit.cohort = cell.cohort AND {reaches}
         GROUP BY cell.cohort, size, cell.k"""


def cut(gap, events="true"):
    """The events with the number of their session."""
    return f"""
        SELECT *, sum(opens) OVER (PARTITION BY user_id ORDER BY ord) AS session FROM (
            SELECT *, CASE WHEN time - lag(time) OVER (PARTITION BY user_id ORDER BY ord) <= INTERVAL '{gap}'
                           THEN 0 ELSE 1 END AS opens FROM events WHERE {events})"""


def sessions(gap, events="true"):
    """User, session, started, ended, events."""
    return (f"SELECT user_id, session, min(time), max(time), count(*) FROM ({cut(gap, events)}) "
            "GROUP BY user_id, session")


def paths(anchor, steps, value="event", within_session=None, collapse=False, backwards=False):
    """Path, users, occurrences of each user's first anchor, or of each session's."""
    table = cut(within_session) if within_session else "SELECT *, 1 AS session FROM events"
    if collapse:
        table = f"""SELECT * FROM (SELECT *, lag({value}) OVER (PARTITION BY user_id, session ORDER BY ord)
                    AS before, row_number() OVER (PARTITION BY user_id, session ORDER BY ord) AS place
                    FROM ({table})) WHERE place = 1 OR before IS DISTINCT FROM {value}"""
    window = "OVER (PARTITION BY user_id, session ORDER BY ord)"
    step = "lag" if backwards else "lead"
    stops = ", ".join(f"{step}({value}, {number}) {window}" for number in range(steps + 1))
    # The stops of a path are a name each, so those beyond its end are what is NULL.
    return f"""
        SELECT path, count(DISTINCT user_id), count(*) FROM (
            SELECT user_id, session, ord, list_filter([{stops}], lambda stop: stop IS NOT NULL) AS path,
                   {anchor} AS is_anchor
              FROM ({table})) WHERE is_anchor
         AND ord IN (SELECT min(ord) FROM ({table}) WHERE {anchor} GROUP BY user_id, session)
         GROUP BY path"""


CREDITS = {
    "first": "CASE WHEN place = 1 THEN 1.0 ELSE 0.0 END",
    "last": "CASE WHEN place = touches THEN 1.0 ELSE 0.0 END",
    "linear": "1.0::DOUBLE / touches",
    "position": "CASE WHEN touches = 1 THEN 1.0 WHEN touches = 2 THEN 0.5 WHEN place IN (1, touches) THEN 0.4 "
                "ELSE 0.2::DOUBLE / (touches - 2) END",
    "time_decay": "decay / sum(decay) OVER (PARTITION BY conversion)",
    "any_touch": "CASE WHEN row_number() OVER (PARTITION BY conversion, touch ORDER BY place) = 1 "
                 "THEN 1.0 ELSE 0.0 END",
}


def attribution(conversion, touch, by, model, lookback, value="0", half_life_days=7):
    """Touch, touches, users, conversions, value."""
    return f"""
        WITH c AS (SELECT * FROM events WHERE {conversion}),
             t AS (SELECT *, coalesce({by}, '(none)') AS touch FROM events WHERE {touch}),
             pair AS (SELECT c.ord AS conversion, c.user_id, c.{value} AS value, t.touch,
                             row_number() OVER (PARTITION BY c.ord ORDER BY t.ord) AS place,
                             count(*) OVER (PARTITION BY c.ord) AS touches,
                             pow(2, -(epoch_us(c.time) - epoch_us(t.time)) / ({half_life_days} * 86400e6)) AS decay
                        FROM c JOIN t ON t.user_id = c.user_id AND t.ord < c.ord
                         AND t.time >= c.time - INTERVAL '{lookback}'),
             credit AS (SELECT *, {CREDITS[model]} AS credit FROM pair),
             credited AS (SELECT touch, count(DISTINCT CASE WHEN credit > 0 THEN user_id END) AS users,
                                 sum(credit) AS conversions, sum(credit * value) AS value
                            FROM credit GROUP BY touch),
             touched AS (SELECT touch, count(*) AS touches FROM t GROUP BY touch),
             direct AS (SELECT * FROM c WHERE ord NOT IN (SELECT conversion FROM pair))
        SELECT touch, touches, coalesce(users, 0), coalesce(conversions, 0.0), coalesce(value, 0.0)
          FROM touched LEFT JOIN credited USING (touch)
        UNION ALL SELECT '(direct)', 0, count(DISTINCT user_id), count(*), sum({value}) FROM direct
        HAVING count(*) > 0"""


def experiment(exposure, variant, goal, span, value, as_of):
    """Variant, users, pending, converted, rate, Wilson's interval, value_sum, value_mean."""
    z = "1.959963984540054"
    middle = f"rate + {z} * {z} / (2 * mature)"
    half = f"{z} * sqrt(rate * (1 - rate) / mature + {z} * {z} / (4 * mature * mature))"
    whole = f"(1 + {z} * {z} / mature)"
    return f"""
        WITH e AS (SELECT * FROM events WHERE {exposure}),
             u AS (SELECT user_id, min(ord) AS ord, arg_min(time, ord) AS time,
                          CASE WHEN count(DISTINCT coalesce({variant}, '(none)')) > 1 THEN '(several)'
                               ELSE coalesce(any_value({variant}), '(none)') END AS variant
                     FROM e GROUP BY user_id),
             w AS (SELECT u.*, u.time + INTERVAL '{span}' > TIMESTAMP '{as_of}' AS pending FROM u),
             g AS (SELECT w.user_id, sum(x.{value}) AS value FROM w JOIN events x ON x.user_id = w.user_id
                    AND x.ord > w.ord AND x.{goal} AND x.time - w.time <= INTERVAL '{span}' GROUP BY w.user_id),
             r AS (SELECT variant, count(*) AS users,
                          CASE WHEN variant = '(several)' THEN 0 ELSE count(*) FILTER (WHERE pending) END AS pending,
                          CASE WHEN variant = '(several)' THEN 0 ELSE count(*) FILTER (WHERE NOT pending) END AS mature,
                          CASE WHEN variant = '(several)' THEN 0
                               ELSE count(*) FILTER (WHERE NOT pending AND g.user_id IS NOT NULL) END AS converted,
                          coalesce(sum(g.value) FILTER (WHERE NOT pending AND variant <> '(several)'), 0) AS total
                     FROM w LEFT JOIN g USING (user_id) GROUP BY variant),
             p AS (SELECT *, CASE WHEN mature > 0 THEN converted / mature END AS rate FROM r)
        SELECT variant, users, pending, converted, rate,
               ({middle} - {half}) / {whole}, ({middle} + {half}) / {whole},
               CASE WHEN variant <> '(several)' THEN total END,
               CASE WHEN mature > 0 THEN total / mature END
          FROM p"""


def affinity(item, condition, basket, least):
    """x, y, users, support, confidence, lift, jaccard."""
    return f"""
        WITH b AS (SELECT DISTINCT {basket} AS basket, {item} AS item FROM events
                    WHERE {condition} AND {item} IS NOT NULL AND {basket} IS NOT NULL),
             n AS (SELECT count(DISTINCT basket) AS n FROM b),
             c AS (SELECT item, count(*) AS c FROM b GROUP BY item),
             p AS (SELECT l.item AS x, r.item AS y, count(*) AS u FROM b l JOIN b r USING (basket)
                    WHERE l.item <> r.item GROUP BY 1, 2 HAVING count(*) >= {least})
        SELECT x, y, u, u / n, u / cx.c, (u / cx.c) / (cy.c / n), u / (cx.c + cy.c - u)
          FROM p, n, c cx, c cy WHERE cx.item = x AND cy.item = y"""


def lifecycle(active, unit, as_of):
    """Period, status, users."""
    step = f"INTERVAL 1 {unit}"
    return f"""
        WITH a AS (SELECT DISTINCT user_id, date_trunc('{unit}', time) AS period FROM events WHERE {active}),
             s AS (SELECT *, lag(period) OVER w AS before, lead(period) OVER w AS after FROM a
                   WINDOW w AS (PARTITION BY user_id ORDER BY period))
        SELECT period, CASE WHEN before IS NULL THEN 'new' WHEN before + {step} = period THEN 'returning'
                            ELSE 'resurrecting' END AS status, count(*) FROM s GROUP BY 1, 2
        UNION ALL SELECT period + {step}, 'dormant', count(*) FROM s
         WHERE after IS DISTINCT FROM period + {step} AND period + {step} <= TIMESTAMP '{as_of}' GROUP BY 1"""


def stickiness(active, period, unit):
    """Period, units, users."""
    return f"""
        SELECT period, units, count(*) FROM (
            SELECT user_id, date_trunc('{period}', time) AS period,
                   count(DISTINCT date_trunc('{unit}', time)) AS units FROM events WHERE {active} GROUP BY 1, 2)
         GROUP BY 1, 2"""


def rfm(purchase, value, as_of):
    """User, recency_days, frequency, monetary, r, f, m."""
    def fifth(order):
        return f"1 + (5 * (rank() OVER (ORDER BY {order}) - 1)) // count(*) OVER ()"
    return f"""
        WITH u AS (SELECT user_id, (epoch_us(TIMESTAMP '{as_of}') - epoch_us(max(time))) // 86400000000 AS days,
                          count(*) AS times, coalesce(sum({value}), 0)::DOUBLE AS spent
                     FROM events WHERE {purchase} GROUP BY user_id)
        SELECT user_id, days, times, spent, {fifth("days DESC")}, {fifth("times")}, {fifth("spent")} FROM u"""
