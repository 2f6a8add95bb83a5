#!/bin/sh
# smvm-pool@.service without a systemd: what it starts, in the confinement it asks for as far as it can be had by hand
# (no capabilities, everything but the run directory and the store read-only, no network, no device but /dev/kvm), says
# that it is ready, serves claims, and ends when it is told to. And its filter knows every system call that is made.
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/tap.sh
unset MAKEFLAGS MAKELEVEL
make -s BUILD="${B%-san}" SAN="${SAN:-}" PREFIX="$T/usr" install >"$T/log" 2>&1 || cat "$T/log"
unit=$T/usr/lib/systemd/system/smvm-pool@.service
. tests/guest/tiny.sh
if ! unshare -mni true 2>/dev/null; then
	skip "the unit's command serves claims in its confinement" "namespaces cannot be made here"
	tap_done
fi

{ boot origin counter 64M && until_true 10 said origin '^up ' && smvm-runner snapshot origin one; } >/dev/null || {
	check "a snapshot to begin with" false
	tap_done
}
smvm-runner stop -f origin
export SMVM_CACHE_DIR="$T/cache"
mkdir "$SMVM_CACHE_DIR"
truncate -s 12M "$T/disk"
{ smvm-runner boot --kernel "$B/guest/ledger" -m 64M --disk "$T/disk:/d" --name disks && until_true 20 said disks '^up ' &&
	smvm-runner snapshot disks disks && smvm-runner stop -f disks; } >/dev/null || {
	check "a snapshot with a disk" false
	tap_done
}

# As systemd does it: %i, then Environment=, then EnvironmentFile=; ${X} is a word, $X words.
value() { sed -n "s/^$1=//p" "$unit" | sed "s/%i/$2/g"; }
CACHED=$(value CacheDirectory one)
export CACHED
cat >"$T/confined" <<'END'
mount --make-rslave / && mount --bind "$SMVM_RUN_DIR" "$SMVM_RUN_DIR" && mount --bind "$SMFS_STORE" "$SMFS_STORE" || exit 1
mkdir "$SMVM_RUN_DIR/dev" && mount -t tmpfs none "$SMVM_RUN_DIR/dev" || exit 1
for d in null zero full random urandom tty kvm; do
	touch "$SMVM_RUN_DIR/dev/$d" && mount --bind /dev/$d "$SMVM_RUN_DIR/dev/$d" || exit 1
done
# CacheDirectory=: what a machine writes to its disk.
[ -z "$CACHED" ] || mount --bind "$SMVM_CACHE_DIR" "$SMVM_CACHE_DIR" || exit 1
[ -z "${REPORTS:-}" ] || mount --bind "$REPORTS" "$REPORTS" || exit 1
mount --move "$SMVM_RUN_DIR/dev" /dev && rmdir "$SMVM_RUN_DIR/dev" && mount -o remount,bind,ro / || exit 1
mountpoint -q /tmp && { mount -o remount,bind,ro /tmp || exit 1; }
umask 077
exec setpriv --bounding-set=-all --inh-caps=-all --ambient-caps=-all --no-new-privs "$@"
END
cat >"$T/manager.py" <<'END'
"""manager.py READY PID COMMAND...: run it as a service manager; its first word goes to the file READY."""
import os, socket, subprocess, sys
ready, pid, command = sys.argv[1], sys.argv[2], sys.argv[3:]
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(ready + ".sock")
s.settimeout(0.1)
p = subprocess.Popen(command, env=dict(os.environ, NOTIFY_SOCKET=ready + ".sock"))
with open(pid, "w") as f:
    f.write(str(p.pid))
while True:
    try:
        said = s.recv(100).decode()
        break
    except TimeoutError:
        if p.poll() is not None:
            sys.exit(p.returncode)
with open(ready + ".part", "w") as f:
    f.write(said)
os.rename(ready + ".part", ready)
sys.exit(p.wait(500))
END
start() { # start INSTANCE [WRAPPER...]
	i=$1
	shift
	rm -f "$T"/ready* "$T/pid"
	(
		set +u -a
		for assignment in $(value Environment "$i"); do eval "$assignment"; done
		[ ! -f "$T/$i.conf" ] || . "$T/$i.conf"
		set +a
		eval "set -- \"\$@\" $(value ExecStart "$i")"
		exec python3 "$T/manager.py" "$T/ready" "$T/pid" unshare -mni sh "$T/confined" "$@"
	) >"$T/service.log" 2>&1 &
	manager=$!
	until_true 20 told_or_over && [ -f "$T/ready" ]
}
told_or_over() { [ -f "$T/ready" ] || ! kill -0 $manager 2>/dev/null; }
stop() {
	kill -TERM "$(cat "$T/pid")"
	wait $manager
}
cycles() { # cycles NAME N: claims, each released
	n=$2
	while [ "$n" -gt 0 ]; do
		vm=$(smvm-runner pool claim --name "$1") && smvm-runner info "$vm" >/dev/null && smvm-runner pool release --name "$1" "$vm" || return 1
		n=$((n - 1))
	done
}
is() { [ "$(smvm-runner pool status --json --name "$1" 2>/dev/null | jq "$2")" = "$3" ]; }

check "an instance without a file is of the snapshot of its name" start one
check "it tells the service manager when it takes claims" grep -qx READY=1 "$T/ready"
check "claims are served, in its confinement" cycles one 5
check "with the unit's numbers" is one '[.min, .max] == [1, 4]' true
check "a claimed machine can be snapshotted into the store" sh -c 'vm=$(smvm-runner pool claim --name one) && smvm-runner snapshot "$vm" again'
check "the signal of systemctl stop ends it in order" stop
check "and nothing of it is left" [ -z "$(smvm-runner ps -q)$(ls "$SMVM_RUN_DIR")" ]
cat "$T/service.log"

printf 'SNAPSHOT=again\nMIN=2\nMAX=3\nOPTIONS="--idle-timeout 7 --acquire-timeout 3"\n' >"$T/other.conf"
check "a file names another snapshot, numbers and options" start other
check "which are taken" is other '[.min, .max, (.snapshot | test("/again$"))] == [2, 3, true]' true
check "its machines are ready" until_true 20 is other .warm 2
check "it ends, too" stop
check "an instance of a snapshot with a disk" start disks
check "whose machines each write their own" until_true 20 is disks .warm 1
check "it ends, too" stop
cat "$T/service.log"
printf 'OPTIONS=--no-such-option\n' >"$T/wrong.conf"
start wrong
wait $manager 2>/dev/null
check "wrong options are told" grep -q "no-such-option" "$T/service.log"

# Whatever pool and workers call is in the filter. The tracer's own are not theirs, and what comes before the first
# execve of the runner neither.
if command -v strace >/dev/null && command -v systemd-analyze >/dev/null; then
	expand() { # of a set, and of the sets in it
		systemd-analyze syscall-filter "$1" --no-pager | sed '1d; s/#.*//' | while read -r c; do
			case $c in "@"*) expand "$c" ;; ?*) echo "$c" ;; esac
		done
	}
	for set in $(value SystemCallFilter one); do
		case $set in "@"*) expand "$set" ;; *) echo "$set" ;; esac
	done | sort -u >"$T/filter"
	check "the filter is one" [ "$(wc -l <"$T/filter")" -gt 200 ]
	# A process has one tracer, and a search for leaks would be another.
	ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0 strace -f -qq -o "$T/trace" smvm-runner pool --name traced --snapshot one --min 1 --max 2 >"$T/service.log" 2>&1 &
	traced=$!
	until_true 30 is traced .warm 1
	cycles traced 3
	vm=$(smvm-runner pool claim --name traced) && smvm-runner snapshot "$vm" third >/dev/null
	smvm-runner stop -f "$vm"
	until_true 30 is traced .claimed 0
	kill -TERM "$(pgrep -P $traced -f 'pool --name traced')"
	wait $traced
	sed -nE 's/^[0-9]+ +([a-z0-9_]+)\(.*/\1/p' "$T/trace" | sort -u >"$T/made"
	check "it was seen to work" grep -qx ioctl "$T/made"
	check "and made no system call that the unit's filter refuses" sh -c 'comm -23 "$1" "$2" | sed "s/^/refused: /" | { ! grep .; }' \
		sh "$T/made" "$T/filter"
else
	skip "no system call is made that the filter refuses" "no strace or systemd-analyze"
fi
tap_done
