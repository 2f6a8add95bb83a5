#!/usr/bin/python3
"""A small service whose state is only in memory, for tests of snapshot and restore.

GET /      one JSON object: value, hostname, machine_id, time, monotonic, random, nonce, pid, uptime, hits
POST /warm the body becomes `value` (and counts in `hits`)

`random` is fresh from the kernel at each request, `nonce` was drawn once at start: two restores of one
snapshot share the nonce and must not share the random. Listens on $PORT, 8080 by default.
"""
import http.server
import json
import os
import socket
import time

STATE = {"value": None, "hits": 0, "nonce": os.urandom(16).hex()}


def first_line(path):
    try:
        with open(path, encoding="ascii") as f:
            return f.readline().strip()
    except OSError:
        return ""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body):
        data = json.dumps(body).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if self.path != "/":
            return self.answer(404, {"error": "no such page"})
        return self.answer(200, {
            **STATE,
            "hostname": socket.gethostname(),
            "machine_id": first_line("/etc/machine-id"),
            "time": time.time(),
            "monotonic": time.monotonic(),
            "random": os.urandom(16).hex(),
            "pid": os.getpid(),
            "uptime": float(first_line("/proc/uptime").split(" ")[0] or 0),
        })

    def do_POST(self):
        if self.path != "/warm":
            return self.answer(404, {"error": "no such page"})
        length = min(int(self.headers.get("Content-Length") or 0), 1 << 16)
        STATE["value"] = self.rfile.read(length).decode("utf-8", "replace")
        STATE["hits"] += 1
        return self.answer(200, {"value": STATE["value"], "hits": STATE["hits"]})

    def log_message(self, format, *args):
        print("app:", format % args, flush=True)


if __name__ == "__main__":
    # Not ThreadingHTTPServer.server_bind's name lookup: there may be no resolver.
    class Server(http.server.ThreadingHTTPServer):
        def server_bind(self):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.bind(self.server_address)
            self.server_name, self.server_port = self.socket.getsockname()

    port = int(os.environ.get("PORT", "8080"))
    server = Server(("0.0.0.0", port), Handler)
    print("app: ready on port", port, flush=True)
    server.serve_forever()
