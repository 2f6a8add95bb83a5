"""The cases of test_pool.sh: TAP on standard output."""
import errno
import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, "tests/lib")
from cases import HeldWriter, Skip, Stuck, case, cli, done, process, same, until  # noqa: E402
from poolclient import RUN, Client, Pool  # noqa: E402


def generation(claimed):
    """(number, counter, nonce), as the guest says when it finds itself restored."""
    def said():
        with open(claimed.keys["dir"] + "/console.log", errors="replace") as f:
            return re.search(r"^gen ([0-9a-f]{16}) ([0-9a-f]{16}) ([0-9a-f]{16})\r?\n", f.read(), re.M)
    return until(said).groups()


def alive(pid):
    return process(pid)[0] not in ("Z", "gone")


@case("machines are kept warm, and a claim has one at once")
def _():
    with Pool("--min", "2", "--max", "4", warm=2), Client() as c:
        a = c.ask("CLAIM id=x")
        same((a.word, a.keys["id"]), ("CLAIMED", "x"))
        number, _, _ = generation(a)
        same(int(number, 16), 2)
        same(cli("ps", "-q").stdout.split().count(a.keys["vm"]), 1)
        # Another takes its place.
        until(lambda: c.status()["warm"] == 2)
        b = c.ask("CLAIM")
        assert a.keys["vm"] != b.keys["vm"]
        same(c.ask("RELEASE claim=%s id=r" % a.keys["claim"]).text, "RELEASED claim=%s id=r" % a.keys["claim"])
        same(c.ask("RELEASE claim=" + a.keys["claim"]).keys["code"], "ENOENT")
        same(c.ask("RELEASE vm=" + b.keys["vm"]).word, "RELEASED")
        # One may meet a busy host.
        waits = [int(a.keys["waited_us"]), int(b.keys["waited_us"])]
        while min(waits) >= 1000 and len(waits) < 20:
            until(lambda: c.status()["warm"] >= 2)
            got = c.ask("CLAIM")
            waits.append(int(got.keys["waited_us"]))
            c.ask("RELEASE claim=" + got.keys["claim"])
        assert min(waits) < 1000, waits


@case("what is given back is as the snapshot again, in place, and is given again")
def _():
    with Pool("--min", "1", "--max", "1", warm=1), Client() as c:
        seen = set()
        for i in range(20):
            a = c.ask("CLAIM")
            seen.add(a.keys["vm"])
            said = generation(a)
            if not i:
                first = said
            same(said, first)
            c.ask("RELEASE claim=" + a.keys["claim"])
        same(len(seen), 1)
        m, = c.status()["machines"]
        assert m["restores"] >= 20 and m["warm_resets"] == m["restores"] - 1, m


@case("claims wait, and are served in the order they came")
def _():
    with Pool("--min", "1", "--max", "1", warm=1) as p:
        clients = [Client() for _ in range(10)]
        for i, c in enumerate(clients):
            c.send("CLAIM id=%d" % i)
            until(lambda: p.status()["waiting"] == i)
        order = []
        for _ in range(10):
            ready, _, _ = select.select([c.sock for c in clients], [], [], 60)
            same(len(ready), 1)
            c = next(c for c in clients if c.sock is ready[0])
            got = c.line()
            order.append(int(got.keys["id"]))
            # Its going gives the machine back.
            c.sock.close()
            clients.remove(c)
        same(order, list(range(10)))


@case("never more than --max; a claim that waits too long is told so")
def _():
    with Pool("--min", "1", "--max", "2", warm=1), Client() as c:
        for _ in range(2):
            same(c.ask("CLAIM").word, "CLAIMED")
        began = time.monotonic()
        got = c.ask("CLAIM deadline_ms=300 id=late")
        same((got.word, got.keys["id"], got.keys["code"]), ("ERR_CLAIM", "late", "ETIMEDOUT"))
        assert 0.25 < time.monotonic() - began < 20
        s = c.status()
        same((s["claimed"], len(s["machines"]), s["timed_out"]), (2, 2, 1))
    with Pool("--min", "0", "--max", "1", "--acquire-timeout", "1"), Client() as c:
        same(c.ask("CLAIM deadline_ms=60000").word, "CLAIMED")
        same(c.ask("CLAIM").keys["code"], "ETIMEDOUT")


@case("those beyond --min end when nobody claims them")
def _():
    with Pool("--min", "1", "--max", "4", "--idle-timeout", "3", warm=1), Client() as c:
        claims = [c.ask("CLAIM") for _ in range(3)]
        # Not at once: asked in one go with that.
        c.send("".join("RELEASE claim=%s\n" % a.keys["claim"] for a in claims) + "STATUS")
        same([c.line().word for _ in claims], ["RELEASED"] * 3)
        assert len(json.loads(c.line().text.partition(" ")[2])["machines"]) > 1
        until(lambda: (lambda s: s["warm"] == 1 and len(s["machines"]) == 1)(c.status()))
        same(c.status()["died"], 0)


@case("a claim ends with its connection, but not one that is kept")
def _():
    with Pool("--min", "1", "--max", "2", warm=1), Client() as watch:
        with Client() as c:
            c.ask("CLAIM")
            kept = c.ask("CLAIM keep=1")
            same(watch.status()["claimed"], 2)
        until(lambda: watch.status()["claimed"] == 1)
        same(watch.ask("RELEASE claim=" + kept.keys["claim"]).word, "RELEASED")


@case("a worker that dies is replaced, and who has its machine is told")
def _():
    with Pool("--min", "2", "--max", "3", warm=2), Client() as c:
        warm = c.status()["machines"][0]["pid"]
        os.kill(warm, signal.SIGKILL)
        until(lambda: (lambda s: s["warm"] == 2 and warm not in [m["pid"] for m in s["machines"]])(c.status()))
        a = c.ask("CLAIM")
        os.kill(int(a.keys["pid"]), signal.SIGKILL)
        got = c.line()
        same((got.word, got.keys["claim"], got.keys["vm"]), ("LOST", a.keys["claim"], a.keys["vm"]))
        same(c.ask("RELEASE claim=" + a.keys["claim"]).keys["code"], "ENOENT")
        until(lambda: c.status()["warm"] == 2)
        same(c.status()["lost"], 1)


@case("few descriptors are enough for few machines, and clients beyond them wait")
def _():
    with Pool("--min", "1", "--max", "1", warm=1, command=("prlimit", "--nofile=40:40", "smvm-runner")), Client() as c:
        many = [Client() for _ in range(60)]
        same(c.ask("CLAIM").word, "CLAIMED")
        for m in many:
            m.sock.close()
        with Client() as late:
            same(late.status()["claimed"], 1)


@case("more clients than it takes wait in line, and are served when there is room")
def _():
    with Pool("--min", "1", "--max", "1", warm=1):
        many = [Client() for _ in range(512)]
        many[-1].status()
        with Client() as late:
            late.send("CLAIM")
            same(select.select([late.sock], [], [], 0.3)[0], [])
            many.pop().sock.close()
            same(late.line().word, "CLAIMED")
        for c in many:
            c.sock.close()


@case("starts that fail are told of and come ever more seldom, whatever else is warm")
def _():
    with Pool("--min", "2", "--max", "2", warm=2, snapshot="passing") as p:
        shutil.rmtree(os.environ["SMFS_MOUNT"] + "/snapshots/passing")
        s = p.status()
        os.kill(s["machines"][0]["pid"], signal.SIGKILL)
        until(lambda: "last_failure" in p.status())
        before = p.status()["started"]
        # 0.1, 0.2, 0.4, 0.8 s ... apart; without that it would be 10 in each second.
        time.sleep(2)
        s = p.status()
        assert s["started"] - before < 8, (before, s)
        assert s["warm"] == 1 and "passing" in s["last_failure"], s


@case("a guest that ends as soon as it is restored is a start that failed")
def _():
    with Pool("--min", "1", "--max", "1", snapshot="once") as p:
        until(lambda: "ENDED" in p.status().get("last_failure", ""))
        time.sleep(2)
        s = p.status()
        assert s["started"] < 8 and "ENDED" in s["last_failure"], s


@case("a guest that powers itself off is reset like any other")
def _():
    with Pool("--min", "1", "--max", "1", warm=1), Client() as c:
        a = c.ask("CLAIM")
        generation(a)
        typist = subprocess.Popen(["smvm-runner", "console", a.keys["vm"]], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        typist.stdin.write(b"q")
        typist.stdin.flush()
        time.sleep(0.2)
        typist.kill()
        typist.wait()
        c.ask("RELEASE claim=" + a.keys["claim"])
        b = c.ask("CLAIM")
        same((b.word, b.keys["vm"]), ("CLAIMED", a.keys["vm"]))
        generation(b)


@case("memory: what would not fit is not started, and claims are refused rather than served")
def _():
    with Pool("--min", "4", "--max", "4", "--vm-memory", "900G"), Client() as c:
        until(lambda: c.status()["short_of_memory"] == 4)
        got = c.ask("CLAIM deadline_ms=300")
        same(got.keys["code"], "ETIMEDOUT")
        assert "memory" in got.text, got
        same(c.status()["machines"], [])
    free = next(int(x.split()[1]) for x in open("/proc/meminfo") if x.startswith("MemAvailable"))
    with Pool("--min", "1", "--max", "1", "--vm-memory", "1M", "--reserve", "%dK" % (free * 4)), Client() as c:
        same(c.ask("CLAIM deadline_ms=500").keys["code"], "ETIMEDOUT")


MIB = 1 << 20
CGROUP = "pool-test-%d" % os.getpid()  # this run's own
# What a pool sees in place of the host's: files of a directory, written as it runs.
HOST = "mount --bind {0}/meminfo /proc/meminfo && exec smvm-runner"
GROUP = ("mount -t cgroup2 none /sys/fs/cgroup && mkdir -p /sys/fs/cgroup/{1} && mount --bind {0}/group /sys/fs/cgroup/{1}"
          " && mount --bind {0}/cgroup /proc/$$/cgroup && exec smvm-runner")


class Place:
    """A directory with those files, and a pool that sees them."""
    def __init__(self, script):
        self.dir = tempfile.mkdtemp(dir=os.path.dirname(RUN))
        os.mkdir(self.dir + "/group")
        self.put("cgroup", "0::/%s\n" % CGROUP)
        self.put("group/memory.max", "%d\n" % (2 << 30))
        self.available(1 << 30)
        self.command = ["unshare", "-m", "sh", "-c", script.format(self.dir, CGROUP) + ' "$@"', "sh"]

    def put(self, name, text):
        # By one write over what was there: who reads finds the one or the other.
        fd = os.open(self.dir + "/" + name, os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(fd, text.encode())
        os.close(fd)

    def available(self, n):
        self.put("meminfo", "MemTotal: 2000000 kB\nMemAvailable: %012d kB\n" % (n >> 10))
        self.put("group/memory.current", "%012d\n" % ((2 << 30) - n))


def bounded(script):
    place = Place(script)
    with Pool("--min", "1", "--max", "3", "--vm-memory", "64M", "--reserve", "256M", warm=1, command=place.command) as p, Client() as c:
        def available(n):
            place.available(n)
            until(lambda: c.status()["available_bytes"] == n)

        # Room for one more beside what the first may come to take, and not for two.
        available(256 * MIB + 2 * 64 * MIB + 32 * MIB)
        a, b = c.ask("CLAIM deadline_ms=20000"), c.ask("CLAIM deadline_ms=20000")
        same((a.word, b.word), ("CLAIMED", "CLAIMED"))
        got = c.ask("CLAIM deadline_ms=300")
        assert got.keys["code"] == "ETIMEDOUT" and "no memory" in got.text, got
        s = c.status()
        same((len(s["machines"]), s["short_of_memory"]), (2, 1))
        # Those that are warm are not given out, either, once what is to stay is being taken.
        available(200 * MIB)
        c.ask("RELEASE claim=" + a.keys["claim"])
        until(lambda: c.status()["warm"] == 1)
        got = c.ask("CLAIM deadline_ms=5000")
        assert got.keys["code"] == "ENOMEM" and "200 MiB of memory are available, and 256 MiB are to stay so" in got.text, got
        same(c.status()["refused"], 1)
        available(900 * MIB)
        same(c.ask("CLAIM deadline_ms=20000").word, "CLAIMED")


@case("memory: as many as fit beside what is to stay, and warm ones are refused rather than that is taken")
def _():
    bounded(HOST)


@case("memory: the limit of its control group bounds a pool as the host's memory does")
def _():
    if subprocess.run(["unshare", "-m", "mount", "-t", "cgroup2", "none", "/sys/fs/cgroup"], stderr=subprocess.DEVNULL).returncode:
        raise Skip("no cgroup v2 here")
    try:
        bounded(GROUP)
    finally:
        subprocess.run(["unshare", "-m", "sh", "-c", "mount -t cgroup2 none /sys/fs/cgroup && rmdir /sys/fs/cgroup/" + CGROUP])


def connects(port):
    """Somebody listens there, even if only to reset what connects."""
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) != errno.ECONNREFUSED


@case("ports: each machine its own, told with the claim, the same and open through every reset")
def _():
    # These guests have nobody to take a connection further: pool_job.py of tests/vm has them.
    with Pool("--min", "2", "--max", "2", "-p", "80", "-p", "[::1]:0:/run/a.sock", warm=2, name="ports"), Client("ports") as c:
        machines = {m["vm"]: m for m in c.status()["machines"]}
        ports = {m["host_port"] for m in machines.values()}
        same(len(ports), 2)
        for m in machines.values():
            same([re.sub(r"\d+:", "N:", f, 1) for f in (f.rpartition("]")[2] if "]" in f else f.partition("127.0.0.1")[2] for f in m["forwards"])],
                 [":N:80", ":N:/run/a.sock"])
        for _ in range(4):
            a = c.ask("CLAIM")
            m = machines[a.keys["vm"]]
            same((int(a.keys["host_port"]), a.keys["forwards"].split(" ")), (m["host_port"], m["forwards"]))
            assert connects(m["host_port"])
            info = json.loads(cli("info", a.keys["vm"]).stdout)
            same((info["host_port"], info["forwards"]), (m["host_port"], m["forwards"]))
            c.ask("RELEASE claim=" + a.keys["claim"])
            assert connects(m["host_port"])
        until(lambda: c.status()["warm"] == 2)
        same({m["host_port"] for m in c.status()["machines"]}, ports)
        assert "ports 127.0.0.1:%d:80 [::1]:" % min(ports) in cli("pool", "status", "--name", "ports").stdout
        got = json.loads(cli("pool", "claim", "--json", "--name", "ports").stdout)
        same(got["forwards"], machines[got["vm"]]["forwards"])
        # One that takes its place has ports of its own; those of the dead are closed.
        os.kill(machines[got["vm"]]["pid"], signal.SIGKILL)
        until(lambda: not connects(got["host_port"]))
        until(lambda: c.status()["warm"] == 2)
    # Who serves a port ends with its worker, and not before it.
    for port in ports:
        until(lambda: not connects(port))
    got = cli("pool", "--snapshot", "s1", "-p", "8080:80")
    assert got.returncode == 2 and "only one machine can have port 8080" in got.stderr, got
    same(cli("pool", "--snapshot", "s1", "-p", "nothing").returncode, 2)
    got = cli("pool", "--snapshot", "s1", "--max", "256", *["-p", "/run/%s.sock" % ("x" * 90)] * 3)
    assert got.returncode == 1 and "3 ports of each of 256 machines are more than can be told of" in got.stderr, got


@case("a port of one's choice is for a pool of one machine, and stays its port when that is replaced")
def _():
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
    with Pool("--min", "1", "--max", "1", "-p", "%d:80" % port, warm=1, name="one"), Client("one") as c:
        a = c.ask("CLAIM")
        same(int(a.keys["host_port"]), port)
        os.kill(int(a.keys["pid"]), signal.SIGKILL)
        same(c.line().word, "LOST")
        same(int(c.ask("CLAIM").keys["host_port"]), port)


@case("what is no request is ERR_UNKNOWN, and bad grammar the request's own error")
def _():
    with Pool("--min", "0", "--max", "1"), Client() as c:
        for line, word, code in (("PING", "ERR_UNKNOWN", "ENOSYS"), ("claim", "ERR_UNKNOWN", "ENOSYS"), ("\x01", "ERR_UNKNOWN", "EILSEQ"),
                                 ("CLAIM x", "ERR_CLAIM", "EINVAL"), ("CLAIM deadline_ms=0", "ERR_CLAIM", "EINVAL"),
                                 ("CLAIM keep=2", "ERR_CLAIM", "EINVAL"), ("CLAIM id=a/b", "ERR_CLAIM", "EINVAL"),
                                 ("RELEASE", "ERR_RELEASE", "EINVAL"), ("RELEASE claim=x", "ERR_RELEASE", "EINVAL"),
                                 ("RELEASE claim=1 vm=2", "ERR_RELEASE", "EINVAL"), ("RELEASE claim=99", "ERR_RELEASE", "ENOENT"),
                                 ('RELEASE vm="a', "ERR_RELEASE", "EINVAL")):
            got = c.ask(line)
            same((got.word, got.keys["code"]), (word, code))
        # What an error quotes breaks no line.
        for line in ('CLAIM keep="a\\x0aERR_CLAIM b"', 'CLAIM deadline_ms="1\\x0a2"', 'RELEASE claim="\\x0a\\x7f"'):
            got = c.ask(line)
            same(got.keys["code"], "EINVAL")
            assert "\x7f" not in got.text
        c.send("")
        same(c.ask("STATUS id=s").text.split(" ")[:2], ["STATUS", "id=s"])
        try:
            c.sock.sendall(b"x" * (1 << 20))
        except OSError:
            pass
        same(c.line().keys["code"], "EMSGSIZE")


@case("the commands: status, claim, release")
def _():
    same(cli("pool", "status", "--name", "none").returncode, 3)
    same(cli("pool", "claim", "--name", "none").returncode, 3)
    with Pool("--min", "1", "--max", "2", warm=1, name="cmd"):
        got = cli("pool", "status", "--name", "cmd")
        assert got.returncode == 0 and "1 warm" in got.stdout, got
        assert re.search(r"^[0-9.]+ GiB of memory available, 256 MiB to stay so; a machine may take 64.0 MiB$", got.stdout, re.M), got
        vm = cli("pool", "claim", "--name", "cmd").stdout.strip()
        assert re.fullmatch("[0-9a-f]{12}", vm), vm
        status = cli("pool", "status", "--name", "cmd").stdout
        assert re.search(r"^  %s claimed +[0-9.]+ s, claim 1, 1 restores, the last in [0-9]+ us$" % vm, status, re.M), status
        other = json.loads(cli("pool", "claim", "--json", "--name", "cmd").stdout)
        same(cli("pool", "claim", "--timeout", "1", "--name", "cmd").returncode != 0, True)
        same(json.loads(cli("pool", "status", "--json", "--name", "cmd").stdout)["claimed"], 2)
        same(cli("pool", "release", vm, "--name", "cmd").returncode, 0)
        same(cli("pool", "release", vm, "--name", "cmd").returncode, 3)
        same(cli("pool", "release", other["vm"], "--name", "cmd").returncode, 0)
        got = cli("pool", "--snapshot", "s1", "--name", "cmd")
        assert got.returncode == 4 and "running already" in got.stderr, got
    same(cli("pool", "--snapshot", "nosuch").returncode, 3)
    same(cli("pool").returncode, 2)
    same(cli("pool", "--snapshot", "s1", "--min", "3", "--max", "2").returncode, 2)
    same(cli("pool", "--snapshot", "s1", "--name", "../x").returncode, 2)


@case("what would not fit a request to a worker is refused at once")
def _():
    for warm_up in ("\1" * 4050, "x" * 4096):
        got = cli("pool", "--snapshot", "s1", "--warm-up", warm_up)
        assert got.returncode == 2 and re.fullmatch("smvm-runner pool: --warm-up: [0-9]+ bytes.* fit a request.*", got.stderr.strip()), got
    base = tempfile.mkdtemp()
    try:
        deep = base + ("/" + "\1" * 253) * 16
        os.makedirs(deep)
        got = cli("pool", "--snapshot", deep)
        assert got.returncode == 2 and re.fullmatch("smvm-runner: --snapshot: [0-9]+ bytes.* fit a request.*", got.stderr.strip()), got
    finally:
        shutil.rmtree(base)


def left():
    return [d for d in os.listdir(RUN) if not d.endswith(".lock")]


@case("Ctrl-C, SIGTERM, a terminal that goes away: the pool ends in order with all that it has, whatever it was at")
def _():
    def at(coming, end):
        pid, terminal = pty.fork()
        if not pid:
            os.execlp("smvm-runner", "smvm-runner", "pool", "--name", "tty", "--snapshot", "s1", "--min", "0" if coming else "3", "--max", "3",
                      "-p", "80")
        said = b""
        while b"pool-tty.sock" not in said:
            said += os.read(terminal, 1000)
        with Client("tty") as c:
            if coming:
                # What they are made of is not to be had until they have been seen to be coming.
                with Stuck():
                    c.send("CLAIM keep=1")
                    with Client("tty") as others:
                        others.send("CLAIM keep=1\nCLAIM keep=1")
                        until(lambda: others.status()["coming"] == 3)
            else:
                until(lambda: c.status()["warm"] == 3)
                c.send("CLAIM keep=1")
            same(c.line().word, "CLAIMED")
            machines = [m["pid"] for m in c.status()["machines"]]
            end(pid, terminal)
            same(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)
        os.close(terminal)
        same([x for x in machines if alive(x)], [])
        same(left(), [])
        same(os.path.exists(RUN + "/pool-tty.sock.lock"), False)

    for end in (lambda pid, terminal: os.write(terminal, b"\x03"), lambda pid, _: os.kill(pid, signal.SIGTERM),
                lambda pid, _: os.kill(pid, signal.SIGHUP)):
        at(True, end)
        at(False, end)


class Writing:
    """A pool whose one machine is claimed and being written, by a process that stands still."""
    def __init__(self, name):
        self.pool = Pool("--min", "1", "--max", "1", warm=1)
        with Client() as c:
            a = c.ask("CLAIM keep=1")
            self.writer = HeldWriter(int(a.keys["pid"]))
            self.asker = subprocess.Popen(["smvm-runner", "snapshot", a.keys["vm"], name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self):
        self.writer.held()
        return self

    def __exit__(self, *_):
        with self.writer:
            self.writer.go_on()
        self.pool.process.kill()
        self.pool.process.wait()
        self.asker.wait(60)
        until(lambda: not alive(self.writer.pid))


def is_ending():
    try:
        with Client() as c:
            return c.ask("CLAIM deadline_ms=100").keys["code"] == "ESHUTDOWN"
    except (ConnectionError, EOFError):
        return False


@case("told to end while a claimed machine is being written, it waits for that; told again, it does not")
def _():
    with Writing("kept") as w:
        w.pool.process.terminate()
        try:
            w.pool.process.wait(6)
            raise AssertionError("it did not wait")
        except subprocess.TimeoutExpired:
            w.writer.go_on()
        same(w.pool.process.wait(60), 0)
        until(lambda: "kept" in os.listdir(os.environ["SMFS_MOUNT"] + "/snapshots"))
    with Writing("late") as w:
        w.pool.process.terminate()
        # Two signals at once are one: it is to have had the first.
        until(is_ending)
        w.pool.process.terminate()
        same(w.pool.process.wait(60), 0)
    cli("ps")  # removes what is of the dead
    same(left(), [])


@case("the pool is killed: its workers end, and another takes its name")
def _():
    p = Pool("--min", "2", "--max", "2", warm=2)
    pids = [m["pid"] for m in p.status()["machines"]]
    p.process.kill()
    p.process.wait()
    until(lambda: not any(alive(x) for x in pids))
    with Pool("--min", "1", "--max", "1", warm=1), Client() as c:
        same(c.ask("CLAIM").word, "CLAIMED")


@case("1,000 claims over a pool of 8: none lost, none served twice")
def _():
    with Pool("--min", "8", "--max", "8", warm=8, snapshot="idle") as p:
        held, waits, lock, twice = set(), [], threading.Lock(), []

        def claim_many(n):
            with Client() as c:
                for _ in range(n):
                    got = c.ask("CLAIM deadline_ms=60000", 90)
                    assert got.word == "CLAIMED", got
                    with lock:
                        if got.keys["vm"] in held:
                            twice.append(got)
                        held.add(got.keys["vm"])
                        waits.append(int(got.keys["waited_us"]))
                    with lock:
                        held.discard(got.keys["vm"])
                    assert c.ask("RELEASE claim=" + got.keys["claim"]).word == "RELEASED"

        threads = [threading.Thread(target=claim_many, args=(125,)) for _ in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        waits.sort()
        s = p.status()
        print("# waited p50 %d us, p99 %d us" % (waits[500], waits[990]))
        same((len(waits), s["claims"], s["lost"], twice), (1000, 1000, 0, []))


@case("what is left of a killed pool and lets its name go in a moment is waited for")
def _():
    with open(RUN + "/pool-late.sock.lock", "w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        until_free = threading.Timer(0.4, f.close)
        until_free.start()
        with Pool("--min", "0", "--max", "1", name="late"):
            same(f.closed, True)
        until_free.join()


done()
