"""Cases of a suite written in Python, as TAP on standard output; tests/lib/tap.sh is the shell's."""
import os
import subprocess
import sys
import time

count = failed = 0


def case(what):
    """A decorator that runs the case at once. It fails by an exception; what it printed is kept."""
    def run(fn):
        global count, failed
        count += 1
        try:
            fn()
            print("ok %d - %s" % (count, what), flush=True)
        except Exception as e:
            failed += 1
            print("# %s: %s" % (type(e).__name__, str(e).replace("\n", "\n# ")))
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


def cli(*args):
    return subprocess.run(["smvm-runner", *args], capture_output=True, text=True, timeout=60)
