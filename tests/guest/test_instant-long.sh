#!/bin/sh
# test_instant.sh with 200 live snapshots and 200 diffs.
ROUNDS=200 exec sh tests/guest/test_instant.sh
