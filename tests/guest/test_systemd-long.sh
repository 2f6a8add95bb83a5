#!/bin/sh
# The Debian packages and their services under a real systemd, the first process of a Debian 12 in namespaces of its own:
# smfs.service and smvm-pool@.service start, are healed, are confined, come up by themselves at a boot, are upgraded
# below what runs, end when they are told to and when they are removed. The guests are tiny ones.
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/tap.sh
unset MAKEFLAGS MAKELEVEL
name="services under systemd"
skip_all() {
	skip "$name" "$1"
	tap_done
}

for dev in kvm fuse; do [ -w /dev/$dev ] || skip_all "no /dev/$dev"; done
[ "$(id -u)" = 0 ] || skip_all "needs root"
cgroups=$(findmnt -n -t cgroup2 -o TARGET | head -n 1)
mkdir "${cgroups:-/nonexistent}/smtest.$$" 2>/dev/null || skip_all "no control groups of version 2"
G=$cgroups/smtest.$$
at_exit 'find "$G" -depth -type d -exec rmdir {} +'
unshare -mpfuinC true 2>/dev/null || skip_all "namespaces cannot be made here"
. tests/lib/bookworm.sh
bookworm_root "$T/root" "$name"
make -s BUILD="$B" deb >"$T/log" 2>&1 || cat "$T/log"
mount -t proc proc "$R/proc"
at_exit 'umount -l "$R/proc" 2>/dev/null'
install() { in_root sh -c "cd /root && apt-get -q -y install --no-install-recommends ./*.deb"; }
cp "$B"/deb/smfs_*.deb "$B"/deb/smvm-runner_*.deb "$B"/deb/libsmfs0_*.deb "$B/guest/counter" "$B/guest/ledger" "$R/root"
{ apt install --no-install-recommends systemd jq && install; } >"$T/log" 2>&1 || {
	cat "$T/log"
	check "the packages install beside systemd" false
	umount "$R/proc"
	tap_done
}
umount "$R/proc"
rm "$R/usr/sbin/policy-rc.d"

# ---- the machine, so to say -------------------------------------------------------------------------
# inside COMMAND...: in it, as its root
inside() { nsenter -t "$init" -m -p -u -i -n -C -r --wdns=/ env -i HOME=/root LANG=C PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@" </dev/null; }
sh_inside() { inside sh -c "$1"; }
is_up() { case $(inside systemctl is-system-running 2>/dev/null) in running | degraded) ;; *) false ;; esac }
up() {
	sh -c 'echo 0 >"$1/cgroup.procs"; shift; exec "$@"' sh "$G" unshare -mpfuinC --kill-child sh tests/lib/systemd_root.sh "$R" >"$T/systemd.log" 2>&1 &
	outside=$!
	until_true 10 pgrep -P $outside >/dev/null && init=$(pgrep -P $outside) && until_true 30 is_up
}
is_down() { ! [ -d "/proc/$init" ]; }
down() {
	inside systemctl poweroff --force 2>/dev/null
	until_true 90 is_down || return 1
	wait $outside
	outside=
}
outside=
at_exit '[ -z "$outside" ] || { kill -9 $outside; wait $outside; } 2>/dev/null'

of() { inside systemctl show -P "$2" "$1"; } # of UNIT PROPERTY
is() { [ "$(of "$1" ActiveState)" = "$2" ]; } # is UNIT STATE
pool() { inside smvm-runner pool "$@"; }
is_warm() { json_has ".warm >= ${2:-1}" pool status --name "$1" --json 2>/dev/null; }
# serves POOL: a claim, whose machine has woken from its snapshot, and its release
serves() {
	vm=$(pool claim --name "$1" --timeout 20) && until_true 10 woken "$vm" && pool release "$vm" --name "$1"
}
woken() { inside smvm-runner console -l "$1" | grep -qE "^gen|^up"; }
journal() { inside journalctl --no-pager -q -u "$1"; }
no_more() { ! sh_inside 'cat /proc/[0-9]*/comm' 2>/dev/null | grep -q "$1"; }

if ! up; then
	cat "$T/systemd.log"
	skip_all "systemd does not come up in namespaces here"
fi

# ---- the store -------------------------------------------------------------------------------------
check "smfs.service starts; its store is made" inside systemctl start smfs.service
check "what it mounts is there for everybody" sh_inside '[ -d /mnt/smfs/snapshots ] && [ -f /var/lib/smfs/format ]'
machines() {
	sh_inside 'cd /root && truncate -s 12M disk && for x in "web counter" "disks ledger --disk /root/disk:/d"; do set -- $x; n=$1 g=$2; shift 2
		smvm-runner boot --name $n -m 64M --kernel $g "$@" && sleep 0.5 && smvm-runner snapshot $n $n && smvm-runner stop $n -f || exit 1; done'
}
check "machines are booted and snapshotted beside it" machines
keeper=$(of smfs.service MainPID)
server() { sh_inside "grep -vx $keeper /sys/fs/cgroup$(of smfs.service ControlGroup)/cgroup.procs"; }
first=$(server)
sh_inside "kill -9 $first"
answers() { sh_inside '[ -f /mnt/smfs/snapshots/web/meta ]'; }
check "its server killed: the mount goes on, by another" until_true 10 answers
check_not "which is another process" [ "$first" = "$(server)" ]
check "and the service is what it was" [ "$(of smfs.service MainPID) $(of smfs.service NRestarts)" = "$keeper 0" ]

# ---- a pool ----------------------------------------------------------------------------------------
check "smvm-pool@web starts by its name alone" inside systemctl start smvm-pool@web
check "it has a machine warm" until_true 20 is_warm web
check "it serves a claim" serves web
main=$(of smvm-pool@web MainPID)
vm=$(pool claim --name web)
check "a claimed machine is snapshotted into the store" inside smvm-runner snapshot "$vm" later
check "and given back" pool release "$vm" --name web
check "a pool of machines with a disk" inside systemctl start smvm-pool@disks
check "serves claims: the cache directory is its own to write" serves disks
sh_inside 'mkdir -p /etc/smvm/pool /etc/systemd/system/smvm-pool@net.service.d &&
	printf "SNAPSHOT=web\nMIN=2\nMAX=3\nOPTIONS=-p 8080\n" >/etc/smvm/pool/net.conf &&
	cp /usr/share/doc/smvm-runner/examples/smvm-pool-publish.conf /etc/systemd/system/smvm-pool@net.service.d/publish.conf &&
	systemctl daemon-reload'
check "one with a configuration, and the drop-in for ports" inside systemctl start smvm-pool@net
check "keeps as many machines as it says" until_true 20 is_warm net 2
# In its network: loopback is down in a new one.
in_net() { nsenter -t "$init" -n "$@"; }
in_net ip link set lo up
visited() {
	in_net python3 -c 'import socket, sys; socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5)' \
		"$(pool status --name net --json | jq '.machines[0].host_port')"
}
check "each with a port that takes connections" visited
check "the configuration's snapshot, and its number" [ "$(pool status --name net --json | jq -r '"\(.snapshot) \(.min) \(.max)"')" = "/mnt/smfs/snapshots/web 2 3" ]

# ---- confinement -----------------------------------------------------------------------------------
in_unit() { inside nsenter -t "$main" -m -n --wdns=/ "$@"; }
check_not "the pool may not write what is not its own" in_unit sh -c '{ : >/etc/x || : >/usr/x || : >/root/x; } 2>/dev/null'
check "but where snapshots go" in_unit sh -c ': >/var/lib/smfs/tmp/x && rm /var/lib/smfs/tmp/x'
check "it has no network but loopback" [ "$(in_unit sed -n '3,$s/:.*//p' /proc/self/net/dev | tr -d ' ')" = lo ]
check "no capability, and a filter of system calls" [ "$(sh_inside "grep -cE '^Cap(Prm|Eff|Bnd):.0+\$|^NoNewPrivs:.1\$|^Seccomp:.2\$' /proc/$main/status")" = 5 ]
in_its_group() { inside sh -c 'echo $$ >"/sys/fs/cgroup$1/cgroup.procs" && exec 3<>"$2"' sh "$(of smvm-pool@web ControlGroup)" "$1"; }
if journal smvm-pool@web | grep -qi 'bpf\|not supported'; then
	skip "no device but /dev/kvm" "this kernel has no device filter of control groups"
else
	check "/dev/kvm is its device" in_its_group /dev/kvm
	check_not "/dev/fuse is not" in_its_group /dev/fuse
fi

# ---- what goes wrong ---------------------------------------------------------------------------------
inside systemctl kill -s KILL --kill-whom=main smvm-pool@web
again() { [ "$(of smvm-pool@web MainPID)" != "$main" ] && is smvm-pool@web active && is_warm web; }
check "the pool is killed: there is another, with a machine" until_true 20 again
check "which serves claims" serves web
sh_inside "kill -9 $(pool status --name web --json | jq '.machines[0].pid')"
has_died() { json_has '.died == 1' pool status --name web --json; }
check "a worker is killed, which the pool notices" until_true 20 has_died
check "and serves" serves web
says_why() { inside systemctl start smvm-pool@nosuch 2>/dev/null && return 1; journal smvm-pool@nosuch | grep -q 'no such directory'; }
check "a snapshot that is not there: it fails to start, and the journal says why" says_why
check "tried a few times, then left" until_true 20 is smvm-pool@nosuch failed
sh_inside 'echo "OPTIONS=--nonsense" >/etc/smvm/pool/wrong.conf'
inside systemctl start smvm-pool@wrong 2>/dev/null
check "wrong options are not tried again" sh -c '[ "$1" = "failed 0" ]' sh "$(of smvm-pool@wrong ActiveState) $(of smvm-pool@wrong NRestarts)"

# ---- an upgrade, below what runs ------------------------------------------------------------------------
before="$(of smfs.service MainPID) $(of smvm-pool@web MainPID) $(of smvm-pool@net MainPID)"
upgrade() { sh_inside 'cd /root && apt-get -q -y -o APT::Sandbox::User=root install --reinstall --no-install-recommends ./*.deb' >"$T/log" 2>&1 || { cat "$T/log"; false; }; }
check "the packages are installed again" upgrade
check "nothing of what runs was restarted" [ "$(of smfs.service MainPID) $(of smvm-pool@web MainPID) $(of smvm-pool@net MainPID)" = "$before" ]
check "the mount is given the new program" inside smfs remount
check "and claims are served" serves web

# ---- a stop, a boot ------------------------------------------------------------------------------------
check "a pool ends when it is told to" inside systemctl stop smvm-pool@net smvm-pool@disks
check "with status 0" [ "$(of smvm-pool@net ExecMainStatus) $(of smvm-pool@net Result)" = "0 success" ]
check "and leaves nothing in the run directory" sh_inside '! ls /run/smvm | grep -E "pool-(net|disks).sock$"'
check "both services are to come at a boot" inside systemctl enable -q smfs.service smvm-pool@web
began=$(date +%s)
check "the machine goes down" down
check "without waiting for anything to be killed" [ $(($(date +%s) - began)) -lt 60 ]
check "and comes up again" up
check "with its store" until_true 20 is smfs.service active
check "and its pool, which waited for the store" until_true 20 is_warm web
check "and serves a claim, by itself" serves web
check "of a store that is whole" inside smfs fsck -q

# ---- the end -------------------------------------------------------------------------------------------
check "the packages are removed below what runs" sh_inside 'apt-get -q -y remove smfs smvm-runner >/dev/null'
had_to_wait() { journal smfs.service | grep "still in use"; }
check_not "the store does not wait for the machines of pools" had_to_wait
check "no pool is left" until_true 10 no_more smvm-runner
check "nor a server" until_true 10 no_more smfs
check_not "nor a mount" sh_inside 'grep -q smfs /proc/mounts'
check "nor a unit that is to come at a boot" sh_inside '[ -z "$(find /etc/systemd -name "sm*.service")" ]'
check "but the store is" sh_inside '[ -f /var/lib/smfs/format ]'
check "the machine goes down at last" down
tap_done
