"""pool_job.py IMAGE CLAIMS: bake IMAGE's python3, then CLAIMS claims over a pool of 4, each running code in the warm
interpreter, which is to find nothing of any other claim."""
import json
import socket
import subprocess
import sys
import threading
import time

sys.path[:0] = ["tests/lib", "tests/vm"]
import bake  # noqa: E402
from cases import case, done, same, until  # noqa: E402
from poolclient import Client, Pool  # noqa: E402

image, claims = sys.argv[1], int(sys.argv[2])
SIZE = 4
COMPLAINTS = "busybox dmesg | busybox grep -ciE 'lockup|stall|BUG:|unstable|corrupt'"
# What a claim finds: of itself, of the warm-up, of others; and then it leaves as much as it can. `mark` precedes it.
CODE = """
claims += 1
def read(path):
    try:
        with open(path) as f:
            return f.read().strip()
    except OSError as e:
        return type(e).__name__
commands = [read(p).split("\\0")[0] for p in glob.glob("/proc/[0-9]*/cmdline")]
print(json.dumps({
    "mark": mark, "square": mark * mark, "claims": claims, "primes": sum(primes), "kept": read("/srv/kept"), "doomed": read("/srv/doomed"),
    "nonce": globals().get("nonce"), "files": [p for d in DIRS for p in glob.glob(d + "/mark-*")],
    "strays": commands.count("sleep"), "threads": threading.active_count(),
    "host": socket.gethostname(), "id": read("/etc/machine-id"), "random": os.urandom(16).hex(), "time": time.time(),
}))
nonce = os.urandom(4 << 20)
primes.append(mark)
for d in DIRS:
    with open(d + "/mark-%d" % mark, "w") as f:
        f.write(str(mark))
with open("/srv/kept", "w") as f:
    f.write("of %d" % mark)
os.unlink("/srv/doomed")
subprocess.Popen(["sleep", "1000"], start_new_session=True)
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
door, visitors = socket.create_server(("127.0.0.1", 8080)), []
def answer():
    while True:
        visitors.append(door.accept()[0])
        visitors[-1].sendall(b"%d\\n" % mark)
threading.Thread(target=answer, daemon=True).start()
"""
DIRS = ["/etc", "/run", "/srv", "/tmp", "/usr/bin"]
PRIMES = sum(n for n in range(2, 2000) if all(n % p for p in range(2, int(n ** 0.5) + 1)))
said, wrong, took, lock = [], [], [], threading.Lock()
numbers = iter(range(1, claims + 1))


def expect(what, mark, got, want):
    if got != want:
        with lock:
            wrong.append(what)
        print("# claim %d, %s: %r, not %r" % (mark, what, got, want), flush=True)


def visit(port, mark):
    """A connection by the port of the host, which the claim's own machine has answered."""
    s = socket.create_connection(("127.0.0.1", port), 60)
    with s.makefile("rb") as f:
        expect("by its port", mark, f.readline(), b"%d\n" % mark)
    return s


def ends(s):
    """A connection is told that its guest's end is gone."""
    with s:
        try:
            return s.recv(1) == b""
        except ConnectionResetError:
            return True


def one_claim(c, mark, complaints):
    """Whether the connection is still to be used."""
    before, began = time.time(), time.monotonic()
    got = c.ask("CLAIM deadline_ms=240000", 250)
    assert got.word == "CLAIMED", got
    claimed = time.monotonic()
    answer = bake.run(got.keys["dir"], "mark = %d\nDIRS = %r\n" % (mark, DIRS) + CODE)
    answered, after = time.monotonic(), time.time()
    try:
        a = json.loads(answer)
    except ValueError:
        raise RuntimeError("claim %d: %s" % (mark, answer))
    a["vm"] = got.keys["vm"]
    with lock:
        said.append(a)
        took.append(((claimed - began) * 1e3, (answered - claimed) * 1e3))
    for key, want in (("square", mark * mark), ("claims", 1), ("primes", PRIMES), ("kept", "of the warm-up"), ("doomed", "of the warm-up"),
                      ("nonce", None), ("files", []), ("strays", 0), ("threads", 1), ("host", got.keys["vm"])):
        expect(key, mark, a[key], want)
    expect("time", mark, before - 1.5 <= a["time"] <= after + 1.5, True)
    if mark % 8 == 1:
        # Another way in: a process of its own, which sees what this claim has done.
        r = subprocess.run(["smvm-runner", "exec", a["vm"], "--", "sh", "-c", "cat /srv/kept; echo; " + COMPLAINTS],
                           capture_output=True, text=True, timeout=120)
        expect("exec", mark, r.stdout.split("\n")[:2], ["of %d" % mark, complaints])
    visitor = visit(int(got.keys["host_port"]), mark)
    # A claim ends in one of three ways.
    if mark % 3 == 0:
        c.sock.close()
    else:
        c.send("RELEASE vm=" + a["vm"] if mark % 3 == 1 else "RELEASE claim=" + got.keys["claim"])
        expect("RELEASED", mark, c.line(60).text, "RELEASED claim=" + got.keys["claim"])
    expect("its connection ends with it", mark, ends(visitor), True)
    return mark % 3 != 0


def client(complaints):
    """Claims until there are enough; a claim that ends with its connection is followed by one on another."""
    try:
        while True:
            with Client() as c:
                again = True
                while again:
                    with lock:
                        mark = next(numbers, None)
                    if mark is None:
                        return
                    again = one_claim(c, mark, complaints)
    except Exception as e:
        with lock:
            wrong.append(repr(e))
        print("# %s: %s" % (type(e).__name__, str(e).replace("\n", "\n# ")), flush=True)


def median(values):
    return sorted(values)[len(values) // 2]


@case("python3 is baked with a warm-up, as a diff")
def _():
    began = time.monotonic()
    got = bake.bake(image, "python", "--cpus", "1", "--memory", "192M")
    print("# in %.1f s: %s" % (time.monotonic() - began, got), flush=True)


@case("%d claims over a pool of %d, each a machine of the snapshot and of nobody else" % (claims, SIZE))
def _():
    began = time.monotonic()
    with Pool("--min", str(SIZE), "--max", str(SIZE), "-p", "8080", snapshot="python") as p:
        until(lambda: p.status()["warm"] == SIZE, 240)
        print("# %d warm after %.1f s" % (SIZE, time.monotonic() - began), flush=True)
        # Of the boot, which is slow where guests are emulated: what every machine of the snapshot has.
        with Client() as c:
            vm = c.ask("CLAIM").keys["vm"]
            complaints = subprocess.run(["smvm-runner", "exec", vm, "--", "sh", "-c", COMPLAINTS], capture_output=True, text=True,
                                        timeout=120).stdout.strip()
        began = time.monotonic()
        threads = [threading.Thread(target=client, args=(complaints,)) for _ in range(SIZE + 1)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        seconds = time.monotonic() - began
        until(lambda: p.status()["warm"] == SIZE, 240)
        s = p.status()
    print("# %.2f claims a second, %d at a time; waited p50 %.0f ms, max %.0f ms; claimed to answered p50 %.0f ms, max %.0f ms; a reset"
          " p50 %.0f ms" % (len(said) / seconds, SIZE + 1, median([t[0] for t in took]), max(t[0] for t in took),
                            median([t[1] for t in took]), max(t[1] for t in took), median([m["took_us"] / 1e3 for m in s["machines"]])))
    same(wrong, [])
    same(sorted(a["mark"] for a in said), list(range(1, claims + 1)))
    for key in ("id", "random"):
        same(len({a[key] for a in said}), claims)
    same(len({a["host"] for a in said}), SIZE)
    # One claim more: the one that asked for complaints.
    same((s["claims"], s["lost"], s["died"], s["started"], s["timed_out"]), (claims + 1, 0, 0, SIZE, 0))
    same(sum(m["restores"] for m in s["machines"]), SIZE + claims + 1)
    same(sum(m["warm_resets"] for m in s["machines"]), claims + 1)


done()
