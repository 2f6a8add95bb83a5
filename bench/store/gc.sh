# gc: how fast references are followed, and what a reader of the mount notices of a collection: the longest of many
# reads while one runs beside the longest without.
run=0
while [ $run -lt "$runs" ]; do
	run=$((run + 1))
	smfs gc --store "$T/smfs" --dry-run --json >"$T/gc" || exit 2
	lowest gc.ns "$(jq '1000 * .mark_us / .marked' "$T/gc")"
done
line gc-mark "$(awk -v ns="$(got gc.ns)" 'BEGIN { print 1e3 / ns }')" M/s - - '>=1'
# Dead content to collect: a snapshot that shares nothing.
mkdir -p "$T/dead" && echo '{}' >"$T/dead/meta" && : >"$T/dead/vcpu" || exit 2
smfs mount -q "$T/smfs" "$T/mnt" || exit 2
reader() { "$BUILD/bench/longest" "$T/mnt/snapshots/python/ram" 3 | cut -d ' ' -f 2; }
run=0
while [ $run -lt "$runs" ]; do
	run=$((run + 1))
	lowest reader.alone "$(reader)"
	"$BUILD/bench/synth" $run $((512 << 20)) >"$T/dead/ram" && smfs import -q --store "$T/smfs" dead "$T/dead" &&
		smfs rm --store "$T/smfs" snapshots/dead >/dev/null || exit 2
	smfs gc --store "$T/smfs" >"$T/log" 2>&1 &
	gc_pid=$!
	lowest reader.beside "$(reader)"
	wait $gc_pid || { cat "$T/log" >&2; exit 2; }
done
smfs unmount -q "$T/mnt"
line gc-reader-delay "$(awk -v a="$(got reader.alone)" -v b="$(got reader.beside)" 'BEGIN { print (b - a) / 1e3 }')" ms - - '<=10'
