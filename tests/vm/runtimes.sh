#!/bin/sh
# Restores and forks of a guest in which Python and Perl work, each child checked from inside.
#
#   DISK=DIR tests/vm/runtimes.sh IMAGE RESTORES FORKS
#
# The store is DIR/store. Snapshots are in turn of the running guest and of it standing still, and every 20th restore
# begins the next link of the lineage. What runs in the guest: tests/vm/runtimes.{py,pl}.
. tests/vm/job.sh

image=$1 restores=$2 forks=$3

boot() { smvm-runner boot --name origin --cpus 2 --memory 192M --entrypoint /bin/sleep "$image" -- infinity >"$T/id"; }
put() { smvm-runner exec -i origin -- sh -c "cat >$1 && chmod 755 $1"; }
put_workload() {
	put /run/runtimes.py <tests/vm/runtimes.py && put /run/runtimes.pl <tests/vm/runtimes.pl &&
		smvm-runner exec origin -- mkdir -p /etc/smvm/post-restore.d &&
		printf '#!/bin/sh\necho $SMVM_GENERATION >/run/generation.new && mv /run/generation.new /run/generation\n' |
		put /etc/smvm/post-restore.d/10-generation &&
		smvm-runner exec origin -- sh -c 'for p in /run/runtimes.py /run/runtimes.pl; do busybox setsid $p >$p.log 2>&1 </dev/null & done'
}
socket_of() { echo "$(smvm-runner info "$1" | jq -r .dir)/vsock.sock"; }
# hold VM: a connection that stays open from now on
hold() {
	python3 tests/vm/runtimes_ask.py hold "$(socket_of "$1")" >"$T/hold" 2>&1 &
	hold_pid=$!
	until_true 60 grep -qs held "$T/hold"
}
# report VM GENERATION [SECONDS]: into $T/report.VM, with the host's time around it in $T/when.VM
report() {
	report_from=$(seconds_now)
	python3 tests/vm/runtimes_ask.py report "$(socket_of "$1")" "$2" "${3:-240}" >"$T/report.$1" 2>"$T/report.err"
	report_status=$?
	echo "$report_from $(seconds_now)" >"$T/when.$1"
	[ $report_status -eq 0 ] || {
		echo "# $1: $(cat "$T/report.err")"
		timeout 60 smvm-runner exec "$1" -- sh -c 'busybox ps; head -n 20 /run/*.log' 2>&1 | sed 's/^/# /'
		return 1
	}
}
# judge VM GENERATION: it reports, and all is well in it; what is not goes into $wrong
judge() {
	report "$1" "$2" || { hung="$hung $1"; job_state; return; }
	jq -e '.errors == [] and .perl.errors == 0 and .cpus == 2' "$T/report.$1" >/dev/null ||
		wrong="$wrong $1($(jq -c '[.errors, .perl.errors, .cpus]' "$T/report.$1"))"
	# Of the connection that was held while it was copied, this guest must have heard the end.
	jq -e '.held.open == 0 and .held.ended >= 1' "$T/report.$1" >/dev/null || wrong="$wrong $1(vsock: $(jq -c .held "$T/report.$1"))"
	bracketed "$(cut -d ' ' -f 1 "$T/when.$1")" "$(jq .wall "$T/report.$1")" "$(cut -d ' ' -f 2 "$T/when.$1")" ||
		wrong="$wrong $1(time)"
	[ "$(jq -r .hostname "$T/report.$1")" = "$1" ] || wrong="$wrong $1(hostname)"
	judged=$((judged + 1))
}
# The hook's own result in what restore or fork said.
hook_ok() { jq -e '[.. | objects | select(.item? == "hook:10-generation")] | length > 0 and all(.code == 0 and .limit_ms > 0)' "$1" >/dev/null; }

step 'mount the store' smfs mount "$SMFS_STORE" "$M"
step 'boot a guest with 2 vCPUs, 192 MiB' boot
step 'put the workload into it' put_workload
step 'it works, before any snapshot' report origin 1 300
sed 's/^/# /' "$T/report.origin"

wrong='' hung='' judged=0 failed='' unhooked=''
began=$(seconds_now)
step 'hold a connection' hold origin
vm=origin generation=1 i=0 link=0
while [ $i -lt "$restores" ]; do
	if [ $((i % 20)) -eq 0 ]; then
		link=$((link + 1)) option=
		[ $((link % 2)) -eq 1 ] || option=--still
		# shellcheck disable=SC2086
		step "snapshot $link" smvm-runner snapshot $option $vm link$link
		kill $hold_pid
		[ $vm = origin ] || smvm-runner stop -f $vm
	fi
	i=$((i + 1))
	if ! watched smvm-runner restore --json --name restored$i link$link >"$T/restored" 2>"$T/err"; then
		failed="$failed restored$i($(tail -n 1 "$T/err"))"
		continue
	fi
	hook_ok "$T/restored" || unhooked="$unhooked restored$i"
	judge restored$i $((generation + 1))
	# The last of a link is the next one's origin, with a connection of its own.
	if [ $((i % 20)) -eq 0 ] && [ $i -lt "$restores" ]; then
		vm=restored$i generation=$((generation + 1))
		step "hold a connection to $vm" hold $vm
	else
		smvm-runner stop -f restored$i
	fi
done
echo "$began $(seconds_now) $restores restores, each reporting" >>"$T/steps"
kill $hold_pid 2>/dev/null

began=$(seconds_now)
step 'hold a connection to the origin' hold origin
i=0
while [ $i -lt "$forks" ]; do
	n=$((forks - i < 5 ? forks - i : 5))
	if ! smvm-runner fork --json -n $n --name fork$i origin >"$T/forked" 2>"$T/err"; then
		failed="$failed fork$i($(tail -n 1 "$T/err"))"
		job_state
	fi
	hook_ok "$T/forked" || unhooked="$unhooked fork$i"
	for vm in $(jq -r '.children[].name' "$T/forked"); do
		judge "$vm" 2
		smvm-runner stop -f "$vm"
	done
	i=$((i + n))
done
echo "$began $(seconds_now) $forks forks, each reporting" >>"$T/steps"
report origin 1 || hung="$hung origin"

# shellcheck disable=SC2046
{
	check "every restore and every fork came up$failed" [ -z "$failed" ]
	check "none hung: each reported$hung" [ -z "$hung" ]
	check "all $((restores + forks)) were judged" [ $judged -eq $((restores + forks)) ]
	check "timers, clocks, floating point, sockets and names are right in each$wrong" [ -z "$wrong" ]
	check "the hook's result is in every answer$unhooked" [ -z "$unhooked" ]
	check 'no two random streams of Python are the same' all_differ $(jq -r .random "$T"/report.*)
	check 'nor two of Perl' all_differ $(jq -r .perl.random "$T"/report.*)
	check 'nor do two have the same machine-id' all_differ $(jq -r .machine_id "$T"/report.*)
	check 'the origin works as before' jq -e '.errors == [] and .perl.errors == 0 and .generation == 1' "$T/report.origin"
	check 'and its connection is still open' jq -e '.held.open == 1' "$T/report.origin"
}
smvm-runner console -l origin >"$T/console" </dev/null
check_not 'no kernel complains' grep -E 'WARNING:|BUG:|rcu: INFO|soft lockup|Marking clocksource|Call Trace:' "$T/console"
kill $hold_pid 2>/dev/null
steps_table
tap_done
