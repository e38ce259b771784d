"""Pugmark: generating, importing, asking. All through its two programs."""

import json
import shutil
import subprocess

from harness.child import Child, DidNotFinish, Reply, ending
from harness.environment import directory_bytes, watched

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
        watched([self.program, "generate", "--parquet", unfinished, "--events", events,
                 "--days", days, "--seed", seed])
        unfinished.rename(parquet)

    def importing(self, *file):
        """The command that imports a file."""
        return [self.program, "import", "--store", self.store, "--user", "user_id",
                "--time", "time", "--event", "event", *file]

    def load(self, parquet):
        """Imports into a new store, then compacts it; only the import is the load."""
        figures, _ = self.load_by(self.importing(parquet))
        compaction = figures.pop("compaction")
        return figures | {"merge_seconds": compaction["seconds"],
                          "merge_peak_rss_bytes": compaction["peak_rss_bytes"]}

    def load_by(self, command):
        """Loads into a new store by a command, then compacts it: what both took, and what the
        command said."""
        shutil.rmtree(self.store, ignore_errors=True)
        figures, output = watched(command)
        figures["bytes_before_compaction"] = directory_bytes(self.store)
        figures["compaction"] = self.compact()
        figures["bytes"] = directory_bytes(self.store)
        return figures, output

    def compact(self):
        return watched([self.program, "compact", "--store", self.store])[0]

    def open(self):
        return self._once(LONG, "open", "--store", self.store)

    def stream(self):
        return self._once(LONG, "stream", "--threads", self.threads)["bytes_per_second"]

    def heap(self, question, whole=False, seconds=LONG):
        """The most heap of a fresh process that asks one typed question, above what opening the
        store took."""
        return self._heap(seconds, "memory", *self._asking(whole), "--question", question)

    def sql_heap(self, statement, whole=False, seconds=LONG):
        """The same of a statement."""
        return self._heap(seconds, "sql-memory", *self._asking(whole), "--statement", statement)

    def touched(self, question, whole=False, seconds=LONG):
        """Bytes of the pages that one typed question touches."""
        asking = (*self._asking(whole), "--question", question)
        return self._once(seconds, "pages", *asking)["touched_bytes"]

    def ask(self, question, whole=False, seconds=LONG):
        """The reply to a question of `benches/src/questions.rs`."""
        return self._serve("serve", question, whole, seconds)

    def sql(self, statement, whole=False, seconds=LONG):
        """The reply to a statement, asked of the whole store, or of what was at `as_of`."""
        return self._serve("sql", json.dumps(statement), whole, seconds)

    def close(self):
        for server in self.servers.values():
            server.close()
        self.servers = {}

    def _serve(self, mode, line, whole, seconds):
        if (mode, whole) not in self.servers:
            self.servers[mode, whole] = Child(self._command(mode, *self._asking(whole)))
        server = self.servers[mode, whole]
        read = server.read_bytes()
        given = server.ask(line, seconds)
        return Reply(given["rows"], given["seconds"], given["cpu_seconds"],
                     read_bytes=server.read_bytes() - read)

    def _asking(self, whole):
        return ("--store", self.store, "--threads", self.threads,
                "--as-of", FAR_FUTURE if whole else self.as_of_micros)

    def _command(self, *words):
        return [str(self.bench), *(str(word) for word in words)]

    def _heap(self, *words):
        memory = self._once(*words)
        return memory["peak_bytes"] - memory["opened_bytes"]

    def _once(self, seconds, *words):
        try:
            done = subprocess.run(self._command(*words), capture_output=True, check=False,
                                  timeout=seconds)
        except subprocess.TimeoutExpired:
            raise DidNotFinish(f"more than {seconds:g} s") from None
        if done.returncode != 0:
            raise DidNotFinish(ending(done.returncode, done.stderr))
        return json.loads(done.stdout)
