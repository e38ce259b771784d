"""The same questions of stores of several sizes: what grows, and what faster than it should."""

import json
import shutil
import statistics

from harness import common, measure, plots, population, report
from harness.child import DidNotFinish
from harness.common import a_list
from harness.environment import Progress, available_bytes, directory_bytes, load, say, watched
from harness.questions import QUESTIONS
from harness.sides import Limits, PugmarkSql, PugmarkTyped
from harness.sql import Asked

ABOUT = """Asks stores of several sizes the same questions, in turns. Generates a population of each
size straight into a store and compacts it, notes how fast that went and what memory it took, opens
each store several times, asks all questions of all sizes hot and interleaved, and sets the figures
beside what is wanted. The stores are deleted in the end unless --keep is given, and those that were
kept are asked again. Some 9 bytes of disk an event, half as much again
while it is compacted."""

# What is wanted. A question may take a tenth more time for each event of a larger store.
RATIO_SLACK = 1.1
SLOWEST_SECONDS = 30
HEAP_BYTES = 1_000_000_000
LEAST_LOAD_RATE = 0.8
LOAD_PEAK_BYTES = 3_000_000_000

OPENINGS = 7
# A store takes about 9 bytes an event, and its largest partition twice while it is compacted.
ROOM_BYTES = 14
MIB = 1 << 20


def add_arguments(parser):
    add = parser.add_argument
    add("--sizes", type=a_list([], int), default=[100_000_000, 1_000_000_000], metavar="N,…",
        help="events of each store [100 million, 1 billion]")
    add("--questions", type=a_list(QUESTIONS), default=list(QUESTIONS), help="to ask [all]")
    add("--repetitions", type=int, default=5, help="timed askings of each question [5]")
    add("--patience", type=float, default=60, metavar="S",
        help="who was timed for so long at a question is not asked it again [60]")
    add("--threads", type=int, default=2, help="threads of a question [2]")
    common.add_common(parser, "scale")
    common.add_limit(parser)
    common.add_keep(parser)


def run(options):
    sizes = sorted(set(options.sizes))
    if len(sizes) < 2:
        raise SystemExit("--sizes takes at least two sizes, as 1000000,10000000")
    common.prepare(options)
    figures = common.head(options, "threads", "repetitions", "patience", "limit")
    figures["sizes"] = sizes
    stores = {size: _store(options, size) for size in sizes}
    _check_room(options, stores)
    try:
        figures["stores"] = {size: _make(options, size, own) for size, own in stores.items()}
        figures["cache"] = _cache(figures)
        figures["questions"] = _ask(options, stores)
    finally:
        for own in stores.values():
            own.close()
            if not options.keep:
                shutil.rmtree(own.store, ignore_errors=True)
                _kept(own).unlink(missing_ok=True)
    figures["marks"] = _marks(figures)
    figures["machine"]["load_after"] = load()
    _draw(options.out, figures)
    report.finish(options, "scale", figures, _markdown(figures), f"figures of {sizes[-1]} events")


def _store(options, size):
    path = options.work / f"store-{size}-{options.days}-{options.seed}"
    return common.store_of(options, path, options.threads)


def _kept(own):
    """Where the figures of a kept store's making are."""
    return own.store.with_suffix(".load.json")


def _check_room(options, stores):
    missing = sum(size for size, own in stores.items() if not _kept(own).exists())
    free = shutil.disk_usage(options.work).free
    if free < missing * ROOM_BYTES:
        raise SystemExit(f"{missing:,} events need some {missing * ROOM_BYTES / 1e9:.0f} GB in "
                         f"{options.work}, where {free / 1e9:.0f} GB are free")


def _make(options, size, own):
    """Generates and compacts a store; what that took, and what there is then."""
    if _kept(own).exists():
        say(f"{size:,} events are there")
        return json.loads(_kept(own).read_text(encoding="utf-8"))
    shutil.rmtree(own.store, ignore_errors=True)
    say(f"generating {size:,} events")
    loading, _ = watched([own.program, "generate", "--store", own.store, "--events", size,
                          "--days", options.days, "--seed", options.seed])
    say(f"compacting {size:,} events")
    compaction = own.compact()
    openings = [own.open() for _ in range(OPENINGS)]
    if openings[0]["events"] != size:
        raise SystemExit(f"the store has {openings[0]['events']} of {size} events")
    made = {
        "load": loading, "compaction": compaction, "events_per_second": size / loading["seconds"],
        "bytes": directory_bytes(own.store), "opened": openings[0],
        "open_seconds": statistics.median(opening["seconds"] for opening in openings),
    }
    _kept(own).write_text(json.dumps(made, indent=1), encoding="utf-8")
    return made


def _cache(figures):
    """Whether all stores fit into memory side by side."""
    stores = sum(made["bytes"] for made in figures["stores"].values())
    available = available_bytes()
    return {"store_bytes": stores, "available_bytes": available, "fits": stores <= available}


def _ask(options, stores):
    """Asks everything of every size in turn; figures by question, way of asking, and size."""
    asked_of = {size: _asked(options, own) for size, own in stores.items()}
    sides = [_side(options, kind, size, own, asked_of[size])
             for kind in (PugmarkSql, PugmarkTyped) for size, own in stores.items()]
    asked, _ = measure.trials(options, sides)
    measure.repeat(options, asked)
    for own in stores.values():
        own.close()
    progress = Progress("memory", len(asked))
    for name, row in asked.items():
        progress.turn(name)
        for trial in row:
            _finish(trial)
    return [_figures(name, through, {trial.side.events: trial.figures for trial in trials})
            for name, row in asked.items() for through, trials in _ways(row).items()]


def _asked(options, own):
    """What is asked of one store: the trail is of somebody whom it knows."""
    rows = own.sql("SELECT user_id FROM events LIMIT 1", whole=True).rows
    present = population.as_of_micros(options.days) // 1_000
    return Asked(present, options.days, rows[0][0], None)


def _side(options, kind, size, own, asked):
    side = kind(own, asked, Limits(options.limit, None))
    side.events = size
    return side


def _finish(trial):
    """Sums up the runs of a question that was answered; its heap, in a process of its own."""
    figures = trial.figures
    if not trial.answered:
        return
    figures["seconds"] = statistics.median(figures["runs"])
    figures["read"] = statistics.median(figures["read_runs"]) > 0
    try:
        figures["heap_bytes"] = trial.side.heap_bytes(trial.question)
    except DidNotFinish as why:
        say(f"memory of {trial.question}: {why}")


def _ways(row):
    """The trials of a question by how it was asked."""
    ways = {"SQL": [], "plan": []}
    for trial in row:
        if "left_out" not in trial.figures:
            ways["SQL" if trial.side.name == "pugmark" else "plan"].append(trial)
    return {through: trials for through, trials in ways.items() if trials}


def _figures(name, through, sizes):
    least = sizes[min(sizes)].get("seconds")
    ratios = {size: side["seconds"] / least for size, side in sizes.items()
              if least and "seconds" in side}
    return {"name": name, "through": through, "text": QUESTIONS[name].text, "sizes": sizes,
            "ratios": ratios}


def _most(questions, figure, most, spell):
    """A mark of questions: the largest figure of all that have one, whose that is, and whether it
    is at most `most`."""
    found = [(value, f"{one['name']} ({one['through']})") for one in questions
             for value in [figure(one)] if value is not None]
    if not found:
        return "nothing was answered", False
    value, whose = max(found)
    return f"{spell(value)}: {whose}", value <= most


def _marks(figures):
    """What is wanted, what was found, and whether that is as wanted."""
    sizes, stores, questions = figures["sizes"], figures["stores"], figures["questions"]
    smallest, largest = sizes[0], sizes[-1]
    slope = RATIO_SLACK * largest / smallest
    of = lambda figure: lambda one: one["sizes"][largest].get(figure)
    unfinished = [f"{one['name']} ({one['through']})" for one in questions
                  if any("did_not_finish" in side for side in one["sizes"].values())]
    rate = stores[largest]["events_per_second"] / stores[smallest]["events_per_second"]
    peak = stores[largest]["load"]["peak_rss_bytes"]
    return [
        ("did not finish", "none", ", ".join(unfinished) or "none", not unfinished),
        (f"time, of {largest / smallest:g} times the events", f"at most {slope:.1f} times",
         *_most(questions, lambda one: one["ratios"].get(largest), slope, "{:.1f}".format)),
        ("slowest question", f"at most {SLOWEST_SECONDS} s",
         *_most(questions, of("seconds"), SLOWEST_SECONDS, "{:.2f} s".format)),
        ("heap of a question", f"at most {HEAP_BYTES / 1e9:g} GB",
         *_most(questions, of("heap_bytes"), HEAP_BYTES, lambda heap: f"{heap / 1e9:.2f} GB")),
        ("events loaded a second, largest / smallest", f"at least {LEAST_LOAD_RATE}",
         f"{rate:.2f}", rate >= LEAST_LOAD_RATE),
        ("resident set while loading", f"at most {LOAD_PEAK_BYTES / 1e9:g} GB",
         f"{peak / 1e9:.2f} GB", peak <= LOAD_PEAK_BYTES),
    ]


def _draw(out, figures):
    sizes, questions = figures["sizes"], figures["questions"]
    labels = [f"{one['name']}, {one['through']}" for one in questions]
    ratios = {f"{size:,} events": [one["ratios"].get(size) for one in questions]
              for size in sizes[1:]}
    plots.bars(out / f"{_chart(figures, 'ratios')}.svg",
               "times as long, of so many times the events",
               [plots.Panel("ratio", labels, ratios, RATIO_SLACK * sizes[-1] / sizes[0])])
    times = {one["name"]: [(size, side["seconds"]) for size, side in one["sizes"].items()
                           if "seconds" in side]
             for one in questions if one["through"] == "SQL"}
    plots.lines(out / f"{_chart(figures, 'times')}.svg",
                "the statements, by size of the store", "events", times, log_x=True, ticks=sizes)


def _chart(figures, what):
    """A chart's name: reports of other sizes lie beside it."""
    return f"scale-{figures['sizes'][-1]}-{what}"


def _markdown(figures):
    sizes = " and ".join(f"{size:,}" for size in figures["sizes"])
    head = (f"{sizes} events, users 4.5 % of them, over {figures['days']} days, "
            f"seed {figures['seed']}; {figures['threads']} threads; "
            f"median of {figures['repetitions']}, interleaved, hot; {report.made_on(figures)}")
    marks = [[what, wanted, found, "kept" if kept else "**missed**"]
             for what, wanted, found, kept in figures["marks"]]
    parts = [head, _cache_line(figures),
             report.table(["mark", "wanted", "found", ""], marks, range(4)),
             _questions_table(figures), _unfinished(figures), _stores_table(figures),
             report.link(_chart(figures, "ratios")), report.link(_chart(figures, "times"))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _cache_line(figures):
    cache = figures["cache"]
    sizes = (f"{cache['store_bytes'] / 1e9:.1f} GB of stores, "
             f"{cache['available_bytes'] / 1e9:.1f} GB of memory for the page cache")
    read = any(side.get("read") for one in figures["questions"] for side in one["sizes"].values())
    starred = " A time with a star was taken while the question read from the disk." if read else ""
    if cache["fits"]:
        return f"All stores are in the page cache: {sizes}.{starred}"
    return (f"**The stores do not fit into the page cache side by side**: {sizes}. Hot means here "
            f"that the question was asked just before of the same store.{starred}")


def _questions_table(figures):
    sizes = figures["sizes"]
    heads = ["question", "asked by", *(f"{size:,} ms" for size in sizes),
             *(f"{size / sizes[0]:g} times the events" for size in sizes[1:]),
             *(f"{size:,} heap MiB" for size in sizes)]
    rows = []
    for one in figures["questions"]:
        sides = [one["sizes"][size] for size in sizes]
        ratios = [_ratio(one["ratios"].get(size), size / sizes[0]) for size in sizes[1:]]
        rows.append([one["text"], one["through"], *map(_time, sides), *ratios,
                     *(report.mib(side.get("heap_bytes")) for side in sides)])
    return report.table(heads, rows, (0, 1))


def _time(side):
    return report.cell(side) + ("*" if side.get("read") else "")


def _ratio(ratio, events):
    if ratio is None:
        return ""
    return f"{ratio:.1f}" if ratio <= RATIO_SLACK * events else f"**{ratio:.1f}**"


def _unfinished(figures):
    return "\n".join(
        f"* {one['name']} ({one['through']}) of {size:,} events did not finish "
        f"({side['did_not_finish']})" for one in figures["questions"]
        for size, side in one["sizes"].items() if "did_not_finish" in side)


def _stores_table(figures):
    heads = ["store", "events loaded a second", "load s", "peak MiB", "of it heap",
             "compaction s", "peak MiB", "of it heap", "bytes an event", "of it ids", "segments",
             "opening ms"]
    rows = []
    for size in figures["sizes"]:
        made = figures["stores"][size]
        opened = made["opened"]
        memory = [text for child in (made["load"], made["compaction"]) for text in (
            f"{child['seconds']:.1f}", f"{child['peak_rss_bytes'] / MIB:.0f}",
            f"{child['peak_heap_bytes'] / MIB:.0f}")]
        rows.append([f"{size:,}", f"{made['events_per_second']:,.0f}", *memory,
                     f"{made['bytes'] / size:.2f}", f"{opened['id_bytes'] / size:.2f}",
                     str(opened["segments"]), report.ms(made["open_seconds"])])
    return report.table(heads, rows)
