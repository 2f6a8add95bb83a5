#!/bin/sh
# Collection for longer: the model's threads and processes, collections killed at random moments,
# and `smfs gc` killed again and again beside a mount that reads what was removed.
. tests/lib/tap.sh
. tests/fs/mount.sh

check "the model for a minute, and kills for another" env SMFS_GC_SECONDS=60 "$B/unit/test_store_gc"
need_fuse
export SMFS_STORE="$S"

smfs init "$S" >/dev/null
mkdir -p "$M"
make_snapshot "$T/kept" 1
make_snapshot "$T/open" 2
smfs import -q kept "$T/kept"
smfs import -q open "$T/open"
check "mount" start_mount
exec 7<"$M/snapshots/open/ram"
check "a snapshot is removed while its ram is open" rm -r "$M/snapshots/open"

rounds=0
one_round() { # content comes and goes, and a collection dies somewhere in it
	make_snapshot "$T/in" $((100 + rounds % 7)) &&
		smfs import -q "r$rounds" "$T/in" || return 1
	[ $rounds -lt 2 ] || smfs rm "r$((rounds - 2))" || return 1
	smfs gc -q --compact 1 &
	pid=$!
	sleep "0.0$((rounds * 7 % 10))"
	kill -9 $pid 2>/dev/null
	wait $pid 2>/dev/null
	cmp -s "$T/open/ram" /proc/self/fd/7 && cmp -s "$T/kept/ram" "$M/snapshots/kept/ram" &&
		cmp -s "$T/in/ram" "$M/snapshots/r$rounds/ram"
}
all_rounds() {
	while [ $rounds -lt 60 ]; do
		one_round || { echo "# round $rounds"; return 1; }
		rounds=$((rounds + 1))
	done
}
check "sixty collections killed, nothing read wrong" all_rounds
check "the store is clean" smfs fsck --read-data
exec 7<&-
check "a collection to its end" smfs gc --compact 1
check "unmount" stop_mount
check "nothing strange in the server's log" log_clean
check "another" smfs gc --compact 1
check "the store is still clean" smfs fsck --read-data
tap_done
