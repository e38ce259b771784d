"""Pugmark: generating, importing, asking. All through its two programs."""

import json
import shutil
import subprocess

from harness.environment import directory_bytes, timed


class Pugmark:
    """The programs in `binaries`, the store at `store`."""

    def __init__(self, binaries, store, threads, as_of_micros):
        self.program = binaries / "pugmark"
        self.bench = binaries / "pugmark-bench"
        self.store = store
        self.threads = threads
        self.as_of_micros = as_of_micros
        self.server = None

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

    def ask(self, question):
        """Answer, seconds, seconds of all threads."""
        if self.server is None:
            self.server = subprocess.Popen(
                self._command("serve", *self._asking()),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.server.stdin.write(question + "\n")
        self.server.stdin.flush()
        line = self.server.stdout.readline()
        if not line:
            raise SystemExit(f"pugmark-bench gave no answer to {question}")
        figures = json.loads(line)
        return figures["answer"], figures["seconds"], figures["cpu_seconds"]

    def close(self):
        if self.server is not None:
            self.server.stdin.close()
            self.server.wait()
            self.server = None

    def _asking(self):
        return ("--store", self.store, "--threads", self.threads, "--as-of", self.as_of_micros)

    def _command(self, *words):
        return [str(self.bench), *(str(word) for word in words)]

    def _once(self, *words):
        done = subprocess.run(self._command(*words), stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout)
