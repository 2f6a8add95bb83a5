"""The cases of test_worker-long.sh: TAP on standard output."""
import os
import re
import sys
import time

sys.path.insert(0, "tests/lib")
from cases import HeldWriter, Stuck, case, done, own_memory  # noqa: E402
from supervisor import Supervisor  # noqa: E402

resets = int(sys.argv[1])


def log(s):
    with open(s.rundir + "/console.log", errors="replace") as f:
        return f.read()


def slab():
    with open("/proc/meminfo") as f:
        return next(int(x.split()[1]) for x in f if x.startswith("SUnreclaim:"))


@case("%d resets: no more memory, descriptors, mappings, time" % resets)
def _():
    with Supervisor(["smvm-runner", "worker"]) as s:
        s.expect("READY")
        s.hello()
        part = max(resets // 10, 1)
        times, states = [], []
        for i in range(resets):
            # To the same again, and to the other: the one gives up what was written, the other maps all anew.
            got = s.ask("RESTORE s%d" % (1 + i // 2 % 2))
            assert got.keys["how"] == ("warm" if i else "new"), got
            times.append(got.first)
            # The guest is one of the two, and says so, each time: the log begins anew with each.
            if i % 97 == 0:
                end = time.monotonic() + 60
                while not re.search(r"^gen 0{15}2 ", log(s), re.M):
                    assert time.monotonic() < end, log(s)
                    time.sleep(0.001)
            if i + 1 in (part, resets):
                kib, mappings = own_memory(s.process.pid)
                states.append((kib, len(os.listdir("/proc/%d/fd" % s.process.pid)), mappings, slab()))
        for name, t, state in (("first", times[:part], states[0]), ("last", times[-part:], states[-1])):
            t = sorted(t)
            print("# %s %d: p50 %d us, p99 %d us, mean %d us; own %d KiB, %d descriptors, %d mappings; the host's slabs %d KiB" % (
                name, part, t[part // 2], t[part * 99 // 100], sum(t) // part, *state))
        assert states[-1][1:3] == states[0][1:3], states
        assert states[-1][0] <= states[0][0] + 512, states
        # What others do on this host is in most of them, and in the least ones hardly.
        assert sorted(times[-part:])[part // 20] <= 2 * sorted(times[:part])[part // 20] + 500
        assert s.quit() == 0


@case("200 resets of four vCPUs that check their memory: nothing of one is in another")
def _():
    with Supervisor(["smvm-runner", "worker"]) as s:
        s.expect("READY")
        s.hello()
        for i in range(200):
            got = s.ask("RESTORE four")
            assert got.keys["how"] == ("warm" if i else "new"), got
            # Each in the middle of something, every fifth once it has gone through all of its memory.
            if i % 5 == 0:
                end = time.monotonic() + 60
                while "whole" not in log(s):
                    assert time.monotonic() < end, log(s)
                    time.sleep(0.01)
            else:
                time.sleep((i % 7) * 0.003)
            assert not re.search("torn|apart", log(s)), log(s)
        assert s.quit() == 0


@case("seed: a snapshot is answered within 60 s, with an error; the next is refused until it is over")
def _():
    with Supervisor(["smvm-runner", "worker"]) as s:
        s.expect("READY")
        s.ask("RESTORE writer")
        time.sleep(1)
        began = time.monotonic()
        with HeldWriter(s.process.pid) as writer:
            s.send("SNAPSHOT t1")
            writer.held()
            got = s.line(110)
            assert got.word == "ERR_SNAPSHOT" and 59 < time.monotonic() - began < 100, got
            assert s.ask("SNAPSHOT t2").text == "ERR_SNAPSHOT snapshot in flight"
        # Of the late one nothing is heard.
        end = time.monotonic() + 60
        while True:
            got = s.ask("SNAPSHOT t3", timeout=20)
            if got.text != "ERR_SNAPSHOT snapshot in flight":
                break
            assert time.monotonic() < end
        assert got.word == "DONE_SNAPSHOT", got
        assert s.quit() == 0


@case("QUIT waits 60 s for what is being written, then leaves it to its writer")
def _():
    with Supervisor(["smvm-runner", "worker"]) as s:
        s.expect("READY")
        s.ask("RESTORE writer")
        time.sleep(1)
        with HeldWriter(s.process.pid) as writer:
            s.send("SNAPSHOT_ASYNC u1")
            writer.held()
            began = time.monotonic()
            s.send("QUIT")
            assert s.gone(110) == 0
            assert 58 < time.monotonic() - began < 100
    end = time.monotonic() + 60
    while "u1" not in os.listdir(os.environ["SMFS_MOUNT"] + "/snapshots"):
        assert time.monotonic() < end
        time.sleep(0.1)


@case("seed: a restore that is stuck ends the connection after 250 s, and the worker 60 s later")
def _():
    with Supervisor(["smvm-runner", "worker"]) as s:
        s.expect("READY")
        s.ask("RESTORE s1")
        with Stuck():
            began = time.monotonic()
            s.send("RESTORE s2")
            s.closed(300)
            assert 245 < time.monotonic() - began
            while "given up" not in s.said():
                assert time.monotonic() - began < 370
                time.sleep(1)
            assert 305 < time.monotonic() - began
        # It is only rid of a thread that waits for the mount when that lets it go.
        assert s.process.wait(60) == 1
        assert "no answer in time; restore in flight" in s.said(), s.said()


@case("half a line for 60 s: the seed's connection ends, the extended one is told")
def _():
    with Supervisor(["smvm-runner", "worker"]) as a, Supervisor(["smvm-runner", "worker"]) as b:
        for s in a, b:
            s.expect("READY")
        b.hello()
        for s in a, b:
            s.raw(b"RESTO")
        got = b.line(110)
        assert got.word == "ERR_UNKNOWN" and got.keys["code"] == "ETIMEDOUT", got
        # What comes late belongs to the line that is over.
        b.raw(b"RE s1\n")
        assert b.ask("RESTORE s1").word == "DONE"
        assert b.quit() == 0
        assert a.gone(60) == 1
        assert "not ended for 60 s" in a.said()


@case("a supervisor that sends and never reads is given up after 60 s")
def _():
    with Supervisor(["smvm-runner", "worker"]) as s:
        s.expect("READY")
        s.hello()
        began = time.monotonic()
        s.sock.settimeout(90)
        try:
            while time.monotonic() - began < 90:
                s.raw(b"PING\n" * 1000)
        except OSError:
            pass
        assert s.process.wait(60) == 0
        assert 55 < time.monotonic() - began < 89


done()
