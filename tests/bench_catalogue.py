"""Fills stores with catalogues, lets the tools of both sides list and delete them
over a proxy that adds a round trip, and compares time, requests and what is left.

Started by bench_catalogue.sh, which knows where the programs are and Ceph is.
"""

import argparse
import http.client
import pathlib
import re
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import boto3
from botocore.config import Config

HERE = pathlib.Path(__file__).resolve().parent
SERVER = "main"
KEPT = 10
# What the project promises: how many times faster at least.
LIST_BOUND, DELETE_BOUND = 30, 5
THREADS = 16

class Store:
    """A server, and what it cannot be blamed for.

    Ceph deletes the objects of a request one after the other, and several
    requests on this machine's few processors: a second and more for a thousand,
    for whoever asks. That is most of the time of either side, so the time of a
    deletion on it is shown and not judged."""

    def __init__(self, name, port, judges_deletion):
        self.name, self.port, self.judges_deletion = name, port, judges_deletion
        self.s3 = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            config=Config(
                max_pool_connections=THREADS,
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def fill(self, bucket, objects):
        def put(pair):
            self.s3.put_object(Bucket=bucket, Key=pair[0], Body=pair[1])

        self.s3.create_bucket(Bucket=bucket)
        with ThreadPoolExecutor(THREADS) as pool:
            # Waits for all of them, and raises what went wrong.
            list(pool.map(put, objects))

    def keys(self, bucket):
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return {entry["Key"] for page in pages for entry in page.get("Contents", [])}


# What lies in the buckets


def segment(number):
    """The name of a WAL segment of 16 MiB, 256 to a directory."""
    return f"00000001{number >> 8:08X}{number & 0xFF:08X}"


def record(number, wal):
    """Id and backup.info of a backup that begins and ends in segment `wal`: a
    record of the real tool with other times and places."""
    text = (HERE / "golden/backup-info/done-gzip-tablespace-named.info").read_text()
    begin = datetime(2026, 1, 1) + timedelta(hours=number)
    text = text.replace("golden-gzip", f"bench-{number}").replace("000000010000000000000004", segment(wal))
    text = text.replace("2026-11-21 02:21", f"{begin:%Y-%m-%d %H:%M}")
    text = re.sub(r"0/4000([0-9A-F]{3})", lambda at: f"{wal >> 8:X}/{(wal & 0xFF) << 24 | int(at[1], 16):X}", text)
    return f"{begin:%Y%m%dT%H%M%S}", text.encode()


def catalogue(backups, wal_each):
    """Keys and contents: backups with two archives each, and the WAL from the
    first on, `wal_each` segments to a backup, as real archives have it: with a
    backup history file beside the segment in which a backup begins."""
    for number in range(backups):
        first = 1 + number * wal_each
        backup, info = record(number, first)
        yield f"{SERVER}/base/{backup}/backup.info", info
        for archive in ("data", "16384"):
            yield f"{SERVER}/base/{backup}/{archive}.tar.gz", b"archive"
        if wal_each:
            names = [segment(at) for at in range(first, first + wal_each)]
            for name in (f"{names[0]}.00000028.backup", *names):
                yield f"{SERVER}/wals/{name[:16]}/{name}.gz", b"wal"


# What is measured


class Server:
    """A program that says its port first and ends with its input: what `with`
    gives is the port, and what it says last is `words`."""

    def __init__(self, *command):
        self.command = [str(word) for word in command]

    def __enter__(self):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(self.command, stdin=pipe, stdout=pipe, text=True)
        return int(self.process.stdout.readline())

    def __exit__(self, *_):
        out, _ = self.process.communicate()
        self.words = out.split()
        if self.process.returncode:
            sys.exit(f"{self.command[0]} ended with {self.process.returncode}: the numbers cannot be trusted")


class Run:
    """A tool that was run over the distance, a proxy of its own."""

    def __init__(self, distance, binaries, tool, bucket, *options):
        with distance as port:
            url = f"http://127.0.0.1:{port}"
            command = [binaries / tool, "--endpoint-url", url, *options, f"s3://{bucket}", SERVER]
            begin = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True)
            self.seconds = time.perf_counter() - begin
        if done.returncode:
            sys.exit(f"{binaries / tool} ended with {done.returncode}: {done.stderr[-2000:]}")
        self.output = done.stdout
        words = distance.words
        self.traffic = {name: int(count) for name, count in zip(words[::2], words[1::2])}
        self.requests = self.traffic["requests"]

    def __str__(self):
        kinds = [f"{count} {kind}" for kind, count in self.traffic.items() if kind not in ("requests", "connections")]
        return (
            f"{self.seconds:8.2f} s  {self.requests:6} requests ({', '.join(kinds)}) "
            f"on {self.traffic['connections']} connections"
        )


def middle(runs):
    return sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]


def start_of(binaries):
    """Seconds that a start costs that does nothing, the middle of five."""

    def once():
        begin = time.perf_counter()
        subprocess.run([binaries / "barman-cloud-backup-list", "--version"], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - begin

    return statistics.median(once() for _ in range(5))


def answer_time(port):
    """Seconds from a request on an open connection to its answer, the middle of nine."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    times = []
    for _ in range(10):
        begin = time.perf_counter()
        connection.request("GET", "/")
        connection.getresponse().read()
        times.append(time.perf_counter() - begin)
    connection.close()
    return statistics.median(times[1:])


def compare(title, barman, ours, bound, missed):
    """Prints both runs and notes which promises are not kept; `bound` is none
    where time is not judged."""
    ratio = barman.seconds / ours.seconds
    wanted = f"at least {bound} wanted" if bound else "not judged on this store"
    print(f"{title}\n  Barman {barman}\n  ours   {ours}")
    print(
        f"  {ratio:.1f} times faster ({wanted}), {barman.requests - ours.requests} requests fewer",
        flush=True,
    )
    if bound and ratio < bound:
        missed.append(f"{title}: {ratio:.1f} times faster, and not {bound} times")
    if ours.requests >= barman.requests:
        missed.append(f"{title}: {ours.requests} requests, and Barman {barman.requests}")


def bench_list(arguments, store, distance, missed):
    store.fill("list", catalogue(arguments.backups, 0))
    tool = "barman-cloud-backup-list"
    ours = [Run(distance, arguments.ours, tool, "list") for _ in range(3)]
    barman = Run(distance, arguments.barman, tool, "list")
    if len(barman.output.splitlines()) != arguments.backups + 1:
        sys.exit(f"Barman does not list {arguments.backups} backups:\n{barman.output[:2000]}")
    title = f"list of {arguments.backups} backups on {store.name}"
    compare(title, barman, middle(ours), LIST_BOUND, missed)
    if any(run.output != barman.output for run in ours):
        missed.append(f"{title}: the output is not Barman's")


def bench_delete(arguments, store, distance, missed):
    wal_each = -(-arguments.wal // arguments.deleted)
    objects = dict(catalogue(arguments.deleted + KEPT, wal_each))
    for bucket in ("delete-barman", "delete-ours"):
        store.fill(bucket, objects.items())
    policy = ("-r", f"REDUNDANCY {KEPT}")
    tool = "barman-cloud-backup-delete"
    barman = Run(distance, arguments.barman, tool, "delete-barman", *policy)
    ours = Run(distance, arguments.ours, tool, "delete-ours", *policy)
    left = store.keys("delete-barman")
    gone = objects.keys() - left
    wal = sum("/wals/" in key for key in gone)
    if len(gone) - wal != 3 * arguments.deleted or wal < arguments.wal:
        sys.exit(f"Barman deleted {wal} objects of WAL and {len(gone) - wal} others: not what was meant")
    title = f"delete of {arguments.deleted} backups and {wal} WAL objects on {store.name}"
    compare(title, barman, ours, DELETE_BOUND if store.judges_deletion else None, missed)
    if others := left ^ store.keys("delete-ours"):
        missed.append(f"{title}: one side alone left {len(others)} objects, such as {min(others)}")
    else:
        print(f"  both left the same {len(left)} objects")


def bench(arguments, store, missed):
    distance = Server(arguments.ours / "delay_proxy", store.port, arguments.round_trip)
    direct = answer_time(store.port)
    with distance as port:
        far = answer_time(port)
    print(f"\nan answer of {store.name} takes {direct * 1000:.1f} ms, over the distance {far * 1000:.1f} ms")
    bench_list(arguments, store, distance, missed)
    bench_delete(arguments, store, distance, missed)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ours", type=pathlib.Path, required=True, help="folder of our release binaries")
    parser.add_argument("--barman", type=pathlib.Path, required=True, help="folder of Barman's tools")
    parser.add_argument("--ceph-port", type=int, required=True, help="where Ceph's gateway is, on 127.0.0.1")
    parser.add_argument("--backups", type=int, default=1000, help="backups to list (1000)")
    parser.add_argument("--deleted", type=int, default=50, help=f"backups to delete; {KEPT} more stay (50)")
    parser.add_argument("--wal", type=int, default=20000, help="WAL objects to delete (20000)")
    parser.add_argument("--round-trip", type=int, default=20, help="milliseconds between tool and store (20)")
    arguments = parser.parse_args()

    for side in ("barman", "ours"):
        print(f"a start that does nothing takes {start_of(getattr(arguments, side)) * 1000:.1f} ms ({side})")
    missed = []
    with Server(arguments.ours / "memory_store") as port:
        bench(arguments, Store("a store in memory", port, judges_deletion=True), missed)
    bench(arguments, Store("Ceph", arguments.ceph_port, judges_deletion=False), missed)
    for text in missed:
        print(f"MISSED: {text}")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
