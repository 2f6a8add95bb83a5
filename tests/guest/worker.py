"""The cases of test_worker.sh: TAP on standard output."""
import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, "tests/lib")
from cases import Skip, Stuck, case, children, cli, done, own_memory, same, until  # noqa: E402
from supervisor import Gone, Supervisor  # noqa: E402

BUILD = sys.argv[1]
MOUNT = os.environ["SMFS_MOUNT"]


def worker(*args, hello=False, ready=True, **kw):
    s = Supervisor(["smvm-runner", "worker", *args], **kw)
    if ready and s.sock:
        s.expect("READY")
    if hello:
        s.hello()
    return s


def log(vm):
    return cli("console", "-l", vm).stdout


def ps():
    return cli("ps", "-q").stdout.split()


def generation(vm):
    """(number, counter, nonce), as a counter guest says when it finds itself restored."""
    m = until(lambda: re.search(r"^gen ([0-9a-f]{16}) ([0-9a-f]{16}) ([0-9a-f]{16})\r?\n", log(vm), re.M))
    return int(m[1], 16), int(m[2], 16), m[3]


# ---- the seed dialect

@case("seed: READY, then nothing until asked")
def _():
    with worker() as s:
        s.quiet()
        s.send("QUIT")
        same(s.gone(), 0)


@case("seed: RESTORE is answered by DONE with its ten phases")
def _():
    with worker() as s:
        done = s.ask("RESTORE s1")
        same(done.word, "DONE")
        assert done.first > 0 and done.keys["ram_copy_us"] == 0 and done.keys["reset_vsock_us"] == 0, done
        vm, = ps()
        number, _, _ = generation(vm)
        same(number, 2)
        same(s.quit(), 0)


@case("seed: reset in place, the guest is back where the snapshot has it")
def _():
    with worker("--name", "w") as s:
        pid = s.process.pid
        s.ask("RESTORE s1")
        first = generation("w")
        info = until(lambda: cli("info", "--json", "w").stdout)
        for _ in range(5):
            done = s.ask("RESTORE s1")
            same(generation("w"), first)
            assert done.keys["remap_cow_us"] > 0
        assert info != cli("info", "--json", "w").stdout  # a uuid of its own each time
        same(s.process.pid, pid)
        s.ask("RESTORE s2")
        second = generation("w")
        assert second[1] > first[1] and second[2] == first[2], (first, second)
        s.ask("RESTORE %s/snapshots/s1" % MOUNT)
        same(generation("w"), first)
        s.quit()


@case("a reset to the same snapshot gives up what was written, one to another maps all anew")
def _():
    def rewound():
        return json.loads(cli("info", "w").stdout)["restored"]["rewound_bytes"]

    kernel = os.uname().release
    if tuple(int(n) for n in re.findall(r"\d+", kernel)[:2]) < (6, 7):
        raise Skip("Linux %s has no PAGEMAP_SCAN (6.7) to tell what was written" % kernel)
    with worker("--name", "w") as s:
        for name, again in (("s1", False), ("s1", True), ("s1", True), ("s2", False), ("s2", True), ("s1", False)):
            s.ask("RESTORE " + name)
            same(rewound() > 0, again)
            until(lambda: "gen" in log("w"))
        s.quit()


@case("a guest that has sums of 64 MiB finds them right after each reset, whatever was written since")
def _():
    def said(word):
        return until(lambda: re.findall(r"^%s ([0-9a-f]{16})\r?\n" % word, log("w"), re.M), 60)[-1]

    def type_in(what):
        with socket.socket(socket.AF_UNIX) as c:
            c.connect(os.path.join(os.environ["SMVM_RUN_DIR"], ps()[0], "control.sock"))
            c.sendall(b'{"op":"console"}\n')
            assert c.recv(100).startswith(b'{"ok":')
            c.sendall(what)

    with worker("--restore", "sums", "--name", "w") as s:
        same(s.line().word, "DONE")
        right = said("sum")
        for i in range(4):
            type_in(b"d" * (i % 2 + 1))
            assert said("dirty") != right
            same(s.ask("RESTORE sums").word, "DONE")
            same(said("sum"), right)
        s.quit()


@case("seed: a machine of another size or with other vCPUs is made anew in the same process")
def _():
    with worker("--name", "w") as s:
        for name in ("s1", "large", "four", "s1", "s1"):
            same(s.ask("RESTORE " + name).word, "DONE")
            assert name == "four" or generation("w")[0] == 2
        s.quit()


@case("seed: keys that are not known are ignored, and egress_policy")
def _():
    with worker() as s:
        same(s.ask("RESTORE s1 egress_policy=deny later=x y=\"z").word, "DONE")
        same(s.ask("  RESTORE   s1  id=7 deadline_ms=nonsense  word ").word, "DONE")
        same(s.ask("SNAPSHOT k1 colour=red id=9").word, "DONE_SNAPSHOT")
        s.quit()


@case("seed: SNAPSHOT, a diff of it, by name and by path; they restore")
def _():
    with worker("--name", "w") as s:
        s.ask("RESTORE s1")
        full = s.ask("SNAPSHOT n1")
        same(full.word, "DONE_SNAPSHOT")
        assert full.keys["bytes_written"] > 0 and full.keys["capture_us"] > 0 and full.keys["save_us"] > 0
        same(s.ask("SNAPSHOT %s/snapshots/n2 base=%s/snapshots/n1" % (MOUNT, MOUNT)).word, "DONE_SNAPSHOT")
        before = generation("w")
        s.ask("RESTORE n2")
        after = generation("w")
        same(after[0], 3)
        assert after[1] > before[1] and after[2] == before[2]
        s.quit()


@case("seed: a snapshot that cannot be is ERR_SNAPSHOT, and the guest goes on")
def _():
    with worker() as s:
        same(s.ask("SNAPSHOT e1").word, "ERR_SNAPSHOT")
        s.ask("RESTORE s1")
        for line in ("SNAPSHOT s1", "SNAPSHOT ../x", "SNAPSHOT a/b", "SNAPSHOT", "SNAPSHOT e2 base=nosuch", "SNAPSHOT_ASYNC",
                     "SNAPSHOT_ASYNC s1", "SNAPSHOT " + "n" * 5000):
            same(s.ask(line).word, "ERR_SNAPSHOT")
        same(s.ask("SNAPSHOT e3").word, "DONE_SNAPSHOT")
        s.quit()


@case("seed: SNAPSHOT_ASYNC is answered when it is written, and QUIT waits for it")
def _():
    with worker() as s:
        s.ask("RESTORE writer")
        same(s.ask("SNAPSHOT_ASYNC a1").word, "DONE_SNAPSHOT_ASYNC")
        s.send("SNAPSHOT_ASYNC a2")
        s.send("QUIT")
        same(s.line().word, "DONE_SNAPSHOT_ASYNC")
        same(s.gone(), 0)
    assert {"a1", "a2"} <= set(os.listdir(MOUNT + "/snapshots"))


@case("seed: the base is written while the warm-up runs, the diff of it comes after")
def _():
    with worker("--kernel", BUILD + "/guest/churn256", "-m", "512M", "--ready", "log:^up ") as s:
        s.expect("BAKE_READY")
        s.send("SNAPSHOT_ASYNC b1")
        # Here the warm-up would run. In flight it is only until it has been captured.
        child, = until(lambda: children(s.process.pid))
        os.kill(child, signal.SIGSTOP)
        while s.ask("SNAPSHOT_ASYNC b3").text == "ERR_SNAPSHOT snapshot in flight":
            pass
        s.send("SNAPSHOT b2 base=b1")
        os.kill(child, signal.SIGCONT)
        same(s.line().word, "DONE_SNAPSHOT_ASYNC")
        same(s.line().word, "DONE_SNAPSHOT")
        same(s.ask("RESTORE b2").word, "DONE")
        s.quit()


@case("seed: a snapshot asked for while another is in flight is refused, that one goes on")
def _():
    with worker() as s:
        s.ask("RESTORE s1")
        s.send("SNAPSHOT f1\nSNAPSHOT f2\nSNAPSHOT_ASYNC f3")
        same(s.line().text, "ERR_SNAPSHOT snapshot in flight")
        same(s.line().text, "ERR_SNAPSHOT snapshot in flight")
        same(s.line().word, "DONE_SNAPSHOT")
        s.send("RESTORE s1\nSNAPSHOT f4")
        same(s.line().text, "ERR_SNAPSHOT restore in flight")
        same(s.line().word, "DONE")
        s.quit()
    assert not {"f2", "f3", "f4"} & set(os.listdir(MOUNT + "/snapshots"))


def ends(line, reason):
    @case("seed: the connection ends at " + (repr(line) if len(line) < 40 else repr(line[:16]) + " ..."))
    def _():
        with worker() as s:
            s.ask("RESTORE s1")
            try:
                s.raw(line)
            except (BrokenPipeError, ConnectionResetError):
                pass
            same(s.gone(), 1)
            assert re.search(reason, s.said()), s.said()


ends(b"PING\n", "no such request: PING")
ends(b"HELLO 0\n", "takes a version")
ends(b"HELLO 1 junk\n", "not KEY=VALUE")
ends(b"RESTORE " + b"n" * 4096 + b"\n", "more than 4095 bytes")
ends(b"restore s1\n", "no such request")
ends(b"RESTORE\n", "path is missing")
ends(b"RESTORE nosuch\n", "no such directory")
ends(b"RESTORE s1\nRESTORE s1\n", "restore in flight")
ends(b"SNAPSHOT g1\nRESTORE s1\n", "snapshot in flight")
ends(b"RESTORE \xff\x00\n", "not text")
ends(bytes(range(256)) * 16 + b"\n", "not text|no such request")
ends(b"\x7fELF\n", "not text")
ends(b"R" * (1 << 20), "more than 16384 bytes")
ends(b"R" * (1 << 20) + b"\nRESTORE s1\n", "more than 16384 bytes")


@case("seed: the longest line there is, and empty ones")
def _():
    with worker() as s:
        s.raw(b"\n\n   \nRESTORE s1 x=" + b"y" * (16384 - 13) + b"\n")
        same(s.line().word, "DONE")
        s.quit()


@case("WARM_UP: without a machine, of a guest without an agent; in the seed dialect it is no request")
def _():
    with worker(hello=True) as s:
        same(s.ask("WARM_UP true id=1").text, "ERR_WARM_UP id=1 code=ENODATA there is no machine to warm up")
        s.ask("RESTORE s1")
        same(s.ask("WARM_UP true id=2").text, "ERR_WARM_UP id=2 code=EOPNOTSUPP this guest has no agent")
        same(s.ask("WARM_UP").text, "ERR_WARM_UP code=EINVAL a program is missing")
        same(s.ask("RESTORE s1").word, "DONE")
        s.quit()


ends(b"WARM_UP true\n", "no such request: WARM_UP")


@case("seed: a line that comes byte by byte")
def _():
    with worker() as s:
        for b in b"RESTORE s1\n":
            s.raw(bytes([b]))
            time.sleep(0.002)
        same(s.line().word, "DONE")
        s.quit()


@case("seed: a restore that takes long is answered when it is done")
def _():
    with worker() as s:
        s.ask("RESTORE s1")
        with Stuck():
            s.send("RESTORE s2")
            s.quiet(0.5)
        same(s.line().word, "DONE")
        s.quit()


@case("seed: the supervisor goes, in the middle of a line, of a restore, of a snapshot")
def _():
    for line in (b"", b"REST", b"RESTORE s1\n", b"RESTORE s1\nSNAPSHOT", b"RESTORE s1\nSNAPSHOT h1\n"):
        with worker() as s:
            s.raw(line)
            s.sock.close()
            same(s.process.wait(20), 0)


@case("the supervisor ends its own direction, or a signal comes: what is in flight is answered, then that is the end")
def _():
    for i, end in enumerate((lambda s: s.sock.shutdown(socket.SHUT_WR), lambda s: s.process.send_signal(signal.SIGTERM))):
        with worker() as s:
            s.ask("RESTORE s1")
            s.send("SNAPSHOT half%d" % i)
            child, = until(lambda: children(s.process.pid))
            os.kill(child, signal.SIGSTOP)
            end(s)
            s.quiet()
            os.kill(child, signal.SIGCONT)
            same(s.line().word, "DONE_SNAPSHOT")
            same(s.gone(), 0)


@case("seed: QUIT at once, twice, with more behind it")
def _():
    for line in ("QUIT", "QUIT\nQUIT", "QUIT now=1\nRESTORE s1\nPING", "RESTORE s1\nQUIT"):
        with worker() as s:
            s.send(line)
            try:
                while True:
                    same(s.line().word, "DONE")
            except Gone:
                same(s.process.wait(20), 0)


@case("signals and `stop` are QUIT")
def _():
    for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with worker() as s:
            s.ask("RESTORE s1")
            s.process.send_signal(sig)
            same(s.gone(), 0)
    with worker("--name", "w") as s:
        s.ask("RESTORE s1")
        same(cli("stop", "w").returncode, 0)
        same(s.gone(), 0)


@case("a signal ends a worker whose supervisor does not read")
def _():
    with worker(hello=True) as s:
        s.sock.setblocking(False)
        full = 0
        # Its answers fill the socket, then it reads no more requests.
        while full < 20:
            try:
                s.sock.send(b"HELLO 1\n" * 100)
                full = 0
            except BlockingIOError:
                full += 1
                time.sleep(0.02)
        s.process.send_signal(signal.SIGTERM)
        same(s.process.wait(10), 0)


@case("nobody listens: status 1, and it says so")
def _():
    got = cli("worker", "--socket", "/nonexistent/s")
    same(got.returncode, 1)
    assert "connect to the supervisor" in got.stderr
    same(cli("worker").returncode, 2)
    for bad in ("nonsense", "port:0", "file:relative", "log:(", "exec:"):
        same(cli("worker", "--socket", "/x", "--ready", bad).returncode, 2)
    same(cli("worker", "--socket", "/x", *["--ready", "agent"] * 33).returncode, 2)
    same(cli("worker", "--socket", "/x", "--restore", "s1", "--kernel", BUILD + "/guest/counter").returncode, 2)
    same(cli("worker", "--socket", "/x", "nosuch").returncode, 3)
    with worker("--restore", "s1", "--name", "w") as s:
        same(s.line().word, "DONE")
        with worker("--name", "w", ready=False) as t:
            same(t.gone(), 4)


@case("a worker started on a snapshot says a first DONE, its phases zero")
def _():
    with worker("--restore", "s1", "--name", "w") as s:
        done = s.line()
        same(done.word, "DONE")
        assert done.first > 0 and not any(done.keys.values()), done
        same(generation("w")[0], 2)
        same(s.ask("RESTORE s2").word, "DONE")
        s.quit()
    with worker("--restore", "nosuch") as s:
        same(s.gone(), 1)


@case("an image: BAKE_READY when it is ready, and not before")
def _():
    with worker("--kernel", BUILD + "/guest/counter", "-m", "64M", "--ready", "log:^up [0-9a-f]+$", "--name", "w") as s:
        s.expect("BAKE_READY")
        assert "up " in log("w")
        same(s.ask("SNAPSHOT baked").word, "DONE_SNAPSHOT")
        same(s.ask("RESTORE baked").word, "DONE")
        same(generation("w")[0], 2)
        s.quit()
    with worker("--kernel", BUILD + "/guest/counter", "-m", "64M") as s:
        s.expect("BAKE_READY")
        s.quit()
    with worker("--kernel", BUILD + "/guest/counter", "-m", "64M", "--ready", "log:^never", "--ready-timeout", "1") as s:
        same(s.gone(), 1)
        assert "not ready within" in s.said(), s.said()
    with worker("--kernel", BUILD + "/guest/counter", "-m", "64M", "--ready", "agent", "--ready", "log:^up", "--ready",
                "log:^never", "--ready-timeout", "1") as s:
        same(s.gone(), 1)
        assert "^never" in s.said() or "no line" in s.said(), s.said()
    with worker("--kernel", BUILD + "/guest/counter", "-m", "64M", "--ready", "port:80") as s:
        same(s.gone(), 1)
        assert "no agent to ask" in s.said(), s.said()


@case("an image that is waited for: QUIT and the guest's end are heard at once")
def _():
    with worker("--kernel", BUILD + "/guest/counter", "-m", "64M", "--ready", "log:^never", "--name", "w") as s:
        until(lambda: "up " in log("w"))
        s.quiet()
        began = time.monotonic()
        same(s.quit(), 0)
        assert time.monotonic() - began < 2
    with worker("--kernel", BUILD + "/guest/brief", "-m", "64M", "--ready", "log:^never") as s:
        same(s.gone(), 1)
        assert "the guest powered off before it was ready; last console line: up " in s.said(), s.said()


def connects(port):
    """Somebody listens there, even if only to reset what connects."""
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) != errno.ECONNREFUSED


@case("seed: a port of the host: in every DONE the same, open from READY on until the worker's end")
def _():
    # This guest has nobody to take a connection further: test_worker.sh of tests/vm has one that has.
    with worker("-p", "0:80", "--name", "w") as s:
        port = s.ask("RESTORE s1").keys["host_port"]
        assert connects(port)
        for name in ("s1", "s2", "large", "s1"):
            same(s.ask("RESTORE " + name).keys["host_port"], port)
            assert connects(port)
        assert '"host_port": %d' % port in cli("ps", "--json").stdout
        same(s.quit(), 0)
    until(lambda: not connects(port))
    with worker("--restore", "s1", "-p", "127.0.0.1:%d:80" % port, hello=False) as s:
        same(s.line().keys["host_port"], port)
        # Another worker cannot have it, and says so before it does anything else.
        with worker("-p", "%d:80" % port, ready=False) as t:
            same(t.gone(), 1)
            assert str(port) in t.said(), t.said()
        s.process.kill()
        until(lambda: not connects(port))


@case("extended: HELLO tells all forwards")
def _():
    with worker("-p", "0:80", "-p", "[::1]:0:/run/a\"b.sock") as s:
        got = s.hello().keys["forwards"].split(" ")
        same(len(got), 2)
        one, two = re.fullmatch(r"127\.0\.0\.1:(\d+):80", got[0]), re.fullmatch(r'\[::1\]:(\d+):/run/a"b\.sock', got[1])
        assert one and two, got
        same(s.ask("RESTORE s1").keys["host_port"], int(one[1]))
        s.quit()
    same(cli("worker", "--socket", "/x", "-p", "0:/a b").returncode, 2)


# ---- the extended dialect

@case("HELLO is answered, again, and with the lower version")
def _():
    with worker(hello=True) as s:
        same(s.hello().keys["line_max"], 16384)
        same(s.ask("HELLO 7 id=a.B-c_9").keys["id"], "a.B-c_9")
        same(s.ask("HELLO 4294967295").first, 1)
        for line in ("HELLO", "HELLO 0", "HELLO one", "HELLO 1 junk", "HELLO 4294967296", "HELLO 99999999999999999999"):
            got = s.ask(line)
            same((got.word, got.keys["code"]), ("ERR_UNKNOWN", "EINVAL"))
        same(s.quit(), 0)


@case("extended: DONE says how: new, warm, rebuilt and why")
def _():
    with worker(hello=True) as s:
        got = s.ask("RESTORE s1 id=1")
        same((got.word, got.keys["how"], got.keys["id"], got.keys["generation"]), ("DONE", "new", 1, 2))
        same(s.ask("RESTORE s2 id=2").keys["how"], "warm")
        for name, why in (("large", "MiB of RAM"), ("four", "vCPUs"), ("s1", "vCPUs")):
            got = s.ask("RESTORE " + name)
            same(got.keys["how"], "rebuilt")
            assert why in got.keys["why"], got
        same(s.ask("RESTORE s1").keys["how"], "warm")
        s.quit()


@case("extended: the machine is found by what HELLO tells")
def _():
    with worker(hello=True) as s:
        s.ask("RESTORE s1")
        same(ps(), [s.vm])
        assert os.path.exists(s.rundir + "/control.sock")
        same(cli("snapshot", s.vm, "by-hand").returncode, 0)
        same(s.ask("RESTORE by-hand").keys["how"], "warm")
        s.quit()


@case("extended: quoted paths")
def _():
    os.makedirs(os.environ["TMPDIR_OF"] + '/a "b\\ c', exist_ok=True)
    path = os.environ["TMPDIR_OF"] + '/a "b\\ c/s'
    same(subprocess.run(["cp", "-r", "--sparse=always", MOUNT + "/snapshots/s1", path]).returncode, 0)
    quoted = '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'
    with worker(hello=True) as s:
        same(s.ask("RESTORE " + quoted).word, "DONE")
        same(s.ask("RESTORE " + quoted.replace(" ", "\\x20")).word, "DONE")
        same(s.ask('SNAPSHOT "q1" base="s1" id=5').word, "DONE_SNAPSHOT")
        for bad in ('"s1', '"s1\\', '"s1\\q"', '"s1\\x0"', '"s1\\x00"', '"s1"x', 's"1', '""', '"s1" junk', "s1 id=", "s1 id=a/b",
                    "s1 id=" + "a" * 33, "s1 deadline_ms=0", "s1 deadline_ms=3600001", "s1 deadline_ms=-1", "s1 clock=soon", "",
                    '"' + "A" * 4096 + '"', "A" * 4096):
            got = s.ask("RESTORE " + bad)
            same((got.word, got.keys["code"], got.keys["machine"]), ("ERR_RESTORE", "EINVAL", "kept"))
        same(s.ask("SNAPSHOT x idle_ms=60001").keys["code"], "EINVAL")
        same(s.ask('RESTORE s1 later="a b" id=1 id=2 x=y').keys["id"], 1)
        same(s.ask("RESTORE s1 later=" + "y" * 16000).word, "DONE")
        s.quit()


@case("extended: what is no request is ERR_UNKNOWN, and the session goes on")
def _():
    with worker(hello=True) as s:
        s.ask("RESTORE s1")
        for data, code in ((b"PING", "ENOSYS"), (b"quit", "ENOSYS"), (b"\x01", "EILSEQ"), (b"RESTORE a\tb", "EILSEQ"),
                           (b"R" * 16385, "EMSGSIZE"), (b"Q" * (1 << 20), "EMSGSIZE"), (b"QUIT deadline_ms=x", "EINVAL")):
            s.raw(data + b"\n")
            got = s.line()
            same((got.word, got.keys["code"]), ("ERR_UNKNOWN", code))
        same(s.ask("RESTORE s1").word, "DONE")
        s.quit()


@case("extended: errors tell their request, their code, and what is left")
def _():
    with worker(hello=True) as s:
        got = s.ask("RESTORE nosuch id=1")
        same((got.word, got.keys["id"], got.keys["code"], got.keys["machine"]), ("ERR_RESTORE", 1, "ENOENT", "none"))
        same(s.ask("SNAPSHOT y1 id=2").keys["code"], "ENODATA")
        s.ask("RESTORE s1")
        same(s.ask("RESTORE nosuch").keys["machine"], "kept")
        same(s.ask("SNAPSHOT s1 id=3").keys["code"], "EEXIST")
        same(s.ask("SNAPSHOT y1 base=nosuch id=4").keys["code"], "ENOENT")
        got = s.ask("SNAPSHOT y1 id=5")
        same((got.word, got.keys["id"], got.keys["diff"]), ("DONE_SNAPSHOT", 5, 1))
        s.quit()


@case("extended: a damaged snapshot is refused, and the machine kept")
def _():
    bad = os.environ["TMPDIR_OF"] + "/bad"
    subprocess.run(["cp", "-r", "--sparse=always", MOUNT + "/snapshots/s1", bad], check=True)
    os.truncate(bad + "/ram", 4096)
    with worker(hello=True) as s:
        s.ask("RESTORE s1")
        got = s.ask("RESTORE " + bad)
        same((got.keys["code"], got.keys["machine"]), ("EBADMSG", "kept"))
        same(s.ask("RESTORE s1").keys["how"], "warm")
        s.quit()


@case("extended: a burst of requests: one and refusals, each told apart by its id")
def _():
    with worker(hello=True) as s:
        s.ask("RESTORE s1")
        n = 200
        s.raw(b"".join(b"RESTORE s%d id=%d\n" % (1 + i % 2, i) for i in range(n)))
        got = {}
        for _ in range(n):
            line = s.line()
            assert line.keys["id"] not in got
            got[line.keys["id"]] = line
        same(got[0].word, "DONE")
        words = [got[i].word for i in range(n)]
        assert set(words) <= {"DONE", "ERR_RESTORE"}
        for i in range(n):
            assert got[i].word == "DONE" or (got[i].keys["code"] == "EBUSY" and "restore in flight" in got[i].text), got[i]
        s.quit()


@case("extended: a restore in time or ETIMEDOUT; then in flight until SETTLED")
def _():
    with worker(hello=True) as s:
        s.ask("RESTORE s1")
        with Stuck():
            got = s.ask("RESTORE s2 id=1 deadline_ms=200")
            same((got.word, got.keys["id"], got.keys["code"]), ("ERR_RESTORE", 1, "ETIMEDOUT"))
            got = s.ask("RESTORE s1 id=2")
            same((got.word, got.keys["code"]), ("ERR_RESTORE", "EBUSY"))
            assert "restore in flight" in got.text
            same(s.ask("SNAPSHOT z0 id=3").keys["code"], "EBUSY")
            same(s.ask("HELLO 1").word, "HELLO")
        got = s.line()
        same((got.word, got.keys["id"], got.rest), ("SETTLED", 1, "ok"))
        same(s.ask("RESTORE s1").word, "DONE")
        with Stuck():
            s.ask("RESTORE nosuch id=4 deadline_ms=200")
        same(s.line().keys["code"], "ENOENT")
        s.quit()


@case("extended: QUIT of a worker that is stuck ends it by its deadline")
def _():
    with worker(hello=True) as s:
        s.ask("RESTORE s1")
        with Stuck():
            s.send("RESTORE s2 id=1")
            s.send("QUIT id=2 deadline_ms=300")
            same(s.line().text, "BYE id=2")
            same(s.gone(), 0)


@case("extended: a snapshot in time or ETIMEDOUT, SETTLED when it is written")
def _():
    with worker(hello=True) as s:
        s.ask("RESTORE writer")
        until(lambda: "whole" in log(s.vm), 90)
        s.send("SNAPSHOT z1 id=1 deadline_ms=3000")
        child, = until(lambda: children(s.process.pid))
        os.kill(child, signal.SIGSTOP)
        got = s.line()
        same((got.word, got.keys["id"], got.keys["code"]), ("ERR_SNAPSHOT", 1, "ETIMEDOUT"))
        got = s.ask("SNAPSHOT z2 id=2")
        same((got.keys["code"], got.rest), ("EBUSY", "snapshot in flight"))
        os.kill(child, signal.SIGCONT)
        same(s.line().text, "SETTLED id=1 ok")
        assert "z1" in os.listdir(MOUNT + "/snapshots")
        s.quit()


@case("extended: SNAPSHOT_ASYNC is accepted, tells its progress, and is done; RESTORE meanwhile leaves it alone")
def _():
    with worker(hello=True) as s:
        s.ask("RESTORE writer")
        until(lambda: "whole" in log(s.vm), 90)
        s.send("SNAPSHOT_ASYNC p1 id=1")
        got = s.line()
        same((got.word, got.keys["id"]), ("ACCEPTED", 1))
        child, = children(s.process.pid)
        os.kill(child, signal.SIGSTOP)
        progress = s.answer("PROGRESS")
        assert progress.keys["elapsed_ms"] >= 900 and progress.keys["id"] == 1
        got = s.ask("SNAPSHOT_ASYNC p2 id=2", "ERR_SNAPSHOT")
        same((got.keys["id"], got.keys["code"]), (2, "EBUSY"))
        same(s.ask("RESTORE writer id=3", "DONE").keys["how"], "warm")
        same(s.ask("RESTORE s1 id=4", "ERR_RESTORE").keys["code"], "EBUSY")
        s.send("SNAPSHOT p3 id=5")
        os.kill(child, signal.SIGCONT)
        got = s.answer("DONE_SNAPSHOT_ASYNC")
        same(got.keys["id"], 1)
        got = s.answer("DONE_SNAPSHOT")
        same(got.keys["id"], 5)
        same(s.ask("RESTORE p1").word, "DONE")
        same(s.quit(), 0)


@case("a snapshot asked for by the command: SNAPSHOT waits for it, and so does QUIT")
def _():
    def begin(s, name):
        asker = subprocess.Popen(["smvm-runner", "snapshot", s.vm, name], stdout=subprocess.DEVNULL)
        child, = until(lambda: children(s.process.pid))
        os.kill(child, signal.SIGSTOP)
        return asker, child

    def end(asker, child):
        os.kill(child, signal.SIGCONT)
        same(asker.wait(20), 0)

    with worker(hello=True) as s:
        s.ask("RESTORE writer")
        until(lambda: "whole" in log(s.vm), 90)
        asker, child = begin(s, "c1")
        s.send("SNAPSHOT c2 id=1")
        s.quiet()
        end(asker, child)
        same(s.answer("DONE_SNAPSHOT").keys["id"], 1)
        asker, child = begin(s, "c3")
        s.send("QUIT id=2")
        s.quiet()
        end(asker, child)
        same(s.line().text, "BYE id=2")
        same(s.gone(), 0)
    assert {"c1", "c2", "c3"} <= set(os.listdir(MOUNT + "/snapshots"))


@case("extended: the writer is killed: ERR_SNAPSHOT, and no half snapshot")
def _():
    with worker(hello=True) as s:
        s.ask("RESTORE writer")
        until(lambda: "whole" in log(s.vm), 90)
        s.ask("SNAPSHOT_ASYNC k2 id=1", "ACCEPTED")
        child, = children(s.process.pid)
        os.kill(child, signal.SIGKILL)
        got = s.answer("ERR_SNAPSHOT")
        same(got.keys["id"], 1)
        assert "k2" not in os.listdir(MOUNT + "/snapshots")
        same(s.ask("SNAPSHOT k3").word, "DONE_SNAPSHOT")
        s.quit()


@case("extended: the guest ends: ENDED; no snapshot of it; the next restore makes a new one")
def _():
    with worker(hello=True) as s:
        s.ask("RESTORE s1")
        generation(s.vm)
        typist = subprocess.Popen(["smvm-runner", "console", s.vm], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL)
        typist.stdin.write(b"q")
        typist.stdin.flush()
        got = s.line()
        same((got.word, got.keys["how"]), ("ENDED", "shutdown"))
        typist.kill()
        typist.wait()
        same(s.ask("SNAPSHOT w1").keys["code"], "ENODATA")
        got = s.ask("RESTORE s1")
        same(got.keys["how"], "rebuilt")
        assert "powered off" in got.keys["why"], got
        same(s.ask("RESTORE s1").keys["how"], "warm")
        s.quit()


@case("extended: a guest that ends as soon as it is restored: DONE, then ENDED, each time")
def _():
    with worker(hello=True) as s:
        for i in range(10):
            s.send("RESTORE once")
            got = s.line()
            same((got.word, got.keys["how"]), ("DONE", "rebuilt" if i else "new"))
            got = s.line()
            same((got.word, got.keys["how"]), ("ENDED", "shutdown"))
        s.quit()


@case("extended: baking fails: ERR_BAKE with its code, no machine, and the worker is there for another")
def _():
    for guest, ready, code, words in (("counter", "log:^never", "ETIMEDOUT", "not ready within 1000 ms"),
                                      ("counter", "port:80", "EOPNOTSUPP", "no agent to ask"),
                                      ("brief", "log:^never", "ECONNRESET", "powered off before it was ready")):
        # Before it is heard of, an answer to HELLO or the seed's end: the wait is longer than that takes.
        with worker("--kernel", BUILD + "/guest/" + guest, "-m", "64M", "--ready", "log:^up", "--ready", ready, "--ready-timeout", "1") as s:
            s.seed = False
            s.send("HELLO 1")
            try:
                got = s.line(), s.line()
            except Gone:
                same(s.process.wait(20), 1)
                assert guest == "brief" or code == "EOPNOTSUPP"
                continue
            by = {line.word: line for line in got}
            same((set(by), by["ERR_BAKE"].keys["code"]), ({"HELLO", "ERR_BAKE"}, code))
            assert words in by["ERR_BAKE"].text, by
            same(s.ask("SNAPSHOT never").keys["code"], "ENODATA")
            same(s.ask("RESTORE s1").keys["how"], "new")
            same(s.quit(), 0)


@case("extended: `stop` ends the machine, and then the worker")
def _():
    with worker(hello=True) as s:
        s.ask("RESTORE s1")
        same(cli("stop", s.vm).returncode, 0)
        same(s.line().text, "ENDED how=stopped")
        same(s.gone(), 0)


@case("extended: starting fails: an error, and the worker is there for a better one")
def _():
    with worker("--restore", "nosuch", ready=False) as s:
        s.seed = False
        s.send("HELLO 1")
        words = {}
        try:
            while len(words) < 3:
                line = s.line()
                words[line.word] = line
        except Gone:
            # It failed before it had read HELLO: that is the seed's end.
            same(s.process.wait(20), 1)
            return
        same(words["ERR_RESTORE"].keys["code"], "ENOENT")
        same(s.ask("RESTORE s1").word, "DONE")
        same(s.quit(), 0)


# ---- worn, and nothing wears out

@case("300 resets: no descriptor, no memory, no time more")
def _():
    def state(pid):
        return *own_memory(pid), len(os.listdir("/proc/%d/fd" % pid))

    with worker(hello=True) as s:
        times = []
        for i in range(300):
            got = s.ask("RESTORE s%d" % (1 + i % 2))
            assert got.keys["how"] == ("warm" if i else "new"), got
            times.append(got.first)
            if i == 20:
                before = state(s.process.pid)
        after = state(s.process.pid)
        first, last = sorted(times[20:120])[50], sorted(times[200:])[50]
        print("# own KiB, mappings, descriptors: %s, then %s; median %d us, then %d us" % (before, after, first, last))
        same(after[1:], before[1:])
        # A sanitizer keeps what is freed.
        assert os.environ.get("SAN") or after[0] <= before[0] + 512, "own memory grew"
        assert last <= 3 * first + 1000, "slower and slower"
        s.quit()


done()
