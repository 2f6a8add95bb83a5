#!/bin/sh
# The whole product on a real Linux guest: pull, boot, warm, snapshot, export and import, restore twice (mainjob.sh); and
# snapshot/restore cycles of a guest that checks itself (cycles.sh): 6, or $CYCLES.
. tests/lib/tap.sh
. tests/lib/image.sh
. tests/vm/machine.sh

image_python "$T/image" || exit 1
port=$(free_port)
registry_start "$T/registry" "$port" || exit 1
at_exit 'registry_stop "$T/registry"'
registry_push "$T/image/python:1" python:1 || exit 1
mkdir "$T/disk"
image=127.0.0.1:$port/python:1
check 'a store is made' smfs init "$T/disk/store"
check 'the image is pulled from the registry' smvm-pull --store "$T/disk/store" "$image"
check 'guestcheck builds' cc -std=gnu11 -D_GNU_SOURCE -O2 -Wall -Wextra -Werror -static -pthread \
	-o "$T/disk/guestcheck" tests/vm/guestcheck.c

# Three minutes on two idle cores; a busy machine may take longer, up to what a suite may take at all.
MACHINE_TIMEOUT=${MACHINE_TIMEOUT:-1140}
machine_test "$T/out" "$T/disk" tests/vm/mainjob.sh "$image"
main=$?
cat "$T/out"
machine_test "$T/out" "$T/disk" tests/vm/cycles.sh "$image" "${CYCLES:-6}"
cycles=$?
cat "$T/out"
check 'the main job ended well' [ $main -eq 0 ]
check 'the cycles ended well' [ $cycles -eq 0 ]
tap_done
