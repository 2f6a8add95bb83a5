#!/usr/bin/python3
"""A workload for snapshots, in Python, beside runtimes.pl, in Perl, with which it talks over TCP.

All the time: an interval timer, a sleeping thread, a chaotic computation in floating point that is done twice and
compared, the monotonic clock, a Unix socket pair and a TCP connection with a number that both ends count up.

Listens on vsock port 5000. A line "hold" keeps the connection open; "report N" is answered, once this guest is of
generation N and all of the above has moved on since, by one line of JSON: counters, errors, identity.
/run/generation is written by a hook (runtimes.sh).
"""
import json
import os
import select
import signal
import socket
import threading
import time

STEPS = 500
state = {"ticks": 0, "itimer": 0, "sleeps": 0, "unix": 0, "tcp": 0, "accepted": 0}
errors = []
held = {"open": 0, "ended": 0}
perl = {}
generation = {"number": 0, "random": ""}


def wrong(what):
    if len(errors) < 20:
        errors.append(what)


def first_line(path):
    try:
        with open(path, encoding="ascii") as f:
            return f.readline().strip()
    except OSError:
        return ""


def look_at_generation():
    """The first random bytes drawn in a new life: two of one snapshot must not draw the same."""
    number = int(first_line("/run/generation") or 1)
    if number != generation["number"]:
        generation.update(number=number, random=os.urandom(16).hex())


def on_alarm(*_):
    state["itimer"] += 1


def sleeper():
    while True:
        before = time.monotonic()
        time.sleep(0.1)
        if time.monotonic() - before < 0.1:
            wrong("a sleep was too short")
        state["sleeps"] += 1


def chaos(x):
    for _ in range(STEPS):
        x = 3.9 * x * (1.0 - x)
    return x


def unix_pair():
    a, b = socket.socketpair()
    n = 0
    while True:
        n += 1
        a.sendall(n.to_bytes(8, "little"))
        if int.from_bytes(b.recv(8), "little") != n:
            wrong("the Unix socket pair lost count")
        state["unix"] += 1
        time.sleep(0.1)


def serve_perl(listener):
    """Each line is the next number, with what Perl has to say of itself; the answer is one more. For ever, or once."""
    while True:
        conn, _ = listener.accept()
        state["accepted"] += 1
        threading.Thread(target=one_perl, args=(conn,), daemon=True).start()


def one_perl(conn):
    expect = None
    with conn, conn.makefile("rw") as f:
        for line in f:
            number, said = line.rstrip("\n").split(" ", 1)
            if said == "once":
                f.write(number + "\n")
                break
            if expect is not None and int(number) != expect:
                wrong(f"TCP: {number} came, {expect} was to come")
            expect = int(number) + 1
            perl.update(json.loads(said))
            state["tcp"] += 1
            f.write(f"{expect}\n")
            f.flush()
    if expect is not None:
        wrong("the TCP connection ended")


def report(want):
    began, begin_perl = None, None
    while True:
        if generation["number"] == want and perl:
            if began is None:
                began, begin_perl = dict(state), dict(perl)
            if all(state[k] >= began[k] + 2 for k in state) and \
                    perl["alarms"] > begin_perl["alarms"] and perl["generation"] == want:
                break
        time.sleep(0.05)
    return {**state, "errors": errors, "held": held, "generation": generation["number"], "random": generation["random"],
            "perl": perl, "hostname": socket.gethostname(), "machine_id": first_line("/etc/machine-id"),
            "wall": time.time(), "monotonic": time.monotonic(), "cpus": os.cpu_count()}


def one_host(conn):
    with conn, conn.makefile("rw") as f:
        word = f.readline().split()
        if word[:1] == ["hold"]:
            held["open"] += 1
            f.write("held\n")
            f.flush()
            try:
                f.readline()
            except OSError:
                pass
            held["open"] -= 1
            held["ended"] += 1
        elif word[:1] == ["report"]:
            f.write(json.dumps(report(int(word[1]))) + "\n")


def serve_host(listener):
    while True:
        conn, _ = listener.accept()
        threading.Thread(target=one_host, args=(conn,), daemon=True).start()


def main():
    tcp = socket.create_server(("127.0.0.1", 7000), backlog=8)
    vsock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    vsock.bind((socket.VMADDR_CID_ANY, 5000))
    vsock.listen(8)
    for target, args in ((sleeper, ()), (unix_pair, ()), (serve_perl, (tcp,)), (serve_host, (vsock,))):
        threading.Thread(target=target, args=args, daemon=True).start()
    signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    x, latest = 0.3, time.monotonic()
    while True:
        look_at_generation()
        before = x.hex()
        x = chaos(x)
        if chaos(float.fromhex(before)) != x:
            wrong("a floating point computation had two results")
        now = time.monotonic()
        if now < latest:
            wrong("the monotonic clock went back")
        latest = now
        state["ticks"] += 1
        select.select([], [], [], 0.1)


main()
