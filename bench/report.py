#!/usr/bin/env python3
"""Makes docs/performance.md and its plots from what bench/wal.sh measured.

usage: report.py RESULTS.json [PAGE.md]

The words are those of page.md beside this file, in which {{NAME}} stands for a table; the
plots are SVG files in the folder beside the page that has its name. No figure comes from
anywhere but RESULTS.json, which must be those of a whole run.
"""

import itertools
import json
import pathlib
import re
import sys
from html import escape

from verdict import cpu_each, floor_each, middle, pick, prefetched, rate, wall

TITLES = {"ours": "ours", "barman": "Barman", "pgbackrest": "pgBackRest"}
COLOURS = {"ours": "#1b6ca8", "barman": "#b8b8b8", "pgbackrest": "#d98c2b"}
AHEAD = 8
HERE = pathlib.Path(__file__).resolve().parent


def number(value, digits=3):
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.{digits}g}"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


# Plots


def bars(title, unit, groups):
    """Groups of bars: a list of (name of the group, [(side, value)])."""
    left, top, height, bar, gap = 20, 60, 220, 46, 30
    most = max(value for _, group in groups for _, value in group)
    x, shapes = left, []
    for name, group in groups:
        begin = x
        for side, value in group:
            tall = max(height * value / most, 1)
            y = top + height - tall
            shapes.append(f'<rect x="{x}" y="{y:.1f}" width="{bar - 6}" height="{tall:.1f}" fill="{COLOURS[side]}"/>')
            shapes.append(text(x + (bar - 6) / 2, y - 5, number(value), "middle", 12))
            x += bar
        shapes.append(text((begin + x - 6) / 2, top + height + 18, name, "middle", 12))
        x += gap
    heading = f"{title} ({unit})"
    # A character of the heading takes about half its height of 14.
    width, legend = max(x - gap + left, 2 * left + 7 * len(heading)), []
    sides = [side for side in TITLES if any(side == one for _, group in groups for one, _ in group)]
    for place, side in enumerate(sides):
        at = left + place * 110
        legend.append(f'<rect x="{at}" y="32" width="11" height="11" fill="{COLOURS[side]}"/>')
        legend.append(text(at + 16, 42, TITLES[side], "start", 12))
    line = f'<line x1="{left}" y1="{top + height}" x2="{width - left}" y2="{top + height}" stroke="#555"/>'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top + height + 30}" '
            'font-family="sans-serif">',
            '<rect width="100%" height="100%" fill="white"/>',
            text(left, 20, heading, "start", 14),
            *legend,
            *shapes,
            line,
            "</svg>\n",
        ]
    )


def text(x, y, words, anchor, size):
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="#222">{escape(words)}</text>'


# What the page shows


def network(trip, tls):
    return {"round_trip_ms": trip, "tls": tls}


def words(trip, tls):
    return f"{trip} ms, {'TLS' if tls else 'plain'}"


def setting(results):
    options = results["options"]
    quick = " **A quick run, whose figures say nothing.**" if options["quick"] else ""
    return (
        f"{taken(results)} Backlogs of {options['segments']} segments (the first {options['serial']} where each call, "
        f"or batch, is like the other), {options['rounds']} rounds; {options['calls']} single calls. Medians.{quick}"
    )


def taken(results):
    """When, of what and where a benchmark was made."""
    machine, versions = results["machine"], results["versions"]
    load = f"{results['load_before'][0]:.1f} before and {results['load_after'][0]:.1f} after"
    return (
        f"Taken on {results['date']} at revision {results['revision']}: {machine['processors']} processors "
        f"({machine['cpu']}), {machine['memory'] / 2**30:.0f} GiB, Linux {machine['kernel']}, load {load}. "
        f"Barman {versions['barman']}, pgBackRest {versions['pgbackrest']}."
    )


def verdict(results):
    marks = {"kept": "yes", "MISSED": "**no**", "shown": ""}
    rows = [
        (line["text"], line["found"], line["wanted"] if line["judged"] else "", marks[line["verdict"]])
        for line in results["lines"]
    ]
    return table(["", "measured", "wanted", "kept"], rows)


def single(results):
    records, rows = results["scenarios"]["single"], []
    for tls in (False, True):
        for trip in (0, 5, 20):
            for job in ("archive", "restore"):
                for side, title in TITLES.items():
                    runs = pick(records, job=job, tool=side, network=network(trip, tls))
                    if not runs:
                        continue
                    requests = middle(runs, lambda run: sum(run["requests"].values()))
                    peak = middle(runs, lambda run: run["peak_kib"] * 1024 / 1e6)
                    values = [middle(runs, wall) * 1000, middle(runs, lambda run: run["cpu"] * 1000), peak]
                    rows.append((words(trip, tls), job, title, *map(number, values), number(requests)))
    return table(["network", "call", "", "wall, ms", "CPU, ms", "memory, MB", "requests"], rows)


def start(results):
    rows = []
    for side in ("ours", "barman"):
        for job, file in (("restore", "segment"), ("archive", "history file"), ("archive", "segment")):
            runs = pick(results["scenarios"]["start"], tool=side, job=job, file=file)
            rows.append((f"{job} of a {file}", TITLES[side], number(middle(runs, lambda run: run["cpu"] * 1000))))
    return table(["call", "", "CPU to the first request, ms"], rows)


def way(side, ahead):
    """How a tool worked, in words."""
    if not ahead:
        return "one at a time"
    return f"asynchronous, {ahead} processes" if side == "pgbackrest" else f"--parallel {ahead}"


def rates(records, job):
    """Rows of a backlog, those over one network together."""
    rows = []
    for trip, tls in ((0, True), (5, True), (20, True), (20, False)):
        for side, title in TITLES.items():
            for ahead in (AHEAD, 0):
                runs = pick(records, tool=side, job=job, ahead=ahead, network=network(trip, tls))
                if not runs:
                    continue
                values = (
                    middle(runs, rate),
                    middle(runs, cpu_each) * 1000,
                    middle(runs, lambda run: sum(run["requests"].values()) / run["segments"]),
                    middle(runs, lambda run: run["others_cpu"]["server"] / run["segments"] * 1000),
                    middle(runs, lambda run: run["others_cpu"]["proxy"] / run["segments"] * 1000),
                )
                rows.append((words(trip, tls), title, way(side, ahead), *map(number, values)))
    head = ["network", "", "", "segments/s", "CPU each, ms", "requests each", "server's CPU, ms", "proxy's CPU, ms"]
    return table(head, rows)


def floors(results):
    runs = pick(results["scenarios"]["backlog"], tool="floor")
    encode = middle(runs, lambda run: run["encode"] / run["files"] * 1000)
    tls = middle(runs, lambda run: run["tls"] / run["files"] * 1000)
    ratio = runs[0]["plain"] / runs[0]["sent"]
    speed = middle(runs, lambda run: run["files"] / run["seconds"])
    return (
        f"A segment takes the encoder alone {number(encode)} ms of processor time and TLS {number(tls)} ms, together "
        f"{number(middle(runs, floor_each) * 1000)} ms; with all processors {number(speed)} segments a second, if "
        f"nothing else ran. It shrinks to 1/{number(ratio)}."
    )


def latency(results):
    rows = []
    for record in results["scenarios"]["latency"]:
        calls = record["calls"][1:]
        values = (min(calls), prefetched(record), max(calls))
        side = record["tool"]
        who = (record["way"], TITLES[side]) if side in TITLES else ("", "a program that does nothing")
        rows.append((*who, *(number(value * 1000) for value in values)))
    return table(["by", "", "least, ms", "median, ms", "most, ms"], rows)


BLOCKS = {
    "setting": setting,
    "verdict": verdict,
    "single": single,
    "start": start,
    "floor": floors,
    "backlog": lambda results: rates(results["scenarios"]["backlog"], "archive"),
    "restore": lambda results: rates(results["scenarios"]["restore"], "restore"),
    "latency": latency,
}
SCENARIOS = {"single", "start", "requests", "backlog", "restore", "latency"}


def plots(results):
    """File names and SVG texts."""
    scenarios = results["scenarios"]
    for what, value in (("CPU", lambda run: run["cpu"] * 1000), ("wall", lambda run: wall(run) * 1000)):
        groups = []
        for job, tls in itertools.product(("archive", "restore"), (False, True)):
            near = pick(scenarios["single"], job=job, network=network(0, tls))
            runs = {side: pick(near, tool=side) for side in TITLES}
            group = [(side, middle(records, value)) for side, records in runs.items() if records]
            groups.append((f"{job}, {'TLS' if tls else 'plain'}", group))
        svg = bars(f"One call, uncompressed, no distance: {what}", "ms, less is better", groups)
        yield f"single-{what.lower()}.svg", svg
    for name, job, title in (
        ("backlog", "archive", f"Archiving a backlog, zstd, TLS, {AHEAD} at once"),
        ("restore", "restore", f"Restoring, zstd, TLS, {AHEAD} ahead"),
    ):
        groups = []
        for trip in (0, 5, 20):
            group = []
            for side in TITLES:
                runs = pick(scenarios[name], job=job, tool=side, network=network(trip, True))
                # The best way a tool has.
                best = pick(runs, ahead=AHEAD) or runs
                if best:
                    group.append((side, middle(best, rate)))
            if group:
                groups.append((f"{trip} ms", group))
        yield f"{name}.svg", bars(title, "segments a second, more is better", groups)


def arguments(usage):
    """The results that the command line names, and the page, if it names one."""
    if len(sys.argv) not in (2, 3):
        sys.exit(usage)
    return json.loads(pathlib.Path(sys.argv[1]).read_text()), pathlib.Path(sys.argv[2]) if len(sys.argv) == 3 else None


def fill(name, blocks, results, page):
    """Puts what the blocks make of the results into the words of the page `name` beside this
    file."""
    words = (HERE / name).read_text()
    page.write_text(re.sub(r"{{(\w+)}}", lambda found: blocks[found[1]](results), words))


def main():
    results, page = arguments(__doc__)
    page = page or HERE.parent / "docs/performance.md"
    if missing := SCENARIOS - results["scenarios"].keys():
        sys.exit(f"{sys.argv[1]} has nothing on {', '.join(sorted(missing))}")
    fill("page.md", BLOCKS, results, page)
    folder = page.with_suffix("")
    folder.mkdir(exist_ok=True)
    for name, svg in plots(results):
        (folder / name).write_text(svg)


if __name__ == "__main__":
    main()
