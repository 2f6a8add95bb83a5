# job.sh - what bench/bench-pool.sh runs where guests run: job.sh IMAGE ROUNDS BYTES, with $DISK as tests/vm/job.sh has it, and in
# it linux.py, guest.py (of bench/agent) and lib.sh. Prints the figures of a pool of Debian guests with Python.
. tests/vm/job.sh
. "$DISK/lib.sh"

image=$1 rounds=$2 bytes=$3
ask() { timeout 600 python3 "$DISK/linux.py" "$@"; }

step 'mount the store' smfs mount "$SMFS_STORE" "$M"
step 'bake' python3 tests/vm/bake.py "$image" python --cpus 1 --memory 256M >"$T/baked"
say "$(sed 's/^# //' "$T/baked")"

# ---- a process for each ---------------------------------------------------------------------------
ask processes python "$rounds" >"$T/processes" || exit 2

# ---- exec, in a machine that has done it before ------------------------------------------------------
smvm-runner restore --name stream python >/dev/null && ask trips stream 3 >/dev/null || exit 2
ask trips stream "$((rounds * 2))" >"$T/trips" || exit 2
i=0
while [ $i -lt 3 ]; do
	i=$((i + 1))
	ask plain stream "$bytes" >>"$T/plain" && ask exec stream "$bytes" >>"$T/exec" || exit 2
done
smvm-runner stop -f stream
line exec-true "$(median <"$T/trips")" us - - -
line "exec-stream-$((bytes >> 20))M" "$(median <"$T/exec")" MB/s "$(median <"$T/plain")" 'a plain vsock copy, same guest' '>=0.5'

# ---- a pool of two ----------------------------------------------------------------------------------
smvm-runner pool --snapshot python --min 2 --max 2 >"$T/pool.log" 2>&1 &
pool=$!
at_exit 'kill $pool 2>/dev/null; wait $pool'
warm() { [ "$(smvm-runner pool status --json | jq .warm)" = 2 ]; }
until_true 120 warm 2>/dev/null || { cat "$T/pool.log" >&2; exit 2; }
ask claims python "$rounds" >"$T/claims" && ask claims-at-once "$rounds" >"$T/at-once" && ask cycles "$rounds" >"$T/cycles" || { cat "$T/pool.log" >&2; exit 2; }
per_second() { awk -v n=$((2 * rounds)) '{ printf "%.3f", n * 1e6 / $1 }' "$1"; }
of() { cut -d ' ' -f "$1" "$T/claims" | median; } # of COLUMN
line claim-answered "$(of 2)" us "$(of 1)" 'a cold restore until it answers, by turns' '<=0.1'
line claim-answered-exec "$(of 2)" us "$(of 3)" 'the exec once more' -
line claim-answered-at-once "$(median <"$T/at-once")" us "$(of 1)" 'a cold restore until it answers' -
line cycles-2-workers "$(per_second "$T/cycles")" 1/s "$(per_second "$T/processes")" 'a process for each' -
