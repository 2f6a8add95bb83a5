#!/bin/sh
# Every fault at every system call of every operation: tests/unit/test_store_faults.c without leaving calls out.
. tests/lib/tap.sh

FAULT_STRIDE=${FAULT_STRIDE:-1} CMOCKA_MESSAGE_OUTPUT=TAP "$B/unit/test_store_faults"
