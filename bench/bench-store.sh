#!/bin/sh
# make bench-store: real guest RAM into the store and back, against the peers a user would take instead.
#
#   ingest     wall time of `smfs import`, against `borg create --compression zstd,1` and `restic backup`: each into a
#              fresh repository, source in the page cache, repository synced to disk inside the time taken
#   stored     bytes on disk afterwards
#   second     the same for a second guest's RAM into the same repository (not with QUICK=1)
#   cold read  one sequential reader of `ram` through a fresh mount, page cache dropped, against a kernel squashfs
#              (zstd level 1, 128 KiB blocks) of the same file
#
# Runs alternate between the contenders; the best of $RUNS counts for each. Output: DESIGN.md section 9.
set -u
cd "$(dirname "$0")/.." || exit 2
BUILD=$(cd "${BUILD:-build}" && pwd) || exit 2
PATH=$BUILD:$PATH:/usr/sbin:/sbin
export BUILD
runs=${RUNS:-5}
[ -n "${QUICK:-}" ] && runs=${RUNS:-2}

cannot() { # cannot REASON
	echo "bench-store: $*" >&2
	exit 2
}
[ "$(id -u)" = 0 ] || cannot 'needs root, to drop the page cache and mount'
[ -w /dev/fuse ] || cannot 'no /dev/fuse'
for tool in borg restic mksquashfs qemu-system-x86_64; do
	command -v $tool >/dev/null || cannot "$tool is not installed: run make deps"
done
. tests/lib/ram.sh

T=$(mktemp -d "${BENCH_DIR:-${TMPDIR:-/tmp}}/bench-store.XXXXXX") || exit 2
cleanup() {
	smfs unmount "$T/mnt" 2>/dev/null
	mountpoint -q "$T/squash" && umount "$T/squash"
	rm -rf "$T"
}
trap cleanup EXIT
trap 'exit 2' INT TERM
mkdir "$T/mnt" "$T/squash"

export BORG_BASE_DIR="$T/borg-home" BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes
export RESTIC_PASSWORD=bench RESTIC_CACHE_DIR="$T/restic-cache" RESTIC_PROGRESS_FPS=0.1

# A snapshot as a directory: guest RAM, and the two small files that go with it.
guest() { # guest NAME
	image=$(ram_image "$1") || cannot "no RAM image of guest $1"
	mkdir "$T/$1" && ln "$image" "$T/$1/ram" 2>/dev/null || cp --sparse=always "$image" "$T/$1/ram"
	echo "{\"guest\": \"$1\"}" >"$T/$1/meta"
	head -c 20000 /dev/zero | tr '\0' 'v' >"$T/$1/vcpu"
}
guest python
[ -n "${QUICK:-}" ] || guest python2
bytes=$(stat -c %s "$T/python/ram")
data=$(($(stat -c %b "$T/python/ram") * 512))

smfs_new() { rm -rf "$T/smfs" && smfs init -q "$T/smfs"; }
smfs_put() { smfs import -q --store "$T/smfs" "$1" "$T/$1"; }
borg_new() { rm -rf "$T/borg" && borg init --encryption none "$T/borg"; }
borg_put() { (cd "$T/$1" && borg create --compression zstd,1 "$T/borg::$1" .); }
restic_new() { rm -rf "$T/restic" "$RESTIC_CACHE_DIR" && restic init -q -r "$T/restic"; }
restic_put() { (cd "$T/$1" && restic backup -q -r "$T/restic" .); }

now_us() { echo $(($(date +%s%N) / 1000)); }
timed_put() { # timed_put CONTENDER GUEST: microseconds
	cat "$T/$2/ram" >/dev/null
	sync
	t=$(now_us)
	"$1_put" "$2" >"$T/log" 2>&1 || { cat "$T/log" >&2; return 1; }
	sync -f "$T/$1"
	echo $(($(now_us) - t))
}
disk_bytes() { du -s --block-size=1 "$T/$1" | cut -f 1; }
lowest() { # lowest NAME VALUE: keep the lower in $T/NAME
	[ -f "$T/$1" ] && [ "$(cat "$T/$1")" -le "$2" ] || echo "$2" >"$T/$1"
}

# line NAME VALUE UNIT AGAINST-VALUE AGAINST-NAME LIMIT(<=X or >=X or -)   ratio is VALUE / AGAINST-VALUE
line() {
	awk -v name="$1" -v v="$2" -v unit="$3" -v a="$4" -v against="$5" -v limit="$6" 'BEGIN {
		ratio = a > 0 ? sprintf("%.2f", v / a) : "-"
		bar = substr(limit, 3) + 0
		good = limit == "-" || (substr(limit, 1, 2) == ">=" ? v / a >= bar : v / a <= bar)
		printf "%s\t%.1f\t%s\t%s\t%s\t%s\t%s\n", name, v, unit, ratio, against, limit, good ? "ok" : "MISS"
	}'
}
mb_per_s() { awk -v b="$1" -v us="$2" 'BEGIN { printf "%.1f", b / us }'; }
mb() { awk -v b="$1" 'BEGIN { printf "%.1f", b / 1e6 }'; }

borg_name=$(borg --version | tr ' ' -)
restic_name=restic-$(restic version | awk '{ print $2; exit }')

run=0
while [ $run -lt "$runs" ]; do
	run=$((run + 1))
	for c in smfs borg restic; do
		"${c}_new" >"$T/log" 2>&1 || { cat "$T/log" >&2; exit 2; }
		us=$(timed_put $c python) || exit 2
		lowest $c.us "$us"
		lowest $c.bytes "$(disk_bytes $c)"
		[ -n "${QUICK:-}" ] && continue
		us=$(timed_put $c python2) || exit 2
		lowest $c.us2 "$us"
		lowest $c.bytes2 "$(disk_bytes $c)"
	done
done

# Reading: the store as it is, a squashfs of the same directory beside it.
mksquashfs "$T/python" "$T/python.squashfs" -comp zstd -Xcompression-level 1 -b 128K -quiet -no-progress >/dev/null || exit 2
# The kernel with squashfs is the one to beat; where it cannot mount one there is no such peer, and the bar is absolute.
squash=
mount -t squashfs -o loop,ro "$T/python.squashfs" "$T/squash" 2>"$T/log" && squash=kernel-squashfs-zstd
[ -z "$squash" ] || umount "$T/squash"
drop_caches() { sync && echo 3 >/proc/sys/vm/drop_caches; }
timed_read() { # timed_read FILE
	t=$(now_us)
	dd if="$1" of=/dev/null bs=1M 2>/dev/null || return 1
	echo $(($(now_us) - t))
}
run=0
while [ $run -lt "$runs" ]; do
	run=$((run + 1))
	smfs mount -q "$T/smfs" "$T/mnt" || exit 2
	drop_caches
	us=$(timed_read "$T/mnt/snapshots/python/ram") || exit 2
	lowest read.us "$us"
	[ $run -gt 1 ] || cmp "$T/mnt/snapshots/python/ram" "$T/python/ram" || exit 2
	smfs unmount -q "$T/mnt"
	if [ -n "$squash" ]; then
		mount -t squashfs -o loop,ro "$T/python.squashfs" "$T/squash" || exit 2
		drop_caches
		us=$(timed_read "$T/squash/ram") || exit 2
		lowest squash.us "$us"
		umount "$T/squash"
	fi
done

got() { cat "$T/$1"; }
mkdir -p bench/results
{
	echo "# $(uname -srm), $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1), $(nproc) CPUs, $(date -u +%Y-%m-%dT%H:%MZ), load $(cut -d' ' -f1-3 /proc/loadavg)"
	echo "# $(smfs --version | head -n 1), $borg_name, $restic_name, $(mksquashfs -version | head -n 1 | cut -d' ' -f1-3); best of $runs"
	echo "# guest RAM: $bytes bytes, of which $data are not holes, of a Debian guest running Python (tests/lib/ram.sh)"
	printf 'name\tvalue\tunit\tratio\tagainst\tlimit\tok\n'
	ours=$(mb_per_s "$bytes" "$(got smfs.us)")
	line ingest "$ours" MB/s "$(mb_per_s "$bytes" "$(got borg.us)")" "$borg_name" '>=2'
	line ingest "$ours" MB/s "$(mb_per_s "$bytes" "$(got restic.us)")" "$restic_name" '>=2'
	line stored "$(mb "$(got smfs.bytes)")" MB "$(mb "$(got borg.bytes)")" "$borg_name" -
	line stored "$(mb "$(got smfs.bytes)")" MB "$(mb "$(got restic.bytes)")" "$restic_name" '<=1'
	if [ -z "${QUICK:-}" ]; then
		ours=$(mb_per_s "$bytes" "$(got smfs.us2)")
		line ingest-second "$ours" MB/s "$(mb_per_s "$bytes" "$(got borg.us2)")" "$borg_name" '>=2'
		line ingest-second "$ours" MB/s "$(mb_per_s "$bytes" "$(got restic.us2)")" "$restic_name" '>=2'
		line stored-both "$(mb "$(got smfs.bytes2)")" MB "$(mb "$(got borg.bytes2)")" "$borg_name" -
		line stored-both "$(mb "$(got smfs.bytes2)")" MB "$(mb "$(got restic.bytes2)")" "$restic_name" '<=1'
	fi
	read_speed=$(mb_per_s "$bytes" "$(got read.us)")
	if [ -n "$squash" ]; then
		# 1 GB/s or the peer's speed, whichever is easier: the issue gives both.
		peer=$(mb_per_s "$bytes" "$(got squash.us)")
		awk -v v="$read_speed" 'BEGIN { exit !(v >= 1000) }' && bar=- || bar='>=1'
		line cold-read "$read_speed" MB/s "$peer" $squash "$bar"
	fi
	line cold-read "$read_speed" MB/s 1000 '1-GB/s' "$([ -n "$squash" ] && echo - || echo '>=1')"
} >"$T/out"
cat "$T/out"
cp "$T/out" bench/results/bench-store.tsv
[ -n "$squash" ] || echo "bench-store: this kernel mounts no squashfs here ($(head -n 1 "$T/log")): no peer for cold-read" >&2
