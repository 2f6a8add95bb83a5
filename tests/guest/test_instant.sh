#!/bin/sh
# One instant of four vCPUs: snapshots of a guest whose vCPUs all rewrite their memory and count in registers what they draw
# from one counter (quad.S). ROUNDS (10) live ones of a booted machine, and as many diffs of a restored one, every other of
# them live. Each is restored, and must find its memory whole and its registers of the same instant.
. tests/lib/tap.sh
. tests/guest/tiny.sh

rounds=${ROUNDS:-10}

# found SNAPSHOT GENERATION: restored, it says so and nothing else, and powers off when told
found() {
	echo q | timeout 60 smvm-runner restore -f "$1" >"$T/said" 2>&1
	[ "$(tr -d '\r' <"$T/said" | sed "s/ [0-9a-f]\{16\} $nonce\$//")" = "whole $(printf %016x "$2")" ]
}
# round NUMBER VM GENERATION OPTION...: take one, judge it, remove it
round() {
	number=$1 vm=$2 expect=$3
	shift 3
	if ! smvm-runner snapshot "$@" --json "$vm" now >"$T/json"; then
		wrong="$wrong $number(not taken)"
		return
	fi
	jq -r .pause_us "$T/json" >>"$T/pauses"
	jq -r .diff "$T/json" >>"$T/diffs"
	found now "$expect" || wrong="$wrong $number($(tail -n 1 "$T/said"))"
	smfs rm snapshots/now || wrong="$wrong $number(not removed)"
}
pauses() { sort -n "$T/pauses" | awk '{ a[NR] = $1 } END { print "# paused " a[1] " to " a[NR] " us, half below " a[int((NR + 1) / 2)] }'; }

check "a guest boots on four vCPUs" smvm-runner boot --kernel "$B/guest/quad" -m 32M -c 4 --name origin
check "and all four work" until_true 20 said origin '^up [0-9a-f]\{16\}$'
nonce=$(log origin | sed -n 's/^up //p' | tr -d '\r')

wrong='' began=$(date +%s)
for i in $(seq "$rounds"); do
	round "$i" origin 2 --live
done
pauses
check "each of $rounds live snapshots is of one instant$wrong" [ -z "$wrong" ]
check "none of which was a diff" [ "$(sort -u "$T/diffs")" = false ]
echo "# $(($(date +%s) - began)) s"

# The guest would tell: these registers with the memory of a moment later.
check "two snapshots, one after the other" sh -c 'smvm-runner snapshot origin early && smvm-runner snapshot origin late'
cp -r "$SMFS_MOUNT/snapshots/early" "$T/mixed" && chmod u+w "$T/mixed/ram" && cp "$SMFS_MOUNT/snapshots/late/ram" "$T/mixed/ram"
echo q | timeout 60 smvm-runner restore -f "$T/mixed" >"$T/said" 2>&1
check "registers of one and memory of the other are found out" grep -qE '^(torn|apart)' "$T/said"
check "each by itself is whole" found late 2

: >"$T/pauses" && : >"$T/diffs"
wrong='' generation=1 name=full began=$(date +%s)
check "a snapshot to start from" smvm-runner snapshot origin full
smvm-runner stop -f origin
for i in $(seq "$rounds"); do
	# A new link of the lineage now and then: the next diffs are of a machine restored from a diff.
	if [ $(((i - 1) % 8)) -eq 0 ]; then
		[ $generation -eq 1 ] || smvm-runner snapshot "lineage$generation" "$((name = generation))" >/dev/null
		generation=$((generation + 1))
		restore "$name" "lineage$generation" || wrong="$wrong $i(base not restored)"
		[ $generation -eq 2 ] || smvm-runner stop -f "lineage$((generation - 1))"
		until_true 20 said "lineage$generation" "^whole .* $nonce" || wrong="$wrong $i(base: $(log "lineage$generation" | tail -n 1))"
	fi
	if [ $((i % 2)) -eq 0 ]; then
		round "$i" "lineage$generation" $((generation + 1)) --live
	else
		round "$i" "lineage$generation" $((generation + 1))
	fi
done
pauses
check "each of $rounds diffs is of one instant$wrong" [ -z "$wrong" ]
check "all were diffs" [ "$(sort -u "$T/diffs")" = true ]
check "the machine runs on" ask "lineage$generation" '?' '^pass'
check "no vCPU found anything torn" sh -c '! grep -E "^(torn|apart)" "$SMVM_RUN_DIR"/*/console.log'
echo "# $(($(date +%s) - began)) s, lineage of $generation"
check "fsck is content" smfs fsck
tap_done
