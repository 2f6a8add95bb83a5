#!/bin/sh
# A Debian guest with Python and Perl at work, restored and forked (runtimes.sh): RESTORES (200) and FORKS (50) times.
# With RESTORES=3 FORKS=2 it takes some two minutes, whole half an hour on a machine that does nothing else.
. tests/lib/tap.sh
. tests/lib/image.sh
. tests/vm/machine.sh

image_python "$T/image" || exit 1
# Perl as a layer over it.
runtimes_layer() {
	image_debs "$T/perl.tar" base-files,base-passwd,perl-base &&
		umoci unpack --image "$T/image/python:1" "$T/bundle" &&
		tar -C "$T/bundle/rootfs" -xf "$T/perl.tar" --skip-old-files --numeric-owner &&
		umoci repack --image "$T/image/python:1" "$T/bundle"
}
check 'Perl is added to the image' runtimes_layer
image=localhost/runtimes:1
mkdir "$T/disk"
smfs init -q "$T/disk/store" || exit 1
smvm-pull -q --store "$T/disk/store" --name "$image" "oci:$T/image/python:1" || exit 1

MACHINE_TIMEOUT=${MACHINE_TIMEOUT:-5100}
machine_test "$T/out" "$T/disk" tests/vm/runtimes.sh "$image" "${RESTORES:-200}" "${FORKS:-50}"
status=$?
cat "$T/out"
check 'the job ended well' [ $status -eq 0 ]
tap_done
