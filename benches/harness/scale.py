"""The same questions of stores of several sizes: what grows, and what faster than it should."""

import json
import shutil
import statistics

from harness import plots, report, trial
from harness.environment import directory_bytes, say
from harness.questions import QUESTIONS
from harness.statements import STATEMENTS, WHOLE, normal, pugmark, same

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
    add("--sizes", default="100000000,1000000000",
        help="events of each store [100 million, 1 billion]")
    add("--repetitions", type=int, default=5, help="timed askings of each question [5]")
    add("--threads", type=int, default=2, help="threads of a question [2]")
    trial.add_common(parser, "scale")


def run(options):
    trial.prepare(options)
    sizes = sorted({int(size) for size in options.sizes.split(",")})
    if len(sizes) < 2:
        raise SystemExit("--sizes takes at least two sizes, as 1000000,10000000")
    figures = trial.head(sizes=sizes, days=options.days, seed=options.seed,
                         threads=options.threads, repetitions=options.repetitions)
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
    _write(options, figures)


def _store(options, size):
    path = options.work / f"store-{size}-{options.days}-{options.seed}"
    return trial.store_of(options, path, options.threads)


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
    load = trial.watched([own.program, "generate", "--store", own.store, "--events", size,
                          "--days", options.days, "--seed", options.seed])
    say(f"compacting {size:,} events")
    compaction = trial.watched([own.program, "compact", "--store", own.store])
    openings = [own.open() for _ in range(OPENINGS)]
    if openings[0]["events"] != size:
        raise SystemExit(f"the store has {openings[0]['events']} of {size} events")
    made = {
        "load": load, "compaction": compaction, "events_per_second": size / load["seconds"],
        "bytes": directory_bytes(own.store), "opened": openings[0],
        "open_seconds": statistics.median(opening["seconds"] for opening in openings),
    }
    _kept(own).write_text(json.dumps(made, indent=1), encoding="utf-8")
    return made


def _cache(figures):
    """Whether all stores fit into memory side by side."""
    stores = sum(made["bytes"] for made in figures["stores"].values())
    available = trial.available_bytes()
    return {"store_bytes": stores, "available_bytes": available, "fits": stores <= available}


def _ask(options, stores):
    """Asks everything of every size in turn; figures by question and size."""
    questions = [("plan", name, text) for name, (text, _) in QUESTIONS.items()]
    questions += [("SQL", name, text) for name, (text, _) in STATEMENTS.items()]
    asked = [{"through": through, "name": name, "text": text,
              "sizes": {size: {"runs": [], "read_bytes": []} for size in stores}}
             for through, name, text in questions]
    for repetition in range(options.repetitions):
        say(f"asking everything, {repetition + 1} of {options.repetitions}")
        for question in asked:
            for size, own in stores.items():
                _ask_once(question, question["sizes"][size], own)
    for own in stores.values():
        own.close()
    smallest = min(stores)
    for question in asked:
        say(f"heap: {question['name']}, {question['through']}")
        for size, own in stores.items():
            _summarise(question, question["sizes"][size], own)
        sizes = question["sizes"]
        question["ratios"] = {size: sizes[size]["seconds"] / sizes[smallest]["seconds"]
                              for size in sizes}
    return asked


def _ask_once(question, figures, own):
    """One timed asking, whose answer is always the same."""
    name, before = question["name"], [0]

    def ask():
        before[0] = own.read_bytes()
        return _put(question, own)
    got, seconds = trial.hot(ask)
    figures["runs"].append(seconds)
    figures["read_bytes"].append(own.read_bytes() - before[0])
    got = normal(name, got) if question["through"] == "SQL" else got
    expected = figures.setdefault("answer", got)
    alike = same(expected, got) if question["through"] == "SQL" else expected == got
    if not alike:
        raise SystemExit(f"{name}: another answer than the first time")


def _put(question, own):
    if question["through"] == "plan":
        return own.ask(question["name"])
    return own.sql(pugmark(question["name"]), question["name"] in WHOLE)


def _summarise(question, figures, own):
    name = question["name"]
    del figures["answer"]
    figures["seconds"] = statistics.median(figures["runs"])
    figures["read"] = statistics.median(figures["read_bytes"]) > 0
    figures["heap_bytes"] = own.heap(name) if question["through"] == "plan" else \
        own.sql_heap(pugmark(name), name in WHOLE)


def _marks(figures):
    """What is wanted, what was found, and whether that is as wanted."""
    sizes, stores = figures["sizes"], figures["stores"]
    smallest, largest = sizes[0], sizes[-1]
    wanted = RATIO_SLACK * largest / smallest
    questions = figures["questions"]
    slope = max(questions, key=lambda one: one["ratios"][largest])
    slowest = max(questions, key=lambda one: one["sizes"][largest]["seconds"])
    heaviest = max(questions, key=lambda one: one["sizes"][largest]["heap_bytes"])
    ratio, seconds = slope["ratios"][largest], slowest["sizes"][largest]["seconds"]
    heap = heaviest["sizes"][largest]["heap_bytes"]
    rate = stores[largest]["events_per_second"] / stores[smallest]["events_per_second"]
    peak = stores[largest]["load"]["peak_rss_bytes"]
    of = lambda one: f"{one['text']} ({one['through']})"
    return [
        (f"time, of {largest / smallest:g} times the events", f"at most {wanted:.1f} times",
         f"{ratio:.1f}: {of(slope)}", ratio <= wanted),
        ("slowest question", f"at most {SLOWEST_SECONDS} s",
         f"{seconds:.2f} s: {of(slowest)}", seconds <= SLOWEST_SECONDS),
        ("heap of a question", f"at most {HEAP_BYTES / 1e9:g} GB",
         f"{heap / 1e9:.2f} GB: {of(heaviest)}", heap <= HEAP_BYTES),
        ("events loaded a second, largest / smallest", f"at least {LEAST_LOAD_RATE}",
         f"{rate:.2f}", rate >= LEAST_LOAD_RATE),
        ("resident set while loading", f"at most {LOAD_PEAK_BYTES / 1e9:g} GB",
         f"{peak / 1e9:.2f} GB", peak <= LOAD_PEAK_BYTES),
    ]


def _write(options, figures):
    for made in figures["stores"].values():
        for child in (made["load"], made["compaction"]):
            child.pop("output", None)
    text = _markdown(figures)
    (options.out / "scale.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    (options.out / "scale.md").write_text(text, encoding="utf-8")
    _draw(options.out / "plots", figures)
    print(text)
    if options.publish:
        plots.publish(options.out / "plots", ("scale-ratios", "scale-times"), trial.PAGE.parent)
        report.publish(text, trial.PAGE, "scale figures")
    say(f"written to {options.out}")


def _draw(folder, figures):
    sizes, questions = figures["sizes"], figures["questions"]
    largest = sizes[-1]
    labels = [f"{one['name']}, {one['through']}" for one in questions]
    plots.bars(folder / "scale-ratios.svg", "times as long, of so many times the events",
               [("ratio", labels, {f"{size:,} events": [one["ratios"][size] for one in questions]
                                   for size in sizes[1:]},
                 RATIO_SLACK * largest / sizes[0])])
    of = lambda one: [(size, one["sizes"][size]["seconds"]) for size in sizes]
    plots.lines(folder / "scale-times.svg", "the statements, by size of the store", "events",
                {one["name"]: of(one) for one in questions if one["through"] == "SQL"},
                log_x=True, ticks=sizes)


def _markdown(figures):
    sizes = " and ".join(f"{size:,}" for size in figures["sizes"])
    head = (f"{sizes} events, users 4.5 % of them, over {figures['days']} days, "
            f"seed {figures['seed']}; {figures['threads']} threads; "
            f"median of {figures['repetitions']}, interleaved, hot; {trial.made_on(figures)}")
    return "\n".join([head, "", _cache_line(figures), "", *_marks_table(figures), "",
                      *_questions_table(figures), "", *_stores_table(figures), "",
                      "![Ratios](plots/scale-ratios.svg)", "",
                      "![Times](plots/scale-times.svg)"]) + "\n"


def _cache_line(figures):
    cache = figures["cache"]
    sizes = (f"{cache['store_bytes'] / 1e9:.1f} GB of stores, "
             f"{cache['available_bytes'] / 1e9:.1f} GB of memory for the page cache")
    read = any(side["read"] for one in figures["questions"] for side in one["sizes"].values())
    starred = " A time with a star was taken while the question read from the disk." if read else ""
    if cache["fits"]:
        return f"All stores are in the page cache: {sizes}.{starred}"
    return (f"**The stores do not fit into the page cache side by side**: {sizes}. Hot means here "
            f"that the question was asked just before of the same store.{starred}")


def _marks_table(figures):
    lines = ["| mark | wanted | found | |", "|---|---|---|---|"]
    return lines + [f"| {what} | {wanted} | {found} | {'kept' if kept else '**missed**'} |"
                    for what, wanted, found, kept in figures["marks"]]


def _questions_table(figures):
    sizes = figures["sizes"]
    lines = ["| question | asked by | " + " | ".join(f"{size:,} ms" for size in sizes) + " | "
             + " | ".join(f"{size / sizes[0]:g} times the events" for size in sizes[1:]) + " | "
             + " | ".join(f"{size:,} heap MiB" for size in sizes) + " |",
             "|---|---|" + "--:|" * (3 * len(sizes) - 1)]
    for one in figures["questions"]:
        sides = [one["sizes"][size] for size in sizes]
        times = [report.ms(side["seconds"]) + ("*" if side["read"] else "") for side in sides]
        ratios = [_ratio(one["ratios"][size], size / sizes[0]) for size in sizes[1:]]
        heaps = [f"{side['heap_bytes'] / MIB:.1f}" for side in sides]
        lines.append(f"| {one['text']} | {one['through']} | "
                     + " | ".join([*times, *ratios, *heaps]) + " |")
    return lines


def _ratio(ratio, events):
    return f"{ratio:.1f}" if ratio <= RATIO_SLACK * events else f"**{ratio:.1f}**"


def _stores_table(figures):
    lines = ["| store | events loaded a second | load s | peak MiB | of it heap | compaction s "
             "| peak MiB | of it heap | bytes an event | of it ids | segments | opening ms |",
             "|---|" + "--:|" * 11]
    for size in figures["sizes"]:
        made = figures["stores"][size]
        opened = made["opened"]
        memory = " | ".join(
            f"{child['seconds']:.1f} | {child['peak_rss_bytes'] / MIB:.0f} "
            f"| {child['peak_heap_bytes'] / MIB:.0f}"
            for child in (made["load"], made["compaction"]))
        lines.append(f"| {size:,} | {made['events_per_second']:,.0f} | {memory} "
                     f"| {made['bytes'] / size:.2f} | {opened['id_bytes'] / size:.2f} "
                     f"| {opened['segments']} | {report.ms(made['open_seconds'])} |")
    return lines
