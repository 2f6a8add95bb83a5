#!/bin/sh
# test_chaos.sh for ten minutes.
CHAOS=${CHAOS:-600} exec sh tests/guest/test_chaos.sh
