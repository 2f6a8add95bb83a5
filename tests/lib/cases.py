"""Cases of a suite written in Python, as TAP on standard output; tests/lib/tap.sh is the shell's."""
import os
import re
import signal
import subprocess
import sys
import time

count = failed = 0


class Skip(Exception):
    """The case cannot be had here; its text says why."""


def case(what):
    """A decorator that runs the case at once. It fails by an exception, but Skip; what it printed is kept. Only those that match
    $CASES, an expression, where that is set."""
    def run(fn):
        global count, failed
        if not re.search(os.environ.get("CASES", ""), what):
            return fn
        count += 1
        try:
            fn()
            print("ok %d - %s" % (count, what), flush=True)
        except Skip as e:
            print("ok %d - %s # SKIP %s" % (count, what, e), flush=True)
        except Exception as e:
            failed += 1
            # What came while the first was dealt with is the last of them, and seldom the reason.
            while e:
                print("# %s: %s" % (type(e).__name__, str(e).replace("\n", "\n# ")))
                e = e.__context__
            print("not ok %d - %s" % (count, what), flush=True)
        return fn
    return run


def done():
    """The plan, and the status of the program, which ends here."""
    print("1..%d" % count)
    sys.exit(failed != 0)


def same(got, want):
    assert got == want, "%r, not %r" % (got, want)


def until(what, seconds=10):
    """What `what` gives once that is true."""
    end = time.monotonic() + seconds
    while True:
        got = what()
        if got:
            return got
        assert time.monotonic() < end, "it does not come to hold"
        time.sleep(0.01)


def own_memory(pid):
    """(KiB of its own, mappings) of a process. Its program's pages are its own only while no other process runs it, and so do
    not count."""
    program = os.readlink("/proc/%d/exe" % pid)
    kib = mappings = 0
    with open("/proc/%d/smaps" % pid) as f:
        for line in f:
            key, _, rest = line.partition(" ")
            if not key.endswith(":"):
                counts = not line.rstrip("\n").endswith(program)
                mappings += 1
            elif counts and key in ("Private_Dirty:", "Private_Clean:", "Swap:"):
                kib += int(rest.split()[0])
    return kib, mappings


def children(pid):
    out = []
    for t in os.listdir("/proc/%d/task" % pid):
        with open("/proc/%d/task/%s/children" % (pid, t)) as f:
            out += [int(c) for c in f.read().split()]
    return out


def smfs_processes():
    """Those that serve this suite's mount."""
    store, out = os.environ["SMFS_STORE"].encode(), []
    for p in os.listdir("/proc"):
        try:
            with open("/proc/%s/cmdline" % p, "rb") as f:
                if p.isdigit() and store in f.read() and "smfs" in os.readlink("/proc/%s/exe" % p):
                    out.append(int(p))
        except OSError:
            pass
    assert out
    return out


class Stuck:
    """The mount answers nobody: a restore takes for ever."""

    def __enter__(self):
        # What the kernel has cached it would not ask for.
        with open("/proc/sys/vm/drop_caches", "w") as f:
            f.write("2")
        self.pids = smfs_processes()
        for p in self.pids:
            os.kill(p, signal.SIGSTOP)

    def __exit__(self, *_):
        for p in self.pids:
            os.kill(p, signal.SIGCONT)


def cli(*args):
    return subprocess.run(["smvm-runner", *args], capture_output=True, text=True, timeout=60)
