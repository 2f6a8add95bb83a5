#!/bin/sh
# The outer machine does what its head promises: a working /dev/kvm, the status, the output, the deadline.
. tests/lib/tap.sh
. tests/vm/machine.sh
. tests/vm/qemu.sh

outer() { BUILD=$B tests/vm/outer.sh "$@"; }
says() { grep -qxF "$1" "$T/out"; }

truncate -s 16M "$T/disk"
mke2fs -q -F -t ext4 "$T/disk"
outer --timeout 300 --disk "$T/disk" tests/vm/outer_job.sh facts 'two words' "it's" >"$T/out" 2>&1
status=$?
sed 's/^/# /' "$T/out"

check 'the status is that of the script' [ $status -eq 7 ]
check '/dev/kvm runs a guest' says 'kvm runs a guest'
check '/dev/fuse is there' says 'fuse is there'
check 'the tree and BUILD are in place' says 'the tree is in place'
check 'a kernel and its modules are there to be booted' says 'a kernel to boot is there'
check 'the tools run' says 'the tools run'
check 'arguments arrive word for word' sh -c "grep -qxF 'argument <two words>' $T/out && grep -qxF \"argument <it's>\" $T/out"
check 'what is written to a data disk stays' sh -c "debugfs -R 'cat /file' $T/disk 2>/dev/null | grep -qx kept"

# vmrun.c speaks only where it could not.
vmrun_of() { LD_PRELOAD=$B/vm/vmrun.so "$1" --version 2>&1; }
if qemu_fit || [ -x "$B/vm/qemu/qemu-system-x86_64" ]; then
	vmrun_of "$(qemu_command "$B/vm/qemu")" >"$T/version"
	check 'the QEMU in use runs with vmrun.so' grep -q '^QEMU emulator version' "$T/version"
	check_not 'which could mend its VMRUN' grep -Eq '^vmrun:|preload' "$T/version"
else
	skip 'the QEMU in use runs with vmrun.so' 'there is none that exports enough'
fi

OUTER_QEMU=qemu-system-x86_64 outer --timeout 300 --disk "$T/disk" tests/vm/outer_job.sh facts >"$T/out" 2>&1
check 'where there is no newer QEMU the installed one will do' [ $? -eq 7 ]

start=$(date +%s)
outer --timeout 15 tests/vm/outer_job.sh hang >"$T/out" 2>&1
check 'a machine past its deadline is killed, with status 124' [ $? -eq 124 ]
check 'and in time' [ $(($(date +%s) - start)) -le 120 ]

outer --timeout 240 --keep-log "$T/console" tests/vm/outer_job.sh crash >"$T/out" 2>&1
check 'a machine that dies ends with status 125' [ $? -eq 125 ]
check 'and its console log is kept' grep -q 'sysrq' "$T/console"

mkdir "$T/none"
OUTER=1 MACHINE_TIMEOUT=240 machine_test "$T/out" "$T/none" tests/vm/outer_job.sh crash
check 'a test whose machine dies twice has failed' [ $? -eq 125 ]
check 'and says that there were two' [ "$(grep -cx 'outer machine died, second attempt' "$T/out")" -eq 1 ]

BUILD=$B tests/vm/outer.sh --timeout 240 tests/vm/outer_job.sh hang >"$T/out" 2>&1 &
pid=$!
qemu_of() { pgrep -f "qemu-system-x86_64.*$B/vm/run" >"$T/pids"; }
tries=0
until qemu_of || [ $tries -ge 1200 ]; do sleep 0.1 && tries=$((tries + 1)); done
check 'an interrupted run had its machine' [ -s "$T/pids" ]
kill -TERM $pid
wait $pid
check 'and leaves none behind' sh -c "! kill -0 $(head -n 1 "$T/pids") 2>/dev/null"
check 'nor temporary files' sh -c "! ls -d $B/vm/run.* 2>/dev/null"
tap_done
