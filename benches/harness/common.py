"""What all commands share: arguments, and what is made ready before anything is measured."""

import argparse
from pathlib import Path

from harness import environment, population
from harness.pugmark import Pugmark


def a_list(known, kind=str):
    """Parses an argument of several words, each of which is known, where anything is."""
    def parse(text):
        try:
            chosen = [kind(word) for word in text.split(",") if word]
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        unknown = [word for word in chosen if known and word not in known]
        if unknown or not chosen:
            raise argparse.ArgumentTypeError(f"{unknown or text}: choose of {', '.join(known)}")
        return chosen
    return parse


def add_common(parser, name, size="", report="report"):
    """Arguments of every command; its files go below `target/NAME`."""
    add = parser.add_argument
    add("--days", type=int, default=90, help="of the population [90]")
    add("--seed", type=int, default=1, help="of the population [1]")
    add("--work", type=Path, default=environment.REPOSITORY / "target" / name,
        help=f"where files go{size} [target/{name}]")
    add("--out", type=Path, help=f"where the report goes [WORK/{report}]")
    add("--venv", help="a Python environment with the peers; made where missing")
    add("--binaries", type=Path, help="built programs; builds them if not given")
    add("--publish", action="store_true",
        help="put tables and charts into docs/performance.md and docs/plots")


def add_limit(parser):
    parser.add_argument("--limit", type=float, default=120, help="seconds an answer may take [120]")


def add_keep(parser):
    parser.add_argument("--keep", action="store_true",
                        help="leave what was generated; it is used again")


def prepare(options, report="report"):
    """Enters the environment, finds the programs, makes the folders."""
    environment.enter_venv(options.venv)
    options.binaries = (options.binaries or environment.build()).resolve()
    options.work = options.work.resolve()
    options.out = (options.out or options.work / report).resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)


def head(options, *names):
    """What every report says of its making: the options so named, too."""
    return {"versions": {"pugmark": environment.commit()}, "machine": environment.machine(),
            **{name: getattr(options, name) for name in ("days", "seed", *names)}}


def store_of(options, path, threads):
    return Pugmark(options.binaries, path, threads, population.as_of_micros(options.days))
