# What test_api.sh runs where guests run: api_job.sh IMAGE
. tests/vm/job.sh

image=$1
export LD_LIBRARY_PATH="$DISK/api"
X=$DISK/api

step 'mount the store' smfs mount "$SMFS_STORE" "$M"
smvm-runner doctor --json >"$T/doctor"
jq -c '.checks[] | select(.group == "kvm")' "$T/doctor" | sed 's/^/# /'
# No verdict on a processor that is emulated, and shared: the figure is of that moment.
check 'doctor looks at the host' jq -e '.checks | length > 20' "$T/doctor"
check 'and has the time for it, though all is emulated' \
	jq -e '[.checks[] | select(.found | test("within [0-9]+ ms")) | .group + "." + .name] == []' "$T/doctor"
check 'it finds what guests are made of' jq -e '[.checks[] | select(.group == "guest") | .status] | length == 4 and all(. != "FAIL")' "$T/doctor"

check 'image_open' prints "^localhost/api:1 in $M/images/localhost/api:1" "$X/image_open" "$image"
check 'vm_start boots it until its agent answers' prints 'machine [0-9a-f]\{12\} runs' "$X/vm_start" "$image" sleep 1000
step 'a machine of smvm-runner' smvm-runner boot --name origin --memory 256M "$image" -- sleep 1000
check 'vm_open snapshots and stops it' prints 'is stopped' "$X/vm_open" origin warm
# One program: output apart, its status, who it is.
check 'vm_exec runs a program, and its status is the program'"'"'s' \
	status 7 "$X/vm_exec" warm sh -c 'echo "out $(cat /proc/sys/kernel/hostname)"; echo apart >&2; exit 7'
check 'its output is apart' grep -q '^out [0-9a-f]\{12\}$' "$T/out"
check 'so are its errors' grep -qx apart "$T/err"
# dd has its whole buffer in memory at once; what is told is of the guest's own accounting, in pages.
peak() { sed -n 's/^it took \([0-9]*\) bytes of memory at most$/\1/p' "$T/err"; }
took() { # took AT_LEAST LESS_THAN COMMAND...
	least=$1 less=$2
	shift 2
	status 0 "$X/vm_exec" warm "$@" && peak | grep . && [ "$(peak)" -ge "$least" ] && [ "$(peak)" -lt "$less" ]
}
check 'the most memory it had is told' took $((24 << 20)) $((32 << 20)) dd if=/dev/zero of=/dev/null bs=24M count=1
check 'a child of its counts' took $((24 << 20)) $((40 << 20)) sh -c 'dd if=/dev/zero of=/dev/null bs=24M count=1; true'
check 'another program'"'"'s does not' took 4096 $((8 << 20)) true
check 'a signal is 128 and its number' status 143 "$X/vm_exec" warm sh -c 'kill -TERM $$'
check 'a program that is not there is named' says 1 no-such "$X/vm_exec" warm no-such
check 'vm_fork makes a child' prints '^child ' "$X/vm_fork" warm 1
smvm-runner pool --snapshot warm --min 1 --max 1 --name api >"$T/pool" 2>&1 &
pool=$!
warm_one() { [ "$(smvm-runner pool status --json --name api | jq .warm)" = 1 ]; }
until_true 120 warm_one
for i in 1 2; do
	check 'pool_claim runs a program in a machine that nobody has had' \
		prints '^status 0' "$X/pool_claim" api sh -c '[ ! -e /tmp/mine ] && echo mine >/tmp/mine && cat /tmp/mine'
	check 'on its own output' grep -qx mine "$T/out"
done
kill $pool
check 'the pool ends' wait $pool
check 'nothing runs after all that' [ -z "$(smvm-runner ps -q)" ]
tap_done
