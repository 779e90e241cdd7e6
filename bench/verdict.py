"""What the project promises about WAL, line by line, and what the records say to it."""

import json
import sys
from dataclasses import asdict, dataclass
from statistics import median

# Bytes of resident memory that a call may take at most: 24 MB.
MEMORY = 24e6
FAR = {"round_trip_ms": 20, "tls": True}
NEAR = {"round_trip_ms": 0, "tls": False}
NEAR_TLS = {"round_trip_ms": 0, "tls": True}


@dataclass
class Line:
    """A promise, or if it is not `judged`, something worth knowing beside one. `value` is
    none where nothing was measured, and `note` says why."""

    scenario: str
    text: str
    bound: float
    # Whether the bound is the least that is wanted, or the most that is.
    least: bool
    unit: str
    value: float | None
    note: str = ""
    judged: bool = True

    @property
    def kept(self):
        if not self.judged:
            return True
        if self.value is None:
            return False
        return self.value >= self.bound if self.least else self.value <= self.bound

    @property
    def wanted(self):
        return f"{'at least' if self.least else 'at most'} {self.bound:g}{self.unit}"

    @property
    def verdict(self):
        if not self.judged:
            return "shown"
        return "kept" if self.kept else "MISSED"

    @property
    def found(self):
        return self.note or ("nothing measured" if self.value is None else f"{self.value:.3g}{self.unit}")

    def __str__(self):
        wanted = f", {self.wanted}" if self.judged else ""
        return f"{self.verdict:<6}  {self.text}: {self.found}{wanted}"

    def record(self):
        return asdict(self) | {"kept": self.kept, "found": self.found, "wanted": self.wanted, "verdict": self.verdict}


def conclude(results, lines, options):
    """Prints the verdicts, keeps all that was found if a file is named for it, and ends with 1
    if a promise is missed."""
    results["lines"] = [line.record() for line in lines]
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    print()
    for line in lines:
        print(line)
    if options.quick:
        print("a quick run: nothing is judged")
    sys.exit(0 if options.quick or all(line.kept for line in lines) else 1)


def pick(records, **wanted):
    return [record for record in records if all(record.get(key) == value for key, value in wanted.items())]


def middle(records, value):
    """The median of what `value` makes of each record; none if there is none."""
    values = [value(record) for record in records]
    return median(values) if values else None


def ratio(more, less):
    return None if more is None or not less else more / less


def wall(record):
    return record["calls"][0]


def cpu(record):
    return record["cpu"]


def rate(record):
    return record["segments"] / record["seconds"]


def cpu_each(record):
    return record["cpu"] / record["segments"]


def floor_each(record):
    return (record["encode"] + record["tls"]) / record["files"]


def judge(results, archives_ahead):
    """All promises of the scenarios that were run. `archives_ahead` is whether our
    archiver has `--parallel`."""
    judges = {
        "single": judge_single,
        "start": judge_start,
        "requests": judge_requests,
        "backlog": lambda records: judge_backlog(records, archives_ahead),
        "restore": judge_restore,
        "latency": judge_latency,
    }
    return [line for name, records in results.items() for line in judges[name](records)]


def judge_single(records):
    for job in ("archive", "restore"):
        runs = {
            (tool, tls): pick(records, job=job, tool=tool, network=NEAR_TLS if tls else NEAR)
            for tool in ("ours", "barman", "pgbackrest")
            for tls in (False, True)
        }
        for what, value, bound in (("CPU", cpu, 15), ("wall", wall, 8)):
            ours, theirs = middle(runs["ours", False], value), middle(runs["barman", False], value)
            text = f"one {job}, uncompressed, 0 ms, plain: {what} of Barman / ours"
            yield Line("single", text, bound, True, "", ratio(theirs, ours))
            # Without TLS the signature covers a SHA-256 of all that is sent: see what
            # the rest takes.
            ours, theirs = middle(runs["ours", True], value), middle(runs["barman", True], value)
            text = f"one {job}, uncompressed, 0 ms, TLS: {what} of Barman / ours"
            yield Line("single", text, bound, True, "", ratio(theirs, ours))
        # The promise is about its push; what its get does is shown.
        push = pick(records, job="archive", tool="pgbackrest", network=NEAR_TLS)
        rivals = {"push": push} if job == "archive" else {"push": push, "get": runs["pgbackrest", True]}
        for rival, theirs in rivals.items():
            for what, value in (("CPU", cpu), ("wall", wall)):
                times = ratio(middle(theirs, value), middle(runs["ours", True], value))
                text = f"one {job}, uncompressed, 0 ms, TLS: {what} of pgBackRest's {rival} / ours"
                yield Line("single", text, 1, True, "", times, judged=rival == "push")
        # Whatever the distance: it is the same work.
        peaks = [record["peak_kib"] * 1024 for record in pick(records, job=job, tool="ours")]
        text = f"one {job}, uncompressed: most memory of ours"
        yield Line("single", text, MEMORY / 1e6, False, " MB", max(peaks) / 1e6 if peaks else None)


def judge_start(records):
    for job, file in (("restore", "segment"), ("archive", "history file")):
        seconds = middle(pick(records, tool="ours", job=job, file=file), cpu)
        text = f"{job} of a {file}: CPU of ours to the first request"
        yield Line("start", text, 5, False, " ms", None if seconds is None else seconds * 1000)


def judge_requests(records):
    for job in ("archive", "restore"):
        for record in pick(records, job=job, tool="ours"):
            count = sum(record["requests"].values()) / len(record["calls"])
            yield Line("requests", f"{job}: requests for a segment at Amazon's name", 1, False, "", count)


def judge_backlog(records, archives_ahead):
    records = pick(records, network=FAR)
    if archives_ahead:
        note, ours = "", pick(records, tool="ours", ahead=8)
    else:
        note, ours = "not built yet: --parallel of the archiver", []
    barman, pgbackrest = pick(records, tool="barman"), pick(records, tool="pgbackrest")
    where = "backlog, zstd, 20 ms, TLS"
    value = ratio(middle(ours, rate), middle(barman, rate))
    yield Line("backlog", f"{where}: rate of ours / Barman's", 20, True, "", value, note)
    value = ratio(middle(ours, rate), middle(pgbackrest, rate))
    yield Line("backlog", f"{where}: rate of ours / pgBackRest's, asynchronous", 3, True, "", value, note)
    floor = pick(records, tool="floor")
    value = ratio(middle(ours, cpu_each), middle(floor, floor_each))
    yield Line("backlog", f"{where}: CPU of ours / encoder and TLS alone", 1.3, False, "", value, note)
    # The store and the distance take processors, too, so this is not judged.
    value = ratio(middle(floor, lambda record: record["files"] / record["seconds"]), middle(ours, rate))
    yield Line("backlog", f"{where}: rate of encoder and TLS alone / ours", 1, False, "", value, note, judged=False)


def judge_restore(records):
    records = pick(records, network=FAR)
    ours = middle(pick(records, tool="ours", ahead=8), rate)
    for ahead, name, bound in ((0, "Barman's, one at a time", 20), (8, "Barman's with --parallel 8", 5)):
        theirs = middle(pick(records, tool="barman", ahead=ahead), rate)
        text = f"restore, zstd, 20 ms, TLS: rate of ours / {name}"
        yield Line("restore", text, bound, True, "", ratio(ours, theirs))
    theirs = middle(pick(records, tool="pgbackrest"), rate)
    text = "restore, zstd, 20 ms, TLS: rate of ours / pgBackRest's, asynchronous"
    yield Line("restore", text, 1, True, "", ratio(ours, theirs), judged=False)


def judge_latency(records):
    for way, bound in (("rename", 3), ("copy", 15)):
        seconds = middle(pick(records, tool="ours", way=way), prefetched)
        text = f"a call for a segment that was fetched ahead, by {way}"
        yield Line("latency", text, bound, False, " ms", None if seconds is None else seconds * 1000)
    seconds = middle(pick(records, tool="nothing"), prefetched)
    text = "a call of a program that does nothing"
    yield Line("latency", text, 3, False, " ms", None if seconds is None else seconds * 1000, judged=False)


def prefetched(record):
    """The middle of all calls but the first, which cannot have been fetched ahead."""
    return median(record["calls"][1:])
