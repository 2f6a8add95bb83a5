#!/bin/sh
# make bench-pool: a worker's machine reset in place against a restore into a process of its own, tiny guests of 512 MiB
# and 4 GiB (bench/warm.c); 1,000 claims over a pool of 8 of them (bench/pool/claims.py); and claims, cycles and exec of Debian
# guests (bench/pool/job.sh), on this host if its KVM boots a stock kernel, else in the emulated machine of tests/vm, where
# only ratios say anything. QUICK=1: fewer iterations. LINUX=0: tiny guests only.
set -u
cd "$(dirname "$0")/.." || exit 2
BUILD=$(cd "${BUILD:-build}" && pwd) || exit 2
B=$BUILD
PATH=$BUILD:$PATH
. bench/lib.sh
. tests/lib/image.sh
. tests/vm/machine.sh

iterations=${ITERATIONS:-200} rounds=${ROUNDS:-30} bytes=$((1 << 30))
[ -n "${QUICK:-}" ] && iterations=${ITERATIONS:-50} rounds=${ROUNDS:-15} bytes=$((32 << 20))

begin
# twice NAME MEMORY: NAME, and NAME-later of the same guest; its nonce
twice() {
	up "$1" counter "$2" && smvm-runner snapshot "$1" "$1" >/dev/null && smvm-runner snapshot "$1" "$1-later" >/dev/null &&
		smvm-runner stop -f "$1" >/dev/null
}
small=$(twice small 512M) && large=$(twice large 4G) && idle=$(snapshot idle 64M idle16) || exit 2

mkdir -p bench/results
machine_head
say "smvm-runner $(smvm-runner --version | head -n 1); $iterations iterations, alternating"
for s in "512M=$small=$SMFS_MOUNT/snapshots/small" "4096M=$large=$SMFS_MOUNT/snapshots/large"; do
	"$BUILD/bench/warm" "$BUILD/smvm-runner" "$SMFS_MOUNT" "$iterations" "$s" "${s##*=}-later" >"$T/figures" || exit 2
	tee -a "$T/out" <"$T/figures"
done

# claims_of CLIENTS NAME LIMIT: the bar is between two figures of one distribution
claims_of() {
	python3 bench/pool/claims.py idle 8 "$1" 1000 "$idle" >"$T/claims" 2>"$T/claims.err" ||
		{ cat "$T/claims.err" "${SMVM_RUN_DIR%/*}/pools.log" >&2; cannot "claims were lost, or served twice"; }
	line "$2-p50" "$(percentile 0.5 <"$T/claims")" us - - -
	line "$2-p99" "$(percentile 0.99 <"$T/claims")" us "$(percentile 0.5 <"$T/claims")" 'its p50' "$3"
}
say "1,000 claims over a pool of 8, each until its guest has spoken; none lost, none served twice"
claims_of 1 claims-by-1 -
claims_of 16 claims-by-16 '<=5'

if [ "${LINUX:-1}" != 0 ]; then
	image_python "$T/image" >/dev/null || cannot 'the image could not be built'
	mkdir "$T/disk" && smfs init -q "$T/disk/store" &&
		smvm-pull -q --store "$T/disk/store" --name localhost/python:1 "oci:$T/image/python:1" ||
		cannot 'the image could not be pulled'
	cp bench/agent/guest.py bench/pool/linux.py bench/lib.sh "$T/disk/"
	MACHINE_TIMEOUT=${MACHINE_TIMEOUT:-1500}
	machine_probe || say "Debian guests, emulated: $machine_why"
	{
		machine_run "$T/disk" bench/pool/job.sh localhost/python:1 "$rounds" "$bytes" 2>"$T/errors"
		echo $? >"$T/status"
	} | tee "$T/linux"
	cat "$T/linux" >>"$T/out"
	[ "$(cat "$T/status")" = 0 ] || { cat "$T/errors" >&2; cannot 'it ended early'; }
fi
cp "$T/out" bench/results/bench-pool.tsv
