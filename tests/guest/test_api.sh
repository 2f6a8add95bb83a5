#!/bin/sh
# libsmvm as a user meets it: installed, its examples built outside of the tree by pkg-config alone, and run.
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/tap.sh
unset MAKEFLAGS MAKELEVEL
src=$PWD/doc/examples
make -s BUILD="${B%-san}" SAN="${SAN:-}" PREFIX=/usr DESTDIR="$T/dest" install >"$T/log" 2>&1 || cat "$T/log"
header=$T/dest/usr/include/smvm.h

# ---- what is installed --------------------------------------------------------------------------
symbols() { nm -D --defined-only "$T/dest/usr/lib/libsmvm.so.0" | awk '$2 != "A" {print $3}' | sort; }
declared() { grep -oE '\bsmvm_[a-z_]+\(' "$header" | tr -d '(' | grep -v '^smvm_$' | sort -u; }
shows_only_that() {
	symbols | sed 's/@@SMVM_0$//' >"$T/shown"
	sed -n '/^SMVM_API/,/;/p' "$header" | tr '\n' ' ' | grep -oE 'smvm_[a-z_]+\(' | tr -d '(' | sort -u >"$T/declared"
	[ -s "$T/declared" ] && diff "$T/declared" "$T/shown"
}
check "the shared library shows what the header declares, and nothing else" shows_only_that
versioned() { symbols | grep -q '@@SMVM_0$' && ! symbols | grep -v '@@SMVM_0$'; }
check "each symbol with a version" versioned
check "the header needs nothing but the C library, in C11 and in C++" sh -c 'for l in c c++; do
	echo "#include <smvm.h>" | cc -x $l -Wall -Wextra -Werror -pedantic -I"$1" -fsyntax-only - || exit 1; done' sh "$T/dest/usr/include"

# ---- the examples, from outside -----------------------------------------------------------------
mkdir "$T/outside"
cp "$src"/*.c "$T/outside"
# A sysroot of its own: as if what is below $T/dest were the root.
PKG_CONFIG_SYSROOT_DIR=$T/dest PKG_CONFIG_PATH=$T/dest/usr/lib/pkgconfig
PKG_CONFIG_ALLOW_SYSTEM_CFLAGS=1 PKG_CONFIG_ALLOW_SYSTEM_LIBS=1
export PKG_CONFIG_SYSROOT_DIR PKG_CONFIG_PATH PKG_CONFIG_ALLOW_SYSTEM_CFLAGS PKG_CONFIG_ALLOW_SYSTEM_LIBS
built() { # built EXAMPLE
	(cd "$T/outside" && cc -Wall -Wextra -Werror ${SAN:+"-fsanitize=$SAN"} -o "$1" "$1.c" $(pkg-config --cflags --libs smvm))
}
for f in "$src"/*.c; do
	e=$(basename "$f" .c)
	check "$e is built by pkg-config alone" built "$e"
	used="${used:-} $(grep -oE 'smvm_[a-z_]+\(' "$f" | tr -d '(')"
done
each_used() {
	for s in $(cat "$T/declared"); do
		case " $(echo $used) " in *" $s "*) ;; *) echo "# no example of $s"; return 1 ;; esac
	done
}
check "there is an example of each call" each_used
# The two must be of one release; the loader is told where, as for any library not in its path.
export LD_LIBRARY_PATH="$T/dest/usr/lib" SMVM_RUNNER="$T/dest/usr/bin/smvm-runner"
X=$T/outside

mkdir -p "$T/img/images/docker.io/library/one:1"
echo '{}' >"$T/img/images/docker.io/library/one:1/config.json"
check "image_open finds an image by its short name" \
	prints "docker.io/library/one:1 in $T/img/images/docker.io/library/one:1" env SMFS_MOUNT="$T/img" "$X/image_open" one:1
check "and says what to do where there is none" says 1 "is not an smfs mount; run .smfs mount" env SMFS_MOUNT="$T/img" "$X/image_open" two
. tests/guest/tiny.sh
guest=$B/guest/counter
quiet() { [ -z "$(smvm-runner ps -q)" ]; }

check "vm_kernel boots a kernel and keeps it" prints "bytes of memory in" "$X/vm_kernel" "$guest" snap
check "nothing runs after it" quiet
check "a name that is taken is refused, in the worker's words" says 1 "snap.*exist" "$X/vm_kernel" "$guest" snap
check "a kernel that is none is refused with the worker's last words" says 1 "smfs.pc" "$X/vm_kernel" "$B/smfs.pc" other
check "vm_start refuses an image that is not there" says 1 "smvm-pull" "$X/vm_start" nothing
check "vm_restore restores, in place, with each phase told" prints \
	"^warm: [1-9][0-9]* us: stop [0-9]*, map [0-9]*, read [0-9]*, load [0-9]* (copy 0,.*generation 2$" "$X/vm_restore" snap
check "three times" [ "$(wc -l <"$T/out")" -eq 3 ]
check "the first of them made the machine" grep -q '^new: ' "$T/out"
check "nothing of it is left" quiet
check "an unknown snapshot is refused, in the worker's words" says 1 "snapshot nothing: no such directory" "$X/vm_restore" nothing
check "vm_restore_timeout is in time" prints "^in time: " "$X/vm_restore_timeout" snap 20000
# The mount's server stands still until both have been told: a restore waits for it.
late() {
	pid=$(cat "$SMFS_MOUNT/.smfs/pid")
	kill -STOP "$pid"
	# On a terminal each line is written as it is said.
	script -qfec "$X/vm_restore_timeout $1 200" "$T/typescript" >/dev/null </dev/null &
	until_true 6 grep -q '^refused: ' "$T/typescript"
	kill -CONT "$pid"
	wait $! || return 1
	tr -d '\r' <"$T/typescript" >"$T/out"
	cat "$T/out"
	grep -q "$2" "$T/out"
}
smvm-runner restore --name again snap >/dev/null && smvm-runner snapshot again unread >/dev/null && smvm-runner stop -f again
check "a restore that takes longer is in flight after its time, and ends well" late unread "^restored after all"
check "it was late" grep -q "^late: " "$T/out"
check "and another one meanwhile was refused" grep -qx "refused: restore in flight" "$T/out"
check "vm_restore_begin restores four at once" prints "restored in" "$X/vm_restore_begin" snap 4
check "all of them" [ "$(grep -c 'restored in' "$T/out")" -eq 4 ]
check "vm_snapshot_begin writes a diff beside the running guest" prints "later differs from snap by [0-9]* bytes" \
	"$X/vm_snapshot_begin" snap later
check "which can be restored" prints "^warm: " "$X/vm_restore" later
check "a machine of smvm-runner's" status 0 smvm-runner restore --name mine snap
check "is snapshotted and stopped by vm_open" prints "is stopped" "$X/vm_open" mine mine1
check "what was written is told" grep -q "^mine1: [1-9][0-9]* bytes$" "$T/out"
check "it cannot be restored, which is told" grep -q "only its own worker" "$T/out"
check "an unknown one is not found" says 1 "nobody" "$X/vm_open" nobody x
check "vm_fork makes three children" prints "^child [0-9a-f]\{12\}" "$X/vm_fork" snap 3
check "all of them" [ "$(wc -l <"$T/out")" -eq 3 ]
ports() { sed -n "s/^$1: port \([1-9][0-9]*\) leads to 80 of .*/\1/p" "$T/out"; }
check "vm_publish has a port lead into a machine" prints "^new: port [1-9][0-9]* leads to 80 of [0-9a-f]\{12\}$" "$X/vm_publish" snap 80
check "through a restore the same" [ "$(ports new)" = "$(ports warm)" ]
check "and into each of a pool one of its own" [ "$(ports claimed | sort -u | wc -l)" -eq 2 ]
check "what is no target is told, in the worker's words" says 1 "'/run/a b' is no forward" "$X/vm_publish" snap "/run/a b"
python3 -c 'import signal, socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1], flush=True); signal.pause()' >"$T/taken" &
holder=$!
until_true 5 [ -s "$T/taken" ]
check "so is a port that is taken" says 1 "listen on 127.0.0.1 port .*in use" "$X/vm_publish" snap "$(cat "$T/taken"):80"
kill $holder
wait $holder 2>/dev/null
check "vm_stop and join" prints "^stopped, status 0" "$X/vm_stop" snap
check "a second join is refused" grep -qx "join again: already joined" "$T/out"
check "a restore after it, too" grep -qx "restore: command closed" "$T/out"
check "and a stop after a drop" grep -qx "stop: command closed" "$T/out"
check "a dropped worker ends in order" grep -qx "dropped, status 0" "$T/out"
check "a bare guest runs no programs, and that is told" says 1 "bare guest" "$X/vm_exec" snap true
check "no pool is running yet, and that is told" says 1 "no pool 'here' is running; smvm-runner pool" "$X/pool_claim" here
smvm-runner pool --name here --snapshot snap --min 2 --max 2 >"$T/pool" 2>&1 &
pool=$!
ready() { [ "$(smvm-runner pool status --json --name here | jq .warm)" = "$1" ]; }
until_true 20 ready 2
check "pool_claim has a machine of it" prints "^[0-9a-f]\{12\} is ours; 1 claimed, 1 ready, 2 to 2" "$X/pool_claim" here
check "until it releases it" grep -qx released "$T/out"
check "a program that fails with one" says 1 "bare guest" "$X/pool_claim" here true
check "has given it back by ending" until_true 10 ready 2
check "pool_claim_begin: claims wait in line for two machines" prints "^claim 7: [0-9a-f]\{12\}" "$X/pool_claim_begin" here 8 20000
check "and each is served" [ "$(grep -c '^claim [0-7]: [0-9a-f]\{12\}$' "$T/out")" -eq 8 ]
check "the pool has all of them back" until_true 10 ready 2
vm=$(smvm-runner pool claim --name here)
other=$(smvm-runner pool claim --name here)
check "a claim that waits too long is told so" prints "claim 0: no: no machine within" "$X/pool_claim_begin" here 1 50
smvm-runner pool release --name here "$vm" && smvm-runner pool release --name here "$other"
kill $pool
check "a pool says where it is, and ends in order" wait $pool
check "on its one line of output" grep -qx "pool here: $SMVM_RUN_DIR/pool-here.sock" "$T/pool"
check "pool_start has one of its own" prints "^claimed [0-9a-f]\{12\}" "$X/pool_start" snap
check "a second start is refused" grep -q "^again: pool lib-[0-9a-f]*: it has a worker already$" "$T/out"
check "once it is stopped it has no machine" grep -q "^claim: pool lib-.*not been started" "$T/out"
check "a snapshot that is not there is told in the pool's words" says 1 "snapshot nothing: no such directory" "$X/pool_start" nothing
check "nothing of either pool is left" sh -c '! ls "$1" | grep .' sh "$SMVM_RUN_DIR"
"$X/vm_attach" "$T/w.sock" snap >"$T/attached" 2>&1 &
attach=$!
until_true 5 [ -S "$T/w.sock" ]
check "a worker of somebody else's" status 0 smvm-runner worker --socket "$T/w.sock"
check "is driven by vm_attach" wait $attach
check "through a restore" grep -q "restored in" "$T/attached"
check "nothing is left running" quiet
check "nor any socket's directory" sh -c '! ls -d /tmp/libsmvm.* 2>/dev/null'

# A program that dies takes its machine along.
cat >"$X/wait.c" <<'END'
#include <smvm.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	struct smvm_vm *vm;
	return argc < 2 || smvm_vm_start(NULL, NULL, &vm, NULL) < 0 || smvm_vm_restore(vm, argv[1], NULL, NULL) < 0 || pause();
}
END
built wait
"$X/wait" snap &
p=$!
busy() { ! quiet; }
check "a program with a machine" until_true 5 busy
kill -KILL $p
wait $p 2>/dev/null
check "when it is killed, leaves none" until_true 5 quiet

# So does a pool.
cat >"$X/waitpool.c" <<'END'
#include <smvm.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	struct smvm_pool_options o = {.size = sizeof(o), .snapshot = argv[1], .name = "mine", .min = 2, .max = 2};
	struct smvm_pool *pool;
	struct smvm_vm *vm;
	return argc < 2 || smvm_pool_new(&o, &pool, NULL) < 0 || smvm_pool_start(pool, NULL) < 0 ||
	       smvm_pool_claim(pool, 20000, &vm, NULL) < 0 || pause();
}
END
built waitpool
"$X/waitpool" snap &
p=$!
claimed() { [ "$(smvm-runner pool status --json --name mine 2>/dev/null | jq .claimed)" = 1 ]; }
check "a program with a pool" until_true 10 claimed
kill -KILL $p
wait $p 2>/dev/null
gone() { quiet && [ -z "$(ls "$SMVM_RUN_DIR")" ]; }
check "when it is killed, leaves neither it nor its machines" until_true 10 gone
tap_done
