#!/bin/sh
# smvm-runner's commands around a tiny guest on this machine's KVM: life, names, console, errors, clean ends.
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/tap.sh

if ! [ -c /dev/kvm ] || ! [ -c /dev/fuse ]; then
	skip "smvm-runner with a tiny guest" "needs /dev/kvm and /dev/fuse"
	tap_done
fi
export SMVM_RUN_DIR="$T/run" SMFS_MOUNT="$T/mnt"
unset SMFS_STORE
mkdir "$T/mnt"
smfs mount "$T/store" "$T/mnt" || exit 1
at_exit 'smvm-runner stop -f $(smvm-runner ps -q) 2>/dev/null; smfs unmount "$T/mnt"'
guest=$B/guest/counter

error_says() { # error_says TEXT: the last command's error is one line and has TEXT in it
	cat "$T/err"
	[ "$(wc -l <"$T/err")" -eq 1 ] && grep -qF -- "$1" "$T/err"
}
running() { # running NAME
	smvm-runner ps --json | jq -e --arg n "$1" '.[] | select(.name == $n)' >/dev/null
}
gone() { # gone NAME: soon
	for _ in $(seq 1000); do
		running "$1" || return 0
		sleep 0.05
	done
	return 1
}
threads_are_named() { grep -qx 'vcpu 0' /proc/"$(smvm-runner info one | jq .pid)"/task/*/comm; }

check "a guest boots in the background and prints its id" \
	sh -c 'smvm-runner boot --name one -m 64M --kernel "$1" | grep -qx "[0-9a-f]\{12\}"' sh "$guest"
check "ps lists it" running one
check "info knows its devices" json_has '.devices[0].id == "serial0"' smvm-runner info one
check "its vCPU's thread is called so" threads_are_named
check "its name is taken" status 4 smvm-runner boot --name one -m 64M --kernel "$guest"
check "which the error says" error_says "is running already"
check "its console log holds its first words" sh -c 'for _ in $(seq 1000); do
	smvm-runner console --log one | grep -q "^up " && exit 0; sleep 0.05; done; exit 1'
mkfifo "$T/keys"
answers() { # typed at, it says it; who types stays
	smvm-runner console one <"$T/keys" >"$T/said" &
	exec 5>"$T/keys"
	printf '?' >&5
	for _ in $(seq 1000); do
		grep -q '^now ' "$T/said" && break
		sleep 0.05
	done
	kill $!
	wait $!
	exec 5>&-
	grep -q '^now ' "$T/said"
}
check "its console answers" answers
check "exec says that a bare guest has no agent" status 5 smvm-runner exec one true
check "a snapshot of it" status 0 smvm-runner snapshot one s
check "the same name again is refused" status 4 smvm-runner snapshot one s
check "a bad name is refused" status 2 smvm-runner snapshot one ../s
check "and it still runs" running one
check "an unknown VM is not found" status 3 smvm-runner stop nobody
esc=$(printf "a\033[2Jb\302\233c")
check "what a message quotes does not act on a terminal" says 3 "VM .a?\[2Jb?c.;" smvm-runner stop "$esc"
check "an unknown snapshot is not found" status 3 smvm-runner restore nothing
check "an unknown image is not found" status 3 smvm-runner boot nothing
check "which the error explains" error_says "smvm-pull"
check "an unknown option is a usage error" status 2 smvm-runner boot --colour
check "too much memory is a usage error" status 2 smvm-runner boot -m 999T --kernel "$guest"
check "nobody waits in the foreground" says 2 "has no --ready" smvm-runner boot -f --ready agent --kernel "$guest"
check "an expression that is none is found before anything boots" says 2 "log:(" smvm-runner boot --ready 'log:(' --kernel "$guest"
check "a guest without an agent cannot say that it is ready" \
	says 5 "has no agent" smvm-runner boot --name mute -m 64M --ready agent --kernel "$guest"
check "and is not left" gone mute
check "a kernel that is none is refused" status 5 smvm-runner boot --kernel "$B/smfs.pc"
# Several at once: each is answered, in some order.
smvm-runner snapshot --still one at1 >/dev/null 2>&1 &
a=$!
smvm-runner snapshot --still one at2 >/dev/null 2>&1 &
b=$!
check "of two snapshots of a still guest at once" wait $a
check "both are taken" wait $b
for i in 1 2 3 4; do
	smvm-runner restore --name twin at1 >"$T/twin$i" 2>&1 &
	eval "r$i=\$!"
	smvm-runner ps -q >/dev/null &
done
won=0
for i in 1 2 3 4; do
	eval "wait \$r$i" && won=$((won + 1))
done
check "of four restores for one name one wins" [ $won -eq 1 ]
check "and the others learn that it is taken" [ "$(cat "$T"/twin? | grep -c "is running already")" -eq 3 ]
smvm-runner stop -f twin
for i in 1 2 3 4; do
	smvm-runner restore at2 >"$T/twin$i" 2>&1 &
	eval "r$i=\$!"
	smvm-runner ps -q >/dev/null &
done
won=0
for i in 1 2 3 4; do
	eval "wait \$r$i" && won=$((won + 1))
done
check "four restores without a name all run" [ $won -eq 4 ]
smvm-runner stop -f $(cat "$T"/twin?)
check "stop ends it, and it is gone when stop returns" status 0 smvm-runner stop one
check_not "ps lists it no more" running one

check "restored in the background" status 0 smvm-runner restore --name two s
kill -TERM "$(smvm-runner ps --json | jq '.[] | select(.name == "two") | .pid')"
check "SIGTERM ends it" gone two
check "and nothing of it is left" sh -c '[ -z "$(ls "$SMVM_RUN_DIR")" ]'
check "restored again" status 0 smvm-runner restore --name two s
kill -KILL "$(smvm-runner ps --json | jq '.[] | select(.name == "two") | .pid')"
check "kill -9 ends it" gone two
check "and the next ps has swept its directory" sh -c '[ -z "$(ls "$SMVM_RUN_DIR")" ]'

cp -r "$T/mnt/snapshots/s" "$T/copy"
for f in meta vcpu; do
	rm -rf "$T/bad"
	cp -r "$T/copy" "$T/bad"
	chmod u+w "$T/bad/$f"
	python3 -c 'import sys; f = open(sys.argv[1], "r+b"); f.seek(700); c = f.read(1)[0]; f.seek(700)
f.write(bytes([c ^ 4]))' "$T/bad/$f"
	check "one flipped bit in $f is refused" status 5 smvm-runner restore "$T/bad"
	check "with the reason" error_says "$f"
done
rm -rf "$T/bad"
cp -r "$T/copy" "$T/bad"
chmod u+w "$T/bad/ram"
truncate -s 32M "$T/bad/ram"
check "a short ram is refused" status 5 smvm-runner restore "$T/bad"
check "with the reason" error_says "ram"
check "no machine was made of any of them" sh -c '[ -z "$(smvm-runner ps -q)" ]'
tap_done
