#!/bin/sh
# tests/unit/test_snapshot_walk.c with 500 steps. The log has the seed: WALK_SEED=N walks the same way again.
. tests/lib/tap.sh

WALK_STEPS=${WALK_STEPS:-500} CMOCKA_MESSAGE_OUTPUT=TAP "$B/unit/test_snapshot_walk"
