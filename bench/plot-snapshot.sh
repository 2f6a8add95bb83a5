#!/bin/sh
# bench/results/bench-snapshot.tsv as bench/results/snapshot-*.svg: every figure that is compared with another, as its
# part of what the issue allows (1 is the limit; less is better, or, of limits from below, the inverse), and the
# times of restores and forks. Needs gnuplot; without it says so and ends with status 2.
set -u
cd "$(dirname "$0")/.." || exit 2
tsv=bench/results/bench-snapshot.tsv
[ -s $tsv ] || { echo "plot-snapshot: no $tsv; run make bench-snapshot" >&2; exit 2; }
command -v gnuplot >/dev/null || { echo "plot-snapshot: no gnuplot; install gnuplot-nox" >&2; exit 2; }
T=$(mktemp -d) || exit 2
trap 'rm -rf "$T"' EXIT
trap 'exit 2' INT TERM

# Of limits on a ratio: the ratio through the limit. A figure of its own is bounded itself.
awk -F '\t' '!/^#/ && $6 != "-" && $6 != "" {
	x = $4 == "-" ? $2 : $4
	bar = substr($6, 3) + 0
	if (bar > 0 && x > 0)
		printf "%s\t%.4f\n", $1, $6 ~ /^>/ ? bar / x : x / bar
}' $tsv >"$T/limits"
awk -F '\t' '!/^#/ && $3 == "us" { printf "%s\t%.4f\n", $1, $2 / 1000 }' $tsv >"$T/times"
title=$(sed -n 's/^# //p' $tsv | head -n 1 | tr -d '"\\')

bars() { # bars DATA OUT LABEL MARK
	gnuplot <<END || exit 2
set terminal svg size 1000,$((120 + 22 * $(wc -l <"$1"))) font 'sans,12' background 'white'
set output '$2'
set title "$title" noenhanced font ',10'
set datafile separator '\t'
set logscale x
set xlabel '$3'
set grid x
set key off
set ytics noenhanced
set style fill solid 0.7
set yrange [-0.5:*] reverse
set lmargin 30
$4
plot '$1' using (\$2):0:(0.01):2:(\$0-0.35):(\$0+0.35):ytic(1) with boxxyerror lc rgb '#4477aa'
END
	echo "$2"
}
bars "$T/limits" bench/results/snapshot-limits.svg 'share of the limit' "set arrow from 1,graph 0 to 1,graph 1 nohead lw 2 lc rgb 'red'"
bars "$T/times" bench/results/snapshot-times.svg 'milliseconds' ''
