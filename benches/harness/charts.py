"""The comparison as two charts: milliseconds by question and engine, and ratios to Pugmark."""

from harness.questions import wanted

GROUPS = {"pugmark": ("Pugmark", "#c0392b"), "clickhouse": ("ClickHouse", "#f1c40f"),
          "bitmaps": ("groupBitmap", "#8d6e00"), "duckdb": ("DuckDB", "#2c3e50"),
          "polars": ("Polars", "#2980b9"), "datafusion": ("DataFusion", "#27ae60")}


def draw(figures, out):
    """SVG and PNG of both for each number of threads; their names."""
    import matplotlib
    matplotlib.use("svg")
    # The same figures give the same file.
    matplotlib.rcParams["svg.hashsalt"] = "pugmark"
    names = []
    for run in figures["runs"]:
        about = f"{figures['events']:,} events, {run['threads']} threads"
        for what, make in (("times", times), ("ratios", ratios)):
            name = f"compare-{run['threads']}-{what}"
            figure = make(run, about)
            figure.savefig(out / f"{name}.svg", metadata={"Date": None})
            figure.savefig(out / f"{name}.png", dpi=120)
            names.append(name)
    return names


def empty(questions, groups, title):
    """A figure with a group of horizontal bars for each question."""
    from matplotlib.figure import Figure
    height = 1.2 + len(questions) * (0.11 * len(groups) + 0.14)
    figure = Figure(figsize=(9, height), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.set_yticks(range(len(questions)), questions)
    axes.set_ylim(len(questions) - 0.4, -0.6)
    axes.grid(axis="x", which="major", color="#dddddd")
    axes.set_axisbelow(True)
    axes.set_title(title, fontsize=11)
    for edge in ("top", "right"):
        axes.spines[edge].set_visible(False)
    return figure, axes


def bars(axes, groups, values_of, since=0):
    """A bar for each question and group that has a value, from `since` on."""
    thick = 0.8 / len(groups)
    for place, group in enumerate(groups):
        label, color = GROUPS[group]
        found = [(row, value) for row, value in enumerate(values_of(group)) if value]
        axes.barh([row - 0.4 + thick * (place + 0.5) for row, _ in found],
                  [value - since for _, value in found], thick * 0.92, left=since, label=label,
                  color=color)


def peers(run):
    return [group for group in GROUPS if group != "pugmark" and any(
        group in question["ratios"] for question in run["questions"].values())]


def times(run, about):
    questions = run["questions"]
    groups = ["pugmark", *peers(run)]
    figure, axes = empty(list(questions), groups, f"Milliseconds, hot ({about}; shorter is better)")

    def values_of(group):
        for question in questions.values():
            own = question["sides"]["pugmark"].get("seconds")
            times_own = 1 if group == "pugmark" else question["ratios"].get(group)
            yield own * times_own * 1e3 if own and times_own else None
    bars(axes, groups, values_of)
    axes.set_xlabel("ms, logarithmic; ClickHouse: the best of its tables of events")
    axes.legend(fontsize=8, loc="lower right")
    return figure


def ratios(run, about):
    questions = run["questions"]
    groups = peers(run)
    figure, axes = empty(list(questions), groups, f"Time of peers / time of Pugmark ({about})")
    bars(axes, groups, lambda group: [question["ratios"].get(group)
                                      for question in questions.values()], since=1)
    axes.axvline(1, color="#c0392b", linewidth=1.2)
    axes.plot([wanted(name) for name in questions], range(len(questions)), "k|", markersize=14,
              markeredgewidth=1.5, label="wanted")
    axes.set_xlabel("peer / Pugmark, logarithmic; right of the red line Pugmark is faster")
    axes.legend(fontsize=8, loc="lower right")
    return figure
