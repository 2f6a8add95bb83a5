# job.sh - sourced by the jobs that run where the guests run: a mounted store, VMs with a life bounded by
# the job's, timed steps and HTTP into a guest.
#
#   step WHAT COMMAND...         run it, remember how long it took; a failed one ends the job
#   steps_table                  what took how long
#   vm_http VM [DATA]            GET / of the service in VM; with DATA, POST it to /warm
#   vm_answers VM                wait until the service answers
#   until_true SECONDS COMMAND   poll
#   job_state                    what runners and guests are doing now, for whoever reads a failure
#   watched COMMAND...           run it; if it fails after long, job_state of while it ran
#
# $DISK is what machine_run was given; the store is $DISK/store. Sets $M, the mount. Everything of the job is gone at its end, the store excepted.
. tests/lib/tap.sh
exec 3>&1 # a step's own output may be redirected; the news of its failure must not be

DISK=${DISK:-/disk1}
SMFS_STORE=$DISK/store
M=$T/mnt
SMFS_MOUNT=$M
SMVM_RUN_DIR=$T/run
SMVM_CACHE_DIR=$T/cache
export SMFS_STORE SMFS_MOUNT SMVM_RUN_DIR SMVM_CACHE_DIR
mkdir -p "$M" "$SMVM_RUN_DIR" "$SMVM_CACHE_DIR"

job_end() {
	for vm in $(smvm-runner ps -q 2>/dev/null); do smvm-runner stop -f "$vm"; done
	mountpoint -q "$M" && smfs unmount "$M"
}
at_exit job_end

seconds_now() { date +%s.%N; }

# KVM's counters of a runner's VM that are not zero: which of them move tells what it waits for.
kvm_counters() { # kvm_counters PID
	for state_vm_dir in /sys/kernel/debug/kvm/"$1"-*; do
		[ -d "$state_vm_dir" ] && (cd "$state_vm_dir" && grep -sv '^0$' exits halt_exits halt_wakeup io_exits mmio_exits \
			irq_exits irq_injections irq_window_exits signal_exits hypercalls pf_taken) | tr '\n' ' ' && echo
	done
}
# Where each thread of a process is, in the kernel and why.
threads_of() { # threads_of PID
	for state_task in /proc/"$1"/task/*; do
		echo "thread ${state_task##*/} $(cat "$state_task/comm"), $(sed -n 's/^State:[[:space:]]*//p' "$state_task/status")," \
			"in $(cat "$state_task/wchan"), system call $(cut -d ' ' -f 1 "$state_task/syscall")"
		sed 's/^/    /' "$state_task/stack"
	done 2>/dev/null
}
# What a VM's vCPUs do, as KVM sees it: the last of a fifth of a second.
kvm_trace() { # kvm_trace PID
	state_t=/sys/kernel/tracing
	mountpoint -q $state_t || mount -t tracefs tracefs $state_t || return 0
	echo 0 >$state_t/tracing_on
	echo >$state_t/trace
	ls "/proc/$1/task" >$state_t/set_event_pid && echo 1 >$state_t/events/kvm/enable && echo 1 >$state_t/tracing_on
	sleep 0.2
	echo 0 >$state_t/tracing_on
	echo 0 >$state_t/events/kvm/enable
	grep -v '^#' $state_t/trace | tail -n 60
}
job_state() {
	for state_pid in $(pgrep -x smvm-runner); do
		tr '\0' '\n' <"/proc/$state_pid/environ" 2>/dev/null | grep -qx "SMVM_RUN_DIR=$SMVM_RUN_DIR" || continue
		echo "== process $state_pid: $(tr '\0' ' ' <"/proc/$state_pid/cmdline")"
		kvm_counters "$state_pid"
		threads_of "$state_pid"
		sleep 1
		echo 'a second later'
		kvm_counters "$state_pid"
		kvm_trace "$state_pid"
	done | sed 's/^/# /'
	for state_dir in "$SMVM_RUN_DIR"/*/; do
		[ -d "$state_dir" ] || continue
		state_vm=$(jq -r .name "$state_dir/vm.json" 2>/dev/null)
		echo "== $state_dir $state_vm"
		[ -z "$state_vm" ] || timeout 10 smvm-runner info "$state_vm" || echo "smvm-runner info: status $?"
		tail -n 25 "$state_dir/vmm.log" "$state_dir/console.log" 2>/dev/null
	done | sed 's/^/# /'
	# Of those that are gone, with their directories, another name of each log was kept.
	for state_log in "$T"/logs/*; do
		[ "$(stat -c %h "$state_log" 2>/dev/null)" = 1 ] && tail -v -n 25 "$state_log"
	done | sed 's/^/# /'
}
keep_logs() {
	mkdir -p "$T/logs"
	for state_log in "$SMVM_RUN_DIR"/*/*.log; do
		[ ! -e "$state_log" ] || ln -f "$state_log" "$T/logs/$(echo "${state_log#"$SMVM_RUN_DIR/"}" | tr / .)"
	done
}
# watched COMMAND...: run it; if it fails, and took longer than 40 s, show job_state of its 40th second: a restore
# that gives up on its guest takes the guest with it.
watched() {
	rm -f "$T/watched"
	(
		sleep 40 &
		trap 'kill $!' TERM
		wait $! && job_state >"$T/watched" 2>&1
	) &
	watched_pid=$!
	"$@"
	watched_status=$?
	kill $watched_pid 2>/dev/null
	[ $watched_status -eq 0 ] || cat "$T/watched" >&3 2>/dev/null
	return $watched_status
}

step() {
	step_what=$1
	shift
	step_t=$(seconds_now)
	if ! "$@"; then
		{
			echo "not ok - $step_what"
			echo "# failed: $*"
			job_state
		} >&3
		exit 1
	fi
	echo "$step_t $(seconds_now) $step_what" >>"$T/steps"
	keep_logs
	[ -z "${JOB_VERBOSE:-}" ] || echo "# $step_what" >&2
}

steps_table() {
	echo
	awk '{ t = $2 - $1; $1 = $2 = ""; printf "  %8.2f s %s\n", t, $0 }' "$T/steps"
	echo
}

until_true() {
	until_end=$(($(date +%s) + $1))
	shift
	until "$@"; do
		[ "$(date +%s)" -lt $until_end ] || return 1
		sleep 0.1
	done
}

vm_http() {
	if [ $# -gt 1 ]; then
		smvm-runner exec "$1" -- busybox wget -q -O - --post-data "$2" http://127.0.0.1:8080/warm
	else
		smvm-runner exec "$1" -- busybox wget -q -O - http://127.0.0.1:8080/ 2>>"$T/wget.log"
	fi
}

vm_http_to() { vm_http "$1" >"$2" && [ -s "$2" ]; } # vm_http_to VM FILE
vm_answers() { until_true "${2:-120}" vm_http_to "$1" "$T/answer.$1"; }

# One field of a JSON file.
field() { jq -er "$2" "$1"; }
# All words differ.
all_differ() { [ "$(printf '%s\n' "$@" | sort -u | wc -l)" -eq $# ]; }
all_equal() { [ "$(printf '%s\n' "$@" | sort -u | wc -l)" -eq 1 ]; }
# bracketed LOW T HIGH: T is a time between, give or take a second.
bracketed() { awk -v a="$1" -v t="$2" -v b="$3" 'BEGIN { exit !(t > a - 1 && t < b + 1) }'; }
