"""WAL of a real PostgreSQL, archived and restored by our tools, Barman's and
pgBackRest's in the same run: what it costs each of them, and whether ours keep what is
promised. Started by wal.sh, which knows where everything is.
"""

import argparse
import datetime
import os
import pathlib
import platform
import sys

import verdict
from measures import SCENARIOS, SHOWN, Bench
from places import World
from tools import Barman, Ours, PgBackRest


def arguments():
    parser = argparse.ArgumentParser(prog="wal.sh", description=__doc__)
    internal = parser.add_argument_group("given by wal.sh")
    for name in ("binaries", "barman", "certificates", "wal", "disk", "memory"):
        internal.add_argument(f"--{name}", type=pathlib.Path, required=True)
    internal.add_argument("--revision", required=True)
    parser.add_argument("--only", default="", help=f"some of the scenarios: {','.join(SCENARIOS)}")
    parser.add_argument("--segments", type=int, default=300, help="segments of a backlog (300)")
    parser.add_argument(
        "--serial", type=int, default=64, help="how many of them where each call or batch is like the other (64)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of a backlog (3)")
    parser.add_argument("--calls", type=int, default=10, help="single calls of each tool (10)")
    parser.add_argument("--latency", type=int, default=24, help="calls that are timed with a pause between (24)")
    parser.add_argument("--quick", action="store_true", help="little of everything, and nothing is judged")
    parser.add_argument("--out", type=pathlib.Path, help="JSON file for all that was measured")
    parser.set_defaults(shown=SHOWN)
    options = parser.parse_args()
    unknown = set(filter(None, options.only.split(","))) - SCENARIOS.keys()
    if unknown:
        parser.error(f"there is no scenario {', '.join(sorted(unknown))}")
    if options.quick:
        options.segments, options.serial, options.rounds, options.calls, options.latency = 8, 2, 1, 1, 4
        options.shown = ()
    options.serial = min(options.serial, options.segments)
    return options


def machine():
    """What the times were taken on."""
    cpu = "unknown processor"
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": cpu, "processors": os.cpu_count(), "memory": memory, "kernel": ".".join(platform.release().split(".")[:2])}


def shown(record):
    """A record in a line, for whoever waits."""
    words = [f"  {record['tool']:<10} {record['job']:<7}"]
    if "network" in record:
        words.append(f"{record['network']['round_trip_ms']:>2} ms {'TLS  ' if record['network']['tls'] else 'plain'}")
    words += [f"{key} {record[key]}" for key in ("file", "ahead", "way", "round") if key in record]
    if record["tool"] == "floor":
        each = verdict.floor_each(record)
        words.append(f"{each * 1000:.1f} ms of CPU each, ratio {record['plain'] / record['sent']:.2f}")
    elif "calls" in record:
        count = len(record["calls"])
        middle = sorted(record["calls"])[count // 2]
        words.append(
            f"{count / record['seconds']:7.2f}/s, call {middle * 1000:7.1f} ms, "
            f"CPU {record['cpu'] / count * 1000:6.1f} ms each, peak {record['peak_kib'] * 1024 / 1e6:.0f} MB, "
            f"others' CPU {record['others_cpu']}, {record['requests']}"
        )
    else:
        words.append(f"CPU {record['cpu'] * 1000:.2f} ms")
    return " ".join(words)


def main():
    options = arguments()
    with World(options.binaries, options.certificates) as world:
        homes = options.disk / "homes"
        sides = [
            Ours(homes / "ours", options.certificates, options.binaries),
            Barman(homes / "barman", options.certificates, options.barman),
            PgBackRest(homes / "pgbackrest", options.certificates),
        ]
        tools = {tool.name: tool for tool in sides}
        bench = Bench(options, world, tools, options.wal, options.disk, options.memory)
        if len(bench.segments) < options.segments:
            sys.exit(f"{options.wal} has {len(bench.segments)} segments only")
        results = {
            "date": datetime.date.today().isoformat(),
            "revision": options.revision,
            "machine": machine(),
            "versions": {name: tool.version() for name, tool in tools.items()},
            "options": {name: getattr(options, name) for name in ("segments", "serial", "rounds", "calls", "quick")},
            "load_before": os.getloadavg(),
            "scenarios": {},
        }
        for name, scenario in SCENARIOS.items():
            if options.only and name not in options.only.split(","):
                continue
            print(f"\n{name}: {scenario.__doc__}")
            records = results["scenarios"][name] = []
            for record in scenario(bench):
                records.append(record)
                print(shown(record), flush=True)
        results["load_after"] = os.getloadavg()
    lines = verdict.judge(results["scenarios"], tools["ours"].archives_ahead)
    verdict.conclude(results, lines, options)


if __name__ == "__main__":
    main()
