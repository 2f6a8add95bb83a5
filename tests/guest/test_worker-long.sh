#!/bin/sh
# 10,000 (RESETS) resets in place of one worker, from snapshot to snapshot; the first and the last thousand; and the times
# that test_worker.sh does not wait for.
. tests/lib/tap.sh
. tests/guest/tiny.sh

{
	boot origin counter 256M && until_true 10 said origin '^up ' && ask origin '?' '^now ' && smvm-runner snapshot origin s1 &&
		ask origin '?' '^now ' && smvm-runner snapshot origin s2 &&
		smvm-runner boot --kernel "$B/guest/quad" -m 128M -c 4 --name four && until_true 10 said four '^up ' &&
		smvm-runner snapshot four four && boot writer churn16 128M && until_true 10 said writer '^up ' &&
		smvm-runner snapshot --still writer writer
} >/dev/null || {
	check "snapshots to begin with" false
	tap_done
}
smvm-runner stop -f origin four writer
python3 tests/guest/worker_long.py "${RESETS:-10000}"
failed=$?
[ -z "$(smvm-runner ps -q)" ] && [ -z "$(ls "$SMVM_RUN_DIR")" ] || failed=1
exit $failed
