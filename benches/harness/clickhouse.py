"""ClickHouse as a library (chdb): tables in several layouts, inserts, questions.

Run as a program it inserts the Parquet file into one table, so that the time and the memory of
the insert are a process's own.
"""

import csv
import io
import json
import os
import resource
import sys
import time

DATABASE = "bench"
USERS = f"{DATABASE}.users"

COLUMNS = ("user_id", "time", "event", "product_id", "category_code", "price", "platform",
           "campaign", "order_id", "amount")

# Partitions by month, so that a range of days reads few parts; codecs that were the smallest, or
# within 2 % of it, in each order of rows. LZ4 alone was larger and no faster.
LAYOUTS = {
    "by_user": {"order": "(user_id, time)", "partition": "toYYYYMM(time)",
                "user": "Delta, ZSTD(1)"},
    "by_event_user": {"order": "(event, user_id, time)", "partition": "toYYYYMM(time)",
                      "user": "Delta, ZSTD(1)"},
    "by_event_time": {"order": "(event, time)", "partition": "tuple()", "user": "ZSTD(1)"},
}


def create_table(layout):
    chosen = LAYOUTS[layout]
    return f"""CREATE TABLE {DATABASE}.{layout} (
        user_id UInt32 CODEC({chosen["user"]}),
        time DateTime64(3, 'UTC') CODEC(Delta, T64, ZSTD(1)),
        event LowCardinality(String) CODEC(ZSTD(1)),
        product_id Nullable(UInt32) CODEC(T64, ZSTD(1)),
        category_code LowCardinality(Nullable(String)) CODEC(ZSTD(1)),
        price Nullable(Float64) CODEC(ZSTD(1)),
        platform LowCardinality(Nullable(String)) CODEC(ZSTD(1)),
        campaign LowCardinality(Nullable(String)) CODEC(ZSTD(1)),
        order_id Nullable(UInt32) CODEC(ZSTD(1)),
        amount Nullable(Float64) CODEC(ZSTD(1))
    ) ENGINE = MergeTree
    PARTITION BY {chosen["partition"]} ORDER BY {chosen["order"]}"""


class Engine:
    """A session over a directory; one process may hold it at a time."""

    def __init__(self, directory, threads):
        from chdb import session
        self.session = session.Session(directory)
        self.threads = threads

    def run(self, sql):
        return str(self.session.query(sql, "CSV"))

    def rows(self, sql):
        return list(csv.reader(io.StringIO(self.run(sql))))

    def ask(self, sql):
        """Rows, seconds, seconds of all threads."""
        before, begun = cpu_seconds(), time.perf_counter()
        rows = self.rows(f"{sql} SETTINGS max_threads = {self.threads}")
        seconds = time.perf_counter() - begun
        return rows, seconds, cpu_seconds() - before

    def bytes_on_disk(self, table):
        return int(self.rows(f"SELECT sum(bytes_on_disk) FROM system.parts WHERE active "
                             f"AND database = '{DATABASE}' AND table = '{table}'")[0][0])

    def bytes_by_column(self, table):
        rows = self.rows(f"""SELECT column, sum(column_bytes_on_disk) AS bytes
            FROM system.parts_columns WHERE active AND database = '{DATABASE}'
            AND table = '{table}' GROUP BY column ORDER BY bytes DESC""")
        return {column: int(size) for column, size in rows}

    def version(self):
        return self.rows("SELECT version()")[0][0]

    def close(self):
        self.session.close()


def load(directory, layout, parquet, threads):
    """Inserts, then merges to one part for each partition; only the insert is the load."""
    engine = Engine(directory, threads)
    engine.run(f"CREATE DATABASE IF NOT EXISTS {DATABASE} ENGINE = Atomic")
    engine.run(f"DROP TABLE IF EXISTS {DATABASE}.{layout} SYNC")
    engine.run(create_table(layout))
    columns = ", ".join(COLUMNS)
    begun = time.perf_counter()
    engine.run(f"""INSERT INTO {DATABASE}.{layout} ({columns}) SELECT {columns}
        FROM file('{parquet}', Parquet)
        SETTINGS max_threads = {threads}, max_insert_threads = {threads}""")
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    begun = time.perf_counter()
    engine.run(f"OPTIMIZE TABLE {DATABASE}.{layout} FINAL")
    figures = {
        "seconds": seconds,
        "merge_seconds": time.perf_counter() - begun,
        "peak_rss_bytes": peak,
        "bytes": engine.bytes_on_disk(layout),
        "bytes_by_column": engine.bytes_by_column(layout),
    }
    engine.close()
    return figures


def make_users_table(engine, layout):
    """What a shop keeps beside its events: each user with the first time it was seen."""
    engine.run(f"DROP TABLE IF EXISTS {USERS} SYNC")
    engine.run(f"""CREATE TABLE {USERS} (user_id UInt32 CODEC(Delta, ZSTD(1)),
        first_seen DateTime64(3, 'UTC') CODEC(ZSTD(1))) ENGINE = MergeTree ORDER BY user_id""")
    engine.run(f"""INSERT INTO {USERS} SELECT user_id, min(time)
        FROM {DATABASE}.{layout} GROUP BY user_id""")
    engine.run(f"OPTIMIZE TABLE {USERS} FINAL")


def cpu_seconds():
    """Seconds that all threads of this process have computed so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main():
    directory, layout, parquet, threads, out = sys.argv[1:]
    figures = load(directory, layout, os.path.abspath(parquet), int(threads))
    with open(out, "w", encoding="utf-8") as file:
        json.dump(figures, file)


if __name__ == "__main__":
    main()
