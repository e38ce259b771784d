"""How fast events come in: files at once, and streams of small batches."""

import json
import shutil
import statistics

from harness import common, environment, plots, population, report
from harness.common import a_list
from harness.environment import Progress

ABOUT = """Measures how events come in: a Parquet file through the import command, without and with
message ids, and streams of batches of 500 events from one writer and from several, with each
promise of durability, in order, with one event in ten late, and with message ids besides. Notes
events a second, how long an append takes, memory, and how many bytes are written to the disk, until
all is compacted, for each byte that stays. Some 60 bytes of disk an event, one store at a time."""

# Share of late events, and whether events have message ids.
STREAMS = {
    "in order": (0, False),
    "a tenth late": (0.1, False),
    "a tenth late, message ids": (0.1, True),
}
DURABILITIES = {
    "commit": "synced at every commit",
    "interval": "synced every {} ms",
    "none": "left to the system",
}
MIB = 1 << 20


def add_arguments(parser):
    add = parser.add_argument
    add("--events", type=int, default=10_000_000,
        help="events of the file and of each stream [10 million]")
    add("--rows", type=int, default=500, help="events of an appended batch [500]")
    add("--writers", type=a_list([], int), default=[1, 4], metavar="N,…",
        help="writers of a stream [1,4]")
    add("--durabilities", type=a_list(DURABILITIES), default=list(DURABILITIES),
        help=f"promises to try, of {', '.join(DURABILITIES)} [all]")
    add("--interval-millis", type=int, default=100, help="of the durability `interval` [100]")
    add("--repetitions", type=int, default=3, help="times that everything is loaded [3]")
    common.add_common(parser, "ingest")
    common.add_keep(parser)


def run(options):
    common.prepare(options)
    figures = common.head(options, "events", "rows", "interval_millis", "repetitions")
    own = common.store_of(options, options.work / "store", 1)
    files = _files(options, own)
    loads = {name: (lambda command=command: _load(own, command), {"kind": "file", "raw": raw})
             for name, command, raw in _imports(own, files)}
    loads |= _streams(options, own)
    runs = {name: [] for name in loads}
    progress = Progress("loading", options.repetitions * len(loads))
    try:
        for _ in range(options.repetitions):
            for name, (load, _) in loads.items():
                progress.turn(name)
                runs[name].append(load())
    finally:
        shutil.rmtree(own.store, ignore_errors=True)
        if not options.keep:
            for file, _ in files:
                file.unlink(missing_ok=True)
    figures["loads"] = {name: _summary(loads[name][1], runs[name]) for name in loads}
    figures["machine"]["load_after"] = environment.load()
    _draw(options.out, figures)
    report.finish(options, "ingest", figures, _markdown(figures), "ingest figures")


def _files(options, own):
    """The population as a file, and again with a message id in each row; with their raw bytes."""
    plain = options.work / f"events-{options.events}-{options.days}-{options.seed}.parquet"
    population.generate(options, own, plain)
    with_ids = plain.with_suffix(".ids.parquet")
    return [(plain, _rewritten(plain, None)), (with_ids, _rewritten(plain, with_ids))]


def _rewritten(source, target):
    """Copies a file, adding message ids, where `target` is given. Raw bytes of what it holds: ids,
    names and texts as long as they are, eight bytes for a number and for a time."""
    import pyarrow
    from pyarrow import parquet
    raw, row, writer = 0, 0, None
    file = parquet.ParquetFile(source)
    for group in range(file.num_row_groups):
        table = file.read_row_group(group)
        if target:
            # As long and as hard to compress as the ids of other systems.
            ids = [f"{(place * 0x9E3779B97F4A7C15 + 1) % (1 << 64):016x}{place:016x}"
                   for place in range(row, row + table.num_rows)]
            row += table.num_rows
            table = table.append_column("message_id", pyarrow.array(ids))
            writer = writer or parquet.ParquetWriter(target, table.schema, compression="zstd")
            writer.write_table(table)
        raw += sum(_raw_bytes(column) for column in table.columns)
    if writer:
        writer.close()
    return raw


def _raw_bytes(column):
    import pyarrow
    from pyarrow import compute
    kind = column.type
    if pyarrow.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
        return compute.sum(compute.binary_length(column)).as_py() or 0
    return 8 * (len(column) - column.null_count)


def _imports(own, files):
    (plain, raw), (with_ids, raw_with_ids) = files
    yield "Parquet", own.importing(plain), raw
    identified = own.importing("--message-id", "message_id", with_ids)
    yield "Parquet, message ids", identified, raw_with_ids


def _streams(options, own):
    """Name -> how to load it, and what it is."""
    streams = {}
    for stream in STREAMS:
        for writers in options.writers:
            for durability in options.durabilities:
                command = _append(options, own, stream, writers, durability)
                named = DURABILITIES[durability].format(options.interval_millis)
                what = {"kind": "stream", "stream": stream, "writers": writers,
                        "durability": named}
                streams[f"{stream}, {_writers(writers)}, {named}"] = (
                    lambda command=command: _load(own, command), what)
    return streams


def _append(options, own, stream, writers, durability):
    late, message_ids = STREAMS[stream]
    return [own.bench, "append", "--store", own.store,
            "--batches", options.events // options.rows, "--rows", options.rows,
            "--writers", writers, "--durability", durability,
            "--interval-millis", options.interval_millis, "--late", late,
            "--message-ids", str(message_ids).lower(), "--seed", options.seed]


def _writers(number):
    return f"{number} writer{'s' * (number > 1)}"


def _load(own, command):
    """Loads into a new store and compacts it; what both took."""
    load, output = own.load_by(command)
    if command[1] == "append":
        load = load | {"process_seconds": load["seconds"]} | json.loads(output)
    return load | {"stored": own.open()["events"]}


def _summary(what, runs):
    """The figures of the run with the median speed, and all speeds."""
    for one in runs:
        one["events_per_second"] = one["stored"] / one["seconds"]
        # An import ends with everything in segments.
        flushed = one.get("flushed_seconds", one["seconds"])
        one["flushed_per_second"] = one["stored"] / flushed
    middle = statistics.median_low(one["events_per_second"] for one in runs)
    chosen = next(one for one in runs if one["events_per_second"] == middle)
    written = chosen["written_bytes"] + chosen["compaction"]["written_bytes"]
    return what | chosen | {
        "all_events_per_second": [one["events_per_second"] for one in runs],
        "written_over_final": written / chosen["bytes"],
        "written_over_raw": written / chosen.get("raw_bytes", what.get("raw")),
    }


def _draw(out, figures):
    streams = [one for one in figures["loads"].values() if one["kind"] == "stream"]
    labels = list(dict.fromkeys(f"{_writers(one['writers'])}, {one['durability']}"
                                for one in streams))
    of = lambda figure: {name: [figure(one) for one in streams if one["stream"] == name]
                         for name in STREAMS}
    plots.bars(out / "ingest.svg", f"streams of batches of {figures['rows']} events", [
        plots.Panel("thousand events a second", labels,
                    of(lambda one: one["events_per_second"] / 1e3)),
        plots.Panel("99 of 100 appends take at most, ms", labels,
                    of(lambda one: one["p99_seconds"] * 1e3))])


def _markdown(figures):
    loads = figures["loads"]
    head = (f"{figures['events']:,} events, the file's over {figures['days']} days, seed "
            f"{figures['seed']}; batches of {figures['rows']}; the run with the median speed of "
            f"{figures['repetitions']}; {report.made_on(figures)}")
    files = {name: one for name, one in loads.items() if one["kind"] == "file"}
    streams = [one for one in loads.values() if one["kind"] == "stream"]
    share = sum(one["making_seconds"] for one in streams) \
        / sum(one["cpu_seconds"] for one in streams)
    return "\n\n".join([
        head, _files_table(files), _streams_table(streams),
        f"Of the processor time of the streams {share:.0%} went into making the events.",
        report.link("ingest")]) + "\n"


KEPT = ("peak MiB", "of it heap", "written / kept", "written / raw", "bytes an event")


def _files_table(files):
    return report.table(["from a file", "events a second", *KEPT], [
        [name, f"{one['events_per_second']:,.0f}", *_kept(one)] for name, one in files.items()])


def _streams_table(streams):
    heads = ["stream", "writers", "durability", "events a second", "until flushed",
             "append ms, median", "p99", "longest", *KEPT]
    rows = [[one["stream"], str(one["writers"]), one["durability"],
             f"{one['events_per_second']:,.0f}", f"{one['flushed_per_second']:,.0f}",
             *(report.ms(one[f"{which}_seconds"]) for which in ("p50", "p99", "max")),
             *_kept(one)] for one in streams]
    return report.table(heads, rows, (0, 2))


def _kept(one):
    """Memory, and what was written of what stays."""
    return (report.mib(one["peak_rss_bytes"]), report.mib(one["peak_heap_bytes"]),
            f"{one['written_over_final']:.1f}", f"{one['written_over_raw']:.2f}",
            f"{one['bytes'] / one['stored']:.2f}")
