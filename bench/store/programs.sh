# Figures of programs of their own: diffs of some pages and what their depth costs (bench/diff.c); a mount with 10,000
# snapshots (bench/names.c).
mkdir "$T/names" || exit 2
{ BENCH_DIR=$T "$BUILD/bench/diff" "$T/python/ram" && "$BUILD/bench/names" "$BUILD/smfs" "$T/names"; } >"$T/program" || exit 2
tee -a "$T/out" <"$T/program"
rm -rf "$T/names"
