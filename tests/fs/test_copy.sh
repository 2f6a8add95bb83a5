#!/bin/sh
# Snapshots through cp, mv and rm: exported byte for byte with their holes, imported whole or not at all.
. tests/lib/tap.sh
. tests/fs/mount.sh
need_fuse

make_snapshot "$T/a" 1
make_snapshot "$T/b" 2
smfs init -q "$S"
smfs import -q --store "$S" a "$T/a"
start_mount -v
N=$M/snapshots

blocks_close() { # about the same data blocks: a frame holds the zeros between data
	[ "$(stat -c %b "$1")" -le "$(($(stat -c %b "$2") + 256))" ] &&
		[ "$(($(stat -c %b "$1") * 512))" -lt "$(stat -c %s "$1")" ]
}
listed() { # listed NAME: in the index, not just in this mount
	smfs ls -q --store "$S" snapshots | grep -qx "snapshots/$1"
}

# ---- out -------------------------------------------------------------------------------------
check "cp -r out" cp -r "$N/a" "$T/out"
check "gives the bytes that went in" same_tree "$T/a" "$T/out"
check "with their holes" blocks_close "$T/out/ram" "$T/a/ram"
check "and the mount shows them in st_blocks" blocks_close "$N/a/ram" "$T/a/ram"
check "cp --sparse=never gives the same bytes" sh -c "cp --sparse=never $N/a/ram $T/dense && cmp $T/dense $T/a/ram"
check "tar --sparse, too" sh -c "tar -C $N -cSf $T/a.tar a && mkdir $T/tar && tar -C $T/tar -xf $T/a.tar && diff -r $T/a $T/tar/a"

# ---- in --------------------------------------------------------------------------------------
check "cp -r in" cp -r "$T/out" "$N/b1"
check "gives the same bytes" same_tree "$N/b1" "$T/a"
check "and a name in the index" listed b1
check "equal content is one inode, whatever its name" \
	test "$(stat -c %i "$N/a/ram")" = "$(stat -c %i "$N/b1/ram")"
check "cp -a in" cp -a "$T/b" "$N/b2"
check "gives the same bytes, too" same_tree "$N/b2" "$T/b"
check_not "other content is another inode" \
	test "$(stat -c %i "$N/a/ram")" = "$(stat -c %i "$N/b2/ram")"
check "files are root's alone" test "$(stat -c %a.%u.%g "$N/b1/ram")" = 400.0.0
check "cp from the mount to itself" sh -c "cp -r $N/a $N/b3 && diff -r $N/b3 $T/a"
check_not "cp -r over a snapshot fails" cp -rT "$T/b" "$N/a"
check_not "and into one" cp -r "$T/b" "$N/a"
check "and leaves it as it was" same_tree "$N/a" "$T/a"
check_not "nothing is written into a snapshot" sh -c "echo x >$N/a/meta"
check_not "or added" touch "$N/a/new"
check_not "or truncated" truncate -s 0 "$N/a/ram"
check_not "chmod of a snapshot is refused" chmod 644 "$N/a/ram"
check_not "images/ cannot be written" mkdir "$M/images/x"
check_not "layers/ cannot be written" touch "$M/layers/x"
for bad in .hidden -dash 'sp ace' "$(printf 'x%.0s' $(seq 129))"; do
	check_not "the name '$(echo "$bad" | cut -c 1-12)' is refused" mkdir -- "$N/$bad"
done

# ---- a copy in progress ----------------------------------------------------------------------
mkdir "$N/c"
cp "$T/a/meta" "$T/a/ram" "$N/c"
check "a copy in progress is seen in its mount" test -d "$N/c"
check_not "and nowhere else" listed c
check "what was written can be read" cmp "$N/c/ram" "$T/a/ram"
check_not "a second copy of that name is refused" mkdir "$N/c"
check_not "directories inside are refused" mkdir "$N/c/sub"
check_not "links inside are refused" ln -s meta "$N/c/link"
check "vcpu completes it" cp "$T/a/vcpu" "$N/c"
check "now it is a snapshot" listed c
check "with all its bytes" same_tree "$N/c" "$T/a"

mkdir "$N/d"
cp "$T/a/meta" "$T/a/vcpu" "$N/d"
check "writing at random, with fallocate and truncate, gives the bytes" python3 - "$T/a/ram" "$N/d/ram" <<'PY'
import ctypes, os, random, sys
data = open(sys.argv[1], "rb").read()
fd = os.open(sys.argv[2], os.O_CREAT | os.O_RDWR)
os.posix_fallocate(fd, 0, len(data) + 4096)
os.ftruncate(fd, len(data))
order = list(range(0, len(data), 50000))
random.Random(3).shuffle(order)
for at in order:
    assert os.pwrite(fd, data[at:at + 50000], at) == len(data[at:at + 50000])
assert os.pread(fd, len(data), 0) == data
os.close(fd)
PY
check "and publishes at its close" sh -c "smfs ls -q --store $S | grep -qx snapshots/d && cmp $N/d/ram $T/a/ram"

# ---- refused at the close --------------------------------------------------------------------
close_fails() { # close_fails NAME: the last close of the copy is an error
	cp "$T/e/meta" "$T/e/ram" "$N/$1" && ! cp "$T/e/vcpu" "$N/$1"
}
cp -r "$T/a" "$T/e"
printf 'not json' >"$T/e/meta"
mkdir "$N/e"
check "a meta that is no JSON is refused" close_fails e
check "and the log says why" grep -q "import snapshot e: .*JSON" "$T/log"
check_not "and there is no snapshot" listed e
check "which can be put right" cp "$T/a/meta" "$N/e/meta"
check "and then is one" listed e

mkdir "$N/k"
cp "$T/a/meta" "$T/a/ram" "$N/k"
python3 - "$N/k/vcpu" <<'PY'
import os, signal, sys
fd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
os.write(fd, b"x" * 5000)
os.kill(os.getpid(), signal.SIGKILL)
PY
check_not "a copy killed half-way through its last file is no snapshot" listed k
check "and can be taken up again" cp "$T/a/vcpu" "$N/k/vcpu"
check "to its end" same_tree "$N/k" "$T/a"

cp "$T/a/meta" "$T/e/meta"
head -c 1000000 "$T/a/ram" >"$T/e/ram"
mkdir "$N/f"
check "a ram cut short is refused" close_fails f
check "and the log says why" grep -q "import snapshot f: ram is 1000000 bytes, meta says" "$T/log"
check "a refused copy is removed with rm -r" rm -r "$N/f"
check_not "and is gone" test -e "$N/f"

mkdir "$N/g"
cp "$T/a/meta" "$T/a/ram" "$N/g"
smfs import -q --store "$S" g "$T/b"
check_not "a name taken meanwhile is refused at the close" cp "$T/a/vcpu" "$N/g"
rm -r "$N/g"
check "and the other one is unharmed" same_tree "$N/g" "$T/b"

# rsync's way: hidden temporary names, then renames
mkdir "$N/r"
for f in meta ram vcpu; do
	cp "$T/a/$f" "$N/r/.$f.Xq3a"
	mv "$N/r/.$f.Xq3a" "$N/r/$f" || echo "# mv $f failed"
done
check "temporary names and renames publish, too" listed r
check "with the right bytes" same_tree "$N/r" "$T/a"

# ---- mv and rm -------------------------------------------------------------------------------
check "mv renames" mv -T "$N/r" "$N/s"
check_not "the old name is gone" test -e "$N/r"
check "the new one has the bytes" same_tree "$N/s" "$T/a"
check_not "mv onto a snapshot is refused" mv -nT "$N/s" "$N/a" -v 2>&1 | grep -q renamed
check_not "by rename(2), too" python3 -c "import os; os.rename('$N/s', '$N/a')"
check_not "mv out of snapshots/ within the mount is refused" \
	python3 -c "import os; os.rename('$N/s', '$M/images/s')"
check "a copy in progress can be renamed" sh -c "mkdir $N/t && mv -T $N/t $N/u && rmdir $N/u"
exec 5<"$N/s/ram"
check "rm -r removes" rm -r "$N/s"
check_not "from the index" listed s
check "who has a file open still reads it" cmp /dev/fd/5 "$T/a/ram"
exec 5<&-
rm "$N/b3/ram" "$N/b3/meta"
check "a removal half done shows the rest" test "$(ls "$N/b3")" = vcpu
check_not "and is not finished by rmdir" rmdir "$N/b3"
check "the index still has it whole" smfs info --store "$S" b3
stop_mount
start_mount
check "the next mount shows all of it" same_tree "$N/b3" "$T/a"

# ---- other processes -------------------------------------------------------------------------
smfs import -q --store "$S" z "$T/b"
check "a snapshot published elsewhere is seen" same_tree "$N/z" "$T/b"
smfs mv --store "$S" z zz
check_not "one renamed elsewhere is gone" test -e "$N/z"
check "and is there under its new name" same_tree "$N/zz" "$T/b"
smfs rm --store "$S" zz
check_not "one removed elsewhere is gone" test -e "$N/zz"
smfs import -q --store "$S" zz "$T/a"
check "a new one of that name is the new one" same_tree "$N/zz" "$T/a"
check "an abandoned copy leaves nothing" sh -c "mkdir $N/left && cp $T/a/ram $N/left"
stop_mount
start_mount
check_not "after a remount" test -e "$N/left"
check "nothing but the lease of the mount is left in the store's tmp/" sh -c '! ls -A "$1" | grep -v "^lease[.]"' - "$S/tmp"
check "fsck is content" smfs fsck --read-data --store "$S"
stop_mount
check "no sanitizer complained in the server" log_clean
tap_done
