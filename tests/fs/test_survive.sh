#!/bin/sh
# A mount outlives its server: killed, replaced, hung, or unable to come back.
. tests/lib/tap.sh
. tests/fs/mount.sh
. tests/fs/survive.sh
need_fuse
N=$M/snapshots

fails_with() { # fails_with STATUS PATTERN COMMAND...
	want=$1 pattern=$2
	shift 2
	"$@" >"$T/out" 2>"$T/err"
	got=$?
	cat "$T/err"
	[ "$got" = "$want" ] && grep -q -- "$pattern" "$T/err"
}
worker() { cat "$M/.smfs/pid"; }
kill_worker() { kill -9 "$(worker)"; }
changed_from() { [ "$(worker)" != "$1" ]; }
gone() { ! kill -0 "$1"; }

check "a store with things to read" survive_store
check "mounts" survive_mount --watchdog 3
keeper=$(cat "$M/.smfs/keeper")
check "the server is a child of the keeper" test "$(children "$keeper")" -eq "$(worker)"
check "eight readers do not notice 20 kills" python3 tests/lib/survive.py run "$M" 20
check "nor 5 changes of the program" python3 tests/lib/survive.py remount "$M" 5
check "a kept mount tells what it takes to go on" grep -q '^smfs_takeover_bytes [1-9]' "$M/.smfs/stats"

# ---- what is open ----------------------------------------------------------------------------
exec 5<"$N/s07/ram" 6<"$M/.smfs/version"
smfs rm --store "$S" s07
kill_worker
smfs gc -q --store "$S"
python3 tests/lib/survive.py make "$T/s07" 107 1
check "an open file of a removed snapshot outlives the server, and a collection" cmp /dev/fd/5 "$T/s07/ram"
check "an open .smfs file reads on" test "$(cat <&6)" = "$(smfs --version)"
exec 5<&- 6<&-

rm "$N/s08/ram"
kill_worker
check "a removal half done stays half done" test "$(ls "$N/s08" | tr '\n' ' ')" = "meta vcpu "
check "and is finished" rm -r "$N/s08"
check_not "then it is gone" smfs info --store "$S" s08

# ---- copies in progress ----------------------------------------------------------------------
mkdir "$N/new" && exec 7>"$N/new/ram"
cat "$T/s07/ram" >&7
check "no change of the program while a snapshot is copied in" \
	fails_with 4 "being copied in" smfs remount "$M"
kill_worker
check_not "a copy in progress is lost with the server: who writes is told" sh -c 'echo more >&7'
exec 7>&-
check "and so does the log" grep -q "import snapshot new: the server died" "$T/log"
check_not "nothing of it is there" ls "$N/new"
check "it can be begun again at once" cp -r "$T/s07" "$N/new"
check "and is whole" same_tree "$N/new" "$T/s07"

rm -r "$N/new"
check "over 8 kills, what is copied in is whole or told lost, renamed and removed" \
	python3 tests/lib/survive.py change "$M" "$T/s07" 8

# ---- changes of the program that fail --------------------------------------------------------
pid=$(worker)
check "a program that is none is refused" fails_with 1 "ended before it was ready" \
	smfs remount --program /bin/false "$M"
check "and one that is not there" fails_with 3 "No such file" smfs remount --program /nowhere "$M"
check "the server has stayed" test "$(worker)" = "$pid"
check "a mount of something else is left alone" fails_with 2 "not a mount of smfs" smfs remount /proc

# ---- watchdog --------------------------------------------------------------------------------
kill -STOP "$pid"
check "a server that hangs is replaced" within changed_from "$pid"
check "and the log says why" grep -q "takes no requests\|is at request" "$T/log"
check "data are right" same_tree "$N/s01" "$N/s01"

# ---- the end ---------------------------------------------------------------------------------
keeper=$(cat "$M/.smfs/keeper") pid=$(worker)
check "umount(8) ends server and keeper" sh -c "umount $M"
check "the server" within gone "$pid"
check "the keeper" within gone "$keeper"

survive_mount
keeper=$(cat "$M/.smfs/keeper") pid=$(worker)
kill -TERM "$keeper"
check "SIGTERM at the keeper ends both" within gone "$keeper"
check_not "and the mount" grep -q " $M " /proc/self/mountinfo

survive_mount
keeper=$(cat "$M/.smfs/keeper") pid=$(worker)
kill -9 "$keeper"
check "a killed keeper leaves the server serving" sh -c "cat $N/s01/vcpu >/dev/null"
check "which says so" within grep -q "the keeper has ended" "$T/log"
check "there is none to change the program then" fails_with 1 "no keeper" smfs remount "$M"
check "unmount ends it" smfs unmount "$M"
check "the server has ended" within gone "$pid"

survive_mount
mv "$S" "$S.away"
kill -9 "$(cat "$M/.smfs/pid")"
check_not "a server that cannot come back is given up, not waited for" ls "$M/snapshots"
check "the log says what to do" grep -q "smfs unmount. clears the mount away" "$T/log"
mv "$S.away" "$S"
check "which it does" smfs unmount "$M"
check "fsck is content" smfs fsck --store "$S"
check "no sanitizer complained in the server" log_clean
tap_done
