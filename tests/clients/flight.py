"""ADBC's Flight SQL driver against the service, and DuckDB and polars over what it exports.

Takes the address of the service's HTTP, of its Flight port, and a key (or none). Says what failed and exits with 1."""

import datetime
import io
import json
import sys
import tempfile
import urllib.request

import adbc_driver_flightsql.dbapi
import adbc_driver_flightsql
import duckdb
import polars
import pyarrow

HTTP, FLIGHT, KEY = sys.argv[1], sys.argv[2], sys.argv[3]
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)


def same(found, wanted):
    if found != wanted:
        raise SystemExit(f"found  {found!r}\nwanted {wanted!r}")


def post(path, body, **headers):
    headers = {"Authorization": f"Bearer {KEY}"} | headers
    request = urllib.request.Request(f"{HTTP}{path}", body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()


def fill():
    batch = [{"type": "track", "userId": f"u{number:05}", "event": "view", "messageId": str(number),
              "timestamp": (START + datetime.timedelta(seconds=number)).isoformat(),
              "properties": {"price": number + 0.5, "tags": ["a", "b"]}} for number in range(20_000)]
    for first in range(0, len(batch), 2_000):
        post("/v1/batch", json.dumps({"batch": batch[first:first + 2_000]}).encode())


def options(user, password):
    names = adbc_driver_flightsql.DatabaseOptions
    return {"username": user, "password": password} if user else {names.AUTHORIZATION_HEADER.value: f"Bearer {KEY}"}


def asked(connection):
    with connection.cursor() as cursor:
        cursor.execute("SELECT user_id, time, price, tags FROM events ORDER BY time LIMIT 2")
        same(cursor.fetch_arrow_table().to_pylist(),
             [{"user_id": f"u0000{n}", "time": START + datetime.timedelta(seconds=n), "price": n + 0.5,
               "tags": ["a", "b"]} for n in range(2)])
        cursor.execute("SELECT user_id FROM users")
        same(cursor.fetch_arrow_table().num_rows, 20_000)
        cursor.execute("SELECT count(*) FROM users WHERE did(event = $1, at_least => $2, since => $3)",
                       ("view", 1, START + datetime.timedelta(seconds=5_000)))
        same(cursor.fetchone(), (15_000,))
        cursor.execute("SELECT count(*) AS n FROM events WHERE price > $1", (19_000.0,))
        same(cursor.fetchall(), [(1_000,)])
        cursor.execute("SELECT user_id FROM events WHERE user_id = 'nobody'")
        same(cursor.fetchall(), [])
        try:
            cursor.execute("SELECT * FROM evnts")
            raise SystemExit("a table that there is not was read")
        except adbc_driver_flightsql.dbapi.Error as error:
            same("did you mean `events`" in str(error), True)
    found = connection.adbc_get_objects(depth="columns").read_all().to_pylist()
    tables = found[0]["catalog_db_schemas"][0]["db_schema_tables"]
    same([table["table_name"] for table in tables], ["events", "users"])
    same([column["column_name"] for column in tables[0]["table_columns"]][:3], ["user_id", "time", "event"])
    same(connection.adbc_get_info()["vendor_name"], "Pugmark")
    same(connection.adbc_get_table_types(), ["TABLE"])
    frame = polars.read_database("SELECT event, sum(price) AS sum FROM events GROUP BY event", connection)
    same(frame.rows(), [("view", 200_000_000.0)])


def stored(connection):
    with connection.cursor() as cursor:
        cursor.adbc_statement.set_sql_query(
            "INSERT INTO events (user_id, time, event) SELECT user_id, time, 'again' FROM events WHERE price < 10")
        same(cursor.adbc_statement.execute_update(), 10)
        cursor.execute("SELECT count(*) FROM events WHERE event = 'again'")
        same(cursor.fetchone(), (10,))


def exported():
    form = {"Accept": "application/vnd.apache.parquet"}
    parquet = post("/v1/sql", b"SELECT user_id, time, event, price FROM events WHERE event = 'view'", **form)
    with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
        file.write(parquet)
        file.flush()
        asked = f"SELECT count(*), sum(price), max(user_id) FROM '{file.name}'"
        same(duckdb.sql(asked).fetchall(), [(20_000, 200_000_000.0, "u19999")])
        same(polars.read_parquet(file.name).height, 20_000)
    stream = post("/v1/sql", b"SELECT user_id FROM users", Accept="application/vnd.apache.arrow.stream")
    same(pyarrow.ipc.open_stream(io.BytesIO(stream)).read_all().num_rows, 20_000)


fill()
for user, password in [(None, None), ("anybody", KEY)]:
    with adbc_driver_flightsql.dbapi.connect(f"grpc://{FLIGHT}", db_kwargs=options(user, password),
                                             autocommit=True) as connection:
        asked(connection)
exported()
with adbc_driver_flightsql.dbapi.connect(f"grpc://{FLIGHT}", db_kwargs=options(None, None),
                                         autocommit=True) as connection:
    stored(connection)
