"""A stand-in for Microsoft Entra: gives a token to everybody who asks as the
service wants to be asked, over TLS, on a free port of 127.0.0.1, which it writes
to the file that it is given the path of.

    azure_entra.py CERTIFICATE KEY PORT_FILE

A client secret, a client assertion, or the request of a managed identity whose
secret holds the word `wrong` is refused. What was shown is in the token, as the
identity it is for, so that a test can tell whose token it sees."""

import base64
import json
import os
import ssl
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs


def token(identity):
    """A token as Azurite takes it: it looks at the claims and not at the signature."""
    now = int(time.time())
    claims = {
        "aud": "https://storage.azure.com",
        "iss": "https://sts.windows.net/00000000-0000-0000-0000-000000000000/",
        "iat": now - 60,
        "nbf": now - 60,
        "exp": now + 3600,
        "oid": identity,
    }
    parts = [{"alg": "none", "typ": "JWT"}, claims]
    coded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join(coded + ["hush"])


class Entra(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
        shown = form.get("client_secret", form.get("client_assertion", [""]))[0]
        usual = self.path.endswith("/oauth2/v2.0/token") and form.get("grant_type") == ["client_credentials"]
        usual = usual and form.get("scope") == ["https://storage.azure.com/.default"] and shown
        if not usual or "wrong" in shown:
            text = "AADSTS7000215: Invalid client secret provided.\r\nTrace ID: 1"
            return self.answer(401, {"error": "invalid_client", "error_description": text, "error_codes": [7000215]})
        kind = "secret" if "client_secret" in form else "assertion"
        given = {"token_type": "Bearer", "expires_in": 3600, "ext_expires_in": 3600}
        self.answer(200, {**given, "access_token": token(f"{form['client_id'][0]} by {kind}")})

    def do_GET(self):
        """What the reference's libraries ask first: where to ask."""
        tenant = f"https://{self.headers['host']}/{self.path.split('/')[1]}"
        names = {"authorization_endpoint": "authorize", "token_endpoint": "token"}
        found = {name: f"{tenant}/oauth2/v2.0/{path}" for name, path in names.items()}
        self.answer(200, {"issuer": f"{tenant}/v2.0", "metadata": [], "tenant_discovery_endpoint": self.path, **found})

    def answer(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    certificate, key, port_file = sys.argv[1:]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Entra)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with open(port_file + ".part", "w") as file:
        file.write(f"{server.server_port}\n")
    os.rename(port_file + ".part", port_file)
    server.serve_forever()
