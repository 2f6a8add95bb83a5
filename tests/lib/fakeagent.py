"""A guest's agent, written from doc/agent-protocol.md alone, that says what a test wants it to: an old one, a newer one, one
that lies. It listens where the runner of a bare guest, which has no agent, would have its vsock.sock.

    with FakeAgent(path, lambda c: c.greet() and c.exec(b"out", status=3)) as a:
        ...run a command; a.types has what it was asked
"""
import os
import socket
import struct
import threading

HELLO, ERROR, EXEC, STARTED, STDIN, STDOUT, STDERR = range(1, 8)
EXIT, INFO, INFO_IS = 10, 15, 16
CONNECT, OPENED, READ, WRITE, FETCH, PUT, DATA, ENTRY, DONE = range(21, 30)
MAGIC = 0x61764D53


def item(tag, value):
    if isinstance(value, str):
        value = value.encode()
    return struct.pack("<HI", tag, len(value)) + value


def frame(kind, payload=b"", length=None, pad=0):
    return struct.pack("<IHH", len(payload) if length is None else length, kind, pad) + payload


def hello(version, magic=MAGIC):
    return frame(HELLO, struct.pack("<IH", magic, version))


def exited(status, kind=0, more=b""):
    return frame(EXIT, item(1, struct.pack("<B", kind)) + item(2, struct.pack("<I", status)) + more)


def error(code, message):
    return frame(ERROR, item(1, struct.pack("<I", code)) + item(2, message))


def entry(path, kind, size=0, target="", more=b""):
    e = (item(1, path) if path else b"") + item(2, bytes([kind])) + item(3, struct.pack("<I", 0o644 if kind == 1 else 0o755))
    if kind == 1:
        e += item(7, struct.pack("<Q", size))
    return frame(ENTRY, e + (item(9, target) if target else b"") + more)


class Ended(Exception):
    """The runner has closed the connection."""


class Connection:
    def __init__(self, agent, sock):
        self.agent, self.sock, self.input = agent, sock, b""

    def say(self, data):
        self.sock.sendall(data)

    def drip(self, data, pause=0.002):
        """Byte by byte."""
        for b in data:
            self.say(bytes([b]))
            self.agent.over.wait(pause)

    def take(self, n):
        while len(self.input) < n:
            data = self.sock.recv(65536)
            if not data:
                raise Ended
            self.input += data
        got, self.input = self.input[:n], self.input[n:]
        return got

    def frame(self):
        length, kind, _ = struct.unpack("<IHH", self.take(8))
        self.agent.types.append(kind)
        return kind, self.take(length)

    def connect(self):
        """CONNECT 1024 and its answer; what the runner's HELLO says its version is."""
        line = b""
        while not line.endswith(b"\n"):
            line += self.take(1)
        assert line == b"CONNECT 1024\n", line
        self.say(b"OK 1073741824\n")
        kind, payload = self.frame()
        magic, self.version = struct.unpack("<IH", payload)
        assert (kind, magic) == (HELLO, MAGIC)

    def greet(self, version=2):
        self.connect()
        self.say(hello(version))
        return self.frame()[0]

    def rest(self):
        """Until the runner has gone."""
        while True:
            self.frame()


class FakeAgent:
    def __init__(self, path, behave):
        self.path, self.behave = path, behave
        self.types, self.failures = [], []
        self.over = threading.Event()
        self.listener = socket.socket(socket.AF_UNIX)
        if os.path.exists(path):
            os.unlink(path)
        self.listener.bind(path)
        self.listener.listen(16)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock):
        try:
            self.behave(Connection(self, sock))
        except (Ended, BrokenPipeError, ConnectionResetError):
            pass
        except Exception as e:
            self.failures.append(repr(e))
        sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.over.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        os.unlink(self.path)
        assert not self.failures, self.failures
