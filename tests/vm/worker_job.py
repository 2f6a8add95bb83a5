"""worker_job.py IMAGE ROUNDS: bake IMAGE, then reset one worker to it ROUNDS times, asking the guest each time."""
import socket
import subprocess
import sys
import time
import urllib.request

sys.path.insert(0, "tests/lib")
from supervisor import Supervisor  # noqa: E402

image, rounds = sys.argv[1], int(sys.argv[2])
WORKLOAD = "busybox httpd -p 8080 -h /run; echo beating; n=0; while :; do n=$((n + 1)); echo $n >/run/beat.new; mv /run/beat.new /run/beat; sleep 0.1; done"
# What a claim may find of itself, of the time, of the one before it.
COMPLAINTS = "busybox dmesg | busybox grep -ciE 'lockup|stall|BUG:|unstable|corrupt'"
ASK = """
echo "host $(cat /proc/sys/kernel/hostname)"
echo "id $(cat /etc/machine-id)"
echo "random $(od -An -N8 -tx1 /dev/urandom | tr -d ' \\n')"
echo "time $(date +%s)"
echo "warm $(cat /run/warm)"
echo "mark $(cat /run/mark 2>/dev/null) $(ls /etc/mark 2>/dev/null)"
echo "strays $(busybox ps | busybox grep -c '[s]leep 1000')"
a=$(cat /run/beat); i=0
while [ "$(cat /run/beat)" = "$a" ] && [ $i -lt 100 ]; do sleep 0.1; i=$((i + 1)); done
echo "beats $(cat /run/beat) $a"
echo "wrong $(COMPLAINTS)"
echo "$1" >/run/mark; echo x >/etc/mark
""".replace("COMPLAINTS", COMPLAINTS)
wrong = []


def guest(s, script, *args, check=True):
    r = subprocess.run(["smvm-runner", "exec", "-u", "0", s.vm, "--", "sh", "-c", script, "sh", *args], capture_output=True,
                       text=True, timeout=120)
    if check and r.returncode:
        raise RuntimeError("exec: %d: %s" % (r.returncode, r.stderr))
    return r.stdout


def beat(port):
    """What the guest's web server says, through the port of the host; a request of its own each time."""
    with urllib.request.urlopen("http://127.0.0.1:%d/beat" % port, timeout=60) as r:
        return int(r.read())


def ends(sock):
    """A connection that was held through a reset: its guest's end is gone, and it is told."""
    sock.settimeout(60)
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def expect(what, holds, *about):
    if not holds:
        wrong.append(what)
        print("# not so: %s: %s" % (what, about), flush=True)


with Supervisor(["smvm-runner", "worker", "--cpus", "2", "--memory", "192M", "-p", "0:8080", "--ready", "port:8080", "--ready", "file:/run/beat", "--ready", "exec:test -s /run/beat",
                 "--ready", "log:^beating$", image, "--", "sh",
                 "-c", WORKLOAD], timeout=240) as s:
    s.expect("READY")
    s.expect("BAKE_READY")
    forwards = s.hello().keys["forwards"]
    expect("its port", forwards.endswith(":8080") and forwards.startswith("127.0.0.1:"), forwards)
    port = int(forwards.split(":")[1])
    beat(port)
    s.ask("SNAPSHOT_ASYNC base id=1 deadline_ms=300000", "ACCEPTED", timeout=310)
    # Of its boot, which is slow where guests are emulated.
    complaints = guest(s, "echo yes >/run/warm; " + COMPLAINTS + " || :").strip()
    s.answer("DONE_SNAPSHOT_ASYNC", timeout=310)
    got = s.ask("SNAPSHOT warm base=base id=2 deadline_ms=300000", "DONE_SNAPSHOT", timeout=310)
    print("# baked: %s" % got, flush=True)
    ids, randoms, beats, took = set(), set(), [], []
    for i in range(rounds):
        # One that is in the guest when it is reset must hear of it.
        held = subprocess.Popen(["smvm-runner", "exec", s.vm, "--", "sh", "-c", "echo ready; sleep 1000"], stdout=subprocess.PIPE,
                                stderr=subprocess.DEVNULL)
        assert held.stdout.readline() == b"ready\n"
        tcp = socket.create_connection(("127.0.0.1", port), 60)
        beat(port)
        got = s.ask("RESTORE warm id=r%d deadline_ms=300000" % i, timeout=310)
        print("# %s" % got, flush=True)
        expect("DONE", got.word == "DONE", got)
        # The first is of a machine that was booted: it is reset in place as well.
        expect("in place", got.keys.get("how") == "warm", got)
        expect("the held connection ends", held.wait(60) != 0)
        took.append(got.first)
        expect("the same port", got.keys.get("host_port") == port, got)
        expect("the connection to it ends, too", ends(tcp))
        tcp.close()
        expect("who connects anew is served", beat(port) > 0)
        before = time.time()
        said = dict(line.partition(" ")[::2] for line in guest(s, ASK, "round %d" % i).splitlines())
        after = time.time()
        expect("its name", said["host"] == s.vm, said)
        expect("the time", before - 1.5 <= int(said["time"]) <= after + 0.5, said, before, after)
        expect("the warm-up", said["warm"] == "yes", said)
        expect("nothing of the one before", said["mark"].strip() == "", said)
        expect("no process of the one before", said["strays"] == "0", said)
        expect("the workload works", said["beats"].split()[0] != said["beats"].split()[1], said)
        expect("its kernel has no new complaint", said["wrong"] == complaints, said, complaints)
        ids.add(said["id"])
        randoms.add(said["random"])
        beats.append(int(said["beats"].split()[1]))
    expect("a machine-id each", len(ids) == rounds, ids)
    expect("random bytes each", len(randoms) == rounds, randoms)
    expect("back to the same moment", max(beats) - min(beats) < 300, beats)
    # What runs in it beforehand, how it went; and it ends as soon as anything else is asked.
    got = s.ask("WARM_UP true id=u1", timeout=70)
    expect("warmed up", got.word == "WARMED" and int(got.keys["us"]) > 0, got)
    got = s.ask("WARM_UP /bin/false id=u2", timeout=70)
    expect("its status", got.text == "ERR_WARM_UP id=u2 code=ECHILD /bin/false ended with status 1", got)
    got = s.ask("WARM_UP no-such id=u3", timeout=70)
    expect("no such program", got.text.startswith("ERR_WARM_UP id=u3 code=ENOENT "), got)
    guest(s, "printf '#!/bin/sh\\necho >>/run/runs\\n' >/usr/bin/counts; chmod 755 /usr/bin/counts")
    got = s.ask("WARM_UP counts id=u3a", timeout=70)
    expect("it is run twice", got.word == "WARMED" and guest(s, "busybox wc -l </run/runs").strip() == "2", got)
    guest(s, "printf '#!/bin/sh\\nexec sleep 1000\\n' >/usr/bin/endless; chmod 755 /usr/bin/endless")
    s.send("WARM_UP endless id=u4")
    while guest(s, "busybox ps | busybox grep -c '[s]leep 1000' || :") == "0\n":
        time.sleep(0.1)
    expect("others are served meanwhile", subprocess.run(["smvm-runner", "info", s.vm], stdout=subprocess.DEVNULL, timeout=60).returncode == 0)
    expect("it was ended for that", s.line(60).text.startswith("ERR_WARM_UP id=u4 code=ECANCELED "))
    while guest(s, "busybox ps | busybox grep -c '[s]leep 1000' || :") != "0\n":
        time.sleep(0.1)
    s.send("WARM_UP endless id=u5")
    got = s.ask("RESTORE warm id=u6 deadline_ms=300000", timeout=310)
    expect("another request ends it", got.text == "ERR_WARM_UP id=u5 code=ECANCELED another request has come", got)
    got = s.line(310)
    expect("and is carried out", got.word == "DONE" and got.keys.get("how") == "warm", got)
    got = s.ask("RESTORE base id=b deadline_ms=300000", timeout=310)
    expect("to the base", got.keys.get("how") == "warm", got)
    expect("before the warm-up", guest(s, "cat /run/warm 2>/dev/null || echo none") == "none\n")
    print("# reset to agent's answer: %s us" % took, flush=True)
    subprocess.run(["smvm-runner", "info", s.vm])
    expect("BYE", s.quit() == 0)
sys.exit(bool(wrong))
