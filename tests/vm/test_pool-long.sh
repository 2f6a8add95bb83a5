#!/bin/sh
# test_pool.sh with 200 claims.
CLAIMS=${CLAIMS:-200} MACHINE_TIMEOUT=${MACHINE_TIMEOUT:-3000} exec sh tests/vm/test_pool.sh
