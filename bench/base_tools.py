"""The three sides of the comparison of base backups, and what each is called with."""

import os
import pathlib
import subprocess

from tools import Barman, Ours, PgBackRest

# A codec as each side calls it: none where a side does not have it.
CODECS = ("none", "lz4", "snappy", "zstd", "gzip", "bzip2")
PGBACKREST = {"none": "none", "lz4": "lz4", "zstd": "zst", "gzip": "gz", "bzip2": "bz2"}
# What Barman's tools take, which cannot be changed; those of snappy has none.
BARMAN_LEVELS = {"gzip": 9, "bzip2": 9, "lz4": 1}
# Our own defaults, as the help tells them.
LEVELS = {"lz4": 1, "zstd": 3, "gzip": 6, "bzip2": 9}


class Server:
    """A PostgreSQL on a data directory of its own."""

    def __init__(self, folder):
        self.data, self.socket = folder / "data", folder
        self.bin = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))[-1].parent
        # The server refuses to run as root.
        self.as_other = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if not os.getuid() else []

    def __enter__(self):
        options = (
            "-c listen_addresses= -c shared_buffers=128MB -c archive_mode=off "
            f"-c wal_level=replica -c autovacuum=off -k {self.socket}"
        )
        self.control("-w", "-l", str(self.socket / "server.log"), "-o", options, "start")
        return self

    def __exit__(self, *_):
        self.control("-m", "fast", "-w", "stop")

    def control(self, *words):
        command = [*self.as_other, str(self.bin / "pg_ctl"), "-D", str(self.data), *words]
        subprocess.run(command, cwd="/", check=True, stdout=subprocess.DEVNULL)

    def options(self):
        return ["-h", str(self.socket), "-U", "postgres"]


class OurBase(Ours):
    def backup(self, server, codec, jobs=2, threads=None, level=None):
        """Without `threads`, the gentle default."""
        words = [] if codec == "none" else [f"--{codec}"]
        words += ["--immediate-checkpoint", "--jobs", str(jobs)]
        words += [] if threads is None else ["--encoder-threads", str(threads)]
        words += [] if level is None else ["--compression-level", str(level)]
        return self.command("barman-cloud-backup", *words, *server.options())

    def fetch(self, backup_id, target, sync=True, jobs=2):
        words = ["--jobs", str(jobs)] + ([] if sync else ["--no-sync"])
        return [*self.command("barman-cloud-restore", *words), backup_id, str(target)]

    def verify(self, backup_id, jobs=2):
        return [*self.command("barman-cloud-verify", "--jobs", str(jobs)), backup_id]


class BarmanBase(Barman):
    def backup(self, server, codec, jobs=2):
        words = [] if codec == "none" else [f"--{codec}"]
        return self.command("barman-cloud-backup", *words, "--immediate-checkpoint", "--jobs", str(jobs), *server.options())

    def fetch(self, backup_id, target):
        return [*self.command("barman-cloud-restore"), backup_id, str(target)]


class PgBackRestBase(PgBackRest):
    def prepare(self, place, bucket, server, codec, jobs=2):
        """A stanza for the server; the WAL of the backup is not waited for, as the others
        do not wait for it."""
        self.begin(place, bucket, server.data, zstd=False)
        level = f"compress-level={LEVELS[codec]}\n" if codec in LEVELS else ""
        text = self.config.read_text().replace("compress-type=none", f"compress-type={PGBACKREST[codec]}\n{level}".strip())
        text = text.replace(
            "[main]", f"process-max={jobs}\nstart-fast=y\narchive-check=n\narchive-mode-check=n\nrepo1-retention-full=9\n[main]"
        )
        self.config.write_text(f"{text}pg1-socket-path={server.socket}\npg1-user=postgres\n")

    def backup(self):
        return [*self.command(), "--type=full", "backup"]

    def fetch(self, target):
        return [*self.command(), f"--pg1-path={target}", "--type=none", "restore"]
