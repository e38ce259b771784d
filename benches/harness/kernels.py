"""Instructions of the innermost loops, as valgrind's callgrind counts them."""

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from harness import report
from harness.environment import REPOSITORY, Progress, commit, say

ABOUT = """Counts the instructions of the kernels of benches/kernels/kernels.rs, each run once under
callgrind (the Debian package valgrind). Counts do not depend on how busy the machine is, so they
tell whether a change made a kernel do less. Takes some minutes: a processor is imitated."""

# The function that each kernel runs in, as callgrind may spell it.
COUNTED = "*kernels*counted*"


def add_arguments(parser):
    add = parser.add_argument
    add("--kernels", default="", metavar="TEXT", help="only those whose name contains this [all]")
    add("--work", type=Path, default=REPOSITORY / "target/kernels",
        help="where files go [target/kernels]")
    add("--out", type=Path, help="where the report goes [WORK/report]")
    add("--publish", action="store_true", help="put the table into docs/performance.md")


def run(options):
    if not shutil.which("valgrind"):
        raise SystemExit("there is no valgrind, which counts: apt-get install valgrind")
    options.out = (options.out or options.work / "report").resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    program = _built()
    names = [name for name in _listed(program) if options.kernels in name]
    if not names:
        raise SystemExit(f"no kernel has {options.kernels!r} in its name")
    progress, kernels = Progress("counting", len(names)), []
    for name in names:
        progress.turn(name)
        kernels.append({"name": name, **_counted(program, name)})
    figures = {"pugmark": commit(), "valgrind": _output("valgrind", "--version").strip(),
               "kernels": kernels}
    report.finish(options, "kernels", figures, markdown(figures), "kernel figures")
    return 0


def markdown(figures):
    rows = [[kernel["name"], f"{kernel['elements']:,}", f"{kernel['instructions']:,}",
             f"{kernel['instructions'] / kernel['elements']:.1f}"]
            for kernel in figures["kernels"]]
    heads = ["kernel", "elements", "instructions", "each"]
    made = f"Pugmark {figures['pugmark']}, {figures['valgrind']}."
    return f"{made}\n\n{report.table(heads, rows)}\n"


def _built():
    """The program of the kernels."""
    say("building the kernels")
    command = ["cargo", "bench", "--locked", "-p", "pugmark-kernels", "--bench", "kernels",
               "--no-run", "--message-format=json-render-diagnostics"]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True)
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    found = [message["executable"] for message in messages
             if message.get("target", {}).get("name") == "kernels" and message.get("executable")]
    return found[-1]


def _listed(program):
    lines = _output(program, "--bench", "--list").splitlines()
    return [line.removesuffix(": benchmark") for line in lines if line.endswith(": benchmark")]


def _counted(program, name):
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", f"--callgrind-out-file={directory}/out",
             f"--toggle-collect={COUNTED}", program, "--bench", "--test", "--exact", name],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    # A process that criterion forks tells a count of its own, nothing.
    collected = max(map(int, re.findall(r"Collected : (\d+)", done.stderr)), default=0)
    group = name.rpartition("/")[0]
    elements = re.search(rf"elements of {re.escape(group)}: (\d+)", done.stderr)
    if done.returncode != 0 or not elements or not collected:
        raise SystemExit(f"nothing was counted of {name!r}:\n{done.stderr}")
    return {"elements": int(elements[1]), "instructions": collected}


def _output(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                          check=True).stdout
