# Images made to harm or confuse, from tests/registry/hostile.py: refused in so many words, or read as they must be.
. tests/lib/tap.sh

export SMFS_STORE="$T/store"
python3 tests/registry/hostile.py "$T/img" >"$T/list" || exit 1
check "a store" smfs init "$T/store"

pull() { # pull NAME
	smvm-pull -q "oci:$T/img/$1:1" --name "h/$1:1" 2>"$T/err"
	pull_status=$?
	sed 's/^/# /' "$T/err"
	return $pull_status
}
refused() { # refused NAME WORDS: exit status 1 to 5, one line with these words, nothing published
	pull "$1" && return 1
	[ $pull_status -le 5 ] && [ "$(wc -l <"$T/err")" = 1 ] && grep -q -- "$2" "$T/err" && ! smfs info "images/docker.io/h/$1:1" >/dev/null 2>&1
}

while read -r name expected; do
	if [ "$expected" = good ]; then
		check "$name: pulled" pull "$name"
	else
		check "$name: refused" refused "$name" "$expected"
	fi
done <"$T/list"
check "fsck is clean" smfs fsck --read-data

mkdir "$T/mnt"
smfs mount "$T/store" "$T/mnt"
at_exit 'smfs unmount "$T/mnt"'
h=$T/mnt/images/docker.io/h
check "what escapes lands inside" test -f "$h/escapes-are-clamped:1/rootfs/etc/clamped" \
	-a -f "$h/escapes-are-clamped:1/rootfs/abs" -a -f "$h/escapes-are-clamped:1/rootfs/in"
check "a device 0:0 hides" test ! -e "$h/device-zero-is-a-whiteout:1/rootfs/a"
check "an opaque root hides all below" test "$(ls "$h/opaque-root:1/rootfs")" = new
check "nothing of AUFS is left" test -z "$(ls -A "$h/aufs-leftovers:1/rootfs")"
check "a folder replaces a lower file" test -f "$h/below-a-lower-file:1/rootfs/a/b"
check "no overlayfs attribute comes out of an archive" \
	test -z "$(getfattr -d -m trusted.overlay "$h/overlay-xattr-in-tar:1/rootfs/a" 2>/dev/null)"
check "a sparse file has its holes" test "$(stat -c %b "$h/gnu-sparse:1/rootfs/sparse")" -le 256
check "and its data" test "$(tail -c +1048577 "$h/gnu-sparse:1/rootfs/sparse" | head -c 4)" = data
check "an archive without an end is whole" test "$(cat "$h/no-end-of-archive:1/rootfs/a")" = 12345
tap_done
