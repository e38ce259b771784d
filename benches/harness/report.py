"""The figures as Markdown, ratios first, and as JSON."""

import json

from harness.questions import QUESTIONS

MIB = 1 << 20


def write(figures, out):
    out.mkdir(parents=True, exist_ok=True)
    (out / "comparison.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    text = markdown(figures)
    (out / "comparison.md").write_text(text, encoding="utf-8")
    return text


def publish(text, page, marks="figures"):
    """Puts the tables between the marks of a page."""
    begin, end = f"<!-- {marks} -->\n", f"<!-- end of {marks} -->"
    before, rest = page.read_text(encoding="utf-8").split(begin)
    _, after = rest.split(end)
    page.write_text(f"{before}{begin}\n{text}{end}{after}", encoding="utf-8")


def markdown(figures):
    machine = figures["machine"]
    head = (
        f"{figures['events']:,} events of {figures['users']:,} users over {figures['days']} days, "
        f"seed {figures['seed']}; {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_bytes'] / (1 << 30):.0f} GiB; {figures['threads']} threads; "
        f"median of {figures['repetitions']}, interleaved, hot; ClickHouse "
        f"{figures['versions']['clickhouse']} (chdb), Pugmark {figures['versions']['pugmark']}; "
        f"load {machine['load_before']:.1f} before, {machine['load_after']:.1f} after."
    )
    return "\n".join([head, "", *_questions(figures), "", *_storage(figures), "",
                      *_chosen(figures)]) + "\n"


def _questions(figures):
    layouts = list(figures["load"]["clickhouse"])
    lines = [
        "| question | ClickHouse / Pugmark | CPU ratio | Pugmark ms | "
        + " | ".join(f"ClickHouse {layout} ms" for layout in layouts)
        + " | heap peak MiB | bytes touched MiB | plain stream of them ms |",
        "|---|--:|--:|--:|" + "--:|" * len(layouts) + "--:|--:|--:|",
    ]
    for name, question in figures["questions"].items():
        memory = question["pugmark"]["memory"]
        peers = question["clickhouse"]
        lines.append(
            f"| {QUESTIONS[name][0]} | **{question['ratio']:.1f}** | {question['cpu_ratio']:.1f} "
            f"| {ms(question['pugmark']['seconds'])} | "
            + " | ".join(ms(peers[layout]["seconds"]) for layout in layouts)
            + f" | {memory['peak_bytes'] / MIB:.1f} | {memory['touched_bytes'] / MIB:.1f} "
            f"| {ms(memory['stream_seconds'])} |")
    return lines


def _storage(figures):
    events, load = figures["events"], figures["load"]
    pugmark = load["pugmark"]
    lines = [
        "| | bytes an event | size / Pugmark | load, events a second | load time / Pugmark "
        "| load peak MiB | merging s |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    rows = [("Pugmark (all files: indexes, ids, log)", pugmark)]
    rows += [(f"ClickHouse {layout}", one) for layout, one in load["clickhouse"].items()]
    for name, one in rows:
        lines.append(
            f"| {name} | {one['bytes'] / events:.2f} | {one['bytes'] / pugmark['bytes']:.2f} "
            f"| {events / one['seconds']:,.0f} | {one['seconds'] / pugmark['seconds']:.2f} "
            f"| {one['peak_rss_bytes'] / MIB:.0f} | {one['merge_seconds']:.1f} |")
    parquet = figures["parquet_bytes"]
    lines.append(f"| Parquet, zstd | {parquet / events:.2f} | {parquet / pugmark['bytes']:.2f} "
                 "| | | | |")
    lines += ["", f"Opening the store: {ms(figures['open']['seconds'])} ms, "
              f"{figures['open']['segments']} segments; ids {figures['open']['id_bytes'] / events:.2f} "
              f"bytes an event. Memory streams at {figures['stream_bytes_per_second'] / 1e9:.1f} GB/s "
              f"on {figures['threads']} threads."]
    return lines


def _chosen(figures):
    lines = ["ClickHouse's formulation, the fastest of those tried in this run:", ""]
    for name, question in figures["questions"].items():
        chosen = ", ".join(f"{layout}: {peer['formulation']}"
                           for layout, peer in question["clickhouse"].items())
        lines.append(f"* {name}: {chosen}")
    return lines


def ms(seconds):
    millis = seconds * 1e3
    return f"{millis:.0f}" if millis >= 100 else f"{millis:.1f}" if millis >= 1 else f"{millis:.2f}"
