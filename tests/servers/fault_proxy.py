"""A proxy on 127.0.0.1 that does to HTTP/1.1 requests what networks and object
stores do to them on bad days.

usage: fault_proxy.py PORT

It stands in front of the server on PORT of 127.0.0.1, writes the port it took
as its first line of output, and ends when its standard input does, so that it
never outlives the test that started it. The Host field is passed on as it is:
S3 signatures cover it, and no server here insists on its own port.

    POST /_fault     adds a rule, an object in JSON (see below)
    DELETE /_fault   removes all rules
    POST /_release   ends the wait of held requests
    GET /_log        all requests so far: [{"line", "headers", "sent", "status",
                     "fault"}], `sent` being bytes of body that were passed on

On its input it takes the lines "down" and "up", and repeats each when it is
done: while it is down connections are refused, and those that there were are
reset. Its port stays its own.

A rule: {"kind": K, "match": REGEX, "skip": N, "times": N, ...}. It applies to
requests whose `METHOD /path?query` the expression is found in; to the first
`skip` of them (0) it does nothing, then `times` (1; -1: always) it does what
its kind says. With "every": N it happens to each Nth of them alone, with
"each": N to the first N of those that are the same to the letter:

    status           answers "status" with "body" and "headers" (both optional)
                     in place of the server; reads the request's body first,
                     unless "early" is true, then it closes the connection
    delay            waits "seconds", then goes on
    hold             waits for a POST to /_release, which lets all go that wait then
    down             is down for "seconds", beginning with a reset of this request
    drop_request     passes on "bytes" of the request's body, then closes both sides
    lost_response    the server does its work and the client gets no answer
    instead          the server does its work and the client gets "status" and "body"
    whole            the server does not see which range was asked for
    longer           the answer's body has "bytes" more, and says so
    shorter          the answer's body has "bytes" less, and says so
    truncate         passes on "bytes" of the answer's body, then closes
    stall            passes on "bytes" of the answer's body, then keeps silent for
                     "seconds" (3600)
    corrupt          flips a bit of the answer's body at "offset" (0)
    corrupt_request  flips a bit of the request's body at "offset" (0)
    reset            resets the connection
    throttle         passes the answer's body on at "rate" bytes a second
    throttle_request takes the request's body at "rate" bytes a second
"""

import asyncio
import json
import os
import re
import socket
import struct
import sys

BLOCK = 1 << 16
# Of a body that is throttled, this many bytes at a time.
SLOW_BLOCK = 1 << 14
CODES = {400: "InvalidRequest", 403: "AccessDenied", 404: "NoSuchKey", 500: "InternalError", 503: "SlowDown"}
rules, log, held = [], [], []


async def read_head(reader):
    """The first line, and the fields as pairs."""
    text = (await reader.readuntil(b"\r\n\r\n"))[:-4].decode("latin-1")
    first, *lines = text.split("\r\n")
    return first, [tuple(part.strip() for part in line.split(":", 1)) for line in lines]


def write_head(writer, first, fields):
    lines = [first] + [f"{name}: {value}" for name, value in fields]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))


def field(fields, wanted, default=""):
    return next((value for name, value in fields if name.lower() == wanted), default)


async def exactly(reader, size):
    while size:
        data = await reader.read(min(size, BLOCK))
        if not data:
            raise ConnectionError("the body is shorter than announced")
        size -= len(data)
        yield data


async def body_of(reader, fields, until_end=False):
    """The bytes of a message's body as they come, with the framing of chunks."""
    if "chunked" in field(fields, "transfer-encoding").lower():
        size = None
        while size != 0:
            line = await reader.readline()
            yield line
            size = int(line.split(b";")[0], 16)
            async for data in exactly(reader, size + 2 if size else 0):
                yield data
        while line not in (b"\r\n", b""):
            line = await reader.readline()
            yield line
    elif field(fields, "content-length"):
        async for data in exactly(reader, int(field(fields, "content-length"))):
            yield data
    elif until_end:
        while data := await reader.read(BLOCK):
            yield data


def rule_for(line):
    for rule in rules:
        if rule["times"] == 0 or not re.search(rule["match"], line):
            continue
        if rule["skip"] > 0:
            rule["skip"] -= 1
            continue
        if not its_turn(rule, line):
            continue
        if rule["times"] > 0:
            rule["times"] -= 1
        return rule
    return {"kind": None}


def its_turn(rule, line):
    if "every" in rule:
        rule["seen"] = rule.get("seen", 0) + 1
        return rule["seen"] % rule["every"] == 0
    if "each" in rule:
        seen = rule.setdefault("lines", {})
        seen[line] = seen.get(line, 0) + 1
        return seen[line] <= rule["each"]
    return True


async def slowly(writer, data, rate):
    for at in range(0, len(data), SLOW_BLOCK):
        piece = data[at : at + SLOW_BLOCK]
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(len(piece) / rate)


def reset(writer):
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def answer(writer, status, content=b"", fields=(), with_body=True):
    write_head(writer, f"HTTP/1.1 {status} Fault", [("Content-Length", len(content)), *fields])
    if with_body:
        writer.write(content)


def flipped(data, at, offset):
    """`data`, which begins at `at` of the body, with a bit at `offset` flipped."""
    if at <= offset < at + len(data):
        data = bytearray(data)
        data[offset - at] ^= 1
    return bytes(data)


def control(writer, method, target, content):
    if target.startswith("/_log"):
        answer(writer, 200, json.dumps(log).encode())
    elif target.startswith("/_release"):
        while held:
            held.pop().set()
        answer(writer, 200)
    elif method == "DELETE":
        rules.clear()
        answer(writer, 200)
    else:
        rules.append({"match": "", "skip": 0, "times": 1, **json.loads(content)})
        answer(writer, 200)


def fault_answer(writer, rule, method):
    status = rule["status"]
    content = rule.get(
        "body",
        '<?xml version="1.0" encoding="UTF-8"?><Error>'
        f"<Code>{CODES.get(status, 'Fault')}</Code><Message>injected</Message></Error>",
    )
    fields = [("Content-Type", "application/xml"), *rule.get("headers", {}).items()]
    if rule.get("early"):
        fields.append(("Connection", "close"))
    answer(writer, status, content.encode(), fields, with_body=method != "HEAD")


async def one_request(client, to_client, port, door):
    """Handles one request; gives False when the connection has to close."""
    first, fields = await read_head(client)
    method, target, _ = first.split(" ", 2)
    if target.startswith(("/_fault", "/_log", "/_release")):
        control(to_client, method, target, b"".join([data async for data in body_of(client, fields)]))
        return True
    line = f"{method} {target}"
    rule = rule_for(line)
    kind = rule["kind"]
    entry = {
        "line": line,
        "headers": {name.lower(): value for name, value in fields},
        "sent": 0,
        "status": None,
        "fault": kind,
    }
    log.append(entry)
    if kind == "reset":
        reset(to_client)
        return False
    if kind == "down":
        door.shut()
        asyncio.get_running_loop().call_later(rule["seconds"], door.open_soon)
        return False
    if kind == "delay":
        await asyncio.sleep(rule["seconds"])
    if kind == "hold":
        held.append(asyncio.Event())
        await held[-1].wait()
    if field(fields, "expect").lower() == "100-continue" and not rule.get("early"):
        to_client.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if kind == "status":
        if not rule.get("early"):
            async for data in body_of(client, fields):
                entry["sent"] += len(data)
        fault_answer(to_client, rule, method)
        entry["status"] = rule["status"]
        return not rule.get("early")
    server, to_server = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    try:
        own = ("expect", "connection", "range" if kind == "whole" else "")
        passed = [pair for pair in fields if pair[0].lower() not in own]
        write_head(to_server, first, [*passed, ("Connection", "close")])
        async for data in body_of(client, fields):
            if kind == "corrupt_request":
                data = flipped(data, entry["sent"], rule.get("offset", 0))
            if kind == "drop_request" and entry["sent"] + len(data) > rule.get("bytes", 0):
                to_server.write(data[: rule.get("bytes", 0) - entry["sent"]])
                await to_server.drain()
                entry["sent"] = rule.get("bytes", 0)
                return False
            if kind == "throttle_request":
                await slowly(to_server, data, rule["rate"])
            else:
                to_server.write(data)
                await to_server.drain()
            entry["sent"] += len(data)
        return await pass_on(server, to_client, method, rule, entry)
    finally:
        to_server.close()


async def pass_on(server, to_client, method, rule, entry):
    """Passes the server's answer on; gives False when the connection has to close."""
    kind = rule["kind"]
    status = 100
    while status < 200:
        first, fields = await read_head(server)
        status = int(first.split(" ")[1])
    entry["status"] = status
    bodiless = method == "HEAD" or status in (204, 304)
    framed = bodiless or field(fields, "content-length") or field(fields, "transfer-encoding")
    if kind in ("lost_response", "instead"):
        if not bodiless:
            async for _ in body_of(server, fields, until_end=True):
                pass
        if kind == "instead":
            fault_answer(to_client, rule, method)
            entry["status"] = rule["status"]
        return kind == "instead"
    if kind in ("longer", "shorter"):
        content = b"".join([data async for data in body_of(server, fields)])
        count = rule["bytes"]
        content = content + b"x" * count if kind == "longer" else content[: len(content) - count]
        kept = [pair for pair in fields if pair[0].lower() not in ("content-length", "connection")]
        write_head(to_client, first, [*kept, ("Content-Length", len(content))])
        to_client.write(content)
        return True
    passed = [pair for pair in fields if pair[0].lower() != "connection"]
    write_head(to_client, first, passed if framed else [*passed, ("Connection", "close")])
    if bodiless:
        return True
    at = 0
    async for data in body_of(server, fields, until_end=True):
        if kind == "corrupt":
            data = flipped(data, at, rule.get("offset", 0))
        if kind in ("truncate", "stall") and at + len(data) >= rule.get("bytes", 0):
            to_client.write(data[: rule.get("bytes", 0) - at])
            await to_client.drain()
            if kind == "stall":
                await asyncio.sleep(rule.get("seconds", 3600))
            return False
        if kind == "throttle":
            await slowly(to_client, data, rule["rate"])
        else:
            to_client.write(data)
            await to_client.drain()
        at += len(data)
    return bool(framed)


class Door:
    """Where clients come in. The port belongs to a socket of its own that never
    listens: while the other one is closed, connections are refused, and nobody
    else gets the port."""

    def __init__(self, port):
        self.server_port = port
        self.clients = set()
        self.listener = None
        self.holder = self.bound(0)
        self.port = self.holder.getsockname()[1]

    @staticmethod
    def bound(port):
        own = socket.socket()
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # A client must see that its bytes are not taken, and not a buffer.
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
        own.bind(("127.0.0.1", port))
        return own

    async def open(self):
        if not self.listener:
            self.listener = await asyncio.start_server(
                self.serve, sock=self.bound(self.port), limit=1 << 16, backlog=128
            )

    def open_soon(self):
        self.opening = asyncio.ensure_future(self.open())

    def shut(self):
        if self.listener:
            self.listener.close()
            self.listener = None
        for client in self.clients:
            reset(client)
            client.transport.abort()

    async def serve(self, client, to_client):
        self.clients.add(to_client)
        try:
            while await one_request(client, to_client, self.server_port, self):
                await to_client.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass
        except Exception as error:
            # A rule that is wrong must be seen, and must not leave the client hanging.
            print(f"fault_proxy: {error!r}", file=sys.stderr, flush=True)
        finally:
            self.clients.discard(to_client)
            to_client.close()


async def commands():
    """The lines of standard input, until its end."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield line.decode().strip()


async def main():
    door = Door(int(sys.argv[1]))
    await door.open()
    print(door.port, flush=True)
    async for command in commands():
        if command == "down":
            door.shut()
        elif command == "up":
            await door.open()
        print(command, flush=True)
    # Handlers are not waited for: some are in the middle of a long silence.
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
