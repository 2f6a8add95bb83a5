# tap.sh - sourced by shell test programs: TAP output, a scratch directory, cleanup.
#
#   . tests/lib/tap.sh
#   check "what must hold" command args...        # ok when the command succeeds
#   check_not "what must fail" command args...
#   skip "name" "why"                              # counted as skipped
#   at_exit 'umount ...'                           # run in reverse order at the end
#   tap_done
#
# $T is a scratch directory, removed at the end; $B the absolute build directory (first in PATH).
# A command's output goes to the log only.
set -u
B=$(cd "${BUILD:-build}" && pwd)
PATH=$B:$PATH
export PATH
T=$(mktemp -d "${TMPDIR:-/tmp}/smtest.XXXXXX")
tap_n=0
tap_failed=0
tap_exit=

tap_cleanup() {
	eval "$tap_exit"
	rm -rf "$T"
}
trap tap_cleanup EXIT
trap 'exit 130' INT TERM

at_exit() {
	tap_exit="$1
$tap_exit"
}

check() {
	tap_what=$1
	shift
	tap_n=$((tap_n + 1))
	if "$@"; then
		echo "ok $tap_n - $tap_what"
	else
		echo "# failed: $*"
		echo "not ok $tap_n - $tap_what"
		tap_failed=$((tap_failed + 1))
	fi
}

check_not() {
	tap_what=$1
	shift
	tap_n=$((tap_n + 1))
	if "$@"; then
		echo "# succeeded, and must not: $*"
		echo "not ok $tap_n - $tap_what"
		tap_failed=$((tap_failed + 1))
	else
		echo "ok $tap_n - $tap_what"
	fi
}

skip() {
	tap_n=$((tap_n + 1))
	echo "ok $tap_n - $1 # SKIP $2"
}

tap_done() {
	echo "1..$tap_n"
	[ "$tap_failed" -eq 0 ]
	exit
}
