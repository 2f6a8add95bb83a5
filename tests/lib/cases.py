"""Cases of a suite written in Python, as TAP on standard output; tests/lib/tap.sh is the shell's."""
import ctypes
import os
import re
import select
import signal
import struct
import subprocess
import sys
import threading
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


def until(what, seconds=60):
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


def process(pid):
    """(state, parent) of a process, as proc(5) has them; ("gone", 0)."""
    try:
        with open("/proc/%d/stat" % pid) as f:
            state, parent = f.read().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return "gone", 0
    return state, int(parent)


class HeldWriter:
    """The next process that `parent`, a machine's, makes to write a snapshot stands still, before it has written anything: it
    opens the store itself, and the kernel asks here first (fanotify(7)). Whatever this machine's speed, it cannot be missed.

        with HeldWriter(s.process.pid) as writer:
            s.send("SNAPSHOT x")
            writer.held()       # its process, which stands still now
            ...
            writer.go_on()      # at the end of the block at the latest
    """

    CLOEXEC, CLASS_CONTENT, MARK_ADD, OPEN_PERM, ALLOW, AT_FDCWD = 0x1, 0x4, 0x1, 0x10000, 0x1, -100  # <linux/fanotify.h>
    EVENT, ANSWER = struct.Struct("=IBBHQii"), struct.Struct("=iI")  # struct fanotify_event_metadata, fanotify_response

    def __init__(self, parent):
        self.parent, self.pid, self.met = parent, None, threading.Event()
        libc = ctypes.CDLL(None, use_errno=True)
        self.asked = libc.fanotify_init(self.CLASS_CONTENT | self.CLOEXEC, os.O_RDONLY | os.O_CLOEXEC)
        path = os.environ["SMFS_STORE"] + "/format"
        if self.asked < 0 or libc.fanotify_mark(self.asked, self.MARK_ADD, ctypes.c_uint64(self.OPEN_PERM), self.AT_FDCWD,
                                                path.encode()) < 0:
            raise OSError(ctypes.get_errno(), "be asked before %s is opened: %s" % (path, os.strerror(ctypes.get_errno())))
        self.end, self.ends = os.pipe()
        self.answers = threading.Thread(target=self.answer_all, daemon=True)
        self.answers.start()

    def answer_all(self):
        while self.asked in select.select([self.asked, self.end], [], [])[0]:
            for _, _, _, _, _, fd, pid in self.EVENT.iter_unpack(os.read(self.asked, 100 * self.EVENT.size)):
                found = not self.pid and process(pid)[1] == self.parent
                if found:
                    # It waits within its open(2), and will stop in place of returning from that.
                    os.kill(pid, signal.SIGSTOP)
                    self.pid = pid
                os.write(self.asked, self.ANSWER.pack(fd, self.ALLOW))
                os.close(fd)
                if found:
                    self.met.set()

    def held(self, seconds=30):
        assert self.met.wait(seconds), "process %d has had no snapshot written for %d s" % (self.parent, seconds)
        until(lambda: process(self.pid)[0] not in "RSD", seconds)
        same(process(self.pid), ("T", self.parent))
        return self.pid

    def go_on(self):
        # Until it is awaited, the number is its own; who awaits it has stood still with it.
        if self.pid and process(self.pid)[0] == "T":
            os.kill(self.pid, signal.SIGCONT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.write(self.ends, b"x")
        self.answers.join()
        for fd in self.asked, self.end, self.ends:
            os.close(fd)
        self.go_on()


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
        until(lambda: all(process(p)[0] == "T" for p in self.pids))

    def __exit__(self, *_):
        for p in self.pids:
            os.kill(p, signal.SIGCONT)


def cli(*args):
    return subprocess.run(["smvm-runner", *args], capture_output=True, text=True, timeout=300)
