"""Figures drawn as SVG, the same bytes for the same numbers."""

import shutil

COLOURS = ("#1b6ca8", "#d1495b", "#3a7d44", "#edae49", "#6a4c93", "#00798c", "#8d6a4f", "#444444")


def _pyplot():
    """Imported where something is drawn: asking for help needs no matplotlib."""
    import matplotlib
    matplotlib.use("svg")
    # Texts stay texts, and ids do not change from run to run.
    matplotlib.rcParams.update({
        "svg.fonttype": "none", "svg.hashsalt": "pugmark", "font.size": 9,
        "font.family": "sans-serif", "axes.spines.top": False, "axes.spines.right": False,
        "axes.grid": True, "grid.alpha": 0.3, "legend.frameon": False,
    })
    from matplotlib import pyplot
    return pyplot


def lines(path, title, x_label, series, log_x=False, log_y=True, ticks=None):
    """`series`: label -> [(x, seconds)]. Milliseconds go up."""
    pyplot = _pyplot()
    from matplotlib import ticker
    figure, axes = pyplot.subplots(figsize=(7, 3.8))
    for place, (label, points) in enumerate(series.items()):
        axes.plot([x for x, _ in points], [seconds * 1e3 for _, seconds in points], marker="o",
                  markersize=3.5, linewidth=1.4, label=label, color=COLOURS[place % len(COLOURS)],
                  linestyle="--" if place >= len(COLOURS) else "-")
    if log_x:
        axes.set_xscale("log")
    if log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    if ticks:
        axes.set_xticks(ticks, [_short(tick) for tick in ticks])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set(title=title, xlabel=x_label, ylabel="ms")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    _write(pyplot, figure, path)


def bars(path, title, panels):
    """`panels`: (what, labels, {series: figures}, limit or None) each, drawn side by side as
    horizontal bars, with a dashed line at the limit."""
    pyplot = _pyplot()
    rows = max(len(labels) * len(series) for _, labels, series, _ in panels)
    figure, all_axes = pyplot.subplots(
        1, len(panels), figsize=(4.2 * len(panels) + 1.5, 0.2 * rows + 1.6), squeeze=False,
        sharey=True)
    for axes, (what, labels, series, limit) in zip(all_axes[0], panels):
        height = 0.8 / len(series)
        for place, (label, figures) in enumerate(series.items()):
            at = [row + place * height for row in range(len(labels))]
            axes.barh(at, figures, height=height, label=label, color=COLOURS[place])
        if limit is not None:
            axes.axvline(limit, color="black", linewidth=1, linestyle="--")
        axes.set_yticks([row + 0.4 - height / 2 for row in range(len(labels))], labels)
        axes.set_xlabel(what)
        axes.grid(axis="y", visible=False)
    all_axes[0][0].invert_yaxis()
    if len(panels[-1][2]) > 1:
        all_axes[0][-1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle(title)
    figure.tight_layout()
    _write(pyplot, figure, path)


def _write(pyplot, figure, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    # Trailing blanks would only trouble whoever keeps the picture under version control.
    text = path.read_text(encoding="utf-8")
    path.write_text("".join(line.rstrip() + "\n" for line in text.splitlines()), encoding="utf-8")


def publish(folder, names, docs):
    """Puts drawn pictures where the pages show them."""
    (docs / "plots").mkdir(exist_ok=True)
    for name in names:
        shutil.copyfile(folder / f"{name}.svg", docs / "plots" / f"{name}.svg")


def _short(number):
    for size, letter in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if number >= size:
            return f"{number / size:g}{letter}"
    return f"{number:g}"
