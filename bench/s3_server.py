#!/usr/bin/env python3
"""An S3 server for timing clients: objects in memory, nothing checked, over HTTP and TLS.

A real server spends 4 to 8 seconds of processor time on each GiB that is uploaded,
for hashing and storing. On a small machine a benchmark against it would measure that,
and not the clients. This one spends about a tenth, so it looks at no signature and no
checksum: it is for times alone, and says nothing about conformance.

usage: s3_server.py CERTIFICATE KEY [BYTES]

It takes so many BYTES of memory first, for objects, and uses all its memory again if it is
told so by malloc's variables (see `places.py`): new memory may cost more than all else here.

It writes its two ports of 127.0.0.1 (HTTP, TLS) as its first line of output, and ends
when its standard input does. Only Python's standard library is used.

Path style, and names like `BUCKET.s3.REGION.amazonaws.com` in `Host` (for clients that
reach it as a proxy). Buckets come into being with the first request that names them.
It has PUT, GET (with Range), HEAD and DELETE of objects, uploads in parts, both
ListObjects, If-None-Match, and bodies in every form that clients send. Checksums that
came with an object are given back when they are asked for, so that clients do the
checking they do at a real service. An ETag never looks like an MD5, as it does not under
SSE-KMS. GET /_stats tells requests by kind and bytes, GET /_names?BUCKET what there is, and
POST /_drop?BUCKET frees a bucket.
"""
import bisect
import html
import itertools
import json
import re
import socket
import ssl
import sys
import threading
from urllib.parse import parse_qsl, quote, unquote, urlsplit

XMLNS = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
WRITTEN = "2026-01-01T00:00:00.000Z"
WRITTEN_HEADER = "Thu, 01 Jan 2026 00:00:00 GMT"
VIRTUAL_HOST = re.compile(r"(.+)\.s3[.-][a-z0-9.-]*amazonaws\.com$")
# Bytes that go to a socket in one call.
PIECE = 1 << 20
# Names on a page of a listing. Source: S3 API reference, ListObjectsV2.
PAGE = 1000

LOCK = threading.Lock()
NUMBERS = itertools.count(1)


def new_etag():
    return f'"{next(NUMBERS):032x}-1"'


class Object:
    """Bytes in one piece or more, and the checksums that came with them."""

    def __init__(self, pieces, checksums=()):
        self.pieces = pieces
        self.size = sum(map(len, pieces))
        self.checksums = list(checksums)
        self.etag = new_etag()

    def slices(self, begin, end):
        at = 0
        for piece in self.pieces:
            view = memoryview(piece)[max(begin - at, 0) : max(end - at, 0)]
            for start in range(0, len(view), PIECE):
                yield view[start : start + PIECE]
            at += len(piece)


class Bucket:
    def __init__(self):
        self.objects, self.names, self.uploads = {}, [], {}

    def put(self, name, content):
        with LOCK:
            if name not in self.objects:
                bisect.insort(self.names, name)
            self.objects[name] = content

    def delete(self, name):
        with LOCK:
            if self.objects.pop(name, None):
                del self.names[bisect.bisect_left(self.names, name)]


class Store:
    def __init__(self):
        self.buckets = {}
        self.stats = {"requests": 0, "in": 0, "out": 0, "connections": 0, "kinds": {}}

    def bucket(self, name):
        with LOCK:
            return self.buckets.setdefault(name, Bucket())

    def count(self, kind):
        with LOCK:
            self.stats["requests"] += 1
            self.stats["kinds"][kind] = self.stats["kinds"].get(kind, 0) + 1


class Gone(Exception):
    """The client went away, or sends what is no request."""


class Request:
    """A request that was read whole."""

    def __init__(self, stream, line, reply_early):
        try:
            self.method, target, _ = line.decode("latin-1").split()
        except ValueError:
            raise Gone from None
        self.headers = {}
        while (line := stream.readline().rstrip(b"\r\n")) != b"":
            name, _, value = line.decode("latin-1").partition(":")
            self.headers[name.lower()] = value.strip()
        parts = urlsplit(target)
        self.query = dict(parse_qsl(parts.query, keep_blank_values=True))
        path = unquote(parts.path.lstrip("/"))
        virtual = VIRTUAL_HOST.match(self.header("host"))
        if virtual:
            path = f"{virtual[1]}/{path}"
        self.bucket, _, self.name = path.partition("/")
        if self.header("expect").lower() == "100-continue":
            reply_early(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.body = self.read_body(stream)

    def header(self, name):
        return self.headers.get(name, "")

    def read_body(self, stream):
        chunked = "chunked" in self.header("transfer-encoding").lower()
        if self.header("x-amz-content-sha256").startswith("STREAMING-"):
            if chunked:
                stream = Joined(stream)
            body = self.read_signed_chunks(stream)
            if chunked:
                stream.end()
            return body
        if chunked:
            return Joined(stream).read_all()
        return fill(stream, int(self.header("content-length") or 0))

    def read_signed_chunks(self, stream):
        """aws-chunked: sizes in hex, then perhaps trailing headers."""
        body = bytearray(int(self.header("x-amz-decoded-content-length")))
        view, at = memoryview(body), 0
        while size := int(stream.readline().split(b";")[0], 16):
            fill_into(stream, view[at : at + size])
            at += size
            stream.readline()
        while line := stream.readline().strip():
            name, _, value = line.decode("latin-1").partition(":")
            self.headers[name.lower()] = value.strip()
        return body

    def checksums(self):
        names = [name for name in self.headers if name.startswith("x-amz-checksum-") and name.count("-") == 3]
        return [(name, self.headers[name]) for name in names if not name.endswith(("-type", "-mode"))]


class Joined:
    """What comes in HTTP's chunks, as one stream."""

    def __init__(self, stream):
        self.stream, self.left, self.ended = stream, 0, False

    def chunk(self):
        """Whether there is more."""
        if not self.left and not self.ended:
            self.left = int(self.stream.readline().split(b";")[0], 16)
            if not self.left:
                self.ended = True
                while self.stream.readline().strip():
                    pass
        return self.left > 0

    def took(self, count):
        self.left -= count
        if not self.left:
            self.stream.readline()

    def readinto(self, view):
        if not self.chunk():
            return 0
        count = self.stream.readinto(view[: self.left])
        self.took(count)
        return count

    def readline(self):
        line = b""
        while not line.endswith(b"\n") and self.chunk():
            part = self.stream.readline(self.left)
            self.took(len(part))
            line += part
        return line

    def read_all(self):
        body = bytearray()
        while self.chunk():
            piece = fill(self.stream, self.left)
            self.took(len(piece))
            body += piece
        return body

    def end(self):
        while self.chunk():
            self.took(len(fill(self.stream, self.left)))


def fill(stream, size):
    body = bytearray(size)
    fill_into(stream, memoryview(body))
    return body


def fill_into(stream, view):
    while len(view):
        count = stream.readinto(view)
        if not count:
            raise Gone
        view = view[count:]


class Connection:
    """Answers the requests of one client, one after the other."""

    def __init__(self, store, sock):
        self.store, self.sock = store, sock

    def serve(self):
        stream = self.sock.makefile("rb", buffering=1 << 16)
        while line := stream.readline():
            request = Request(stream, line, self.sock.sendall)
            if request.bucket.startswith("_"):
                self.manage(request)
                continue
            with LOCK:
                self.store.stats["in"] += len(request.body)
            self.store.count(kind_of(request))
            bucket = self.store.bucket(request.bucket)
            if not request.name:
                self.on_bucket(request, bucket)
            elif "uploadId" in request.query or "uploads" in request.query:
                self.on_upload(request, bucket)
            else:
                self.on_object(request, bucket)

    def send(self, status, body=b"", headers=(), length=None, slices=()):
        if isinstance(body, str):
            body = body.encode()
        length = len(body) if length is None else length
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {length}", f"x-amz-request-id: {next(NUMBERS):016x}"]
        if body:
            lines.append("Content-Type: application/xml")
        lines += [f"{name}: {value}" for name, value in headers]
        self.sock.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
        for piece in slices:
            self.sock.sendall(piece)

    def fail(self, status, code, method):
        text = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>"
        self.send(status, b"" if method == "HEAD" else text, length=len(text))

    def manage(self, request):
        with LOCK:
            answer = self.store.stats
            for name in request.query:
                if request.bucket == "_drop":
                    self.store.buckets.pop(name, None)
                else:
                    answer = self.store.buckets[name].names
            text = json.dumps(answer)
        self.send(200, text)

    def on_bucket(self, request, bucket):
        query = request.query
        if "location" in query:
            self.send(200, f"<LocationConstraint {XMLNS}/>")
        elif request.method == "GET":
            self.send(200, listing(bucket, query))
        elif request.method in ("HEAD", "PUT"):
            self.send(200, headers=[("x-amz-bucket-region", "us-east-1")])
        else:
            self.fail(501, "NotImplemented", request.method)

    def on_upload(self, request, bucket):
        upload = request.query.get("uploadId")
        if "uploads" in request.query and request.method == "POST":
            upload = f"upload{next(NUMBERS)}"
            bucket.uploads[upload] = {}
            name = html.escape(request.name)
            self.send(
                200,
                f"<InitiateMultipartUploadResult {XMLNS}><Bucket>{request.bucket}</Bucket><Key>{name}</Key>"
                f"<UploadId>{upload}</UploadId></InitiateMultipartUploadResult>",
            )
        elif upload not in bucket.uploads:
            self.fail(404, "NoSuchUpload", request.method)
        elif request.method == "PUT":
            etag = new_etag()
            bucket.uploads[upload][int(request.query["partNumber"])] = request.body
            self.send(200, headers=[("ETag", etag)])
        elif request.method == "DELETE":
            del bucket.uploads[upload]
            self.send(204)
        elif request.method == "POST":
            parts = bucket.uploads.pop(upload)
            content = Object([parts[number] for number in sorted(parts)])
            bucket.put(request.name, content)
            self.send(
                200,
                f"<CompleteMultipartUploadResult {XMLNS}><Bucket>{request.bucket}</Bucket>"
                f"<Key>{html.escape(request.name)}</Key><ETag>{html.escape(content.etag)}</ETag>"
                "</CompleteMultipartUploadResult>",
            )
        else:
            self.fail(501, "NotImplemented", request.method)

    def on_object(self, request, bucket):
        method, name = request.method, request.name
        if method == "PUT":
            if request.header("if-none-match") == "*" and name in bucket.objects:
                self.fail(412, "PreconditionFailed", method)
                return
            content = Object([request.body], request.checksums())
            bucket.put(name, content)
            self.send(200, headers=[("ETag", content.etag)])
        elif method == "DELETE":
            bucket.delete(name)
            self.send(204)
        elif method not in ("GET", "HEAD"):
            self.fail(501, "NotImplemented", method)
        elif name not in bucket.objects:
            self.fail(404, "NoSuchKey", method)
        else:
            self.give(request, bucket.objects[name])

    def give(self, request, content):
        begin, end, status = 0, content.size, 200
        headers = [("ETag", content.etag), ("Last-Modified", WRITTEN_HEADER), ("Accept-Ranges", "bytes")]
        wanted = re.match(r"bytes=(\d+)-(\d*)$", request.header("range"))
        if wanted:
            begin, status = int(wanted[1]), 206
            end = min(int(wanted[2]) + 1, end) if wanted[2] else end
            if begin >= content.size:
                self.fail(416, "InvalidRange", request.method)
                return
            headers.append(("Content-Range", f"bytes {begin}-{end - 1}/{content.size}"))
        elif request.header("x-amz-checksum-mode").upper() == "ENABLED":
            headers += content.checksums
        slices = []
        if request.method == "GET":
            slices = content.slices(begin, end)
            with LOCK:
                self.store.stats["out"] += end - begin
        self.send(status, headers=headers, length=end - begin, slices=slices)


def kind_of(request):
    """What a request is, in S3's words."""
    query = request.query
    if not request.name:
        return "list" if request.method == "GET" and "location" not in query else f"{request.method} bucket"
    if "uploads" in query or (request.method == "POST" and "uploadId" in query):
        return "begin upload" if "uploads" in query else "complete upload"
    return "put part" if "partNumber" in query else request.method.lower()


def listing(bucket, query):
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    newer = query.get("list-type") == "2"
    after = query.get("continuation-token" if newer else "marker") or query.get("start-after", "")
    most = min(int(query.get("max-keys") or PAGE), PAGE)
    encode = quote if query.get("encoding-type") == "url" else html.escape
    lines, directories, more = [], [], False
    with LOCK:
        names = bucket.names[bisect.bisect_left(bucket.names, prefix) :]
        for name in names:
            if not name.startswith(prefix):
                break
            cut = name.find(delimiter, len(prefix)) if delimiter else -1
            shown = name if cut < 0 else name[: cut + len(delimiter)]
            if shown <= after or (directories and directories[-1] == shown):
                continue
            if len(lines) + len(directories) == most:
                more = True
                break
            last = shown
            if cut >= 0:
                directories.append(shown)
            else:
                content = bucket.objects[name]
                lines.append(
                    f"<Contents><Key>{encode(name)}</Key><LastModified>{WRITTEN}</LastModified>"
                    f"<ETag>{html.escape(content.etag)}</ETag><Size>{content.size}</Size>"
                    "<StorageClass>STANDARD</StorageClass></Contents>"
                )
    next_page = "NextContinuationToken" if newer else "NextMarker"
    lines += [f"<CommonPrefixes><Prefix>{encode(name)}</Prefix></CommonPrefixes>" for name in directories]
    if more:
        lines.append(f"<{next_page}>{html.escape(last)}</{next_page}>")
    encoding = "<EncodingType>url</EncodingType>" if "encoding-type" in query else ""
    return (
        f"<ListBucketResult {XMLNS}><Prefix>{encode(prefix)}</Prefix><MaxKeys>{most}</MaxKeys>{encoding}"
        f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>{''.join(lines)}</ListBucketResult>"
    )


def converse(store, sock, tls):
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            sock = tls.wrap_socket(sock, server_side=True)
        Connection(store, sock).serve()
    except (Gone, OSError):
        # What a client does is its own business.
        pass
    finally:
        sock.close()


def accept(store, listener, tls):
    while True:
        sock, _ = listener.accept()
        with LOCK:
            store.stats["connections"] += 1
        threading.Thread(target=converse, args=(store, sock, tls), daemon=True).start()


def touch(count):
    """Takes so many bytes of memory and frees them."""
    size = 8 << 20
    blocks = [bytearray(size) for _ in range(-(-count // size))]
    for block in blocks:
        block[::4096] = bytes([1]) * (size // 4096)


def main():
    touch(int(sys.argv[3]) if len(sys.argv) > 3 else 0)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*sys.argv[1:3])
    store, ports = Store(), []
    for context in (None, tls):
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        ports.append(str(listener.getsockname()[1]))
        threading.Thread(target=accept, args=(store, listener, context), daemon=True).start()
    print(*ports, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
