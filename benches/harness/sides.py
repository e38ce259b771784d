"""Who is asked: Pugmark through SQL and as a library, and each table of each peer. All are asked in
one way, within the limits, whatever process stands behind them."""

import json
import sys
from collections import namedtuple
from datetime import datetime, timedelta
from pathlib import Path

from harness import engines
from harness.child import Child, DidNotFinish, Reply
from harness.clickhouse import BITMAPS, LAYOUTS
from harness.questions import QUESTIONS, normal
from harness.sql import clickhouse as clickhouse_words
from harness.sql import pugmark as pugmark_words

HARNESS = Path(__file__).resolve().parents[1]
START = datetime(1970, 1, 1)

# Of an answer: its seconds, and the memory of a peer that gives it.
Limits = namedtuple("Limits", "seconds bytes")


class Side:
    """One column of the comparison. `group` is whose best is compared, `loaded` the name of its
    load figures. Those with the same `events` must answer alike."""

    peer = True
    events = None

    def __init__(self, name, title, group, loaded):
        self.name, self.title, self.group, self.loaded = name, title, group, loaded

    def left_out(self, question):
        """Why it is not asked this, or None."""
        return None


class PugmarkSql(Side):
    """Pugmark asked through SQL text, planning included."""

    peer = False

    def __init__(self, pugmark, asked, limits):
        super().__init__("pugmark", "Pugmark", "pugmark", "pugmark")
        self.pugmark, self.asked, self.limits = pugmark, asked, limits

    def formulations(self, question):
        return pugmark_words.formulations(question, self.asked)

    def ask(self, question, formulation, watch=False):
        sql = self.formulations(question)[formulation]
        whole = QUESTIONS[question].whole
        reply = self.pugmark.sql(sql, whole, self.limits.seconds)
        reply.rows = normal(question, reply.rows)
        return reply

    def heap_bytes(self, question):
        """Heap of a fresh process."""
        sql = self.formulations(question)[""]
        return self.pugmark.sql_heap(sql, QUESTIONS[question].whole, self.limits.seconds)

    def files(self):
        return [path for path in self.pugmark.store.rglob("*") if path.is_file()]

    def close(self):
        self.pugmark.close()


class PugmarkTyped(PugmarkSql):
    """Pugmark asked as a library, by a typed plan."""

    def __init__(self, pugmark, asked, limits):
        super().__init__(pugmark, asked, limits)
        self.name, self.title = "pugmark_typed", "Pugmark, library"

    def formulations(self, question):
        return {"": "see benches/src/questions.rs"}

    def left_out(self, question):
        return None if QUESTIONS[question].typed else "no typed plan"

    def ask(self, question, formulation, watch=False):
        reply = self.pugmark.ask(*self._question(question))
        rows = [[moment(value) for value in row] for row in reply.rows]
        reply.rows = normal(question, rows)
        return reply

    def heap_bytes(self, question):
        return self.pugmark.heap(*self._question(question))

    def touched_bytes(self, question):
        """The pages that it touches, in a fresh process."""
        return self.pugmark.touched(*self._question(question))

    def _question(self, question):
        """What a question is called in questions.rs, and how it is asked."""
        name = f"trail:{self.asked.user}" if question == "trail" else question
        return name, QUESTIONS[question].whole, self.limits.seconds


def moment(value):
    """Times of typed answers are microseconds, and say so."""
    if not isinstance(value, dict):
        return value
    return START + timedelta(microseconds=value["micros"])


class Worker:
    """An engine's process, which its sides share."""

    def __init__(self, engine, work, threads, asked, limits):
        self.engine, self.work, self.limits = engine, work, limits
        command = [sys.executable, "-m", "harness.worker", "ask", engine, "--work", work,
                   "--threads", threads, "--memory", limits.bytes,
                   "--asked", json.dumps(asked)]
        self.child = Child(command, engines.environment(threads), HARNESS, greets=True)

    def request(self, watch=False, **request):
        line = json.dumps(request)
        given = self.child.ask(line, self.limits.seconds, self.limits.bytes, watch)
        if "error" in given:
            raise DidNotFinish(given["error"].split("\n")[0][:300])
        return given

    def version(self):
        if self.child.process is None:
            self.child.start()
        return self.child.greeting["version"]


class Peer(Side):
    """A table of an engine."""

    def __init__(self, name, title, group, worker):
        loaded = "sorted" if name in ("polars", "datafusion") else name
        super().__init__(name, title, group, loaded)
        self.worker = worker

    def left_out(self, question):
        if self.name in BITMAPS:
            return clickhouse_words.Bitmaps.left_out(question, self.name)
        return None

    def formulations(self, question):
        given = self.worker.request(table=self.name, question=question, formulation=None)
        return given["formulations"]

    def ask(self, question, formulation, watch=False):
        given = self.worker.request(watch, table=self.name, question=question,
                                    formulation=formulation)
        child = self.worker.child
        heap = max(0, child.peak_bytes - child.opened_bytes) if watch else None
        return Reply(given["rows"], given["seconds"], given["cpu_seconds"], heap)

    def files(self):
        return engines.loaded_files(self.worker.work, self.worker.engine)

    def close(self):
        self.worker.child.close()


def layouts_of(options):
    """ClickHouse's tables in the order of their making."""
    return [*options.layouts, *(("bitmaps", "bitmaps_raw") if options.raw_ids else ("bitmaps",))]


def sides(options, pugmark, work, threads, asked, limits):
    """All that are asked, Pugmark first."""
    found = [PugmarkSql(pugmark, asked, limits), PugmarkTyped(pugmark, asked, limits)]
    workers = {}
    for engine in options.engines:
        workers[engine] = Worker(engine, work, threads, asked, limits)
    if "clickhouse" in workers:
        for layout in layouts_of(options):
            group = "clickhouse" if layout in LAYOUTS else "bitmaps"
            found.append(Peer(layout, f"ClickHouse {layout}", group, workers["clickhouse"]))
    titles = {"duckdb": "DuckDB", "polars": "Polars", "datafusion": "DataFusion"}
    found += [Peer(engine, titles[engine], engine, workers[engine])
              for engine in titles if engine in workers]
    return found
