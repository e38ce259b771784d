#!/usr/bin/env python3
"""Pugmark's SQL beside ClickHouse and DuckDB: the same events, the same answers.

    benches/sql.py --events 100000000

asks the behavioural questions and ordinary queries through SQL, hot and interleaved, insists that
every engine gives the same rows, and writes sql.md and sql.json to --out. It asks what compare.py
has loaded below --work, and loads it where that is not done. docs/performance.md says what is
measured.
"""

import json
import os
import statistics
import sys
from datetime import datetime, timezone
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import compare  # noqa: E402
from harness import clickhouse, duckdb_engine, environment, report  # noqa: E402
from harness.environment import say  # noqa: E402
from harness.pugmark import Pugmark  # noqa: E402
from harness.statements import ORDINARY, STATEMENTS, WHOLE, ClickHouse, duckdb, normal, pugmark, same  # noqa: E402


def main():
    options = compare.arguments(__doc__, STATEMENTS)
    environment.enter_venv(options.venv)
    options.layouts = options.layouts.split(",")
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    name = f"{options.events}-{options.days}-{options.seed}"
    as_of = compare.as_of_micros(options)
    binaries = (options.binaries or environment.build()).resolve()
    own = Pugmark(binaries, work / f"store-{name}", options.threads, as_of)
    parquet = compare.population(options, own, work / f"events-{name}.parquet")
    compare.load(options, own, parquet, work / f"clickhouse-{name}")
    house = clickhouse.Engine(str(work / f"clickhouse-{name}"), options.threads)
    clickhouse.make_users_table(house, options.layouts[0])
    duck = duckdb_engine.Engine(work / f"duckdb-{name}.db", parquet, options.threads)
    figures = {
        "events": options.events, "days": options.days, "seed": options.seed,
        "threads": options.threads, "repetitions": options.repetitions,
        "users": own.open()["users"], "machine": environment.machine(),
        "versions": {"pugmark": environment.commit(), "clickhouse": house.version(),
                     "duckdb": duck.version()},
    }
    figures["statements"] = measure(options, own, house, duck, as_of)
    figures["machine"]["load_after"] = os.getloadavg()[0]
    out = options.out or work / f"report-{options.events}"
    out.mkdir(parents=True, exist_ok=True)
    (out / "sql.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    text = markdown(figures)
    (out / "sql.md").write_text(text, encoding="utf-8")
    print(text)
    if options.publish:
        report.publish(text, environment.REPOSITORY / "docs/performance.md", "SQL figures")
    say(f"written to {out}")


def measure(options, own, house, duck, as_of):
    """Asks everything; medians and ratios by question."""
    asked = {}
    for question in options.questions.split(","):
        say(f"trying formulations: {question}")
        asked[question] = prepare(options, question, own, house, duck, as_of)
    for repetition in range(options.repetitions):
        say(f"asking everything, {repetition + 1} of {options.repetitions}")
        for sides in asked.values():
            for side in sides.values():
                seconds, cpu = compare.hot(side["ask"], lambda rows: None)
                side["runs"].append(seconds)
                side["cpu_runs"].append(cpu)
    own.close()
    return {question: summarise(sides) for question, sides in asked.items()}


def prepare(options, question, own, house, duck, as_of):
    """The sides that are timed: Pugmark, ClickHouse's layouts, and DuckDB, each with its fastest
    formulation. All must answer the same."""
    sql = pugmark(question)
    ask = lambda statement: own.sql(statement, question in WHOLE)
    expected = normal(question, ask(sql)[0])
    moment = datetime.fromtimestamp(as_of / 1e6, timezone.utc).strftime("%F %T.%f")
    sides = {"pugmark": fastest({"": sql}, ask, question, expected)}
    for layout in options.layouts:
        table = f"{clickhouse.DATABASE}.{layout}"
        tried = ClickHouse(table, clickhouse.USERS, as_of // 1000).of(question)
        sides[layout] = fastest(tried, house.ask, question, expected)
    tried = duckdb(question, moment)
    if tried:
        sides["duckdb"] = fastest(tried, duck.ask, question, expected)
    return sides


def fastest(formulations, ask, question, expected):
    best = {}
    for name, sql in formulations.items():
        for _ in range(2):
            rows, seconds, _ = ask(sql)
            best[name] = min(best.get(name, seconds), seconds)
        got = normal(question, rows)
        if not same(expected, got):
            differing = [pair for pair in zip(expected, got) if not same([pair[0]], [pair[1]])][:3]
            raise SystemExit(f"{question}: {len(expected)} rows are expected, {name or ask} gives "
                             f"{len(got)}; these differ: {differing}\n{sql}")
    chosen = min(best, key=best.get)
    sql = formulations[chosen]
    return {"formulation": chosen, "sql": sql, "tried": best, "rows": len(expected),
            "ask": lambda: ask(sql), "runs": [], "cpu_runs": []}


def summarise(sides):
    for side in sides.values():
        del side["ask"]
        side["seconds"] = statistics.median(side["runs"])
        side["cpu_seconds"] = statistics.median(side["cpu_runs"])
    peers = [side for name, side in sides.items() if name not in ("pugmark", "duckdb")]
    best = min(peer["seconds"] for peer in peers)
    own = sides["pugmark"]["seconds"]
    ratios = {"clickhouse": best / own}
    if "duckdb" in sides:
        ratios["duckdb"] = sides["duckdb"]["seconds"] / own
    ratios["slower_peer"] = max(ratios.values())
    return {"sides": sides, "ratios": ratios}


def markdown(figures):
    machine, versions = figures["machine"], figures["versions"]
    layouts = list(clickhouse.LAYOUTS)
    lines = [
        f"{figures['events']:,} events of {figures['users']:,} users over {figures['days']} days; "
        f"{machine['processor']}, {machine['cores']} cores; {figures['threads']} threads; median of "
        f"{figures['repetitions']}, interleaved, hot; ClickHouse {versions['clickhouse']} (chdb), "
        f"DuckDB {versions['duckdb']}, Pugmark {versions['pugmark']}; load "
        f"{machine['load_before']:.1f} before, {machine['load_after']:.1f} after.", "",
        "| statement | ClickHouse's best / Pugmark | wanted | DuckDB / Pugmark | Pugmark ms | "
        + " | ".join(f"ClickHouse {layout} ms" for layout in layouts) + " | DuckDB ms |",
        "|---|--:|--:|--:|--:|" + "--:|" * (len(layouts) + 1),
    ]
    for name, found in figures["statements"].items():
        text, least = STATEMENTS[name]
        sides, ratios = found["sides"], found["ratios"]
        wanted = f"{least}" if least else f"{ORDINARY:.2f} of the slower"
        ms = lambda side: report.ms(sides[side]["seconds"]) if side in sides else ""
        other = f"{ratios['duckdb']:.1f}" if "duckdb" in ratios else ""
        lines.append(f"| {text} | **{ratios['clickhouse']:.1f}** | {wanted} | {other} "
                     f"| {ms('pugmark')} | " + " | ".join(ms(layout) for layout in layouts)
                     + f" | {ms('duckdb')} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
