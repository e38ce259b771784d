"""Asking everybody everything: which formulation is fastest, whether all answer the same, and
seconds of repeated askings in turn."""

import statistics
import time

from harness.child import DidNotFinish
from harness.environment import Progress, forget_cached, say
from harness.questions import QUESTIONS, differing, same

# How long a question is asked before it is timed.
WARM_UP_SECONDS = 0.1

# What takes so long is timed at once: next to it caches and clocks are nothing.
SLOW_SECONDS = 0.5

# A layout, or a formulation, that is so much slower than the best one keeps the time of its trial.
HOPELESS = 1.5

# A formulation that is so much slower than the best of one layout is not tried in the next.
HOPELESS_ANYWHERE = 2


class Differs(SystemExit):
    """Two engines do not give one answer, which ends whatever is measured."""


class Trial:
    """What is known of one question and one side."""

    def __init__(self, side, question):
        self.side, self.question = side, question
        self.figures = {"runs": [], "cpu_runs": []}
        self.rows = None

    @property
    def answered(self):
        return self.rows is not None

    def visit(self, formulation, best=None, watch=False, check=lambda reply: None):
        """One hot asking. The heap is that of the first asking, which is also all of a formulation
        that cannot be the best."""
        first = self.side.ask(self.question, formulation, watch)
        check(first)
        if best is not None and first.seconds > HOPELESS * best + 0.01:
            return first
        reply = hot(lambda: self.side.ask(self.question, formulation), first)
        reply.heap_bytes = first.heap_bytes
        return reply

    def again(self):
        """One more run, whose answer is that of the first."""
        insist = lambda reply: check(self.question, self.rows, reply, self.side.title)
        try:
            self.take(self.visit(self.figures["formulation"], check=insist))
        except DidNotFinish as why:
            self.figures["did_not_finish"] = str(why)
            self.rows = None

    def take(self, reply):
        self.figures["runs"].append(reply.seconds)
        self.figures["cpu_runs"].append(reply.cpu_seconds)
        if reply.read_bytes is not None:
            self.figures.setdefault("read_runs", []).append(reply.read_bytes)


def hot(ask, first=None):
    """The reply of an asking that is timed when it is hot: after `WARM_UP_SECONDS` of the same the
    processor's caches and clock are the question's own, whatever was asked before. `first` is the
    reply of one that has just been."""
    reply = first or ask()
    until = time.monotonic() + WARM_UP_SECONDS - reply.seconds
    warm = reply.seconds >= SLOW_SECONDS
    while not warm:
        warm = time.monotonic() >= until
        reply = ask()
    return reply


def check(question, expected, reply, whose):
    if expected is not None and not same(expected, reply.rows):
        raise Differs(f"{question}: {whose}: {differing(expected, reply.rows)}")


def try_all(trial, expected, hot=True, without=()):
    """Asks in every formulation but `without`; keeps the fastest. All must answer what is
    expected."""
    figures, side, question = trial.figures, trial.side, trial.question
    if why := side.left_out(question):
        figures["left_out"] = why
        return
    best, tried, failed = None, {}, {}
    known = side.formulations(question)
    for name, sql in known.items():
        if name in without and len(known) > len(without):
            continue
        insist = lambda reply, name=name: check(
            question, expected, reply, f"{side.title}, {name}")
        try:
            # Where nothing is timed, one asking of each is enough.
            least = (best.seconds if best else None) if hot else 0
            reply = trial.visit(name, least, hot, insist)
        except DidNotFinish as why:
            failed[name] = str(why)
            continue
        tried[name] = reply.seconds
        if best is None or reply.seconds < best.seconds:
            best = reply
            figures.update(formulation=name, sql=sql, heap_bytes=reply.heap_bytes)
    figures["tried"], figures["failed"] = tried, failed
    if best is None:
        figures["did_not_finish"] = "; ".join(sorted(set(failed.values())))
        return
    trial.rows = best.rows
    trial.take(best)


def trials(options, sides, hot=True):
    """Everybody's trial of every question: question -> trials. A difference stops, or is collected
    where nothing is timed."""
    asked, differences = {}, []
    progress = Progress("trying", len(options.questions))
    for question in options.questions:
        progress.turn(question)
        asked[question], expected, hopeless = [], {}, {}
        for side in sides:
            trial = Trial(side, question)
            asked[question].append(trial)
            try:
                slow = hopeless.setdefault(side.group, set())
                try_all(trial, expected.get(side.events), hot, slow if hot else ())
                slow |= {name for name, seconds in trial.figures.get("tried", {}).items()
                         if seconds > HOPELESS_ANYWHERE * min(trial.figures["runs"])}
            except Differs as difference:
                if hot:
                    raise
                say(str(difference))
                differences.append(str(difference))
            if trial.figures.get("failed"):
                say(f"{question}: {side.title}: {trial.figures['failed']}")
            if trial.answered:
                expected.setdefault(side.events, trial.rows)
    return asked, differences


def repeat(options, asked):
    """The timed runs after the trial, in turn."""
    progress = Progress("asking", (options.repetitions - 1) * len(asked))
    for repetition in range(2, options.repetitions + 1):
        for question, row in asked.items():
            progress.turn(f"{question}, run {repetition} of {options.repetitions}")
            for trial in row:
                if worth_repeating(options, trial, row):
                    trial.again()


def worth_repeating(options, trial, row):
    """Not what has been asked for long enough, and no layout that is not its engine's best."""
    if not trial.answered or sum(trial.figures["runs"]) > options.patience:
        return False
    siblings = [other.figures["runs"][0] for other in row
                if other.answered and other.side.group == trial.side.group != "pugmark"]
    return not siblings or trial.figures["runs"][0] <= HOPELESS * min(siblings)


def cold(options, sides, asked):
    """Each side's first asking in a fresh process, its files not in the page cache."""
    turns = [(question, trial) for question, row in asked.items() for trial in row
             if trial.answered]
    progress = Progress("asking cold", len(turns))
    for question, trial in turns:
        progress.turn(f"{question}, {trial.side.title}")
        for side in sides:
            side.close()
        forget_cached(trial.side.files())
        try:
            reply = trial.side.ask(question, trial.figures["formulation"])
            trial.figures["cold_seconds"] = reply.seconds
        except DidNotFinish as why:
            trial.figures["cold_did_not_finish"] = str(why)


def summary(asked):
    """Medians, and the ratios to the best of each group of peers."""
    questions = {}
    for question, row in asked.items():
        for trial in row:
            if trial.answered:
                trial.figures["seconds"] = statistics.median(trial.figures["runs"])
                trial.figures["cpu_seconds"] = statistics.median(trial.figures["cpu_runs"])
        answered = next((trial.rows for trial in row if trial.answered), [])
        figures = {trial.side.name: trial.figures for trial in row}
        groups = {trial.side.name: trial.side.group for trial in row}
        questions[question] = {
            "text": QUESTIONS[question].text,
            "answer": answered[:100],
            "sides": figures,
            "ratios": ratios(figures, groups, "pugmark", "seconds"),
            "cpu_ratios": ratios(figures, groups, "pugmark", "cpu_seconds"),
            "typed_ratios": ratios(figures, groups, "pugmark_typed", "seconds"),
            "cold_ratios": ratios(figures, groups, "pugmark", "cold_seconds"),
        }
    return questions


def ratios(figures, groups, own, figure):
    """Of each group of peers, how many times as long its best took."""
    ours = figures.get(own, {}).get(figure)
    if not ours:
        return {}
    best = {}
    for name, side in figures.items():
        group = groups[name]
        # Hashes are shown, and not compared with.
        if group != "pugmark" and name != "bitmaps_raw" and figure in side:
            best[group] = min(best.get(group, float("inf")), side[figure])
    return {group: seconds / ours for group, seconds in best.items()}
