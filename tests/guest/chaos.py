"""chaos.py SECONDS: kill -9 of workers, of the pool and of the mount's server at random, under load. TAP on standard output.

Every claim ends in success or a clear error, the pool returns to its minimum, and what there was before (descriptors,
mounts, processes, memory) is what there is after.
"""
import collections
import os
import random
import re
import select
import signal
import sys
import threading
import time

sys.path.insert(0, "tests/lib")
from cases import case, cli, done, same, until  # noqa: E402
from poolclient import RUN, Client, Pool  # noqa: E402

seconds, nonce = float(sys.argv[1]), sys.argv[2]
MIN, MAX, LOAD = 2, 5, 6
MOUNT = os.environ["SMFS_MOUNT"]
# What a claim may be answered while everything is being killed.
REFUSALS = ("ETIMEDOUT", "ENOMEM", "ESHUTDOWN")


def smfs(what):
    with open("%s/.smfs/%s" % (MOUNT, what)) as f:
        return int(f.read())


def processes():
    """Those of this test, by program: {"smvm-runner": {pid...}, "smfs": {pid...}}."""
    out = collections.defaultdict(set)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/environ" % pid, "rb") as f:
                mine = b"SMVM_RUN_DIR=" + RUN.encode() in f.read().split(b"\0")
            with open("/proc/%s/stat" % pid) as f:
                name, _, state = f.read().partition("(")[2].rpartition(")")
        except OSError:
            continue
        if mine and state.split()[0] != "Z":
            out[name].add(int(pid))
    return out


def descriptors(pid):
    return len(os.listdir("/proc/%d/fd" % pid))


def own_kib(pid):
    with open("/proc/%d/status" % pid) as f:
        return next(int(x.split()[1]) for x in f if x.startswith("RssAnon:"))


def mounts():
    """Those of this test: others come and go."""
    with open("/proc/self/mountinfo") as f:
        return sum(os.path.dirname(RUN) in line for line in f)


def slabs_kib():
    with open("/proc/meminfo") as f:
        return next(int(x.split()[1]) for x in f if x.startswith("SUnreclaim:"))


class State:
    """What there is while a pool has its minimum and nothing is asked of it."""
    def __init__(self, pool):
        until(lambda: (lambda s: (s["warm"], s["coming"], s["claimed"]) == (MIN, 0, 0))(pool.status()), 120)
        machines = {m["pid"] for m in pool.status()["machines"] if m["state"] == "warm"}
        until(lambda: processes()["smvm-runner"] == machines | {pool.process.pid}, 60)
        until(lambda: len([d for d in os.listdir(RUN) if os.path.isdir(os.path.join(RUN, d))]) == len(machines), 60)
        same(processes()["smfs"], {smfs("keeper"), smfs("pid")})
        self.fds = {"pool": descriptors(pool.process.pid), "keeper": descriptors(smfs("keeper")), "server": descriptors(smfs("pid")),
                    "machines": max(map(descriptors, machines))}
        self.kib = {"pool": own_kib(pool.process.pid), "keeper": own_kib(smfs("keeper")), "server": own_kib(smfs("pid")),
                    "machines": max(map(own_kib, machines))}
        self.mounts = mounts()
        self.slabs = slabs_kib()

    def __repr__(self):
        return "descriptors %s; KiB of memory %s; %d mounts; the host's slabs %d KiB" % (self.fds, self.kib, self.mounts, self.slabs)


def speaks(directory):
    """The guest has said what only the snapshot's memory knows."""
    try:
        with open(directory + "/console.log", errors="replace") as f:
            return re.search(r"^gen .*%s\r?$" % nonce, f.read(), re.M)
    except OSError:
        return None


def one_claim(c):
    """What became of it, in a word."""
    got = c.ask("CLAIM deadline_ms=5000", 60)
    if got.word == "ERR_CLAIM":
        assert got.keys["code"] in REFUSALS, got
        return got.keys["code"]
    assert got.word == "CLAIMED", got
    end = time.monotonic() + 60
    while not speaks(got.keys["dir"]):
        if select.select([c.sock], [], [], 0.005)[0]:
            same(c.line().word, "LOST")
            return "lost"
        assert time.monotonic() < end, "the guest of %s is mute" % got
    time.sleep(random.random() * 0.05)
    released = c.ask("RELEASE claim=" + got.keys["claim"], 60)
    if released.word == "LOST":
        same(c.line(60).keys["code"], "ENOENT")
        return "lost"
    same(released.text, "RELEASED claim=" + got.keys["claim"])
    return "served"


def load(stop, tally, lock, wrong):
    while time.monotonic() < stop and not wrong:
        try:
            with Client() as c:
                while time.monotonic() < stop:
                    what = one_claim(c)
                    with lock:
                        tally[what] += 1
        except (ConnectionError, FileNotFoundError, EOFError):
            with lock:
                tally["connection closed"] += 1
            time.sleep(0.02)
        except Exception as e:
            with lock:
                wrong.append("%s: %s" % (type(e).__name__, e))


def kill(what, pid):
    try:
        os.kill(pid, signal.SIGKILL)
        what[0] += 1
    except ProcessLookupError:
        pass


def start():
    return Pool("--min", str(MIN), "--max", str(MAX), "--idle-timeout", "1", snapshot="idle")


@case("%g s of kill -9 under load" % seconds)
def _():
    pool = start()
    try:
        before = State(pool)
        print("# before: %s" % before, flush=True)
        tally, lock, wrong = collections.Counter(), threading.Lock(), []
        kills = {"workers": [0], "pools": [0], "servers": [0]}
        stop = time.monotonic() + seconds
        threads = [threading.Thread(target=load, args=(stop, tally, lock, wrong)) for _ in range(LOAD)]
        for t in threads:
            t.start()
        while time.monotonic() < stop and not wrong:
            time.sleep(random.random())
            dice = random.random()
            if dice < 0.15:
                kill(kills["servers"], smfs("pid"))
            elif dice < 0.3:
                kill(kills["pools"], pool.process.pid)
                pool.process.wait()
                pool = start()
            else:
                with Client() as c:
                    pids = [m["pid"] for m in c.status()["machines"]]
                if pids:
                    kill(kills["workers"], random.choice(pids))
        for t in threads:
            t.join(180)
        same(wrong, [])
        assert not any(t.is_alive() for t in threads), "a claim hangs"
        print("# killed: %s; claims: %s" % ({k: n for k, (n,) in kills.items()}, dict(tally)), flush=True)
        assert tally["served"] > 2 * seconds, tally
        after = State(pool)
        print("# after: %s" % after)
        same(after.mounts, before.mounts)
        for who in before.fds:
            assert after.fds[who] <= before.fds[who] + 2, "descriptors of " + who
            # A sanitizer keeps what is freed.
            assert os.environ.get("SAN") or after.kib[who] <= before.kib[who] + 2048, "memory of " + who
    finally:
        pool.__exit__()
    same(processes()["smvm-runner"], set())
    same(cli("ps", "-q").stdout, "")
    same([d for d in os.listdir(RUN) if not d.endswith(".lock")], [])


done()
