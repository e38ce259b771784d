"""What Segment's and RudderStack's SDKs send is there afterwards, and pyarrow reads what is answered.

Takes the service's address. Says what failed and exits with 1."""

import io
import sys
import urllib.request

import pyarrow.ipc
import pyarrow.parquet
import rudderstack.analytics as rudder
from segment.analytics.client import Client

URL = sys.argv[1]


def ask(sql, accept="application/vnd.apache.arrow.stream"):
    request = urllib.request.Request(f"{URL}/v1/sql", sql.encode(), {"Accept": accept})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return io.BytesIO(answer.read())


def rows(sql):
    return pyarrow.ipc.open_stream(ask(sql)).read_all().to_pylist()


def expect(sql, wanted):
    found = rows(sql)
    if found != wanted:
        sys.exit(f"{sql}\n  gives  {found}\n  wanted {wanted}")


def segment(user, gzip):
    failed = []
    client = Client("key", host=URL, gzip=gzip, on_error=lambda error, batch: failed.append(error))
    client.identify(user, {"plan": "gold", "age": 41})
    for number in range(250):
        client.track(user, "view", {"price": number + 0.5, "tags": ["a", "b"]})
    client.page(user, "docs", "Home", {"path": "/"})
    client.screen(user, "app", "Start")
    client.group(user, "acme", {"seats": 5})
    client.alias(f"anonymous of {user}", user)
    client.flush()
    client.join()
    if failed:
        sys.exit(f"segment's SDK was refused: {failed}")


def rudderstack(user):
    failed = []
    rudder.write_key, rudder.dataPlaneUrl = "key", URL
    rudder.on_error = lambda error, batch: failed.append(error)
    rudder.track(user, "cart", {"product_id": "p1"})
    rudder.identify(user, {"plan": "free"})
    rudder.flush()
    if failed:
        sys.exit(f"rudderstack's SDK was refused: {failed}")


segment("plain", gzip=False)
segment("packed", gzip=True)
rudderstack("rudder")
expect("SELECT event, count(*) AS n FROM events GROUP BY event ORDER BY event",
       [{"event": "$alias", "n": 2}, {"event": "cart", "n": 1}, {"event": "page", "n": 2},
        {"event": "screen", "n": 2}, {"event": "view", "n": 500}])
expect("SELECT user_id, plan, group_id FROM users WHERE plan IS NOT NULL ORDER BY user_id",
       [{"user_id": "packed", "plan": "gold", "group_id": "acme"},
        {"user_id": "plain", "plan": "gold", "group_id": "acme"},
        {"user_id": "rudder", "plan": "free", "group_id": None}])
expect("SELECT sum(price) AS sum FROM events WHERE user_id = 'packed'", [{"sum": 31_250.0}])
# Times are those of the client, within what its clock may be off by in one process.
expect("SELECT count(*) AS n FROM events WHERE time BETWEEN now() - INTERVAL '5 minutes' AND now()",
       [{"n": 507}])
file = ask("SELECT user_id, event, price FROM events WHERE event = 'view'",
           "application/vnd.apache.parquet")
if pyarrow.parquet.read_table(file).num_rows != 500:
    sys.exit("the Parquet file has not the 500 rows")
