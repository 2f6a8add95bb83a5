#!/bin/sh
# smfs gc beside mounts: what is open or mapped of a removed snapshot stays, and goes when let go.
. tests/lib/tap.sh
. tests/fs/mount.sh
need_fuse
export SMFS_STORE="$S"

value() { # value KEY FILE: a number of smfs gc --json
	python3 -c 'import json,sys; print(json.load(open(sys.argv[2]))[sys.argv[1]])' "$1" "$2"
}
gc() { # gc FILE [OPTION]: its JSON into FILE
	out=$1
	shift
	smfs gc --json "$@" >"$out"
}
is() { # is KEY FILE NUMBER
	[ "$(value "$1" "$2")" -eq "$3" ] || { echo "# $1 is $(value "$1" "$2"), not $3"; return 1; }
}
more() {
	[ "$(value "$1" "$2")" -gt "$3" ] || { echo "# $1 is $(value "$1" "$2"), not above $3"; return 1; }
}
packs_bytes() { du -sB1 "$S/packs" | cut -f1; }

smfs init "$S" >/dev/null
mkdir -p "$M"
for i in 1 2 3; do
	make_snapshot "$T/in$i" "$i"
	smfs import -q "s$i" "$T/in$i"
done

check "nothing is unused at first" gc "$T/j"
check "... nothing condemned" is condemned_frames "$T/j" 0
check "mount" start_mount
cp "$T/in1/ram" "$T/ram1"

# A reader with the file open and mapped: prints a line when ready, then compares when told.
cat >"$T/reader.py" <<'PY'
import mmap, os, sys
path, want = sys.argv[1], open(sys.argv[2], "rb").read()
fd = os.open(path, os.O_RDONLY)
m = mmap.mmap(fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ)
m[0]
print("ready", flush=True)
sys.stdin.readline()
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
good = m[:] == want and os.pread(fd, len(want), 0) == want
print("same" if good else "different", flush=True)
sys.stdin.readline()
PY
mkfifo "$T/to" "$T/from"
python3 "$T/reader.py" "$M/snapshots/s1/ram" "$T/ram1" <"$T/to" >"$T/from" &
reader=$!
exec 5>"$T/to" 6<"$T/from"
at_exit 'kill $reader 2>/dev/null'
read -r said <&6
check "a reader has ram open and mapped" [ "$said" = ready ]

check "the snapshot is removed through the mount" rm -r "$M/snapshots/s1"
check "another by the command" smfs rm s2
before=$(packs_bytes)
check "a dry run" gc "$T/j" --dry-run
check "... finds something" more condemned_frames "$T/j" 0
check "... changes nothing" [ "$(packs_bytes)" = "$before" ]
check "gc beside the mount" gc "$T/j"
check "... honours the lease" more leased_roots "$T/j" 0
check "... frees what is not in use" more freed_frames "$T/j" 0
check "... rewrites packs" more packs_compacted "$T/j" 0
check "... gives space back" [ "$(packs_bytes)" -lt "$before" ]
echo go >&5
read -r said <&6
check "the reader reads on, right bytes" [ "$said" = same ]
check "the third snapshot is whole" same_tree "$M/snapshots/s3" "$T/in3"
between=$(packs_bytes)
echo end >&5
exec 5>&- 6<&-
wait $reader

freed_at_last() { # the kernel lets go of a closed file in its own time
	for _ in $(seq 300); do
		gc "$T/j" || return 1
		[ "$(packs_bytes)" -lt "$between" ] && return 0
		sleep 0.1
	done
	return 1
}
check "closed, it is freed" freed_at_last
check "a second run" gc "$T/j"
check "... finds nothing" is condemned_frames "$T/j" 0
check "... frees nothing" is freed_frames "$T/j" 0

# Looked at, not open, and then removed behind the mount's back: the mount lets go when asked.
smfs import -q s4 "$T/in1"
check "a snapshot is looked at" same_tree "$M/snapshots/s4" "$T/in1"
check "... removed by the command" smfs rm s4
between=$(packs_bytes)
check "gc gets it back from the mount" freed_at_last
check "no lease is left but of what is there" sh -c "[ \$(smfs gc --json | python3 -c 'import json,sys; print(json.load(sys.stdin)[\"leased_roots\"])') -le 1 ]"

smfs import -q s5 "$T/in2"
check "unmount" stop_mount
check "nothing strange in the server's log" log_clean
check "the store is clean" smfs fsck --read-data
check "no lease file is left" [ -z "$(ls "$S/tmp")" ]

# Interrupted, and beside another.
check_not "a per cent above 101 is refused" smfs gc --compact 102
check "gc of a store nobody uses" gc "$T/j"
tap_done
