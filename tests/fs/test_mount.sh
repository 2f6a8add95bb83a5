#!/bin/sh
# A mount's life: it answers when the command returns, busy and dead mounts are told, its server ends.
. tests/lib/tap.sh
. tests/fs/mount.sh
need_fuse

text_is() { # text_is FILE TEXT
	[ "$(cat "$1")" = "$2" ]
}
fails_with() { # fails_with STATUS PATTERN COMMAND...: exit status, and a message that matches
	want=$1 pattern=$2
	shift 2
	"$@" >"$T/out" 2>"$T/err"
	got=$?
	cat "$T/err"
	[ "$got" = "$want" ] && grep -q -- "$pattern" "$T/err"
}
ends() { # ends PID: the process is gone soon
	for _ in $(seq 600); do
		kill -0 "$1" 2>/dev/null || return 0
		sleep 0.1
	done
	return 1
}

exec 7>"$T/lock"
check "a store is made on the first mount, and the mount point too" start_mount
check_not "the server keeps nothing of the caller's open" \
	sh -c "ls -l /proc/$(cat "$M/.smfs/pid")/fd | grep $T/lock"
exec 7>&-
check "the tree has its four parts" text_is /dev/stdin "$(printf '.smfs\nimages\nlayers\nsnapshots')" <<-E
$(ls -A "$M")
E
check "health is ok" text_is "$M/.smfs/health" ok
check "version is that of the command" text_is "$M/.smfs/version" "$(smfs --version)"
check "the mount tells the store's directory" text_is "$M/.smfs/store" "$(realpath "$S")"
pid=$(cat "$M/.smfs/pid")
check "and its server's process" test -d "/proc/$pid"

check "stats are Prometheus text" python3 tests/lib/promcheck.py "$M/.smfs/stats" smfs_read_bytes_total smfs_free_bytes
check "statfs gives the store's file system" \
	test "$(stat -fc %b.%S "$M")" = "$(stat -fc %b.%S "$S")"

check "a second mount on it is refused, with advice" \
	fails_with 4 "run .smfs unmount" smfs mount --log "$T/log2" "$S" "$M"
mkdir "$T/full" && touch "$T/full/x"
check "a mount over files is refused" \
	fails_with 1 "not empty" smfs mount --log "$T/log2" "$S" "$T/full"
check "a file in the way is told" fails_with 1 "File exists\|ot a directory" \
	smfs mount --log "$T/log2" "$S" "$T/full/x"
check "a log that cannot be written is told" \
	fails_with 3 "open log" smfs mount --log /nowhere/log "$S" "$T/m2"
check_not "and nothing stays mounted" grep -q " $T/m2 " /proc/self/mountinfo

( cd "$M/snapshots" && fails_with 4 "in use by .*; end them, or detach" smfs unmount "$M" )
check "a busy mount is not unmounted, and says who uses it" test $? = 0
check "a mount that is not ours is left alone" fails_with 2 "not a mount of smfs" smfs unmount /proc
check "unmount" stop_mount
check "the server ends with the mount" ends "$pid"
check "a second unmount has nothing to do" fails_with 3 "nothing is mounted" smfs unmount "$M"

# ---- the server is killed, and has no keeper (with one: test_survive.sh) ----------------------
start_mount --no-keeper
check "alone, it says that it has no keeper" text_is "$M/.smfs/keeper" none
kill -9 "$(cat "$M/.smfs/pid")"
check_not "a dead mount answers nothing" ls "$M"
check "a mount over a dead one says how to get rid of it" \
	fails_with 1 "run .smfs unmount" smfs mount --log "$T/log2" "$S" "$M"
check "unmount clears the dead mount away" stop_mount
check "and then it mounts again" start_mount
check "and answers" text_is "$M/.smfs/health" ok

# ---- signals ---------------------------------------------------------------------------------
make_snapshot "$T/a"
smfs import -q --store "$S" a "$T/a"
pid=$(cat "$M/.smfs/pid")
exec 5<"$M/snapshots/a/ram"
kill -TERM "$pid"
gone() {
	for _ in $(seq 600); do
		grep -q " $M " /proc/self/mountinfo || return 0
		sleep 0.1
	done
	return 1
}
check "SIGTERM takes the mount out of sight" gone
check "who has a file open still reads it" cmp /dev/fd/5 "$T/a/ram"
check "so the server lives" kill -0 "$pid"
exec 5<&-
check "until the last one closes" ends "$pid"

start_mount
pid=$(cat "$M/.smfs/pid")
kill -TERM "$pid"
check "unused, it ends at once" ends "$pid"
check_not "and leaves no mount" grep -q " $M " /proc/self/mountinfo

smfs mount -f "$S" "$M" 2>"$T/log" &
for _ in $(seq 600); do [ -e "$M/.smfs/pid" ] && break; sleep 0.1; done
check "in the foreground the command is the keeper" text_is "$M/.smfs/keeper" $!
kill -INT $!
wait $!
check "and ends with 0 when interrupted unused" test $? = 0

# ---- read-only -------------------------------------------------------------------------------
start_mount -r
check "a read-only mount shows the snapshots" cmp "$M/snapshots/a/vcpu" "$T/a/vcpu"
check_not "and lets nothing in" mkdir "$M/snapshots/b"
check_not "nor out of the way" rm -r "$M/snapshots/a"
stop_mount
check "no sanitizer complained in the server" log_clean
tap_done
