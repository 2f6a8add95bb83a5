#!/bin/sh
# Two hundred power cuts on each file system, under ingests, deletes, collections, compactions and repairs: tests/unit/test_store_power.c, for longer.
. tests/lib/tap.sh

POWER_CUTS=${POWER_CUTS:-200} CMOCKA_MESSAGE_OUTPUT=TAP "$B/unit/test_store_power"
