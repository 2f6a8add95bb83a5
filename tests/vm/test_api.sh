#!/bin/sh
# libsmvm's examples with a real Linux guest, and what doctor says of a host that can run one. The cases are in api_job.sh.
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/tap.sh
. tests/lib/image.sh
. tests/vm/machine.sh
unset MAKEFLAGS MAKELEVEL

image_base "$T/image" || exit 1
mkdir "$T/disk" "$T/disk/api"
smfs init "$T/disk/store" || exit 1
smvm-pull -q --store "$T/disk/store" --name localhost/api:1 "oci:$T/image/base:1" || exit 1
make -s BUILD="$B" PREFIX="$T/usr" install >"$T/log" 2>&1 || cat "$T/log"
for e in image_open vm_start vm_open vm_exec vm_fork pool_claim; do
	cc -o "$T/disk/api/$e" doc/examples/$e.c $(PKG_CONFIG_PATH=$T/usr/lib/pkgconfig pkg-config --cflags --libs smvm) || exit 1
done
cp "$T/usr/lib/libsmvm.so.0" "$T/disk/api"
MACHINE_TIMEOUT=${MACHINE_TIMEOUT:-400}
machine_test "$T/out" "$T/disk" tests/vm/api_job.sh localhost/api:1
status=$?
cat "$T/out"
check 'the job in the guests ended well' [ $status -eq 0 ]
tap_done
