#!/bin/sh
# The server is killed a hundred times under eight readers.
. tests/lib/tap.sh
. tests/fs/mount.sh
. tests/fs/survive.sh
need_fuse
check "a store with things to read" survive_store
check "mounts" survive_mount
check "eight readers do not notice 100 kills" python3 tests/lib/survive.py run "$M" 100
check "nor 100 in quick succession, most of them of servers not yet up" \
	python3 tests/lib/survive.py run "$M" 100 60 1
python3 tests/lib/survive.py make "$T/small" 3 1
check "over 60 kills, what is copied in is whole or told lost, renamed and removed" \
	python3 tests/lib/survive.py change "$M" "$T/small" 60
check "unmount" stop_mount
check "fsck is content" smfs fsck --read-data --store "$S"
check "no sanitizer complained in the server" log_clean
tap_done
