#!/bin/sh
# smvm-runner pool, by a client that is written from doc/protocol.md: claims and their order, what is given back, limits of
# number, time and memory, workers and pools that die. Tiny guests on this machine's /dev/kvm.
. tests/lib/tap.sh
. tests/guest/tiny.sh

{ boot origin counter 64M && until_true 10 said origin '^up ' && smvm-runner snapshot origin s1 &&
	boot rests idle16 64M && until_true 10 said rests '^up ' && smvm-runner snapshot rests idle &&
	smvm-runner snapshot rests passing &&
	boot once once 64M && until_true 10 said once '^up ' && smvm-runner snapshot once once; } >/dev/null || {
	check "a snapshot to begin with" false
	tap_done
}
smvm-runner stop -f origin rests once
python3 tests/guest/pool.py
failed=$?
[ $failed = 0 ] || sed 's/^/# /' "$T/pools.log"
[ -z "$(smvm-runner ps -q)" ] && [ -z "$(ls "$SMVM_RUN_DIR" | grep -v '\.lock$')" ] || {
	echo "# left behind: $(ls "$SMVM_RUN_DIR")"
	failed=1
}
exit $failed
