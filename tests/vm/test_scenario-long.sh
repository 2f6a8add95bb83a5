#!/bin/sh
# test_scenario.sh with 20 snapshot/restore cycles in a row.
CYCLES=20 exec sh tests/vm/test_scenario.sh
