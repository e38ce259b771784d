#!/usr/bin/env python3
"""Shows a funnel of a Pugmark service in Apache Superset.

    python3 examples/superset/funnel.py --pg 127.0.0.1:5439

Installs Superset in an environment of its own (`--home`, 2 GB), starts it, adds the service as a
database, makes a dataset and a funnel chart of it, and tells where the chart is and what it shows.
Superset goes on until Ctrl-C; with `--once` it ends after the chart was drawn.
"""

import argparse
import http.cookiejar
import json
import os
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
NAME = "funnel of views, carts and purchases"
NAMED = {"database": "database_name", "dataset": "table_name", "chart": "slice_name"}
FUNNEL = """
SELECT step, name, users
  FROM funnel(step('view'), step('cart'), step('purchase'), within => INTERVAL '7 days')
"""


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pg", default="127.0.0.1:5439", help="PostgreSQL's port of the service")
    parser.add_argument("--key", default="any", help="a key that may ask, where keys are configured")
    parser.add_argument("--port", type=int, default=8088, help="where Superset is served")
    parser.add_argument("--home", type=Path, default=Path.home() / ".cache/pugmark/superset")
    parser.add_argument("--sql", default=FUNNEL, help="the rows to chart: step, name, users")
    parser.add_argument("--once", action="store_true", help="end once the chart is drawn")
    return parser.parse_args()


class Superset:
    """Superset in an environment of its own, and its API."""

    def __init__(self, home, port):
        self.home, self.url = home, f"http://127.0.0.1:{port}"
        self.port, self.server, self.headers = port, None, {}
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self.opener = urllib.request.build_opener(cookies)

    def __enter__(self):
        self.install()
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.server:
            self.server.terminate()
            self.server.wait(30)

    def program(self, *words, **options):
        program = [str(self.home / "venv/bin" / words[0]), *words[1:]]
        return subprocess.Popen(program, env=self.environment(), **options)

    def run(self, *words):
        with open(self.home / "superset.log", "ab") as log:
            if self.program(*words, stdout=log, stderr=log).wait() != 0:
                sys.exit(f"`{' '.join(words[:3])}` failed: see {log.name}")

    def environment(self):
        secret = self.home / "secret"
        if not secret.exists():
            secret.touch(mode=0o600)
            secret.write_text(secrets.token_hex(32))
        return os.environ | {
            "SUPERSET_HOME": str(self.home),
            "SUPERSET_SECRET_KEY": secret.read_text(),
            "SUPERSET_CONFIG_PATH": str(HERE / "superset_config.py"),
            "FLASK_APP": "superset.app:create_app()",
        }

    def install(self):
        done = self.home / "installed"
        wanted = (HERE / "requirements.txt").read_text()
        if done.exists() and done.read_text() == wanted:
            return
        say(f"installing Superset in {self.home}: some minutes, once")
        self.home.mkdir(parents=True, exist_ok=True)
        venv.create(self.home / "venv", with_pip=True)
        self.run("pip", "install", "--quiet", "-r", str(HERE / "requirements.txt"))
        self.run("superset", "db", "upgrade")
        name = ["--username", "admin", "--password", "admin", "--email", "admin@localhost"]
        self.run("superset", "fab", "create-admin", *name, "--firstname", "A", "--lastname", "B")
        self.run("superset", "init")
        done.write_text(wanted)

    def start(self):
        log = open(self.home / "superset.log", "ab")
        self.server = self.program("superset", "run", "-p", str(self.port), stdout=log, stderr=log)
        say(f"starting Superset at {self.url}")
        for _ in range(120):
            time.sleep(1)
            if self.server.poll() is not None:
                sys.exit(f"Superset ended: see {log.name}")
            try:
                self.opener.open(f"{self.url}/health", timeout=5)
                break
            except OSError:
                pass
        else:
            sys.exit(f"Superset does not answer: see {log.name}")
        login = {"username": "admin", "password": "admin", "provider": "db", "refresh": False}
        token = self.call("POST", "security/login", login)["access_token"]
        self.headers = {"Authorization": f"Bearer {token}", "Referer": self.url}
        self.headers["X-CSRFToken"] = self.call("GET", "security/csrf_token/")["result"]

    def call(self, method, path, body=None):
        """Calls the API; what it answers."""
        request = urllib.request.Request(
            f"{self.url}/api/v1/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", **self.headers},
        )
        try:
            with self.opener.open(request, timeout=120) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as refused:
            sys.exit(f"{method} {path}: {refused.code} {refused.read().decode()}")

    def make(self, kind, name, body):
        """The id of something of this name."""
        return self.call("POST", f"{kind}/", body | {NAMED[kind]: name})["id"]

    def remove(self, kind, name):
        """Removes what an earlier run has left."""
        asked = f"(filters:!((col:{NAMED[kind]},opr:eq,value:'{name}')))"
        for old in self.call("GET", f"{kind}/?q={urllib.parse.quote(asked)}")["result"]:
            self.call("DELETE", f"{kind}/{old['id']}")


def say(text):
    print(text, file=sys.stderr, flush=True)


def main():
    asked = arguments()
    with Superset(asked.home, asked.port) as superset:
        rows = chart(superset, asked)
        for row in rows:
            print(f"{row['name']:<12} {row['users']:>12,.0f}")
        if not rows:
            sys.exit("the chart is empty")
        if not asked.once:
            say("Ctrl-C ends Superset; sign in as admin, with the password admin")
            try:
                superset.server.wait()
            except KeyboardInterrupt:
                pass


def chart(superset, asked):
    """Adds the database, the dataset and the chart; what the chart shows."""
    # What stands on something goes before it.
    for kind, name in [("chart", NAME), ("dataset", NAME), ("database", "pugmark")]:
        superset.remove(kind, name)
    uri = f"postgresql+psycopg2://pugmark:{asked.key}@{asked.pg}/pugmark"
    database = superset.make("database", "pugmark", {"sqlalchemy_uri": uri, "expose_in_sqllab": True})
    tables = superset.call("GET", f"database/{database}/tables/?q=(schema_name:public)")["result"]
    say(f"the database has the tables {', '.join(table['value'] for table in tables)}")
    dataset = {"database": database, "schema": "public", "sql": asked.sql}
    dataset = superset.make("dataset", NAME, dataset)
    users = {
        "expressionType": "SIMPLE",
        "aggregate": "MAX",
        "column": {"column_name": "users"},
        "label": "users",
    }
    source = {"id": dataset, "type": "table"}
    form = {
        "viz_type": "funnel",
        "datasource": f"{dataset}__table",
        "groupby": ["name"],
        "metric": users,
        "sort_by_metric": True,
        "row_limit": 10,
    }
    query = {
        "columns": ["name"],
        "metrics": [users],
        "orderby": [[users, False]],
        "row_limit": 10,
        "filters": [],
    }
    context = {"datasource": source, "queries": [query], "form_data": form}
    context |= {"result_format": "json", "result_type": "full", "force": True}
    body = {"viz_type": "funnel", "datasource_id": dataset, "datasource_type": "table"}
    body |= {"params": json.dumps(form), "query_context": json.dumps(context)}
    made = superset.make("chart", NAME, body)
    say(f"the chart is at {superset.url}/explore/?slice_id={made}")
    return superset.call("POST", "chart/data", context)["result"][0]["data"]


if __name__ == "__main__":
    main()
