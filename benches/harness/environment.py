"""The machine, the Python environment of the peers, the build, and child processes."""

import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PINNED = ("chdb==4.4.0", "duckdb==2.0.0", "polars==2.1.0", "datafusion==55.0.0",
          "pyarrow==26.0.1", "matplotlib==3.11.2")

# How often the memory of a watched child is looked at.
LOOK_SECONDS = 0.01


def enter_venv(chosen):
    """Runs this program again inside an environment that has the peers, made where missing."""
    if os.environ.get("PUGMARK_BENCH_INSIDE") == "1":
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    venv = Path(chosen or os.environ.get("PUGMARK_BENCH_VENV") or cache / "pugmark/bench-venv")
    python = venv / "bin/python"
    pins, installed = " ".join(PINNED), venv / "pugmark-pins"
    if not (installed.exists() and installed.read_text(encoding="utf-8") == pins):
        say(f"making {venv} with {pins}")
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PINNED], check=True)
        installed.write_text(pins, encoding="utf-8")
    os.environ["PUGMARK_BENCH_INSIDE"] = "1"
    os.execv(python, [str(python), *sys.argv])


def say(text):
    print(time.strftime("%H:%M:%S "), text, file=sys.stderr, flush=True)


class Progress:
    """Lines that say how many of a loop's turns are done, and about how long the others take."""

    def __init__(self, what, turns):
        self.what, self.turns = what, turns
        self.done, self.begun = 0, time.monotonic()

    def turn(self, name):
        """Before each turn."""
        left = ""
        if self.done:
            seconds = (time.monotonic() - self.begun) / self.done * (self.turns - self.done)
            left = f", about {int(seconds) // 60}:{int(seconds) % 60:02} left"
        self.done += 1
        filled = 20 * self.done // self.turns
        say(f"{self.what} [{'#' * filled}{'.' * (20 - filled)}] "
            f"{self.done} of {self.turns}{left}: {name}")


def forget_cached(files):
    """Drops files from the page cache, as far as nobody maps them."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.fdatasync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def build():
    """Release binaries: the directory that holds them."""
    say("building the release binaries")
    cargo = ["cargo", "build", "--release", "--locked"]
    programs = ["-p", "pugmark-server", "-p", "pugmark-benches"]
    subprocess.run([*cargo, *programs], cwd=REPOSITORY, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    return target / "release"


def watched(command):
    """Runs a child to its end: seconds, memory, and bytes written to the disk; and its output.

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
    disk = io_bytes(child.pid)
    _, status, usage = os.wait4(child.pid, 0)
    child.stdout.close()
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise SystemExit(f"{command[0]} failed with status {child.returncode}")
    return {
        "seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_rss_bytes": peaks["VmHWM:"], "peak_heap_bytes": peaks["RssAnon:"],
        "written_bytes": disk["write_bytes"] - disk["cancelled_write_bytes"],
    }, output


def _watch(pid, peaks, done):
    while not done.wait(LOOK_SECONDS):
        found = kernel_bytes(f"/proc/{pid}/status", peaks)
        peaks.update({field: max(peaks[field], figure) for field, figure in found.items()})


def kernel_bytes(path, fields):
    """Those of the fields that the kernel has, which it has not of a process that ended."""
    try:
        with open(path, encoding="utf-8") as lines:
            words = [line.split() for line in lines]
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {line[0]: int(line[1]) * 1024 for line in words if line and line[0] in fields}


def available_bytes():
    """Memory that the page cache may take."""
    return kernel_bytes("/proc/meminfo", ("MemAvailable:",))["MemAvailable:"]


def directory_bytes(directory):
    """Bytes of all files below, logs and locks included."""
    return sum(path.stat().st_size for path in Path(directory).rglob("*") if path.is_file())


def io_bytes(pid):
    """The kernel's count of what a process made the disk do. What was written to a file that was
    removed before it reached the disk is in `cancelled_write_bytes`, too."""
    with open(f"/proc/{pid}/io", encoding="utf-8") as lines:
        return {name: int(figure) for name, figure in (line.split(": ") for line in lines)}


def load():
    """How busy the machine is."""
    return os.getloadavg()[0]


def machine():
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    model = ""
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_bytes": memory,
        "kernel": platform.release(),
        "load_before": load(),
    }


def commit():
    command = ["git", "-C", str(REPOSITORY), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None

