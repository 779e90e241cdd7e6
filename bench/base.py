"""Base backups taken and restored by our tools, Barman's and pgBackRest's in the same run:
what it costs each of them, and whether ours keep what is promised. Started by base.sh,
which knows where everything is.
"""

import argparse
import datetime
import hashlib
import http.client
import os
import pathlib
import shutil
import ssl
import subprocess
import sys
import threading
import time

import base_verdict
import verdict
from base_tools import BARMAN_LEVELS, CODECS, LEVELS, PGBACKREST, BarmanBase, OurBase, PgBackRestBase, Server
from places import Network, World
from wal import machine

NEAR = Network(0, tls=True)
# Bytes of a part of the plain upload: what our tools send, too.
PART = 10 << 20


def arguments():
    parser = argparse.ArgumentParser(prog="base.sh", description=__doc__)
    internal = parser.add_argument_group("given by base.sh")
    for name in ("binaries", "barman", "certificates", "disk"):
        internal.add_argument(f"--{name}", type=pathlib.Path, required=True)
    internal.add_argument("--cluster", type=pathlib.Path, action="append", required=True)
    internal.add_argument("--revision", required=True)
    parser.add_argument("--sizes", default="1000,5000", help="clusters, in million bytes (1000,5000)")
    parser.add_argument("--codecs", default=",".join(CODECS), help=f"some of {','.join(CODECS)}")
    parser.add_argument(
        "--large", default="none,lz4,zstd", help="those for clusters of more than 2000 million bytes (none,lz4,zstd)"
    )
    parser.add_argument("--rounds", type=int, default=2, help="rounds of each; figures are medians (2)")
    parser.add_argument("--without", default="", help="leave out some of barman,pgbackrest,floors,restore")
    parser.add_argument("--quick", action="store_true", help="nothing is judged")
    parser.add_argument("--out", type=pathlib.Path, help="JSON file for all that was measured")
    options = parser.parse_args()
    options.without = set(filter(None, options.without.split(",")))
    return options


class Bench:
    """What all measurements share."""

    def __init__(self, options, world):
        self.options, self.world, self.place = options, world, world.place(NEAR)
        homes = options.disk / "homes"
        self.ours = OurBase(homes / "ours", options.certificates, options.binaries)
        self.barman = BarmanBase(homes / "barman", options.certificates, options.barman)
        self.pgbackrest = PgBackRestBase(homes / "pgbackrest", options.certificates)
        self.buckets, self.targets, self.records = 0, 0, []
        self.restored = options.disk / "restored"
        self.restored.mkdir(mode=0o700)
        # Folders in it are then made in different places of the disk.
        subprocess.run(["chattr", "+T", self.restored], check=False, stderr=subprocess.DEVNULL)

    def bucket(self):
        self.buckets += 1
        return f"base-{self.buckets}"

    def target(self):
        """A new folder, of a name that was never used. ext4 looks for long for an inode where many
        were deleted in the last five minutes, which nobody's restore to a new disk has to."""
        self.targets += 1
        target = self.restored / f"target-{self.targets}"
        target.mkdir(mode=0o700)
        # What an earlier one left to be written would be paid for by this one.
        os.sync()
        return target

    def has(self, tool):
        return tool not in self.options.without

    def run(self, command, environment, codes=(0,), **facts):
        """Runs a program to its end, which is one of these exit codes, and records what it cost,
        with all its processes."""
        before, costs = self.place.stats(), self.place.costs()
        begin = time.perf_counter()
        log = self.options.disk / "stderr"
        with log.open("wb") as errors:
            process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
            _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in codes:
            sys.exit(f"{' '.join(command)} ended with {process.returncode}: {log.read_text()[-3000:]}")
        after, now = self.place.stats(), self.place.costs()
        return self.keep(
            facts
            | {
                "seconds": seconds,
                "cpu": usage.ru_utime + usage.ru_stime,
                "peak_kib": usage.ru_maxrss,
                "bytes": {way: after[way] - before[way] for way in ("in", "out")},
                "server_cpu": now["server"] - costs["server"],
            }
        )

    def keep(self, record):
        self.records.append(record)
        words = [f"{key} {value}" for key, value in record.items() if key in ("job", "tool", "codec", "size", "how")]
        words.append(f"{record['seconds']:.2f} s")
        if "cpu" in record:
            words.append(f"CPU {record['cpu']:.2f} s")
        if "peak_kib" in record:
            words.append(f"peak {record['peak_kib'] / 1024:.0f} MiB, server's CPU {record['server_cpu']:.2f} s")
            words.append(f"in {record['bytes']['in'] / 1e6:.0f} MB, out {record['bytes']['out'] / 1e6:.0f} MB")
        print("  " + " ".join(words), flush=True)
        return record


def warm(folder):
    """Has the files in memory for all sides alike."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                while file.read(1 << 20):
                    pass


def contents(folder):
    """The SHA-256 of each file, by its name."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                found[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def floor(bench, server, codec, **facts):
    """The codec's own program behind tar, on as many processors at once as there are, each
    with its share of the files."""
    files = sorted((path.stat().st_size, str(path)) for path in server.data.rglob("*") if path.is_file())
    shares = [[] for _ in range(os.cpu_count())]
    for number, (_, path) in enumerate(file for file in reversed(files) if "/pg_wal/" not in file[1]):
        shares[number % len(shares)].append(path)
    level = LEVELS.get(codec)
    program = {
        "none": "cat",
        "lz4": f"lz4 -{level}",
        "zstd": f"zstd -{level} --single-thread",
        "gzip": f"gzip -{level}",
        "bzip2": f"bzip2 -{level}",
        "snappy": f"{bench.options.barman / 'python3'} -c 'import sys, snappy; "
        "snappy.stream_compress(sys.stdin.buffer, sys.stdout.buffer)'",
    }[codec]
    before, begin = os.times(), time.perf_counter()
    running = []
    for number, share in enumerate(shares):
        names = bench.options.disk / f"share-{number}"
        names.write_text("\n".join(share))
        command = f"tar -cf - -P -T {names} | {program} >/dev/null"
        running.append(subprocess.Popen(["bash", "-o", "pipefail", "-c", command], stderr=subprocess.DEVNULL))
    if any([process.wait() for process in running]):
        sys.exit(f"the floor of {codec} could not be measured")
    seconds, after = time.perf_counter() - begin, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    bench.keep({"job": "backup", "tool": "floor", "codec": codec, "seconds": seconds, "cpu": cpu} | facts)


def upload(bench, length, codec, **facts):
    """The plain upload of as many bytes in parts, over two connections."""
    trust = ssl.create_default_context(cafile=bench.options.certificates / "ca.pem")
    body, numbers = bytes(PART), iter(range(1, -(-length // PART) + 1))
    lock, bucket = threading.Lock(), bench.bucket()

    def connect():
        return http.client.HTTPSConnection("127.0.0.1", bench.place.port, context=trust)

    def ask(connection, method, target, body=b""):
        connection.request(method, target, body)
        answer = connection.getresponse()
        text = answer.read().decode()
        if answer.status >= 300:
            sys.exit(f"the plain upload got {answer.status}")
        return text

    first = connect()
    begin = time.perf_counter()
    upload_id = ask(first, "POST", f"/{bucket}/object?uploads").partition("<UploadId>")[2].partition("<")[0]

    def work(connection):
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            ask(connection, "PUT", f"/{bucket}/object?partNumber={number}&uploadId={upload_id}", body)

    threads = [threading.Thread(target=work, args=(connection,)) for connection in (first, connect())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begin
    ask(first, "DELETE", f"/{bucket}/object?uploadId={upload_id}")
    bench.keep({"job": "backup", "tool": "upload", "codec": codec, "seconds": seconds} | facts)


def our_backups(bench, server, **facts):
    """Backups by us in each way, and the floors; gives the bucket of the last one."""
    codec, bucket = facts["codec"], None

    def ours(how, **settings):
        nonlocal bucket
        if bucket:
            bench.place.drop(bucket)
        bucket = bench.bucket()
        bench.ours.begin(bench.place, bucket, server.data, zstd=False)
        command = bench.ours.backup(server, codec, **settings)
        return bench.run(command, bench.ours.environment(), tool="ours", how=how, **facts)

    if BARMAN_LEVELS.get(codec, LEVELS.get(codec)) != LEVELS.get(codec) and bench.has("barman"):
        ours("as Barman's level", threads=0, level=BARMAN_LEVELS[codec])
    ours("gentle")
    record = ours("all cores", threads=0)
    if bench.has("floors"):
        alone = {name: facts[name] for name in ("size", "round")}
        floor(bench, server, codec, **alone)
        upload(bench, record["bytes"]["in"], codec, **alone)
    return bucket


def barmans_backup(bench, server, **facts):
    codec = facts["codec"]
    if codec == "zstd" or not bench.has("barman"):
        return None
    bucket = bench.bucket()
    bench.barman.begin(bench.place, bucket, server.data, zstd=False)
    bench.run(bench.barman.backup(server, codec), bench.barman.environment(), tool="barman", **facts)
    return bucket


def pgbackrests_backup(bench, server, **facts):
    codec = facts["codec"]
    if codec not in PGBACKREST or not bench.has("pgbackrest"):
        return None
    bucket = bench.bucket()
    bench.pgbackrest.prepare(bench.place, bucket, server, codec)
    bench.run(bench.pgbackrest.backup(), bench.pgbackrest.environment(), tool="pgbackrest", **facts)
    return bucket


def one_round(bench, server, codec, size, number):
    """A backup by each side, restored by each side that can. There is one backup at a time, so
    that memory is left: a store that is short of it is what would be measured."""
    facts = {"codec": codec, "size": size, "round": number}
    for source, take in (("ours", our_backups), ("barman", barmans_backup), ("pgbackrest", pgbackrests_backup)):
        bucket = take(bench, server, job="backup", **facts)
        if bucket and bench.has("restore"):
            restores(bench, server, source, bucket, **facts)
        if bucket:
            bench.place.drop(bucket)


def restores(bench, server, source, bucket, **facts):
    """A backup restored by each side that can; what comes out must be the same for all."""
    facts |= {"job": "restore", "of": source}
    codec = facts["codec"]
    seen = None

    def restore(tool, fetch, how):
        nonlocal seen
        target = bench.target()
        bench.run(fetch(target), tool.environment(), tool=tool.name, how=how, **facts)
        if not (target / "global/pg_control").is_file():
            sys.exit(f"{tool.name} restored nothing")
        found = contents(target)
        seen = seen or found
        for name in seen.keys() | found.keys():
            if seen.get(name) != found.get(name):
                sys.exit(f"{tool.name} restored another {name} than the first of the tools did")
        shutil.rmtree(target)

    if source == "pgbackrest":
        tool = bench.pgbackrest
        restore(tool, tool.fetch, "sync")
    else:
        backup_id = next(path.split("/")[2] for path in bench.place.names(bucket) if "/base/" in path)
        tool = bench.ours
        tool.begin(bench.place, bucket, server.data, zstd=False)
        for sync in (True, False):
            restore(tool, lambda target: tool.fetch(backup_id, target, sync), "sync" if sync else "no sync")
        # It misses the backup's WAL, which nobody archives here, when it has read all the rest.
        proof = facts | {"job": "verify"}
        bench.run(tool.verify(backup_id), tool.environment(), codes=(0, 1), tool=tool.name, **proof)
        tool = bench.barman
        if codec != "zstd" and bench.has("barman"):
            tool.begin(bench.place, bucket, server.data, zstd=False)
            restore(tool, lambda target: tool.fetch(backup_id, target), "no sync")


def main():
    options = arguments()
    # Of what does not shrink there is a little more than the cluster is said to have.
    memory = max(map(int, options.sizes.split(","))) * 1_100_000 + (100 << 20)
    with World(options.binaries, options.certificates, memory) as world:
        bench = Bench(options, world)
        results = {
            "date": datetime.date.today().isoformat(),
            "revision": options.revision,
            "machine": machine(),
            "versions": {tool.name: tool.version() for tool in (bench.ours, bench.barman, bench.pgbackrest)},
            "options": {"sizes": options.sizes, "rounds": options.rounds},
            "load_before": os.getloadavg(),
            "records": bench.records,
        }
        for size, folder in zip(map(int, options.sizes.split(",")), options.cluster, strict=True):
            wanted = options.codecs.split(",")
            codecs = [codec for codec in wanted if size <= 2000 or codec in options.large.split(",")]
            with Server(folder) as server:
                for number in range(1, options.rounds + 1):
                    for codec in codecs:
                        print(f"\n{size} MB, {codec}, round {number}")
                        warm(server.data)
                        one_round(bench, server, codec, size, number)
        results["load_after"] = os.getloadavg()
    lines = base_verdict.judge(bench.records)
    verdict.conclude(results, lines, options)


if __name__ == "__main__":
    main()
