#!/usr/bin/env python3
"""A small stand-in for the parts of two cloud control planes that disk-snapshot backups use:
Azure Resource Manager (Microsoft.Compute) and Google Compute Engine (compute/v1). Standard library only.

No public emulator offers them. The paths, methods, fields and status codes here were taken from
the vendors' public REST references and from what their own Python SDKs send and accept; it is NOT evidence of
what the real services do beyond that, and a release should be tried once against the real ones.

It takes a free port of 127.0.0.1, prints it, and ends with its input:

    fake_compute.py SEED

SEED is JSON: {"azure": {"subscription": "sub", "resource_group": "rg", "location": "westeurope",
                         "vms": {"vm1": [{"lun": 0, "disk": "pgdata"}]},
                         "disks": {"pgdata": {}, "restored": {"source_snapshot": "SNAPSHOT_NAME"}}},
               "gcp":   {"project": "proj", "zone": "europe-west1-b",
                         "instances": {"vm1": [{"device_name": "pgdata", "disk": "pgdata"}]},
                         "disks": {"pgdata": {}, "restored": {"source_snapshot": "SNAPSHOT_NAME"}}}}
A long-running operation says "in progress" twice before it is done. What was just made is not
found by the next look at it, as services are that have several copies of what they know.

Control, for tests:
  GET  /_requests           everything received so far: [{"method", "path", "query", "body", "auth"}]
  GET  /_snapshots          the names of the snapshots that are there, of both clouds
  POST /_seed               replace the seed (JSON body as above)
  POST /_fault              {"match": "snapshots", "method": "PUT", "status": 503, "times": 2, "headers": {"Retry-After": "0"}, "body": {...}}
                            the next TIMES requests whose path has MATCH get that answer
  POST /_fail_operation     {"message": "quota"}: the next long-running operation ends in failure

Azure (api-version is required, any value is taken; bodies are camelCase, unknown snapshot properties are refused
as the service does):
  GET    /subscriptions/{s}/resourceGroups/{rg}/providers/Microsoft.Compute/virtualMachines/{vm}
  GET    /subscriptions/{s}/resourceGroups/{rg}/providers/Microsoft.Compute/disks/{disk}
  PUT    /subscriptions/{s}/resourceGroups/{rg}/providers/Microsoft.Compute/snapshots/{name}    202 + Azure-AsyncOperation, Location
  GET    ...the same path                                                                       200 or 404
  DELETE ...the same path                                                                       202 (204 if there is none)
  GET    /subscriptions/{s}/providers/Microsoft.Compute/locations/{l}/DiskOperations/{id}       200 {"status": ...}; with monitor=true: 202, then 200
  GET    /metadata/identity/oauth2/token (with header Metadata: true)                           managed identity token
  POST   /{tenant}/oauth2/v2.0/token                                                            service principal token
Google:
  GET    /compute/v1/projects/{p}/zones/{z}/instances/{i}
  GET    /compute/v1/projects/{p}/zones/{z}/disks/{d}
  POST   /compute/v1/projects/{p}/global/snapshots                 200 compute#operation
  GET    /compute/v1/projects/{p}/global/snapshots/{name}
  DELETE /compute/v1/projects/{p}/global/snapshots/{name}          200 compute#operation, or 404
  GET    /compute/v1/projects/{p}/global/operations/{op}           status PENDING, RUNNING, DONE
  POST   /compute/v1/projects/{p}/global/operations/{op}/wait
  POST   /token                                                    OAuth2 token for a service account's token_uri
  GET    /computeMetadata/v1/...                                   metadata server (GCE_METADATA_HOST): token, project-id
"""
import itertools
import json
import os
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

LOCK, SEQ = threading.RLock(), itertools.count(1)
ST = {}
POLLS = 2


def reset(seed):
    ST.clear()
    ST.update(seed=seed, azsnap={}, gsnap={}, ops={}, requests=[], faults=[], failnext=None, unseen={})


def now():
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())


class H(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *a):
        pass

    def reply(self, status, obj=None, headers=()):
        b = b"" if obj is None else json.dumps(obj).encode()
        self.send_response(status)
        for k, v in dict(headers).items():
            self.send_header(k, v)
        if b:
            self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(b)))
        self.end_headers()
        self.wfile.write(b)

    def any(self):
        u = urlsplit(self.path)
        path, q = unquote(u.path), {k: v[0] for k, v in parse_qs(u.query, keep_blank_values=True).items()}
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            body = raw.decode("latin-1")
        with LOCK:
            # What was begun comes to its end whether somebody looks or not.
            for op in ST["ops"].values():
                if op["done"] and not op["fail"] and time.time() > op["born"] + 1:
                    op["done"]()
            if path == "/_requests":
                return self.reply(200, ST["requests"])
            if path == "/_snapshots":
                return self.reply(200, sorted([*ST["azsnap"], *ST["gsnap"]]))
            if path == "/_seed":
                ST["seed"] = body
                return self.reply(200, {})
            if path == "/_fault":
                ST["faults"].append(dict({"match": "", "method": "", "times": 1, "status": 503, "headers": {}, "body": {}}, **body))
                return self.reply(200, {})
            if path == "/_fail_operation":
                ST["failnext"] = body or {"message": "failed"}
                return self.reply(200, {})
            ST["requests"].append({"method": self.command, "path": path, "query": q, "body": body, "auth": (self.headers.get("Authorization") or "").split(" ")[0], "user_agent": self.headers.get("User-Agent")})
            for f in ST["faults"]:
                if f["times"] > 0 and f["match"] in path and f["method"] in ("", self.command):
                    f["times"] -= 1
                    return self.reply(f["status"], f["body"], f["headers"])
            if path.startswith("/metadata/identity"):
                if self.headers.get("Metadata") != "true":
                    return self.reply(400, {"error": "invalid_request"})
                return self.reply(200, {"access_token": "fake", "expires_on": str(int(time.time()) + 3600), "expires_in": "3600", "resource": q.get("resource", ""), "token_type": "Bearer"})
            if path.endswith("/oauth2/v2.0/token") or path == "/token":
                return self.reply(200, {"access_token": "fake", "expires_in": 3600, "token_type": "Bearer"})
            if path.startswith("/computeMetadata/"):
                if path.endswith("/token"):
                    return self.reply(200, {"access_token": "fake", "expires_in": 3600, "token_type": "Bearer"}, {"Metadata-Flavor": "Google"})
                b = ST["seed"]["gcp"]["project"].encode() if path.endswith("project-id") else b"{}" if "recursive" in u.query else b"ok"
                self.send_response(200)
                for k, v in (("Metadata-Flavor", "Google"), ("Content-Type", "application/json" if b == b"{}" else "text/plain"), ("Content-Length", str(len(b)))):
                    self.send_header(k, v)
                self.end_headers()
                return self.wfile.write(b)
            if path.startswith("/subscriptions/"):
                return self.azure(path, q, body)
            if path.startswith("/compute/v1/"):
                return self.gcp(path[len("/compute/v1"):], q, body)
            self.reply(404, {"error": {"code": "NotFound", "message": path}})

    do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = any

    def seen(self, name, kind):
        """Whether a look at a snapshot finds it: the first one after it was made does not."""
        if name not in ST[kind]:
            return False
        looks = ST["unseen"].setdefault(name, 1)
        ST["unseen"][name] = max(0, looks - 1)
        return looks == 0

    # ------------------------------------------------------------- Azure
    def azerr(self, status, code, msg):
        self.reply(status, {"error": {"code": code, "message": msg}})

    def azure(self, path, q, body):
        s = ST["seed"]["azure"]
        if not (self.headers.get("Authorization") or "").startswith("Bearer "):
            return self.azerr(401, "AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing.")
        if not q.get("api-version"):
            return self.azerr(400, "MissingApiVersionParameter", "The api-version query parameter (?api-version=) is required for all requests.")
        m = re.fullmatch(r"/subscriptions/([^/]+)/providers/Microsoft.Compute/locations/[^/]+/DiskOperations/([^/]+)", path)
        if m:
            return self.azop(m[2], q)
        m = re.fullmatch(r"/subscriptions/([^/]+)/resourceGroups/([^/]+)/providers/Microsoft\.Compute/(virtualMachines|disks|snapshots)/([^/]+)", path, re.I)
        if not m:
            return self.azerr(404, "NotFound", "no such path")
        sub, rg, kind, name = m.groups()
        kind = kind.lower()
        if sub != s["subscription"]:
            return self.azerr(404, "SubscriptionNotFound", "The subscription '%s' could not be found." % sub)
        if rg.lower() != s["resource_group"].lower():
            return self.azerr(404, "ResourceGroupNotFound", "Resource group '%s' could not be found." % rg)
        base = "/subscriptions/%s/resourceGroups/%s/providers/Microsoft.Compute" % (sub, rg)
        nf = lambda t: self.azerr(404, "ResourceNotFound", "The Resource 'Microsoft.Compute/%s/%s' under resource group '%s' was not found." % (t, name, rg))
        if kind == "virtualmachines" and self.command == "GET":
            vm = s["vms"].get(name)
            if vm is None:
                return nf("virtualMachines")
            return self.reply(200, {"name": name, "id": "%s/virtualMachines/%s" % (base, name), "type": "Microsoft.Compute/virtualMachines", "location": s["location"], "properties": {
                "vmId": "00000000-0000-0000-0000-000000000001", "provisioningState": "Succeeded",
                "storageProfile": {"osDisk": {"osType": "Linux", "name": name + "_OsDisk", "createOption": "FromImage"},
                                   "dataDisks": [{"lun": d["lun"], "name": d["disk"], "createOption": "Attach", "caching": "None", "diskSizeGB": 32, "toBeDetached": False,
                                                  "managedDisk": {"storageAccountType": "Premium_LRS", "id": "%s/disks/%s" % (base, d["disk"])}} for d in vm]}}})
        if kind == "disks" and self.command == "GET":
            d = s["disks"].get(name)
            if d is None:
                return nf("disks")
            cd = {"createOption": "Empty"}
            if d.get("source_snapshot"):
                cd = {"createOption": "Copy", "sourceResourceId": "%s/snapshots/%s" % (base, d["source_snapshot"])}
            return self.reply(200, {"name": name, "id": "%s/disks/%s" % (base, name), "type": "Microsoft.Compute/disks", "location": s["location"], "sku": {"name": "Premium_LRS", "tier": "Premium"},
                                    "properties": {"creationData": cd, "diskSizeGB": 32, "diskState": "Attached", "provisioningState": "Succeeded", "timeCreated": now()}})
        if kind == "snapshots":
            if self.command == "GET":
                return self.reply(200, ST["azsnap"][name]) if self.seen(name, "azsnap") else nf("snapshots")
            if self.command == "DELETE":
                if name not in ST["azsnap"]:
                    return self.reply(204)
                return self.azlro(202, None, lambda: ST["azsnap"].pop(name, None), s)
            if self.command == "PUT":
                body = body if isinstance(body, dict) else {}
                extra = set(body) - {"location", "properties", "tags", "sku", "extendedLocation", "name", "id", "type"}
                if extra:
                    return self.azerr(400, "InvalidRequestContent", "The request content was invalid and could not be deserialized: Could not find member '%s' on object of type 'ResourceDefinition'." % sorted(extra)[0])
                if not body.get("location"):
                    return self.azerr(400, "LocationRequired", "The location property is required for this definition.")
                p = body.get("properties") or {}
                cd = p.get("creationData") or {}
                if cd.get("createOption") != "Copy" or not (cd.get("sourceUri") or cd.get("sourceResourceId")):
                    return self.azerr(400, "InvalidParameter", "Required parameter 'creationData' is missing (null) or invalid.")
                r = {"name": name, "id": "%s/snapshots/%s" % (base, name), "type": "Microsoft.Compute/snapshots", "location": body["location"],
                     "properties": {"creationData": cd, "incremental": p.get("incremental", False), "provisioningState": "Updating"}}

                ST["azsnap"][name] = r

                def done():
                    r["properties"].update(provisioningState="Succeeded", timeCreated=now(), diskState="Unattached", diskSizeGB=32)
                return self.azlro(202, r, done, s, resource=r)
        self.azerr(405, "MethodNotAllowed", self.command)

    def azlro(self, status, body, done, s, resource=None):
        i = "%08x-0000-0000-0000-000000000000" % next(SEQ)
        ST["ops"][i] = {"left": POLLS, "done": done, "fail": ST["failnext"], "resource": resource, "born": time.time()}
        ST["failnext"] = None
        url = "http://%s/subscriptions/%s/providers/Microsoft.Compute/locations/%s/DiskOperations/%s?api-version=2022-03-02" % (self.headers["Host"], s["subscription"], s["location"], i)
        self.reply(status, body, {"Azure-AsyncOperation": url, "Location": url + "&monitor=true", "Retry-After": "1", "x-ms-request-id": i})

    def azop(self, i, q):
        op = ST["ops"].get(i)
        if op is None:
            return self.azerr(404, "NotFound", "no such operation")
        mon = q.get("monitor") == "true"
        if op["left"] > 0:
            op["left"] -= 1
            return self.reply(202 if mon else 200, None if mon else {"startTime": now(), "status": "InProgress", "name": i}, {"Retry-After": "1", **({"Location": "http://%s%s" % (self.headers["Host"], self.path)} if mon else {})})
        if op["fail"]:
            return self.reply(200 if not mon else 409, {"startTime": now(), "endTime": now(), "status": "Failed", "name": i, "error": {"code": op["fail"].get("code", "OperationNotAllowed"), "message": op["fail"].get("message", "")}})
        if op["done"]:
            op["done"]()
            op["done"] = None
        if mon:
            return self.reply(200, op["resource"])
        self.reply(200, {"startTime": now(), "endTime": now(), "status": "Succeeded", "name": i, **({"properties": {"output": op["resource"]}} if op["resource"] else {})})

    # ------------------------------------------------------------- Google
    def gerr(self, status, reason, msg):
        self.reply(status, {"error": {"code": status, "message": msg, "errors": [{"message": msg, "domain": "global", "reason": reason}]}})

    def gcp(self, path, q, body):
        s = ST["seed"]["gcp"]
        self_url = "https://www.googleapis.com/compute/v1"
        m = re.fullmatch(r"/projects/([^/]+)/(.*)", path)
        if not m or m[1] != s["project"]:
            return self.gerr(404, "notFound", "The resource 'projects/%s' was not found" % (m[1] if m else ""))
        p, rest = m[1], m[2]
        nf = lambda: self.gerr(404, "notFound", "The resource 'projects/%s/%s' was not found" % (p, rest))
        z = "zones/%s" % s["zone"]
        disk = lambda d: "%s/projects/%s/%s/disks/%s" % (self_url, p, z, d)
        m = re.fullmatch(r"zones/([^/]+)/(instances|disks)/([^/]+)", rest)
        if m and self.command == "GET":
            if m[1] != s["zone"]:
                return nf()
            if m[2] == "instances":
                i = s["instances"].get(m[3])
                if i is None:
                    return nf()
                return self.reply(200, {"kind": "compute#instance", "id": "1", "name": m[3], "zone": "%s/projects/%s/%s" % (self_url, p, z), "status": "RUNNING", "selfLink": self_url + path,
                                        "disks": [{"kind": "compute#attachedDisk", "type": "PERSISTENT", "mode": "READ_WRITE", "source": disk(d["disk"]), "deviceName": d["device_name"], "index": n, "boot": False, "autoDelete": False, "interface": "SCSI", "diskSizeGb": "32"} for n, d in enumerate(i)]})
            d = s["disks"].get(m[3])
            if d is None:
                return nf()
            r = {"kind": "compute#disk", "id": "2", "name": m[3], "sizeGb": "32", "zone": "%s/projects/%s/%s" % (self_url, p, z), "status": "READY", "selfLink": self_url + path, "type": "pd-ssd"}
            if d.get("source_snapshot"):
                r["sourceSnapshot"] = "%s/projects/%s/global/snapshots/%s" % (self_url, p, d["source_snapshot"])
            return self.reply(200, r)
        if rest == "global/snapshots" and self.command == "POST":
            n = (body or {}).get("name", "")
            if not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", n):
                return self.gerr(400, "invalid", "Invalid value for field 'resource.name': '%s'. Must be a match of regex '(?:[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?)'" % n)
            src = (body or {}).get("sourceDisk", "")
            if src.split("/")[-1] not in s["disks"]:
                return self.gerr(404, "notFound", "The resource '%s' was not found" % src)
            if n in ST["gsnap"]:
                return self.gerr(409, "alreadyExists", "The resource 'projects/%s/global/snapshots/%s' already exists" % (p, n))
            r = {"kind": "compute#snapshot", "id": str(next(SEQ)), "name": n, "status": "CREATING", "sourceDisk": disk(src.split("/")[-1]), "diskSizeGb": "32", "creationTimestamp": now(), "selfLink": "%s/projects/%s/global/snapshots/%s" % (self_url, p, n)}
            ST["gsnap"][n] = r
            return self.gop(p, "createSnapshot", r["selfLink"], lambda: r.update(status="READY"))
        m = re.fullmatch(r"global/snapshots/([^/]+)", rest)
        if m:
            if m[1] not in ST["gsnap"]:
                return nf()
            if self.command == "GET":
                return self.reply(200, ST["gsnap"][m[1]]) if self.seen(m[1], "gsnap") else nf()
            if self.command == "DELETE":
                if ST["gsnap"][m[1]]["status"] != "READY":
                    return self.gerr(400, "resourceNotReady", "The resource 'projects/%s/%s' is not ready" % (p, rest))
                return self.gop(p, "delete", ST["gsnap"][m[1]]["selfLink"], lambda: ST["gsnap"].pop(m[1], None))
        m = re.fullmatch(r"global/operations/([^/]+?)(/wait)?", rest)
        if m and m[1] in ST["ops"]:
            op = ST["ops"][m[1]]
            o = op["resource"]
            if op["left"] > 0:
                op["left"] -= 1
                o.update(status="RUNNING", progress=50)
            elif o["status"] != "DONE":
                o.update(status="DONE", progress=100, endTime=now())
                if op["fail"]:
                    o.update(httpErrorStatusCode=403, httpErrorMessage="FORBIDDEN", error={"errors": [{"code": "QUOTA_EXCEEDED", "message": op["fail"].get("message", "")}]})
                else:
                    op["done"]()
            return self.reply(200, o)
        nf()

    def gop(self, p, kind, target, done):
        i = "operation-%d" % next(SEQ)
        o = {"kind": "compute#operation", "id": str(next(SEQ)), "name": i, "operationType": kind, "targetLink": target, "targetId": "1", "status": "RUNNING", "progress": 0,
             "insertTime": now(), "startTime": now(), "user": "test@example.com", "selfLink": "https://www.googleapis.com/compute/v1/projects/%s/global/operations/%s" % (p, i)}
        ST["ops"][i] = {"left": POLLS, "done": done, "fail": ST["failnext"], "resource": o, "born": time.time()}
        ST["failnext"] = None
        self.reply(200, o)


class Server(ThreadingHTTPServer):
    daemon_threads = True


def end_with_input():
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    reset(json.loads(sys.argv[1]))
    server = Server(("127.0.0.1", 0), H)
    print(server.server_address[1], flush=True)
    threading.Thread(target=end_with_input, daemon=True).start()
    server.serve_forever()
