#!/usr/bin/env python3
"""Readers that must not notice that the server of their mount is killed.

    survive.py make DIR SEED MIB           a snapshot: meta, vcpu, and a ram of a known pattern
    survive.py run MNT KILLS [MAX_MS [MIN_MS]]
        MNT has the snapshots cold and hot (of seeds 1 and 2) and others. Eight readers run:
        pread and mmap of each, twice; lookups with stat and open; listings. Meanwhile the keeper's
        worker is killed KILLS times: up to MAX_MS (default: 200) after it has begun to serve; or, with
        MIN_MS, at random moments from MIN_MS to MAX_MS apart, whether it has come up or not. Fails on a
        wrong byte, an error, a missing name, or a reader that died. Prints the longest stall.
    survive.py remount MNT TIMES
        The same, with `smfs remount` in place of the kills.
    survive.py refuse MNT PROGRAM...
        The same, while `smfs remount` is told to change to programs that cannot serve.
    survive.py change MNT DIR KILLS
        Four copy the snapshot DIR in, rename it and remove it while the server is killed. A copy may be
        lost, and is told so then; what was copied is whole, and a rename or removal never fails.
"""
import json, mmap, os, random, shutil, signal, struct, subprocess, sys, time

PAGE = 4096


def page(seed, i):
    """Every page differs; a third of them do not compress to nothing."""
    if i % 3:
        return struct.pack("<QQ", seed << 32 | i, i * 0x9E3779B97F4A7C15 & (1 << 64) - 1) * (PAGE // 16)
    return random.Random(seed << 32 | i).randbytes(PAGE)


def make(path, seed, mib):
    pages = mib * 256
    os.makedirs(path)
    with open(path + "/ram", "wb") as f:
        for i in range(pages):
            f.write(page(seed, i))
    with open(path + "/vcpu", "wb") as f:
        f.write(page(seed, 0))
    with open(path + "/meta", "w") as f:
        json.dump({"format": 1, "ram_bytes": pages * PAGE, "vcpu": {"bytes": PAGE}}, f)


class Clock:
    """The longest of many short times."""

    def __init__(self):
        self.worst, self.count = 0.0, 0

    def __enter__(self):
        self.start = time.monotonic()

    def __exit__(self, *_):
        self.worst = max(self.worst, time.monotonic() - self.start)
        self.count += 1


def drop_cache(fd):
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def read_file(path, seed, rnd, clock, stop):
    """One descriptor that stays open, and others that come and go."""
    kept = os.open(path, os.O_RDONLY)
    pages = os.fstat(kept).st_size // PAGE
    while not stop():
        with clock:
            fd = kept if rnd.random() < 0.9 else os.open(path, os.O_RDONLY)
        for _ in range(16):
            i, n = rnd.randrange(pages - 8), rnd.choice((1, 1, 8))
            with clock:
                got = os.pread(fd, n * PAGE, i * PAGE)
            want = b"".join(page(seed, i + k) for k in range(n))
            assert got == want, f"{path}: wrong bytes at page {i}"
        drop_cache(fd)
        if fd != kept:
            os.close(fd)


def map_file(path, seed, rnd, clock, stop):
    fd = os.open(path, os.O_RDONLY)
    size = os.fstat(fd).st_size
    m = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ)
    while not stop():
        for _ in range(16):
            i = rnd.randrange(size // PAGE)
            with clock:
                got = m[i * PAGE:(i + 1) * PAGE]
            assert got == page(seed, i), f"{path}: wrong bytes mapped at page {i}"
        # Out of the mapping and out of the cache, so that the next fault asks the server.
        m.madvise(mmap.MADV_DONTNEED)
        drop_cache(fd)


def look_up(mnt, names, rnd, clock, stop):
    while not stop():
        name = rnd.choice(names)
        with clock:
            st = os.stat(f"{mnt}/snapshots/{name}/vcpu")
        assert st.st_size == PAGE, f"{name}: size {st.st_size}"
        with clock:
            with open(f"{mnt}/snapshots/{name}/vcpu", "rb") as f:
                got = f.read()
        assert len(got) == PAGE and got[8:16] == got[8:16]
        try:
            with clock:
                os.stat(f"{mnt}/snapshots/{name}/absent")
            raise AssertionError("a name that is not there")
        except FileNotFoundError:
            pass


def list_names(mnt, names, rnd, clock, stop):
    while not stop():
        with clock:
            got = sorted(os.listdir(mnt + "/snapshots"))
        assert got == names, f"listing: {set(got) ^ set(names)}"
        with clock:
            got = sorted(e.name for e in os.scandir(f"{mnt}/snapshots/{rnd.choice(names)}") if e.is_file())
        assert got == ["meta", "ram", "vcpu"], got


def same(a, b):
    return all(open(f"{a}/{n}", "rb").read() == open(f"{b}/{n}", "rb").read() for n in ("meta", "ram", "vcpu"))


def change(mnt, source, me, rnd, clock, stop):
    lost = 0
    while not stop():
        old, new = f"{mnt}/snapshots/{me}-a", f"{mnt}/snapshots/{me}-b"
        try:
            with clock:
                shutil.copytree(source, old, copy_function=shutil.copyfile)
        except (OSError, shutil.Error) as e:
            lost += 1
            # A part of it may have been begun with the next server.
            assert not os.path.exists(old) or sorted(os.listdir(old)) != ["meta", "ram", "vcpu"], f"{old}: {e}"
            shutil.rmtree(old, ignore_errors=True)
            continue
        assert same(source, old), f"{old} differs"
        with clock:
            os.rename(old, new)
        assert not os.path.exists(old) and same(source, new), f"{new} differs"
        with clock:
            shutil.rmtree(new)
        assert not os.path.exists(new), f"{new} is still there"
    print(f"# {me}: {clock.count // 3} rounds, {lost} copies lost", flush=True)


def reader(kind, args, seed, stop_at):
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        clock = Clock()
        kind(*args, random.Random(seed), clock, lambda: os.path.exists(stop_at))
        with open(f"{stop_at}.{os.getpid()}", "w") as f:
            f.write(f"{clock.worst} {clock.count}")
        status = 0
    except BaseException as e:
        print(f"# {kind.__name__} {args[0]}: {type(e).__name__}: {e}", flush=True)
    finally:
        os._exit(status)


def worker_of(keeper):
    with open(f"/proc/{keeper}/task/{keeper}/children") as f:
        return [int(p) for p in f.read().split()]


def kill_workers(mnt, kills, lo, hi, rnd):
    keeper = int(open(mnt + "/.smfs/keeper").read())
    last = 0
    for _ in range(kills):
        if lo is None:
            open(mnt + "/.smfs/pid").read()  # answered by the next one
        time.sleep(rnd.uniform(lo or 0, hi))
        until = time.monotonic() + 60
        while True:  # the one before may not be buried yet
            alive = [p for p in worker_of(keeper) if p != last]
            if alive:
                break
            assert time.monotonic() < until, "no worker for 60 s"
            time.sleep(0.002)
        last = alive[0]
        os.kill(last, signal.SIGKILL)


def remount(mnt, times, lo, hi, rnd):
    for _ in range(times):
        time.sleep(rnd.uniform(0, hi))
        subprocess.run(["smfs", "remount", mnt], check=True)


def refuse(mnt, programs, lo, hi, rnd):
    for program in programs:
        time.sleep(0.2)
        got = subprocess.run(["smfs", "remount", "--program", program, mnt]).returncode
        assert got == 1, f"remount to {program} ended with {got}"


def run_changes(mnt, source, kills):
    rnd = random.SystemRandom()
    stop_at = f"{mnt}.stop"
    pids = [reader(change, (mnt, source, f"c{k}"), rnd.random(), stop_at) for k in range(4)]
    kill_workers(mnt, kills, None, 0.4, rnd)
    time.sleep(0.5)
    open(stop_at, "w").close()
    failed = sum(os.waitpid(pid, 0)[1] != 0 for pid in pids)
    for pid in pids:
        if os.path.exists(f"{stop_at}.{pid}"):
            os.unlink(f"{stop_at}.{pid}")
    os.unlink(stop_at)
    return 1 if failed else 0


def run(mnt, kills, hi=200, lo=None, act=None, what="kills"):
    names = sorted(os.listdir(mnt + "/snapshots"))
    stop_at = f"{mnt}.stop"
    cold, hot = f"{mnt}/snapshots/cold/ram", f"{mnt}/snapshots/hot/ram"
    # The first open decides, so this one keeps it hot, or cold, for all.
    keep = [os.open(cold, os.O_RDONLY), os.open(hot, os.O_RDONLY)]
    jobs = [(read_file, (cold, 1)), (map_file, (cold, 1)), (read_file, (hot, 2)), (map_file, (hot, 2)),
            (read_file, (cold, 1)), (map_file, (cold, 1)), (look_up, (mnt, names)), (list_names, (mnt, names))]
    seed = random.SystemRandom().randrange(1 << 32)
    times = kills if isinstance(kills, int) else len(kills)
    print(f"# seed {seed}, {times} {what}", flush=True)
    pids = [reader(kind, args, seed + k, stop_at) for k, (kind, args) in enumerate(jobs)]
    failed, worst, count = 0, 0.0, 0
    try:
        (act or kill_workers)(mnt, kills, lo and lo / 1000, hi / 1000, random.Random(seed))
        time.sleep(0.5)
    except (AssertionError, OSError, subprocess.SubprocessError) as e:
        print(f"# {type(e).__name__}: {e}")
        failed += 1
    open(stop_at, "w").close()
    for pid in pids:
        _, status = os.waitpid(pid, 0)
        if status:
            failed += 1
            if os.WIFSIGNALED(status):
                print(f"# a reader died of signal {os.WTERMSIG(status)}")
            continue
        w, n = open(f"{stop_at}.{pid}").read().split()
        worst, count = max(worst, float(w)), count + int(n)
        os.unlink(f"{stop_at}.{pid}")
    os.unlink(stop_at)
    for fd in keep:
        os.close(fd)
    print(f"# {len(pids)} readers, {count} operations, {times} {what}, "
          f"longest stall {worst * 1000:.0f} ms, {failed} failed", flush=True)
    return 1 if failed or count < 20 * times else 0


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    elif sys.argv[1] == "change":
        sys.exit(run_changes(sys.argv[2], sys.argv[3], int(sys.argv[4])))
    elif sys.argv[1] == "remount":
        sys.exit(run(sys.argv[2], int(sys.argv[3]), act=remount, what="remounts"))
    elif sys.argv[1] == "refuse":
        sys.exit(run(sys.argv[2], sys.argv[3:], act=refuse, what="programs refused"))
    else:
        sys.exit(run(sys.argv[2], int(sys.argv[3]), *map(float, sys.argv[4:])))
