"""The peers as libraries: one class each, which opens what was loaded, answers a question in one of
its formulations, and keeps to its own limit of memory.

Answers are Arrow tables, in every engine: what is timed ends when the last row lies in the memory
of whoever asked. `NOTHING` asks for no data.
"""

import os
import resource
import shutil
import time
from pathlib import Path

from harness.clickhouse import ClickHouse
from harness.population import narrow, users_file, write_sorted
from harness.sql import polars as polars_words
from harness.sql import relational


def cpu_seconds():
    """Seconds that all threads of this process have computed so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class DuckDB:
    """A database file: a table of events in the order of the file, and one of users."""

    LOADED = "duckdb.db"
    LAYOUTS = ("duckdb",)
    NOTHING = "SELECT 1"

    def __init__(self, work, threads, memory_bytes):
        import duckdb
        self.connection = duckdb.connect(str(work / self.LOADED))
        self.connection.execute(f"SET threads = {threads}; SET TimeZone = 'UTC'; "
                                f"SET memory_limit = '{memory_bytes} B'")

    @classmethod
    def load(cls, work, layout, parquet, threads, memory_bytes):
        (work / cls.LOADED).unlink(missing_ok=True)
        own = cls(work, threads, memory_bytes)
        begun = time.perf_counter()
        own.connection.execute(f"CREATE TABLE events AS {narrow(parquet, 'TIMESTAMP')}")
        own.connection.execute("CHECKPOINT")
        seconds = time.perf_counter() - begun
        own.connection.execute("CREATE TABLE users AS SELECT user_id, min(time) AS first_seen "
                               "FROM events GROUP BY user_id; CHECKPOINT")
        return {"seconds": seconds, "bytes": (work / cls.LOADED).stat().st_size}

    def formulations(self, question, asked):
        return relational.DuckDB(asked).of(question)

    def ask(self, sql):
        return self.connection.sql(sql).to_arrow_table()

    def version(self):
        import duckdb
        return duckdb.__version__


class Polars:
    """Lazy frames over the sorted file, collected in memory or streaming."""

    LOADED = "sorted.parquet"
    LAYOUTS = ("sorted",)
    NOTHING = (lambda events, users: users.head(0), "in-memory")

    def __init__(self, work, threads, memory_bytes):
        import polars
        self.polars = polars
        sorted_file = work / self.LOADED
        self.events = polars.scan_parquet(sorted_file)
        self.users = polars.scan_parquet(users_file(sorted_file))

    @classmethod
    def load(cls, work, layout, parquet, threads, memory_bytes):
        begun = time.perf_counter()
        write_sorted(parquet, work / cls.LOADED, threads, memory_bytes)
        shutil.rmtree(work / f"{cls.LOADED}.spill", ignore_errors=True)
        return {"seconds": time.perf_counter() - begun,
                "bytes": (work / cls.LOADED).stat().st_size}

    def formulations(self, question, asked):
        found = polars_words.formulations(question, asked)
        return {f"{name}, {engine}": (make, engine) for name, make in found.items()
                for engine in ("in-memory", "streaming")}

    def ask(self, formulation):
        make, engine = formulation
        return make(self.events, self.users).collect(engine=engine).to_arrow()

    def version(self):
        return self.polars.__version__


class DataFusion:
    """SQL over the sorted file, whose order it is told."""

    LOADED = Polars.LOADED
    LAYOUTS = ()
    NOTHING = "SELECT 1"

    def __init__(self, work, threads, memory_bytes):
        import datafusion
        from datafusion import RuntimeEnvBuilder, SessionConfig, SessionContext, col
        self.package = datafusion
        runtime = RuntimeEnvBuilder().with_disk_manager_os().with_fair_spill_pool(memory_bytes)
        # Filters pushed into the Parquet reader were no faster, and mostly slower.
        config = SessionConfig().with_target_partitions(threads)
        self.context = SessionContext(config, runtime)
        sorted_file = work / self.LOADED
        order = [[col("user_id").sort(ascending=True), col("time").sort(ascending=True)]]
        self.context.register_parquet("events", str(sorted_file), file_sort_order=order)
        self.context.register_parquet("users", str(users_file(sorted_file)))

    def formulations(self, question, asked):
        return relational.DataFusion(asked).of(question)

    def ask(self, sql):
        return self.context.sql(sql).to_arrow_table()

    def version(self):
        return self.package.__version__


ENGINES = {"clickhouse": ClickHouse, "duckdb": DuckDB, "polars": Polars, "datafusion": DataFusion}


def environment(threads):
    """Variables that tell engines their threads before they are loaded."""
    return {**os.environ, "POLARS_MAX_THREADS": str(threads),
            "TOKIO_WORKER_THREADS": str(threads)}


def loaded_files(work, engine):
    """The files that an engine answers from."""
    loaded = Path(work) / ENGINES[engine].LOADED
    if loaded.is_file():
        return [loaded, users_file(loaded)] if engine in ("polars", "datafusion") else [loaded]
    return [path for path in loaded.rglob("*") if path.is_file()]
