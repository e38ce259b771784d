"""Pugmark: generating, importing, asking. All through its two programs."""

import json
import shutil
import subprocess

from harness.environment import directory_bytes, io_bytes, timed


FAR_FUTURE = 4_000_000_000_000_000


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

    def memory(self, question):
        """Heap and pages of one question, each in a fresh process."""
        asking = (*self._asking(), "--question", question)
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

    def ask(self, question):
        """Answer of a question of `benches/src/questions.rs`, seconds, seconds of all threads."""
        figures = self._serve("serve", question)
        return figures["answer"], figures["seconds"], figures["cpu_seconds"]

    def sql(self, statement, whole=False):
        """Rows, seconds, seconds of all threads; of the whole store, or of what was at `as_of`."""
        figures = self._serve("sql-of-all" if whole else "sql", json.dumps(statement))
        return figures["rows"], figures["seconds"], figures["cpu_seconds"]

    def close(self):
        for server in self.servers.values():
            server.stdin.close()
            server.wait()
        self.servers = {}

    def _serve(self, mode, line):
        if mode not in self.servers:
            command = self._command(mode, *self._asking())
            if mode == "sql-of-all":
                command = self._command("sql", *self._asking(FAR_FUTURE))
            self.servers[mode] = subprocess.Popen(
                command,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        server = self.servers[mode]
        server.stdin.write(line + "\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        if not answer:
            raise SystemExit(f"pugmark-bench gave no answer to {line}")
        return json.loads(answer)

    def _asking(self, as_of=None):
        return ("--store", self.store, "--threads", self.threads,
                "--as-of", as_of or self.as_of_micros)

    def _command(self, *words):
        return [str(self.bench), *(str(word) for word in words)]

    def _once(self, *words):
        done = subprocess.run(self._command(*words), stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout)
