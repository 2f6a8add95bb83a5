#!/bin/sh
# The main job on real input: boot an image, warm it, snapshot it into the mount, copy the snapshot out and in
# again, restore both side by side, fork the original, and show that each is whole and is itself.
#
#   DISK=DIR tests/vm/mainjob.sh IMAGE
#
# Runs wherever guests run: on this host, or inside the outer machine. IMAGE is in the store DIR/store and has tests/lib/app.py
# as its service. Prints TAP and a table of how long each step took.
. tests/vm/job.sh

image=$1
warmth=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')

boot() { smvm-runner boot --name origin --cpus 2 --memory 256M "$image" >"$T/id"; }
restore_both() {
	smvm-runner restore --json -p 8080 --name first warm >"$T/first.restore" &
	restore_pid=$!
	smvm-runner restore --json --name second "$M/snapshots/warm-again" >"$T/second.restore"
	restore_second=$?
	wait $restore_pid && [ $restore_second -eq 0 ]
}
same_tree() { cmp "$1/ram" "$2/ram" && cmp "$1/vcpu" "$2/vcpu" && cmp "$1/meta" "$2/meta"; }

step 'mount the store' smfs mount "$SMFS_STORE" "$M"
step "boot $image, 2 vCPUs, 256 MiB" boot
step 'first answer of its service' vm_answers origin
step 'warm it: POST a random value' vm_http origin "$warmth" >"$T/warmed"
step 'snapshot it' smvm-runner snapshot origin warm
ls -l "$M/snapshots/warm"
step 'cp -r the snapshot out' cp -r "$M/snapshots/warm" "$T/copy"
step 'cp -r it in again as warm-again' cp -r "$T/copy" "$M/snapshots/warm-again"
step 'restore both side by side' watched restore_both
step 'the first answers' vm_answers first
step 'the second answers' vm_answers second
step 'fork the original' smvm-runner fork -p 8080 --name forked origin
step 'its child answers' vm_answers forked
step 'snapshot it live' smvm-runner snapshot --live origin warm-live

for vm in origin first second forked; do
	before=$(seconds_now)
	vm_http_to $vm "$T/$vm.json"
	echo "$before $(seconds_now)" >"$T/$vm.when"
	smvm-runner info $vm >"$T/$vm.info"
	echo "# $vm: $(cat "$T/$vm.json")"
done
of() { for of_vm in origin first second forked; do field "$T/$of_vm.json" "$1"; done; }
info_of() { for of_vm in first second forked; do field "$T/$of_vm.info" "$1"; done; }

check 'the snapshot is meta, ram and vcpu' [ "$(cd "$M/snapshots/warm" && echo *)" = 'meta ram vcpu' ]
check 'what was copied out is byte-identical' same_tree "$M/snapshots/warm" "$T/copy"
check 'and so is what was copied in' same_tree "$M/snapshots/warm" "$M/snapshots/warm-again"
for vm in origin first second forked; do
	check "$vm answers over HTTP" field "$T/$vm.json" .pid
	check "the warmed value survives in $vm" [ "$(field "$T/$vm.json" .value)" = "$warmth" ]
	check "$vm has the right time to a second" \
		bracketed "$(cut -d ' ' -f 1 "$T/$vm.when")" "$(field "$T/$vm.json" .time)" "$(cut -d ' ' -f 2 "$T/$vm.when")"
done
# shellcheck disable=SC2046
{
	check 'all four are the same process with the same memory' all_equal $(of .nonce)
	check 'their random streams differ' all_differ $(of .random)
	check 'their hostnames differ' all_differ $(of .hostname)
	check 'their machine-ids differ' all_differ $(of .machine_id)
	check 'the restored and the forked have a generation of their own' all_differ $(info_of .uuid) "$(field "$T/origin.info" .uuid)"
	check 'and their guests were told' [ "$(info_of .generation)" = "$(info_of .guest.generation)" ]
}
check 'a hostname is the name its VM was given' [ "$(field "$T/first.json" .hostname)" = first ]
check 'a fork too' [ "$(field "$T/forked.json" .hostname)" = forked ]
# Whether the one that answers at its port of this host is it.
reached() {
	reached_url=http://127.0.0.1:$(field "$T/$1.info" .host_port)/
	[ "$(python3 -c 'import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=60).read().decode())' "$reached_url" |
		jq -r .hostname)" = "$1" ]
}
check 'the first is reached by a port of the host' reached first
check 'the fork by one of its own' reached forked
check 'a live snapshot is a snapshot' [ "$(cd "$M/snapshots/warm-live" && echo *)" = 'meta ram vcpu' ]
check 'each has its own memory: what one is told the other does not know' sh -c '
	smvm-runner exec first -- busybox wget -q -O - --post-data changed http://127.0.0.1:8080/warm >/dev/null &&
	[ "$(smvm-runner exec second -- busybox wget -q -O - http://127.0.0.1:8080/ | jq -r .value)" = "$1" ]' - "$warmth"
step 'stop them all' smvm-runner stop first second forked origin
steps_table
tap_done
