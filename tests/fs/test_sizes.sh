#!/bin/sh
# What a store takes and may take: du, stats, the limit and the reserve.
. tests/lib/tap.sh
. tests/fs/mount.sh
SMFS_STORE=$S
export SMFS_STORE

json() { # json FILTER COMMAND...
	filter=$1
	shift
	"$@" --json >"$T/json" && jq -e "$filter" "$T/json" >"$T/jq" || { cat "$T/json"; return 1; }
}
value() { # value NAME: of smfs stats
	smfs stats --json | jq ".$1"
}
bytes() { # bytes a|b PATH: available to, or of, its file system
	stat -fc "%$1 %S" "$2" | awk '{printf "%d", $1 * $2}'
}
random_snapshot() { # random_snapshot DIR BYTES
	mkdir -p "$1"
	head -c 5000 /dev/urandom >"$1/vcpu"
	head -c "$2" /dev/urandom >"$1/ram"
	printf '{"format": 1, "ram_bytes": %d, "vcpu": {"bytes": 5000}}' "$2" >"$1/meta"
}

# ---- du ---------------------------------------------------------------------------------------
make_snapshot "$T/a" 1
make_snapshot "$T/b" 2
cp "$T/a/ram" "$T/b/ram"
smfs init -q
for n in a b; do smfs import -q $n "$T/$n"; done
check "du: what two names share is exclusive to neither" \
	json '.names | length == 2 and all(.exclusive_bytes > 70000 and .exclusive_bytes < 75000 and .shared_bytes > 1200000)' smfs du
check "together they share nothing with others" \
	json '.total.shared_bytes == 0 and .total.exclusive_bytes == .total.stored_bytes' smfs du
check "and take once what they share" \
	json '.total.stored_bytes == .names[0].stored_bytes + .names[1].exclusive_bytes' smfs du
check "holes are no data" json '.total.data_bytes < .total.logical_bytes / 2' smfs du
check "of one name only" json '(.names | length) == 1 and .total.shared_bytes > 1200000' smfs du a a
before=$(smfs du --json a | jq .total.exclusive_bytes)
smfs import -q c "$T/b"
check "a name with all of another's content leaves that one nothing of its own" \
	json '.total.exclusive_bytes == 0' smfs du b
check "removing both would free it" json '.total.exclusive_bytes > 70000' smfs du b c
check "and changes nothing for a third" test "$(smfs du --json a | jq .total.exclusive_bytes)" = "$before"
check "most exclusive first" sh -c 'smfs du | sed -n 2p | grep -q "snapshots/a$"'
check "or by name" sh -c 'smfs du --sort name | sed -n "2,4s/.*snapshots.//p" | tr -d "\n" | grep -qx abc'
check "the last line is the total" sh -c 'smfs du | tail -n 1 | grep -q " total$"'
check "a column that is none is wrong usage" says 2 "one of exclusive" smfs du --sort nothing
check "a name that is none" says 3 "no snapshot" smfs du nothing
check "du agrees with stat on a name" \
	test "$(smfs du --json a | jq '.names[0] | [.stored_bytes, .shared_bytes, .data_bytes]')" = "$(smfs stat --json a | jq '[.stored_bytes, .shared_bytes, .data_bytes]')"

# ---- stats ------------------------------------------------------------------------------------
smfs stats --prometheus >"$T/prom"
check "stats are Prometheus text" python3 tests/lib/promcheck.py "$T/prom" smfs_snapshots smfs_disk_bytes smfs_commits_total smfs_build_info
check "and JSON under the same names" sh -c "smfs stats --json | jq -r 'keys[]' | sort >$T/keys && \
	sed -n 's/^smfs_\\([a-z_]*\\) .*/\\1/p' $T/prom | sed 's/_total\$//' | sort | diff - $T/keys"
check "with the right numbers" json '.snapshots == 3 and .commits == 3 and .packs == 1 and .limit_bytes == 0' smfs stats
disk_adds_up() { # what du(1) counts, but for the directories and the lock files
	d=$(value disk_bytes)
	all=$(du -sB1 "$S" | cut -f1)
	[ "$d" -le "$all" ] && [ "$((d + 65536))" -gt "$all" ]
}
check "disk bytes are what du(1) counts" disk_adds_up
check "either format" says 2 "either" smfs stats --prometheus --json

# ---- the limit --------------------------------------------------------------------------------
rm -rf "$S"
check "init with a limit" smfs init -q --limit 12M
check "which is kept" json '.limit_bytes == 12582912 and .left_bytes < 12582912' smfs limit
random_snapshot "$T/x" 8000000
check "what fits goes in" smfs import -q x "$T/x"
random_snapshot "$T/y" 8000000
check "what does not is refused, with advice" says 1 "limited to 12.0 MiB: it has .*smfs gc.*smfs limit" smfs import y "$T/y"
check "and leaves no name" test "$(smfs ls -q)" = snapshots/x
check "nor bytes" test "$(value disk_bytes)" -lt 9000000
check "content that is there already still goes in" smfs import -q x2 "$T/x"
smfs export -q x "$T/x.smfs"
check "a stream is refused, too" says 1 "limited to 4.0 MiB" sh -c "smfs init -q --limit 4M $T/small && smfs import --store $T/small $T/x.smfs"
check "and leaves nothing" test -z "$(smfs ls -q --store "$T/small")"
smfs limit -q 24M
check "with a higher limit it goes in" smfs import -q y "$T/y"
smfs limit -q 10M
check "a lower limit removes nothing" test "$(smfs ls -q | wc -l)" = 3
check "and lets nothing in" says 1 "limited to 10.0 MiB" sh -c "head -c 100000 /dev/urandom >$T/x/ram; sed -i 's/8000000/100000/' $T/x/meta; exec smfs import z $T/x"
check "a limit that is none is refused" says 2 "" smfs limit 5
printf 'rubbish\n' >"$S/limit"
check "a damaged one is found, not ignored" says 5 "limit. does not parse" smfs import z "$T/x"
check "and can be set anew" smfs limit -q none
check "without one it goes in" smfs import -q z "$T/x"

# eight at once, each of which fits alone
rm -rf "$S"
smfs init -q --limit 20M
for i in 1 2 3 4 5 6 7 8; do
	random_snapshot "$T/p$i" 4000000
	(smfs import -q p$i "$T/p$i" 2>"$T/perr$i"; echo $? >"$T/prc$i") &
done
wait
in=$(cat "$T"/prc? | grep -c '^0$')
echo "# $in of 8 went in: $(value disk_bytes) bytes"
check "ingests that run at once stay within the limit together" test "$(value disk_bytes)" -le 20971520
check "who is refused is told why" test "$(grep -l 'limited to 20.0 MiB' "$T"/perr? | wc -l)" = $((8 - in))
check "not all are, or one by one they get in" sh -c "test $in -ge 1 || smfs import -q p1 $T/p1"
check "and the store is clean" smfs fsck --read-data

# ---- the reserve ------------------------------------------------------------------------------
if [ "$(id -u)" = 0 ] && truncate -s 100M "$T/img" && mkfs.ext4 -qF -m 0 "$T/img" 2>/dev/null && mkdir "$T/fs" &&
	mount -o loop "$T/img" "$T/fs" 2>/dev/null; then
	at_exit 'umount "$T/fs"'
	random_snapshot "$T/c" 20000000
	random_snapshot "$T/q" 60000000
	smfs init -q "$T/fs/cached" && smfs import -q --store "$T/fs/cached" c "$T/c"
	check "a file of the cache" smfs warm -q --store "$T/fs/cached" --cache-size 50M c
	check "goes before an ingest is refused for want of disk" smfs import -q --store "$T/fs/cached" q "$T/q"
	check_not "so it is gone" test -e "$(echo "$T"/fs/cached/cache/*-20000000)"
	rm -rf "$T/fs/cached"
	smfs init -q "$T/fs/store"
	check "on a small file system" smfs import -q --store "$T/fs/store" q "$T/q"
	random_snapshot "$T/r" 60000000
	check "an ingest is refused before the disk is full" says 1 "left, of which .* are kept" smfs import --store "$T/fs/store" r "$T/r"
	dd if=/dev/zero of="$T/fs/filler" bs=64k 2>/dev/null
	rm "$T/fs/filler"
	free=$(bytes a "$T/fs")
	dd if=/dev/zero of="$T/fs/filler" bs=64k count=$(((free - 700000) / 65536)) 2>/dev/null
	check "in the reserve, nothing goes in" says 1 "are kept" smfs import --store "$T/fs/store" r "$T/r"
	check "unless told so" smfs limit -q --reserve 0 --store "$T/fs/store"
	check "and then there is room" json_has '.reserve_bytes == 0 and .left_bytes > 500000' smfs limit --json --store "$T/fs/store"
	check "and a removal goes through" smfs rm --store "$T/fs/store" q
else
	skip "an ingest is refused before the disk is full" "no loop mount here"
fi

# ---- the mount --------------------------------------------------------------------------------
need_fuse
start_mount || cat "$T/log"
check "the mount's stats are Prometheus text" python3 tests/lib/promcheck.py "$M/.smfs/stats" smfs_limit_bytes smfs_reads_total
check "with the store's under the same names" sh -c "smfs stats --prometheus | grep '^# HELP' | while read -r l; do grep -qF \"\$l\" $M/.smfs/stats || exit 1; done"
check "df tells the limit" test "$(bytes b "$M")" -le 20971520
check "and what is left of it" test "$(bytes a "$M")" -lt 5000000
random_snapshot "$T/w" 9000000
check_not "cp into a store at its limit fails" cp -r "$T/w" "$M/snapshots/w"
check "for its quota" grep -q "limited to 20.0 MiB" "$T/log"
check_not "and there is no snapshot" test -n "$(smfs ls -q | grep w)"
rm -rf "$M/snapshots/w"

# Files being copied in count as they are, though all of this would compress away.
smfs rm -q $(smfs ls -q) && smfs gc -q
free=$(smfs limit --json | jq .left_bytes)
mkdir "$M/snapshots/z" && head -c $((free - 3000000)) /dev/zero | tr '\0' z >"$M/snapshots/z/ram"
check "what fits beside the store is copied in" test $? = 0
check_not "more is refused while it is being written" dd if=/dev/zero of="$M/snapshots/z/more" bs=1M count=4 status=none
check "for its quota, with advice" grep -q "files being copied in take .*smfs import" "$T/log"
check "never was there more than the limit" test $(($(value disk_bytes) + $(stat -c '%b * 512' "$M/snapshots/z"/* | paste -sd +))) -le 20971520
rm "$M/snapshots/z/more"
check "room that was given back is used again" sh -c "head -c 1000000 /dev/zero | tr '\\0' z >$M/snapshots/z/vcpu"
rm -rf "$M/snapshots/z"
random_snapshot "$T/w" 9000000
check "and a whole snapshot that fits goes in" cp -r "$T/w" "$M/snapshots/w"
stop_mount

# ---- the cache --------------------------------------------------------------------------------
smfs limit -q 21M
check "the cache takes what the store leaves of the limit" smfs warm w
random_snapshot "$T/v" 5000000
check "and gives way to what goes in" smfs import -q v "$T/v"
check "so both are within it" test $(($(value disk_bytes) + $(du -sB1 "$S/cache" | cut -f1))) -le $((21 << 20))
check "more than is left it does not take" says 1 "limit" smfs warm w
check "the smaller one it does" smfs warm v
random_snapshot "$T/u" 15000000
check "what does not fit even without it is refused" says 1 "limited to" smfs import u "$T/u"
check "no sanitizer complained in the server" log_clean
tap_done
