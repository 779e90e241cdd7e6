"""What is measured: each scenario runs every tool on the same WAL, in turns, and yields
records, which say what was done and what it cost. Nothing is judged here."""

import filecmp
import itertools
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

from places import Network
from tools import Nothing

# How many segments are handled at once or ahead, wherever a tool can.
AHEAD = 8
# Milliseconds between two calls, in which a server replays a segment and what works ahead has
# the time it needs.
PAUSE = 200
# The distance over which backlogs are judged.
FAR = Network(20, tls=True)
SHOWN = (Network(0, tls=True), Network(5, tls=True), Network(20, tls=False))
SINGLE = tuple(Network(trip, tls) for trip in (0, 5, 20) for tls in (False, True))
AMAZON = "http://s3.us-east-1.amazonaws.com"


class Bench:
    """What all scenarios share."""

    def __init__(self, options, world, tools, wal, disk, memory):
        self.options, self.world, self.tools = options, world, tools
        self.wal, self.disk, self.memory = wal, disk, memory
        self.segments = sorted(path.name for path in (wal / "wal").iterdir())[: options.segments]
        self.serial = self.segments[: options.serial]
        self.buckets = 0

    def rounds(self):
        """Where and how often a backlog is worked on: where it is judged, and once over
        each of the other networks."""
        for network, count in [(FAR, self.options.rounds), *((network, 1) for network in self.options.shown)]:
            for number in range(1, count + 1):
                yield self.world.place(network), number

    def bucket(self):
        self.buckets += 1
        return f"bench-{self.buckets}"

    def cluster(self, below, ready=()):
        """A data directory as far as archiving needs one, with `ready` waiting to be
        archived. The segments are links: nobody writes to them."""
        folder = below / "pgdata"
        if folder.exists():
            shutil.rmtree(folder)
        shutil.copytree(self.wal / "pgdata", folder)
        (folder / "pg_wal/archive_status").mkdir(parents=True)
        for name in ready:
            os.link(self.wal / "wal" / name, folder / "pg_wal" / name)
            self.mark(folder, name)
        return folder

    def warm(self, names):
        """Has the segments in memory, as PostgreSQL leaves them: they were written a moment
        ago. A system that is short of memory, or tidies it, may have let them go."""
        for name in names:
            (self.wal / "wal" / name).read_bytes()

    def mark(self, folder, name):
        (folder / "pg_wal/archive_status" / f"{name}.ready").touch()

    def spool(self, below):
        folder = below / "spool"
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        return folder

    def calls(self, place, tool, job, pgdata, *words, environment=None):
        """Runs one loop of calls and says what it cost."""
        command = tool.archive() if job == "archive" else tool.restore()
        before, costs = place.stats(), place.costs()
        done = subprocess.run(
            [self.world.binaries / "wal_calls", job, pgdata, *map(str, words), *command],
            env=environment or tool.environment(),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            sys.exit(f"{job} with {tool.name} over {place.network} failed: {done.stderr[-3000:]}")
        after, now = place.stats(), place.costs()
        record = json.loads(done.stdout)
        kinds = {kind: after["kinds"][kind] - before["kinds"].get(kind, 0) for kind in after["kinds"]}
        record["requests"] = {kind: count for kind, count in kinds.items() if count}
        record["connections"] = after["connections"] - before["connections"] - 1
        record["bytes"] = {way: after[way] - before[way] for way in ("in", "out")}
        record["others_cpu"] = {name: round(now[name] - costs[name], 2) for name in now}
        record |= {"tool": tool.name, "job": job, "network": place.network.record()}
        return record

    def check_stored(self, place, tool, names):
        """All of it is there; whether it is whole shows when it is restored."""
        files = [path.rpartition("/")[2] for path in place.names(tool.bucket)]
        # A suffix follows, after a dot, and pgBackRest's checksum after a dash.
        stored = {file.partition(".")[0].partition("-")[0] for file in files}
        if missing := set(names) - stored:
            sys.exit(f"{tool.name} says that all is archived, and {min(missing)} is not there")

    def check(self, pgdata, names, tool):
        """What was delivered is what was archived."""
        for name in names:
            if not filecmp.cmp(self.wal / "wal" / name, pgdata / "pg_wal" / name, shallow=False):
                sys.exit(f"{tool.name} delivered a {name} that is not what was archived")


def single(bench):
    """One segment archived, then restored, uncompressed; each a call by itself."""
    for network in SINGLE:
        place = bench.world.place(network)
        sides = [tool for tool in bench.tools.values() if tool.plain or network.tls]
        clusters, buckets = {}, {}
        for tool in sides:
            clusters[tool.name] = (bench.cluster(bench.disk / tool.name), bench.cluster(bench.memory / tool.name))
            buckets[tool.name] = bench.bucket()
        # The first is for warming up: programs are in memory then, and Python's are compiled.
        for number, name in enumerate(bench.segments[: bench.options.calls + 1]):
            for tool in sides:
                source, target = clusters[tool.name]
                os.link(bench.wal / "wal" / name, source / "pg_wal" / name)
                bench.mark(source, name)
                tool.begin(place, buckets[tool.name], source, zstd=False)
                bench.warm([name])
                archived = bench.calls(place, tool, "archive", source)
                tool.begin(place, buckets[tool.name], target, zstd=False)
                restored = bench.calls(place, tool, "restore", target, name, 1, 0)
                bench.check(target, [name], tool)
                (target / "pg_wal" / name).unlink()
                if number:
                    yield archived | {"round": number}
                    yield restored | {"round": number}
        for bucket in buckets.values():
            place.drop(bucket)


def start(bench):
    """Processor time from a program's start to its first request, over plain HTTP."""
    history = "00000002.history"
    for number in range(bench.options.calls + 1):
        for name in ("ours", "barman"):
            tool = bench.tools[name]
            source = bench.cluster(bench.disk / name, bench.segments[:1])
            (source / "pg_wal" / history).write_text("1\t0/3000000\tno recovery target specified\n")
            for job, file in (("restore", bench.segments[0]), ("archive", history), ("archive", bench.segments[0])):
                seconds = cpu_to_first_request(tool, job, file, source)
                if number:
                    what = "history file" if file == history else "segment"
                    yield {"tool": name, "job": job, "file": what, "cpu": seconds, "round": number}


def cpu_to_first_request(tool, job, file, pgdata):
    """The server of this one does not answer: the program has done all that it does until
    then, and waits."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        tool.url, tool.bucket, tool.zstd = f"http://127.0.0.1:{listener.getsockname()[1]}", "b", False
        tool.spool, tool.ahead = None, 0
        words = tool.archive() if job == "archive" else tool.restore()
        path = {"archive": f"pg_wal/{file}", "restore": "pg_wal/RECOVERYXLOG"}[job]
        words = [word.replace("%f", file).replace("%p", path) for word in words]
        silent = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(words, cwd=pgdata, env=tool.environment(), **silent)
        try:
            sock, _ = listener.accept()
            head = b""
            while b"\r\n\r\n" not in head:
                piece = sock.recv(1 << 16)
                if not piece:
                    sys.exit(f"{tool.name} hung up before its first request")
                head += piece
            time.sleep(0.1)
            tasks = pathlib.Path(f"/proc/{process.pid}/task").glob("*/schedstat")
            return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


def requests(bench):
    """How many requests a segment costs at a store that is known by Amazon's name. Its
    host is reached by way of a proxy, which is our server."""
    place = bench.world.place(Network(0, tls=False))
    for name in ("ours", "barman"):
        tool = bench.tools[name]
        names = bench.segments[:4]
        source = bench.cluster(bench.disk / name, names)
        tool.begin(place, bench.bucket(), source, zstd=True)
        tool.url = AMAZON
        proxy = place.url
        environment = tool.environment() | {"http_proxy": proxy, "HTTP_PROXY": proxy}
        yield bench.calls(place, tool, "archive", source, environment=environment)
        target = bench.cluster(bench.memory / name)
        # In the first call a tool may find out what the archive is like.
        bench.calls(place, tool, "restore", target, names[0], 1, 0, environment=environment)
        yield bench.calls(place, tool, "restore", target, names[1], len(names) - 1, 0, environment=environment)
        bench.check(target, names, tool)
        place.drop(tool.bucket)


def floor(bench):
    """The least that a backlog costs: the encoder and TLS over the same segments, on as
    many processors at once as there are, because that makes each of them slower."""
    files = [str(bench.wal / "wal" / name) for name in bench.segments]
    folder = bench.world.certificates
    count = os.cpu_count()
    bench.warm(bench.segments)
    program = [bench.world.binaries / "wal_floor", "4", folder / "ca.pem", folder / "tls.pem", folder / "tls.key"]
    begin = time.perf_counter()
    running = [
        subprocess.Popen([*program, *part], stdout=subprocess.PIPE, text=True)
        for part in (files[start::count] for start in range(count))
        if part
    ]
    outputs = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        sys.exit("the least that a backlog costs could not be measured")
    results = [json.loads(output) for output in outputs]
    record = {key: sum(result[key] for result in results) for key in results[0]}
    return record | {"tool": "floor", "job": "archive", "seconds": time.perf_counter() - begin}


def backlog(bench):
    """A backlog of segments, compressed; tools that know only one segment at a time work
    on the first of them, since each of their calls is like the other."""
    for place, number in bench.rounds():
        network = place.network
        if network == FAR:
            yield floor(bench) | {"network": network.record(), "round": number}
        for tool, ahead in itertools.product(bench.tools.values(), (AHEAD, 0)):
            if ahead and (tool.name == "barman" or (tool.name == "ours" and not tool.archives_ahead)):
                continue
            # Without, it is not meant for a backlog.
            if not ahead and tool.name == "pgbackrest" or not (tool.plain or network.tls):
                continue
            names = bench.segments if ahead else bench.serial
            source = bench.cluster(bench.disk / tool.name, names)
            tool.begin(place, bench.bucket(), source, True, bench.spool(bench.disk / tool.name), ahead)
            bench.warm(names)
            record = bench.calls(place, tool, "archive", source)
            bench.check_stored(place, tool, names)
            place.drop(tool.bucket)
            yield record | {"ahead": ahead, "round": number, "segments": len(names)}


def filled(bench, tool):
    """A bucket with all segments, as `tool` archives a backlog; Barman reads what ours
    archived."""
    place = bench.world.place(Network(0, tls=True))
    source = bench.cluster(bench.disk / tool.name, bench.segments)
    tool.begin(place, bench.bucket(), source, True, bench.spool(bench.disk / tool.name), AHEAD)
    bench.calls(place, tool, "archive", source)
    return tool.bucket


def archives(bench):
    """The bucket that each tool restores from."""
    ours = filled(bench, bench.tools["ours"])
    return {"ours": ours, "barman": ours, "pgbackrest": filled(bench, bench.tools["pgbackrest"])}


def restore(bench):
    """Segments asked for one after the other, as fast as they come. Barman's batches are
    alike, so it restores the first of them only, also with --parallel."""
    buckets = archives(bench)
    # Whole ones: it fetches them whole.
    batches = bench.segments[: -(-len(bench.serial) // AHEAD) * AHEAD]
    sides = [
        ("ours", AHEAD, bench.segments),
        ("barman", AHEAD, batches),
        ("pgbackrest", AHEAD, bench.segments),
        ("ours", 0, bench.serial),
        ("barman", 0, bench.serial),
    ]
    for place, number in bench.rounds():
        for name, ahead, names in sides:
            tool = bench.tools[name]
            if not (tool.plain or place.network.tls):
                continue
            target = bench.cluster(bench.memory / name)
            tool.begin(place, buckets[name], target, True, bench.spool(bench.memory / name), ahead)
            record = bench.calls(place, tool, "restore", target, names[0], len(names), 0)
            bench.check(target, names, tool)
            shutil.rmtree(bench.memory / name)
            yield record | {"ahead": ahead, "round": number, "segments": len(names)}
    for bucket in set(buckets.values()):
        place.drop(bucket)


def latency(bench):
    """A call for a segment that was fetched ahead: when the spool is on the file system
    of the destination, and when it is not."""
    buckets = archives(bench)
    place = bench.world.place(FAR)
    names = bench.segments[: bench.options.latency]
    for way in ("rename", "copy"):
        for tool in bench.tools.values():
            target = bench.cluster(bench.memory / tool.name)
            spool = bench.spool((bench.memory if way == "rename" else bench.disk) / tool.name)
            tool.begin(place, buckets[tool.name], target, True, spool, AHEAD)
            record = bench.calls(place, tool, "restore", target, names[0], len(names), PAUSE)
            bench.check(target, names, tool)
            shutil.rmtree(bench.memory / tool.name)
            yield record | {"way": way}
    nothing = Nothing(bench.disk / "homes/nothing", bench.world.certificates)
    target = bench.cluster(bench.memory / nothing.name)
    yield bench.calls(place, nothing, "restore", target, names[0], len(names), PAUSE) | {"way": "nothing"}
    for bucket in set(buckets.values()):
        place.drop(bucket)


SCENARIOS = {
    "single": single,
    "start": start,
    "requests": requests,
    "backlog": backlog,
    "restore": restore,
    "latency": latency,
}
