"""What a question costs by the number of segments, users, steps, days and threads."""

import json
import os
import shutil
import statistics

from harness import plots, report, trial
from harness.environment import say
from harness.statements import WHOLE, normal, pugmark, same

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
            {"x": x, "ask": lambda: own.sql(statement, whole), "question": name, "runs": []})

    def add_questions(self, x, own):
        for name in QUESTIONS:
            self.add(name, x, own, pugmark(name), name in WHOLE, name)


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
        own = trial.store_of(options, path, threads or options.threads)
        if not path.exists():
            # Under another name first: a store that is there is whole.
            unfinished = path.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            for command in commands(own, unfinished):
                trial.watched(command)
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
    add("--charts", default=",".join(CHARTS), help="what to draw [all]")
    add("--repetitions", type=int, default=5, help="timed askings of each question [5]")
    add("--threads", type=int, default=2, help="threads of a question [2]")
    trial.add_common(parser, "cost")


def run(options):
    trial.prepare(options)
    chosen = options.charts.split(",")
    if options.publish and set(chosen) != set(CHARTS):
        raise SystemExit("--publish needs all charts")
    figures = trial.head(events=options.events, days=options.days, seed=options.seed,
                         threads=options.threads, repetitions=options.repetitions)
    stores = Stores(options)
    try:
        figures["charts"] = [_measure(options, name, stores) for name in chosen]
    finally:
        stores.close(all_of_them=True)
    _write(options, figures)


def _measure(options, name, stores):
    """Makes the stores of a drawing, asks everything in turns, deletes them."""
    say(f"making stores: {name}")
    chart = CHARTS[name](options, stores)
    try:
        for repetition in range(options.repetitions):
            say(f"asking, {repetition + 1} of {options.repetitions}: {name}")
            for label, points in chart.series.items():
                for point in points:
                    _ask_once(chart, label, point, points[0])
    finally:
        stores.close()
    return {
        "name": chart.name, "title": chart.title, "x_label": chart.x_label, "log_x": chart.log_x,
        "series": {label: [{"x": point["x"], "runs": point["runs"],
                            "seconds": statistics.median(point["runs"])} for point in points]
                   for label, points in chart.series.items()},
    }


def _ask_once(chart, label, point, first):
    """One timed asking. Where the same events are asked, the first answer is everyone's."""
    rows, seconds = trial.hot(point["ask"])
    point["runs"].append(seconds)
    if not chart.alike:
        return
    rows = normal(point["question"], rows)
    if not same(first.setdefault("answer", rows), rows):
        raise SystemExit(f"{label}: another answer at {point['x']} {chart.x_label} "
                         f"than at {first['x']}")


def _write(options, figures):
    folder = options.out / "plots"
    for chart in figures["charts"]:
        series = {label: [(point["x"], point["seconds"]) for point in points]
                  for label, points in chart["series"].items()}
        ticks = [x for x, _ in next(iter(series.values()))]
        plots.lines(folder / f"cost-{chart['name']}.svg", chart["title"], chart["x_label"], series,
                    log_x=chart["log_x"], ticks=ticks)
    text = _markdown(figures)
    (options.out / "cost.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    (options.out / "cost.md").write_text(text, encoding="utf-8")
    print(text)
    if options.publish:
        names = [f"cost-{chart['name']}" for chart in figures["charts"]]
        plots.publish(folder, names, trial.PAGE.parent)
        report.publish(text, trial.PAGE, "cost figures")
    say(f"written to {options.out}")


def _markdown(figures):
    lines = [f"{figures['events']:,} events over {figures['days']} days, seed {figures['seed']}; "
             f"{figures['threads']} threads where nothing else is said; median of "
             f"{figures['repetitions']}, hot, in turns; {trial.made_on(figures)} Times are ms."]
    for chart in figures["charts"]:
        points = next(iter(chart["series"].values()))
        lines += ["", f"![{chart['title']}](plots/cost-{chart['name']}.svg)", "",
                  f"| {chart['x_label']} | " + " | ".join(f"{point['x']:,}" for point in points)
                  + " |", "|---|" + "--:|" * len(points)]
        for label, points in chart["series"].items():
            times = " | ".join(report.ms(point["seconds"]) for point in points)
            lines.append(f"| {label} | {times} |")
    return "\n".join(lines) + "\n"
