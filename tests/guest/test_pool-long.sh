#!/bin/sh
# kill -9 of workers and of the pool at random, under load, for CHAOS (600) seconds: every claim ends in success or an
# error, nothing is left, the pool is as it should be.
. tests/lib/tap.sh
. tests/guest/tiny.sh

{ boot rests idle16 64M && until_true 10 said rests '^up ' && smvm-runner snapshot rests idle; } >/dev/null || {
	check "a snapshot to begin with" false
	tap_done
}
smvm-runner stop -f rests
CHAOS=${CHAOS:-600} python3 tests/guest/pool.py
failed=$?
[ $failed = 0 ] || tail -n 40 "$T/pools.log" | sed 's/^/# /'
exit $failed
