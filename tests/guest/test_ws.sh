#!/bin/sh
# The working set of a restored guest: recorded, replayed by the next restore, refused when it is not one, and of
# no consequence for what a guest or a snapshot of it holds.
. tests/lib/tap.sh
. tests/guest/tiny.sh

state_of() { smvm-runner info "$1" | jq -r .prefault.state; }
state_is() { [ "$(state_of "$1")" = "$2" ]; }
faults() { # of the vCPU
	for t in /proc/"$(smvm-runner info "$1" | jq .pid)"/task/*; do
		[ "$(cat "$t/comm")" != 'vcpu 0' ] || sed 's/.*) //' "$t/stat" | cut -d' ' -f8
	done
}
whole() { until_true 30 said "$1" "^whole [0-9a-f]* $nonce\$"; }
ws_of() { # ws_of SNAPSHOT: "<pages written> <pages read>"
	od -An -v -t u4 -w8 -j40 "$SMFS_MOUNT/snapshots/$1/ws" |
		awk '{ if ($2 >= 2147483648) w += $2 - 2147483648; else r += $2 } END { print w + 0, r + 0 }'
}
SNAPSHOTS=$SMFS_MOUNT/snapshots

check "a guest that rewrites 16 MiB boots" boot origin churn16 512M
check "it runs" until_true 20 said origin '^up [0-9a-f]\{16\}$'
nonce=$(log origin | sed -n 's/^up //p')
check "its snapshot" smvm-runner snapshot origin base
smvm-runner stop -f origin
check_not "has no working set: a machine that was booted has touched but its own" [ -e "$SNAPSHOTS/base/ws" ]
check_not "nor can it be stored of one" smvm-runner ws base x

# ---- recorded
check "it is restored" restore base one
check "there is nothing to replay" until_true 5 state_is one missing
check "it runs through its memory" whole one
without=$(faults one)
check "its working set is stored on demand" sh -c 'smvm-runner ws --json one base-ws >"$1"' sh "$T/json"
check "all it rewrites is in the write set, and little else" \
	sh -c 'set -- $1; [ "$1" -ge 4096 ] && [ "$1" -le 4160 ] && [ "$2" -gt 0 ] && [ "$2" -lt 500 ]' sh "$(ws_of base-ws)"
check "the counts are those of the file" [ "$(ws_of base-ws)" = "$(jq -r '"\(.written_pages) \(.read_pages)"' "$T/json")" ]
for f in ram vcpu; do
	check "$f is the old snapshot's" [ "$(stat -c %i "$SNAPSHOTS/base/$f")" = "$(stat -c %i "$SNAPSHOTS/base-ws/$f")" ]
done
check "meta says that there is one" jq -e .ws "$SNAPSHOTS/base-ws/meta"
check "of the old one that there is none" jq -e '.ws == false' "$SNAPSHOTS/base/meta"
check_not "a name that is taken is refused" smvm-runner ws one base
check_not "a name that is none is refused" smvm-runner ws one ../x
check "a snapshot of it has one, too" smvm-runner snapshot one two
check "with as many pages" [ "$(ws_of two | cut -d' ' -f1)" -ge 4096 ]
check "so has a live one" smvm-runner snapshot --live one three
check "with as many" [ "$(ws_of three | cut -d' ' -f1)" -ge 4096 ]
smvm-runner stop -f one

# ---- replayed
check "with it the snapshot restores" restore base-ws with
check "it is the same guest" whole with
check "the set has been replayed" until_true 10 state_is with done
info=$(smvm-runner info with | jq -r '"\(.prefault.written_pages) \(.prefault.read_pages)"')
check "all of it" [ "$info" = "$(ws_of base-ws)" ]
replayed=$(faults with)
echo "# faults of the vCPU: $without without, $replayed with"
# Nearly all of the set is there before it runs; what there was no time for it may reach first.
check "most faults are gone" [ "$replayed" -lt $((without / 4)) ]
check "a snapshot of it stores what the guest wrote" sh -c 'smvm-runner snapshot --json with four >"$1"' sh "$T/json"
check "as a diff" jq -e .diff "$T/json"
check "it restores without a replay" smvm-runner restore --prefault none --name still four
check "which was not begun" until_true 5 state_is still off
check "whole" whole still
check "or with all of its data" smvm-runner restore --prefault all --name all four
check "whole" whole all
check "to the end" until_true 10 state_is all done
check_not "no other policy" smvm-runner restore --prefault some four
smvm-runner stop -f $(smvm-runner ps -q)

# ---- copies that nobody wrote to are no changes
check "an idle guest boots" boot idle counter 512M
check "it speaks" until_true 5 said idle '^up [0-9a-f]\{16\}$'
check "its snapshot" smvm-runner snapshot idle idle
check "is copied out" cp -r "$SNAPSHOTS/idle" "$T/idle"
check "gets the other guest's working set" cp "$SNAPSHOTS/base-ws/ws" "$T/idle/ws"
check "and is imported" smfs import wrong "$T/idle"
check "it restores" restore wrong wrong
check "with 16 MiB of copies it has no use for" until_true 10 state_is wrong done
check "so it is" [ "$(smvm-runner info wrong | jq .prefault.written_pages)" -ge 4096 ]
check "its snapshot" sh -c 'smvm-runner snapshot --json wrong after >"$1"' sh "$T/json"
check "has next to nothing that is new" jq -e '.diff and .new_bytes < 1000000' "$T/json"
smvm-runner stop -f wrong idle

# ---- copied out and in, whatever the order of files
check "a copy has the set" sh -c 'cp -r "$1/base-ws" "$2/copy" && cmp "$1/base-ws/ws" "$2/copy/ws"' sh "$SNAPSHOTS" "$T"
mkdir "$SNAPSHOTS/again"
for f in vcpu meta ram; do
	cp "$T/copy/$f" "$SNAPSHOTS/again/"
done
check_not "without the set a copy into the mount is no snapshot yet" sh -c 'smfs ls snapshots | grep -qw again'
check "with it" cp "$T/copy/ws" "$SNAPSHOTS/again/"
check "it is one" cmp "$SNAPSHOTS/again/ws" "$T/copy/ws"
check "which replays" sh -c 'smvm-runner restore --name copied again >/dev/null'
check "to the end" until_true 10 state_is copied done
smvm-runner stop -f copied

# ---- hostile
cp "$SNAPSHOTS/base-ws/ws" "$T/ws"
# Of restores from a directory outside the store, too: where a file may be anything.
spoil() { # spoil NAME WHAT: the snapshot beside a `ws` that WHAT has made of the good one
	rm -rf "$T/bad" && cp -r "$SNAPSHOTS/base-ws" "$T/bad" && chmod u+w "$T/bad" "$T/bad/ws" && sh -c "$2" sh "$T/bad/ws" &&
		smvm-runner restore --name "$1" "$T/bad" >/dev/null
}
n=0
for how in 'printf X | dd of="$1" bs=1 seek=50 conv=notrunc' 'truncate -s 47 "$1"' 'truncate -s 0 "$1"' 'truncate -s 1G "$1"' \
	'rm "$1"; mkdir "$1"'; do
	n=$((n + 1))
	check "a machine whose working set is spoilt restores: $how" spoil bad$n "$how"
	check "the set is refused" until_true 5 state_is bad$n refused
	check "which counts" [ "$(smvm-runner info bad$n | jq .prefault.refused)" = 1 ]
	check "and is in the log" grep -q "working set is not used" "$(smvm-runner info bad$n | jq -r .dir)/vmm.log"
	check "the guest runs" whole bad$n
	smvm-runner stop -f bad$n
done
check "a pipe in its place keeps nobody waiting" spoil pipe 'rm "$1"; mkfifo "$1"'
check "it is refused" until_true 5 state_is pipe refused
check "a link in its place is not followed" spoil link 'rm "$1"; ln -s /etc/passwd "$1"'
check "it is as if there were none" until_true 5 state_is link missing
tap_done
