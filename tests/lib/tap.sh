# tap.sh - sourced by shell test programs: TAP output, a scratch directory, cleanup.
#
#   . tests/lib/tap.sh
#   check "what must hold" command args...        # ok when the command succeeds
#   check_not "what must fail" command args...
#   skip "name" "why"                              # counted as skipped
#   status N command args...                       # its exit status is N; output in $T/out, errors in $T/err
#   says N pattern command args...                 # and its standard error has the pattern
#   prints pattern command args...                 # it succeeds, and its standard output has the pattern
#   json_has filter command args...                # it succeeds, and its output is JSON of which jq's filter holds
#   until_true SECONDS command args...             # it succeeds, tried for long, where SECONDS are ample
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

status() {
	tap_want=$1
	shift
	"$@" >"$T/out" 2>"$T/err" </dev/null
	tap_got=$?
	cat "$T/err"
	[ "$tap_got" = "$tap_want" ] || echo "# status $tap_got, not $tap_want"
	[ "$tap_got" = "$tap_want" ]
}

says() {
	tap_pattern=$2
	tap_status=$1
	shift 2
	status "$tap_status" "$@" && grep -q -- "$tap_pattern" "$T/err"
}

prints() {
	tap_pattern=$1
	shift
	status 0 "$@" && grep -q -- "$tap_pattern" "$T/out"
}

# Its output is in $T/json then, what the filter said in $T/jq. jq -e of nothing at all is true in jq 1.6.
json_has() {
	tap_filter=$1
	shift
	"$@" >"$T/json" </dev/null && [ -s "$T/json" ] && jq -e "$tap_filter" "$T/json" >"$T/jq"
}

# Ample on a machine of one's own: others may be at work, so it is three times that, and no less than a minute, before it is
# given up. What is to hold in a certain time is not for this.
until_true() {
	left=$(($1 > 20 ? $1 * 60 : 1200))
	shift
	until "$@"; do
		left=$((left - 1))
		[ $left -gt 0 ] || return 1
		sleep 0.05
	done
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
