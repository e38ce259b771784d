"""What `pugmark serve` bears: events from many clients, and a funnel asked meanwhile."""

import http.client
import json
import shutil
import signal
import statistics
import subprocess
import threading
import time
from pathlib import Path

from harness import common, environment, report
from harness.environment import Progress, kernel_bytes, say

ABOUT = """Measures the service on the machine that also makes its load, with wrk (the Debian package):
single events and batches as Segment's SDKs send them, each answered when it is durable, and a funnel
over the events that were there before, asked meanwhile and when nothing else is. Afterwards every
acknowledged event must be in the store."""

SCRIPT = Path(__file__).resolve().parent / "wrk/send.lua"
FUNNEL = """SELECT name, users FROM funnel(step('view'), step('cart'), step('purchase'),
                               within => INTERVAL '1 day')"""
# Events of a request, connections, and milliseconds that each rests between requests: first as much
# as is wanted, then as much as is borne.
LOADS = {
    "single events, 64 connections at rest for 8 ms": (1, 64, 8),
    "batches of 500, 8 connections at rest for 32 ms": (500, 8, 32),
    "single events, 64 connections": (1, 64, 0),
    "batches of 500, 8 connections": (500, 8, 0),
}


def add_arguments(parser):
    add = parser.add_argument
    add("--events", type=int, default=10_000_000, help="there beforehand [10 million]")
    add("--seconds", type=int, default=20, help="of each load [20]")
    common.add_common(parser, "service")
    common.add_keep(parser)


def run(options):
    if not shutil.which("wrk"):
        raise SystemExit("wrk makes the load: `apt-get install wrk`")
    options.binaries = (options.binaries or environment.build()).resolve()
    options.out = (options.out or options.work / "report").resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    figures = common.head(options, "events", "seconds")
    program, store = options.binaries / "pugmark", options.work.resolve() / "store"
    shutil.rmtree(store, ignore_errors=True)
    subprocess.run([program, "generate", "--store", store, "--events", str(options.events),
                    "--days", str(options.days), "--seed", str(options.seed)], check=True)
    subprocess.run([program, "compact", "--store", store], check=True)
    progress = Progress("sending", len(LOADS))
    figures["loads"] = {}
    try:
        for name, load in LOADS.items():
            progress.turn(name)
            figures["loads"][name] = measured(program, store, load, options)
    finally:
        if not options.keep:
            shutil.rmtree(store, ignore_errors=True)
    figures["machine"]["load_after"] = environment.load()
    check(figures)
    report.finish(options, "service", figures, markdown(figures), "service figures")


def measured(program, store, load, options):
    """One load, on a service over a copy of the store: quiet means before anything has come."""
    copy = store.with_name("loaded")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(store, copy)
    service = Service(program, copy)
    try:
        quiet = {"quiet_seconds": statistics.median(service.funnel() for _ in range(50))}
        one = quiet | service.load(*load, options.seconds) | service.memory()
    finally:
        service.end()
        shutil.rmtree(copy, ignore_errors=True)
    return one


class Service:
    """A running service, and one client that asks."""

    def __init__(self, program, store):
        command = [program, "serve", "--store", store, "--http", "127.0.0.1:0", "--pg", "off",
                   "--flight", "off", "--log-format", "json"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.address = self._address()
        # Nobody reads it else, and it must not wait.
        threading.Thread(target=self.process.stderr.read, daemon=True).start()
        self.client = http.client.HTTPConnection(self.address, timeout=120)

    def _address(self):
        for line in self.process.stderr:
            said = line.partition("serving http://")[2]
            if said:
                return said.split('"')[0].split()[0]
        self.process.kill()
        raise SystemExit("the service did not start")

    def ask(self, sql):
        self.client.request("POST", "/v1/sql", sql)
        answer = self.client.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{answer.status}: {text.decode()}")
        return json.loads(text)["rows"]

    def funnel(self):
        """Seconds that it takes."""
        begun = time.monotonic()
        self.ask(FUNNEL)
        return time.monotonic() - begun

    def count(self):
        return self.ask("SELECT count(*) AS n FROM events")[0]["n"]

    def load(self, size, connections, rest, seconds):
        """Sends for so long, and asks twice a second."""
        before = self.count()
        wrk = subprocess.Popen(
            ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", SCRIPT,
             f"http://{self.address}", "--", f"{time.time_ns():x}",
             str(size), str(rest)],
            stdout=subprocess.PIPE, text=True)
        times = []
        while wrk.poll() is None:
            times.append(self.funnel())
            time.sleep(0.5)
        said = wrk.stdout.read()
        line = next((line for line in said.splitlines() if line.startswith("FIGURES ")), None)
        if line is None:
            raise SystemExit(f"wrk said: {said}")
        sent = json.loads(line.removeprefix("FIGURES "))
        acknowledged = (sent["requests"] - sent["refused"]) * size
        # What was sent when wrk ended is stored, too, and was acknowledged to nobody.
        unheard = self.count() - before - acknowledged
        return sent | {
            "acknowledged": acknowledged, "unheard": unheard, "most_unheard": size * connections,
            "events_per_second": acknowledged / sent["seconds"],
            "funnel_seconds": statistics.median(times), "funnels": len(times)}

    def memory(self):
        kept = kernel_bytes(f"/proc/{self.process.pid}/status", ("VmHWM:", "RssAnon:"))
        return {"peak_rss_bytes": kept["VmHWM:"], "heap_bytes": kept["RssAnon:"]}

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(60) != 0:
            say("the service did not end well")


def check(figures):
    """Each acknowledged event is there, and none that nobody sent."""
    for name, one in figures["loads"].items():
        if not 0 <= one["unheard"] <= one["most_unheard"] or one["refused"] or one["broken"]:
            raise SystemExit(f"{name}: {one}")


def markdown(figures):
    head = (f"{figures['events']:,} events there beforehand; {figures['seconds']} s each; "
            f"{report.made_on(figures)}")
    rows = [[name, f"{one['requests'] / one['seconds']:,.0f}", f"{one['events_per_second']:,.0f}",
             report.ms(one["p50_seconds"]), report.ms(one["p99_seconds"]),
             f"{one['acknowledged']:,}", report.ms(one["quiet_seconds"]),
             report.ms(one["funnel_seconds"]),
             f"{one['funnel_seconds'] / one['quiet_seconds']:.1f}",
             report.mib(one["peak_rss_bytes"])]
            for name, one in figures["loads"].items()]
    heads = ["load", "requests a second", "events a second", "answered in ms, median", "p99",
             "acknowledged, and stored", "funnel ms before, median", "meanwhile", "times",
             "largest resident set, MiB"]
    return "\n\n".join([head, report.table(heads, rows)]) + "\n"
