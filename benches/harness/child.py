"""A process that answers lines by lines, within limits of time and memory."""

import json
import os
import select
import subprocess
import time


class DidNotFinish(Exception):
    """Why a question was given up."""


class Child:
    """A process that is started when it is asked, and again after it was killed."""

    def __init__(self, command, environment=None, directory=None, greets=False):
        self.command = [str(word) for word in command]
        self.environment = environment
        self.directory = directory
        self.greets = greets
        self.process = None
        self.greeting = {}
        self.opened_bytes = 0
        self.peak_bytes = 0

    def start(self):
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=self.environment, cwd=self.directory)
        self.buffer = b""
        if self.greets:
            self.greeting = self._line(600, None, 0.05)
            self.opened_bytes = anonymous_bytes(self.process.pid)

    def ask(self, line, seconds, limit_bytes=None, watch=False):
        """The answer as JSON. `watch` looks at memory every millisecond; the most seen is in
        `peak_bytes`, which else is looked at for the limit only."""
        if self.process is None:
            self.start()
        self.peak_bytes = 0
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
            return self._line(seconds, limit_bytes, 0.001 if watch else 0.05)
        except BrokenPipeError:
            self.kill()
            raise DidNotFinish("its process ended") from None
        except DidNotFinish:
            self.kill()
            raise

    def _line(self, seconds, limit_bytes, pause):
        until = time.monotonic() + seconds
        while b"\n" not in self.buffer:
            ready, _, _ = select.select([self.process.stdout], [], [], pause)
            if ready:
                read = os.read(self.process.stdout.fileno(), 1 << 20)
                if not read:
                    raise DidNotFinish(f"its process ended with status {self.process.wait()}")
                self.buffer += read
                continue
            self.peak_bytes = max(self.peak_bytes, anonymous_bytes(self.process.pid))
            if limit_bytes and self.peak_bytes > limit_bytes:
                raise DidNotFinish(f"more than {limit_bytes / (1 << 30):.1f} GiB")
            if time.monotonic() > until:
                raise DidNotFinish(f"more than {seconds:g} s")
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def kill(self):
        if self.process is not None:
            self.process.kill()
        self._end()

    def close(self):
        """Lets it end by itself: its input ends."""
        if self.process is not None:
            self.process.stdin.close()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self._end()

    def _end(self):
        if self.process is not None:
            self.process.wait()
            self.process.stdout.close()
        self.process = None


def anonymous_bytes(pid):
    """Memory that belongs to no file: heap and stacks."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as lines:
            line = next((line for line in lines if line.startswith("RssAnon:")), "RssAnon: 0 kB")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(line.split()[1]) * 1024
