#!/bin/sh
# The smfs command: every subcommand, its JSON, its exit status, and what it says when it fails.
. tests/lib/tap.sh
SMFS_STORE=$T/store
export SMFS_STORE
S=$SMFS_STORE
M=$T/mnt
. tests/fs/mount.sh

# ---- usage -----------------------------------------------------------------------------------
check "no command is wrong usage" status 2 smfs
check "an unknown command, too" says 2 "no command .nope" smfs nope
check "an unknown option, too" status 2 smfs ls --nope
check "too many arguments, too" says 2 "too many" smfs stat a b
check "too few, too" says 2 "too few" smfs mv a
check "--help lists the commands" prints "import" smfs --help
check "--version" prints "^smfs [0-9]" smfs --version
for c in init mount unmount ls info stat rm mv import export fsck warm log du stats limit; do
	check "smfs $c --help" prints "usage: smfs $c" smfs "$c" --help
done
check "a full disk is noticed" says 1 "standard output" sh -c "smfs --help >/dev/full"

# ---- init ------------------------------------------------------------------------------------
check "without a store, commands say how to make one" says 3 "smfs init" smfs ls
check "init" smfs init
check "init of a store is refused" says 4 "is a store already" smfs init
mkdir "$T/full" && touch "$T/full/x"
check "init over files is refused" says 1 "not empty" smfs init "$T/full"
check "an empty store lists nothing" sh -c 'test -z "$(smfs ls)"'
check "and is clean" smfs fsck

# ---- import, ls, info, stat ------------------------------------------------------------------
make_snapshot "$T/a" 1
make_snapshot "$T/b" 2
cp "$T/a/ram" "$T/b/ram"
check "import" prints "snapshots/a: 4.1 MiB" smfs import a "$T/a"
check "import of a taken name is refused" says 4 "exists" smfs import a "$T/b"
check "import with --json" json_has '.name == "b" and .dup_bytes > 1000000' smfs import --json b "$T/b"
check "import of nothing is refused" says 3 "No such" smfs import c "$T/nothing"
check "import of a bad name is refused" status 2 smfs import ../c "$T/a"
mkdir "$T/c" && cp "$T/a/meta" "$T/a/ram" "$T/c"
check "import without vcpu is refused" says 2 "no file .vcpu" smfs import c "$T/c"
mkdir "$T/c/vcpu"
check "import of a directory in it is refused" says 2 "not a regular file" smfs import c "$T/c"
check "ls" prints "^snapshots/a .*4.1 MiB" smfs ls
check "ls of a kind" prints "^snapshots/b" smfs ls snapshots
check "of another" sh -c 'test -z "$(smfs ls images)"'
check "of none" status 2 smfs ls nonsense
check "ls -q gives names only" sh -c 'test "$(smfs ls -q | tr "\n" " ")" = "snapshots/a snapshots/b "'
check "ls --json" json_has 'length == 2 and .[0].name == "a" and .[0].kind == "snapshot" and (.[0].root | length) == 64' smfs ls --json
check "info" prints "^ram *4.0 MiB" smfs info a
check "info by its kind" prints "^name *snapshots/a" smfs info snapshots/a
check "info --json has meta whole" json_has '.meta.seed == 1 and (.files | length) == 3' smfs info a --json
check "info of nothing" says 3 "no snapshot, image or layer" smfs info nothing
check "info of no snapshot" says 3 "no snapshot .nothing" smfs info snapshots/nothing
check "stat of the store" prints "^stored *[0-9]" smfs stat
check "stat --json adds up" json_has '.snapshots == 2 and .logical_bytes > .raw_bytes and .stored_bytes <= .disk_bytes' smfs stat --json
check "two snapshots share what is equal, once" json_has '.shared_bytes > 1000000 and .shared_bytes < .stored_bytes' smfs stat --json b

# ---- export, mv, rm --------------------------------------------------------------------------
check "export" smfs export a "$T/exported"
check "gives the bytes that went in" same_tree "$T/a" "$T/exported"
check "with their holes" test "$(stat -c %b "$T/exported/ram")" -le "$(($(stat -c %b "$T/a/ram") + 256))"
check "export over something is refused" says 4 "exists" smfs export a "$T/exported"
check "mv" smfs mv a z
check "takes the name along" prints "^snapshots/z" smfs ls
check "mv onto a name is refused" status 4 smfs mv z b
check "mv to a bad name is refused" status 2 smfs mv z .x
check "mv to another kind is refused" status 2 smfs mv z "layers/sha256:$(printf '%064d' 0)"
check "mv of nothing" status 3 smfs mv nothing y
check "rm" smfs rm z
check "rm of several goes on past one it cannot" status 3 smfs rm nothing b
check "and then all are gone" sh -c 'test -z "$(smfs ls)"'
check "fsck --json" json_has '.clean and .findings == []' smfs fsck --read-data --json
check "unmount of nothing" says 3 "nothing is mounted" smfs unmount "$T"
check "--store wins over SMFS_STORE" says 3 "no such directory\|smfs init $T/other" smfs ls --store "$T/other"

# ---- interrupted -----------------------------------------------------------------------------
mkdir "$T/big"
cp "$T/a/vcpu" "$T/big"
echo '{}' >"$T/big/meta"
head -c 200M /dev/urandom >"$T/big/ram"
# interrupted UNDO IN_IT COMMAND...: its status, once IN_IT has held. One that was quicker is undone, and tried again.
interrupted() {
	undo=$1 in_it=$2
	shift 2
	for _ in 1 2 3 4 5 6 7 8; do
		"$@" &
		pid=$!
		until $in_it || ! kill -0 $pid 2>/dev/null; do :; done
		kill -INT $pid 2>/dev/null
		wait $pid
		interrupted=$?
		[ $interrupted = 0 ] || break
		$undo
	done
	return $interrupted
}
not_imported() { smfs rm big && smfs gc -q --compact 1; }
# It has written something into the store.
importing() { [ "$(du -sm "$S/tmp" "$S/packs" | awk '{n += $1} END {print n}')" -gt 5 ]; }
check "an interrupted import says so by its status" status 6 interrupted not_imported importing smfs import -q big "$T/big"
check "and leaves no name" sh -c 'test -z "$(smfs ls)"'
check "and a clean store" smfs fsck --read-data
smfs import -q big "$T/big"
not_exported() { rm -r "$T/bigout"; }
exporting() { ls "$T" | grep -q 'bigout.partial'; }
check "an interrupted export says so by its status" status 6 interrupted not_exported exporting smfs export big "$T/bigout"
check_not "and leaves nothing" sh -c "ls $T | grep bigout"
tap_done
