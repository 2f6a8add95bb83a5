#!/bin/sh
# A mount when things go worse than one dead server: requests that kill, servers that cannot be killed, programs
# that cannot serve, no memory, no keeper.
. tests/lib/tap.sh
. tests/fs/mount.sh
. tests/fs/survive.sh
need_fuse
N=$M/snapshots

worker() { cat "$M/.smfs/pid"; }
changed_from() { [ "$(worker)" != "$1" ]; }
gone() { ! kill -0 "$1"; }
fails_with() { # fails_with PATTERN COMMAND...: soon
	pattern=$1
	shift
	timeout -k 1 200 "$@" >"$T/out" 2>"$T/err"
	got=$?
	cat "$T/err"
	[ "$got" != 0 ] && [ "$got" -lt 124 ] && grep -q -- "$pattern" "$T/err"
}
score() { cat "/proc/$1/oom_score_adj"; }

check "a store with things to read" survive_store
check "mounts" survive_mount --watchdog 3
keeper=$(cat "$M/.smfs/keeper") pid=$(worker)

# ---- memory ------------------------------------------------------------------------------------
kill -9 "$pid"
check "another server takes over" within changed_from "$pid"
if sh -c 'echo -1000 >/proc/self/oom_score_adj' 2>/dev/null; then
	check "the kernel does not take the keeper when memory runs out" test "$(score "$keeper")" = -1000
	check "nor a server that took over" test "$(score "$(worker)")" = -1000
else
	check "where it may take the keeper when memory runs out, the log says so" grep -q "not protected from" "$T/log"
	skip "the kernel does not take keeper and server when memory runs out" "no CAP_SYS_RESOURCE here"
fi

# ---- programs that cannot serve ----------------------------------------------------------------
cc -I. -D_GNU_SOURCE -DFUSE_USE_VERSION=314 -o "$T/dies-serving" tests/lib/badworker.c || exit 1
cp "$B/smfs" "$T/cut-short" && truncate -s 20000 "$T/cut-short"
printf 'not a program' >"$T/text" && chmod +x "$T/text"
pid=$(worker)
check "eight readers do not notice programs that do not start, end at once, or never get ready" \
	python3 tests/lib/survive.py refuse "$M" "$T/text" "$T/cut-short" /bin/false /usr/bin/yes
check "the server has stayed" test "$(worker)" = "$pid"
check "nor one that dies when it is to serve" python3 tests/lib/survive.py refuse "$M" "$T/dies-serving"
check "the old program serves again" test "$(readlink "/proc/$(worker)/exe")" = "$B/smfs"
check "and can be changed still" smfs remount "$M"

# ---- a request that kills ----------------------------------------------------------------------
# The pack of one snapshot is a file of another mount, whose server is stopped: whoever reads it is at that for
# longer than the watchdog likes, the next servers as well.
other=$(ls "$S"/packs/*.pack)
python3 tests/lib/survive.py make "$T/deadly" 77 1
exec 8<"$other"
flock 8
smfs import -q --store "$S" deadly "$T/deadly"
exec 8<&-
pack=$(ls "$S"/packs/*.pack | grep -vx "$other")
check "a snapshot in a pack of its own" test -f "$pack"
mkdir "$T/below"
cp "$pack" "$T/below/ram"
echo x >"$T/below/vcpu"
echo '{}' >"$T/below/meta"
smfs init -q "$T/other"
smfs import -q --store "$T/other" pack "$T/below"
check "below another mount" smfs mount --watchdog 0 --hot never --log "$T/log2" "$T/other" "$T/mnt2"
below=$(cat "$T/mnt2/.smfs/pid")
at_exit 'kill -CONT $below 2>/dev/null; umount -l "$pack"; smfs unmount --force "$T/mnt2"'
mount --bind "$T/mnt2/snapshots/pack/ram" "$pack"
first=$(cksum <"$N/s01/vcpu")
exec 5<"$N/deadly/ram"
kill -STOP "$below"
within grep -q '^State:.T' "/proc/$below/status"
# Readahead asks, and when that has failed the reader: two requests.
check "a request that costs three servers is answered with an error" \
	fails_with "Input/output error" dd bs=4096 count=1 of=/dev/null <&5
check "three it was for each" test "$(grep -c "is killed" "$T/log")" = "$((3 * $(grep -c "has ended 3 servers" "$T/log")))"
check "the log says which" grep -q "has ended 3 servers: it is answered with an error" "$T/log"
check "others are served" test "$(cksum <"$N/s01/vcpu")" = "$first"
kill -CONT "$below"
check "and it, when it kills no more" cmp /dev/fd/5 "$T/deadly/ram"
exec 5<&-
check "unmount" stop_mount
umount -l "$pack"
check "and what was below" smfs unmount --force "$T/mnt2"

# ---- no keeper ---------------------------------------------------------------------------------
survive_mount
exec 5<"$N/cold/ram"
pid=$(worker)
kill -9 "$(cat "$M/.smfs/keeper")" "$pid"
check "the server has ended" within gone "$pid"
check "keeper and server gone at once: who reads gets an error" fails_with "" dd bs=4096 count=1 of=/dev/null <&5
check "and who comes" fails_with "not connected" ls "$N"
exec 5<&-
check "unmount clears it away" smfs unmount "$M"
check "and a new mount serves" survive_mount
check "what was there" test -s "$N/s01/vcpu"
check "unmount" stop_mount

# ---- a server that cannot be killed ------------------------------------------------------------
# Who writes to a frozen file system sleeps where no signal reaches.
if truncate -s 200M "$T/img" && mkfs.ext4 -qF "$T/img" 2>/dev/null && mkdir "$T/disk" &&
	mount -o loop "$T/img" "$T/disk" 2>/dev/null; then
	at_exit 'fsfreeze -u "$T/disk" 2>/dev/null; umount "$T/disk"'
	S=$T/disk/store
	smfs init -q "$S"
	for n in one two; do
		python3 tests/lib/survive.py make "$T/$n" 5 1
		smfs import -q --store "$S" $n "$T/$n"
	done
	start_mount --watchdog 3
	keeper=$(cat "$M/.smfs/keeper") pid=$(worker)
	exec 5<"$N/two/ram"
	fsfreeze -f "$T/disk"
	check "a request that hangs with its server ends with an error" fails_with "" rm "$N/one/meta" "$N/one/ram" "$N/one/vcpu"
	check "the log says why" grep -q "hangs in the kernel and cannot be killed: the connection is ended" "$T/log"
	check "who has a file open is told" fails_with "" dd bs=4096 count=1 skip=7 of=/dev/null <&5
	check "the keeper has ended" within gone "$keeper"
	exec 5<&-
	fsfreeze -u "$T/disk"
	check "the server ends as soon as it can" within gone "$pid"
	check "unmount clears the mount away" smfs unmount "$M"
	check "and the store is whole" smfs fsck --read-data --store "$S"
	check "it is mounted again" start_mount
	check "with what was not removed" cmp "$N/two/ram" "$T/two/ram"
	check "unmount" stop_mount
else
	skip "a request that hangs with its server ends with an error" "no loop mount here"
fi
check "no sanitizer complained in the server" log_clean
tap_done
