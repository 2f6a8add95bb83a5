# growth: ingest of content never seen before, 1 GiB at a time, into a store that holds $GROWTH_GIB (10) of stored frames,
# and then the frames of 50, of which, where the disk has no room for them, the frames are there (as many as 50 GiB of this
# content are, in the index and in packs) but of a few bytes each (bench/frames.c). Against the same content into a store
# of 1 GiB of frames, by turns, so that what else the machine does meets both: the sums of $turns each, since some costs
# come once in several ingests. growth-cpu is the same of processor time.
if [ -n "${QUICK:-}" ]; then
	say 'growth: not with QUICK=1'
	return 0
fi
turns=6
has_room() { [ "$(df --output=avail -B1G "$T" | tail -n 1)" -gt $(($1 + 15)) ]; }
cpu_us() { # of this shell's children
	tail -n 1 | tr 'ms' '  ' | awk '{ printf "%d", (($1 + $3) * 60 + $2 + $4) * 1e6 }'
}
content() { # one more GiB of it
	made=$((made + 1))
	"$BUILD/bench/synth" $((1000 + made)) $((1 << 30)) >"$T/step/ram" && sync || exit 2
}
put_step() { # put_step STORE: a line of $T/STORE.times, microseconds of time and of processor time
	times >"$T/times" && cpu=$(cpu_us <"$T/times") t=$(now_us)
	smfs import -q --store "$T/$1" "step$made" "$T/step" || exit 2
	us=$(since_us "$t")
	times >"$T/times" && echo "$us $(($(cpu_us <"$T/times") - cpu))" >>"$T/$1.times"
}
stored_gib() { smfs stats --store "$T/$1" --json | jq '.stored_bytes / 1073741824 | floor'; }
grow_to() { # grow_to GIB
	while [ "$(stored_gib grown)" -lt "$1" ]; do content && put_step grown; done
}
rate_of() { # rate_of STORE COLUMN
	rate $((turns << 30)) "$(awk -v c="$2" '{ n += $c } END { print n }' "$T/$1.times")"
}
compare() { # compare NAME
	rm -rf "$T/small" && cp -r "$T/kept" "$T/small" || exit 2
	# The first ingest into a copied store proves its index.
	content && put_step small && put_step grown && rm "$T/small.times" "$T/grown.times" || exit 2
	turn=0
	while [ $turn -lt $turns ]; do
		content
		# By turns who is first.
		if [ $((turn % 2)) = 0 ]; then
			put_step small && sync && put_step grown
		else
			put_step grown && sync && put_step small
		fi
		turn=$((turn + 1))
	done
	line "growth-$1" "$(rate_of grown 1)" MB/s "$(rate_of small 1)" 'at 1 GiB' '>=0.8'
	line "growth-cpu-$1" "$(rate_of grown 2)" MB/s "$(rate_of small 2)" 'at 1 GiB' -
}

gib=${GROWTH_GIB:-10}
has_room "$gib" || {
	say "growth: not measured: $T has no room for $gib GiB"
	return 0
}
mkdir "$T/step" && smfs init -q "$T/grown" && echo '{}' >"$T/step/meta" && : >"$T/step/vcpu" || exit 2
made=0
grow_to 1 && cp -r "$T/grown" "$T/kept" || exit 2
grow_to "$gib"
compare "${gib}GiB"
if [ "$gib" -lt 50 ]; then
	frames=$(smfs stats --store "$T/grown" --json | jq .chunks)
	"$BUILD/bench/frames" "$T/grown" $((frames * (50 - gib) / gib)) 1 || exit 2
	compare 50GiB-frames
	say "growth: $(smfs stats --store "$T/grown" --json | jq .chunks) frames in the index, most of a few bytes"
fi
rm -rf "$T/grown" "$T/kept" "$T/small" "$T/step"
