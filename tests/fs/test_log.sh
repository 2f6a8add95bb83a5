#!/bin/sh
# smfs log: what the journal tells of names, to people and to programs.
. tests/lib/tap.sh
. tests/fs/mount.sh
SMFS_STORE=$S
export SMFS_STORE

json() { # json FILTER COMMAND...
	filter=$1
	shift
	"$@" --json >"$T/json" && jq -e "$filter" "$T/json" >"$T/jq" || { cat "$T/json"; return 1; }
}
says() { # says STATUS PATTERN COMMAND...: on standard error
	want=$1 pattern=$2
	shift 2
	"$@" >"$T/out" 2>"$T/err" </dev/null
	got=$?
	cat "$T/err"
	[ "$got" = "$want" ] && grep -q -- "$pattern" "$T/err"
}

smfs init -q
check "an empty store has no history" test -z "$(smfs log)"
check "which is an empty list" json '. == []' smfs log
make_snapshot "$T/a" 1
before=$(date +%s)
smfs import -q one "$T/a"
smfs import -q two "$T/a"
smfs mv one web-1
smfs rm two
smfs import -q two "$T/a"
after=$(($(date +%s) + 1))
smfs log >"$T/log.txt"
cat "$T/log.txt"
check "a line for each change, oldest first" test "$(awk '{print $1}' "$T/log.txt" | tr '\n' ' ')" = "1 2 3 4 5 "
check "what was done" test "$(grep -oE 'publish|rename|remove' "$T/log.txt" | tr '\n' ' ')" = \
	"publish publish rename remove publish "
check "to which name" sh -c "sed -n 2p $T/log.txt | grep -q 'snapshots/two  4.1 MiB$'"
check "from which to which" sh -c "sed -n 3p $T/log.txt | grep -q 'snapshots/one -> web-1$'"
check "and when" json "all(.time_ns / 1e9 >= $before and .time_ns / 1e9 <= $after)" smfs log
check "programs get the same" json 'map([.seq, .op, .kind, .name, .from]) ==
	[[1, "publish", "snapshot", "one", null], [2, "publish", "snapshot", "two", null], [3, "rename", "snapshot", "web-1", "one"],
	[4, "remove", "snapshot", "two", null], [5, "publish", "snapshot", "two", null]]' smfs log
check "with the content that the name had" sh -c 'test "$(smfs log --json | jq -r ".[2].root")" = "$(smfs log --json two | jq -r ".[0].root")"'
check "the last ones" test "$(smfs log -n 2 | awk '{print $1}' | tr '\n' ' ')" = "4 5 "
check "more than there are" test "$(smfs log --last 100 | wc -l)" = 5
check "none is wrong usage" says 2 "last" smfs log -n 0
check "of one name" test "$(smfs log two | awk '{print $1}' | tr '\n' ' ')" = "2 4 5 "
check "a name renamed is found by its old one" test "$(smfs log one | awk '{print $1}' | tr '\n' ' ')" = "1 3 "
check "and by its new one" test "$(smfs log web-1 | awk '{print $1}')" = 3
check "of a pattern" test "$(smfs log 'web-*' | wc -l)" = 1
check "with the kind" test "$(smfs log 'snapshots/t*' | wc -l)" = 3
check "of several" test "$(smfs log one two | wc -l)" = 5
check "of another kind" test -z "$(smfs log 'images/*')"
check "the last of those that match" test "$(smfs log -n 1 two | awk '{print $1}')" = 5
check "both: the last, as a list" json 'length == 1 and .[0].seq == 5' smfs log -n 1 two

# what names came in by a mount is told as well
if [ "$(id -u)" = 0 ] && [ -c /dev/fuse ]; then
	start_mount
	cp -r "$T/a" "$M/snapshots/three"
	rm -r "$M/snapshots/three"
	stop_mount
	check "changes through a mount are told" test "$(smfs log three | grep -oE 'publish|remove' | tr '\n' ' ')" = "publish remove "
else
	skip "changes through a mount are told" "needs root and /dev/fuse"
fi

# a collection may write a record: it concerns no name
smfs rm two && smfs gc -q --compact 1
check "a collection is no change of a name" test "$(smfs log '*' | grep -c commit)" = 0
n=$(smfs log | wc -l)

# damage: what is before it is shown, and the rest is not passed over in silence
cp "$S/journal" "$T/journal"
size=$(stat -c %s "$S/journal")
printf 'XXXX' | dd of="$S/journal" bs=1 seek=$((size - 100)) conv=notrunc 2>/dev/null
check "a damaged journal is told" says 5 "journal" smfs log
check "after what came before the damage" test "$(grep -c . "$T/out")" -ge 3
check "not more than there was" test "$(grep -c . "$T/out")" -lt "$n"
cp "$T/journal" "$S/journal"
check "whole again, all is there" test "$(smfs log | wc -l)" = "$n"
check "no store, no log" says 3 "no store at" smfs log --store "$T/nowhere"
tap_done
