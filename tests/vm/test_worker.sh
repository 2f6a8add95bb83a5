#!/bin/sh
# A worker with a real Linux guest: baked, and reset in place again and again; what the guest is after each. The cases are
# in worker_job.sh.
. tests/lib/tap.sh
. tests/lib/image.sh
. tests/vm/machine.sh

image_base "$T/image" || exit 1
mkdir "$T/disk"
smfs init "$T/disk/store" || exit 1
smvm-pull -q --store "$T/disk/store" --name localhost/worker:1 "oci:$T/image/base:1" || exit 1
MACHINE_TIMEOUT=${MACHINE_TIMEOUT:-560}
machine_test "$T/out" "$T/disk" tests/vm/worker_job.sh localhost/worker:1 "${ROUNDS:-4}"
status=$?
cat "$T/out"
check 'the job in the guests ended well' [ $status -eq 0 ]
tap_done
