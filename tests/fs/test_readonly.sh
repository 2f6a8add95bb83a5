#!/bin/sh
# A store on read-only media: a squashfs image, an ext4 mounted ro, a read-only bind mount. Everything that
# reads works, mount -r too; what writes says why it cannot.
. tests/lib/tap.sh
. tests/fs/mount.sh
need_fuse
W=$T/writable
make_snapshot "$T/a" 1
make_snapshot "$T/b" 2
smfs import -q --store "$W" a "$T/a"
smfs import -q --store "$W" b "$T/b"
smfs export -q --store "$W" a b "$T/ab.smfs"

quiet() { # quiet COMMAND...: succeeds, and says nothing on standard error
	"$@" 2>"$T/err" >"$T/out" </dev/null && [ ! -s "$T/err" ] || { cat "$T/err"; return 1; }
}

reads() { # reads WHAT STORE: everything that reads
	S=$2
	check "$1: ls" sh -c "smfs ls -q --store $S 2>/dev/null | grep -qx snapshots/b"
	check "info, stat, du, stats, limit, log" sh -c "for c in 'info a' stat 'stat a' du stats limit log; do smfs \$c --store $S || exit 1; done"
	check "fsck, of every byte" smfs fsck --read-data --store "$S"
	rm -rf "$T/x" "$T/x.smfs"
	check "export to a directory" sh -c "smfs export --store $S a $T/x && diff -r $T/a $T/x"
	check "export as a stream" sh -c "smfs export --store $S a b - | cmp - $T/ab.smfs"
	check "import is refused" says 1 "Read-only file system" smfs import --store "$S" c "$T/a"
	check "rm is refused" says 1 "Read-only file system" smfs rm --store "$S" a
	check "a mount that may write is refused" says 1 "Read-only file system" smfs mount "$S" "$M"
	check "mount -r works" start_mount -r
	check "with the right bytes" same_tree "$M/snapshots/a" "$T/a"
	check "and ok is its health" grep -qx ok "$M/.smfs/health"
	check "nothing can be put in" says 1 "Read-only file system" mkdir "$M/snapshots/c"
	check "two at once" sh -c "smfs info --store $S a 2>/dev/null"
	stop_mount
	check "no sanitizer complained in the server" log_clean
}

# ---- squashfs ---------------------------------------------------------------------------------
mkdir "$T/sq" "$T/e4" "$T/bind"
if mksquashfs "$W" "$T/sq.img" -quiet -no-progress >/dev/null && mount -o loop,ro "$T/sq.img" "$T/sq"; then
	at_exit 'umount "$T/sq"'
	reads squashfs "$T/sq"
	check "nothing is said about locks where nobody can write" quiet smfs ls --store "$T/sq"
else
	skip "squashfs" "no squashfs or loop mount here"
fi

# ---- ext4, ro ---------------------------------------------------------------------------------
if truncate -s 64M "$T/e4.img" && mkfs.ext4 -qF "$T/e4.img" && mount -o loop "$T/e4.img" "$T/e4"; then
	at_exit 'umount "$T/e4"'
	cp -r "$W" "$T/e4/store"
	# a writer that died there, and whose rest nobody can remove
	cp "$T/a/ram" "$T/e4/store/packs/0123456789abcdef.pack"
	mount -o remount,ro "$T/e4"
	reads "ext4 -o ro" "$T/e4/store"
	check "nor here" quiet smfs ls --store "$T/e4/store"
else
	skip "ext4" "no loop mount here"
fi

# ---- a read-only bind mount of a file system that others may write ----------------------------
if mount --bind "$W" "$T/bind" && mount -o remount,bind,ro "$T/bind"; then
	at_exit 'umount "$T/bind"'
	reads "bind mount" "$T/bind"
	check "here it is" sh -c "smfs ls --store $T/bind 2>&1 | grep -q 'nobody may change it'"
else
	skip "bind mount" "no bind mount here"
fi
tap_done
