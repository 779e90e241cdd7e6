#!/usr/bin/env python3
"""Makes docs/performance-base.md from what bench/base.sh measured.

usage: base_report.py RESULTS.json [PAGE.md]

The words are those of base_page.md beside this file, in which {{NAME}} stands for a table.
"""

from base_verdict import wall
from report import HERE, TITLES, arguments, fill, number, table, taken
from verdict import cpu, middle, pick


def setting(results):
    options = results["options"]
    sizes = " and ".join(f"{int(size) / 1000:g} GB" for size in options["sizes"].split(","))
    return f"{taken(results)} Clusters of {sizes}, {options['rounds']} rounds. Medians."


def verdict(results):
    marks = {"kept": "yes", "MISSED": "**no**"}
    rows = [
        (line["text"], line["found"], line["wanted"], marks[line["verdict"]])
        for line in results["lines"]
        if line["judged"]
    ]
    return table(["", "measured", "wanted", "kept"], rows)


def cases(results):
    """The records of each size and codec."""
    records = results["records"]
    for size in sorted({record["size"] for record in records}):
        of_size = pick(records, size=size)
        for codec in dict.fromkeys(record["codec"] for record in of_size):
            yield (f"{size / 1000:g} GB", codec), pick(of_size, codec=codec)


def peak(records):
    peaks = [record["peak_kib"] / 1024 for record in records]
    return number(max(peaks, default=None))


def row(records, **wanted):
    return [number(middle(pick(records, **wanted), value)) for value in (wall, cpu)]


def backups(results):
    rows = []
    for what, records in cases(results):
        some = pick(records, job="backup")
        for tool, title in TITLES.items():
            of_tool = pick(some, tool=tool)
            for how in dict.fromkeys(record.get("how") for record in of_tool):
                runs = pick(of_tool, how=how) if how else of_tool
                rows.append((*what, f"{title}, {how}" if how else title, *row(runs), peak(runs)))
        for tool, title in (("floor", "`tar` and the codec alone"), ("upload", "upload alone")):
            if runs := pick(some, tool=tool):
                seconds = number(middle(runs, wall))
                spent = number(middle(runs, cpu)) if "cpu" in runs[0] else ""
                rows.append((*what, title, seconds, spent, ""))
    return table(["cluster", "codec", "", "wall, s", "CPU, s", "memory, MiB"], rows)


def restores(results):
    rows = []
    for what, records in cases(results):
        for of, whose in (("ours", "ours"), ("barman", "Barman's"), ("pgbackrest", "pgBackRest's")):
            of_archive = pick(records, of=of)
            for tool, title in TITLES.items():
                for how, words in (("sync", ", synced"), ("no sync", "")):
                    if runs := pick(of_archive, job="restore", tool=tool, how=how):
                        rows.append((*what, whose, title + words, *row(runs), peak(runs)))
            if runs := pick(of_archive, job="verify"):
                rows.append((*what, whose, "ours, `barman-cloud-verify`", *row(runs), peak(runs)))
    return table(["cluster", "codec", "archives", "", "wall, s", "CPU, s", "memory, MiB"], rows)


BLOCKS = {"setting": setting, "verdict": verdict, "backups": backups, "restores": restores}


def main():
    results, page = arguments(__doc__)
    fill("base_page.md", BLOCKS, results, page or HERE.parent / "docs/performance-base.md")


if __name__ == "__main__":
    main()
