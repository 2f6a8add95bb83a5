# machine.sh - sourced: where can a stock Linux guest run, and run a job on a store there.
#
#   machine_probe            0: this host's KVM boots a stock kernel; else 1, and $machine_why says why not
#   machine_run DIR SCRIPT ARG...
#       Run SCRIPT (below the tree) with DISK set to DIR, on this host if machine_probe says so, else inside the
#       outer machine with DISK set to a disk that has what DIR has. Status and output are SCRIPT's.
#       $MACHINE_TIMEOUT: seconds it may take (300).
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
