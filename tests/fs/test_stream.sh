#!/bin/sh
# Names as one stream: export and import by pipes and files, only what is missing, refusals; tar through the
# mount in both directions; several processes that import at once.
. tests/lib/tap.sh
. tests/fs/mount.sh
A=$T/A
B=$T/B
N=$M/snapshots

holds() { # holds STORE NAME DIR: the store has those bytes under that name
	rm -rf "$T/x"
	smfs export --store "$1" "$2" "$T/x" && same_tree "$3" "$T/x"
}
none() { # none STORE: no name at all
	[ -z "$(smfs ls -q --store "$1")" ]
}

make_snapshot "$T/a" 1
make_snapshot "$T/b" 2
cp "$T/a/ram" "$T/b/ram"
printf 'a few other bytes' | dd of="$T/b/ram" bs=1 seek=1100000 conv=notrunc 2>/dev/null
smfs import -q --store "$A" a "$T/a"
smfs import -q --store "$A" b "$T/b"
for s in "$B" "$T/C"; do smfs init -q "$s"; done

# ---- by a pipe, by a file ---------------------------------------------------------------------
check "two names go through a pipe" sh -c "smfs export --store $A a snapshots/b - | smfs import -q --store $B -"
check "and arrive" holds "$B" a "$T/a"
check "both" holds "$B" b "$T/b"
check "into a store that is clean" smfs fsck --read-data --store "$B"
check "a file" smfs export -q --store "$A" a "$T/a.smfs"
check "is for its owner only" test "$(stat -c %a "$T/a.smfs")" = 600
check "and not written over" says 4 "exists" smfs export --store "$A" b "$T/a.smfs"
check "comes in under another name" smfs import -q --store "$B" a2 "$T/a.smfs"
check "with the same bytes" holds "$B" a2 "$T/a"
check "a taken name is refused" says 4 "snapshot a exists" smfs import --store "$B" "$T/a.smfs"
check "compressed frames are not compressed again" python3 - "$A" "$T/a.smfs" <<'PY'
import os, sys
packs = b"".join(open(os.path.join(sys.argv[1], "packs", f), "rb").read() for f in os.listdir(sys.argv[1] + "/packs"))
s = open(sys.argv[2], "rb").read()
at, n = 64 + int.from_bytes(s[24:32], "little"), 0
while s[at:at + 4] == b"SFRM":
    end = (at + 64 + int.from_bytes(s[at + 12:at + 16], "little") + 7) // 8 * 8
    assert s[at:end] in packs
    at, n = end, n + 1
assert s[at:at + 4] == b"SEND" and at + 72 == len(s) and n > 10
PY
check "JSON says what came" json_has ".names == 1 and .new_bytes > 1000000 and .stream_bytes == $(stat -c %s "$T/a.smfs")" \
	smfs import --json --store "$T/C" "$T/a.smfs"

# ---- only what is missing ---------------------------------------------------------------------
check "with --base" smfs export -q --store "$A" --base a b "$T/b.smfs"
check "only the difference is sent" test "$(stat -c %s "$T/b.smfs")" -lt 250000
check "a store that has the base takes it" smfs import -q --store "$T/C" "$T/b.smfs"
check "and has all of it" holds "$T/C" b "$T/b"
smfs init -q "$T/D"
check "one that lacks it says what" says 3 "snapshot a (.*not in this store" smfs import --store "$T/D" "$T/b.smfs"
check "and shows nothing" none "$T/D"

# ---- refused ----------------------------------------------------------------------------------
size=$(stat -c %s "$T/a.smfs")
check "a stream cut short is refused" says 5 "cut short" sh -c "head -c $((size - 1)) $T/a.smfs | smfs import --store $T/D -"
check "one cut at half, too" says 5 "cut short" sh -c "head -c $((size / 2)) $T/a.smfs | smfs import --store $T/D -"
cp "$T/a.smfs" "$T/bad.smfs"
printf 'XX' | dd of="$T/bad.smfs" bs=1 seek=$((size / 2)) conv=notrunc 2>/dev/null
check "a damaged one, too" says 5 "frame" smfs import --store "$T/D" "$T/bad.smfs"
check "and something else" says 5 "not a stream" sh -c "head -c 100000 /dev/zero | smfs import --store $T/D -"
check "nothing of them is visible" none "$T/D"
check "nor left" test -z "$(ls -A "$T/D/packs" "$T/D/tmp" | grep pack$)"
check "and the store is clean" smfs fsck --read-data --store "$T/D"
check "a directory without a name is wrong usage" status 2 smfs import --store "$T/D" "$T/a"
check "several names into a directory, too" status 2 smfs export --store "$A" a b "$T/dir"
{ smfs export --store "$A" a - 2>"$T/err"; echo $? >"$T/rc"; } | :
check "a reader that goes away is an error" sh -c "grep -q 'Broken pipe' $T/err && test \$(cat $T/rc) = 1"

# ---- several processes ------------------------------------------------------------------------
smfs init -q "$T/E"
i=0
while [ $i -lt 8 ]; do
	i=$((i + 1))
	rm -rf "$T/race.$i"
	(smfs import -q --store "$T/E" same "$T/a" 2>"$T/race.$i"; echo $? >"$T/rc.$i") &
done
wait
check "of eight imports of one name at once, one wins" test "$(cat "$T"/rc.* | grep -c '^0$')" = 1
check "and the others are told that it is taken" test "$(cat "$T"/rc.* | grep -c '^4$')" = 7
check "by a line that names it" test "$(grep -l 'same' "$T"/race.? | wc -l)" = 7
check "what is there is whole" holds "$T/E" same "$T/a"
check "and the store clean" smfs fsck --read-data --store "$T/E"

# ---- tar through a mount ----------------------------------------------------------------------
need_fuse
smfs import -q --store "$S" "$T/a.smfs"
start_mount
check "tar -S takes a snapshot out with its holes" sh -c "tar -C $N -cSf $T/a.tar a && test $(stat -c %s "$T/a/ram") -gt \$(stat -c %s $T/a.tar)"
check "and puts it back" sh -c "mkdir $T/t && tar -C $T/t -xSf $T/a.tar && mv $T/t/a $T/t/c && tar -C $T/t -cSf - c | tar -C $N --no-same-owner -xf -"
check "as it was" same_tree "$T/a" "$N/c"
check "holes, too" test "$(stat -c %b "$N/c/ram")" = "$(stat -c %b "$N/a/ram")"
check "at the cost of no new content" json_has '.stored_bytes - .shared_bytes < 1000' smfs stat --json --store "$S" c
check "cp -r does the same" sh -c "cp -r $N/a $T/cp && cp -r $T/cp $N/d"
check "as it was" same_tree "$T/a" "$N/d"
stop_mount
check "no sanitizer complained in the server" log_clean
tap_done
