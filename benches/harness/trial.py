"""What measurements of Pugmark alone share: arguments, hot questions, watched child processes."""

import os
import subprocess
import threading
import time
from pathlib import Path

from harness import environment
from harness.pugmark import Pugmark

START_MICROS = 1_735_689_600_000_000
DAY_MICROS = 86_400_000_000
WARM_UP_SECONDS = 0.3
LOOK_SECONDS = 0.01
PAGE = environment.REPOSITORY / "docs/performance.md"


def add_common(parser, name):
    """Arguments of every such measurement; its files go below `target/NAME`."""
    add = parser.add_argument
    add("--work", type=Path, default=environment.REPOSITORY / "target" / name,
        help=f"where files go [target/{name}]")
    add("--out", type=Path, help="where the report goes [WORK/report]")
    add("--seed", type=int, default=1, help="of the population [1]")
    add("--days", type=int, default=90, help="of the population [90]")
    add("--venv", help="a Python environment with what is pinned")
    add("--binaries", type=Path, help="built programs; builds them if not given")
    add("--keep", action="store_true", help="leave what was generated; it is used again")
    add("--publish", action="store_true", help="put the figures into docs/performance.md")


def prepare(options):
    """Enters the environment, finds the programs, makes the folders."""
    environment.enter_venv(options.venv)
    options.binaries = (options.binaries or environment.build()).resolve()
    options.work = options.work.resolve()
    options.out = (options.out or options.work / "report").resolve()
    (options.out / "plots").mkdir(parents=True, exist_ok=True)


def head(**more):
    """What every report says of its making."""
    return {"commit": environment.commit(), "machine": environment.machine(), **more}


def made_on(figures):
    """The line below a heading: on what, when how busy."""
    machine = figures["machine"]
    return (f"{machine['processor']}, {machine['cores']} cores, "
            f"{machine['memory_bytes'] / (1 << 30):.0f} GiB; Pugmark {figures['commit']}; load "
            f"{machine['load_before']:.1f} before, {os.getloadavg()[0]:.1f} after.")


def store_of(options, path, threads):
    """A store whose present is in the middle of the last day: ranges break days at both ends."""
    as_of = START_MICROS + options.days * DAY_MICROS - 30_600_000_000
    return Pugmark(options.binaries, path, threads, as_of)


def hot(ask):
    """Result and seconds of one asking after `WARM_UP_SECONDS` of the same, and at least one."""
    until = time.monotonic() + WARM_UP_SECONDS
    while True:
        warm = time.monotonic() >= until
        got, seconds, _ = ask()
        if warm:
            return got, seconds


def watched(command):
    """Runs a child to its end; its output, seconds, memory, and bytes written to the disk.

    `peak_rss_bytes` counts pages of mapped files, which the kernel takes back when it needs them;
    `peak_heap_bytes` is what belongs to no file. Both are looked at every 10 ms: what the kernel
    tells in the end, `ru_maxrss`, is never less than this process had when it forked."""
    begun = time.perf_counter()
    child = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True)
    peaks, done = {"VmHWM:": 0, "RssAnon:": 0}, threading.Event()
    watcher = threading.Thread(target=_watch, args=(child.pid, peaks, done))
    watcher.start()
    output = child.stdout.read()
    # Ended, but not yet forgotten by the kernel: its figures can still be read.
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    seconds = time.perf_counter() - begun
    done.set()
    watcher.join()
    disk = environment.io_bytes(child.pid)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise SystemExit(f"{command[0]} failed with status {child.returncode}")
    return {
        "output": output, "seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_rss_bytes": peaks["VmHWM:"] * 1024, "peak_heap_bytes": peaks["RssAnon:"] * 1024,
        "written_bytes": disk["write_bytes"] - disk["cancelled_write_bytes"],
    }


def _watch(pid, peaks, done):
    while not done.wait(LOOK_SECONDS):
        found = _kilobytes(f"/proc/{pid}/status", peaks)
        peaks.update({field: max(peaks[field], figure) for field, figure in found.items()})


def _kilobytes(path, fields):
    """Those of the fields that the kernel has, which it has not of a process that ended."""
    with open(path, encoding="utf-8") as lines:
        words = [line.split() for line in lines]
    return {line[0]: int(line[1]) for line in words if line and line[0] in fields}


def available_bytes():
    """Memory that the page cache may take."""
    return _kilobytes("/proc/meminfo", ("MemAvailable:",))["MemAvailable:"] * 1024
