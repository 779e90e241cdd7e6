"""A stand-in for Google Cloud Storage on a free port of 127.0.0.1, in memory.

It is written from the public reference of the JSON API and of the XML API's
uploads in parts, which no emulator has, and is stricter than those: it compares
checksums and conditions, gives short pages, refuses parts that are too small, and
a token that is not the one it was told to expect.

    gcs_server.py PORT_FILE CERTIFICATE KEY      writes its port to the file

`PUT /expect/BUCKET` with a token as its body makes all later requests for the
bucket need it; with an empty body none does. `PUT /allow/BUCKET` with permissions
(`objects.get objects.list`) allows these alone. As a proxy for HTTPS it is whatever
host it is asked for, with that certificate: so tools reach it by the service's own
name. What a request was is printed, a line for each.
"""

import base64
import json
import os
import re
import ssl
import sys
import threading
import time
import urllib.parse
import uuid
import xml.etree.ElementTree as xml
from email.utils import formatdate
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.sax.saxutils import escape

import google_crc32c

PAGE = 10
MIN_PART = 5 << 20
SPACE = "xmlns='http://s3.amazonaws.com/doc/2006-03-01/'"
GRAIN = 256 << 10
lock = threading.RLock()
buckets = {}
sessions = {}
uploads = {}
tokens = {}
allowed = {}
state = {"generation": time.time_ns() // 1000}
identity = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


class Refusal(Exception):
    def __init__(self, status, reason, message, code=None):
        self.status, self.reason, self.message, self.code = status, reason, message, code


def stamp(at):
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1000):03}Z"


def crc32c(data):
    return base64.b64encode(google_crc32c.Checksum(data).digest()).decode()


class Object:
    def __init__(self, name, data, described):
        state["generation"] += 1
        self.name, self.data = name, data
        self.generation, self.at = state["generation"], time.time()
        self.described = {k: v for k, v in described.items() if k in ("metadata", "contentType", "kmsKeyName")}
        self.crc32c, self.md5 = crc32c(data), base64.b64encode(md5(data).digest()).decode()

    def json(self, bucket):
        return self.described | {
            "kind": "storage#object",
            "name": self.name,
            "bucket": bucket,
            "generation": str(self.generation),
            "metageneration": "1",
            "size": str(len(self.data)),
            "crc32c": self.crc32c,
            "md5Hash": self.md5,
            "updated": stamp(self.at),
            "timeCreated": stamp(self.at),
            "storageClass": "STANDARD",
        }


def bucket_of(name):
    if name not in buckets:
        raise Refusal(404, "notFound", "The specified bucket does not exist.", "NoSuchBucket")
    return buckets[name]


def object_of(bucket, key):
    found = bucket_of(bucket).get(key)
    if not found:
        raise Refusal(404, "notFound", f"No such object: {bucket}/{key}", "NoSuchKey")
    return found


def check(query, found):
    wanted = query.get("ifGenerationMatch")
    if wanted is not None and int(wanted) != (found.generation if found else 0):
        message = "At least one of the pre-conditions you specified did not hold."
        raise Refusal(412, "conditionNotMet", message)


def need(bucket, permission):
    if permission not in allowed.get(bucket, [permission]):
        message = f"Permission 'storage.{permission}' denied on resource (or it may not exist)."
        raise Refusal(403, "forbidden", message, "AccessDenied")


def store(bucket, described, data, query):
    key = described["name"]
    with lock:
        objects = bucket_of(bucket)
        need(bucket, "objects.create")
        check(query, objects.get(key))
        if key in objects:
            need(bucket, "objects.delete")
        made = Object(key, data, described)
        if described.get("crc32c", made.crc32c) != made.crc32c:
            message = f'Provided CRC32C "{described["crc32c"]}" doesn\'t match calculated CRC32C "{made.crc32c}".'
            raise Refusal(400, "invalid", message)
        objects[key] = made
    return made.json(bucket)


def expect_hash(header, data):
    told = re.search(r"crc32c=([^,\s]+)", header or "")
    if told and told[1] != crc32c(data):
        raise Refusal(400, "invalid", "The CRC32C did not match.", "BadDigest")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", headers=(), kind="application/json"):
        if isinstance(body, (dict, list)):
            body = json.dumps(body).encode()
        print(self.command, urllib.parse.unquote(self.path), status, flush=True)
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, refusal, as_xml):
        if as_xml:
            body = (
                f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{refusal.code or 'InvalidArgument'}</Code>"
                f"<Message>{escape(refusal.message)}</Message></Error>"
            )
            self.answer(refusal.status, body.encode(), kind="application/xml")
        else:
            first = {"domain": "global", "reason": refusal.reason, "message": refusal.message}
            error = {"code": refusal.status, "message": refusal.message, "errors": [first]}
            self.answer(refusal.status, {"error": error})

    def handle_one(self):
        length = int(self.headers.get("Content-Length") or 0)
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(length)
        path, _, query = self.path.partition("?")
        query = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        parts = [urllib.parse.unquote(part) for part in path.split("/")[1:]]
        as_xml = parts[0] not in ("storage", "upload", "download", "batch", "expect", "allow")
        try:
            if parts[0] == "expect":
                tokens[parts[1]] = body.decode()
                return self.answer(200, {})
            if parts[0] == "allow":
                allowed[parts[1]] = body.decode().split()
                return self.answer(200, {})
            bucket = parts[0] if as_xml else (re.findall("/b/([^/]+)", path) or [None])[0]
            token = tokens.get(bucket)
            if token and self.headers.get("Authorization") != f"Bearer {token}":
                raise Refusal(401, "authError", "Invalid Credentials", "AuthenticationRequired")
            if parts[0] == "upload":
                return self.upload(parts[4], query, body)
            if parts[0] == "batch":
                return self.batch(body)
            if parts[0] == "download":
                parts = parts[1:]
            if parts[0] == "storage":
                return self.json_api(parts[2:], query, body)
            self.xml_api(parts[0], "/".join(parts[1:]), query, body)
        except Refusal as refusal:
            self.refuse(refusal, as_xml)

    def do_CONNECT(self):
        self.send_response(200)
        self.end_headers()
        self.connection = identity.wrap_socket(self.connection, server_side=True)
        self.setup_files()
        self.close_connection = False

    def setup_files(self):
        self.rfile = self.connection.makefile("rb", -1)
        self.wfile = self.connection.makefile("wb", 0)

    do_GET = do_PUT = do_POST = do_DELETE = handle_one

    def json_api(self, parts, query, body):
        if parts == ["b"] and self.command == "POST":
            name = json.loads(body)["name"]
            if name in buckets:
                raise Refusal(409, "conflict", "You already own this bucket. Please select another name.")
            buckets[name] = {}
            return self.answer(200, {"kind": "storage#bucket", "name": name})
        bucket = parts[1]
        objects = bucket_of(bucket)
        if len(parts) == 2:
            need(bucket, "buckets.get")
            return self.answer(200, {"kind": "storage#bucket", "name": bucket})
        if len(parts) == 3:
            need(bucket, "objects.list")
            return self.listing(bucket, objects, query)
        key = "/".join(parts[3:])
        need(bucket, "objects.delete" if self.command == "DELETE" else "objects.get")
        if self.command == "DELETE":
            with lock:
                object_of(bucket, key)
                del objects[key]
            return self.answer(204)
        found = object_of(bucket, key)
        check(query, found)
        if query.get("alt") != "media":
            return self.answer(200, found.json(bucket))
        headers = [
            ("X-Goog-Generation", str(found.generation)),
            ("X-Goog-Hash", f"crc32c={found.crc32c},md5={found.md5}"),
            ("Last-Modified", formatdate(found.at, usegmt=True)),
        ]
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return self.answer(200, found.data, headers, "application/octet-stream")
        first, last = int(asked[1]), int(asked[2] or len(found.data) - 1)
        if first >= len(found.data):
            raise Refusal(416, "requestedRangeNotSatisfiable", "The requested range cannot be satisfied.")
        data = found.data[first : last + 1]
        headers.append(("Content-Range", f"bytes {first}-{first + len(data) - 1}/{len(found.data)}"))
        self.answer(206, data, headers, "application/octet-stream")

    def listing(self, bucket, objects, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        entries = {}
        with lock:
            for key, found in objects.items():
                if not key.startswith(prefix):
                    continue
                at = key.find(delimiter, len(prefix)) if delimiter else -1
                if at >= 0:
                    entries[key[: at + 1]] = None
                else:
                    entries[key] = found
        after = base64.b64decode(query.get("pageToken", "")).decode()
        names = sorted(name for name in entries if name > after)
        size = min(int(query.get("maxResults", 1000)), PAGE)
        answer = {"kind": "storage#objects"}
        page = names[:size]
        items = [entries[name].json(bucket) for name in page if entries[name]]
        prefixes = [name for name in page if not entries[name]]
        if items:
            answer["items"] = items
        if prefixes:
            answer["prefixes"] = prefixes
        if len(names) > size:
            answer["nextPageToken"] = base64.b64encode(page[-1].encode()).decode()
        self.answer(200, answer)

    def upload(self, bucket, query, body):
        if "upload_id" in query:
            return self.resume(query["upload_id"], body)
        bucket_of(bucket)
        need(bucket, "objects.create")
        how = query["uploadType"]
        described = {"contentType": "application/octet-stream"}
        if "kmsKeyName" in query:
            described["kmsKeyName"] = query["kmsKeyName"]
        if how == "resumable":
            described |= json.loads(body or b"{}")
            described.setdefault("name", query.get("name"))
            check(query, bucket_of(bucket).get(described["name"]))
            name = uuid.uuid4().hex
            sessions[name] = (bucket, described, query, bytearray())
            scheme = "https" if isinstance(self.connection, ssl.SSLSocket) else "http"
            place = f"{scheme}://{self.headers['Host']}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={name}"
            return self.answer(200, b"", [("Location", place)])
        if how == "media":
            described["name"] = query["name"]
            return self.answer(200, store(bucket, described, body, query))
        boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])[1].encode()
        head, rest = body.split(b"--" + boundary, 1)[1].split(b"\r\n--" + boundary, 1)
        described |= json.loads(head.split(b"\r\n\r\n", 1)[1])
        data = rest.split(b"\r\n\r\n", 1)[1]
        end = b"\r\n--" + boundary + b"--"
        data = data[: data.rindex(end)]
        self.answer(200, store(bucket, described, data, query))

    def resume(self, name, body):
        if name not in sessions:
            raise Refusal(404, "notFound", "No such upload")
        bucket, described, query, data = sessions[name]
        if self.command == "DELETE":
            del sessions[name]
            return self.answer(499)
        told = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", self.headers.get("Content-Range", ""))
        if not told:
            told = [None, "0", str(len(body) - 1), str(len(body))]
        if told[1] is not None:
            first, last = int(told[1]), int(told[2])
            if first > len(data) or last - first + 1 != len(body):
                raise Refusal(400, "invalid", "Invalid request: these are not the bytes that come next.")
            if told[3] == "*" and len(body) % GRAIN:
                raise Refusal(400, "invalid", "The number of bytes uploaded must be a multiple of 262144.")
            data += body[len(data) - first :]
        if told[3] == "*" or len(data) < int(told[3]):
            headers = [("Range", f"bytes=0-{len(data) - 1}")] if data else []
            return self.answer(308, b"", headers)
        data = bytes(data)
        expect_hash(self.headers.get("X-Goog-Hash"), data)
        done = store(bucket, described, data, query)
        del sessions[name]
        self.answer(200, done)

    def batch(self, body):
        boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])[1].encode()
        answers = b""
        for number, part in enumerate(body.split(b"--" + boundary)[1:-1]):
            inner = part.replace(b"\r\n", b"\n").split(b"\n\n", 1)[1].decode()
            method, path = inner.split()[:2]
            names = [urllib.parse.unquote(one) for one in urllib.parse.urlsplit(path).path.split("/")]
            at = names.index("o")
            bucket, key = names[at - 1], "/".join(names[at + 1 :])
            need(bucket, "objects.delete")
            print("batched", method, urllib.parse.unquote(path), flush=True)
            status = "204 No Content"
            with lock:
                if method != "DELETE" or not bucket_of(bucket).pop(key, None):
                    status = "404 Not Found"
            complaint = json.dumps({"error": {"code": 404, "message": f"No such object: {bucket}/{key}"}})
            text = "" if status.startswith("204") else complaint
            answers += (
                f"--answers\r\nContent-Type: application/http\r\nContent-ID: <response-{number}>\r\n\r\n"
                f"HTTP/1.1 {status}\r\nContent-Length: {len(text)}\r\n"
                f"Content-Type: application/json; charset=UTF-8\r\n\r\n{text}\r\n"
            ).encode()
        self.answer(200, answers + b"--answers--\r\n", kind="multipart/mixed; boundary=answers")

    def xml_api(self, bucket, key, query, body):
        bucket_of(bucket)
        kind = "application/xml"
        purpose = {"GET": "list" if "uploads" in query else "listParts", "DELETE": "abort"}
        need(bucket, "multipartUploads." + purpose.get(self.command, "create"))
        if self.command == "POST" and "uploads" in query:
            name = uuid.uuid4().hex
            meta = {k[12:]: v for k, v in self.headers.items() if k.lower().startswith("x-goog-meta-")}
            described = {"name": key, "contentType": self.headers.get("Content-Type")}
            if meta:
                described["metadata"] = meta
            if secret := self.headers.get("X-Goog-Encryption-Kms-Key-Name"):
                described["kmsKeyName"] = secret
            with lock:
                uploads[name] = (bucket, described, {}, time.time())
            text = (
                f"<InitiateMultipartUploadResult {SPACE}><Bucket>{bucket}</Bucket><Key>{escape(key)}</Key>"
                f"<UploadId>{name}</UploadId></InitiateMultipartUploadResult>"
            )
            return self.answer(200, text.encode(), kind=kind)
        if self.command == "GET" and not key and "uploads" in query:
            return self.answer(200, self.open_uploads(bucket, query), kind=kind)
        with lock:
            found = uploads.get(query.get("uploadId"))
        if not found or found[1]["name"] != key:
            raise Refusal(404, "notFound", "The requested upload was not found.", "NoSuchUpload")
        _, described, parts, _ = found
        if self.command == "PUT":
            expect_hash(self.headers.get("X-Goog-Hash"), body)
            tag = f'"{md5(body).hexdigest()}"'
            with lock:
                parts[int(query["partNumber"])] = (body, tag, time.time())
            headers = [("ETag", tag), ("X-Goog-Hash", f"crc32c={crc32c(body)}")]
            return self.answer(200, b"", headers)
        if self.command == "DELETE":
            with lock:
                uploads.pop(query["uploadId"], None)
            return self.answer(204)
        if self.command == "GET":
            after = int(query.get("part-number-marker", 0))
            numbers = sorted(n for n in parts if n > after)
            shown = numbers[:PAGE]
            text = "".join(
                f"<Part><PartNumber>{n}</PartNumber><LastModified>{stamp(parts[n][2])}</LastModified>"
                f"<ETag>{escape(parts[n][1])}</ETag><Size>{len(parts[n][0])}</Size></Part>"
                for n in shown
            )
            more = f"<IsTruncated>{str(len(numbers) > PAGE).lower()}</IsTruncated>"
            if len(numbers) > PAGE:
                more += f"<NextPartNumberMarker>{shown[-1]}</NextPartNumberMarker>"
            return self.answer(200, f"<ListPartsResult {SPACE}>{more}{text}</ListPartsResult>".encode(), kind=kind)
        self.complete(bucket, query["uploadId"], described, parts, body)

    def complete(self, bucket, name, described, parts, body):
        data, named = b"", [
            (int(part.find("{*}PartNumber").text), part.find("{*}ETag").text)
            for part in xml.fromstring(body).iterfind("{*}Part")
        ]
        if named != sorted(named) or not named:
            raise Refusal(400, "invalid", "The list of parts was not in ascending order.", "InvalidPartOrder")
        for number, tag in named:
            part = parts.get(number)
            if not part or part[1] != tag:
                raise Refusal(400, "invalid", "A part could not be found.", "InvalidPart")
            if number != named[-1][0] and len(part[0]) < MIN_PART:
                raise Refusal(400, "invalid", "A part is too small.", "EntityTooSmall")
            data += part[0]
        made = store(bucket, described, data, {})
        with lock:
            uploads.pop(name, None)
        text = f"<CompleteMultipartUploadResult {SPACE}><Bucket>{bucket}</Bucket></CompleteMultipartUploadResult>"
        headers = [("X-Goog-Generation", made["generation"]), ("X-Goog-Hash", f"crc32c={made['crc32c']}")]
        self.answer(200, text.encode(), headers, "application/xml")

    def open_uploads(self, bucket, query):
        prefix = query.get("prefix", "")
        after = (query.get("key-marker", ""), query.get("upload-id-marker", ""))
        with lock:
            every = [(u[1]["name"], name, u[3]) for name, u in uploads.items() if u[0] == bucket]
        found = sorted(one for one in every if one[0].startswith(prefix) and one[:2] > after)
        page, more = found[:2], len(found) > 2
        text = "".join(
            f"<Upload><Key>{escape(key)}</Key><UploadId>{name}</UploadId><Initiated>{stamp(at)}</Initiated></Upload>"
            for key, name, at in page
        )
        text += f"<IsTruncated>{str(more).lower()}</IsTruncated>"
        if more:
            text += f"<NextKeyMarker>{escape(page[-1][0])}</NextKeyMarker>"
            text += f"<NextUploadIdMarker>{page[-1][1]}</NextUploadIdMarker>"
        root = "ListMultipartUploadsResult"
        return f"<?xml version='1.0'?><{root} {SPACE}>{text}</{root}>".encode()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


identity.load_cert_chain(sys.argv[2], sys.argv[3])
server = Server(("127.0.0.1", 0), Handler)
with open(sys.argv[1] + ".part", "w") as file:
    file.write(f"{server.server_address[1]}\n")
os.rename(sys.argv[1] + ".part", sys.argv[1])
server.serve_forever()
