#!/bin/sh
# A file system that loses power under a writing process: what was acknowledged is there after the
# journal's replay, and the store is clean. The file system is ext4 in a file; "power loss" is
# FS_IOC_SHUTDOWN without flushing, which drops all that was not synced.
. tests/lib/tap.sh

img=$T/disk
mnt=$T/mnt
prog=$B/unit/test_store_crash
mkdir -p "$mnt"
at_exit 'umount -l "$mnt" 2>/dev/null'

mkfs() {
	rm -f "$img"
	truncate -s 512M "$img" && mkfs.ext4 -q -F "$img"
}

power_loss() { # EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH
	python3 - "$1" <<-'PY'
	import fcntl, os, struct, sys
	fd = os.open(sys.argv[1], os.O_RDONLY)
	fcntl.ioctl(fd, 0x8004587D, struct.pack("I", 2))
	PY
}

init_store() {
	mkdir -p "$mnt/store"
	"$prog" init "$mnt/store"
}

acked() { # acked N: wait until N changes are acknowledged
	i=0
	while [ "$(wc -l <"$T/acks")" -lt "$1" ]; do
		i=$((i + 1))
		[ $i -lt 600 ] || return 1
		sleep 0.05
	done
}

unmount() { # a killed writer's files may be closed an instant after it was waited for
	i=0
	until umount "$mnt"; do
		i=$((i + 1))
		[ $i -lt 200 ] || return 1
		sleep 0.05
	done
}

cycle() { # cycle N: write until N acknowledgements, lose power, mount again, verify
	: >"$T/acks"
	mkfs && mount -o loop "$img" "$mnt" && init_store || return 1
	"$prog" write "$mnt/store" 1 >"$T/acks" 2>/dev/null &
	writer=$!
	acked "$1" && power_loss "$mnt"
	lost=$?
	kill -9 $writer 2>/dev/null
	wait $writer
	unmount || return 1
	[ $lost = 0 ] && mount -o loop "$img" "$mnt" || return 1
	"$prog" verify "$mnt/store" <"$T/acks"
	r=$?
	unmount || return 1
	return $r
}

if [ "$(id -u)" != 0 ]; then
	skip "power loss" "needs root"
elif ! { mkfs && mount -o loop "$img" "$mnt"; } 2>/dev/null; then
	skip "power loss" "no loop device"
else
	umount "$mnt"
	for n in 1 2 5 9; do
		check "power lost after $n acknowledged changes" cycle $n
	done
fi
tap_done
