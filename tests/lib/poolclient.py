"""A pool and clients of it, written from doc/protocol.md alone.

    with Pool("--min", "2", "--max", "4", warm=2, snapshot="s1") as p, Client() as c:
        got = c.ask("CLAIM")          # a Line: .word "CLAIMED", .keys {"claim": "1", "vm": ...}
        c.ask("RELEASE claim=" + got.keys["claim"])

What pools and their workers say goes to pools.log beside $SMVM_RUN_DIR.
"""
import json
import os
import re
import select
import socket
import subprocess
import time

from cases import same, until

RUN = os.environ["SMVM_RUN_DIR"]
LOG = open(os.path.join(os.path.dirname(RUN), "pools.log"), "a")


class Line:
    def __init__(self, text):
        self.text = text
        self.word = text.partition(" ")[0]
        self.keys = {k: v.strip('"') for k, v in re.findall(r' ([a-z_]+)=("[^"]*"|[^ ]+)', text)}

    def __repr__(self):
        return self.text


class Client:
    def __init__(self, name="default"):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect("%s/pool-%s.sock" % (RUN, name))
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, line):
        self.sock.sendall(line.encode() + b"\n")

    def line(self, timeout=60):
        end = time.monotonic() + timeout
        while b"\n" not in self.buffer:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.sock], [], [], left)[0]:
                raise TimeoutError("no line")
            data = self.sock.recv(65536)
            if not data:
                raise EOFError("the pool has closed the connection")
            self.buffer += data
        text, _, self.buffer = self.buffer.partition(b"\n")
        return Line(text.decode())

    def ask(self, line, timeout=60):
        self.send(line)
        return self.line(timeout)

    def status(self):
        got = self.ask("STATUS")
        return json.loads(got.text.partition(" ")[2])


class Pool:
    def __init__(self, *args, warm=None, name="default", snapshot="s1", command=("smvm-runner",)):
        self.name = name
        self.log_from = os.fstat(LOG.fileno()).st_size
        # What it says, and its workers, is for who reads a failure; it is not to hold this program's own pipes.
        self.process = subprocess.Popen([*command, "pool", "--name", name, "--snapshot", snapshot, *args],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=LOG)
        try:
            until(self.listens)
            if warm is not None:
                until(lambda: self.status()["warm"] == warm, 60)
        except BaseException:
            self.process.terminate()
            self.process.wait(60)
            raise

    def listens(self):
        try:
            return self.status()
        except (FileNotFoundError, ConnectionRefusedError, EOFError):
            assert self.process.poll() is None, "the pool has ended, status %d: %s" % (self.process.returncode, self.said())
            return False

    def said(self):
        """What it has said, and its workers, on standard error."""
        with open(LOG.name, errors="replace") as f:
            f.seek(self.log_from)
            return f.read().strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        same(self.process.wait(60), 0)

    def status(self):
        with Client(self.name) as c:
            return c.status()
