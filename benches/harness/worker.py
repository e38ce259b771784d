"""One engine in a process of its own.

    python -m harness.worker ask ENGINE --work DIR …     requests in, one JSON line out for each
    python -m harness.worker load ENGINE LAYOUT …        loads, prints its figures

A request names a table, a question and a formulation; without a formulation the answer is a list of
them. An answer has rows in the spelling of `questions.normal`, seconds, and seconds of all threads.
"""

import argparse
import json
import os
import resource
import sys
import time
from pathlib import Path

from harness.engines import ENGINES, cpu_seconds
from harness.questions import normal
from harness.sql import Asked


def rows_of(table):
    """Rows of an Arrow table; two columns may have one name."""
    columns = [column.to_pylist() for column in table.columns]
    return [[value.decode() if isinstance(value, bytes) else value for value in row]
            for row in zip(*columns)]


def answer(engine, asked, request):
    asked = asked._replace(table=request["table"])
    found = engine.formulations(request["question"], asked)
    if request.get("formulation") is None:
        return {"formulations": {name: one if isinstance(one, str) else name
                                 for name, one in found.items()}}
    before, begun = cpu_seconds(), time.perf_counter()
    table = engine.ask(found[request["formulation"]])
    seconds = time.perf_counter() - begun
    cpu = cpu_seconds() - before
    rows = normal(request["question"], rows_of(table))
    return {"rows": rows, "seconds": seconds, "cpu_seconds": cpu}


def serve(options, out):
    engine = ENGINES[options.engine](options.work, options.threads, options.memory)
    asked = Asked(*json.loads(options.asked))
    # What libraries do at their first question of all is no question's cost.
    rows_of(engine.ask(engine.NOTHING))
    print(json.dumps({"version": engine.version()}), file=out, flush=True)
    for line in sys.stdin:
        try:
            given = answer(engine, asked, json.loads(line))
        # Engines have errors of many classes, some of them no Exception.
        except BaseException as error:  # noqa: BLE001
            given = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(given), file=out, flush=True)


def load(options, out):
    engine = ENGINES[options.engine]
    figures = engine.load(options.work, options.layout, options.parquet, options.threads,
                          options.memory)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    figures.setdefault("peak_rss_bytes", peak)
    figures.setdefault("merge_seconds", 0.0)
    print(json.dumps(figures), file=out, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("mode", choices=("ask", "load"))
    add("engine", choices=ENGINES)
    add("--layout")
    add("--work", type=Path)
    add("--parquet", type=Path)
    add("--threads", type=int)
    add("--memory", type=int, help="bytes")
    add("--asked", help="an Asked as JSON")
    options = parser.parse_args()
    # Engines that print must not disturb who reads the answers.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    (serve if options.mode == "ask" else load)(options, out)


if __name__ == "__main__":
    main()
