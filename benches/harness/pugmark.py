"""Pugmark: generating, importing, asking. All through its two programs."""

import json
import shutil
import subprocess

from harness.child import Child, DidNotFinish
from harness.environment import directory_bytes, io_bytes, timed

FAR_FUTURE = 4_000_000_000_000_000

# Where no limit is given.
LONG = 3_600


class Pugmark:
    """The programs in `binaries`, the store at `store`."""

    def __init__(self, binaries, store, threads, as_of_micros):
        self.program = binaries / "pugmark"
        self.bench = binaries / "pugmark-bench"
        self.store = store
        self.threads = threads
        self.as_of_micros = as_of_micros
        self.servers = {}

    def generate(self, parquet, events, days, seed):
        """Writes the population under another name first: a file that is there is whole."""
        unfinished = parquet.with_suffix(".unfinished")
        timed([self.program, "generate", "--parquet", unfinished, "--events", events,
               "--days", days, "--seed", seed])
        unfinished.rename(parquet)

    def load(self, parquet):
        """Imports into a new store, then compacts it; only the import is the load."""
        shutil.rmtree(self.store, ignore_errors=True)
        figures = timed([self.program, "import", "--store", self.store, "--user", "user_id",
                         "--time", "time", "--event", "event", parquet])
        figures["bytes_before_compaction"] = directory_bytes(self.store)
        compaction = timed([self.program, "compact", "--store", self.store])
        figures["merge_seconds"] = compaction["seconds"]
        figures["merge_peak_rss_bytes"] = compaction["peak_rss_bytes"]
        figures["bytes"] = directory_bytes(self.store)
        return figures

    def open(self):
        return self._once("open", "--store", self.store)

    def stream(self):
        return self._once("stream", "--threads", self.threads)["bytes_per_second"]

    def memory(self, question, whole=False):
        """Heap and pages of one typed question, each in a fresh process."""
        asking = (*self._asking(whole), "--question", question)
        return self._once("memory", *asking) | self._once("pages", *asking)

    def heap(self, question):
        """The most heap of a fresh process that asks one question."""
        return self._once("memory", *self._asking(), "--question", question)["peak_bytes"]

    def sql_heap(self, statement, whole=False):
        """The same of a statement."""
        asking = self._asking(FAR_FUTURE if whole else None)
        return self._once("sql-memory", *asking, "--statement", statement)["peak_bytes"]

    def read_bytes(self):
        """What the serving processes have read from the disk so far."""
        return sum(io_bytes(server.pid)["read_bytes"] for server in self.servers.values())

    def sql_memory(self, statement, whole=False):
        """Heap of one statement in a fresh process."""
        return self._once("sql-memory", *self._asking(whole), "--statement", statement)

    def ask(self, question, whole=False, seconds=LONG):
        """Rows of a question of `benches/src/questions.rs`, seconds, seconds of all threads."""
        return self._serve("serve", question, whole, seconds)

    def sql(self, statement, whole=False, seconds=LONG):
        """Rows, seconds, seconds of all threads; of the whole store, or of what was at `as_of`."""
        return self._serve("sql", json.dumps(statement), whole, seconds)

    def close(self):
        for server in self.servers.values():
            server.close()
        self.servers = {}

    def _serve(self, mode, line, whole, seconds):
        if (mode, whole) not in self.servers:
            self.servers[mode, whole] = Child(self._command(mode, *self._asking(whole)))
        figures = self.servers[mode, whole].ask(line, seconds)
        return figures["rows"], figures["seconds"], figures["cpu_seconds"]

    def _asking(self, whole):
        return ("--store", self.store, "--threads", self.threads,
                "--as-of", FAR_FUTURE if whole else self.as_of_micros)

    def _command(self, *words):
        return [str(self.bench), *(str(word) for word in words)]

    def _once(self, *words):
        done = subprocess.run(self._command(*words), stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            raise DidNotFinish(f"its process ended with status {done.returncode}")
        return json.loads(done.stdout)
