"""PostgreSQL's drivers against the service: psycopg 3 and 2, asyncpg, SQLAlchemy, pandas, polars, ADBC.

Takes the address of the service's HTTP and of its PostgreSQL port. Says what failed and exits with 1."""

import asyncio
import csv
import datetime
import io
import json
import sys
import threading
import time
import urllib.request

import adbc_driver_postgresql.dbapi
import asyncpg
import pandas
import polars
import psycopg
import psycopg2
import sqlalchemy

HTTP, PORT = sys.argv[1], int(sys.argv[2].rsplit(":", 1)[1])
URL = f"postgresql://ann@127.0.0.1:{PORT}/pugmark"
UTC = datetime.timezone.utc
START = datetime.datetime(2026, 1, 1, tzinfo=UTC)
FUNNEL = "SELECT step, users FROM funnel(step({}), step({}), within => {}) ORDER BY step"


def same(found, wanted):
    if found != wanted:
        raise SystemExit(f"found  {found!r}\nwanted {wanted!r}")


def fill():
    batch = []
    for user in range(100):
        for number, event in enumerate(["view", "view", "cart"] + ["purchase"] * (user % 2)):
            at = START + datetime.timedelta(minutes=user, seconds=number)
            properties = {"price": user + 0.5, "size": user, "tags": ["a", "b"], "note": 'x,"y"\n'}
            batch.append({"type": "track", "userId": f"u{user:03}", "event": event,
                          "timestamp": at.isoformat(), "messageId": f"{user}/{number}",
                          "properties": properties})
    body = json.dumps({"batch": batch}).encode()
    request = urllib.request.Request(f"{HTTP}/v1/batch", body)
    with urllib.request.urlopen(request, timeout=60) as answer:
        same(json.load(answer)["success"], True)


def psycopg3():
    with psycopg.connect(URL) as connection:
        one = lambda sql, *args, **more: connection.execute(sql, args, **more).fetchone()
        same(one("SELECT count(*) FROM events"), (350,))
        same(one("SELECT count(*) FROM events WHERE price > %s AND size < %s", 10, 20), (35,))
        same(one("SELECT count(*) FROM users WHERE did(event = %s, at_least => %s)", "view", 2), (100,))
        same(one("SELECT count(*) FROM users WHERE did(%s, since => %s, then => %s, then_within => %s)",
                 "cart", START + datetime.timedelta(minutes=90), "purchase", datetime.timedelta(minutes=1)), (5,))
        same(one("SELECT count(*) FROM events WHERE event = ANY(%s)", ["cart", "purchase"]), (150,))
        same(one("SELECT count(*) FROM events WHERE time < %s", START), (0,))
        same(one("SELECT %s::text, %s::bigint", None, None), (None, None))
        funnel = FUNNEL.format("%s", "%s", "%s")
        same(connection.execute(funnel, ("view", "purchase", datetime.timedelta(hours=1))).fetchall(),
             [(1, 100), (2, 50)])
        for binary in [False, True]:
            row = connection.execute(
                "SELECT user_id, time, price, size, price > 5 AS dear, tags FROM events "
                "WHERE event = 'cart' ORDER BY time LIMIT 1 OFFSET %s", (7,), binary=binary).fetchone()
            at = START + datetime.timedelta(minutes=7, seconds=2)
            same(row, ("u007", at, 7.5, 7, True, ["a", "b"]))
        # Prepared by name, again and again.
        for size in range(20):
            same(one("SELECT count(*) FROM events WHERE size = %s", size, prepare=True),
                 (3 + size % 2,))
        with connection.transaction():
            one("SELECT 1")
            try:
                with connection.transaction():
                    one("SELECT nonsense FROM events")
            except psycopg.errors.DatabaseError as error:
                same("nonsense" in str(error), True)
            same(one("SELECT 2"), (2,))
        try:
            one("SELECT 1 FROM evnts")
        except psycopg.Error as error:
            same((error.diag.statement_position, "did you mean `events`" in str(error)), ("15", True))
        connection.rollback()
        with connection.cursor("reader") as cursor:
            cursor.itersize = 37
            cursor.execute("SELECT user_id FROM events WHERE price >= %s ORDER BY time, event", (0,))
            same(sum(1 for _ in cursor), 350)
        for form, read in [("", lambda text: list(csv.reader(io.StringIO(text), delimiter="\t"))),
                           ("(FORMAT csv, HEADER)", lambda text: list(csv.reader(io.StringIO(text))))]:
            sql = f"COPY (SELECT user_id, note, size FROM events WHERE size < 3 ORDER BY time) TO STDOUT {form}"
            with connection.cursor().copy(sql) as copy:
                rows = read(b"".join(bytes(data) for data in copy).decode())
            header = 1 if form else 0
            same(len(rows), 10 + header)
            same(rows[header], ["u000", 'x,"y"\n' if form else 'x,"y"\\n', "0"])
        with connection.cursor().copy("COPY (SELECT user_id, price, time FROM events ORDER BY time LIMIT 4) "
                                      "TO STDOUT (FORMAT binary)") as copy:
            copy.set_types(["text", "float8", "timestamptz"])
            same(list(copy.rows())[3], ("u001", 1.5, START + datetime.timedelta(minutes=1)))
        with connection.pipeline():
            cursors = [connection.execute("SELECT %s::bigint", (number,)) for number in range(50)]
            same([cursor.fetchone()[0] for cursor in cursors], list(range(50)))
        connection.commit()
        connection.execute("SET TIME ZONE 'Europe/Berlin'")
        same(one("SHOW TimeZone"), ("Europe/Berlin",))
        same(one("SELECT current_setting('timezone'), set_config('search_path', 'x', false)"),
             ("Europe/Berlin", "x"))
        same(one("SELECT min(time)::text FROM events")[0][:16], "2026-01-01T01:00")
        with psycopg.connect(URL) as other:
            same(other.execute("SHOW TimeZone").fetchone(), ("UTC",))
        connection.rollback()
        notices = []
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        same(one("SELECT count(*) FROM users WHERE did('purchse')"), (0,))
        same(notices, ["no event is named `purchse`; did you mean `purchase`?"])
        cancelled(connection)
        inserted = ("INSERT INTO events (user_id, time, event, size) "
                    "SELECT user_id, time, %s, size FROM events WHERE event = 'cart' AND size < %s")
        same(connection.execute(inserted, ("extra", 5)).rowcount, 5)
        connection.rollback()
        same(notices[-1], "events that were inserted stay: nothing is rolled back")
        same(one("SELECT count(*), max(size) FROM events WHERE event = 'extra'"), (5, 4))


def cancelled(connection):
    threading.Timer(0.5, connection.cancel).start()
    begun = time.monotonic()
    try:
        connection.execute("SELECT count(*) FROM events a, events b, events c, events d "
                           "WHERE a.price + b.price + c.price + d.price = 1")
        raise SystemExit("a statement of centuries ended")
    except psycopg.errors.QueryCanceled:
        same(time.monotonic() - begun < 20, True)
    connection.rollback()
    same(connection.execute("SELECT 1").fetchone(), (1,))


def psycopg_2():
    connection = psycopg2.connect(URL)
    cursor = connection.cursor()
    cursor.execute("SELECT user_id, price FROM events WHERE size = %s AND event = %s", (3, "cart"))
    same(cursor.fetchall(), [("u003", 3.5)])
    named = connection.cursor("n")
    named.execute("SELECT size FROM events ORDER BY time")
    same((len(named.fetchmany(10)), len(named.fetchall())), (10, 340))
    out = io.StringIO()
    cursor.copy_expert("COPY (SELECT DISTINCT event FROM events ORDER BY event) TO STDOUT", out)
    same(out.getvalue(), "cart\npurchase\nview\n")
    connection.commit()
    connection.close()


async def asynchronous():
    connection = await asyncpg.connect(URL)
    same(await connection.fetchval("SELECT count(*) FROM events WHERE price > $1 AND size < $2", 10.0, 20), 35)
    same(await connection.fetchval(
        "SELECT count(*) FROM users WHERE did(event = $1, at_least => $2) AND NOT did($3)",
        "view", 2, "purchase"), 50)
    same(await connection.fetchval("SELECT count(*) FROM events WHERE size = ANY($1)", [1, 2, 3]), 11)
    same(await connection.fetchval("SELECT count(*) FROM events WHERE time >= $1 AND time < $1 + $2",
                                   START, datetime.timedelta(minutes=2)), 7)
    funnel = FUNNEL.format("$1", "$2", "$3")
    rows = await connection.fetch(funnel, "view", "purchase", datetime.timedelta(hours=1))
    same([tuple(row) for row in rows], [(1, 100), (2, 50)])
    row = await connection.fetchrow("SELECT user_id, time, price, size, tags, NULL AS none FROM events "
                                    "WHERE event = 'cart' ORDER BY time LIMIT $1", 1)
    same(tuple(row), ("u000", START + datetime.timedelta(seconds=2), 0.5, 0, ["a", "b"], None))
    async with connection.transaction():
        seen = 0
        async for _ in connection.cursor("SELECT user_id FROM events ORDER BY time", prefetch=40):
            seen += 1
        same(seen, 350)
    statement = await connection.prepare("SELECT $1::bigint + 1")
    same([await statement.fetchval(number) for number in range(5)], [1, 2, 3, 4, 5])
    out = io.BytesIO()
    await connection.copy_from_query("SELECT DISTINCT user_id FROM events WHERE size < $1 ORDER BY 1", 2,
                                     output=out, format="csv")
    same(out.getvalue(), b"u000\nu001\n")
    try:
        await connection.fetch("SELECT nothing FROM users")
    except asyncpg.PostgresError as error:
        same("nothing" in str(error), True)
    try:
        sql = "SELECT count(*) FROM events a, events b, events c, events d WHERE a.price + b.price = c.price - d.price"
        await connection.fetchval(sql, timeout=0.5)
        raise SystemExit("a statement of centuries ended")
    except asyncio.TimeoutError:
        pass
    same(await connection.fetchval("SELECT 1"), 1)
    await connection.reset()
    await connection.close()
    pool = await asyncpg.create_pool(URL, min_size=2, max_size=8)
    counts = await asyncio.gather(*[pool.fetchval("SELECT count(*) FROM events") for _ in range(40)])
    same(set(counts), {350})
    await pool.close()


def reflected():
    for driver in ["psycopg", "psycopg2", "asyncpg"]:
        if driver == "asyncpg":
            continue
        engine = sqlalchemy.create_engine(URL.replace("postgresql:", f"postgresql+{driver}:"))
        inspector = sqlalchemy.inspect(engine)
        same(inspector.get_schema_names(), ["information_schema", "public"])
        same(sorted(inspector.get_table_names()), ["events", "users"])
        columns = {column["name"]: str(column["type"]) for column in inspector.get_columns("events")}
        wanted = {"user_id": "TEXT", "time": "TIMESTAMP", "event": "TEXT", "note": "TEXT",
                  "price": "DOUBLE PRECISION", "size": "BIGINT", "tags": "ARRAY"}
        same({name: columns[name] for name in wanted}, wanted)
        same((inspector.get_pk_constraint("events")["constrained_columns"], inspector.get_foreign_keys("events"),
              inspector.get_indexes("events"), inspector.get_view_names()), ([], [], [], []))
        metadata = sqlalchemy.MetaData()
        metadata.reflect(engine)
        events = metadata.tables["events"]
        asked = sqlalchemy.select(events.c.event, sqlalchemy.func.count()).where(events.c.price > 98)
        with engine.connect() as connection:
            rows = connection.execute(asked.group_by(events.c.event).order_by(events.c.event)).fetchall()
            same([tuple(row) for row in rows], [("cart", 2), ("purchase", 1), ("view", 4)])
            with connection.begin_nested():
                same(connection.execute(sqlalchemy.text("SELECT 1")).scalar(), 1)
        frame = pandas.read_sql("SELECT user_id, time, price FROM events WHERE event = 'cart'", engine)
        same((len(frame), frame.price.sum(), str(frame.time.dtype.tz)), (100, 5000.0, "UTC"))
        engine.dispose()


def columnar():
    with adbc_driver_postgresql.dbapi.connect(URL) as connection:
        with connection.cursor() as cursor:
            cursor.execute("SELECT user_id, time, price, size FROM events WHERE event = 'cart' ORDER BY time")
            table = cursor.fetch_arrow_table()
            same((table.num_rows, table.column("size").to_pylist()[:3]), (100, [0, 1, 2]))
            cursor.execute("SELECT count(*) FROM users WHERE did($1)", ("purchase",))
            same(cursor.fetchone(), (50,))
        frame = polars.read_database("SELECT event, count(*) AS n FROM events GROUP BY event ORDER BY event", connection)
        same(frame.rows(), [("cart", 100), ("purchase", 50), ("view", 200)])


# The first stores some more events at its end, so it is the last.
CHECKS = [psycopg_2, lambda: asyncio.run(asynchronous()), reflected, columnar, psycopg3]

if __name__ == "__main__":
    fill()
    for check in CHECKS:
        check()
