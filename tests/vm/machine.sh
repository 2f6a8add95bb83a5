# machine.sh - sourced: where can a stock Linux guest run, and run a job on a store there.
#
#   machine_probe            0: this host's KVM boots a stock kernel; else 1, and $machine_why says why not
#   machine_run DIR SCRIPT ARG...
#       Run SCRIPT (below the tree) with DISK set to DIR, on this host if machine_probe says so, else inside the
#       outer machine with DISK set to a disk that has what DIR has. Status and output are SCRIPT's.
#       $MACHINE_TIMEOUT: seconds it may take (300).
#   machine_test OUT DIR SCRIPT ARG...
#       The same with the output in the file OUT, and a second attempt if the outer machine itself died under the
#       job. OUT then has the line "outer machine died, second attempt", and the first attempt as comments before it.
#
# Set OUTER=1 to use the outer machine even where the host would do. Needs $T (scratch) and $B (build).

machine_why=

# Asks the KVM itself, with QEMU and not our own runner, so that a fault of the runner is not taken for a
# host that cannot: a stock kernel without a root file system must get as far as missing it.
machine_probe() {
	machine_why=
	if [ -n "${OUTER:-}" ]; then
		machine_why='OUTER is set'
	elif ! [ -w /dev/kvm ]; then
		machine_why='there is no usable /dev/kvm'
	elif [ -d /sys/module/kvm_pvm ]; then
		machine_why='its KVM is kvm_pvm, which emulates kernel mode'
	else
		for machine_kernel in /boot/vmlinuz-*-cloud-amd64; do :; done
		timeout -k 1 30 qemu-system-x86_64 -nodefaults -no-user-config -no-reboot -display none -machine pc \
			-accel kvm -cpu host -m 256M -kernel "$machine_kernel" -append 'console=ttyS0 panic=-1' \
			-serial "file:$T/probe.log" >"$T/probe.out" 2>&1 </dev/null
		grep -q 'VFS: Unable to mount root fs' "$T/probe.log" 2>/dev/null ||
			machine_why="a stock kernel did not boot on its KVM within 30 s ($(tail -n 1 "$T/probe.out"))"
	fi
	[ -z "$machine_why" ]
}

machine_run() {
	machine_disk=$1
	shift
	if machine_probe; then
		DISK=$machine_disk timeout -k 5 "${MACHINE_TIMEOUT:-300}" sh "$@"
		return
	fi
	# Sparse; room for snapshots beside what is there.
	truncate -s "$(($(du -sm "$machine_disk" | cut -f 1) + 4096))M" "$T/disk.img"
	mke2fs -q -F -t ext4 -E lazy_itable_init=1 -O ^has_journal -d "$machine_disk" "$T/disk.img" || return 1
	set -- --disk "$T/disk.img" --timeout "${MACHINE_TIMEOUT:-300}" "$@"
	BUILD=$B tests/vm/outer.sh "$@"
	machine_status=$?
	rm -f "$T/disk.img"
	return $machine_status
}

# Status 125 is a panic of the emulated kernel or the end of QEMU: nothing a guest or our commands can do to a sound
# machine. Nested guests do crash QEMU 7.2's now and then. A failed check or a time-out is no such thing and stays
# what it is.
machine_test() {
	machine_out=$1
	shift
	machine_run "$@" >"$machine_out" 2>&1
	machine_status=$?
	[ $machine_status -eq 125 ] || return $machine_status
	mv "$machine_out" "$machine_out.first"
	machine_run "$@" >"$machine_out.second" 2>&1
	machine_status=$?
	{
		sed 's/^/# /' "$machine_out.first"
		echo 'outer machine died, second attempt'
		cat "$machine_out.second"
	} >"$machine_out"
	return $machine_status
}
