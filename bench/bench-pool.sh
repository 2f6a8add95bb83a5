#!/bin/sh
# make bench-pool: a worker's machine reset in place against a restore into a process of its own, tiny guests of 512 MiB
# and 4 GiB (bench/warm.c). QUICK=1: fewer iterations.
set -u
cd "$(dirname "$0")/.." || exit 2
BUILD=$(cd "${BUILD:-build}" && pwd) || exit 2
PATH=$BUILD:$PATH
iterations=${ITERATIONS:-200}
[ -n "${QUICK:-}" ] && iterations=${ITERATIONS:-50}

for dev in kvm fuse; do
	[ -w /dev/$dev ] || { echo "bench-pool: no /dev/$dev" >&2; exit 2; }
done
T=$(mktemp -d "${TMPDIR:-/tmp}/bench-pool.XXXXXX") || exit 2
# Run directories are where a system has them: in memory.
export SMFS_STORE="$T/store" SMFS_MOUNT="$T/mnt" SMVM_RUN_DIR="/dev/shm/${T##*/}"
cleanup() {
	for v in $(smvm-runner ps -q 2>/dev/null); do smvm-runner stop -f "$v"; done
	smfs unmount "$SMFS_MOUNT" 2>/dev/null
	rm -rf "$T" "$SMVM_RUN_DIR"
}
trap cleanup EXIT
trap 'exit 2' INT TERM
mkdir "$SMFS_MOUNT" "$SMVM_RUN_DIR" && smfs init "$SMFS_STORE" >/dev/null &&
	smfs mount "$SMFS_STORE" "$SMFS_MOUNT" || exit 2

. bench/lib.sh

snapshot() { # snapshot NAME MEMORY: of the counter; prints the nonce
	smvm-runner boot --kernel "$BUILD/guest/counter" -m "$2" --name "$1" >/dev/null || return 1
	left=1200
	until nonce=$(smvm-runner console -l "$1" | sed -n 's/^up \([0-9a-f]\{16\}\)$/\1/p') && [ -n "$nonce" ]; do
		left=$((left - 1))
		[ $left -gt 0 ] || return 1
		sleep 0.05
	done
	smvm-runner snapshot "$1" "$1" >/dev/null && smvm-runner stop -f "$1" >/dev/null && echo "$nonce"
}
small=$(snapshot small 512M) && large=$(snapshot large 4G) || exit 2

mkdir -p bench/results
machine_head
say "smvm-runner $(smvm-runner --version | head -n 1); $iterations iterations, alternating"
for s in "512M=$small=$SMFS_MOUNT/snapshots/small" "4096M=$large=$SMFS_MOUNT/snapshots/large"; do
	"$BUILD/bench/warm" "$BUILD/smvm-runner" "$SMFS_MOUNT" "$iterations" "$s" >"$T/figures" || exit 2
	tee -a "$T/out" <"$T/figures"
done
cp "$T/out" bench/results/bench-pool.tsv
