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

check 'image_open' prints "^localhost/api:1 in $M/images/localhost/api:1" "$X/image_open" "$image"
check 'vm_start boots it until its agent answers' prints 'machine [0-9a-f]\{12\} runs' "$X/vm_start" "$image" sleep 1000
step 'a machine of smvm-runner' smvm-runner boot --name origin --memory 256M "$image" -- sleep 1000
check 'vm_open snapshots and stops it' prints 'is stopped' "$X/vm_open" origin warm
# One program: output apart, its status, who it is.
check 'vm_exec runs a program, and its status is the program'"'"'s' \
	status 7 "$X/vm_exec" warm sh -c 'echo "out $(cat /proc/sys/kernel/hostname)"; echo apart >&2; exit 7'
check 'its output is apart' grep -q '^out [0-9a-f]\{12\}$' "$T/out"
check 'so are its errors' grep -qx apart "$T/err"
check 'a signal is 128 and its number' status 143 "$X/vm_exec" warm sh -c 'kill -TERM $$'
check 'a program that is not there is named' says 1 no-such "$X/vm_exec" warm no-such
check 'vm_fork makes a child' prints '^child ' "$X/vm_fork" warm 1
check 'nothing runs after all that' [ -z "$(smvm-runner ps -q)" ]
tap_done
