#!/bin/sh
# make bench-store: the store and its mount on real guest RAM, against what a user would take instead.
#
#   QUICK=1     fewer runs, no growth; a few minutes
#   RUNS=N      runs of each measurement (5; QUICK: 2); the best counts
#   PARTS=...   only these of: ingest read programs gc growth (ingest is needed by read and gc)
#
# Five images of Debian guests' RAM (tests/lib/ram.sh) are made once and kept in $BUILD/ram. A part is a file of
# bench/store/, whose head says what is measured and how. Output: DESIGN.md section 9, and the same lines in
# bench/results/bench-store.tsv. Status 0 when it ran, 2 when it could not.
set -u
cd "$(dirname "$0")/.." || exit 2
BUILD=$(cd "${BUILD:-build}" && pwd) || exit 2
PATH=$BUILD:$PATH:/usr/sbin:/sbin
export BUILD
. bench/lib.sh
. tests/lib/ram.sh
runs=${RUNS:-5}
[ -n "${QUICK:-}" ] && runs=${RUNS:-2}
parts=${PARTS:-ingest read programs gc growth}

[ "$(id -u)" = 0 ] || cannot 'needs root, to drop the page cache and mount'
[ -w /dev/fuse ] || cannot 'no /dev/fuse'
for tool in borg casync restic mksquashfs qemu-system-x86_64 jq; do
	command -v $tool >/dev/null || cannot "$tool is not installed: run make deps"
done

T=$(mktemp -d "${BENCH_DIR:-${TMPDIR:-/tmp}}/bench-store.XXXXXX") || exit 2
cleanup() {
	smfs unmount -q "$T/mnt" 2>/dev/null
	free_of_mounts "$T/squash" "$T/restic-mnt"
	rm -rf "$T"
}
trap cleanup EXIT
trap 'exit 2' INT TERM
mkdir "$T/mnt" "$T/squash" "$T/restic-mnt"
. bench/store/peers.sh

# A snapshot as a directory: guest RAM, and the two small files that go with it.
for g in boot idle python files boot2; do
	image=$(ram_image $g) || cannot "no RAM image of guest $g"
	mkdir "$T/$g" && { ln "$image" "$T/$g/ram" 2>/dev/null || cp --sparse=always "$image" "$T/$g/ram"; } || exit 2
	echo "{\"guest\": \"$g\"}" >"$T/$g/meta"
	head -c 20000 /dev/zero | tr '\0' 'v' >"$T/$g/vcpu"
	data="${data:-}${data:+, }$g $(($(stat -c %b "$T/$g/ram") >> 11))"
done
guest_bytes=$(stat -c %s "$T/python/ram")

machine_head
# shellcheck disable=SC2154
say "$(smfs --version | head -n 1), $casync_name, $borg_name, $restic_name," \
	"$(mksquashfs -version | head -n 1 | cut -d' ' -f1-3); best of $runs"
say "guest RAM: $((guest_bytes >> 20)) MiB each, of which not holes, in MiB: $data (tests/lib/ram.sh)"
printf 'name\tvalue\tunit\tratio\tagainst\tlimit\tok\n' | tee -a "$T/out"
for part in $parts; do
	[ -f "bench/store/$part.sh" ] || cannot "no part named $part"
	. "bench/store/$part.sh"
done
mkdir -p bench/results && cp "$T/out" bench/results/bench-store.tsv
