"""Where the store is: one server, and the distances to it."""

import http.client
import json
import os
import pathlib
import subprocess
import sys
from dataclasses import dataclass

HERE = pathlib.Path(__file__).resolve().parent
TICKS = os.sysconf("SC_CLK_TCK")


class Program:
    """A program that says its ports first and ends when its input does."""

    def __init__(self, *command, environment=None):
        self.command = [str(word) for word in command]
        pipe = subprocess.PIPE
        environment = os.environ | (environment or {})
        self.process = subprocess.Popen(self.command, stdin=pipe, stdout=pipe, text=True, env=environment)
        self.ports = [int(port) for port in self.process.stdout.readline().split()]
        if not self.ports:
            sys.exit(f"{self.command[0]} did not start")

    def cpu(self):
        """Seconds of processor time so far, to a hundredth."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def stop(self):
        self.process.communicate()


@dataclass(frozen=True)
class Network:
    """A distance in milliseconds of round trip, and whether TLS is spoken over it."""

    round_trip: int
    tls: bool

    def __str__(self):
        return f"{self.round_trip} ms, {'TLS' if self.tls else 'plain'}"

    def record(self):
        return {"round_trip_ms": self.round_trip, "tls": self.tls}


class Place:
    """The server over one network. TLS ends at the server, so a distance delays the
    handshake as well; at 0 ms there is nothing between client and server."""

    def __init__(self, network, server, proxy):
        self.network, self.server, self.proxy = network, server, proxy
        self.port = proxy.ports[0] if proxy else server.ports[1 if network.tls else 0]
        self.url = f"{'https' if network.tls else 'http'}://127.0.0.1:{self.port}"

    def stats(self):
        return ask(self.server.ports[0], "GET", "/_stats")

    def names(self, bucket):
        return ask(self.server.ports[0], "GET", f"/_names?{bucket}")

    def drop(self, bucket):
        ask(self.server.ports[0], "POST", f"/_drop?{bucket}")

    def costs(self):
        """Processor time of what is not the client."""
        return {"server": self.server.cpu(), "proxy": self.proxy.cpu() if self.proxy else 0.0}


def ask(port, method, target):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request(method, target)
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer


# glibc's malloc gives nothing back to the system, and has all it got in one place. Source:
# mallopt(3).
KEEP_MEMORY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}


class World:
    """The server and all distances to it, for a `with`. `memory`: bytes of objects that there
    will be at one time, at most."""

    def __init__(self, binaries, certificates, memory=0):
        self.binaries, self.certificates, self.memory = binaries, certificates, memory
        self.programs, self.places = [], {}

    def __enter__(self):
        self.server = Program(
            sys.executable,
            HERE / "s3_server.py",
            self.certificates / "tls.pem",
            self.certificates / "tls.key",
            self.memory,
            environment=KEEP_MEMORY,
        )
        self.programs.append(self.server)
        return self

    def __exit__(self, *_):
        for program in reversed(self.programs):
            program.stop()

    def place(self, network):
        if network not in self.places:
            proxy = None
            if network.round_trip:
                port = self.server.ports[1 if network.tls else 0]
                words = ["encrypted"] if network.tls else []
                proxy = Program(self.binaries / "delay_proxy", port, network.round_trip, *words)
                self.programs.append(proxy)
            self.places[network] = Place(network, self.server, proxy)
        return self.places[network]
