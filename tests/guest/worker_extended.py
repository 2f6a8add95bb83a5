"""A worker after HELLO: cases of test_worker.sh."""
import os
import signal
import subprocess

from cases import HeldWriter, Stuck, case, cli, own_memory, same, until
from supervisor import Gone
from worker_util import BUILD, MOUNT, generation, log, ps, worker


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


@case("WARM_UP: without a machine, of a guest without an agent; in the seed dialect it is no request")
def _():
    with worker(hello=True) as s:
        same(s.ask("WARM_UP true id=1").text, "ERR_WARM_UP id=1 code=ENODATA there is no machine to warm up")
        s.ask("RESTORE s1")
        same(s.ask("WARM_UP true id=2").text, "ERR_WARM_UP id=2 code=EOPNOTSUPP this guest has no agent")
        same(s.ask("WARM_UP").text, "ERR_WARM_UP code=EINVAL a program is missing")
        same(s.ask("RESTORE s1").word, "DONE")
        s.quit()


@case("WARM_UP: not while a snapshot that a command asked for is being written")
def _():
    with worker(hello=True) as s:
        s.ask("RESTORE writer")
        until(lambda: "whole" in log(s.vm), 90)
        with HeldWriter(s.process.pid) as writer:
            same(cli("snapshot", "--live", "--no-wait", s.vm, "in-hand").returncode, 0)
            writer.held()
            same(s.ask("WARM_UP true id=1").text, "ERR_WARM_UP id=1 code=EBUSY a snapshot is being written")
        until(lambda: "in-hand" in os.listdir(MOUNT + "/snapshots"))
        until(lambda: s.ask("WARM_UP true").keys["code"] == "EOPNOTSUPP")
        s.quit()


@case("a snapshot is named by its path in the mount, however that was written")
def _():
    with worker("--mount", MOUNT + "/", hello=True) as s:
        same(s.ask("RESTORE s1").word, "DONE")
        same(s.ask("SNAPSHOT %s/snapshots/slashed" % MOUNT).word, "DONE_SNAPSHOT")
        same(s.ask("RESTORE %s/snapshots/slashed" % MOUNT).word, "DONE")
        same(s.ask("SNAPSHOT %s/snapshots/slashed2 base=%s/snapshots/slashed" % (MOUNT, MOUNT)).word, "DONE_SNAPSHOT")
        s.quit()


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
            s.closed()
        # It is only rid of a thread that waits for the mount when that lets it go.
        same(s.process.wait(60), 0)


@case("extended: a snapshot in time or ETIMEDOUT, SETTLED when it is written")
def _():
    with worker(hello=True) as s:
        s.ask("RESTORE writer")
        until(lambda: "whole" in log(s.vm), 90)
        with HeldWriter(s.process.pid) as writer:
            s.send("SNAPSHOT z1 id=1 deadline_ms=3000")
            writer.held()
            got = s.line()
            same((got.word, got.keys["id"], got.keys["code"]), ("ERR_SNAPSHOT", 1, "ETIMEDOUT"))
            got = s.ask("SNAPSHOT z2 id=2")
            same((got.keys["code"], got.rest), ("EBUSY", "snapshot in flight"))
        same(s.line().text, "SETTLED id=1 ok")
        assert "z1" in os.listdir(MOUNT + "/snapshots")
        s.quit()


@case("extended: SNAPSHOT_ASYNC is accepted, tells its progress, and is done; RESTORE meanwhile leaves it alone")
def _():
    with worker(hello=True) as s:
        s.ask("RESTORE writer")
        until(lambda: "whole" in log(s.vm), 90)
        with HeldWriter(s.process.pid) as writer:
            s.send("SNAPSHOT_ASYNC p1 id=1")
            got = s.line()
            same((got.word, got.keys["id"]), ("ACCEPTED", 1))
            writer.held()
            progress = s.answer("PROGRESS")
            assert progress.keys["elapsed_ms"] >= 900 and progress.keys["id"] == 1
            got = s.ask("SNAPSHOT_ASYNC p2 id=2", "ERR_SNAPSHOT")
            same((got.keys["id"], got.keys["code"]), (2, "EBUSY"))
            same(s.ask("RESTORE writer id=3", "DONE").keys["how"], "warm")
            same(s.ask("RESTORE s1 id=4", "ERR_RESTORE").keys["code"], "EBUSY")
            s.send("SNAPSHOT p3 id=5")
        got = s.answer("DONE_SNAPSHOT_ASYNC")
        same(got.keys["id"], 1)
        got = s.answer("DONE_SNAPSHOT")
        same(got.keys["id"], 5)
        same(s.ask("RESTORE p1").word, "DONE")
        same(s.quit(), 0)


@case("a snapshot asked for by the command: SNAPSHOT waits for it, and so does QUIT")
def _():
    with worker(hello=True) as s:
        s.ask("RESTORE writer")
        until(lambda: "whole" in log(s.vm), 90)
        for name, line in (("c1", "SNAPSHOT c2 id=1"), ("c3", "QUIT id=2")):
            with HeldWriter(s.process.pid) as writer:
                asker = subprocess.Popen(["smvm-runner", "snapshot", s.vm, name], stdout=subprocess.DEVNULL)
                writer.held()
                s.send(line)
                s.quiet()
            same(asker.wait(70), 0)
            if name == "c1":
                same(s.answer("DONE_SNAPSHOT").keys["id"], 1)
        same(s.line().text, "BYE id=2")
        same(s.gone(), 0)
    assert {"c1", "c2", "c3"} <= set(os.listdir(MOUNT + "/snapshots"))


@case("extended: the writer is killed: ERR_SNAPSHOT, and no half snapshot")
def _():
    with worker(hello=True) as s:
        s.ask("RESTORE writer")
        until(lambda: "whole" in log(s.vm), 90)
        with HeldWriter(s.process.pid) as writer:
            s.ask("SNAPSHOT_ASYNC k2 id=1", "ACCEPTED")
            os.kill(writer.held(), signal.SIGKILL)
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
    # Before it is heard of, an answer to HELLO or the seed's end: the wait is longer than that takes.
    for guest, ready, wait, code, words in (("counter", "log:^never", "5", "ETIMEDOUT", "not ready within 5000 ms"),
                                            ("counter", "port:80", "60", "EOPNOTSUPP", "no agent to ask"),
                                            ("brief", "log:^never", "60", "ECONNRESET", "powered off before it was ready")):
        with worker("--kernel", BUILD + "/guest/" + guest, "-m", "64M", "--ready", "log:^up", "--ready", ready, "--ready-timeout", wait) as s:
            s.seed = False
            s.send("HELLO 1")
            try:
                got = s.line(), s.line()
            except Gone:
                same(s.process.wait(60), 1)
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
            same(s.process.wait(60), 1)
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
        # What others do on this host is in most of them, and in the least ones hardly.
        first, last = sorted(times[20:120])[5], sorted(times[200:])[5]
        print("# own KiB, mappings, descriptors: %s, then %s; p5 %d us, then %d us" % (before, after, first, last))
        same(after[1:], before[1:])
        # A sanitizer keeps what is freed.
        assert os.environ.get("SAN") or after[0] <= before[0] + 512, "own memory grew"
        assert last <= 3 * first + 1000, "slower and slower"
        s.quit()
