#!/bin/sh
# Damage in a pack is an error at exactly the pages it hits: never a wrong byte, never more than that.
. tests/lib/tap.sh
. tests/fs/mount.sh
need_fuse

make_snapshot "$T/a" 1
# Another with the same ram but one frame, to see whom the damage hits.
cp -r "$T/a" "$T/b"
dd if=/dev/urandom of="$T/b/ram" bs=64k seek=25 count=1 conv=notrunc status=none
smfs init -q "$S"
smfs import -q --store "$S" a "$T/a"
smfs import -q --store "$S" b "$T/b"

# Flip one bit inside the stored form of ram's frame at 1 MiB + 256 KiB. Random bytes do not
# compress, so they can be found in a pack as they are.
check "a bit of a pack is flipped" python3 - "$S/packs" "$T/a/ram" <<'PY'
import os, sys
needle = open(sys.argv[2], "rb").read()[(1 << 20) + 4 * 65536:][:65536][20000:20064]
hits = 0
for name in os.listdir(sys.argv[1]):
    path = os.path.join(sys.argv[1], name)
    data = open(path, "rb").read()
    at = data.find(needle)
    if at >= 0:
        hits += 1
        with open(path, "r+b") as f:
            f.seek(at + 17)
            f.write(bytes([data[at + 17] ^ 4]))
assert hits == 1, hits
PY

start_mount
N=$M/snapshots

pages() { # pages FILE SOURCE: every page is SOURCE's or an error; prints the bad ones
	python3 - "$1" "$2" <<'PY'
import errno, os, sys
fd, src = os.open(sys.argv[1], os.O_RDONLY), open(sys.argv[2], "rb").read()
bad = []
for at in range(0, len(src), 4096):
    try:
        got = os.pread(fd, 4096, at)
    except OSError as e:
        assert e.errno == errno.EIO, e
        bad.append(at // 4096)
        continue
    assert got == src[at:at + 4096], "wrong bytes at %d" % at
print(*bad)
PY
}
frame=$(seq -s ' ' 320 335)
check "the pages of the damaged frame fail, and no other" \
	test "$(pages "$N/a/ram" "$T/a/ram")" = "$frame"
check "also for the other snapshot that shares the frame" \
	test "$(pages "$N/b/ram" "$T/b/ram")" = "$frame"
check "other files are untouched" cmp "$N/a/vcpu" "$T/a/vcpu"
check_not "a copy fails" cp -r "$N/a" "$T/out"
check_not "an export fails" smfs export --store "$S" a "$T/exp"
check_not "and leaves nothing" sh -c "ls $T | grep -q exp"
check "the log names the file and the range" \
	grep -q "read snapshots/[ab]/ram: bytes 13[0-9]*-" "$T/log"
check "health says so" grep -q degraded "$M/.smfs/health"
check "and a counter" grep -q '^smfs_bad_reads_total [1-9]' "$M/.smfs/stats"
check "a mapping gets SIGBUS at the damaged page only" python3 - "$N/a/ram" "$T/a/ram" <<'PY'
import mmap, os, signal, sys
fd, src = os.open(sys.argv[1], os.O_RDONLY), open(sys.argv[2], "rb").read()
m = mmap.mmap(fd, len(src), prot=mmap.PROT_READ)
for page in (319, 336):
    at = page * 4096
    assert m[at:at + 4096] == src[at:at + 4096]
pid = os.fork()
if pid == 0:
    m[320 * 4096]
    os._exit(0)
_, status = os.waitpid(pid, 0)
assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGBUS, status
PY
stop_mount

fsck_says() {
	smfs fsck --store "$S" "$@" >"$T/fsck"
	[ $? = 4 ] && grep -q "snapshot.* a.*ram" "$T/fsck" && grep -q "snapshot.* b.*ram" "$T/fsck"
}
check "fsck --read-data names both snapshots" fsck_says --read-data
cat "$T/fsck"

# ---- a byte of every file's stored form: refused or right, never wrong ------------------------
rm -rf "$S"
smfs init -q "$S"
make_snapshot "$T/c" 7
truncate -s 0 "$T/c/ram" && head -c 150000 /dev/urandom >"$T/c/ram"
echo '{"k":"v"}' >"$T/c/meta"
smfs import -q --store "$S" c "$T/c"
check "any byte of a pack wrong: an error or the right bytes" python3 - "$S" "$M" "$T/c" "$T/log" <<'PY'
import os, random, subprocess, sys
store, mnt, src, log = sys.argv[1:]
packs = [os.path.join(store, "packs", n) for n in os.listdir(store + "/packs")]
r = random.Random(5)
seen_error = 0
for i in range(25):
    path = r.choice(packs)
    at = r.randrange(os.path.getsize(path))
    with open(path, "r+b") as f:
        f.seek(at); old = f.read(1)
        f.seek(at); f.write(bytes([old[0] ^ (1 << r.randrange(8))]))
    m = subprocess.run(["smfs", "mount", "-r", "--log", log, store, mnt])
    if m.returncode == 0:
        for name in ("meta", "ram", "vcpu"):
            want = open(os.path.join(src, name), "rb").read()
            try:
                got = open(os.path.join(mnt, "snapshots/c", name), "rb").read()
                assert got == want, (path, at, name)
            except OSError:
                seen_error += 1
        subprocess.run(["smfs", "unmount", mnt], check=True)
    else:
        seen_error += 1
    with open(path, "r+b") as f:
        f.seek(at); f.write(old)
assert seen_error >= 10, seen_error
PY
start_mount
check "put right, all is well again" same_tree "$N/c" "$T/c"
stop_mount
check "no sanitizer complained in the server" log_clean
tap_done
