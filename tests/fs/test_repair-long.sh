#!/bin/sh
# Every byte of a small store flipped in turn, and many repairs killed: the store's own tests, whole.
. tests/lib/tap.sh
SWEEP=all
export SWEEP
check "every flipped byte of an index is refused or harmless" "$B/unit/test_store_index"
check "every flipped byte of a store is harmless, repaired, or refused and healed" \
	"$B/unit/test_store_sweep"
check "two hundred repairs killed" "$B/unit/test_store_repair"
tap_done
