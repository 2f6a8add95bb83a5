#!/bin/sh
# Every end at every call of every kind of snapshot: tests/unit/test_snapshot_faults.c without leaving calls out.
. tests/lib/tap.sh

FAULT_STRIDE=${FAULT_STRIDE:-1} CMOCKA_MESSAGE_OUTPUT=TAP "$B/unit/test_snapshot_faults"
