"""What a question costs by the number of segments, users, steps, days and threads."""

import os
import shutil
import statistics

from harness import common, measure, plots, report
from harness.child import DidNotFinish
from harness.common import a_list
from harness.environment import Progress, load, say, watched
from harness.questions import QUESTIONS as EVERYTHING
from harness.questions import normal
from harness.sql.pugmark import formulations

ABOUT = """Draws what questions cost by the number of segments that the same events lie in, by the
number of users that they are of, by the steps of a funnel, by the days of a range, and by threads.
Makes the stores that it needs (some 9 bytes of disk an event each, a dozen of them) and deletes
them after each drawing. Everything is asked in SQL, hot, in turns; medians."""

PIECES = (2, 4, 8, 16, 32, 64, 128)
# The population comes in batches of so many events, the least that a piece can be.
BATCH_ROWS = 65_536
# Of a thousand events; 45 is the population's own share.
USERS_PER_MILLE = (1, 5, 15, 45, 100, 200, 400)
DAYS = (1, 2, 5, 10, 20, 30, 45, 60, 90)
STEPS = ("visit", "search", "view", "cart", "checkout", "purchase", "email_open", "return")

# Asked where the question stays and the store changes.
QUESTIONS = ("abandoned_cart", "funnel_3", "funnel_5_by_platform", "weekly_retention",
             "daily_users", "filter", "group_by_one")


class Chart:
    """One drawing: for each label and each x an asking, `(own, statement, whole, name)`. `alike`
    where the answers of all x must be the same."""

    def __init__(self, name, title, x_label, log_x, alike=False):
        self.name, self.title, self.x_label, self.log_x = name, title, x_label, log_x
        self.alike = alike
        self.series = {}

    def add(self, label, x, own, statement, whole=False, name=""):
        self.series.setdefault(label, []).append(
            {"x": x, "own": own, "asked": (statement, whole), "question": name, "runs": []})

    def add_questions(self, x, own):
        for name in QUESTIONS:
            self.add(name, x, own, formulations(name, None)[""], EVERYTHING[name].whole, name)

    def turns(self):
        return [(label, point, points[0]) for label, points in self.series.items()
                for point in points]


class Stores:
    """Stores of one drawing, made where they are not there; of all drawings, the plain one."""

    PLAIN = "plain"

    def __init__(self, options):
        self.options = options
        self.open = []

    def generated(self, users=None, threads=None):
        """A compacted store, with another number of users than the population's own."""
        also = ["--users", users] if users else []
        return self._of(f"users-{users}" if users else self.PLAIN, threads, lambda own, path: (
            [own.program, "generate", "--store", path, *self._population(), *also],
            [own.program, "compact", "--store", path]))

    def in_pieces(self, pieces):
        """A store that was flushed so many times and never compacted."""
        return self._of(f"pieces-{pieces}", None, lambda own, path: (
            [own.bench, "pieces", "--store", path, *self._population(), "--pieces", pieces],))

    def close(self, all_of_them=False):
        """Ends the asking processes; deletes all stores, but not the plain one before the end."""
        for own in self.open:
            own.close()
        kinds = ("users-", "pieces-", self.PLAIN) if all_of_them else ("users-", "pieces-")
        for own in self.open:
            if own.store.name.startswith(kinds) and not self.options.keep:
                shutil.rmtree(own.store, ignore_errors=True)
        self.open = [own for own in self.open if own.store.exists()]

    def _of(self, kind, threads, commands):
        options = self.options
        path = options.work / f"{kind}-{options.events}-{options.days}-{options.seed}"
        own = common.store_of(options, path, threads or options.threads)
        if not path.exists():
            # Under another name first: a store that is there is whole.
            unfinished = path.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            for command in commands(own, unfinished):
                watched(command)
            unfinished.rename(path)
        self.open.append(own)
        return own

    def _population(self):
        options = self.options
        return ["--events", options.events, "--days", options.days, "--seed", options.seed]


def segments(options, stores):
    chart = Chart("segments", "the same events in more segments", "segments", True, alike=True)
    most = options.events // BATCH_ROWS
    made = [stores.generated()]
    made += [stores.in_pieces(pieces) for pieces in PIECES if pieces <= most]
    for own in made:
        chart.add_questions(own.open()["segments"], own)
    return chart


def users(options, stores):
    chart = Chart("users", "as many events of more users", "users", True)
    for share in USERS_PER_MILLE:
        number = max(1, options.events * share // 1_000)
        chart.add_questions(number, stores.generated(users=number))
    return chart


def steps(options, stores):
    chart = Chart("steps", "funnels within a day, by steps", "steps", False)
    own = stores.generated()
    for number in range(2, len(STEPS) + 1):
        different = ", ".join(f"step('{name}')" for name in STEPS[:number])
        views = ", ".join(["step('view')"] * number)
        for label, listed in (
                ("different steps", different),
                ("any order", f"{different}, mode => 'any_order'"),
                ("on one platform", f"{different}, holding => platform"),
                ("the view again and again", views)):
            chart.add(label, number, own,
                      f"SELECT step, users FROM funnel({listed}, within => INTERVAL '1 day')")
    return chart


def days(options, stores):
    chart = Chart("days", "questions of the last days", "days", True)
    own = stores.generated()
    five = ", ".join(f"step('{name}')" for name in ("visit", "search", "view", "cart", "purchase"))
    for number in DAYS:
        if number > options.days:
            continue
        last = f"last => INTERVAL '{number} days'"
        for label, statement in (
                ("viewed, cart, no purchase",
                 f"""SELECT count(*) FROM users WHERE did('view', {last})
                     AND did('cart', {last}) AND NOT did('purchase', {last})"""),
                ("5 views on ios, a dear cart",
                 f"""SELECT count(*) FROM users
                     WHERE did(event = 'view' AND platform = 'ios', at_least => 5, {last})
                     AND did(event = 'cart' AND price >= 100, {last})"""),
                ("funnel of three steps",
                 f"""SELECT step, users FROM funnel(step('view'), step('cart'), step('purchase'),
                     within => INTERVAL '1 day', {last})"""),
                ("funnel of five, by platform",
                 f"""SELECT "by", step, users FROM funnel({five}, within => INTERVAL '1 day',
                     by => platform, {last})""")):
            chart.add(label, number, own, statement)
    return chart


def threads(options, stores):
    chart = Chart("threads", "questions on more threads", "threads", False, alike=True)
    cores = os.cpu_count()
    for number in sorted({1, 2, 4, 8, 16, 32, cores}):
        if number <= cores:
            chart.add_questions(number, stores.generated(threads=number))
    return chart


CHARTS = {chart.__name__: chart for chart in (segments, users, steps, days, threads)}


def add_arguments(parser):
    add = parser.add_argument
    add("--events", type=int, default=10_000_000, help="events of each store [10 million]")
    add("--charts", type=a_list(CHARTS), default=list(CHARTS),
        help=f"what to draw, of {', '.join(CHARTS)} [all]")
    add("--repetitions", type=int, default=5, help="timed askings of each question [5]")
    add("--threads", type=int, default=2, help="threads of a question [2]")
    common.add_common(parser, "cost")
    common.add_limit(parser)
    common.add_keep(parser)


def run(options):
    if options.publish and set(options.charts) != set(CHARTS):
        raise SystemExit("--publish needs all charts")
    common.prepare(options)
    figures = common.head(options, "events", "threads", "repetitions", "limit")
    stores = Stores(options)
    try:
        figures["charts"] = [_measure(options, name, stores) for name in options.charts]
    finally:
        stores.close(all_of_them=True)
    figures["machine"]["load_after"] = load()
    _draw(options.out, figures)
    report.finish(options, "cost", figures, _markdown(figures), "cost figures")


def _measure(options, name, stores):
    """Makes the stores of a drawing, asks everything in turns, deletes them."""
    say(f"making stores: {name}")
    chart = CHARTS[name](options, stores)
    turns = chart.turns()
    progress = Progress("asking", options.repetitions * len(turns))
    try:
        for _ in range(options.repetitions):
            for label, point, first in turns:
                progress.turn(f"{name}, {label}, {point['x']} {chart.x_label}")
                _ask_once(options, chart, point, first)
    finally:
        stores.close()
    series = {label: list(map(_summed_up, points)) for label, points in chart.series.items()}
    return {"name": chart.name, "title": chart.title, "x_label": chart.x_label,
            "log_x": chart.log_x, "series": series}


def _ask_once(options, chart, point, first):
    """One timed asking. Where the same events are asked, the first answer is everyone's."""
    if "did_not_finish" in point:
        return
    try:
        reply = measure.hot(lambda: point["own"].sql(*point["asked"], options.limit))
    except DidNotFinish as why:
        say(f"did not finish: {why}")
        point["did_not_finish"] = str(why)
        return
    point["runs"].append(reply.seconds)
    if chart.alike:
        reply.rows = normal(point["question"], reply.rows)
        expected = first.setdefault("answer", reply.rows)
        measure.check(point["question"], expected, reply, f"{point['x']} {chart.x_label}")


def _summed_up(point):
    """What is kept of a point."""
    if "did_not_finish" in point:
        return {"x": point["x"], "did_not_finish": point["did_not_finish"]}
    return {"x": point["x"], "runs": point["runs"], "seconds": statistics.median(point["runs"])}


def _draw(out, figures):
    for chart in figures["charts"]:
        series = {label: [(point["x"], point["seconds"]) for point in points if "seconds" in point]
                  for label, points in chart["series"].items()}
        ticks = [point["x"] for point in next(iter(chart["series"].values()))]
        plots.lines(out / f"cost-{chart['name']}.svg", chart["title"], chart["x_label"], series,
                    log_x=chart["log_x"], ticks=ticks)


def _markdown(figures):
    parts = [f"{figures['events']:,} events over {figures['days']} days, seed {figures['seed']}; "
             f"{figures['threads']} threads where nothing else is said; median of "
             f"{figures['repetitions']}, hot, in turns; {report.made_on(figures)} Times are ms."]
    for chart in figures["charts"]:
        points = next(iter(chart["series"].values()))
        rows = [[label, *map(report.cell, points)] for label, points in chart["series"].items()]
        parts += [report.link(f"cost-{chart['name']}"),
                  report.table([chart["x_label"], *(f"{point['x']:,}" for point in points)], rows),
                  _unfinished(chart)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _unfinished(chart):
    return "\n".join(
        f"* {label}, {point['x']:,} {chart['x_label']}, did not finish "
        f"({point['did_not_finish']})" for label, points in chart["series"].items()
        for point in points if "did_not_finish" in point)
