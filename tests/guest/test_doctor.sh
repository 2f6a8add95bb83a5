#!/bin/sh
# smvm-runner doctor: what it says of this host, and of hosts that lack something, made with mounts and limits.
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/tap.sh
unset SMFS_STORE
export SMFS_MOUNT="$T/mnt"

schema='
	.version == 1 and (.ok | type) == "boolean" and (.checks | length) > 20
	and (.checks | all(
		(.group | test("^[a-z]+$")) and (.name | test("^[a-z-]+$"))
		and (.status | IN("PASS", "WARN", "FAIL", "SKIP"))
		and (.found | length) > 0 and (.figures | type) == "object"
		and (if .status == "PASS" then .advice == null else (.advice | length) > 0 end)))
	and ([.checks[] | .group + "." + .name] | length == (unique | length))
	and .summary == {
		pass: [.checks[] | select(.status == "PASS")] | length,
		warn: [.checks[] | select(.status == "WARN")] | length,
		fail: [.checks[] | select(.status == "FAIL")] | length,
		skip: [.checks[] | select(.status == "SKIP")] | length}
	and .ok == (.summary.fail == 0)'

as_status() { # its exit status and what it says of itself agree
	smvm-runner doctor --json >"$T/j"
	rc=$?
	jq -e --argjson rc $rc "$schema"' and .ok == ($rc == 0)' "$T/j"
}
of() { # of GROUP.NAME STATUS PATTERN: in the last report
	jq -e --arg n "$1" --arg s "$2" --arg p "$3" \
		'.checks[] | select(.group + "." + .name == $n) | .status == $s and (.found + "\n" + (.advice // "") | test($p))' "$T/j"
}
where() { # where SHELL-COMMANDS [OPTION...]: doctor after these, in mounts of its own; the report is well-formed
	cmds=$1
	shift
	unshare -m sh -c "$cmds"'
exec "$@"' sh "$B/smvm-runner" doctor --json "$@" >"$T/j"
	[ -s "$T/j" ] && jq -e "$schema" "$T/j" >/dev/null # jq -e of nothing is true
}
in_place() { # in_place FILE TEXT: shell commands that have it say that
	echo "printf '$2\\n' >$T/said${1##*/} && mount --bind $T/said${1##*/} $1"
}

check "a report keeps its schema, and its exit status" as_status
# Of the processor's time, for others may be using it; and an end within the deadlines of all that could hang.
check "it takes less than two seconds" sh -c 'ulimit -t 2; timeout 200 smvm-runner doctor >"$1"; [ $? -le 1 ]' sh "$T/text"
check "each check is a line, and one not passed has its advice below" \
	sh -c 'awk "/^(WARN|FAIL|SKIP) /{want=1; next} want{if (\$1 != \">\") exit 1; want=0}" "$1"' sh "$T/text"
check "the last line sums up" sh -c 'tail -n 1 "$1" | grep -qE "^[0-9]+ passed, [0-9]+ warnings, [0-9]+ failed, [0-9]+ skipped$"' \
	sh "$T/text"
told() { # told WORD...: in the part of the manual that is about doctor
	sed -n '/^\.Ss doctor/,/^\.Sh/p' doc/smvm-runner.1 >"$T/manual"
	for w in "$@"; do
		grep -qw -- "$w" "$T/manual" || { echo "# not told: $w"; return 1; }
	done
}
check "each group, key and figure is in the manual" told $(jq -r '.checks[] | .group, keys[], (.figures | keys[])' "$T/j") $(jq -r 'keys[]' "$T/j")
check "an argument is a usage error" status 2 smvm-runner doctor now

if [ -c /dev/kvm ]; then
	# The bars of runner/doctor/kvm.c.
	check "a guest was run, and the verdict is that of its speed" jq -e '.checks[] | select(.name == "stock-kernel") |
		.figures.instructions_per_s as $i | $i > 1000 and
		.status == (if $i < 30e6 then "FAIL" elif $i < 300e6 then "WARN" else "PASS" end)' "$T/j"
else
	skip "a guest was run, and the verdict is that of its speed" "no /dev/kvm"
fi
if ! unshare -m true 2>/dev/null; then
	skip "what is missing is found" "mount namespaces cannot be made here"
	tap_done
fi

check "without /dev/kvm and /dev/fuse" where 'mount -t tmpfs none /dev'
check "KVM fails, with what to do" of kvm.device FAIL "No such file.*\n.*kvm_intel or kvm_amd"
check "nothing more is asked of it" jq -e '[.checks[] | select(.group == "kvm")] | length == 1' "$T/j"
check "so does FUSE" of fuse.device FAIL "No such file"
check "the exit status is 1" status 1 unshare -m sh -c 'mount -t tmpfs none /dev; exec smvm-runner doctor'
check "another file at /dev/kvm" where 'mount --bind /dev/zero /dev/kvm 2>/dev/null || { mount -t tmpfs none /dev; mknod /dev/kvm c 1 5; }'
check "is not taken for KVM" of kvm.api FAIL "not KVM"
check "without the right to open it" where \
	'mount -t tmpfs none /dev; mknod -m 600 /dev/kvm c 10 232; mknod -m 666 /dev/fuse c 10 229; set -- setpriv --reuid 65534 --clear-groups "$@"'
check "the group is named" of kvm.device FAIL "group kvm"
check "and passthrough is not tried" of fuse.passthrough SKIP "root"

if [ -c /dev/fuse ]; then
	check "root without CAP_SYS_ADMIN" where 'set -- setpriv --bounding-set -sys_admin "$@"'
	check "does not try passthrough, either" of fuse.passthrough SKIP "root"
	check "and cannot mount, which is told with what to do" of fuse.mount FAIL "CAP_SYS_ADMIN"
	mkdir "$T/up" "$T/merged"
	check "a store on an overlay" where \
		"mount -t tmpfs none $T/up; mkdir $T/up/l $T/up/u $T/up/w; mount -t overlay -o lowerdir=$T/up/l,upperdir=$T/up/u,workdir=$T/up/w o $T/merged" \
		--store "$T/merged"
	smvm-runner doctor --json >"$T/plain"
	if jq -e '.checks[] | select(.name == "passthrough") | .found | startswith("offered")' "$T/plain" >/dev/null; then
		check "has no passthrough, and the reason is told" of fuse.passthrough WARN "not stacked"
	else
		skip "has no passthrough, and the reason is told" "this kernel offers none"
	fi
fi

check "without the agent" where 'export SMVM_INIT=/nowhere/smvm-init'
check "no image boots" of guest.agent FAIL "smvm-init"
check "without a guest's kernel" where 'mount -t tmpfs none /boot'
check "none is found" of guest.kernel WARN "linux-image-cloud-amd64"
check "without its modules" where 'mount -t tmpfs none /lib/modules'
check "that is told" of guest.kernel WARN "no modules"
check "without mkfs.erofs" where 'PATH=/nowhere'
check "images are not made" of guest.tools WARN "erofs-utils"
check "without a directory for machines" where 'export SMVM_RUN_DIR=/nowhere/at/all'
check "none can be started" of guest.directory FAIL "SMVM_RUN_DIR"
check "in another's cgroup namespace" where "$(in_place '/proc/$$/cgroup' 0::/../other)"
check "its limits are not told as none" of cgroup.version SKIP "outside|no cgroup v2"
if [ -z "${SAN:-}" ]; then
	check "without /proc" where 'umount -l /proc'
	check "memory cannot be snapshotted" of kernel.pagemap FAIL "CONFIG_PROC_PAGE_MONITOR"
	check "and what is not known is skipped" of limits.mappings SKIP "/proc"
	check "little address space" where 'ulimit -v 2000000'
	check "fails, too" of limits.address-space FAIL "1.9 GiB"
else
	skip "without /proc, and with little address space" "a sanitizer needs them"
fi
check "strict overcommit" where "$(in_place /proc/sys/vm/overcommit_memory 2)"
check "is warned of" of memory.overcommit WARN "strict"
check "few mappings" where "$(in_place /proc/sys/vm/max_map_count 900)"
check "fail" of limits.mappings FAIL "900 per process"
check "few processes" where "$(in_place /proc/sys/kernel/pid_max 300)"
check "are warned of" of limits.threads WARN "300 processes"
check "little memory, most of its swap used" where \
	"$(in_place /proc/meminfo 'MemTotal: 900000 kB\\nMemAvailable: 100000 kB\\nSwapTotal: 9000 kB\\nSwapFree: 3 kB')"
check "fails" of memory.available FAIL "97.7 MiB of 879 MiB"
check "and is warned of" of memory.swap WARN "swapped"
check "few descriptors" where 'ulimit -n 40'
check "fail, too" of limits.files FAIL "40 open files"
huge=/sys/kernel/mm/transparent_hugepage/enabled
if [ -f $huge ]; then
	check "without huge pages" where "$(in_place $huge 'always madvise [never]')"
	check "booted guests are slower" of memory.huge-pages WARN "never"
fi
clock=/sys/devices/system/clocksource/clocksource0/current_clocksource
if [ -f $clock ]; then
	check "a host that has dropped its TSC" where "$(in_place $clock hpet)"
	check "is told so" of clock.source WARN "hpet"
fi
if unshare -m mount -t cgroup2 none /sys/fs/cgroup 2>/dev/null; then
	group="mount -t cgroup2 none /sys/fs/cgroup && mkdir -p /sys/fs/cgroup/doctor-test-$$/low"
	at_exit 'unshare -m sh -c "mount -t cgroup2 none /sys/fs/cgroup; rmdir /sys/fs/cgroup/doctor-test-$$/low /sys/fs/cgroup/doctor-test-$$" 2>/dev/null'
	check "in a group whose parent has limits" where "$group; $(in_place '/proc/$$/cgroup' 0::/doctor-test-$$/low)
mount -t tmpfs none /sys/fs/cgroup/doctor-test-$$ && echo 50000000 >/sys/fs/cgroup/doctor-test-$$/memory.max
echo 20 >/sys/fs/cgroup/doctor-test-$$/pids.max"
	check "they are found" of cgroup.memory WARN "47.7 MiB"
	check "of processes, too" of cgroup.pids WARN "^20 processes"
else
	skip "in a group whose parent has limits" "no cgroup v2 here"
fi

if ! [ -c /dev/fuse ]; then
	skip "a store's state is told" "no /dev/fuse"
	tap_done
fi
check "a store on a file system that is read-only" where "mkdir $T/ro; mount -t tmpfs -o ro none $T/ro" --store "$T/ro"
check "takes no snapshots" of store.space FAIL "read-only.*\n.*writable"
check "without a mount" sh -c 'smvm-runner doctor --json --store "$2" >"$1"; [ $? -le 1 ]' sh "$T/j" "$T/store"
check "that is said" of store.mount WARN "smfs mount $T/mnt"
check "nor does the environment make one" sh -c 'SMFS_STORE=$2 smvm-runner doctor --json >"$1"; [ $? -le 1 ]' sh "$T/j" "$T/store"
check "that is said again" of store.mount WARN "smfs mount $T/mnt"
mkdir "$T/mnt"
smfs mount "$T/store" "$T/mnt" || exit 1
at_exit 'smfs unmount "$T/mnt" 2>/dev/null'
mkdir "$T/mnt/snapshots/x"
check "with one" sh -c 'smvm-runner doctor --json >"$1"; [ $? -le 1 ]' sh "$T/j"
check "its health is told" of store.mount PASS "$T/store, health ok"
check "the store fits together" of store.check PASS "packs fit together"
for pid in $(cat "$T/mnt/.smfs/pid"); do kill -STOP "$pid"; done
check "a server that hangs" sh -c 'timeout 60 smvm-runner doctor --json --store "$2" >"$1"; [ $? -eq 1 ]' sh "$T/j" "$T/store"
kill -CONT "$pid"
check "is found out in time" of store.mount FAIL "does not answer.*\n.*smfs remount"
# Keeper and server both.
server=$(head -n 1 "$T/mnt/.smfs/pid")
kill -KILL $(ps -o ppid= -p "$server") "$server"
gone() { ! ls "$T/mnt" 2>/dev/null; }
for i in $(seq 600); do
	gone && break
	sleep 0.1
done
check "a server that was killed with its keeper" sh -c 'smvm-runner doctor --json --store "$2" >"$1"; [ $? -eq 1 ]' sh "$T/j" "$T/store"
check "is told from one that was never there" of store.mount FAIL "has gone.*\n.*smfs unmount"
smfs unmount "$T/mnt"
printf 'no index' >"$T/store/index/data.mdb" 2>/dev/null || printf 'no index' >"$T/store/index"
check "a store without its index" sh -c 'smvm-runner doctor --json --store "$2" >"$1"; [ $? -eq 1 ]' sh "$T/j" "$T/store"
check "is damaged" of store.check FAIL "smfs fsck"
tap_done
