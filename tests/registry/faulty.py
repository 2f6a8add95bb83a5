#!/usr/bin/python3
"""faulty.py LAYOUT LOG [CERT KEY]: a registry that serves one OCI layout, well or badly.

The first component of a repository names what goes wrong: /v2/truncate/x/... breaks bodies off, /v2/ok/x/...
serves well. Three loopback listeners: the registry, a second host for redirects ("mirror"), and with
CERT the registry over TLS. Prints one line "REGISTRY MIRROR TLS" (ports) when all listen. Every request
becomes one JSON line in LOG: what a test asserts about what the client sent.
"""
import base64
import collections
import hashlib
import http.server
import json
import os
import ssl
import sys
import threading
import time

LAYOUT, LOG = sys.argv[1], open(sys.argv[2], "w", buffering=1, encoding="utf-8")
USER, PASSWORD = "pull", "s3cret"
LOCK = threading.Lock()
SEEN = collections.Counter()
PORTS = {}


def blob_path(digest):
    return os.path.join(LAYOUT, "blobs", *digest.split(":"))


def read_blob(digest):
    with open(blob_path(digest), "rb") as f:
        return f.read()


def digest_of(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


with open(os.path.join(LAYOUT, "index.json"), encoding="utf-8") as index_file:
    TOP = json.load(index_file)["manifests"][0]
MANIFEST = read_blob(TOP["digest"])
LAYERS = [layer["digest"] for layer in json.loads(MANIFEST)["layers"]]
BIG = max(LAYERS, key=lambda d: os.path.getsize(blob_path(d)))
EXTRA = {}  # digest -> (content, type): documents made up here


def changed(fn):
    doc = json.loads(MANIFEST)
    fn(doc)
    return json.dumps(doc).encode()


def index_of(entries, media_type="application/vnd.oci.image.index.v1+json"):
    return json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": entries}).encode()


def platform(os_name, arch, **more):
    return {"os": os_name, "architecture": arch, **more}


def set_layer(key, value):
    def change(doc):
        doc["layers"][0][key] = value(doc["layers"][0][key])
    return change


def manifest_for(fault):
    """(body, content type) of the manifest as this fault serves it."""
    oci = TOP["mediaType"]
    entry = {"mediaType": oci, "digest": TOP["digest"], "size": TOP["size"]}
    if fault == "index":
        return index_of([dict(entry, digest="sha256:" + "0" * 64, platform=platform("linux", "arm64")),
                         dict(entry, platform=platform("linux", "amd64"))]), None
    if fault == "dockerlist":
        kind = "application/vnd.docker.distribution.manifest.list.v2+json"
        return index_of([dict(entry, platform=platform("linux", "amd64"))], kind), kind
    if fault == "otherarch":
        return index_of([dict(entry, platform=platform("linux", "riscv64"))]), None
    if fault == "indexsize":
        return index_of([dict(entry, size=TOP["size"] + 1, platform=platform("linux", "amd64"))]), None
    if fault == "schema1":
        return json.dumps({"schemaVersion": 1, "name": "x", "fsLayers": []}).encode(), \
            "application/vnd.docker.distribution.manifest.v1+prettyjws"
    if fault == "contradict":
        return MANIFEST, "application/vnd.docker.distribution.manifest.list.v2+json"
    if fault == "bigmanifest" or fault == "bigchunked":
        return b" " * (5 << 20), oci
    if fault == "notjson":
        return b"<html>welcome</html>", oci
    if fault == "liesize":
        return changed(set_layer("size", lambda n: n + 1)), oci
    if fault == "liesmall":
        return changed(set_layer("size", lambda n: n - 1)), oci
    if fault == "layertype":
        return changed(set_layer("mediaType", lambda t: "application/x-unknown")), oci
    if fault == "artifact":
        return changed(lambda d: d["config"].update(mediaType="application/vnd.cncf.helm.config.v1+json")), oci
    if fault == "duplicate":
        return MANIFEST.rstrip()[:-1] + b', "layers": []}', oci
    return MANIFEST, oci


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    # ---- answers ----

    def send(self, status, body=b"", headers=(), kind="application/json", length=None):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def error(self, status, message, headers=()):
        self.send(status, json.dumps({"errors": [{"code": "X", "message": message}]}).encode(), headers)

    def hang_up(self):
        self.close_connection = True
        self.connection.shutdown(2)

    def body(self, data, start=0, cut=None):
        """A blob from `start`, its connection closed after `cut` bytes of it."""
        part = data[start:]
        headers = [("Content-Range", "bytes %d-%d/%d" % (start, len(data) - 1, len(data)))] if start else []
        self.send(206 if start else 200, part if cut is None else part[:cut], headers, "application/octet-stream",
                  len(part))
        if cut is not None:
            self.wfile.flush()
            self.hang_up()

    def chunked(self, data, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.command == "HEAD":
            return
        for at in range(0, len(data), 65536):
            part = data[at:at + 65536]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")

    # ---- requests ----

    def first_times(self, n):
        """True for the first n requests of this path."""
        with LOCK:
            SEEN[self.path] += 1
            return SEEN[self.path] <= n

    def log(self):
        LOG.write(json.dumps({
            "listener": self.server.role, "method": self.command, "path": self.path,
            "authorization": self.headers.get("Authorization"), "range": self.headers.get("Range"),
            "accept": self.headers.get("Accept"), "agent": self.headers.get("User-Agent")}) + "\n")

    def do_HEAD(self):
        self.do_GET()

    def do_POST(self):
        length = int(self.headers.get("Content-Length") or 0)
        self.form = self.rfile.read(length).decode()
        self.do_GET()

    def do_GET(self):
        self.log()
        try:
            if self.server.role == "mirror":
                return self.mirror()
            if self.path.startswith("/token"):
                return self.token()
            if self.path == "/v2/":
                return self.send(200, b"{}")
            parts = self.path.split("/")
            if len(parts) < 6 or parts[1] != "v2":
                return self.error(404, "no such page")
            return self.registry(parts[2], parts[-2], parts[-1])
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def base(self):
        return "%s://127.0.0.1:%d" % ("https" if self.server.role == "tls" else "http",
                                      self.server.server_address[1])

    def token(self):
        basic = "Basic " + base64.b64encode(("%s:%s" % (USER, PASSWORD)).encode()).decode()
        if "private" in self.path and self.headers.get("Authorization") != basic:
            return self.error(401, "bad credentials")
        if self.command == "POST" and "refresh_token=identity" not in self.form:
            return self.error(401, "bad refresh token")
        if "expiring" in self.path:
            with LOCK:
                SEEN["tokens"] += 1
                return self.send(200, json.dumps({"token": "T%d" % SEEN["tokens"]}).encode())
        return self.send(200, json.dumps({"access_token": "T0", "expires_in": 300}).encode())

    def challenge(self, fault):
        """True when the request may go on."""
        sent = self.headers.get("Authorization")
        realm = self.base() + "/token"
        bearer = 'Bearer realm="%s?for=%s",service="reg,istry",scope="repository:%s/x:pull"' % (realm, fault, fault)
        if fault in ("anonymous", "private", "identity", "tokenredirect"):
            if sent == "Bearer T0":
                return True
            self.error(401, "token please", [("WWW-Authenticate", bearer)])
        elif fault == "expiring":
            with LOCK:
                SEEN["expiring"] += 1
                good = sent == "Bearer T%d" % SEEN["tokens"] and SEEN["expiring"] % 3
            if good:
                return True
            self.error(401, "token expired", [("WWW-Authenticate", bearer)])
        elif fault in ("basic", "basicredirect"):
            if sent == "Basic " + base64.b64encode(("%s:%s" % (USER, PASSWORD)).encode()).decode():
                return True
            self.error(401, "password please", [("WWW-Authenticate", 'Digest realm="x", nonce="y"'),
                                                ("WWW-Authenticate", 'Basic realm="faulty"')])
        elif fault == "loop401":
            self.error(401, "never enough", [("WWW-Authenticate", bearer)])
        elif fault == "norealm":
            self.error(401, "where", [("WWW-Authenticate", 'Bearer service="x"')])
        elif fault == "garbled":
            self.error(401, "what", [("WWW-Authenticate", 'Bearer realm="unterminated')])
        elif fault == "plainrealm":
            plain = "http://127.0.0.1:%d/token" % PORTS["registry"]
            self.error(401, "leak", [("WWW-Authenticate", 'Bearer realm="%s"' % plain)])
        else:
            return True
        return False

    def registry(self, fault, what, name):
        if not self.challenge(fault):
            return None
        if fault == "busy" and self.first_times(1):
            return self.error(429, "slow down", [("Retry-After", "1")])
        if fault == "closed":
            return self.error(429, "come back tomorrow", [("Retry-After", "86400")])
        if fault == "shaky" and self.first_times(2):
            return self.hang_up() if SEEN[self.path] == 1 else self.error(503, "again")
        if fault == "broken":
            return self.error(500, "always")
        if fault == "headers":
            return self.send(200, b"", [("X-%d" % i, "y" * 8000) for i in range(60)])
        if what == "manifests":
            return self.manifest(fault, name)
        if what == "blobs":
            return self.blob(fault, name)
        return self.error(404, "no such page")

    def manifest(self, fault, name):
        body, kind = (MANIFEST, TOP["mediaType"])
        if name != TOP["digest"]:
            body, kind = manifest_for(fault)
        if fault == "missing":
            return self.error(404, "manifest unknown")
        if fault == "denied":
            return self.error(403, "not for you")
        if fault == "bigchunked":
            return self.chunked(body, kind)
        told = "sha256:" + "1" * 64 if fault == "liedigest" else digest_of(body)
        headers = [] if fault == "nohead" else [("Docker-Content-Digest", told)]
        if fault == "nohead" and self.command == "HEAD":
            return self.error(405, "no HEAD here")
        return self.send(200, body, headers, kind or "application/vnd.oci.image.index.v1+json")

    def wanted_start(self, data):
        value = self.headers.get("Range") or ""
        if not value.startswith("bytes="):
            return 0
        first, _, last = value[6:].partition("-")
        assert last and int(last) == len(data) - 1, "an open or wrong range: " + value
        return int(first)

    def blob(self, fault, name):
        if not os.path.exists(blob_path(name)):
            return self.error(404, "blob unknown")
        data = read_blob(name)
        start = self.wanted_start(data)
        big = name == BIG
        if fault in ("basicredirect", "tokenredirect", "redirectauth"):
            where = "http://localhost:%d/%s/%s" % (PORTS["mirror"], fault, name)
            return self.send(307, b"", [("Location", where)])
        if fault == "redirectloop":
            return self.send(302, b"", [("Location", self.path)])
        if fault == "relative":
            return self.send(302, b"", [("Location", self.path.replace("/relative/", "/ok/"))])
        if fault == "downgrade":
            where = "http://127.0.0.1:%d%s" % (PORTS["registry"], self.path.replace("downgrade", "ok"))
            return self.send(302, b"", [("Location", where)])
        if fault == "scheme":
            return self.send(302, b"", [("Location", "file:///etc/passwd")])
        if not big:
            return self.body(data, start)
        half = len(data) // 2
        if fault == "truncate" and not start:
            return self.body(data, 0, half)
        if fault == "norange":
            return self.body(data, 0, half if self.first_times(2) else None)
        if fault == "range416":
            if start:
                return self.error(416, "no ranges")
            return self.body(data, 0, half if self.first_times(1) else None)
        if fault == "wrongrange":
            if not start:
                return self.body(data, 0, half)
            return self.send(206, data[start - 1:-1], [
                ("Content-Range", "bytes %d-%d/%d" % (start - 1, len(data) - 2, len(data)))])
        if fault == "always":
            return self.body(data, start, 0)
        if fault == "flip":
            return self.body(data[:half] + bytes([data[half] ^ 1]) + data[half + 1:], start)
        if fault == "longer":
            return self.chunked(data + b"more", "application/octet-stream")
        if fault == "shorter":
            return self.body(data[:-1])
        if fault == "stall" and not start:
            self.send(200, data[:half], kind="application/octet-stream", length=len(data))
            self.wfile.flush()
            time.sleep(20)
            return self.hang_up()
        if fault == "drip":
            self.send(200 if not start else 206, b"", [] if not start else [
                ("Content-Range", "bytes %d-%d/%d" % (start, len(data) - 1, len(data)))], length=len(data) - start)
            for byte in data[start:start + 50]:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(0.2)
            return self.hang_up()
        if fault == "chunked":
            return self.chunked(data, "application/octet-stream")
        return self.body(data, start)

    def mirror(self):
        _, fault, name = self.path.split("/")
        if fault == "redirectauth":
            return self.error(401, "tell me", [("WWW-Authenticate", 'Basic realm="mine"')])
        return self.body(read_blob(name), 0)

    def log_message(self, format, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        # A client that gives up on us is what many tests are about.
        if not isinstance(sys.exc_info()[1], (ConnectionError, ssl.SSLError)):
            super().handle_error(request, client_address)


def serve(role, cert=None, key=None):
    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.role = role
    if cert:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    PORTS[role] = server.server_address[1]
    threading.Thread(target=server.serve_forever, daemon=True).start()


def main():
    serve("registry")
    serve("mirror")
    if len(sys.argv) > 3:
        serve("tls", sys.argv[3], sys.argv[4])
    print(PORTS["registry"], PORTS["mirror"], PORTS.get("tls", 0), flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
