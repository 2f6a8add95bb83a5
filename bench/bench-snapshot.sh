#!/bin/sh
# make bench-snapshot: restore of a tiny guest against the bare floor (bench/floor.c), for 256 MiB
# and 4 GiB of RAM, warm cache; live snapshots of a guest that writes all the time, and forks, against bare
# fork(2)s of the same memory (bench/forkfloor.c). QUICK=1: fewer iterations.
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

. bench/lib.sh

up() { # up NAME GUEST MEMORY: boots and waits for the guest; prints the nonce
	smvm-runner boot --kernel "$BUILD/guest/$2" -m "$3" --name "$1" >/dev/null || return 1
	left=1200
	until nonce=$(smvm-runner console -l "$1" | sed -n 's/^up \([0-9a-f]\{16\}\)$/\1/p') && [ -n "$nonce" ]; do
		left=$((left - 1))
		[ $left -gt 0 ] || return 1
		sleep 0.05
	done
	echo "$nonce"
}
snapshot() { # snapshot NAME MEMORY: of the counter; prints the nonce
	up "$1" counter "$2" && smvm-runner snapshot "$1" "$1" >/dev/null && smvm-runner stop -f "$1" >/dev/null
}
small=$(snapshot small 256M) && large=$(snapshot large 4G) || exit 2

median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

# live MIB MEMORY: pauses of live snapshots of a machine that was restored and writes MIB all the time
live() {
	up "churn$1" "churn$1" "$2" >/dev/null && smvm-runner snapshot "churn$1" "base$1" >/dev/null &&
		smvm-runner stop -f "churn$1" || return 1
	smvm-runner restore --name "live$1" "base$1" >/dev/null || return 1
	# It has written all of it once it has gone round.
	left=1200
	until smvm-runner console -l "live$1" | grep -q '^whole'; do
		left=$((left - 1))
		[ $left -gt 0 ] || return 1
		sleep 0.05
	done
	smvm-runner snapshot --json "live$1" "full$1" >"$T/full" && smfs rm "snapshots/full$1" || return 1
	for i in $(seq "$rounds"); do
		smvm-runner snapshot --live --json "live$1" "l$i" >"$T/live.$i" && smfs rm "snapshots/l$i" || return 1
	done
	smvm-runner snapshot --live --no-wait --json "live$1" "async$1" >"$T/async" || return 1
	until smvm-runner info "live$1" | jq -e '.snapshot.state == "ready"' >/dev/null; do sleep 0.05; done
	pause=$(jq .pause_us "$T"/live.* | median)
	forked=$(jq .fork_us "$T"/live.* | median)
	smvm-runner stop -f "live$1"
	"$BUILD/bench/forkfloor" "$SMFS_MOUNT/snapshots/base$1/ram" "$1" 1 "$rounds" >"$T/floor" || return 1
	floor=$(sed -n 's/^fork //p' "$T/floor")
	line "live-pause-$1M" "$pause" us "$floor" "fork(2) of the same memory" '<=1.3'
	line "live-pause-$1M-fork" "$forked" us "$floor" "fork(2) of the same memory" -
	line "live-pause-$1M-to-full" "$pause" us "$(jq .pause_us "$T/full")" 'the pause of a full one' '<=0.05'
	line "live-async-return-$1M" "$(jq .total_us "$T/async")" us "$((pause + 5000))" 'the pause and 5 ms' '<=1'
	line "diff-pause-$1M" "$pause" us "$((2000 + 20 * $1))" '2 ms and 20 us a MiB written, live' '<=1'
	line "diff-pause-$1M-not-live" "$(jq .pause_us "$T/full")" us "$((2000 + 20 * $1))" '2 ms and 20 us a MiB written' '<=1'
	line "diff-$1M-bytes" "$(jq .data_bytes "$T/live.1")" B "$(($1 * 1048576))" 'bytes written' '<=1.01'
}

# forks N: children of a 512 MiB guest that has written 16 MiB, each alive
forks() {
	for i in $(seq "$rounds"); do
		smvm-runner fork -n "$1" --name "kid$i" --json parent >"$T/fork.$i" || return 1
		[ "$(jq '.children | length' "$T/fork.$i")" -eq "$1" ] || return 1
		# shellcheck disable=SC2046
		smvm-runner stop -f $(jq -r '.children[].id' "$T/fork.$i")
		sleep 0.2
	done
	"$BUILD/bench/forkfloor" "$SMFS_MOUNT/snapshots/parent/ram" 16 "$1" "$rounds" >"$T/floor" || return 1
	line "fork-$1" "$(jq '[.children[].timings.running_us] | max' "$T"/fork.* | median)" us \
		"$(sed -n 's/^children //p' "$T/floor")" "bare VMs in forked processes" '<=2'
	line "fork-$1-pause" "$(jq .pause_us "$T"/fork.* | median)" us - - -
}
rounds=${ROUNDS:-21}
[ -n "${QUICK:-}" ] && rounds=${ROUNDS:-7}
mkdir -p bench/results
{
	echo "# $(uname -srm), $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1), $(nproc) CPUs, $(date -u +%Y-%m-%dT%H:%MZ)"
	echo "# smvm-runner $(smvm-runner --version | head -n 1) against bench/floor.c; $iterations iterations, alternating; load $(cut -d' ' -f1-3 /proc/loadavg)"
	"$BUILD/bench/restore" "$BUILD/smvm-runner" "$BUILD/bench/floor" "$SMFS_MOUNT" "$iterations" \
		"$small=$SMFS_MOUNT/snapshots/small" "$large=$SMFS_MOUNT/snapshots/large"
} | tee "$T/out"
[ "$(grep -c '^restore-' "$T/out")" -gt 0 ] || exit 2
say "live snapshots and forks: $rounds rounds, medians"
live 256 384M && live 1024 1536M || exit 2
up parent churn16 512M >/dev/null && smvm-runner snapshot parent parent >/dev/null && forks 1 && forks 10 || exit 2
cp "$T/out" bench/results/bench-snapshot.tsv
