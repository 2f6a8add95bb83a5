"""A worker without HELLO, and what both dialects have: cases of test_worker.sh."""
import errno
import json
import os
import re
import signal
import socket
import time

from cases import HeldWriter, Skip, Stuck, case, cli, same, until
from supervisor import Gone
from worker_util import BUILD, MOUNT, generation, log, ps, worker


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
        same(s.ask("SNAPSHOT snapshots/n3 base=snapshots/n2").word, "DONE_SNAPSHOT")
        same(s.ask("RESTORE snapshots/n3").word, "DONE")
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
        for line in (b"SNAPSHOT \xff\xfe\n", b"SNAPSHOT_ASYNC \xc3\xa9\n", b"SNAPSHOT e4 base=\xff\n"):
            s.raw(line)
            got = s.line()
            assert got.word == "ERR_SNAPSHOT" and "must begin with" in got.text, got
        same(s.ask("SNAPSHOT e3").word, "DONE_SNAPSHOT")
        # Nor is any of it worth a word elsewhere.
        same(s.said(), "")
        s.quit()


@case("seed: SNAPSHOT_ASYNC is answered when it is written, and QUIT waits for it")
def _():
    with worker() as s:
        s.ask("RESTORE writer")
        same(s.ask("SNAPSHOT_ASYNC a1").word, "DONE_SNAPSHOT_ASYNC")
        with HeldWriter(s.process.pid) as writer:
            s.send("SNAPSHOT_ASYNC a2")
            writer.held()
            s.send("QUIT")
            s.quiet()
        same(s.line().word, "DONE_SNAPSHOT_ASYNC")
        same(s.gone(), 0)
    assert {"a1", "a2"} <= set(os.listdir(MOUNT + "/snapshots"))


@case("seed: the base is written while the warm-up runs, the diff of it comes after")
def _():
    with worker("--kernel", BUILD + "/guest/churn16", "-m", "128M", "--ready", "log:^up ") as s:
        s.expect("BAKE_READY")
        with HeldWriter(s.process.pid) as writer:
            s.send("SNAPSHOT_ASYNC b1")
            # Here the warm-up would run. In flight it is only until it has been captured.
            writer.held()
            while s.ask("SNAPSHOT_ASYNC b3").text == "ERR_SNAPSHOT snapshot in flight":
                pass
            s.send("SNAPSHOT b2 base=b1")
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
ends(b"WARM_UP true\n", "no such request: WARM_UP")
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
            same(s.process.wait(60), 0)


@case("the supervisor ends its own direction, or a signal comes: what is in flight is answered, then that is the end")
def _():
    for i, end in enumerate((lambda s: s.sock.shutdown(socket.SHUT_WR), lambda s: s.process.send_signal(signal.SIGTERM))):
        with worker() as s:
            s.ask("RESTORE s1")
            with HeldWriter(s.process.pid) as writer:
                s.send("SNAPSHOT half%d" % i)
                writer.held()
                end(s)
                s.quiet()
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
                same(s.process.wait(60), 0)


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
        # Who does not read is given up after a minute anyway.
        same(s.process.wait(30), 0)


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
        # Not only when the minute is over that it is waited for.
        assert time.monotonic() - began < 30
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
