"""Pugmark beside ClickHouse, DuckDB, Polars and DataFusion: the same events, the same questions,
the same answers."""

import argparse
import json
import os
import shutil
import subprocess
import sys

from harness import charts, common, engines, environment, measure, population, report
from harness.child import DidNotFinish
from harness.clickhouse import LAYOUTS
from harness.common import a_list
from harness.environment import Progress, say
from harness.questions import QUESTIONS
from harness.sides import HARNESS, Limits, layouts_of, sides
from harness.sql import Asked

ABOUT = "Ask Pugmark and its peers the same questions, check that all answer alike, time them."

EPILOG = """
One command generates events (seeded, to a Parquet file), loads every engine, asks all the same
questions in the fastest of several formulations, in turn, and writes comparison.md, comparison.json
and charts to --out. It stops where two answers differ.

  benches/run.py compare --events 1000000 --check     do all answer alike? (two or three minutes)
  benches/run.py compare --events 10000000            a run of some minutes
  benches/run.py compare --events 100000000 --repetitions 5 --patience 20 --publish
  benches/run.py compare --events 10000000 --cold --threads 1,2
  benches/run.py compare --events 10000000 --keep-loaded --questions funnel_3,paths --engines duckdb

docs/performance.md says what is measured and how. Questions:
""" + "\n".join(f"  {name:22} {question.text}" for name, question in QUESTIONS.items())


def add_arguments(parser):
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    add = parser.add_argument
    add("--events", type=int, default=10_000_000, help="how many events [10 million]")
    common.add_common(parser, "compare", ": some 120 bytes an event", "report-EVENTS")
    common.add_limit(parser)
    add("--threads", type=a_list([], int), default=[2], metavar="N,…",
        help="threads of every engine; of several numbers, everything for each [2]")
    add("--repetitions", type=int, default=3, help="timed runs of each question [3]")
    add("--patience", type=float, default=1, metavar="S",
        help="whoever was timed for so long at a question is not asked it again [1]; more for "
             "figures that are to be published")
    add("--cold", action="store_true",
        help="then ask each once more in a fresh process, its files dropped from the page cache")
    add("--check", action="store_true",
        help="ask each formulation once, time nothing; fails where answers differ")
    add("--peer-memory", type=float, default=12, metavar="GIB",
        help="a peer that takes more is given up [12]")
    add("--questions", type=a_list(QUESTIONS), default=list(QUESTIONS), help="to ask [all]")
    add("--engines", type=a_list(engines.ENGINES), default=list(engines.ENGINES),
        help=f"peers, of {', '.join(engines.ENGINES)} [all]")
    add("--layouts", type=a_list(LAYOUTS), default=list(LAYOUTS), help="of ClickHouse [all]")
    add("--raw-ids", action="store_true",
        help="also make ClickHouse's bitmaps of ids hashed to 64 bits")
    add("--keep-loaded", action="store_true",
        help="ask what an earlier run loaded; its load figures are taken over")


def run(options):
    if "by_event_time" not in options.layouts:
        raise SystemExit("--layouts needs by_event_time: bitmaps are made from it")
    common.prepare(options, f"report-{options.events}")
    place = options.work / f"{options.events}-{options.days}-{options.seed}"
    place.mkdir(parents=True, exist_ok=True)
    as_of = population.as_of_micros(options.days)
    limits = Limits(options.limit, int(options.peer_memory * (1 << 30)))
    figures = common.head(options, "events", "repetitions", "patience", "cold")
    figures["limits"] = limits._asdict()
    pugmark = common.store_of(options, place / "store", max(options.threads))
    parquet = population.generate(options, pugmark, place / "events.parquet")
    figures["parquet_bytes"] = parquet.stat().st_size
    figures["load"] = load(options, pugmark, parquet, limits)
    figures["open"] = pugmark.open()
    figures["users"] = figures["open"]["users"]
    if figures["open"]["events"] != options.events:
        raise SystemExit(f"the store has {figures['open']['events']} events")
    asked = Asked(as_of // 1_000, options.days, population.first_user(parquet), None)
    figures["runs"] = []
    for threads in options.threads:
        pugmark = common.store_of(options, place / "store", threads)
        everybody = [side for side in sides(options, pugmark, place, threads, asked, limits)
                     if side.loaded in figures["load"]]
        if options.check:
            return check(options, everybody)
        figures["runs"].append(measured(options, figures, pugmark, everybody, threads))
    figures["machine"]["load_after"] = environment.load()
    text = report.markdown(figures, charts.draw(figures, options.out))
    report.finish(options, "comparison", figures, text, "figures")
    return None


def load(options, pugmark, parquet, limits):
    """Loads every engine, one after the other, or those that an earlier run did not; their
    figures. An engine that fails to load is not asked."""
    kept = parquet.with_name("load.json")
    figures = {}
    if options.keep_loaded and kept.exists():
        figures = json.loads(kept.read_text(encoding="utf-8"))
    else:
        shutil.rmtree(parquet.with_name(engines.ClickHouse.LOADED), ignore_errors=True)
    turns = [(engine, layout) for engine, layout in turns_of(options) if layout not in figures]
    progress = Progress("loading", len(turns))
    # Read once, so that no engine pays for the disk.
    population.read_once(parquet)
    for engine, layout in turns:
        progress.turn(f"{engine}, {layout}")
        # What was written before is on the disk, so that no engine waits for it.
        os.sync()
        try:
            figures[layout] = pugmark.load(parquet) if engine == "pugmark" \
                else load_peer(options, engine, layout, parquet, limits)
        except subprocess.CalledProcessError as failure:
            say(f"{layout} is left out: loading it ended with status {failure.returncode}")
    kept.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return figures


def turns_of(options):
    """What is loaded, in order: engine and table."""
    return [("pugmark", "pugmark"), *((engine, layout) for engine in options.engines
                                      for layout in tables_of(options, engine))]


def tables_of(options, engine):
    if engine == "clickhouse":
        return layouts_of(options)
    # DataFusion reads what is written for Polars.
    if engine == "datafusion" and "polars" not in options.engines:
        return ["sorted"]
    return engines.ENGINES[engine].LAYOUTS


def load_peer(options, engine, layout, parquet, limits):
    threads = max(options.threads)
    loader = "polars" if engine == "datafusion" else engine
    command = [sys.executable, "-m", "harness.worker", "load", loader, "--layout", layout,
               "--work", parquet.parent, "--parquet", parquet, "--threads", threads,
               "--memory", limits.bytes]
    done = subprocess.run([str(word) for word in command], cwd=HARNESS, check=True, text=True,
                          stdout=subprocess.PIPE, env=engines.environment(threads))
    return json.loads(done.stdout.splitlines()[-1])


def check(options, everybody):
    """Whether all answer alike, in every formulation."""
    asked, differences = measure.trials(options, everybody, hot=False)
    for side in everybody:
        side.close()
    failed = [f"{question}: {trial.side.title}: {trial.figures['failed']}"
              for question, row in asked.items() for trial in row if trial.figures.get("failed")]
    answers = sum(len(trial.figures.get("tried", ())) for row in asked.values() for trial in row)
    for line in (*differences, *failed):
        print(line)
    print(f"{answers} answers to {len(asked)} questions, {len(differences)} differ, "
          f"{len(failed)} sides have a formulation that was not answered")
    return 1 if differences or failed else 0


def measured(options, figures, pugmark, everybody, threads):
    """All figures with one number of threads."""
    stream = pugmark.stream()
    asked, _ = measure.trials(options, everybody)
    measure.repeat(options, asked)
    figures["versions"] |= {
        side.worker.engine: side.worker.version() for side in everybody if side.peer}
    if options.cold:
        measure.cold(options, everybody, asked)
    for side in everybody:
        side.close()
    questions = measure.summary(asked)
    add_memory(questions, [side for side in everybody if not side.peer], stream)
    return {"threads": threads, "stream_bytes_per_second": stream, "questions": questions}


def add_memory(questions, own, stream):
    """Pugmark's heap, and of typed questions the pages they touch, in processes of their own."""
    progress = Progress("memory", len(questions))
    for name, question in questions.items():
        progress.turn(name)
        for side in own:
            figures = question["sides"][side.name]
            try:
                if "seconds" in figures:
                    figures.update(memory_of(side, name, figures["seconds"], stream))
            except DidNotFinish as why:
                say(f"memory of {name}: {why}")


def memory_of(side, name, seconds, stream):
    heap = {"heap_bytes": side.heap_bytes(name)}
    if side.name != "pugmark_typed":
        return heap
    touched = side.touched_bytes(name)
    return heap | {"touched_bytes": touched, "stream_seconds": touched / stream,
                   "times_stream": seconds / max(touched / stream, 1e-9)}
