#!/bin/sh
# make bench-snapshot: restore of a tiny guest against the bare floor (bench/floor.c), for 512 MiB
# and 4 GiB of RAM and at the end of 16 diffs, warm cache; faults with and without a working set; live snapshots of a
# guest that writes all the time, and forks, against bare fork(2)s of the same memory (bench/forkfloor.c); memory of
# children, and of two large machines of one snapshot. QUICK=1: fewer iterations. Every machine that is timed says
# the nonce of its first boot, which only its RAM knows, or the bench ends with status 2. With gnuplot: plots beside
# the figures (bench/plot-snapshot.sh).
set -u
cd "$(dirname "$0")/.." || exit 2
BUILD=$(cd "${BUILD:-build}" && pwd) || exit 2
PATH=$BUILD:$PATH
iterations=${ITERATIONS:-200}
[ -n "${QUICK:-}" ] && iterations=${ITERATIONS:-50}

. bench/lib.sh

begin
small=$(snapshot small 512M) && large=$(snapshot large 4G) || exit 2
# The same guest, restored and snapshotted 16 times over.
from=small
for i in $(seq 16); do
	smvm-runner restore --prefault none --name "d$i" "$from" >/dev/null && until_said "d$i" "^gen .*$small\$" &&
		smvm-runner snapshot "d$i" "d$i" >/dev/null && smvm-runner stop -f "d$i" || exit 2
	from=d$i
done

# live MIB MEMORY: pauses of live snapshots of a machine that was restored and writes MIB all the time
live() {
	up "churn$1" "churn$1" "$2" >/dev/null && smvm-runner snapshot "churn$1" "base$1" >/dev/null &&
		smvm-runner stop -f "churn$1" || return 1
	smvm-runner restore --name "live$1" "base$1" >/dev/null || return 1
	# It has written all of it once it has gone round.
	until_said "live$1" '^whole' || return 1
	smvm-runner snapshot --still --json "live$1" "full$1" >"$T/full" && smfs rm "snapshots/full$1" || return 1
	for i in $(seq "$rounds"); do
		smvm-runner snapshot --live --json "live$1" "l$i" >"$T/live.$i" && smfs rm "snapshots/l$i" || return 1
	done
	rm -f "$T"/async.*
	for i in 1 2 3; do
		smvm-runner snapshot --live --no-wait --json "live$1" "async$i" >"$T/async.$i" || return 1
		until smvm-runner info "live$1" | jq -e '.snapshot.state == "ready"' >/dev/null; do sleep 0.05; done
		smfs rm "snapshots/async$i" || return 1
	done
	pause=$(jq .pause_us "$T"/live.* | median)
	forked=$(jq .fork_us "$T"/live.* | median)
	smvm-runner stop -f "live$1"
	"$BUILD/bench/forkfloor" "$SMFS_MOUNT/snapshots/base$1/ram" "$1" 1 "$rounds" >"$T/floor" || return 1
	floor=$(sed -n 's/^fork //p' "$T/floor")
	line "live-pause-$1M" "$pause" us "$floor" "fork(2) of the same memory" '<=1.3'
	line "live-pause-$1M-fork" "$forked" us "$floor" "fork(2) of the same memory" -
	line "live-pause-$1M-mapped" "$pause" us "$(sed -n 's/^fork-vm //p' "$T/floor")" \
		"fork(2) of it while a guest has it mapped" -
	line "live-pause-$1M-to-full" "$pause" us "$(jq .pause_us "$T/full")" 'the pause of one with --still' '<=0.05'
	line "live-async-return-$1M" "$(jq .total_us "$T"/async.* | median)" us \
		"$(jq '.pause_us + 5000' "$T"/async.* | median)" 'its pause and 5 ms' '<=1'
	line "diff-pause-$1M" "$pause" us "$((2000 + 20 * $1))" '2 ms and 20 us a MiB written' '<=1'
	line "diff-pause-$1M-still" "$(jq .pause_us "$T/full")" us "$((2000 + 20 * $1))" 'the same' -
	line "diff-$1M-bytes" "$(jq .data_bytes "$T/live.1")" B "$(($1 * 1048576))" 'bytes written' '<=1.01'
}

# forks N ROUNDS NAME LIMIT: children of a 512 MiB guest that has written 16 MiB. A child's first exit is the first
# byte it says; that line's end is the nonce.
forks() {
	rm -f "$T"/fork.*
	for i in $(seq "$2"); do
		smvm-runner fork -n "$1" --json parent >"$T/fork.$i" || return 1
		[ "$(jq '.children | length' "$T/fork.$i")" -eq "$1" ] || return 1
		for d in $(jq -r '.children[].dir' "$T/fork.$i"); do
			left=600
			until grep -q "^gen $nonce\$" "$d/console.log"; do
				left=$((left - 1))
				[ $left -gt 0 ] || return 1
				sleep 0.05
			done
		done
		for p in $(jq '.children[].pid' "$T/fork.$i"); do
			awk '/^Private/ { s += $2 } END { print s }' "/proc/$p/smaps_rollup"
		done >"$T/private"
		# shellcheck disable=SC2046
		smvm-runner stop -f $(jq -r '.children[].id' "$T/fork.$i")
		sleep 0.2
	done
	"$BUILD/bench/forkfloor" "$SMFS_MOUNT/snapshots/idle/ram" 16 "$1" "$2" >"$T/floor" || return 1
	line "$3" "$(jq '[.children[].timings.first_us] | max' "$T"/fork.* | median)" us \
		"$(sed -n 's/^children //p' "$T/floor")" "bare VMs in forked processes" "$4"
	line "$3-pause" "$(jq .pause_us "$T"/fork.* | median)" us - - -
	line "$3-private" "$(awk '{ s += $1 } END { print s / NR }' "$T/private")" KiB 512 'half a MiB a child, mean' '<=1'
}

# first_second SNAPSHOT POLICY: faults of a restored machine's vCPU in the first second
first_second() {
	smvm-runner restore --prefault "$2" --name faults --json "$1" >"$T/faults" || return 1
	sleep 1
	for t in /proc/"$(jq .pid "$T/faults")"/task/*; do
		[ "$(cat "$t/comm")" != 'vcpu 0' ] || sed 's/.*) //' "$t/stat" | cut -d' ' -f8
	done
	until_said faults '^whole' && smvm-runner stop -f faults
}
working_set() {
	nonce=$(up churn16 churn16 512M) && smvm-runner snapshot churn16 churn16 >/dev/null && smvm-runner stop -f churn16 &&
		smvm-runner restore --name set churn16 >/dev/null && until_said set "^whole .*$nonce\$" &&
		smvm-runner ws set churn16-ws >/dev/null && smvm-runner stop -f set || return 1
	for i in $(seq 5); do
		first_second churn16-ws none >>"$T/without" && first_second churn16-ws ws >>"$T/with" || return 1
	done
	line ws-faults-first-second "$(median <"$T/with")" faults "$(median <"$T/without")" 'without a working set' '<=0.2'
}

# Two machines of 4 GiB of one snapshot with 1 GiB in it; both read it, one writes it.
two_large() {
	nonce=$(up reader reader1024 4G) && smvm-runner snapshot reader reader >/dev/null && smvm-runner stop -f reader || return 1
	for v in reads writes; do
		smvm-runner restore --prefault none --name $v reader >/dev/null && until_said $v "^gen $nonce\$" || return 1
	done
	# The console keeps what is typed until the guest asks for it; its end is the end of the attachment.
	{ printf w; sleep 0.2; } | timeout 3 smvm-runner console writes >/dev/null
	until_said writes "^wrote $nonce\$" || return 1
	for v in reads writes; do
		cat "/proc/$(smvm-runner info $v | jq .pid)/smaps_rollup"
	done | awk '/^Pss:/ { s += $2 } END { printf "%.0f\n", s / 1024 }' >"$T/pss"
	smvm-runner stop -f reads writes
	line two-4096M "$(cat "$T/pss")" MiB 2048 '1 GiB shared and 1 GiB written' '<=1.05'
}

answers() { smvm-runner console -l "$1" | grep -c '^pass '; }
passes() { # passes VM: how often it has gone through its memory, in hexadecimal, once it has said so
	n=$(answers "$1")
	{ printf '?'; sleep 0.2; } | timeout 2 smvm-runner console "$1" >/dev/null
	left=1200
	until [ "$(answers "$1")" -gt "$n" ]; do
		left=$((left - 1))
		[ $left -gt 0 ] || return 1
		sleep 0.05
	done
	smvm-runner console -l "$1" | sed -n 's/^pass \([0-9a-f]*\)$/\1/p' | tail -n 1
}
# A guest that rewrites 256 MiB: passes a second alone, and while a live snapshot of it is being written; and what the
# difference is for each page, against what copying one costs. The guest answers at the end of a pass.
slow_down() {
	smvm-runner restore --name slow base256 >/dev/null && until_said slow '^whole' || return 1
	t=$(now_us) a=$(passes slow)
	sleep 3
	alone=$(since_us "$t") b=$(passes slow)
	smvm-runner snapshot --live --no-wait slow slow >/dev/null && t=$(now_us) && c=$(passes slow) || return 1
	until smvm-runner info slow | jq -e '.snapshot.state == "ready"' >/dev/null; do sleep 0.05; done
	during=$(since_us "$t") d=$(passes slow)
	smvm-runner stop -f slow
	[ -n "$a" ] && [ -n "$b" ] && [ -n "$c" ] && [ -n "$d" ] || return 1
	alone=$(awk -v n=$((0x$b - 0x$a)) -v us="$alone" 'BEGIN { print n * 1e6 / us }')
	"$BUILD/bench/forkfloor" "$SMFS_MOUNT/snapshots/base256/ram" 256 1 5 >"$T/floor" || return 1
	line live-guest-speed "$(awk -v n=$((0x$d - 0x$c)) -v us="$during" 'BEGIN { print n * 1e6 / us }')" 'passes/s' \
		"$alone" 'the same guest without a snapshot' -
	line live-guest-loss "$(awk -v n=$((0x$d - 0x$c)) -v us="$during" -v alone="$alone" \
		'BEGIN { print (us - n * 1e6 / alone) * 1000 / 65536 }')" 'ns/page' "$(sed -n 's/^copy //p' "$T/floor")" \
		'copying a page that a process shares' -
}
rounds=${ROUNDS:-21}
[ -n "${QUICK:-}" ] && rounds=${ROUNDS:-7}
mkdir -p bench/results
machine_head
say "smvm-runner $(smvm-runner --version | head -n 1) against bench/floor.c; $iterations iterations, alternating"
"$BUILD/bench/restore" "$BUILD/smvm-runner" "$BUILD/bench/floor" "$SMFS_MOUNT" "$iterations" \
	"512M=$small=$SMFS_MOUNT/snapshots/small" "4096M=$large=$SMFS_MOUNT/snapshots/large" \
	"depth16=$small=$SMFS_MOUNT/snapshots/d16" | tee -a "$T/out"
[ "$(grep -c '^restore-' "$T/out")" -gt 0 ] || exit 2
say "live snapshots and forks: $rounds rounds, medians"
working_set || cannot "the working set could not be measured"
nonce=$(up parent idle16 512M) && smvm-runner snapshot parent idle >/dev/null && forks 1 "$rounds" fork-1 '<=2' &&
	forks 10 "$rounds" fork-10 '<=2' && forks 100 3 fork-100 '<=2' || cannot "forks could not be measured"
smvm-runner stop -f parent
# A guest that never rests keeps a processor until the scheduler's next tick, whoever wants it.
nonce=$(up parent busy16 512M) && forks 1 "$rounds" fork-1-busy - || cannot "forks of a busy guest could not be measured"
smvm-runner stop -f parent
live 256 384M && live 1024 1536M || cannot "live snapshots could not be measured"
slow_down || cannot "a guest beside its live snapshot could not be measured"
two_large || cannot "two large machines could not be measured"
cp "$T/out" bench/results/bench-snapshot.tsv
if command -v gnuplot >/dev/null; then
	sh bench/plot-snapshot.sh
else
	say "no plots: gnuplot is not installed"
fi
