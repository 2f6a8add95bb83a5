#!/bin/sh
# smvm-runner worker under a supervisor that is written from doc/protocol.md (tests/lib/supervisor.py): every verb,
# error and time-out, in both dialects, over tiny guests on this machine's /dev/kvm.
. tests/lib/tap.sh
. tests/guest/tiny.sh

up() { boot "$1" "$2" "$3" && until_true 10 said "$1" "$4"; }
{
	up origin counter 256M '^up ' && ask origin '?' '^now ' && smvm-runner snapshot origin s1 &&
		ask origin '?' '^now ' && smvm-runner snapshot origin s2 &&
		up wide counter 512M '^up ' && smvm-runner snapshot wide large &&
		smvm-runner boot --kernel "$B/guest/quad" -m 128M -c 4 --name four >/dev/null &&
		until_true 10 said four '^up ' && smvm-runner snapshot four four &&
		up once once 64M '^up ' && smvm-runner snapshot once once &&
		up writer churn16 128M '^up ' && smvm-runner snapshot --still writer writer &&
		up adder memory 128M '^filled' && smvm-runner snapshot --still adder sums
} >/dev/null || {
	check "snapshots to begin with" false
	tap_done
}
smvm-runner stop -f origin wide four once writer adder

TMPDIR_OF=$T python3 tests/guest/worker.py "$B"
failed=$?
[ -z "$(smvm-runner ps -q)" ] && [ -z "$(ls "$SMVM_RUN_DIR")" ] || {
	echo "# left behind: $(ls "$SMVM_RUN_DIR")"
	failed=1
}
exit $failed
