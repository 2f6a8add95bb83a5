"""linux.py - what a Debian guest's agent takes to answer, one way and another (bench/pool/job.sh). Microseconds, a line each.

    linux.py trips VM N                  N execs of `true` by `smvm-runner exec`
    linux.py claims SNAPSHOT N           by turns, three on a line: a restore into a process of its own until its machine has run
                                         `true`; a claim of the pool, which is at rest, until its machine has; `true` once more there
    linux.py claims-at-once N            a claim of a machine that was reset just now
    linux.py cycles N                    N times claim, `true`, give back by each of two clients; the pool has two machines
    linux.py processes SNAPSHOT N        N times restore, `true`, stop by each of two
        These two print the microseconds of all of it.

    linux.py exec VM BYTES               MB/s of a program's output through `smvm-runner exec`, from its first byte on
    linux.py plain VM BYTES              the same over a vsock connection of the guest's own
"""
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time

sys.path[:0] = ["tests/lib", os.path.dirname(os.path.abspath(__file__))]
from cases import until  # noqa: E402
from guest import AGENT_PORT, ERROR, EXEC, EXIT, HELLO, HELLO_KIND, frame, item, receive  # noqa: E402
from poolclient import Client  # noqa: E402

PORT = 5001
# One write after the other of the same zeros: the guest's side of both streams.
COPY = """
import os, socket, sys
n, fd = int(sys.argv[1]), 1
if len(sys.argv) > 2:
    s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    s.bind((socket.VMADDR_CID_ANY, int(sys.argv[2])))
    s.listen()
    os.write(1, b"listening\\n")
    fd = s.accept()[0].detach()
b = bytes(65536)
while n > 0:
    n -= os.write(fd, b[:n])
"""


def now_us():
    return time.monotonic_ns() // 1000


def connect(directory, port, first=b""):
    """With the first bytes of the stream, which need not wait for the answer."""
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(120)
    s.connect(directory + "/vsock.sock")
    s.sendall(b"CONNECT %d\n" % port + first)
    answer = b""
    while not answer.endswith(b"\n"):
        answer += receive(s, 1)
    if not answer.startswith(b"OK "):
        raise ConnectionError("port %d of the guest: %r" % (port, answer))
    return s


def run_true(directory):
    """An exec of the agent's, by its own protocol, until it has told the end of the program."""
    argv = item(1, "/bin/true")
    with connect(directory, AGENT_PORT, HELLO + struct.pack("<IHH", len(argv), EXEC, 0) + argv) as s:
        if frame(s)[0] != HELLO_KIND:
            raise ConnectionError("the agent does not say hello")
        while True:
            kind, data = frame(s)
            if kind == EXIT:
                return
            if kind == ERROR:
                raise RuntimeError("the agent: %r" % data)


def restored(snapshot):
    """The process's own JSON: the machine has its identity by then."""
    return json.loads(subprocess.check_output(["smvm-runner", "restore", "--json", snapshot], stdin=subprocess.DEVNULL))


def stop(vm):
    subprocess.run(["smvm-runner", "stop", "-f", vm], check=True, stdout=subprocess.DEVNULL)


def claimed(c):
    got = c.ask("CLAIM deadline_ms=120000", 130)
    if got.word != "CLAIMED":
        sys.exit("linux.py: %s" % got)
    return got.keys


def given_back(c, keys):
    got = c.ask("RELEASE claim=" + keys["claim"], 60)
    if got.word != "RELEASED":
        sys.exit("linux.py: %s" % got)


def trips(vm, n):
    for _ in range(n):
        t = now_us()
        subprocess.run(["smvm-runner", "exec", vm, "--", "true"], check=True)
        print(now_us() - t)


def cold(snapshot):
    t = now_us()
    m = restored(snapshot)
    run_true(m["dir"])
    t = now_us() - t
    stop(m["id"])
    return t


def claim(c, ready):
    """Not what it costs when there is none."""
    until(lambda: ready(c.status()), 60)
    t = now_us()
    got = claimed(c)
    run_true(got["dir"])
    first = now_us() - t
    t = now_us()
    run_true(got["dir"])
    again = now_us() - t
    given_back(c, got)
    return first, again


def is_there(s):
    return not s["coming"]


def is_at_rest(s):
    return is_there(s) and not any(m["warming"] for m in s["machines"])


def claims(snapshot, n):
    with Client() as c:
        for _ in range(n):
            until(lambda: is_at_rest(c.status()), 60)
            print(cold(snapshot), *claim(c, is_at_rest))


def claims_at_once(n):
    with Client() as c:
        for _ in range(n):
            print(claim(c, is_there)[0])


def by_two(cycle, n):
    failed = []

    def many():
        try:
            cycle(n)
        except BaseException as e:
            failed.append(repr(e))

    threads = [threading.Thread(target=many) for _ in range(2)]
    t = now_us()
    for x in threads:
        x.start()
    for x in threads:
        x.join()
    if failed:
        sys.exit("linux.py: %s" % failed)
    print(now_us() - t)


def cycles(n):
    with Client() as c:
        for _ in range(n):
            got = claimed(c)
            run_true(got["dir"])
            given_back(c, got)


def processes(snapshot):
    def cycle(n):
        for _ in range(n):
            m = restored(snapshot)
            run_true(m["dir"])
            stop(m["id"])
    return cycle


def guest(vm, *argv):
    return subprocess.Popen(["smvm-runner", "exec", vm, "--", "python3", "-c", COPY, *argv], stdout=subprocess.PIPE, bufsize=0)


def rate(read, want):
    got, t = len(read(1)), time.monotonic_ns()
    while data := read(1 << 18):
        got += len(data)
    if got != want:
        sys.exit("linux.py: %d bytes of %d" % (got, want))
    print("%.1f" % (got * 1000 / (time.monotonic_ns() - t)))


def plain(vm, n):
    where = json.loads(subprocess.check_output(["smvm-runner", "info", vm]))["dir"]
    server = guest(vm, str(n), str(PORT))
    if server.stdout.readline() != b"listening\n":
        sys.exit("linux.py: the guest does not listen")
    with connect(where, PORT) as s:
        rate(s.recv, n)
    server.wait()


def through_exec(vm, n):
    server = guest(vm, str(n))
    rate(server.stdout.read, n)
    server.wait()


what, *rest, n = sys.argv[1:]
n = int(n)
if what == "cycles":
    by_two(cycles, n)
elif what == "processes":
    by_two(processes(*rest), n)
else:
    {"trips": trips, "claims": claims, "claims-at-once": claims_at_once, "exec": through_exec, "plain": plain}[what](*rest, n)
