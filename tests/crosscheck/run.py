#!/usr/bin/env python3
"""Asks the same of real events twice: the `pugmark` program by its own functions, and DuckDB by
ordinary SQL over the same files. Fails, and shows the rows, where an answer differs.

    python3 tests/crosscheck/run.py --pugmark target/release/pugmark [name …]

A name picks files or questions that contain it. On its first run it makes a Python environment
with DuckDB in the user's cache (`--venv`, `PUGMARK_CROSSCHECK_VENV`)."""

import argparse
import csv
import datetime
import io
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PINNED = "duckdb==2.0.0"
# Sums of floats in another order differ in their last digits.
TOLERANCE = 1e-9
SHOWN_ROWS = 10


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--pugmark", default=REPOSITORY / "target/release/pugmark", type=Path)
    parser.add_argument("--data", default=os.environ.get("PUGMARK_DATA", REPOSITORY / "../shared/data"),
                        type=Path)
    parser.add_argument("--venv", default=os.environ.get("PUGMARK_CROSSCHECK_VENV"))
    parser.add_argument("names", nargs="*")
    return parser.parse_args()


def enter_venv(chosen):
    """Runs this program again inside an environment that has DuckDB, made where missing."""
    if os.environ.get("PUGMARK_CROSSCHECK_INSIDE") == "1":
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    venv = Path(chosen or cache / "pugmark/crosscheck-venv")
    python = venv / "bin/python"
    if not python.exists():
        print(f"making {venv} with {PINNED}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PINNED],
                   check=True)
    os.environ["PUGMARK_CROSSCHECK_INSIDE"] = "1"
    os.execv(python, [str(python), *sys.argv])


def load(source, data, pugmark, directory):
    """Imports a file into a store and into DuckDB: the store's path and the connection."""
    import duckdb

    store = directory / f"{source.name}.pug"
    rejects = directory / f"{source.name}.rejects.csv"
    command = [pugmark, "import", "--store", store, "--rejects", rejects, *source.options,
               data / source.file]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    connection = duckdb.connect()
    connection.execute(source.table.format(file=data / source.file))
    return store, connection


def ask(pugmark, store, as_of, sql, form):
    command = [pugmark, "sql", "--store", store, "--as-of", as_of, "--format", form, sql]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{sql}\nfailed: {done.stderr}")
    return done.stdout


def ours(pugmark, store, as_of, sql):
    """The rows of an answer, once from JSON and once from CSV; both must say the same."""
    rows = [list(row.values()) for row in json.loads(ask(pugmark, store, as_of, sql, "json"))]
    texts = list(csv.reader(io.StringIO(ask(pugmark, store, as_of, sql, "csv"))))[1:]
    kinds = [next((value for value in column if value is not None), "") for column in zip(*rows)]
    from_csv = sorted(([typed(*cell) for cell in zip(row, kinds)] for row in texts), key=key)
    # A list is spelled in its own way in each.
    from_json = sorted(([None if isinstance(value, list) else value for value in row] for row in rows), key=key)
    if from_csv != from_json:
        raise SystemExit(f"{sql}\nJSON and CSV are not the same")
    return [tuple(plain(value) for value in row) for row in rows]


def typed(text, kind):
    """A cell of CSV as JSON has values of its column."""
    if text == "" or isinstance(kind, list):
        return None
    if isinstance(kind, bool):
        return text == "true"
    return type(kind)(text)


def plain(value):
    """A value as both sides have it: times without a zone, lists as tuples."""
    if isinstance(value, str) and len(value) >= 20 and value.endswith("Z") and value[10] == "T":
        return datetime.datetime.fromisoformat(value).replace(tzinfo=None)
    if isinstance(value, list):
        return tuple(plain(one) for one in value)
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return datetime.datetime.combine(value, datetime.time())
    if hasattr(value, "as_integer_ratio") and not isinstance(value, (int, float)):
        return float(value)
    return value


def alike(one, other):
    if len(one) != len(other):
        return False
    return all(same(left, right) for left, right in zip(one, other))


def same(left, right):
    if isinstance(left, tuple) and isinstance(right, tuple):
        return alike(left, right)
    if isinstance(left, float) or isinstance(right, float):
        both = isinstance(left, (int, float)) and isinstance(right, (int, float))
        return both and math.isclose(left, right, rel_tol=TOLERANCE, abs_tol=1e-9)
    return left == right


def key(row):
    """An order of rows in which the last digits of floats play no part."""
    def of(value):
        return f"{value:.6g}" if isinstance(value, float) else str(value)
    return [of(value) for value in row]


def compare(name, own, other):
    """True where both are the same rows; else shows those that only one of them has."""
    own, other = sorted(own, key=key), sorted(other, key=key)
    if len(own) == len(other) and all(alike(*pair) for pair in zip(own, other)):
        return True
    print(f"DIFFERS  {name}: {len(own)} rows of Pugmark, {len(other)} of DuckDB")
    for title, rows, others in (("Pugmark", own, other), ("DuckDB", other, own)):
        known = {str(key(row)) for row in others}
        for row in [row for row in rows if str(key(row)) not in known][:SHOWN_ROWS]:
            print(f"  only in {title}: {', '.join(str(value) for value in row)}")
    return False


def check(source, options, directory):
    """Asks all questions about one file; returns how many were asked, and how many differ."""
    asked = [question for question in source.questions
             if not options.names or any(name in f"{source.name}: {question[0]}" for name in options.names)]
    if not asked:
        return 0, 0
    store, connection = load(source, options.data, options.pugmark, directory)
    failed = 0
    for name, own, other in asked:
        begun = time.perf_counter()
        rows = ours(options.pugmark, store, source.as_of, own)
        others = [tuple(plain(value) for value in row) for row in connection.execute(other).fetchall()]
        good = compare(f"{source.name}: {name}", rows, others)
        failed += not good
        if good:
            print(f"same     {source.name}: {name} ({len(rows)} rows, {time.perf_counter() - begun:.1f} s)")
    return len(asked), failed


def main():
    options = arguments()
    if not (options.data / "SOURCES.md").is_file():
        print(f"SKIPPED: no real event data in {options.data}; set PUGMARK_DATA")
        return
    enter_venv(options.venv)
    from sources import SOURCES

    with tempfile.TemporaryDirectory() as directory:
        counts = [check(source, options, Path(directory)) for source in SOURCES]
    asked, failed = (sum(column) for column in zip(*counts))
    print(f"{asked} questions, {failed} differ")
    sys.exit(1 if failed or not asked else 0)


if __name__ == "__main__":
    main()
