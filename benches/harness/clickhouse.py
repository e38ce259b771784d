"""ClickHouse as a library (chdb): tables in several layouts, inserts, questions."""

import csv
import io
import time

from harness.population import COLUMNS
from harness.sql import clickhouse as words
from harness.sql.clickhouse import DATABASE, USERS

# Partitions by month, so that a range of days reads few parts; codecs that were the smallest, or
# within 2 % of it, in each order of rows. LZ4 alone was larger and no faster.
LAYOUTS = {
    "by_user": {"order": "(user_id, time)", "partition": "toYYYYMM(time)",
                "user": "Delta, ZSTD(1)"},
    "by_event_user": {"order": "(event, user_id, time)", "partition": "toYYYYMM(time)",
                      "user": "Delta, ZSTD(1)"},
    "by_event_time": {"order": "(event, time)", "partition": "tuple()", "user": "ZSTD(1)"},
}

# Sets of users by event and day, made ready: of the ids, which are dense and fit 32 bits, and of
# their hashes of 64 bits, as where ids are texts.
BITMAPS = {"bitmaps": ("UInt32", "user_id"), "bitmaps_raw": ("UInt64", "sipHash64(user_id)")}

# The table that bitmaps are made from, and their broken days answered from.
BITMAPS_FROM = "by_event_time"


class ClickHouse:
    """A session over a directory; one process may hold it at a time."""

    LOADED = "clickhouse"
    LAYOUTS = (*LAYOUTS, *BITMAPS)
    NOTHING = "SELECT 1"

    def __init__(self, work, threads, memory_bytes):
        from chdb import session
        self.session = session.Session(str(work / self.LOADED))
        self.threads = threads
        self.memory_bytes = memory_bytes

    def run(self, sql):
        return str(self.session.query(sql, "CSV"))

    def rows(self, sql):
        return list(csv.reader(io.StringIO(self.run(sql))))

    def formulations(self, question, asked):
        if asked.table in BITMAPS:
            return words.Bitmaps(asked).of(question)
        return words.formulations(question, asked)

    def ask(self, sql):
        return self.session.query(f"{sql} SETTINGS max_threads = {self.threads}, "
                                  f"max_memory_usage = {self.memory_bytes}", "ArrowTable")

    def version(self):
        return self.rows("SELECT version()")[0][0]

    @classmethod
    def load(cls, work, layout, parquet, threads, memory_bytes):
        """Inserts, then merges to one part for each partition; only the insert is the load."""
        own = cls(work, threads, memory_bytes)
        own.run(f"CREATE DATABASE IF NOT EXISTS {DATABASE} ENGINE = Atomic")
        own.run(f"DROP TABLE IF EXISTS {DATABASE}.{layout} SYNC")
        begun = time.perf_counter()
        if layout in BITMAPS:
            own._insert_bitmaps(layout)
        else:
            own._insert(layout, parquet)
        seconds, begun = time.perf_counter() - begun, time.perf_counter()
        own.run(f"OPTIMIZE TABLE {DATABASE}.{layout} FINAL")
        figures = {"seconds": seconds, "merge_seconds": time.perf_counter() - begun,
                   "bytes": own._bytes_on_disk(layout)}
        if layout in LAYOUTS:
            own._make_users_table(layout)
        own.session.close()
        return figures

    def _insert(self, layout, parquet):
        self.run(_create_table(layout))
        columns = ", ".join(COLUMNS)
        self.run(f"""INSERT INTO {DATABASE}.{layout} ({columns}) SELECT {columns}
            FROM file('{parquet}', Parquet)
            SETTINGS max_threads = {self.threads}, max_insert_threads = {self.threads}""")

    def _insert_bitmaps(self, layout):
        kind, user = BITMAPS[layout]
        self.run(f"""CREATE TABLE {DATABASE}.{layout} (event LowCardinality(String), day Date,
            users AggregateFunction(groupBitmap, {kind})) ENGINE = AggregatingMergeTree
            ORDER BY (event, day)""")
        self.run(f"""INSERT INTO {DATABASE}.{layout} SELECT event, toDate(time) AS day,
            groupBitmapState({user}) FROM {DATABASE}.{BITMAPS_FROM} GROUP BY event, day
            SETTINGS max_threads = {self.threads}""")

    def _make_users_table(self, layout):
        """What a shop keeps beside its events: each user with the first time it was seen."""
        self.run(f"DROP TABLE IF EXISTS {USERS} SYNC")
        self.run(f"""CREATE TABLE {USERS} (user_id UInt32 CODEC(Delta, ZSTD(1)),
            first_seen DateTime64(3, 'UTC') CODEC(ZSTD(1))) ENGINE = MergeTree ORDER BY user_id""")
        self.run(f"""INSERT INTO {USERS} SELECT user_id, min(time)
            FROM {DATABASE}.{layout} GROUP BY user_id""")
        self.run(f"OPTIMIZE TABLE {USERS} FINAL")

    def _bytes_on_disk(self, table):
        return int(self.rows(f"SELECT sum(bytes_on_disk) FROM system.parts WHERE active "
                             f"AND database = '{DATABASE}' AND table = '{table}'")[0][0])


def _create_table(layout):
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
