# lib.sh - sourced by the shell benches: output lines, clocks, what makes two measurements comparable.
#
#   cannot REASON                 the bench could not run: status 2
#   say TEXT                      a comment line of the output
#   line NAME VALUE UNIT AGAINST-VALUE AGAINST LIMIT
#       One figure, as DESIGN.md section 9 has them. LIMIT is ">=X", "<=X" or "-"; it bounds VALUE / AGAINST-VALUE, or
#       VALUE itself where there is nothing to compare with (AGAINST-VALUE "-").
#   now_us, since_us T            microseconds, of a clock and since
#   lowest NAME VALUE, got NAME   keep the lowest value in $T/best/NAME; what it is
#   rate BYTES US                 MB/s
#   drop_caches                   everything is on disk and nothing in the page cache
#   in_cache FILE...              the page cache holds them
#   free_of_mounts DIR...         unmount what is mounted there
#   median                        of the numbers on standard input, one a line; percentile P, of 0 to 1
#
# For benches of tiny guests, from the top of the tree, with $BUILD absolute:
#   begin                         $T, an empty store, its mount and a run directory, or status 2; all gone at the end
#   until_said VM PATTERN         in its console's log, within a minute
#   up NAME GUEST MEMORY          boots and waits for the guest; prints its nonce
#   snapshot NAME MEMORY [GUEST]  of the counter, or GUEST, which is then stopped; prints the nonce
#
# $T is the bench's scratch directory. Lines go to standard output as they are known, and to $T/out.

cannot() {
	echo "${0##*/}: $*" >&2
	exit 2
}
say() { echo "# $*" | tee -a "$T/out"; }

line() {
	awk -v name="$1" -v v="$2" -v unit="$3" -v a="$4" -v against="$5" -v limit="$6" 'BEGIN {
		compared = a != "-"
		if (compared && a <= 0) { print "bench: " name ": nothing to compare with" >"/dev/stderr"; exit 1 }
		x = compared ? v / a : v + 0
		bar = substr(limit, 3) + 0
		good = limit == "-" || (substr(limit, 1, 2) == ">=" ? x >= bar : x <= bar)
		printf "%s\t%.1f\t%s\t%s\t%s\t%s\t%s\n", name, v, unit, compared ? sprintf("%.2f", x) : "-", against, limit,
			good ? "ok" : "MISS"
	}' | tee -a "$T/out"
}

now_us() { echo $(($(date +%s%N) / 1000)); }
since_us() { echo $(($(now_us) - $1)); }

lowest() {
	mkdir -p "$T/best"
	# Figures may have a fraction.
	{ cat "$T/best/$1" 2>/dev/null; echo "$2"; } | sort -g | head -n 1 >"$T/best.new" && mv "$T/best.new" "$T/best/$1"
}
got() { cat "$T/best/$1"; }
rate() { awk -v b="$1" -v us="$2" 'BEGIN { printf "%.1f", b / us }'; }
mb() { awk -v b="$1" 'BEGIN { printf "%.1f", b / 1e6 }'; }

drop_caches() { sync && echo 3 >/proc/sys/vm/drop_caches; }
in_cache() { cat "$@" >/dev/null; }
free_of_mounts() {
	for mounted; do
		mountpoint -q "$mounted" && umount "$mounted"
	done
}
machine_head() {
	say "$(uname -srm), $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1), $(nproc) CPUs, $(date -u +%Y-%m-%dT%H:%MZ)," \
		"load $(cut -d' ' -f1-3 /proc/loadavg)"
}

percentile() { sort -n | awk -v p="$1" '{ v[NR] = $1 } END { print v[int((NR - 1) * p + 0.5) + 1] }'; }
median() { percentile 0.5; }

end() {
	for v in $(smvm-runner ps -q 2>/dev/null); do smvm-runner stop -f "$v"; done
	smfs unmount "$SMFS_MOUNT" 2>/dev/null || smfs unmount --force "$SMFS_MOUNT"
	rm -rf "$T" "${SMVM_RUN_DIR%/*}"
}
begin() {
	for dev in kvm fuse; do
		[ -w /dev/$dev ] || cannot "no /dev/$dev"
	done
	T=$(mktemp -d "${TMPDIR:-/tmp}/bench.XXXXXX") || exit 2
	# Run directories are where a system has them: in memory.
	export SMFS_STORE="$T/store" SMFS_MOUNT="$T/mnt" SMVM_RUN_DIR="/dev/shm/${T##*/}/run"
	trap end EXIT
	trap 'exit 2' INT TERM
	mkdir -p "$SMFS_MOUNT" "$SMVM_RUN_DIR" && smfs init "$SMFS_STORE" >/dev/null &&
		smfs mount "$SMFS_STORE" "$SMFS_MOUNT" || exit 2
}

until_said() {
	left=1200
	until smvm-runner console -l "$1" | grep -q "$2"; do
		left=$((left - 1))
		[ $left -gt 0 ] || return 1
		sleep 0.05
	done
}
up() {
	smvm-runner boot --kernel "$BUILD/guest/$2" -m "$3" --name "$1" >/dev/null && until_said "$1" '^up [0-9a-f]\{16\}$' &&
		smvm-runner console -l "$1" | sed -n 's/^up \([0-9a-f]\{16\}\)$/\1/p'
}
snapshot() { up "$1" "${3:-counter}" "$2" && smvm-runner snapshot "$1" "$1" >/dev/null && smvm-runner stop -f "$1" >/dev/null; }
