"""The comparison as two charts: milliseconds by question and engine, and ratios to Pugmark."""

from harness import plots
from harness.questions import wanted

COLOURS = {"Pugmark": "#c0392b", "ClickHouse": "#f1c40f", "groupBitmap": "#8d6e00",
           "DuckDB": "#2c3e50", "Polars": "#2980b9", "DataFusion": "#27ae60"}
GROUPS = dict(zip(("pugmark", "clickhouse", "bitmaps", "duckdb", "polars", "datafusion"), COLOURS))


def draw(figures, out):
    """Both for each number of threads; their names."""
    names = []
    for run in figures["runs"]:
        about = f"{figures['events']:,} events, {run['threads']} threads"
        for what, title, panel in (
                ("times", f"Milliseconds, hot ({about}; shorter is better)", times(run)),
                ("ratios", f"Time of peers / time of Pugmark ({about})", ratios(run))):
            if panel.series:
                names.append(f"compare-{run['threads']}-{what}")
                plots.bars(out / f"{names[-1]}.svg", title, [panel], COLOURS)
    return names


def times(run):
    questions = run["questions"]
    own = [question["sides"]["pugmark"].get("seconds") for question in questions.values()]
    series = {GROUPS["pugmark"]: [seconds and seconds * 1e3 for seconds in own]}
    for title, figures in peers(run).items():
        series[title] = [seconds and ratio and seconds * ratio * 1e3
                         for seconds, ratio in zip(own, figures)]
    return plots.Panel("ms, logarithmic; ClickHouse: the best of its tables of events",
                       list(questions), series, log=True)


def ratios(run):
    questions = list(run["questions"])
    return plots.Panel("peer / Pugmark, logarithmic; right of the dashed line Pugmark is faster",
                       questions, peers(run), limit=1, log=True, since=1,
                       wanted=[wanted(name) for name in questions])


def peers(run):
    """The ratio of each question, by the titles of those that answered any."""
    questions = run["questions"].values()
    found = {title: [question["ratios"].get(group) for question in questions]
             for group, title in GROUPS.items() if group != "pugmark"}
    return {title: figures for title, figures in found.items() if any(figures)}
