#!/bin/sh
# Live snapshots of a guest that rewrites its memory all the time: each is of one instant, the guest hardly
# stops, and whatever dies, no half snapshot is seen. ROUNDS (6) consistency rounds.
. tests/lib/tap.sh
. tests/guest/tiny.sh

state_of() { smvm-runner info "$1" | jq -r '.snapshot | "\(.name) \(.state)"'; }
is_state() { [ "$(state_of "$1")" = "$2" ]; }
visible() { [ -e "$SMFS_MOUNT/snapshots/$1" ]; }
# pending NAME STATE: so say the store and the mount
pending() {
	smfs ls --json | jq -e --arg n "$1" --arg s "$2" 'any(.[]; .name == $n and .state == $s)' >/dev/null &&
		cut -f 1,2 "$SMFS_MOUNT/.smfs/pending" | grep -qx "$1	$2"
}
runs() { ask "$1" '?' '^pass'; }

check "a guest boots" boot origin churn 128M
check "and rewrites its memory" until_true 10 said origin '^up [0-9a-f]\{16\}$'
nonce=$(log origin | sed -n 's/^up //p')

# ---- one instant
torn='' pauses=''
for i in $(seq "${ROUNDS:-6}"); do
	smvm-runner snapshot --live --json origin "live$i" >"$T/json" || torn="$torn $i(not taken)"
	pauses="$pauses $(jq .pause_us "$T/json")"
	restore "live$i" "copy$i" || torn="$torn $i(not restored)"
	until_true 20 said "copy$i" "^whole [0-9a-f]* $nonce\$" || torn="$torn $i($(log "copy$i" | tail -n 1))"
	smvm-runner stop -f "copy$i"
	[ "$i" -eq 1 ] || smfs rm "snapshots/live$i"
done
echo "# pauses in us:$pauses"
check "each of ${ROUNDS:-6} live snapshots is of one instant, registers included$torn" [ -z "$torn" ]
check "the guest runs on" runs origin
smvm-runner snapshot --still --full --json origin still >"$T/json"
check "a live snapshot pauses less than one for which the guest stands still" \
	[ "$(printf '%s\n' $pauses | sort -n | head -n 1)" -lt "$(jq .pause_us "$T/json")" ]
check "which restores" restore still copy
check "whole, too" until_true 20 said copy "^whole [0-9a-f]* $nonce\$"
smvm-runner stop -f copy
smvm-runner snapshot --full --json origin full >"$T/json"
check "all are live but that one" jq -e '.state == "ready" and .fork_us > 0 and .pause_us < .save_us' "$T/json"

# ---- without waiting: the writer is held while it is looked at
take_live() { smvm-runner snapshot --live --no-wait --full --json origin "$1" >"$T/json"; }
check "a snapshot is not waited for" hold_writer origin take_live later
check "the command returns while it is written" jq -e '.state == "writing"' "$T/json"
check "the store records that it is being written" pending later writing
check "ps shows it" sh -c 'smvm-runner ps | grep -q "writing later$"'
check_not "it cannot be restored yet" smvm-runner restore later
check_not "nor removed" smfs rm later
check "another one meanwhile is refused" sh -c '! smvm-runner snapshot --live origin another 2>"$1" && grep -q "still being written" "$1"' sh "$T/err"
check "info answers meanwhile" json_has '.snapshot.name == "later"' smvm-runner info origin
kill -CONT "$writer"
check "then it is ready" until_true 20 is_state origin "later ready"
check "and restores" restore later fromlater
check "whole" until_true 20 said fromlater "^whole [0-9a-f]* $nonce\$"
check "a live snapshot of a restored machine" smvm-runner snapshot --live fromlater second
smvm-runner stop -f fromlater
check "restores" restore second fromsecond
check "whole, too" until_true 20 said fromsecond "^whole [0-9a-f]* $nonce\$"
smvm-runner stop -f fromsecond

# ---- what dies
kill_writer() { hold_writer origin take_live "$1" && kill -9 "$writer"; }
check "the writer is killed" kill_writer killed
check "the snapshot has failed" until_true 5 is_state origin "killed failed"
check_not "nothing of it is seen" visible killed
check "the store keeps the failure" pending killed failed
check "and its reason" sh -c 'smfs log killed | grep -q "failed .*was killed"'
check "ps shows it, too" sh -c 'smvm-runner ps | grep -q "FAILED to write killed$"'
check "the guest runs on" runs origin
check "the next one is right" smvm-runner snapshot --live origin killed
check "under the same name" restore killed fromkilled
check "the failure is forgotten" sh -c '[ -z "$(cat "$SMFS_MOUNT/.smfs/pending")" ] && ! smvm-runner ps | grep -q FAILED'
check "whole" until_true 20 said fromkilled "^whole [0-9a-f]* $nonce\$"
smvm-runner stop -f fromkilled

kill_monitor() {
	restore live1 victim && until_true 5 said victim '^gen' &&
		victim=$(smvm-runner info victim | jq .pid) &&
		smvm-runner snapshot --live --no-wait victim orphan >/dev/null && kill -9 "$victim"
}
check "the machine is killed while its snapshot is written" kill_monitor
check "its name is free at once" sh -c '! smvm-runner info victim 2>/dev/null'
written_or_there() { pending orphan writing || visible orphan; }
check "the store still says that it is being written" written_or_there
check "the snapshot is completed all the same" until_true 20 visible orphan
check "and restores" restore orphan fromorphan
check "whole" until_true 20 said fromorphan "^whole [0-9a-f]* $nonce\$"
smvm-runner stop -f fromorphan

# ---- the limit on copies
check "past the copy limit" \
	sh -c 'smvm-runner snapshot --live --copy-limit 1M --json origin bounded >"$1" && jq -e .throttled "$1"' sh "$T/json"
check "the guest waited, and runs on" runs origin
check "the snapshot is as right" restore bounded frombounded
check "whole" until_true 20 said frombounded "^whole [0-9a-f]* $nonce\$"

check_not "--no-wait needs --live" smvm-runner snapshot --no-wait origin x
check "no machine found its memory torn" sh -c '! grep -l "^torn" "$SMVM_RUN_DIR"/*/console.log'
check "fsck is content" smfs fsck
tap_done
