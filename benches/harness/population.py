"""The generated events: their times, their steps, and the files they are kept in."""

import subprocess

from harness.environment import say

START_MICROS = 1_735_689_600_000_000
DAY_MICROS = 86_400_000_000
DAY_MILLIS = 86_400_000

PLATFORMS = ("android", "ios", "web", "mobile_web", "tv")
STEPS = ("visit", "search", "view", "cart", "purchase")
COLUMNS = ("user_id", "time", "event", "product_id", "category_code", "price", "platform",
           "campaign", "order_id", "amount")
PROPERTIES = COLUMNS[3:]
TEXTS = ("event", "category_code", "platform", "campaign")

# Rows of a row group of the sorted file: small enough to skip most of them for one user.
ROW_GROUP = 122_880


def as_of_micros(days):
    """The present: in the middle of the last day, so that ranges break days at both ends."""
    return START_MICROS + days * DAY_MICROS - 30_600_000_000


def generate(options, pugmark, parquet):
    """The events as a file, made where missing."""
    if not parquet.exists():
        say(f"generating {parquet}")
        pugmark.generate(parquet, options.events, options.days, options.seed)
    return parquet


def first_user(parquet):
    """The user of the file's first row: somebody whose events can be asked for."""
    from pyarrow import parquet as files
    batch = next(files.ParquetFile(parquet).iter_batches(1, columns=["user_id"]))
    return batch.column(0)[0].as_py()


def read_once(parquet):
    """So that no engine pays for the disk."""
    subprocess.run(["cat", parquet], stdout=subprocess.DEVNULL, check=True)


def narrow(file, time="TIMESTAMP_MS"):
    """SELECT of the events in the narrowest types, for DuckDB."""
    types = {"user_id": "UINTEGER", "product_id": "UINTEGER", "order_id": "UINTEGER",
             "time": time}
    columns = ", ".join(f'{name}::{types[name]} AS "{name}"' if name in types else name
                        for name in COLUMNS)
    return f"SELECT {columns} FROM read_parquet('{file}')"


def write_sorted(parquet, sorted_file, threads, memory_bytes):
    """The same events by user and time in narrow types, for the engines that ask files: texts as
    dictionaries, small row groups with statistics, and not compressed, which both read fastest."""
    import duckdb
    import pyarrow
    from pyarrow import parquet as files
    unfinished = sorted_file.with_suffix(".unfinished")
    coded = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
    with duckdb.connect() as sorter:
        sorter.execute(f"SET threads = {threads}; SET TimeZone = 'UTC'; "
                       f"SET memory_limit = '{memory_bytes // 2} B'; "
                       f"SET temp_directory = '{sorted_file}.spill'")
        rows = sorter.sql(f"{narrow(parquet)} ORDER BY user_id, time")
        reader = rows.to_arrow_reader(ROW_GROUP)
        schema = pyarrow.schema([(field.name, coded if field.name in TEXTS else field.type)
                                 for field in reader.schema])
        with files.ParquetWriter(unfinished, schema, compression="none") as writer:
            for batch in reader:
                writer.write_table(_coded(pyarrow.table(batch), schema))
        sorter.execute(f"COPY (SELECT user_id, min(time) AS first_seen FROM "
                       f"read_parquet('{unfinished}') GROUP BY user_id ORDER BY user_id) "
                       f"TO '{users_file(sorted_file)}' (FORMAT parquet, COMPRESSION uncompressed)")
    unfinished.rename(sorted_file)


def users_file(sorted_file):
    """What a shop keeps beside its events: each user with the first time it was seen."""
    return sorted_file.with_name(f"users-{sorted_file.name}")


def _coded(table, schema):
    import pyarrow
    columns = [column.cast(pyarrow.string()).dictionary_encode().cast(field.type)
               if field.name in TEXTS else column
               for field, column in zip(schema, table.columns)]
    return pyarrow.table(columns, schema=schema)
