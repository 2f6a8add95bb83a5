#!/bin/sh
# Snapshot and restore of tiny guests on this machine's /dev/kvm, through the store and its mount.
. tests/lib/tap.sh
. tests/guest/tiny.sh

count_of() { log "$1" | awk -v w="$2" '$1 == w { c = $(NF - 1) } END { print c }'; }
less() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort | head -n 1)" = "$1" ] && [ "$1" != "$2" ]; }

# ---- a counter: RAM, registers, going on
check "a guest boots" boot origin counter 256M
check "it speaks" until_true 5 said origin '^up [0-9a-f]\{16\}$'
nonce=$(log origin | sed -n 's/^up //p')
now="^now [0-9a-f]* $nonce\$"
check "it answers" ask origin '?' "$now"
before=$(count_of origin now)
check "a snapshot is taken while it runs" smvm-runner snapshot origin s1
check "the original goes on" ask origin '?' "$now"
check "and counts on" less "$before" "$(count_of origin now)"
check_not "a name that is taken is refused" smvm-runner snapshot origin s1
check_not "a name that is none is refused" smvm-runner snapshot origin ../x
check "a refusal leaves the guest running" ask origin '?' "$now"

check "the snapshot is three files" [ "$(ls "$SMFS_MOUNT/snapshots/s1" | tr '\n' ' ')" = "meta ram vcpu " ]
check "ram has the machine's size" [ "$(stat -c %s "$SMFS_MOUNT/snapshots/s1/ram")" = 268435456 ]
check "and is sparse" [ "$(stat -c %b "$SMFS_MOUNT/snapshots/s1/ram")" -lt 20000 ]
check "meta is JSON" jq -e '.format == 1 and .vcpus == 1 and .generation.number == 1 and .ram_bytes == 268435456' \
	"$SMFS_MOUNT/snapshots/s1/meta"
check "meta lists the devices" [ "$(jq -r '.devices[].id' "$SMFS_MOUNT/snapshots/s1/meta" | tr '\n' ' ')" = "serial0 pm " ]

# ---- two of one
check "it restores" restore s1 one
check "and again beside it" restore s1 two
check "one finds itself in a new generation" until_true 5 said one "^gen 0000000000000002 .* $nonce"
check "so does two" until_true 5 said two "^gen 0000000000000002 .* $nonce"
check "both start from where the original was" [ "$(count_of one gen)" = "$(count_of two gen)" ]
check "which is not before it was asked" less "$before" "$(count_of one gen)"
check "one answers" ask one '?' "$now"
check "two answers" ask two '?' "$now"
check "one has counted on" less "$(count_of one gen)" "$(count_of one now)"
check "two too, on its own" less "$(count_of two gen)" "$(count_of two now)"
check "one powers off" smvm-runner stop -f one
check "which leaves two alone" ask two '?' "$now"

check "three at once" json_has 'map(.name) == ["trio-1", "trio-2", "trio-3"]' smvm-runner restore -n 3 --name trio --json s1
for i in 1 2 3; do
	check "number $i is the same guest" until_true 5 said trio-$i "^gen 0000000000000002 .* $nonce"
done
check "of three, two names taken: one comes up, and it says so" sh -c '
	smvm-runner stop -f trio-2
	! smvm-runner restore -n 3 --name trio s1 >"$1" 2>"$2" && [ $(wc -l <"$1") -eq 1 ] && grep -q "is running already" "$2"' sh "$T/ids" "$T/err"
smvm-runner stop -f $(smvm-runner ps --json | jq -r '.[].name | select(startswith("trio"))')

# ---- a snapshot of a restored machine
check "a restored machine is snapshotted" smvm-runner snapshot two s2
check "its generation is in meta" jq -e '.generation.number == 2' "$SMFS_MOUNT/snapshots/s2/meta"
check "uuids differ" [ "$(jq -r .generation.uuid "$SMFS_MOUNT/snapshots/s1/meta")" != \
	"$(jq -r .generation.uuid "$SMFS_MOUNT/snapshots/s2/meta")" ]
check "that restores" restore s2 three
check "into the next generation" until_true 5 said three "^gen 0000000000000003 .* $nonce"
check "from where two was" less "$(count_of two now)" "$(count_of three gen)"
smvm-runner stop -f origin two three

# ---- the clock policy: the time in the mailbox page is the host's, or the snapshot's
mailbox_ns() { od -An -tu8 -j$((0x9e000 + 32)) -N8 "$SMFS_MOUNT/snapshots/$1/ram" | tr -d ' '; }
began=$(date +%s%N)
check "restore with the clock advanced" smvm-runner restore --name ahead --clock advance s1
check "and frozen" smvm-runner restore --name still --clock freeze s1
check "and a fork of it, frozen too" smvm-runner fork --name stiller --clock freeze still
for vm in ahead still stiller; do
	check "snapshot of $vm" smvm-runner snapshot $vm clock-$vm
done
check "advanced, it is the host's" [ "$(mailbox_ns clock-ahead)" -ge "$began" ]
check "frozen, it is the snapshot's" [ "$(mailbox_ns clock-still)" = "$(sed -n 's/.*"wall_clock_ns": \([0-9]*\),/\1/p' "$SMFS_MOUNT/snapshots/s1/meta")" ]
check "of a fork, the time of the fork" [ "$(mailbox_ns clock-stiller)" -ge "$began" ]
check_not "any other policy is refused" smvm-runner restore --clock sometimes s1
smvm-runner stop -f ahead still stiller

# ---- out of the mount and in again
check "it copies out" cp -r "$SMFS_MOUNT/snapshots/s1" "$T/out"
check "byte for byte" cmp "$SMFS_MOUNT/snapshots/s1/ram" "$T/out/ram"
check "a copy outside the mount restores" restore "$T/out" four
check "and is the same guest" until_true 5 said four "^gen 0000000000000002 .* $nonce"
smvm-runner stop -f four

# ---- memory: a checksum of 64 MiB, before and after
check "a guest fills its memory" boot mem memory 256M
check "and sums it" until_true 10 said mem '^filled [0-9a-f]\{16\}$'
sum=$(log mem | sed -n 's/^filled //p')
check "snapshot" smvm-runner snapshot mem m1
check "restore" restore m1 mem1
check "all 64 MiB are right" until_true 10 said mem1 "^sum $sum\$"
check "it dirties some" ask mem1 d '^dirty [0-9a-f]\{16\}$'
dirty=$(log mem1 | sed -n 's/^dirty //p')
check_not "which shows" [ "$dirty" = "$sum" ]
check "snapshot of the dirtied" sh -c 'smvm-runner snapshot --json mem1 m2 >"$1"' sh "$T/json"
# 1,024 pages, and the few of the guest's stacks, console and mailbox.
check "is a diff: it reads the pages written and no other" jq -e '.diff and .data_bytes >= 4194304 and .data_bytes < 4300000' "$T/json"
check "and stores no more" jq -e '.new_bytes < 4400000' "$T/json"
check "a diff of the same machine, taken live" json_has '.diff and .new_bytes < 100000' \
	smvm-runner snapshot --live --json mem1 m3
check "restore of both" restore m1 mem1b
check "restore of both" restore m2 mem2
check "the first is as it was" until_true 10 said mem1b "^sum $sum\$"
check "the second is as dirtied" until_true 10 said mem2 "^sum $dirty\$"
# m2 has a working set: what was copied in advance is read, but it is no change.
check "a diff of a diff" json_has '.diff and .new_bytes < 100000' smvm-runner snapshot --json mem2 m4
smfs rm snapshots/m1 snapshots/m2
check "is whole when both are gone" restore m4 mem4
check "and as it was" until_true 10 said mem4 "^sum $dirty\$"
check "a diff of a machine whose snapshot is gone" json_has .diff smvm-runner snapshot --json mem1b m5
check "restores" restore m5 mem5
check "as the first was" until_true 10 said mem5 "^sum $sum\$"

# ---- a store without room: the snapshot fails, the guest does not
mkdir "$T/small" "$T/smallmnt"
if mount -t tmpfs -o size=6M tmpfs "$T/small" 2>/dev/null; then
	at_exit 'umount -l "$T/small"'
	smfs init "$T/small" >/dev/null && smfs mount "$T/small" "$T/smallmnt"
	at_exit 'smfs unmount "$T/smallmnt"'
	SMFS_STORE=$T/small smvm-runner boot --kernel "$B/guest/memory" -m 256M --name poor --mount "$T/smallmnt" >/dev/null
	check "another fills its memory" until_true 10 said poor '^filled [0-9a-f]\{16\}$'
	smvm-runner snapshot poor p1 >/dev/null 2>"$T/err"
	check "there is no room for its snapshot" [ $? -eq 1 ]
	check "which is what it says" grep -qE "No space left|free space" "$T/err"
	check "the guest goes on" ask poor d '^dirty [0-9a-f]\{16\}$'
	check "nothing of the snapshot is there" [ -z "$(ls "$T/smallmnt/snapshots" 2>/dev/null)" ]
	smvm-runner stop -f poor
else
	skip "a store without room" "cannot mount a tmpfs"
fi
# A copy from outside may claim to be what the mount said of the original, and be something else.
check "a copy keeps its attributes" cp -a "$SMFS_MOUNT/snapshots/m5" "$T/forged"
check "the content among them" python3 -c 'import os, sys; assert len(os.getxattr(sys.argv[1], "user.smfs.content")) == 88' "$T/forged/ram"
chmod u+w "$T/forged/ram" && printf X | dd of="$T/forged/ram" bs=1 seek=$((20 << 20)) conv=notrunc 2>/dev/null
check "changed, it restores" restore "$T/forged" forged
check "as it is" until_true 10 said forged '^sum [0-9a-f]\{16\}$'
changed=$(log forged | sed -n 's/^sum //p')
check_not "which is not what it was" [ "$changed" = "$sum" ]
check "its snapshot is not taken for a diff" json_has '.diff | not' smvm-runner snapshot --json forged m6
check "and restores" restore m6 mem6
check "as it is" until_true 10 said mem6 "^sum $changed\$"
smvm-runner stop -f mem mem1 mem1b mem2 mem4 mem5 forged mem6

# ---- registers
check "a guest fills its registers" boot fpu fpu 64M
check "and waits" until_true 5 said fpu '^up [0-9a-f]\{16\}$'
check "snapshot" smvm-runner snapshot fpu f1
check "restore" sh -c 'smvm-runner restore -f f1 >"$1" </dev/null' sh "$T/fpu.out"
check "general, x87, AVX and control registers are intact" grep -q '^regs ok' "$T/fpu.out"
smvm-runner stop -f fpu

# ---- damage and strangers are refused, with the reason
damaged() { # damaged FILE OFFSET: a copy of the exported snapshot with one byte of FILE changed
	rm -rf "$T/bad"
	cp -r "$T/out" "$T/bad"
	chmod -R u+w "$T/bad"
	old=$(od -An -tu1 -j"$2" -N1 "$T/bad/$1")
	printf "\\$(printf %o $((old ^ 32)))" | dd of="$T/bad/$1" bs=1 seek="$2" conv=notrunc 2>/dev/null
}
refused() { # refused WORD: exit code 5, a line with WORD
	smvm-runner restore "$T/bad" 2>"$T/err" >/dev/null
	rc=$?
	cat "$T/err"
	[ $rc = 5 ] && grep -q "$1" "$T/err"
}
for off in 3 200 700; do
	damaged meta $off
	check "a changed byte of meta ($off)" refused meta
done
for off in 0 9 16 40 3000 12000; do
	damaged vcpu $off
	check "a changed byte of vcpu ($off)" refused vcpu
done
damaged meta 3 && cp "$T/out/meta" "$T/bad/meta" && truncate -s 100M "$T/bad/ram"
check "a ram of the wrong length" refused ram
cp "$SMFS_MOUNT/snapshots/m4/vcpu" "$T/bad/vcpu" && truncate -s 256M "$T/bad/ram"
check "the vcpu of another snapshot" refused vcpu
truncate -s 5000 "$T/bad/vcpu"
check "a vcpu cut short" refused truncated
rm "$T/bad/vcpu"
check_not "a vcpu that is missing" smvm-runner restore "$T/bad"
check "nothing was left running" [ -z "$(smvm-runner ps -q)" ]

tap_done
