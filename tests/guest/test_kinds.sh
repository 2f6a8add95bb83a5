#!/bin/sh
# The kinds of snapshot a user may ask for: full, diff of this or that base, live, still, combined; what contradicts
# itself is refused by the command line, what cannot be done by the VM, each in one line.
. tests/lib/tap.sh
. tests/guest/tiny.sh

take() { smvm-runner snapshot --json "$@" >"$T/json" 2>"$T/err"; }
is() { jq -e "$1" "$T/json" >/dev/null; }
# usage REASON ARGUMENTS...: exit status 2 and one line with the reason
usage() {
	usage_why=$1
	shift
	take "$@"
	[ $? -eq 2 ] && [ "$(wc -l <"$T/err")" -eq 1 ] && grep -q -e "$usage_why" "$T/err"
}
# refused REASON ARGUMENTS...: one line with the reason, the guest runs, and nothing is left of it
refused() {
	refused_why=$1
	shift
	take "$@"
	[ $? -ne 0 ] && [ "$(wc -l <"$T/err")" -eq 1 ] && grep -q -e "$refused_why" "$T/err"
}
value() { log "$1" | awk -v w="$2" '$1 == w { c = $(NF - 1) } END { print c }'; }
less() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort | head -n 1)" = "$1" ] && [ "$1" != "$2" ]; }
# comes_back SNAPSHOT: the guest it was, at a count not before the last answer and not after the next
comes_back() {
	restore "$1" back && until_true 5 said back "^gen .* $nonce\$" || return 1
	set -- "$(value origin now)" "$(value back gen)"
	smvm-runner stop -f back
	ask origin '?' '^now' && less "$1" "$2" && less "$2" "$(value origin now)"
}

# ---- the command line
check "--full and --diff" usage 'contradict' --full --diff vm x
check "--full and --base" usage 'contradict' --full --base y vm x
check "--no-wait without --live" usage 'needs --live' --no-wait vm x
check "--no-wait and --diff without --live" usage 'needs --live' --no-wait --diff vm x
check "--copy-limit and --still" usage 'contradict' --still --copy-limit 1M vm x
check "--live and --still" usage 'contradict' --live --still vm x
check "--no-wait and --still" usage 'needs --live' --still --no-wait vm x
check "a snapshot as its own base" usage 'its own base' --base x vm x
check "no name" usage 'takes a VM and a name' --live vm

# ---- a machine that was booted
check "a guest boots" boot origin counter 64M
check "and speaks" until_true 5 said origin '^up [0-9a-f]\{16\}$'
nonce=$(log origin | sed -n 's/^up //p')
ask origin '?' '^now'
check "a diff of nothing is refused" refused 'a diff of what' --diff origin x
check "so is one of a base that is not there" refused 'no such name' --base nothing origin x
check "nothing of either is recorded" [ -z "$(smfs ls snapshots)" ]
check "its first snapshot" take origin first
check "is full" is '.diff == false'
whole=$(jq .data_bytes "$T/json")
check "its second, a diff" take --diff origin second
check "is one of its first" is '.diff == true'
check "and stores a few pages" is '.new_bytes < 100000'
check "it is the machine of that instant" comes_back second
check "a third" take --diff origin third
check "stores a few pages, too" is '.new_bytes < 100000'
check "the machine of its instant" comes_back third
check "a diff of the first by name" take --diff --base first origin byname
check "the machine of its instant" comes_back byname
check "a live diff" take --live --diff origin live
check "is a diff" is '.diff == true and .new_bytes < 100000'
check "the machine of its instant" comes_back live
check "a live diff, not waited for" take --live --no-wait --diff --base third origin later
check "is there soon" until_true 10 [ -e "$SMFS_MOUNT/snapshots/later" ]
check "the machine of its instant" comes_back later
check "a full one" take --full origin full
check "reads as much as the first" is ".diff == false and .data_bytes >= $whole"
check "a live full one" take --live --full origin livefull
check "is full" is '.diff == false'
check "a diff of a machine that stands still" take --still --diff origin still
check "is a diff" is '.diff == true and .new_bytes < 100000 and .fork_us == 0'
check "the machine of its instant" comes_back still
check "a base may go" smfs rm first second
check "what differs from it stays" restore third back
check "whole" until_true 5 said back "^gen .* $nonce\$"
smvm-runner stop -f back
check "a diff of a base that is gone is refused" refused 'no such name' --base second origin x
check "a failure is recorded only of what was begun" [ -z "$(cat "$SMFS_MOUNT/.smfs/pending")" ]

# ---- a machine of another size, and one that was restored
boot other counter 32M && until_true 5 said other '^up'
check "a base of another size is refused" refused '64 MiB of RAM, not 32' --base third other x
check "a machine is restored" restore third origin2
until_true 5 said origin2 '^gen'
check "a snapshot of it" take origin2 r1
check "is a diff by itself" is '.diff == true and .data_bytes < 200000'
check "so is the next" take origin2 r2
check "also when asked" take --diff origin2 r3
check "with only what was written read" is '.diff == true and .data_bytes < 200000'
check "and against one that it was not restored from" take --base r1 origin2 r4
check "all is compared, little is stored" is '.diff == true and .data_bytes > 300000 and .new_bytes < 100000'
check "--full reads all" take --full origin2 r5
check "of it" is '.diff == false and .data_bytes > 300000'
for r in r1 r2 r3 r4 r5; do
	restore $r back && until_true 5 said back "^gen .* $nonce\$"
	check "$r restores" [ $? -eq 0 ]
	smvm-runner stop -f back
done

# ---- no room: it fails for that reason, which is kept; nothing is forgotten, the next one is right
failed() { grep -q "^$1	failed	.*$2" "$SMFS_MOUNT/.smfs/pending"; }
until_failed() { until_true 10 failed "$1" "$2"; }
refused_for_room() { ! take "$@" && grep -q 'limit' "$T/err"; }
# churn writes 32 MiB that do not compress, all the time
boot big churn 64M && until_true 20 said big '^up'
check "a machine that writes much" take big bigbase
smvm-runner stop -f big
bignonce=$(restore bigbase big2 && until_true 20 said big2 '^whole' && log big2 | sed -n 's/^whole [0-9a-f]* //p')
check "is restored, and has written all of it" [ -n "$bignonce" ]
smfs limit 1M >/dev/null
check "no room for a diff" refused_for_room big2 room1
check "no room for a full one" refused_for_room --full big2 room2
check "no room for a live one" refused_for_room --live big2 room3
check "no room for one for which it stands still" refused_for_room --still big2 room4
check "one that is not waited for" take --live --no-wait big2 room5
for r in room1 room2 room3 room4 room5; do
	check "the store keeps that $r failed, and why" until_failed $r limit
	check_not "it is not to be seen" [ -e "$SMFS_MOUNT/snapshots/$r" ]
	check_not "nor to be restored" smvm-runner restore $r
done
check "the machine runs on" ask big2 '?' '^pass'
smfs limit none >/dev/null
for r in room1 room2 room3 room4 room5; do
	case $r in room2) kind=--full ;; room[35]) kind=--live ;; room4) kind=--still ;; *) kind= ;; esac
	check "$r is taken now" take $kind big2 $r
	check "restores" restore $r back
	check "as the guest it was" until_true 20 said back "^whole [0-9a-f]* $bignonce\$"
	smvm-runner stop -f back
done
smvm-runner stop -f big2
check "and no failure is left" [ -z "$(cat "$SMFS_MOUNT/.smfs/pending")" ]

# ---- the server is killed while one is taken, of each kind: its keeper has another take over
kill_server() { # kill_server NAME ARGUMENTS...
	kill_name=$1
	shift
	old=$(cat "$SMFS_MOUNT/.smfs/pid")
	take "$@" origin2 "$kill_name" &
	taker=$!
	kill -9 "$old"
	wait $taker && until_true 10 [ -e "$SMFS_MOUNT/snapshots/$kill_name/ram" ] &&
		[ "$(cat "$SMFS_MOUNT/.smfs/pid")" != "$old" ]
}
n=0
for kind in '' --full --still '--still --full' '--live --no-wait'; do
	n=$((n + 1))
	check "the server is killed, the snapshot ($kind) is taken" kill_server k$n $kind
	check "it restores" restore k$n back
	check "as the guest it was" until_true 5 said back "^gen .* $nonce\$"
	smvm-runner stop -f back
	check "the machine runs on" ask origin2 '?' '^now'
done
check "fsck is content" smfs fsck
tap_done
