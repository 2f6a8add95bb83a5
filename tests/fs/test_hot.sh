#!/bin/sh
# Hot files: the kernel serves what is materialised, right bytes in every case, cold where it cannot be.
. tests/lib/tap.sh
. tests/fs/mount.sh
need_fuse

stat_of() { # stat_of NAME: a value of .smfs/stats
	sed -n "s/^smfs_$1 //p" "$M/.smfs/stats"
}
becomes() { # becomes NAME VALUE: soon
	for _ in $(seq 1200); do
		[ "$(stat_of "$1")" = "$2" ] && return 0
		sleep 0.05
	done
	echo "# $1 is $(stat_of "$1"), not $2"
	return 1
}
is() { # is NAME VALUE: now
	[ "$(stat_of "$1")" = "$2" ] || { echo "# $1 is $(stat_of "$1"), not $2"; return 1; }
}
same() { # same SNAPSHOT: ram as it was imported, read and mapped
	cmp "$M/snapshots/$1/ram" "$T/$1/ram" && python3 - "$M/snapshots/$1/ram" "$T/$1/ram" <<-'PY'
	import mmap, sys
	f, g = (open(p, "rb") for p in sys.argv[1:])
	sys.exit(mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)[:] != g.read())
	PY
}
holes() { # holes FILE: prints where its data is
	python3 - "$1" <<-'PY'
	import os, sys
	fd, at = os.open(sys.argv[1], os.O_RDONLY), 0
	try:
	    while True:
	        at = os.lseek(fd, at, os.SEEK_DATA)
	        end = os.lseek(fd, at, os.SEEK_HOLE)
	        print(at, end)
	        at = end
	except OSError:
	    pass
	PY
}

export SMFS_STORE="$S"
smfs init -q
for n in a b c; do
	make_snapshot "$T/$n" $(printf %d "'$n")
	smfs import -q "$n" "$T/$n"
done
# b and c are larger than what the cache is given below; all differ.
start_mount --hot auto || { skip "hot" "no mount"; tap_done; }
if [ "$(stat_of hot_refused_total)" != 0 ] || grep -q "offers no passthrough" "$T/log"; then
	skip "hot" "this kernel has no FUSE passthrough"
	tap_done
fi

# ---- auto ------------------------------------------------------------------------------------
holes "$M/snapshots/a/ram" >"$T/cold.holes"
check "a first reader is served cold" test -s "$T/cold.holes"
check "nothing is hot yet" is hot_opens_total 0
exec 5<"$M/snapshots/a/ram"
exec 6<"$M/snapshots/a/ram"
check "the third open materialises, in the background" becomes hot_made_total 1
exec 7<"$M/snapshots/a/ram"
check "what is open cold stays cold" is hot_opens_total 0
check "and reads right" cmp /dev/fd/7 "$T/a/ram"
exec 5<&- 6<&-
: <"$M/snapshots/a/ram"
check "until the last one has closed" is hot_opens_total 0
exec 7<&-
becomes takeover_open_files 1 # the one that says so: a close(2) is told the server a little later
check "then it is hot: right bytes, read and mapped" same a
check "by the kernel" becomes hot_opens_total 2
reads=$(stat_of read_bytes_total)
check "again" same a
check "and the server reads nothing of it" test $(($(stat_of read_bytes_total) - reads)) -lt 65536
holes "$M/snapshots/a/ram" >"$T/hot.holes"
check "lseek sees the holes it saw before" cmp "$T/cold.holes" "$T/hot.holes"
check "a hot file is private to map and read-only to write" python3 - "$M/snapshots/a/ram" <<'PY'
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
m = mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
m[0:4] = b"mine"
assert os.pread(fd, 4, 0) != b"mine"
try: os.open(sys.argv[1], os.O_RDWR)
except OSError: sys.exit(0)
sys.exit(1)
PY

# ---- warm ------------------------------------------------------------------------------------
check "smfs warm materialises beside the mount" smfs warm b
opens=$(stat_of hot_opens_total)
check "and the mount finds it" same b
check "hot at the first open" is hot_opens_total $((opens + 2))
check "--list names what is there" sh -c 'smfs warm --list | grep -q "^snapshots/b/ram "'
exec 5<"$M/snapshots/b/ram"
check "and what is in use" sh -c 'smfs warm --list | grep "^snapshots/b/ram " | grep -q "in use"'
check "which is not dropped" says 4 "in use" smfs warm --drop b
exec 5<&-
becomes hot_files_open 0
check "what is not in use is" smfs warm --drop b
check "and then there is nothing of it" says 3 "nothing of it" smfs warm --drop b
check "--check of a good cache finds nothing" smfs warm --check

# ---- damage ----------------------------------------------------------------------------------
was=$(ls "$S"/cache/*-4194304)
smfs warm c
file=$(ls "$S"/cache/*-4194304 | grep -vF "$was")
opens=$(stat_of hot_opens_total)
# The clock of files moves a few milliseconds at a time.
until touch "$T/now" && [ "$T/now" -nt "$file" ]; do :; done
printf x | dd of="$file" bs=1 conv=notrunc status=none
check "a file of the cache that was written to is not served" same c
check "but removed" test ! -e "$file"
check "and nothing hot was opened" is hot_opens_total "$opens"
smfs warm c
touch -r "$file" "$T/when"
printf x | dd of="$file" bs=1 conv=notrunc status=none
touch -m -r "$T/when" "$file"
smfs warm --check >"$T/out"
check "--check compares" test $? = 5
check "says what differs" grep -q "^cache of snapshots/c/ram .*: differs" "$T/out"
check "and removes it" test ! -e "$file"
check "fsck does not look at the cache" smfs fsck --read-data

# ---- the server dies -------------------------------------------------------------------------
smfs warm a
cat >"$T/mapper" <<'PY'
import mmap, sys
f = open(sys.argv[1], "rb")
m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
want = open(sys.argv[2], "rb").read()
assert m[:4096] == want[:4096]
print("mapped", flush=True)
sys.stdin.readline()
sys.exit(m[:] != want)
PY
mkfifo "$T/go"
python3 "$T/mapper" "$M/snapshots/a/ram" "$T/a/ram" <"$T/go" >"$T/said" &
mapper=$!
exec 5>"$T/go"
for _ in $(seq 1200); do grep -q mapped "$T/said" && break; sleep 0.05; done
check "a hot mapping" grep -q mapped "$T/said"
server=$(cat "$M/.smfs/pid")
kill -9 "$server"
another() { # a server that is not the killed one
	for _ in $(seq 1200); do
		pid=$(cat "$M/.smfs/pid" 2>/dev/null) && [ "$pid" != "$server" ] && return 0
		sleep 0.05
	done
	return 1
}
check "another server goes on" another
check "which serves beside the mapping" same a
check "from the same backing file, hot" is hot_opens_total 2
smfs warm b
check "and another one" same b
check "too" is hot_opens_total 4
keeper=$(cat "$M/.smfs/keeper")
kill -9 "$keeper" "$(cat "$M/.smfs/pid")"
echo 3 >/proc/sys/vm/drop_caches
echo go >&5
wait $mapper
check "the mapping outlives all of them, pages it never loaded included" test $? = 0
exec 5>&-
smfs unmount "$M" || smfs unmount --force "$M"
smfs warm --drop b

# ---- always, never ---------------------------------------------------------------------------
# The kernel lets go of a dead mount's files some time after its end.
for _ in $(seq 600); do smfs warm --drop a 2>"$T/err" && break; sleep 0.1; done
check "when all is over nothing is in use" test ! -s "$T/err"
start_mount --hot always
check "always: the first open waits and is hot" same a
check "both of them" is hot_opens_total 2
check "made once" is hot_made_total 1
check "small files are not worth it" cmp "$M/snapshots/a/vcpu" "$T/a/vcpu"
check "and stay cold" is hot_opens_total 2
stop_mount
start_mount --hot never
check "never: right bytes" same a
check "cold, though it is in the cache" is hot_opens_total 0
stop_mount
start_mount -r --hot always
check "a read-only mount uses the cache" same a
check "hot" is hot_opens_total 2
check "what is not there is cold" same b
check "and not made" is hot_made_total 0
stop_mount
check_not "a policy that is none is refused" smfs mount --hot lukewarm "$S" "$M"

# ---- bounds ----------------------------------------------------------------------------------
one=$(($(stat -c %b "$S"/cache/*-4194304) * 512))
start_mount --hot always --cache-size $((2 * one + 65536))
same a && same b
touch -a -d '2001-01-01' "$S"/cache/*-4194304
same a # used last
becomes hot_files_open 0
check "the cache holds two" is hot_cache_files 2
check "a third makes room for itself" same c
check "by what was not used for longest" is hot_evicted_total 1
check "and the limit holds" test "$(stat_of hot_cache_bytes)" -le $((2 * one + 65536))
smfs warm --list -q >"$T/out"
check_not "which was the second" grep -q snapshots/b/ "$T/out"
becomes hot_files_open 0
exec 5<"$M/snapshots/a/ram" 6<"$M/snapshots/c/ram"
made=$(stat_of hot_made_total)
check "what is in use is not evicted: the next is cold" same b
check "and counted" is hot_failures_total 1
check "and the log says so" grep -q "b/ram is served cold: .*--cache-size" "$T/log"
check "the others are still hot" cmp /dev/fd/5 "$T/a/ram"
exec 5<&- 6<&-
stop_mount
start_mount --cache-size 0
for _ in 1 2 3 4; do : <"$M/snapshots/b/ram"; done
check "without a cache everything is cold" becomes hot_failures_total 1
check "and right" same b
stop_mount
smfs warm --cache-size 1G

# ---- many at once ----------------------------------------------------------------------------
rm -f "$S"/cache/*-4194304
start_mount --hot always
cat >"$T/readers" <<'PY'
import mmap, os, random, sys, threading
root, orig = sys.argv[1:]
want = {n: open(f"{orig}/{n}/ram", "rb").read() for n in "abc"}
bad = []
def one(seed):
    r = random.Random(seed)
    try:
        for _ in range(30):
            n = r.choice("abc")
            fd = os.open(f"{root}/snapshots/{n}/ram", os.O_RDONLY)
            at = r.randrange(len(want[n]) // 4096) * 4096
            if r.random() < .5:
                got = os.pread(fd, 65536, at)
            else:
                m = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
                got = m[at:at + 65536]
            assert got == want[n][at:at + 65536], (n, at)
            os.close(fd)
    except Exception as e:
        bad.append(e)
ts = [threading.Thread(target=one, args=(s,)) for s in range(8)]
[t.start() for t in ts]; [t.join() for t in ts]
print(bad); sys.exit(bool(bad))
PY
check "eight readers that open at once all get right bytes" python3 "$T/readers" "$M" "$T"
check "each file made once" is hot_made_total 3
python3 "$T/readers" "$M" "$T" >"$T/out" 2>&1 &
readers=$!
while kill -0 $readers 2>/dev/null; do
	for n in a b c; do smfs warm --drop $n; smfs warm $n; done
done 2>/dev/null
wait $readers
check "also while files come and go" test $? = 0
check "nothing stays open hot" becomes hot_files_open 0
check "or in use" sh -c '! smfs warm --list | grep -q "in use"'
stop_mount
check "no sanitizer complained in the server" log_clean

# ---- power loss ------------------------------------------------------------------------------
# FS_IOC_SHUTDOWN without flushing, which drops all that was not synced, while files are being made.
power_loss() {
	python3 - "$1" <<-'PY'
	import fcntl, os, struct, sys
	fd = os.open(sys.argv[1], os.O_RDONLY)
	fcntl.ioctl(fd, 0x8004587D, struct.pack("I", 2))
	PY
}
warm_all() { # and have the names on disk, which the journal otherwise does every few seconds
	for n in a b c; do
		smfs warm $n && sync "$T/disk/store/cache" || return 1
	done
}
cut_power() ( # cut_power SECONDS: what is there afterwards is whole; prints how many files that was
	SMFS_STORE=$T/disk/store
	export SMFS_STORE
	rm -f "$T/disk/store/cache/"*-4194304
	while warm_all; do
		for n in a b c; do smfs warm --drop $n; done
	done >"$T/warm.log" 2>&1 &
	sleep "$1"
	power_loss "$T/disk"
	wait $!
	umount "$T/disk" && mount -o loop "$T/disk.img" "$T/disk" || exit 1
	ls "$T/disk/store/cache" >"$T/left"
	smfs warm --list -q || exit 1
	[ "$(smfs warm --list -q | wc -l)" = "$(grep -c -- -4194304 "$T/left")" ] && smfs warm --check
)
truncate -s 256M "$T/disk.img"
mkdir "$T/disk"
if mkfs.ext4 -q -F "$T/disk.img" && mount -o loop "$T/disk.img" "$T/disk"; then
	at_exit 'umount "$T/disk"'
	smfs init -q "$T/disk/store"
	for n in a b c; do smfs import -q --store "$T/disk/store" $n "$T/$n"; done
	smfs warm -q --store "$T/disk/store" --cache-size 100M
	for s in 0.11 0.23 0.37 0.54; do
		check "power lost after $s s: what is in the cache is whole" cut_power $s
	done
else
	skip "power loss" "no loop device"
fi

# ---- refused ---------------------------------------------------------------------------------
mkdir -p "$T/o/up" "$T/o/work" "$T/o/low"
if mount -t tmpfs tmpfs "$T/o" && mkdir "$T/o/up" "$T/o/work" "$T/o/low" &&
	mount -t overlay overlay -o "lowerdir=$T/o/low,upperdir=$T/o/up,workdir=$T/o/work" "$S/cache"; then
	at_exit 'umount "$S/cache"; umount "$T/o"'
	smfs warm a && start_mount
	check "a stacked file system below: cold, right bytes" same a
	check "nothing was hot" is hot_opens_total 0
	refused=$(stat_of hot_refused_total)
	check "a counter says so" test "$refused" -gt 0
	check "and one line of the log" test "$(grep -c "refuses a backing file" "$T/log")" = 1
	for _ in 1 2 3 4; do : <"$M/snapshots/b/ram"; done
	check "what would be hot is counted" is hot_refused_total $((refused + 1))
	check "and not made for nothing" is hot_made_total 0
	stop_mount
else
	skip "refused passthrough" "no overlay file system here"
fi
tap_done
