# Reads of `ram` of `python` through a fresh mount. Cold: against a kernel squashfs (zstd level 1, 128 KiB blocks) of
# the same directory (bench/mount-read.c), and against `restic mount`, front to back. Hot: materialised by `smfs warm` and in
# the page cache, against the file itself on the file system below.
ram=$T/mnt/snapshots/python/ram
with_restic() { # with_restic COMMAND...: with $restic_ram the file in a mount of the repository
	restic mount -q -r "$T/restic" "$T/restic-mnt" >"$T/log" 2>&1 &
	restic_pid=$!
	left=200
	until restic_ram=$(find "$T/restic-mnt/tags/python/latest/" -name ram 2>/dev/null) && [ -n "$restic_ram" ]; do
		left=$((left - 1))
		[ $left -gt 0 ] || { cat "$T/log" >&2; kill $restic_pid; return 1; }
		sleep 0.05
	done
	"$@"
	umount "$T/restic-mnt" && wait $restic_pid
}
sequential() { # sequential NAME FILE
	drop_caches
	t=$(now_us)
	dd if="$2" of=/dev/null bs=1M 2>/dev/null || exit 2
	lowest "$1.read" "$(since_us "$t")"
}
restic_sequential() { sequential restic "$restic_ram"; }
measured() { # measured PROGRAM ARG...: its lines are ours
	program=$1
	shift
	"$BUILD/bench/$program" "$@" >"$T/program" || exit 2
	tee -a "$T/out" <"$T/program"
}

smfs mount -q --hot never "$T/smfs" "$T/mnt" || exit 2
cmp "$ram" "$T/python/ram" || exit 2
run=0
while [ $run -lt "$runs" ]; do
	run=$((run + 1))
	sequential smfs "$ram"
	with_restic restic_sequential || exit 2
done
line cold-sequential "$(rate "$guest_bytes" "$(got smfs.read)")" MB/s "$(rate "$guest_bytes" "$(got restic.read)")" \
	"$restic_name mount" '>=5'

mksquashfs "$T/python" "$T/python.squashfs" -comp zstd -Xcompression-level 1 -b 128K -quiet -no-progress >/dev/null || exit 2
if mount -t squashfs -o loop,ro "$T/python.squashfs" "$T/squash" 2>"$T/log"; then
	measured mount-read cold cold "$ram" kernel-squashfs-zstd-1 "$T/squash/ram" "$runs"
	umount "$T/squash"
else
	say "cold reads against squashfs: not measured: this kernel mounts none here ($(head -n 1 "$T/log"))"
fi
smfs unmount -q "$T/mnt"

smfs warm -q --store "$T/smfs" snapshots/python >"$T/log" && smfs mount -q "$T/smfs" "$T/mnt" || exit 2
measured mount-read hot hot "$ram" "$(findmnt -n -o FSTYPE -T "$T")" "$T/python/ram" "$runs"
smfs unmount -q "$T/mnt"
