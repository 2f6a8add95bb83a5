#!/bin/sh
# Python baked with a warm-up, a pool of 4 machines of it, and CLAIMS (8) claims that run code, each isolated from all others.
# The cases are in pool_job.py.
. tests/lib/tap.sh
. tests/lib/image.sh
. tests/vm/machine.sh

image_python "$T/image" || exit 1
mkdir "$T/disk"
smfs init -q "$T/disk/store" || exit 1
smvm-pull -q --store "$T/disk/store" --name localhost/python:1 "oci:$T/image/python:1" || exit 1
MACHINE_TIMEOUT=${MACHINE_TIMEOUT:-560}
machine_test "$T/out" "$T/disk" tests/vm/pool_job.sh localhost/python:1 "${CLAIMS:-8}"
status=$?
cat "$T/out"
check 'the job in the guests ended well' [ $status -eq 0 ]
tap_done
