"""A supervisor, written from doc/protocol.md alone: what a platform would have of its own.

    with Supervisor(["smvm-runner", "worker"]) as s:
        s.expect("READY")
        s.send("RESTORE python")
        done = s.answer()          # a Line: .word "DONE", .first 812, .keys {"remap_cow_us": 3 ...}
        s.quit()
"""
import os
import re
import select
import socket
import subprocess
import tempfile
import time

PHASES = [
    "reset_vsock_us", "remap_cow_us", "load_meta_us", "restore_snapshot_us", "ram_copy_us", "gic_restore_us",
    "vcpu_restore_us", "vtimer_offset_us", "mmio_restore_us", "listener_restore_us",
]
NUMBER = "(0|[1-9][0-9]*)"
SEED = [re.compile(p) for p in (
    "READY",
    "DONE %s( host_port=%s)?%s" % (NUMBER, NUMBER, "".join(" %s=%s" % (k, NUMBER) for k in PHASES)),
    "DONE_SNAPSHOT bytes_written=%s capture_us=%s save_us=%s" % (NUMBER, NUMBER, NUMBER),
    "DONE_SNAPSHOT_ASYNC bytes_written=%s capture_us=%s save_us=%s" % (NUMBER, NUMBER, NUMBER),
    "ERR_SNAPSHOT [^\n]+",
    "BAKE_READY",
)]
PAIR = re.compile(r'([a-z0-9_]+)=("(?:[^"\\]|\\["\\]|\\x[0-9a-fA-F]{2})*"|[^ "]+)')


class Gone(Exception):
    """The worker has closed the connection."""


def unquote(word):
    if not word.startswith('"'):
        return word
    return re.sub(r'\\(x[0-9a-fA-F]{2}|.)', lambda m: chr(int(m[1][1:], 16)) if len(m[1]) == 3 else m[1], word[1:-1])


class Line:
    def __init__(self, text):
        self.text = text
        self.word, _, rest = text.partition(" ")
        self.first = None
        self.keys = {}
        head = re.match(r"([^ =]+)( |$)", rest)
        if head and self.word in ("DONE", "HELLO"):
            self.first = int(head[1])
            rest = rest[head.end():]
        while True:
            m = PAIR.match(rest)
            if not m:
                break
            value = unquote(m[2])
            self.keys[m[1]] = int(value) if re.fullmatch(NUMBER, value) else value
            rest = rest[m.end():].lstrip(" ")
        self.rest = rest

    def __repr__(self):
        return self.text


class Supervisor:
    def __init__(self, command, timeout=70, accept=True):
        # An answer comes within 60 s, by the protocol; who waits less tests how busy the host is.
        self.timeout = timeout
        self.seed = True
        self.dir = tempfile.mkdtemp(prefix="supervisor.")
        self.path = os.path.join(self.dir, "worker.sock")
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.path)
        self.listener.listen(1)
        self.errors = open(os.path.join(self.dir, "errors"), "w+")
        self.process = subprocess.Popen(command[:2] + ["--socket", self.path] + command[2:], stderr=self.errors,
                                        stdin=subprocess.DEVNULL)
        self.buffer = b""
        self.sock = None
        if accept:
            self.accept()

    def accept(self):
        self.listener.settimeout(self.timeout)
        self.sock, _ = self.listener.accept()
        self.sock.settimeout(self.timeout)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.sock:
            self.sock.close()
        self.listener.close()
        try:
            self.process.wait(self.timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.errors.close()
            for f in os.listdir(self.dir):
                os.unlink(os.path.join(self.dir, f))
            os.rmdir(self.dir)

    # ---- lines

    def raw(self, data):
        self.sock.sendall(data)

    def send(self, line):
        self.raw(line.encode() + b"\n")

    def line(self, timeout=None):
        timeout = self.timeout if timeout is None else timeout
        end = time.monotonic() + timeout
        while b"\n" not in self.buffer:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.sock], [], [], left)[0]:
                raise TimeoutError("no line within %s s" % timeout)
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                raise Gone(self.said())
            self.buffer += data
        text, _, self.buffer = self.buffer.partition(b"\n")
        assert len(text) <= 16384, "a line of %d bytes" % len(text)
        text = text.decode("utf-8", "surrogateescape")
        if self.seed and not any(p.fullmatch(text) for p in SEED):
            raise AssertionError("not a line of the seed's: %r" % text)
        return Line(text)

    def answer(self, *words, timeout=None):
        """The next line; with `words`, the next that begins with one of them, PROGRESS and ENDED stepped over."""
        while True:
            got = self.line(timeout)
            if not words or got.word in words:
                return got
            if got.word not in ("PROGRESS", "ENDED"):
                raise AssertionError("%r where one of %s is due" % (got.text, words))

    def expect(self, text, timeout=None):
        got = self.line(timeout)
        assert got.text == text, "%r, not %r" % (got.text, text)

    def quiet(self, seconds=0.3):
        try:
            got = self.line(seconds)
        except TimeoutError:
            return
        raise AssertionError("said %r, where nothing is due" % got.text)

    def closed(self, timeout=None):
        """The connection is."""
        try:
            got = self.line(timeout)
        except Gone:
            return
        raise AssertionError("said %r, where the connection is to be closed" % got.text)

    def gone(self, timeout=None):
        """The connection is closed; the exit status."""
        self.closed(timeout)
        return self.process.wait(self.timeout)

    def said(self):
        """What it has said on standard error."""
        self.errors.flush()
        with open(os.path.join(self.dir, "errors")) as f:
            return f.read()

    # ---- requests

    def hello(self):
        self.send("HELLO 1")
        # It may come behind what was said before, in the seed's words.
        self.seed = False
        got = self.answer("HELLO")
        assert got.first == 1, got
        self.vm, self.rundir = got.keys["vm"], got.keys["dir"]
        return got

    def ask(self, line, *words, timeout=None):
        self.send(line)
        return self.answer(*words, timeout=timeout)

    def quit(self):
        self.send("QUIT")
        if not self.seed:
            assert self.answer("BYE").text == "BYE"
        return self.gone()
