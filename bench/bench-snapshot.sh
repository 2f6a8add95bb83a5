#!/bin/sh
# make bench-snapshot: restore of a tiny guest against the bare floor (bench/floor.c), for 256 MiB
# and 4 GiB of RAM, warm cache. QUICK=1: fewer iterations.
set -u
cd "$(dirname "$0")/.." || exit 2
BUILD=$(cd "${BUILD:-build}" && pwd) || exit 2
PATH=$BUILD:$PATH
iterations=${ITERATIONS:-200}
[ -n "${QUICK:-}" ] && iterations=${ITERATIONS:-50}

for dev in kvm fuse; do
	[ -w /dev/$dev ] || { echo "bench-snapshot: no /dev/$dev" >&2; exit 2; }
done
T=$(mktemp -d "${TMPDIR:-/tmp}/bench-snapshot.XXXXXX") || exit 2
export SMFS_STORE="$T/store" SMFS_MOUNT="$T/mnt" SMVM_RUN_DIR="$T/run"
cleanup() {
	for v in $(smvm-runner ps -q 2>/dev/null); do smvm-runner stop -f "$v"; done
	smfs unmount "$SMFS_MOUNT" 2>/dev/null
	rm -rf "$T"
}
trap cleanup EXIT
trap 'exit 2' INT TERM
mkdir "$SMFS_MOUNT" "$SMVM_RUN_DIR" && smfs init "$SMFS_STORE" >/dev/null &&
	smfs mount "$SMFS_STORE" "$SMFS_MOUNT" || exit 2

snapshot() { # snapshot NAME MEMORY: boots, waits for the guest, saves; prints the nonce
	smvm-runner boot --kernel "$BUILD/guest/counter" -m "$2" --name "$1" >/dev/null || return 1
	left=200
	until nonce=$(smvm-runner console -l "$1" | sed -n 's/^up \([0-9a-f]\{16\}\)$/\1/p') && [ -n "$nonce" ]; do
		left=$((left - 1))
		[ $left -gt 0 ] || return 1
		sleep 0.05
	done
	smvm-runner snapshot "$1" "$1" >/dev/null && smvm-runner stop -f "$1" >/dev/null && echo "$nonce"
}
small=$(snapshot small 256M) && large=$(snapshot large 4G) || exit 2

mkdir -p bench/results
{
	echo "# $(uname -srm), $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1), $(nproc) CPUs, $(date -u +%Y-%m-%dT%H:%MZ)"
	echo "# smvm-runner $(smvm-runner --version | head -n 1) against bench/floor.c; $iterations iterations, alternating; load $(cut -d' ' -f1-3 /proc/loadavg)"
	"$BUILD/bench/restore" "$BUILD/smvm-runner" "$BUILD/bench/floor" "$SMFS_MOUNT" "$iterations" \
		"$small=$SMFS_MOUNT/snapshots/small" "$large=$SMFS_MOUNT/snapshots/large" || exit 2
} >"$T/out"
rc=$?
cat "$T/out"
[ $rc -eq 0 ] && cp "$T/out" bench/results/bench-snapshot.tsv
exit $rc
