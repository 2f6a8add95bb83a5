#!/bin/sh
# smvm-init in a real Linux guest: the image as root, exec in all its ways, and that no program of the user's
# ever runs with the identity of the snapshot it was restored from. The cases are in agent_job.sh.
. tests/lib/tap.sh
. tests/lib/image.sh
. tests/vm/machine.sh

image_base "$T/image" || exit 1
umoci config --image "$T/image/base:1" --config.env PATH=/usr/bin:/bin --config.env FROM=image \
	--config.workingdir /tmp --config.user app || exit 1
mkdir "$T/disk"
smfs init "$T/disk/store" || exit 1
smvm-pull -q --store "$T/disk/store" --name localhost/agent:1 "oci:$T/image/base:1" || exit 1
MACHINE_TIMEOUT=${MACHINE_TIMEOUT:-560}
machine_test "$T/out" "$T/disk" tests/vm/agent_job.sh localhost/agent:1
status=$?
cat "$T/out"
check 'the job in the guests ended well' [ $status -eq 0 ]
tap_done
