#!/bin/sh
# Run each fuzzer of $BUILD/fuzz for $FUZZ_SECONDS (60); TAP on standard output. What a fuzzer learns is
# kept in $BUILD/fuzz/corpus, what it finds in $BUILD/fuzz/findings: run the fuzzer with that file to
# see it again. It begins with tests/fuzz/corpus, which is minimised:
#
#   tests/fuzz/run.sh --merge FUZZER...    add to tests/fuzz/corpus what $BUILD/fuzz/corpus has beyond it
set -u
cd "$(dirname "$0")/../.." || exit 1
dir=${BUILD:-build}/fuzz
seconds=${FUZZ_SECONDS:-60}
n=0 failed=0
seeds=tests/fuzz/corpus
mkdir -p "$dir/findings"
if [ "${1:-}" = --merge ]; then
	shift
	for name; do
		mkdir -p "$seeds/$name" "$dir/corpus/$name"
		"$dir/$name" -merge=1 "$seeds/$name" "$dir/corpus/$name" || exit 1
	done
	exit 0
fi
for f in "$dir"/fuzz_*; do
	[ -f "$f" ] && [ -x "$f" ] || continue
	name=$(basename "$f")
	n=$((n + 1))
	mkdir -p "$dir/corpus/$name"
	known=
	# A copy: a fuzzer replaces inputs that it has found a smaller one for, in whatever folder they are.
	rm -rf "$dir/seeds/$name"
	[ -d "$seeds/$name" ] && mkdir -p "$dir/seeds" && cp -r "$seeds/$name" "$dir/seeds" && known=$dir/seeds/$name
	# shellcheck disable=SC2086
	if "$f" -max_total_time="$seconds" -timeout=20 -artifact_prefix="$dir/findings/$name-" \
		"$dir/corpus/$name" $known >"$dir/$name.log" 2>&1; then
		echo "ok $n - $name: $(tail -n 1 "$dir/$name.log")"
	else
		echo "not ok $n - $name"
		grep -v '^#' "$dir/$name.log" | head -n 60 | sed 's/^/# /'
		failed=1
	fi
done
echo "1..$n"
[ $n -gt 0 ] && [ $failed = 0 ]
