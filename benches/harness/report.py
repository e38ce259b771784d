"""The figures as Markdown, ratios first, as JSON, and as charts."""

import json
import re
import shutil

from harness.clickhouse import LAYOUTS
from harness.environment import REPOSITORY, say
from harness.questions import LEAST_OF_BITMAPS, QUESTIONS, wanted

PAGE = REPOSITORY / "docs/performance.md"
MIB = 1 << 20
GROUPS = {"clickhouse": "ClickHouse", "bitmaps": "groupBitmap", "duckdb": "DuckDB",
          "polars": "Polars", "datafusion": "DataFusion"}
TITLES = {"pugmark": "Pugmark", "pugmark_typed": "Pugmark, library",
          **{layout: layout for layout in LAYOUTS}, "bitmaps": "groupBitmap",
          "bitmaps_raw": "groupBitmap, hashes", "duckdb": "DuckDB", "polars": "Polars",
          "datafusion": "DataFusion"}
LOADED = {"pugmark": "Pugmark (all files: indexes, ids, log)",
          **{layout: f"ClickHouse {layout}" for layout in LAYOUTS},
          "bitmaps": "ClickHouse bitmaps by event and day, beside a table",
          "bitmaps_raw": "ClickHouse bitmaps of 64-bit hashes, beside a table",
          "duckdb": "DuckDB", "sorted": "Parquet by user and time, for Polars and DataFusion"}


def finish(options, name, figures, text, marks):
    """Writes figures and their report, shows it, and puts it into the page if that is wanted."""
    figures = json.dumps(figures, indent=1) + "\n"
    (options.out / f"{name}.json").write_text(figures, encoding="utf-8")
    (options.out / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)
    if options.publish:
        publish(options.out, name, marks)
    say(f"written to {options.out}")


def publish(out, name, marks):
    """Puts a report between the marks of the page, and its charts beside it."""
    plots = PAGE.parent / "plots"
    plots.mkdir(exist_ok=True)
    text = (out / f"{name}.md").read_text(encoding="utf-8")
    for chart in re.findall(r"\]\((.*\.svg)\)", text):
        shutil.copyfile(out / chart, plots / chart)
    text = text.replace("](", "](plots/")
    begin, end = f"<!-- {marks} -->\n", f"<!-- end of {marks} -->"
    if begin not in (page := PAGE.read_text(encoding="utf-8")):
        raise SystemExit(f"{PAGE} has no place for the {marks}; what was found is in {out}")
    before, rest = page.split(begin)
    _, after = rest.split(end)
    PAGE.write_text(f"{before}{begin}\n{text}{end}{after}", encoding="utf-8")


def markdown(figures, names):
    parts = [head(figures)]
    for run in figures["runs"]:
        if len(figures["runs"]) > 1:
            parts.append(f"### {run['threads']} threads")
        parts += [links(names, run), ratios(run), times(run), typed(run), heaps(run)]
        if figures["cold"]:
            parts.append(colds(run))
    parts += [storage(figures), unanswered(figures), chosen(figures["runs"][-1])]
    return "\n\n".join(part for part in parts if part) + "\n"


def head(figures):
    threads = " and ".join(str(run["threads"]) for run in figures["runs"])
    return (
        f"{figures['events']:,} events of {figures['users']:,} users over {figures['days']} days, "
        f"seed {figures['seed']}; {threads} threads; median of {figures['repetitions']}, "
        f"interleaved, hot; {made_on(figures)}")


def made_on(figures):
    """The end of a report's first line: on what, with what, when how busy."""
    machine = figures["machine"]
    versions = ", ".join(f"{GROUPS.get(name, 'Pugmark')} {version}"
                         for name, version in figures["versions"].items())
    return (
        f"{machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_bytes'] / (1 << 30):.0f} GiB; {versions}; "
        f"load {machine['load_before']:.1f} before, {machine['load_after']:.1f} after.")


def links(names, run):
    own = [name for name in names if f"-{run['threads']}-" in name]
    return "\n".join(link(name) for name in own)


def link(name):
    """A chart in a report."""
    return f"![{name}]({name}.svg)"


def table(heads, rows, texts=(0,)):
    """Markdown; columns are numbers, but those of the places `texts`."""
    rules = ["---" if place in texts else "--:" for place in range(len(heads))]
    lines = [f"| {' | '.join(heads)} |", f"|{'|'.join(rules)}|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def groups_of(run):
    """The groups of peers that answered anything."""
    return [group for group in GROUPS
            if any(group in question["ratios"] for question in run["questions"].values())]


def sides_of(run):
    """The sides that answered anything, in order."""
    return [side for side in TITLES
            if any("seconds" in question["sides"].get(side, {})
                   for question in run["questions"].values())]


def ratios(run):
    groups = groups_of(run)
    rows = []
    for name, question in run["questions"].items():
        least = f"{wanted(name):.2g} of the slower" if QUESTIONS[name].least is None \
            else f"{wanted(name):.0f}"
        if name in LEAST_OF_BITMAPS:
            least += f", groupBitmap {LEAST_OF_BITMAPS[name]}"
        cells = [ratio(question["ratios"].get(group)) for group in groups]
        cpu = ratio(question["cpu_ratios"].get("clickhouse"))
        rows.append([f"`{name}`", least, *cells, cpu,
                     ms(question["sides"]["pugmark"].get("seconds"))])
    return "How many times as long each peer takes as Pugmark, asked in SQL:\n\n" + table(
        ["question", "wanted", *(GROUPS[group] for group in groups), "ClickHouse, CPU",
         "Pugmark ms"], rows)


def times(run):
    sides = sides_of(run)
    rows = [[f"`{name}`", *(cell(question["sides"].get(side, {})) for side in sides)]
            for name, question in run["questions"].items()]
    return "Milliseconds:\n\n" + table(["question", *(TITLES[side] for side in sides)], rows)


def cell(side):
    return "did not finish" if "did_not_finish" in side else ms(side.get("seconds"))


def typed(run):
    """The typed questions, beside what no layout of the same bytes could beat."""
    rows = []
    for name, question in run["questions"].items():
        own = question["sides"]["pugmark_typed"]
        if "seconds" not in own:
            continue
        clickhouse = question["typed_ratios"].get("clickhouse")
        figures = [own.get(figure) for figure in ("heap_bytes", "touched_bytes")]
        rows.append([
            f"`{name}`", ms(own["seconds"]), ms(question["sides"]["pugmark"].get("seconds")),
            ratio(clickhouse), *map(mib, figures), ms(own.get("stream_seconds")),
            ratio(own.get("times_stream"))])
    if not rows:
        return ""
    return ("Pugmark as a library, by typed plans. Memory streams at "
            f"{run['stream_bytes_per_second'] / 1e9:.1f} GB/s on {run['threads']} threads:\n\n"
            + table(["question", "library ms", "SQL ms", "ClickHouse / library", "heap peak MiB",
                     "bytes touched MiB", "plain stream of them ms", "library / stream"], rows))


def heaps(run):
    sides = sides_of(run)
    rows = [[f"`{name}`", *(mib(question["sides"].get(side, {}).get("heap_bytes"))
                            for side in sides)] for name, question in run["questions"].items()]
    return "Heap peak above the opened engine, MiB:\n\n" + table(
        ["question", *(TITLES[side] for side in sides)], rows)


def colds(run):
    sides = sides_of(run)
    rows = [[f"`{name}`", *(ms(question["sides"].get(side, {}).get("cold_seconds"))
                            for side in sides)] for name, question in run["questions"].items()]
    return "Milliseconds of the first asking in a fresh process, files not in the page cache:\n\n" \
        + table(["question", *(TITLES[side] for side in sides)], rows)


def storage(figures):
    events, load = figures["events"], figures["load"]
    own = load["pugmark"]
    whole = lambda one: one["seconds"] + one["merge_seconds"]
    rows = []
    for name, title in LOADED.items():
        if name in load:
            one = load[name]
            rows.append([
                title, f"{one['bytes'] / events:.2f}", f"{one['bytes'] / own['bytes']:.2f}",
                f"{events / one['seconds']:,.0f}", f"{one['seconds']:.1f}",
                f"{one['merge_seconds']:.1f}", f"{whole(one):.1f}",
                f"{whole(one) / whole(own):.2f}", f"{one['peak_rss_bytes'] / MIB:.0f}"])
    parquet = figures["parquet_bytes"]
    rows.append(["Parquet, zstd, in order of time (what is loaded)", f"{parquet / events:.2f}",
                 f"{parquet / own['bytes']:.2f}", "", "", "", "", "", ""])
    opened = figures["open"]
    return table(["", "bytes an event", "size / Pugmark", "load, events a second", "load s",
                  "merge s", "load and merge s", "these / Pugmark", "load peak MiB"], rows) + (
        f"\n\nOpening the store: {ms(opened['seconds'])} ms, {opened['segments']} segments; ids "
        f"{opened['id_bytes'] / events:.2f} bytes an event.")


def unanswered(figures):
    """What was left out, and what was given up, each with why."""
    lines = {}
    for run in figures["runs"]:
        for name, question in run["questions"].items():
            for side, one in question["sides"].items():
                if side != "pugmark_typed" and "left_out" in one:
                    lines.setdefault(f"{TITLES[side]}: {one['left_out']}", []).append(name)
                if "did_not_finish" in one:
                    why = f"{TITLES[side]} did not finish ({one['did_not_finish']})"
                    lines.setdefault(why, []).append(name)
    if not lines:
        return ""
    return "Not answered:\n\n" + "\n".join(
        f"* {why}: {', '.join(dict.fromkeys(names))}" for why, names in lines.items())


def chosen(run):
    """Of questions with several formulations, those that were timed."""
    lines = []
    for name, question in run["questions"].items():
        several = {}
        for side, one in question["sides"].items():
            if len(one.get("tried", ())) > 1:
                several.setdefault(one["formulation"], []).append(TITLES[side])
        if several:
            lines.append(f"* `{name}`: " + "; ".join(
                f"{formulation} ({', '.join(sides)})" for formulation, sides in several.items()))
    return "The fastest formulation of those tried in this run:\n\n" + "\n".join(lines)


def ratio(value):
    if value is None:
        return ""
    return f"**{value:.0f}**" if value >= 10 else f"**{value:.2g}**" if value < 1 \
        else f"**{value:.1f}**"


def mib(size):
    return "" if size is None else f"{size / MIB:.0f}" if size >= 100 * MIB else f"{size / MIB:.1f}"


def ms(seconds):
    if seconds is None:
        return ""
    millis = seconds * 1e3
    return f"{millis:.0f}" if millis >= 100 else f"{millis:.1f}" if millis >= 1 else f"{millis:.2f}"
