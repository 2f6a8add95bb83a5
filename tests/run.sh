#!/bin/sh
# Run the test suites and end with one line: N passed, N failed, N skipped.
#
#   tests/run.sh check [SUITE...]     what `make check` runs
#   tests/run.sh long  [SUITE...]     what `make check-long` adds
#   tests/run.sh san   [SUITE...]     unit, guest and fs suites, in a build with AddressSanitizer and UBSan
#   tests/run.sh tsan  [SUITE...]     unit suites and those of what has threads, in a build with ThreadSanitizer
#
# A suite is a program that prints TAP ("ok N - name", "not ok N - name", "ok N - name # SKIP why").
# tests/unit/test_*.c are cmocka programs; tests/{lint,fs,registry,guest,vm}/*.sh are shell programs on
# tests/lib/tap.sh; a name ending in -long.sh belongs to `long`. A suite that dies, or prints no
# test at all, counts as a failure. So does one in which a sanitizer had something to say, in whatever
# process: a suite that makes folders read-only leaves $REPORTS writable. Logs: $BUILD/test-logs.
set -u
cd "$(dirname "$0")/.." || exit 1
BUILD=${BUILD:-build}
export BUILD
mode=${1:-check}
[ $# -gt 0 ] && shift
logs=$BUILD/test-logs
mkdir -p "$logs"
passed=0 failed=0 skipped=0 died=0

# A process's reports go where they are found however it was started, and wherever its output went.
reports=
case $mode in
san | tsan)
	reports=$(cd "$logs" && pwd)/reports
	rm -rf "$reports"
	mkdir -m 1777 "$reports" # whoever the process runs as
	REPORTS=$reports
	export REPORTS
	ASAN_OPTIONS=log_path=$reports/asan${ASAN_OPTIONS:+:$ASAN_OPTIONS}
	UBSAN_OPTIONS=print_stacktrace=1:log_path=$reports/ubsan${UBSAN_OPTIONS:+:$UBSAN_OPTIONS}
	# The process that writes a live snapshot is forked of one with threads and makes some itself: the
	# C library has that, and this sanitizer, too, when it is told to.
	TSAN_OPTIONS=die_after_fork=0:suppressions=$PWD/tests/lib/tsan.supp:log_path=$reports/tsan${TSAN_OPTIONS:+:$TSAN_OPTIONS}
	export ASAN_OPTIONS UBSAN_OPTIONS TSAN_OPTIONS
	;;
esac

run() { # run SUITE-NAME COMMAND...
	name=$1
	shift
	log=$logs/$(echo "$name" | tr / _).log
	start=$(date +%s)
	limit=600
	case $name in vm/*) limit=1200 ;; esac # emulated: the machine's own deadline comes first
	case $name in *-long) [ $limit -ge 1800 ] || limit=1800 ;; esac
	case $name in vm/test_runtimes-long) limit=5400 ;; esac # 250 guests, emulated
	timeout -k 10 "${SUITE_TIMEOUT:-$limit}" "$@" >"$log" 2>&1 </dev/null
	rc=$?
	# cmocka says "not ok N # SKIP name" of what it skips.
	s=$(grep -aEc '^(not )?ok .*# SKIP' "$log")
	p=$(grep -a '^ok ' "$log" | grep -avc '# SKIP')
	f=$(grep -a '^not ok ' "$log" | grep -avc '# SKIP')
	if [ $rc -ne 0 ] && [ "$f" -eq 0 ]; then
		f=1
		echo "not ok - $name ended with status $rc" >>"$log"
	fi
	if [ -n "$reports" ] && [ -n "$(ls "$reports")" ]; then
		f=$((f + 1))
		cat "$reports"/* >>"$log"
		rm "$reports"/*
		echo "not ok - $name had a sanitizer report" >>"$log"
	fi
	[ $((p + f + s)) -gt 0 ] || { f=1; echo "not ok - $name ran no test" >>"$log"; }
	printf '%-34s %3d passed, %d failed, %d skipped  (%d s)\n' "$name" "$p" "$f" "$s" $(($(date +%s) - start))
	grep -aE '# SKIP|^# no ' "$log" | sed -E 's/^(not )?ok [0-9]+ (- )?/    skipped: /'
	again='outer machine died, second attempt' # tests/vm/machine.sh
	grep -ax "$again" "$log" | sed 's/^/    /'
	died=$((died + $(grep -acx "$again" "$log")))
	if [ "$f" -gt 0 ]; then
		grep -a '^not ok' "$log" | grep -av '# SKIP' | sed 's/^/    /'
		echo "    --- last lines of $log"
		tail -n 40 "$log" | sed 's/^/    | /'
	fi
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}

wanted() { # wanted NAME PATTERNS...
	n=$1
	shift
	[ $# -eq 0 ] && return 0
	for pat; do
		case $n in *"$pat"*) return 0 ;; esac
	done
	return 1
}

folders='lint fs registry guest vm'
few=
case $mode in
san) folders='guest fs' ;;
tsan)
	folders=guest
	few='test_api test_chaos test_fork test_live test_pool test_worker'
	;;
esac
if [ "$mode" != long ]; then
	for t in "$BUILD"/unit/test_*; do
		case $t in *.d) continue ;; esac
		[ -x "$t" ] && wanted "unit/${t##*/}" "$@" && CMOCKA_MESSAGE_OUTPUT=TAP run "unit/${t##*/}" "$t"
	done
fi
for d in $folders; do
	for t in tests/"$d"/test_*.sh; do
		[ -f "$t" ] || continue
		b=$d/$(basename "$t" .sh)
		case $mode:$b in
		long:*-long) ;;
		long:* | *:*-long) continue ;;
		esac
		case " ${few:-${b##*/}} " in *" ${b##*/} "*) ;; *) continue ;; esac
		wanted "$b" "$@" && run "$b" sh "$t"
	done
done
# Of what ends later than the suite that has begun it.
if [ -n "$reports" ] && [ -n "$(ls "$reports")" ]; then
	echo "not ok - a sanitizer had something to say after the last suite"
	cat "$reports"/*
	failed=$((failed + 1))
fi
[ $died -eq 0 ] || echo "the emulated machine of a test died $died times; what it ran was run again"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
