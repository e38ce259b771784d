#!/usr/bin/env python3
"""Pugmark beside ClickHouse: the same events, the same questions, the same answers.

    benches/compare.py --events 100000000

builds the release programs, generates the events to a Parquet file (once), loads the file into
Pugmark and into ClickHouse in three layouts, asks all the same questions, hot and interleaved,
insists that the answers are the same, and writes comparison.md and comparison.json to --out.
The peers live in a Python environment that is made on the first run (network) in the cache
directory, or given by --venv or PUGMARK_BENCH_VENV. docs/performance.md says what is measured.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import clickhouse, environment, report  # noqa: E402
from harness.environment import say, timed  # noqa: E402
from harness.pugmark import Pugmark  # noqa: E402
from harness.questions import QUESTIONS, Formulations, answer  # noqa: E402

START_MICROS = 1_735_689_600_000_000
DAY_MICROS = 86_400_000_000
WARM_UP_SECONDS = 0.3


def arguments(about, questions):
    parser = argparse.ArgumentParser(description=about.split("\n")[0])
    add = parser.add_argument
    add("--events", type=int, default=100_000_000, help="how many events [100 million]")
    add("--work", type=Path, default=environment.REPOSITORY / "target/compare",
        help="where files go: some 60 bytes an event [target/compare]")
    add("--out", type=Path, help="where the report goes [WORK/report-EVENTS]")
    add("--repetitions", type=int, default=5, help="timed runs of each question [5]")
    add("--threads", type=int, default=2, help="threads of every engine [2]")
    add("--seed", type=int, default=1, help="of the population [1]")
    add("--days", type=int, default=90, help="of the population [90]")
    add("--layouts", default=",".join(clickhouse.LAYOUTS), help="of ClickHouse [all]")
    add("--questions", default=",".join(questions), help="to ask [all]")
    add("--venv", help="a Python environment with chdb and pyarrow")
    add("--binaries", type=Path, help="built programs; builds them if not given")
    add("--keep-loaded", action="store_true",
        help="ask what an earlier run loaded; its load figures are taken over")
    add("--publish", action="store_true", help="put the tables into docs/performance.md")
    return parser.parse_args()


def main():
    options = arguments(__doc__, QUESTIONS)
    environment.enter_venv(options.venv)
    options.layouts = options.layouts.split(",")
    options.questions = options.questions.split(",")
    binaries = options.binaries or environment.build()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    figures = {
        "events": options.events, "days": options.days, "seed": options.seed,
        "threads": options.threads, "repetitions": options.repetitions,
        "commit": environment.commit(), "machine": environment.machine(),
    }
    as_of = as_of_micros(options)
    name = f"{options.events}-{options.days}-{options.seed}"
    pugmark = Pugmark(binaries.resolve(), work / f"store-{name}", options.threads, as_of)
    parquet = population(options, pugmark, work / f"events-{name}.parquet")
    figures["parquet_bytes"] = parquet.stat().st_size
    figures["load"] = load(options, pugmark, parquet, work / f"clickhouse-{name}")
    engine = clickhouse.Engine(str(work / f"clickhouse-{name}"), options.threads)
    clickhouse.make_users_table(engine, options.layouts[0])
    measure(options, figures, pugmark, engine, as_of // 1000)
    out = options.out or work / f"report-{options.events}"
    text = report.write(figures, out)
    print(text)
    if options.publish:
        report.publish(text, environment.REPOSITORY / "docs/performance.md")
    say(f"written to {out}")


def as_of_micros(options):
    """The present: in the middle of the last day, so that ranges break days at both ends."""
    return START_MICROS + options.days * DAY_MICROS - 30_600_000_000


def population(options, pugmark, parquet):
    """The events as a file, made where missing."""
    if not parquet.exists():
        say(f"generating {parquet}")
        pugmark.generate(parquet, options.events, options.days, options.seed)
    return parquet


def load(options, pugmark, parquet, directory):
    """Loads every engine, one after the other; their figures."""
    kept = parquet.with_suffix(".load.json")
    if options.keep_loaded and kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))
    # Read once, so that no engine pays for the disk.
    timed(["cat", parquet])
    say("importing into Pugmark")
    figures = {"pugmark": pugmark.load(parquet), "clickhouse": {}}
    script = Path(clickhouse.__file__)
    for layout in options.layouts:
        say(f"inserting into ClickHouse, {layout}")
        part = kept.with_suffix(".part")
        timed([sys.executable, script, directory, layout, parquet, options.threads, part])
        figures["clickhouse"][layout] = json.loads(part.read_text(encoding="utf-8"))
        part.unlink()
    kept.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return figures


def measure(options, figures, pugmark, engine, as_of_millis):
    """Asks everything; fills in the figures."""
    figures["open"] = pugmark.open()
    figures["users"] = figures["open"]["users"]
    if figures["open"]["events"] != options.events:
        raise SystemExit(f"the store has {figures['open']['events']} events")
    figures["stream_bytes_per_second"] = pugmark.stream()
    formulations = {
        layout: Formulations(f"{clickhouse.DATABASE}.{layout}", clickhouse.USERS, as_of_millis)
        for layout in options.layouts}
    questions = {}
    for question in options.questions:
        say(f"trying formulations: {question}")
        questions[question] = prepare(question, pugmark, engine, formulations)
    for repetition in range(options.repetitions):
        say(f"asking everything, {repetition + 1} of {options.repetitions}")
        for question, asked in questions.items():
            ask_all(question, asked, pugmark, engine)
    pugmark.close()
    for question, asked in questions.items():
        summarise(asked, pugmark.memory(question), figures["stream_bytes_per_second"])
    figures["questions"] = questions
    figures["versions"] = {"clickhouse": engine.version(), "pugmark": figures["commit"]}
    figures["machine"]["load_after"] = os.getloadavg()[0]


def prepare(question, pugmark, engine, formulations):
    """Insists on one answer from all, and picks each layout's fastest formulation."""
    expected, _, _ = pugmark.ask(question)
    peers = {}
    for layout, of_layout in formulations.items():
        tried = {}
        for name, sql in of_layout.of(question).items():
            best = float("inf")
            for _ in range(2):
                rows, seconds, _ = engine.ask(sql)
                best = min(best, seconds)
            insist(question, expected, answer(question, rows), f"{layout}, {name}")
            tried[name] = best
        fastest = min(tried, key=tried.get)
        peers[layout] = {"formulation": fastest, "sql": of_layout.of(question)[fastest],
                         "tried": tried, "runs": [], "cpu_runs": []}
    return {"text": QUESTIONS[question][0], "answer": expected,
            "pugmark": {"runs": [], "cpu_runs": []}, "clickhouse": peers}


def insist(question, expected, got, whose):
    if expected != got:
        raise SystemExit(f"{question}: Pugmark says {expected}, ClickHouse ({whose}) says {got}")


def ask_all(question, asked, pugmark, engine):
    """Each engine in turn, timed once when it is hot."""
    insist_on = lambda got, whose: insist(question, asked["answer"], got, whose)
    seconds, cpu = hot(lambda: pugmark.ask(question), lambda got: insist_on(got, "Pugmark again"))
    asked["pugmark"]["runs"].append(seconds)
    asked["pugmark"]["cpu_runs"].append(cpu)
    for layout, peer in asked["clickhouse"].items():
        seconds, cpu = hot(lambda: engine.ask(peer["sql"]),
                           lambda rows: insist_on(answer(question, rows), layout))
        peer["runs"].append(seconds)
        peer["cpu_runs"].append(cpu)


def hot(ask, check):
    """Seconds, and seconds of all threads, of one asking after `WARM_UP_SECONDS` of the same: the
    processor's caches and clock are then the question's own, whatever was asked before."""
    until = time.monotonic() + WARM_UP_SECONDS
    while True:
        warm = time.monotonic() >= until
        got, seconds, cpu = ask()
        check(got)
        if warm:
            return seconds, cpu


def summarise(asked, memory, bytes_per_second):
    """Medians, and the ratios to ClickHouse's best layout."""
    for side in (asked["pugmark"], *asked["clickhouse"].values()):
        side["seconds"] = statistics.median(side["runs"])
        side["cpu_seconds"] = statistics.median(side["cpu_runs"])
    if memory.pop("answer") != asked["answer"]:
        raise SystemExit(f"{asked['text']}: another answer in a fresh process")
    memory["stream_seconds"] = memory["touched_bytes"] / bytes_per_second
    asked["pugmark"]["memory"] = memory
    peers = asked["clickhouse"].values()
    ours = asked["pugmark"]
    asked["ratio"] = min(peer["seconds"] for peer in peers) / ours["seconds"]
    asked["cpu_ratio"] = min(peer["cpu_seconds"] for peer in peers) / ours["cpu_seconds"]


if __name__ == "__main__":
    main()
