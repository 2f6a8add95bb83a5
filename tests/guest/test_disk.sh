#!/bin/sh
# A guest that keeps one account in RAM and on a writable disk: whatever is restored or forked has both of one
# instant, and every machine writes a disk of its own.
. tests/lib/tap.sh
. tests/guest/tiny.sh
export SMVM_CACHE_DIR="$T/cache"

MOUNTED="$SMFS_MOUNT/snapshots"
whole() { until_true 30 said "$1" "^whole [0-9a-f]* $nonce\$"; }
runs() { ask "$1" '?' '^pass'; }
stop() { smvm-runner stop -f "$1"; }
take() { smvm-runner snapshot --json "$@" >"$T/json"; }
refuses() { sh -c '! smvm-runner restore "$1" 2>"$2"' sh "$1" "$T/err" && grep -q "$2" "$T/err"; }

truncate -s 12M "$T/disk"
check "a guest boots on a disk" smvm-runner boot --kernel "$B/guest/ledger" -m 64M --disk "$T/disk:/d" --name origin
check "and keeps its account" until_true 20 said origin '^up [0-9a-f]\{16\}$'
nonce=$(log origin | sed -n 's/^up //p')

check "a snapshot of it" take --still origin full
echo "# paused $(jq .pause_us "$T/json") us, disk: $(jq -c '[.disk_bytes, .disk_data_bytes]' "$T/json")"
check "tells the disk's size" [ "$(jq .disk_bytes "$T/json")" -eq 12582912 ]
check "reads what of it is data" [ "$(jq .disk_data_bytes "$T/json")" -eq 4194304 ]
check "the guest goes on" runs origin
check "one beside the running guest" take origin live
check "has the disk, too" [ "$(stat -c %s "$MOUNTED/live/disk0")" -eq 12582912 ]
for i in 1 2 3 4; do
	check "live snapshot $i" take origin live$i
done
stop origin
check "stopped, its disk is free" until_true 5 flock -n "$T/disk" true
cp "$T/disk" "$T/left"

for s in full live live1 live2 live3 live4; do
	check "$s is restored" restore $s of-$s
	check "to one account" whole of-$s
done
check "machines of one snapshot write apart" restore full again
check "the second finds the account, too" whole again
check "and the disk of the first machine has not been touched" cmp "$T/disk" "$T/left"
check "private disks leave no names" [ -z "$(ls "$SMVM_CACHE_DIR")" ]
stop again

check "a diff of a restored one" take --still --diff of-full diff
echo "# diff: paused $(jq .pause_us "$T/json") us, read $(jq .disk_data_bytes "$T/json") of the disk"
check "is a diff" [ "$(jq .diff "$T/json")" = true ]
check "and is restored" restore diff of-diff
check "to one account, of all of it" whole of-diff
check "a live diff of that" take --diff of-diff diff2
check "is restored" restore diff2 of-diff2
check "to one account of all of it" whole of-diff2

check "it forks" smvm-runner fork --name kid of-diff2
check "and the child has the account" whole kid
check "the parent goes on" runs of-diff2
check "a child of the child" smvm-runner fork -n 2 --name grandkid kid
check "has it" whole grandkid-1
check "and its twin" whole grandkid-2
check "the parents end" sh -c 'smvm-runner stop -f of-diff2 && smvm-runner stop -f kid'
check "the child's child lives on" runs grandkid-1
check "and can be snapshotted" take grandkid-1 late
check "to be restored" restore late of-late
check "to one account" whole of-late

# A fork of a machine that writes a file of the host.
truncate -s 4M "$T/disk2"
smvm-runner boot --kernel "$B/guest/ledger" -m 64M --disk "$T/disk2:/d" --name host >/dev/null
check "another guest is up" until_true 20 said host '^up '
nonce=$(log host | sed -n 's/^up //p')
check "it forks" smvm-runner fork -n 3 --name own host
for i in 1 2 3; do
	check "child $i has the account" whole own-$i
done
check "the parent writes its file on" runs host
stop host
check "which stays locked for its children" sh -c '! flock -n "$1" true' sh "$T/disk2"
check "who go on" runs own-2
for i in 1 2 3; do stop own-$i; done
check "and is free after them" until_true 5 flock -n "$T/disk2" true

# The guest does find a disk of another instant.
mkdir "$T/mixed"
cp "$MOUNTED"/full/* "$T/mixed"
cp -f "$MOUNTED/live4/disk0" "$T/mixed/disk0"
check "a newer disk beside the same RAM is restored" restore "$T/mixed" of-mixed
check "and found out" until_true 10 sh -c 'grep -q "^torn" "$1"/*/console.log || ! smvm-runner ps -q of-mixed' sh "$SMVM_RUN_DIR"

# Copies, damage.
check "a copy out of the mount" cp -r "$MOUNTED/full" "$T/copy"
check "has the disk" cmp "$MOUNTED/full/disk0" "$T/copy/disk0"
check "a copy into it" cp -r "$T/copy" "$MOUNTED/in"
check "is a snapshot" until_true 10 test -f "$MOUNTED/in/disk0"
check "with the same disk" cmp "$MOUNTED/full/disk0" "$MOUNTED/in/disk0"
check "that is restored" restore in of-in
check "to one account" until_true 30 said of-in '^whole'
mkdir "$MOUNTED/in2"
for part in meta vcpu ram; do cp "$T/copy/$part" "$MOUNTED/in2"; done
check "a copy without the disk is no snapshot yet" sh -c '! smfs ls snapshots | grep -q in2'
cp "$T/copy/disk0" "$MOUNTED/in2"
check "with it it is" until_true 10 sh -c 'smfs ls snapshots | grep -q in2'
check "the copy itself is restored" restore "$T/copy" of-copy
check "to one account" until_true 30 said of-copy '^whole'
check "fsck is content" smfs fsck --read-data
check "gc, too" smfs gc
check "and what is left is there" cmp "$MOUNTED/full/disk0" "$T/copy/disk0"
chmod u+w "$T/copy/disk0"
truncate -s 8M "$T/copy/disk0"
check "a disk cut short is refused" refuses "$T/copy" 'disk0: 8388608 bytes, meta says 12582912'
rm -f "$T/copy/disk0"
check "a missing one" refuses "$T/copy" 'open disk0'
ln -s "$T/disk" "$T/copy/disk0"
check "a link to a file of the host" refuses "$T/copy" 'open disk0'
rm "$T/copy/disk0"
mkfifo "$T/copy/disk0"
check "a pipe" refuses "$T/copy" 'disk0: 0 bytes'

tap_done
