"""A process that answers lines by lines, within limits of time and memory."""

import json
import os
import select
import subprocess
import tempfile
import time

from harness.environment import io_bytes, kernel_bytes


class DidNotFinish(Exception):
    """Why a question was given up."""


class Reply:
    """What one asking gave."""

    def __init__(self, rows, seconds, cpu_seconds, heap_bytes=None, read_bytes=None):
        self.rows, self.seconds, self.cpu_seconds = rows, seconds, cpu_seconds
        self.heap_bytes, self.read_bytes = heap_bytes, read_bytes


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
        # A file takes what nobody reads before the process ended.
        self.complaints = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.complaints,
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
            why = self._ending()
            self.kill()
            raise DidNotFinish(why) from None
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
                    raise DidNotFinish(self._ending())
                self.buffer += read
                continue
            self.peak_bytes = max(self.peak_bytes, anonymous_bytes(self.process.pid))
            if limit_bytes and self.peak_bytes > limit_bytes:
                raise DidNotFinish(f"more than {limit_bytes / (1 << 30):.1f} GiB")
            if time.monotonic() > until:
                raise DidNotFinish(f"more than {seconds:g} s")
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def read_bytes(self):
        """What the process has read from the disk so far."""
        return io_bytes(self.process.pid)["read_bytes"] if self.process else 0

    def _ending(self):
        status = self.process.wait()
        self.complaints.seek(0)
        return ending(status, self.complaints.read())

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
            self.complaints.close()
        self.process = None


def anonymous_bytes(pid):
    """Memory that belongs to no file: heap and stacks."""
    return kernel_bytes(f"/proc/{pid}/status", ("RssAnon:",)).get("RssAnon:", 0)


def ending(status, complaints):
    """Why a process ended, in its own last words where it has said any."""
    lines = complaints.decode(errors="replace").splitlines()
    lines = [line for line in lines if line.strip() and not line.startswith("note:")]
    # Our programs' errors may have several lines, of which the first says most.
    said = [line for line in lines if line.startswith("error:")] or lines[-1:]
    return ": ".join([f"its process ended with status {status}", *said[:1]])[:400]
