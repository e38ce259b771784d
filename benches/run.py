#!/usr/bin/env python3
"""Measures Pugmark. Each command says more of itself:

    benches/run.py compare --help

The commands make what they need: release programs (cargo), generated events, and, on the first run,
a Python environment with the peers (network) in the cache directory, or where --venv or
PUGMARK_BENCH_VENV says. docs/performance.md says what is measured and how.
"""

import argparse
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

# Each is a module of `harness` with ABOUT, add_arguments(parser) and run(options).
COMMANDS = ("compare", "scale", "cost", "ingest", "kernels", "service")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    modules = {}
    for name in COMMANDS:
        modules[name] = importlib.import_module(f"harness.{name}")
        about = modules[name].ABOUT
        modules[name].add_arguments(
            commands.add_parser(name, help=about, description=about))
    options = parser.parse_args()
    sys.exit(modules[options.command].run(options))


if __name__ == "__main__":
    main()
