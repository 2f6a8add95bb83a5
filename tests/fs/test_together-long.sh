#!/bin/sh
# tests/unit/test_store_together.c under ThreadSanitizer, ten minutes: in a build of its own beside the ordinary one.
. tests/lib/tap.sh

make -s BUILD="$B-thread" SAN=thread "$B-thread-san/unit/test_store_together" || exit 1
TOGETHER_SECONDS=${TOGETHER_SECONDS:-600} CMOCKA_MESSAGE_OUTPUT=TAP "$B-thread-san/unit/test_store_together"
