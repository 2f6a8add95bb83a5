#!/bin/sh
# make bench-agent: from starting a restore to an answer of the guest's agent, of a booted Debian kernel with a service in
# Python, beside QEMU's own way of restoring the same guest (-incoming) on the same machine; and the faults a working
# set spares it in its first second. On this host if its KVM boots a stock kernel, else in the emulated machine
# of tests/vm: slower by far for both, so that only the ratio says anything. QUICK=1: fewer rounds.
set -u
cd "$(dirname "$0")/.." || exit 2
. tests/lib/tap.sh
. tests/lib/image.sh
. tests/vm/machine.sh
. tests/vm/qemu.sh
. bench/lib.sh

rounds=${ROUNDS:-9}
[ -n "${QUICK:-}" ] && rounds=${ROUNDS:-3}

# QEMU with its libraries and firmware, as one folder that runs wherever it is put.
qemu_folder() { # qemu_folder DIR
	qemu_from=$BUILD/vm/qemu
	mkdir -p "$1/lib" "$1/share" || return 1
	if [ -x "$qemu_from/qemu-system-x86_64" ]; then
		qemu_bin=$qemu_from/usr/bin/qemu-system-x86_64
		qemu_share="$qemu_from/usr/share/qemu $qemu_from/usr/share/seabios"
		qemu_lib=$qemu_from/usr/lib/x86_64-linux-gnu
	else
		qemu_bin=$(command -v qemu-system-x86_64) qemu_share='/usr/share/qemu /usr/share/seabios' qemu_lib=
	fi
	cp "$qemu_bin" "$1/qemu" || return 1
	LD_LIBRARY_PATH=$qemu_lib ldd "$1/qemu" | sed -n 's/.* => \(\/[^ ]*\) .*/\1/p' | xargs cp -Lt "$1/lib" || return 1
	for qemu_dir in $qemu_share; do
		for qemu_file in bios-256k.bin linuxboot_dma.bin kvmvapic.bin; do
			[ ! -e "$qemu_dir/$qemu_file" ] || cp -L "$qemu_dir/$qemu_file" "$1/share/"
		done
	done
}

image_python "$T/image" >/dev/null || cannot 'the image could not be built'
image=localhost/python:1
mkdir "$T/disk" && smfs init -q "$T/disk/store" &&
	smvm-pull -q --store "$T/disk/store" --name "$image" "oci:$T/image/python:1" || cannot 'the image could not be pulled'
# Makes $BUILD/vm, too, where there is none.
if ! machine_probe; then
	tests/vm/outer.sh --timeout 120 tests/vm/outer_job.sh facts >"$T/facts" 2>&1
fi
qemu_folder "$T/disk/qemu" || cannot 'QEMU could not be collected'
cp bench/agent/guest.py bench/lib.sh "$T/disk/"

machine_head
MACHINE_TIMEOUT=${MACHINE_TIMEOUT:-1200}
{
	machine_run "$T/disk" bench/agent/job.sh "$image" "$rounds" 2>"$T/errors"
	echo $? >"$T/status"
} | tee "$T/out"
[ "$(cat "$T/status")" = 0 ] || { cat "$T/errors" >&2; cannot 'it ended early'; }
