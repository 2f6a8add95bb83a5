#!/bin/sh
# One guest with 2 vCPUs through 20 snapshot/restore cycles in a row, checked from inside after each.
#
#   DISK=DIR tests/vm/cycles.sh IMAGE [CYCLES]
#
# The store is DIR/store. DIR/guestcheck (tests/vm/guestcheck.c) works in the guest all the time: spinning with known FPU and AVX values on each
# vCPU, sleeping, waiting for timers, writing to an ext4 disk. Every other snapshot is taken without freezing it first, so that
# the registers under test are a vCPU's and not the guest kernel's copy.
. tests/vm/job.sh

image=$1 cycles=${2:-20}

boot() { smvm-runner boot --name cycle0 --cpus 2 --memory 128M --disk "$T/data.img:/data" --entrypoint /bin/sleep "$image" -- infinity >"$T/id"; }
install_check() {
	smvm-runner exec -i cycle0 -- sh -c 'cat >/run/guestcheck && chmod 755 /run/guestcheck' <"$DISK/guestcheck" &&
		smvm-runner exec cycle0 -- /run/guestcheck start /run/guestcheck.state /data
}
# report VM: what it says, with the host's time around it, in $T/report.VM
report() {
	report_from=$(seconds_now)
	timeout 60 smvm-runner exec "$1" -- /run/guestcheck report /run/guestcheck.state >"$T/report.$1" 2>&1
	report_status=$?
	echo "$report_from $(seconds_now)" >"$T/when.$1"
	[ $report_status -eq 0 ]
}
fact() { sed -n "s/^fact $2 //p" "$T/report.$1"; }
# The time is read first thing in the report, at an unknown moment of the call.
time_is_right() {
	bracketed "$(cut -d ' ' -f 1 "$T/when.$1")" "$(fact "$1" wall_ns | awk '{ printf "%.3f", $1 / 1e9 }')" \
		"$(cut -d ' ' -f 2 "$T/when.$1")"
}
# All lines of the report that begin with "ok PATTERN", and none that failed it, in every cycle.
held() { # held PATTERN TIMES
	! grep -q "^FAILED $1" "$T"/report.* && [ "$(cat "$T"/report.* | grep -c "^ok $1")" -eq "$2" ]
}

step 'mount the store' smfs mount "$SMFS_STORE" "$M"
step 'make a disk' mke2fs -q -t ext4 "$T/data.img" 16M
step 'boot a guest with 2 vCPUs, 128 MiB, a disk' boot
step 'start the checks in it' install_check
report cycle0
check 'before any snapshot all is well' [ $? -eq 0 ]
cat "$T/report.cycle0" | sed 's/^/# /'

began=$(seconds_now)
vm=cycle0 wrong_times='' unnamed='' i=0
while [ $i -lt "$cycles" ]; do
	i=$((i + 1))
	freeze=
	[ $((i % 2)) -eq 0 ] && freeze=--no-agent
	# shellcheck disable=SC2086
	step "snapshot $i" smvm-runner snapshot $freeze $vm cycle$i >>"$T/snapshots"
	smvm-runner console -l $vm >>"$T/console" </dev/null
	smvm-runner stop -f $vm &
	step "restore $i" watched smvm-runner restore --name cycle$i cycle$i >/dev/null
	wait
	smfs rm snapshots/cycle$((i - 1)) 2>/dev/null
	vm=cycle$i
	report $vm || { echo "# $vm:"; grep -v '^ok' "$T/report.$vm" | sed 's/^/#   /'; job_state; }
	time_is_right $vm || wrong_times="$wrong_times $vm"
	[ "$(fact $vm hostname)" = $vm ] || unnamed="$unnamed $vm"
done
echo "$began $(seconds_now) $cycles cycles of snapshot, restore and check" >>"$T/steps"
reports=$((cycles + 1))

# shellcheck disable=SC2046,SC2013
{
	check "$cycles snapshot/restore cycles in a row, each answering" [ "$(cat "$T"/report.* | grep -c '^fact hostname')" -eq $reports ]
	for cpu in 0 1; do
		check "vCPU $cpu is scheduled after each" held "vCPU $cpu is scheduled" $reports
		check "sleeps on vCPU $cpu wake" held "sleeps on vCPU $cpu wake" $reports
		check "FPU and AVX state on vCPU $cpu is intact" held "FPU and AVX state on vCPU $cpu" $reports
	done
	check 'POSIX timers fire' held 'POSIX timers' $reports
	check 'timerfds fire' held 'timerfds' $reports
	check 'the disk is written to after each' held 'the disk is written to' $reports
	check 'and is that of the same instant as the memory' held 'the disk has what was written' $reports
	check 'CLOCK_MONOTONIC never goes back' held 'CLOCK_MONOTONIC' $reports
	check 'the kernel log has no complaint' held 'the kernel log' $reports
	check "wall time is right to a second after each$wrong_times" [ -z "$wrong_times" ]
	check "the hostname is its own after each$unnamed" [ -z "$unnamed" ]
	check 'no two have the same random stream' all_differ $(sed -n 's/^fact random //p' "$T"/report.*)
	check 'no two have the same machine-id' all_differ $(sed -n 's/^fact machine_id //p' "$T"/report.*)
	check 'the generation counts every restore' [ "$(smvm-runner info $vm | jq .generation)" -eq $reports ]
}
smvm-runner console -l $vm >>"$T/console" </dev/null
check_not 'nor has the console' grep -E 'WARNING:|BUG:|rcu: INFO|soft lockup|Marking clocksource|Call Trace:' "$T/console"
grep -E 'mount|boot|cycles|(snapshot|restore) (1|2|10|20)$' "$T/steps" >"$T/some" && mv "$T/some" "$T/steps"
# As after a power cut: the journal is to be replayed, and then nothing is wrong.
cp "$M/snapshots/cycle$cycles/disk0" "$T/disk0"
e2fsck -fp "$T/disk0" >"$T/fsck" 2>&1
check 'the file system of the last snapshot is whole, its journal replayed' sh -c '[ $1 -le 1 ] && e2fsck -fn "$2"' - $? "$T/disk0"
sed 's/^/# /' "$T/fsck" "$T/snapshots"
steps_table
tap_done
