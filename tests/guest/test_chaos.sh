#!/bin/sh
# kill -9 of workers, of the pool and of the mount's server at random, under load, for CHAOS (10) seconds: chaos.py.
. tests/lib/tap.sh
. tests/guest/tiny.sh

nonce=
{ boot rests idle16 64M && until_true 10 said rests '^up ' && smvm-runner snapshot rests idle &&
	nonce=$(log rests | sed -n 's/^up .*\([0-9a-f]\{16\}\).*$/\1/p'); } >/dev/null
smvm-runner stop -f rests
check "a snapshot to begin with" [ -n "$nonce" ]
python3 tests/guest/chaos.py "${CHAOS:-10}" "$nonce" >"$T/cases"
failed=$?
sed 's/^1\.\.[0-9]*$/# &/; s/^\(not \)*ok [0-9]*/# \1ok/' "$T/cases"
check "every claim ended well or with an error, and nothing is left" [ $failed = 0 ]
[ $failed = 0 ] || tail -n 40 "$T/pools.log" | sed 's/^/# /'
check "the store is whole" smfs fsck -q --store "$SMFS_STORE"
tap_done
