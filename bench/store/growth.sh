# growth: ingest of content never seen before, 1 GiB at a time, into a store that holds more and more frames:
# the rate of the last step against that of the first. $GROWTH_GIB (10) of stored frames.
if [ -n "${QUICK:-}" ]; then
	say 'growth: not with QUICK=1'
	return 0
fi
grow_to=$((${GROWTH_GIB:-10} << 30))
[ "$(df --output=avail -B1 "$T" | tail -n 1)" -gt $((grow_to + (4 << 30))) ] || {
	say "growth: not measured: $T has no room for $((grow_to >> 30)) GiB"
	return 0
}
rm -rf "$T/growth" "$T/step" && smfs init -q "$T/growth" && mkdir "$T/step" && echo '{}' >"$T/step/meta" && : >"$T/step/vcpu" || exit 2
step=0 early=0 late=0 stored=0
while [ "$stored" -lt $grow_to ]; do
	step=$((step + 1))
	"$BUILD/bench/synth" $((1000 + step)) $((1 << 30)) >"$T/step/ram" && sync || exit 2
	t=$(now_us)
	smfs import -q --store "$T/growth" "step$step" "$T/step" || exit 2
	us=$(since_us "$t")
	# Around 1 GiB stored, and at the end: four steps each, so that one slow write to the disk is not the answer.
	[ $step -le 4 ] && early=$((early + us))
	echo "$us" >>"$T/steps"
	stored=$(smfs stat --store "$T/growth" --json | jq .stored_bytes)
done
late=$(tail -n 4 "$T/steps" | awk '{ n += $1 } END { print n }')
rm -rf "$T/growth" "$T/step"
line "growth-$((grow_to >> 30))GiB" "$(rate $((4 << 30)) "$late")" MB/s "$(rate $((4 << 30)) "$early")" 'at 1 GiB' '>=0.8'
