#!/bin/sh
# What changed between two snapshots, told by smfs diff and, for who maps them, by the mount.
. tests/lib/tap.sh
. tests/fs/mount.sh
SMFS_STORE=$S
export SMFS_STORE

make_snapshot "$T/a"
cp -r "$T/a" "$T/b"
# One page changed, one byte of a page changed, and a page of a hole written.
for page in 16 300 900; do
	printf 'changed' | dd of="$T/b/ram" bs=1 seek=$((page * 4096 + 77)) conv=notrunc 2>/dev/null
done
echo more >>"$T/b/extra"
smfs init -q && smfs import -q a "$T/a" && smfs import -q b "$T/b" || exit 1

check "a snapshot does not differ from itself" json_has '.files == [] and .changed_bytes == 0' smfs diff --json a a
check "changed files, bytes and ranges" json_has '.changed_bytes == 12288 and (.files | length) == 2 and
	.files[0] == {path: "extra", change: "added", size_b: 5} and
	.files[1] == {path: "ram", change: "content", size_a: 4194304, size_b: 4194304, changed_bytes: 12288, nranges: 3}' \
	smfs diff --json a b
check "the ranges are the pages that changed" json_has \
	'[.files[] | select(.path == "ram").ranges[]] == [[65536, 4096], [1228800, 4096], [3686400, 4096]]' \
	smfs diff --json --ranges a b
check "the other way round, what was added is removed" json_has '.files[0].change == "removed"' smfs diff --json b a
check "for people, too" sh -c 'smfs diff a b | grep -q "content  ram: 12.0 KiB in 3 ranges"'
check_not "a name that is not there is an error" smfs diff a nope

check "a snapshot stored against another takes its changed pages" json_has '.new_bytes < 20000 and .dup_bytes > 1000000' \
	smfs import --json --base a c "$T/b"
check "and is the same snapshot" json_has '.files == []' smfs diff --json b c
check "byte for byte" sh -c "smfs export -q c '$T/c' && cmp '$T/b/ram' '$T/c/ram'"
check "the store is whole" smfs fsck -q --read-data
# Nothing else has the leaf that c's is a delta of, nor the chunks.
check "it outlives its base and a collection" sh -c "smfs export -q a - >'$T/a.smfs' && smfs export -q c - >'$T/c.smfs' &&
	smfs rm a && smfs rm b && smfs gc -q && smfs fsck -q --read-data &&
	rm -r '$T/c' && smfs export -q c '$T/c' && cmp '$T/b/ram' '$T/c/ram'"
check "it travels as a stream" sh -c "smfs import -q --store '$T/far' '$T/c.smfs' && smfs fsck -q --read-data --store '$T/far' &&
	smfs export -q --store '$T/far' c '$T/far-c' && cmp '$T/b/ram' '$T/far-c/ram'"
check "the base comes back" sh -c "smfs import -q '$T/a.smfs' && smfs import -q b '$T/b'"
check_not "a base that is not there is an error" smfs import --base nope d "$T/b"

need_fuse
mkdir "$M"
start_mount || exit 1
own() { # own FILE SNAPSHOT: its ranges, or the error's name
	python3 - "$1" "$2" <<'PY'
import errno, os, sys
try:
    print(os.getxattr(sys.argv[1], "user.smfs.own." + sys.argv[2]).decode(), end="")
except OSError as e:
    print(errno.errorcode[e.errno])
PY
}
rest_is_parents() { # outside of its own ranges, b's ram is a's
	own "$M/snapshots/b/ram" a >"$T/own"
	[ -s "$T/own" ] && python3 - "$M/snapshots/a/ram" "$M/snapshots/b/ram" "$T/own" <<'PY'
import sys
a, b = (bytearray(open(p, "rb").read()) for p in sys.argv[1:3])
assert a != b
for line in open(sys.argv[3]):
    off, n = map(int, line.split())
    a[off:off + n] = b[off:off + n]
assert a == b
PY
}
check "the mount tells what of a snapshot's ram is its own" rest_is_parents
check "nothing is, against itself" test -z "$(own "$M/snapshots/b/ram" b)"
check "against a snapshot that is not there, there is no answer" test "$(own "$M/snapshots/b/ram" nope)" = ENODATA
check "nor against what is no name" test "$(own "$M/snapshots/b/ram" ../a)" = ENODATA
check "the mount ends" stop_mount
check "without complaint" log_clean
tap_done
