"""Cases of a suite written in Python, as TAP on standard output; tests/lib/tap.sh is the shell's."""
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


def cli(*args):
    return subprocess.run(["smvm-runner", *args], capture_output=True, text=True, timeout=60)
