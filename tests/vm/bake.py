"""bake.py IMAGE NAME: a snapshot NAME of IMAGE's python3, warmed up, written as a diff of NAME-base.

By a worker, as doc/protocol.md has it: it boots, the interpreter (interpreter.py) is ready, its state is saved as the base
while the warm-up runs, and what that changed beside it.
"""
import os
import socket
import sys

sys.path.insert(0, "tests/lib")
from supervisor import Supervisor  # noqa: E402

PORT = 5000
INTERPRETER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "interpreter.py")
# What every machine of the snapshot is to find.
WARM_UP = """
import glob, hashlib, http.server, json, os, random, socket, subprocess, threading, time
primes = [n for n in range(2, 2000) if all(n % p for p in range(2, int(n ** 0.5) + 1))]
for path in ("/srv/kept", "/srv/doomed"):
    with open(path, "w") as f:
        f.write("of the warm-up")
claims = 0
print(len(primes))
"""


def run(rundir, code, timeout=120):
    """What the code has printed, run by the interpreter of the machine that has `rundir`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.settimeout(timeout)
        s.connect(rundir + "/vsock.sock")
        code = code.encode()
        s.sendall(b"CONNECT %d\n" % PORT)
        with s.makefile("rb") as f:
            if not f.readline().startswith(b"OK "):
                raise ConnectionError("the guest's interpreter does not answer")
            s.sendall(b"%d\n%s" % (len(code), code))
            return f.read().decode()


def bake(image, name, *options):
    """The snapshot's own answer."""
    with open(INTERPRETER) as f:
        program = f.read()
    with Supervisor(["smvm-runner", "worker", *options, "--ready", "file:/run/interpreter", "--entrypoint", "/usr/bin/python3",
                     image, "--", "-c", program], timeout=240) as s:
        s.expect("READY")
        s.expect("BAKE_READY")
        s.hello()
        s.ask("SNAPSHOT_ASYNC %s-base id=base deadline_ms=300000" % name, "ACCEPTED", timeout=310)
        warm = run(s.rundir, WARM_UP)
        if warm != "303\n":
            raise RuntimeError("the warm-up: " + warm)
        s.answer("DONE_SNAPSHOT_ASYNC", timeout=310)
        got = s.ask("SNAPSHOT %s base=%s-base id=warm deadline_ms=300000" % (name, name), timeout=310)
        if got.word != "DONE_SNAPSHOT" or got.keys["diff"] != 1:
            raise RuntimeError("the snapshot: %s" % got)
        if s.quit() != 0:
            raise RuntimeError("the worker: " + s.said())
        return got


if __name__ == "__main__":
    print("# baked: %s" % bake(*sys.argv[1:]), flush=True)
