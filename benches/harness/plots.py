"""Figures drawn as SVG, the same bytes for the same numbers, and as PNG."""

from collections import namedtuple

COLOURS = ("#1b6ca8", "#d1495b", "#3a7d44", "#edae49", "#6a4c93", "#00798c", "#8d6a4f", "#444444")

# Bars beside each other: `series` are labels -> figures, None where there is none. Bars begin at
# `since`; a dashed line is drawn at `limit`, and a mark for each label of what is `wanted`.
Panel = namedtuple("Panel", "what labels series limit log since wanted",
                   defaults=(None, False, 0, None))


def bars(path, title, panels, colours=None):
    """Panels side by side, with horizontal bars."""
    rows, most = len(panels[0].labels), max(len(panel.series) for panel in panels)
    size = (4.5 * max(len(panels), 2), 1.2 + rows * (0.11 * most + 0.14))
    figure, all_axes = _axes(size, len(panels))
    for axes, panel in zip(all_axes, panels):
        _panel(axes, panel, colours or dict(zip(panel.series, COLOURS)))
    if most > 1 or panels[-1].wanted:
        handles = all_axes[-1].get_legend_handles_labels()
        figure.legend(*handles, loc="outside right center")
    figure.suptitle(title)
    _write(figure, path)


def _panel(axes, panel, colours):
    thick = 0.8 / len(panel.series)
    for place, (label, figures) in enumerate(panel.series.items()):
        found = [(row, figure) for row, figure in enumerate(figures) if figure is not None]
        axes.barh([row - 0.4 + thick * (place + 0.5) for row, _ in found],
                  [figure - panel.since for _, figure in found], thick * 0.92, left=panel.since,
                  label=label, color=colours[label])
    if panel.log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if panel.limit is not None:
        axes.axvline(panel.limit, color="black", linewidth=1, linestyle="--")
    if panel.wanted:
        axes.plot(panel.wanted, range(len(panel.labels)), "k|", markersize=14,
                  markeredgewidth=1.5, label="wanted")
    axes.set_yticks(range(len(panel.labels)), panel.labels)
    axes.set_ylim(len(panel.labels) - 0.4, -0.6)
    axes.set_xlabel(panel.what)
    axes.grid(axis="y", visible=False)


def lines(path, title, x_label, series, log_x=False, ticks=None):
    """`series`: label -> [(x, seconds)]. Milliseconds go up, by their logarithm."""
    from matplotlib import ticker
    figure, (axes,) = _axes((8.5, max(3.8, 0.23 * len(series))), 1)
    for place, (label, points) in enumerate(series.items()):
        axes.plot([x for x, _ in points], [seconds * 1e3 for _, seconds in points], marker="o",
                  markersize=3.5, linewidth=1.4, label=label, color=COLOURS[place % len(COLOURS)],
                  linestyle=("-", "--", ":", "-.")[place // len(COLOURS) % 4])
    if log_x:
        axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    if ticks:
        axes.set_xticks(ticks, [_short(tick) for tick in ticks])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set(title=title, xlabel=x_label, ylabel="ms")
    figure.legend(loc="outside right center")
    _write(figure, path)


def _axes(size, columns):
    """Imported where something is drawn: asking for help needs no matplotlib."""
    import matplotlib
    from matplotlib.figure import Figure
    # Texts stay texts, and ids do not change from run to run.
    matplotlib.rcParams.update({
        "svg.fonttype": "none", "svg.hashsalt": "pugmark", "font.size": 9,
        "font.family": "sans-serif", "axes.spines.top": False, "axes.spines.right": False,
        "axes.grid": True, "axes.axisbelow": True, "grid.alpha": 0.3, "legend.frameon": False,
    })
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False, sharey=True)[0]


def _write(figure, path):
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    figure.savefig(path.with_suffix(".png"), dpi=120)
    # Trailing blanks would only trouble whoever keeps the picture under version control.
    text = path.read_text(encoding="utf-8")
    path.write_text("".join(line.rstrip() + "\n" for line in text.splitlines()), encoding="utf-8")


def _short(number):
    for size, letter in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if number >= size:
            return f"{number / size:g}{letter}"
    return f"{number:g}"
