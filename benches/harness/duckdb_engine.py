"""DuckDB as a library: one table of the events in the order of the file, and one of users."""

import time

from harness.clickhouse import COLUMNS, cpu_seconds


class Engine:
    """A database file; makes and loads it where it is not there."""

    def __init__(self, path, parquet, threads):
        import duckdb
        self.duckdb = duckdb
        self.threads = threads
        if not path.exists():
            # Under another name first: a file that is there is whole.
            unfinished = path.with_suffix(".unfinished")
            unfinished.unlink(missing_ok=True)
            self._connect(unfinished)
            self._load(parquet)
            self.close()
            unfinished.rename(path)
        self._connect(path)

    def _connect(self, path):
        self.connection = self.duckdb.connect(str(path))
        self.connection.execute(f"SET threads = {self.threads}")
        self.connection.execute("SET TimeZone = 'UTC'")

    def _load(self, parquet):
        chosen = {"time": "time::TIMESTAMP AS time"}
        columns = ", ".join(chosen.get(column, column) for column in COLUMNS)
        self.connection.execute(
            f"CREATE TABLE events AS SELECT {columns} FROM read_parquet('{parquet}')")
        self.connection.execute("""CREATE TABLE users AS
            SELECT user_id, min(time) AS first_seen FROM events GROUP BY user_id""")
        self.connection.execute("CHECKPOINT")

    def ask(self, sql):
        """Rows, seconds, seconds of all threads."""
        before, begun = cpu_seconds(), time.perf_counter()
        rows = self.connection.execute(sql).fetchall()
        seconds = time.perf_counter() - begun
        return rows, seconds, cpu_seconds() - before

    def version(self):
        return self.duckdb.__version__

    def close(self):
        self.connection.close()
