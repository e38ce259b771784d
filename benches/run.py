#!/usr/bin/env python3
"""Measurements of Pugmark; docs/performance.md says what each is."""

import argparse
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

COMMANDS = ("scale", "cost", "ingest")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in COMMANDS:
        module = importlib.import_module(f"harness.{name}")
        short = module.ABOUT.split(".")[0]
        command = commands.add_parser(name, description=module.ABOUT, help=short)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
