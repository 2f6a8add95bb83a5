# growth: ingest of content never seen before, 1 GiB at a time, into a store that holds more and more frames: the rate
# of the last four steps against that of the first four, so that one slow write to the disk is not the answer. At
# $GROWTH_GIB (10) of stored frames; then at 50, of which, where the disk has no room for them, the frames are there (as
# many as 50 GiB of this content are, in the index and in packs) but of a few bytes each (bench/frames.c). growth-cpu is
# the same of processor time, which other work on the machine disturbs less.
if [ -n "${QUICK:-}" ]; then
	say 'growth: not with QUICK=1'
	return 0
fi
has_room() { [ "$(df --output=avail -B1G "$T" | tail -n 1)" -gt $(($1 + 15)) ]; }
cpu_us() { # of this shell's children
	tail -n 1 | tr 'ms' '  ' | awk '{ printf "%d", (($1 + $3) * 60 + $2 + $4) * 1e6 }'
}
step() { # one more GiB: a line of $T/steps, microseconds of time and of processor time
	steps=$((steps + 1))
	"$BUILD/bench/synth" $((1000 + steps)) $((1 << 30)) >"$T/step/ram" && sync || exit 2
	times >"$T/times" && cpu=$(cpu_us <"$T/times") t=$(now_us)
	smfs import -q --store "$T/growth" "step$steps" "$T/step" || exit 2
	us=$(since_us "$t")
	times >"$T/times" && echo "$us $(($(cpu_us <"$T/times") - cpu))" >>"$T/steps"
}
of_steps() { # of_steps COLUMN head|tail: the sum of four
	"$2" -n 4 "$T/steps" | awk -v c="$1" '{ n += $c } END { print n }'
}
compare() { # compare NAME: what the last steps were, beside the first
	line "growth-$1" "$(rate $((4 << 30)) "$(of_steps 1 tail)")" MB/s "$(rate $((4 << 30)) "$(of_steps 1 head)")" 'at 1 GiB' '>=0.8'
	line "growth-cpu-$1" "$(rate $((4 << 30)) "$(of_steps 2 tail)")" MB/s "$(rate $((4 << 30)) "$(of_steps 2 head)")" 'at 1 GiB' -
}
stored_gib() { smfs stats --store "$T/growth" --json | jq '.stored_bytes / 1073741824 | floor'; }

grow_to=${GROWTH_GIB:-10}
has_room "$grow_to" || {
	say "growth: not measured: $T has no room for $grow_to GiB"
	return 0
}
rm -rf "$T/growth" "$T/step" "$T/steps" && smfs init -q "$T/growth" && mkdir "$T/step" && echo '{}' >"$T/step/meta" && : >"$T/step/vcpu" || exit 2
steps=0
while [ "$(stored_gib)" -lt "$grow_to" ]; do step; done
compare "${grow_to}GiB"
if [ "$grow_to" -lt 50 ]; then
	frames=$(smfs stats --store "$T/growth" --json | jq .chunks)
	"$BUILD/bench/frames" "$T/growth" $((frames * (50 - grow_to) / grow_to)) 1 || exit 2
	for _ in 1 2 3 4; do step; done
	say "growth: $(smfs stats --store "$T/growth" --json | jq .chunks) frames in the index, most of a few bytes"
	compare 50GiB-frames
fi
rm -rf "$T/growth" "$T/step"
