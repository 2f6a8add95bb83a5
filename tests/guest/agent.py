"""The cases of test_agent.sh: TAP on standard output."""
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, "tests/lib")
from cases import case, cli, done, same  # noqa: E402
from fakeagent import (CONNECT, DATA, DONE, ENTRY, EXEC, EXIT, FETCH, HELLO, OPENED, STARTED, STDERR, STDOUT, Ended,  # noqa: E402
                       FakeAgent, entry, error, exited, frame, hello, item)

T = os.environ["T"]
FUTURE = item(200, b"of a version to come")
BEGUN = frame(STARTED, struct.pack("<I", 7))
DIR, FILE, LINK = 2, 1, 3


def vsock(vm):
    return json.loads(cli("info", vm).stdout)["dir"] + "/vsock.sock"


def run(*args, timeout=300, text=True):
    began = time.monotonic()
    got = subprocess.run(["smvm-runner", *args], capture_output=True, text=text, timeout=timeout, stdin=subprocess.DEVNULL)
    got.seconds = time.monotonic() - began
    return got


def agent(behave, vm="vm1"):
    return FakeAgent(PATHS[vm], behave)


def answers(*what, version=2):
    """Greets, takes a request, says all of it and waits for the runner to go."""
    def behave(c):
        c.greet(version)
        for data in what:
            c.say(data)
        c.rest()
    return behave


def refused(got, *words):
    """One line that says why, and nothing a terminal would obey."""
    assert got.returncode not in (0, 124) and got.returncode < 128, got
    same(got.stderr.count("\n"), 1)
    assert all(c == "\n" or c.isprintable() for c in got.stderr), got.stderr
    for w in words:
        assert w in got.stderr, got.stderr


PATHS = {vm: vsock(vm) for vm in ("vm1", "vm2", "vm3", "vm4", "vm5", "vm6", "vm7")}


# ---- versions

@case("an agent of version 1: exec as ever; what it lacks is refused, and not asked of it")
def _():
    said = BEGUN + frame(STDOUT, b"out\n") + frame(STDERR, b"err\n") + frame(STDOUT) + frame(STDERR) + exited(3)
    with agent(answers(said, version=1)) as a:
        got = run("exec", "vm1", "true")
        same((got.returncode, got.stdout, got.stderr), (3, "out\n", "err\n"))
        refused(run("exec", "--stats", "vm1", "true"), "(version 1) cannot measure")
        refused(run("cp", "vm1:/x", T + "/x"), "(version 1) cannot copy")
        refused(run("cp", __file__, "vm1:/x"), "(version 1) cannot copy")
        assert max(a.types) < 20, a.types


@case("an agent of version 1: a connection to a forwarded port is reset")
def _():
    with agent(answers(b"", version=1)):
        f = subprocess.Popen(["smvm-runner", "forward", "vm1", "0:80"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        port = int(f.stdout.readline().split(":")[1])
        with socket.create_connection(("127.0.0.1", port), 60) as s:
            try:
                same(s.recv(1), "a reset")
            except ConnectionResetError:
                pass
        f.terminate()
        assert "(version 1) cannot forward ports" in f.communicate(timeout=60)[1]
        same(f.returncode, 0)


@case("an agent of a version to come: it is told ours, and items that are not known are skipped")
def _():
    def behave(c):
        kind = c.greet(9)
        same(c.version, 2)
        if kind == EXEC:
            c.say(BEGUN + frame(STDOUT, b"new\n") + exited(4, more=FUTURE))
        else:
            same(kind, FETCH)
            c.say(frame(OPENED, FUTURE) + entry("", DIR, more=FUTURE) + entry("f", FILE, 3, more=FUTURE) + frame(DATA, b"abc") +
                  frame(DONE, FUTURE))
        c.rest()
    with agent(behave):
        got = run("exec", "vm1", "true")
        same((got.returncode, got.stdout), (4, "new\n"))
        same(run("cp", "vm1:/tree", T + "/new").returncode, 0)
        with open(T + "/new/f") as f:
            same(f.read(), "abc")


@case("exec: EXEC does not wait for the agent's HELLO; what depends on its version does")
def _():
    said = BEGUN + frame(STDOUT, b"out\n") + exited(3)
    for version in 1, 2, 9:
        def behave(c, version=version):
            c.connect()
            same(c.frame()[0], EXEC)
            c.say(hello(version) + said)
            c.rest()
        with agent(behave):
            got = run("exec", "vm1", "true")
            same((got.returncode, got.stdout, got.stderr), (3, "out\n", ""))

    def waits(c):
        c.connect()
        c.sock.settimeout(0.5)
        try:
            same(c.frame(), "nothing before HELLO")
        except socket.timeout:
            c.sock.settimeout(None)
        c.say(hello(1))
        c.rest()
    with agent(waits) as a:
        refused(run("exec", "--stats", "vm1", "true"), "(version 1) cannot measure")
        same(set(a.types), {HELLO})


@case("exec: once EXEC is said it is not said again, whatever becomes of the connection")
def _():
    def refuses(c):
        c.connect()
        c.say(error(16, "256 sessions are open"))

    def drops(c):
        c.connect()
        same(c.frame()[0], EXEC)

    def is_slow(c):
        c.connect()
        same(c.frame()[0], EXEC)
        # Longer than the client's patience with a first attempt at a connection.
        time.sleep(2.5)
        c.say(hello(2) + BEGUN + exited(0))
        c.rest()
    with agent(refuses) as a:
        refused(run("exec", "vm1", "true"), "connect to the guest's agent: ", "256 sessions are open")
        assert a.types.count(HELLO) == 1, a.types
    with agent(drops) as a:
        refused(run("exec", "vm1", "true"), "connect to the guest's agent: ")
        same(a.types, [HELLO, EXEC])
    with agent(is_slow) as a:
        same(run("exec", "vm1", "true").returncode, 0)
        same(a.types[:2] + [t for t in a.types[2:] if t in (HELLO, EXEC)], [HELLO, EXEC])


@case("what is no agent is refused at once")
def _():
    for first in (hello(0), hello(2, magic=1), frame(HELLO, b"SMva"), exited(0), frame(HELLO, length=65), frame(99),
                  frame(HELLO, b"SMva\2\0", pad=1), b"HTTP/1.1 400 Bad Request\r\n"):
        def behave(c, first=first):
            c.connect()
            c.say(first)
            c.rest()
        with agent(behave):
            got = run("exec", "vm1", "true")
            refused(got, "agent")
            same(got.returncode, 5)
            assert got.seconds < 25


# ---- an agent that lies

@case("exec: byte by byte, and a gigabyte at once, both arrive")
def _():
    said = BEGUN + frame(STDOUT, b"slowly\n") + exited(0)

    def slow(c):
        c.greet()
        c.drip(said)
        c.rest()

    def flood(c):
        c.greet()
        c.say(BEGUN)
        data = frame(STDOUT, b"x" * 65536) * 16
        for _ in range(1024):
            c.say(data)
        c.say(exited(0))
        c.rest()
    with agent(slow):
        same(run("exec", "vm1", "true").stdout, "slowly\n")
    with agent(flood):
        p = subprocess.Popen(["sh", "-c", "smvm-runner exec vm1 true | wc -c"], stdout=subprocess.PIPE, text=True)
        same(p.communicate(timeout=300)[0].strip(), str(1 << 30))


@case("exec: frames that have no place there, too long, or malformed end it with an error")
def _():
    for bad in (frame(STDOUT, length=65537), frame(STDOUT, length=0xFFFFFFFF), frame(EXEC), frame(DATA, b"x"), hello(2), frame(0),
                frame(EXIT), exited(0, kind=3), exited(0, kind=255), frame(EXIT, item(1, b"\0\0")), frame(EXIT, b"\1"),
                frame(EXIT, struct.pack("<HI", 1, 0xFFFFFFFF)), frame(STDOUT, b"x", pad=1), error(0, "no"), error(5000, "no"),
                error(2, "no\0"), frame(0xFFFF)):
        with agent(answers(BEGUN + bad)):
            refused(run("exec", "vm1", "true"))
    for instead in (exited(0), frame(STDOUT, b"x"), frame(OPENED)):
        with agent(answers(instead)):
            refused(run("exec", "vm1", "true"), "answered EXEC with")
    with agent(lambda c: c.greet() and c.say(BEGUN)):
        refused(run("exec", "vm1", "true"), "ended before the program did")


@case("an error's text is one line, whatever it has")
def _():
    with agent(answers(error(2, b"\x1b]0;owned\a\x1b[2J\nsmvm-runner: all is well\r\xff\x7f"))):
        got = run("exec", "vm1", "true", text=False)
        same(got.returncode, 3)
        assert not set(got.stderr[:-1]) & (set(range(32)) | {127}), got.stderr


@case("a status is one of a program's, whatever number it has")
def _():
    for sent, status in ((exited(0xFFFFFF03), 3), (exited(9, kind=1), 137), (exited(0xFFFFFFFF, kind=1), 255), (exited(0, kind=2), 124)):
        with agent(answers(BEGUN + sent)):
            same(run("exec", "vm1", "true").returncode, status)


@case("cp: nothing outside the destination, and no more than is allowed")
def _():
    top = frame(OPENED) + entry("", DIR)
    for i, bad in enumerate((entry("../out", FILE), entry("/out", FILE), entry("a/../../out", FILE), entry("n" * 256, FILE),
                             entry("l", LINK, target="..") + entry("l/out", FILE), entry("l", LINK, target=T) + entry("l/out", FILE),
                             entry("d" + "/d" * 128, DIR), entry("x", 4, target="../out"), entry("x", 99), entry("x", FILE, 1 << 63),
                             entry("x", FILE, 1 << 30) + frame(DONE), entry("x", FILE, 1) + frame(DATA, b"ab"), frame(ENTRY, b"\1"),
                             frame(ENTRY, length=16385), frame(STDOUT, b"x"), frame(DATA, b"x"), error(5, "on second thoughts"))):
        dest = "%s/hostile%d" % (T, i)
        os.mkdir(dest)
        with agent(answers(top + bad)):
            refused(run("cp", "vm1:/tree", dest + "/t"))
        assert set(os.listdir(dest)) <= {"t"} and not os.path.lexists(T + "/out"), (i, os.listdir(dest))
    content = b"".join(frame(DATA, b"x" * 65536) for _ in range(32))
    with agent(answers(top + entry("f", FILE, 2 << 20) + content + frame(DONE))):
        refused(run("cp", "--limit", "1M", "vm1:/tree", T + "/limited"), "more than 1048576 bytes")
        same(os.listdir(T + "/limited"), [])
        same(run("cp", "--limit", "2M", "vm1:/tree", T + "/whole").returncode, 0)
        same(os.path.getsize(T + "/whole/f"), 2 << 20)
    with agent(answers(frame(OPENED) + content + frame(DONE))):
        got = run("cp", "--limit", "1M", "vm1:/f", "-")
        refused(got, "more than 1048576 bytes")
        assert len(got.stdout) <= 1 << 20
        same(len(run("cp", "vm1:/f", "-").stdout), 2 << 20)


@case("forward: a connection that the agent breaks is reset, and the next one is served")
def _():
    opened = frame(OPENED)
    bad = [frame(DATA), frame(STDOUT, b"x"), frame(DATA, length=65537), frame(99), frame(DONE, FUTURE), error(104, "gone"), hello(2), b"",
           frame(DATA, b"x", pad=7)]
    turn = []

    def behave(c):
        same(c.greet(), CONNECT)
        n = len(turn)
        turn.append(n)
        if n < len(bad):
            # What is no whole frame ends with the connection.
            c.say(opened + bad[n])
            return
        c.say(opened + frame(DATA, b"hello ") + frame(DATA, b"there") + frame(DONE))
        while c.frame()[0] != DONE:
            pass
    with agent(behave):
        f = subprocess.Popen(["smvm-runner", "forward", "vm1", "0:80"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        port = int(f.stdout.readline().split(":")[1])
        for i in range(len(bad)):
            with socket.create_connection(("127.0.0.1", port), 60) as s:
                try:
                    same(s.recv(100), "a reset, of %d" % i)
                except ConnectionResetError:
                    pass
        with socket.create_connection(("127.0.0.1", port), 60) as s:
            s.shutdown(socket.SHUT_WR)
            got = b""
            while True:
                data = s.recv(100)
                if not data:
                    break
                got += data
            same(got, b"hello there")
        f.terminate()
        same(f.wait(60), 0)


@case("nobody is waited for without end: no answer, no end of an answer, no program's end")
def _():
    def silent(c):
        c.rest()

    def mute(c):
        c.connect()
        c.rest()

    def endless_ok(c):
        try:
            while not c.agent.over.wait(0.3):
                c.say(b"O")
        except OSError:
            raise Ended from None

    def half_hello(c):
        c.connect()
        c.say(hello(2)[:-1])
        c.rest()

    def hangs_up(c):
        c.take(len("CONNECT 1024\n"))

    def never_starts(c):
        c.greet()
        c.rest()

    def never_ends(c):
        c.greet()
        c.say(BEGUN)
        while not c.agent.over.wait(0.2):
            c.say(frame(STDOUT, b"."))
    ways = [(silent, ""), (mute, ""), (endless_ok, "CONNECT"), (half_hello, ""), (hangs_up, "does not listen"), (never_starts, "EXEC"),
            (never_ends, "did not end in time")]
    got = {}

    def one(vm, behave):
        with agent(behave, vm):
            got[vm] = run("exec", "--timeout", "1", vm, "true")
    threads = [threading.Thread(target=one, args=(vm, w[0])) for vm, w in zip(PATHS, ways)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for vm, (behave, words) in zip(PATHS, ways):
        print("# %s: %.1f s: %s" % (behave.__name__, got[vm].seconds, got[vm].stderr.strip()))
        refused(got[vm], words)
        assert got[vm].seconds < 100


done()
