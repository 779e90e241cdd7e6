"""The three sides of the comparison: what each is called with, for the same work."""

import os
import subprocess
import sys

# What `medium` means to both tools of one name, so that the third can be told.
ZSTD_LEVEL = 4
KEY, SECRET = "test", "testtesttest"
SERVER = "main"


class Tool:
    """A tool as it is run by PostgreSQL; `folder` is for what it keeps."""

    # Whether there is a way of it without TLS.
    plain = True

    def __init__(self, folder, certificates):
        self.folder, self.certificates = folder, certificates
        folder.mkdir(parents=True)

    def environment(self):
        """Nothing of the caller's settings: keys that are there, and nothing to look for."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CA_BUNDLE": str(self.certificates / "ca.pem"),
        }

    def begin(self, place, bucket, pgdata, zstd, spool=None, ahead=0):
        """Makes all ready for `archive` and `restore` with these words."""
        self.url, self.bucket, self.zstd = place.url, bucket, zstd
        self.pgdata, self.spool, self.ahead = pgdata, spool, ahead

    def run(self, *command):
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{command[0]} ended with {done.returncode}: {(done.stderr or done.stdout)[-2000:]}")
        return done.stdout


class Cloud(Tool):
    """What ours and Barman's have in common: the command line."""

    def __init__(self, folder, certificates, binaries):
        super().__init__(folder, certificates)
        self.binaries = binaries

    def version(self):
        return self.run(self.binaries / "barman-cloud-wal-archive", "--version").split()[-1]

    def command(self, tool, *options):
        endpoint = ["--endpoint-url", self.url] if self.url else []
        return [str(self.binaries / tool), *endpoint, *options, f"s3://{self.bucket}", SERVER]

    def archive(self):
        return [*self.command("barman-cloud-wal-archive", *self.compression(), *self.archive_ahead()), "%p"]

    def compression(self):
        return ["--zstd", "--compression-level", str(ZSTD_LEVEL)] if self.zstd else []

    def archive_ahead(self):
        return []

    def restore(self):
        options = ["--parallel", str(self.ahead)] if self.ahead else []
        # Also without: what is remembered of earlier runs lies there.
        options += ["--spool-dir", str(self.spool or self.folder / "spool")]
        return [*self.command("barman-cloud-wal-restore", *options), "%f", "%p"]


class Ours(Cloud):
    name = "ours"

    def __init__(self, folder, certificates, binaries):
        super().__init__(folder, certificates, binaries)
        self.archives_ahead = "--parallel" in self.run(binaries / "barman-cloud-wal-archive", "--help")

    def archive_ahead(self):
        if self.ahead and self.archives_ahead:
            return ["--parallel", str(self.ahead), "--spool-dir", str(self.spool)]
        return []


class Barman(Cloud):
    name = "barman"


class PgBackRest(Tool):
    name = "pgbackrest"
    # S3 is spoken over TLS alone.
    plain = False

    def __init__(self, folder, certificates):
        super().__init__(folder, certificates)
        # The buckets that know the server.
        self.stanzas = set()

    def version(self):
        return self.run("pgbackrest", "version").split()[-1]

    def begin(self, place, bucket, pgdata, zstd, spool=None, ahead=0):
        super().begin(place, bucket, pgdata, zstd, spool, ahead)
        own = {name: self.folder / name for name in ("lock", "log", "spool")}
        for folder in own.values():
            folder.mkdir(exist_ok=True)
        compression = f"zst\ncompress-level={ZSTD_LEVEL}" if zstd else "none"
        # The queue of restored segments is 128 MiB unless it is said otherwise, half of
        # what the others fetch ahead.
        asynchronous = f"archive-async=y\nprocess-max={ahead}\narchive-get-queue-max=1GiB\n" if ahead else ""
        self.config = self.folder / "pgbackrest.conf"
        self.config.write_text(
            f"[global]\nrepo1-type=s3\nrepo1-path=/{SERVER}\nrepo1-s3-bucket={bucket}\n"
            f"repo1-s3-endpoint=localhost\nrepo1-storage-port={place.port}\nrepo1-s3-region=us-east-1\n"
            f"repo1-s3-uri-style=path\nrepo1-s3-key={KEY}\nrepo1-s3-key-secret={SECRET}\n"
            f"repo1-storage-ca-file={self.certificates / 'ca.pem'}\n"
            f"lock-path={own['lock']}\nlog-path={own['log']}\nspool-path={spool or own['spool']}\n"
            "log-level-file=off\nlog-level-console=off\nlog-level-stderr=error\n"
            f"compress-type={compression}\n{asynchronous}[{SERVER}]\npg1-path={pgdata}\n"
        )
        if bucket not in self.stanzas:
            self.run(*self.command(), "--no-online", "stanza-create")
            self.stanzas.add(bucket)

    def command(self):
        return ["pgbackrest", f"--config={self.config}", f"--stanza={SERVER}"]

    def archive(self):
        return [*self.command(), "archive-push", "%p"]

    def restore(self):
        return [*self.command(), "archive-get", "%f", "%p"]


class Nothing(Tool):
    """A program that asks nobody: what starting one costs on this machine."""

    name = "nothing"

    def restore(self):
        return ["touch", "%p"]
