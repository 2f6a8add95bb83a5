# What test_agent.sh runs where guests run: agent_job.sh IMAGE
#
# An exec costs a second and more where guests are emulated, so what can be asked at once is.
. tests/vm/job.sh

image=$1
# Without a fork in the loop, so that it asks often: whose host is it now?
workload='busybox httpd -p 8080 -h /etc; echo service at 8080; while :; do read -r h </proc/sys/kernel/hostname && echo "$h" >>/tmp/who; sleep 0.05; done'

status_is() { # status_is N COMMAND...
	status_want=$1
	shift
	"$@"
	[ $? -eq "$status_want" ]
}
# The value of KEY in a file of "key value" lines.
said() { sed -n "s/^$2 //p" "$1"; }

boot() {
	smvm-runner boot --name origin --cpus 2 --memory 256M --json -p 0:8080 --ready port:8080 --ready 'log:^service at [0-9]+$' \
		"$image" -- sh -c "$workload" >"$T/boot"
}
# The hostname as the service of the machine described by FILE tells it.
served() { curl -s -m 60 "http://127.0.0.1:$(field "$1" .host_port)/hostname"; } # served FILE

step 'mount the store' smfs mount "$SMFS_STORE" "$M"
step 'boot' boot

# ---- the image as root -------------------------------------------------------------------------
smvm-runner info origin >"$T/info"
check 'the root is EROFS with DAX' [ "$(field "$T/info" .guest.rootfs)" = 'erofs dax on /dev/pmem0' ]
check 'the mailbox page can be read' [ "$(field "$T/info" .guest.mailbox_generation)" = 1 ]
# Hooks for later, too.
smvm-runner exec -u 0:www-data -w / -e FROM=mine origin -- sh -c '
	echo "ids $(id -u):$(id -g) $(pwd) $FROM"
	echo x >/usr/bin/new && echo "written $(cat /usr/bin/new)"
	echo "left $(ls -d /init /modules /smvm.conf /.smvm 2>/dev/null)."
	echo "lo $(busybox ifconfig lo | busybox grep -c UP)"
	echo "cgroup $(cat /proc/self/cgroup)"
	(sleep 0.1 & sleep 0.1 &)
	sleep 1
	for i in $(busybox seq 60); do
		z=$(busybox ps -o stat | busybox grep -c Z)
		[ "$z" = 0 ] && break
		sleep 1
	done
	echo "zombies $z"
	mkdir -p /etc/smvm/pre-snapshot.d /etc/smvm/post-restore.d
	printf "#!/bin/sh\nwc -l </tmp/who >/tmp/before\n" >/etc/smvm/pre-snapshot.d/10-count
	printf "#!/bin/sh\nwc -l </tmp/who >/tmp/at-restore\necho generation \$SMVM_GENERATION of \$SMVM_HOSTNAME\n" >/etc/smvm/post-restore.d/10-count
	printf "#!/bin/sh\necho broken >&2\nexit 3\n" >/etc/smvm/post-restore.d/20-broken
	chmod 755 /etc/smvm/*/*' >"$T/root"
sed 's/^/# /' "$T/root"
check 'user, group, directory and environment are as asked' [ "$(said "$T/root" ids)" = '0:33 / mine' ]
check 'the image can be written to' [ "$(said "$T/root" written)" = x ]
check 'nothing of the initramfs is left' [ "$(said "$T/root" left)" = . ]
check 'loopback is up' [ "$(said "$T/root" lo)" = 1 ]
check 'programs run in the cgroup that is frozen' [ "$(said "$T/root" cgroup)" = '0::/smvm.work/main' ]
check 'orphans are reaped' [ "$(said "$T/root" zombies)" = 0 ]

check 'a port of the host leads to the service, which was waited for' [ "$(served "$T/boot")" = origin ]

# ---- exec ----------------------------------------------------------------------------------------
smvm-runner exec origin -- sh -c 'echo "$(id -un) $(pwd) $FROM"; echo err >&2; exit 7' >"$T/o" 2>"$T/e"
check 'the status is that of the program' [ $? -eq 7 ]
check 'standard output is apart; user, directory and environment are those of the image' [ "$(cat "$T/o")" = 'app /tmp image' ]
check 'standard error is apart' [ "$(cat "$T/e")" = err ]
head -c 3000000 /dev/urandom >"$T/in"
smvm-runner exec -i origin -- cat <"$T/in" >"$T/out"
check 'three megabytes go in and come out unchanged' cmp "$T/in" "$T/out"
check 'a program that is not there is named' sh -c 'smvm-runner exec origin -- no-such 2>&1 | grep -q no-such'
check 'a signal in the guest is 128 + its number' status_is 143 smvm-runner exec origin -- sh -c 'kill -TERM $$'
smvm-runner exec --stats origin -- sh -c 'x=$(busybox head -c 8000000 /dev/zero | busybox tr "\0" x); exit 9' 2>"$T/stats"
check 'the memory of a program is measured' sh -c '[ $1 -eq 9 ] && sed "s/^/# /" "$2" && grep -Eq "status 9 after .* at most ([89]|[1-4][0-9])\.[0-9]+ MiB" "$2"' - $? "$T/stats"
check 'a time limit is kept' status_is 124 smvm-runner exec --timeout 1 origin -- sleep 1000
cat >"$T/in_terminal.py" <<'PY'
import fcntl, os, pty, struct, sys, termios
pid, fd = pty.fork()
if pid == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 43, 111, 0, 0))
    os.execvp(sys.argv[1], sys.argv[1:])
out = b""
while True:
    try:
        data = os.read(fd, 4096)
    except OSError:
        break
    if not data:
        break
    out += data
print(out.decode().replace("\r", ""), end="")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
PY
check 'a terminal has the size of ours' [ "$(python3 "$T/in_terminal.py" smvm-runner exec -t origin -- busybox stty size)" = '43 111' ]

smvm-runner exec origin -- sh -c 'trap "echo caught; exit 5" TERM; echo ready; while :; do sleep 0.1; done' >"$T/sig" &
client=$!
until_true 60 grep -q ready "$T/sig"
kill -TERM $client
wait $client
check 'a signal to the client reaches the program, which handles it' [ "$? $(tail -n 1 "$T/sig")" = '5 caught' ]

smvm-runner exec origin -- sh -c 'echo $$ >/tmp/drop; echo ready; exec sleep 98765' >"$T/drop" &
client=$!
until_true 60 grep -q ready "$T/drop"
kill -KILL $client
check 'a program dies with its client' smvm-runner exec -u 0 origin -- sh -c '
	for i in $(busybox seq 60); do
		kill -0 "$(cat /tmp/drop)" 2>/dev/null || exit 0
		sleep 1
	done
	exit 1'

# ---- files ----------------------------------------------------------------------------------------
mkdir -p "$T/tree/sub/empty" && ln -s ../../etc/passwd "$T/tree/sub/link" && cp "$T/in" "$T/tree/sub/big" && chmod 700 "$T/tree/sub"
smvm-runner cp "$T/tree" origin:/tmp
smvm-runner cp origin:/tmp/tree "$T/back"
check 'a tree goes in and comes out unchanged' diff -r --no-dereference "$T/tree" "$T/back"
check 'with its modes' [ "$(stat -c %a "$T/back/sub")" = 700 ]

# ---- the generation contract -----------------------------------------------------------------------
smvm-runner exec origin -- sh -c 'echo $$ >/tmp/open; echo ready; exec sleep 87654' >"$T/open" &
client=$!
until_true 60 grep -q ready "$T/open"
step 'snapshot' smvm-runner snapshot origin frozen
restore() { smvm-runner restore --json -p 0:8080 --name copy frozen >"$T/restored"; }
step 'restore' restore
check 'a port leads to the service of the copy' [ "$(served "$T/restored")" = copy ]
check 'and the other still to that of the original' [ "$(served "$T/boot")" = origin ]
smvm-runner info copy >"$T/copy"
# One that has died says why in its log.
[ "$(smvm-runner ps -q | wc -l)" -eq 2 ] || job_state
result() { field "$T/copy" ".restored.identity[] | select(.item == \"$1\") | $2"; }
check 'the copy has the next generation' [ "$(field "$T/copy" .guest.generation)" = 2 ]
check 'as its mailbox says' [ "$(field "$T/copy" .guest.mailbox_generation)" = 2 ]
for item in mailbox entropy clock hostname machine-id hook:10-count thaw; do
	check "$item succeeded" [ "$(result $item .code)" = 0 ]
done
check 'the hook knew who it is' [ "$(result hook:10-count .detail)" = 'generation 2 of copy' ]
check 'a hook that fails is a result' [ "$(result hook:20-broken .code)" = 259 ]

# Everything after the hook's count was written by a workload that had been thawed.
facts='echo "host $(cat /proc/sys/kernel/hostname)"
echo "id $(cat /etc/machine-id)"
echo "before $(cat /tmp/before)"
echo "open $(kill -0 "$(cat /tmp/open)" 2>/dev/null && echo yes)"
n=$(cat /tmp/at-restore 2>/dev/null || cat /tmp/before)
for i in $(busybox seq 60); do [ "$(wc -l </tmp/who)" -gt "$n" ] && break; sleep 1; done
echo "goes_on $([ "$(wc -l </tmp/who)" -gt "$n" ] && echo yes)"
echo "old_names $(head -n "$n" /tmp/who | sort -u | tr "\n" " ")"
echo "new_names $(tail -n +"$((n + 1))" /tmp/who | sort -u | tr "\n" " ")"'
for vm in origin copy; do
	smvm-runner exec -u 0 $vm -- sh -c "$facts" >"$T/$vm.facts"
	sed "s/^/# $vm: /" "$T/$vm.facts"
	check "the workload of the $vm goes on" [ "$(said "$T/$vm.facts" goes_on)" = yes ]
	check "the hostname of the $vm is its own" [ "$(said "$T/$vm.facts" host)" = $vm ]
	check "the $vm was the origin before" [ "$(said "$T/$vm.facts" old_names)" = 'origin ' ]
	check "and its workload has seen no other name than its own since" [ "$(said "$T/$vm.facts" new_names)" = "$vm " ]
done
check 'the hook before the snapshot has run' [ "$(said "$T/copy.facts" before)" -gt 0 ]
check 'the machine-ids differ' [ "$(said "$T/origin.facts" id)" != "$(said "$T/copy.facts" id)" ]
check 'an exec session of the original goes on' [ "$(said "$T/origin.facts" open)" = yes ]
check 'in the copy it has ended with its connection' [ "$(said "$T/copy.facts" open)" = '' ]
kill $client
check 'no kernel warning in either' sh -c '! grep -E "WARNING:|BUG:|Oops|rcu.*stall" "$SMVM_RUN_DIR"/*/console.log'
check 'the copy stops when asked' smvm-runner stop -t 60 copy
check 'the original, too' smvm-runner stop -t 60 origin
tap_done
