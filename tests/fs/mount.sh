# mount.sh - sourced after tap.sh by the tests that mount: a store, mounts of it, snapshots to put in.
#
#   need_fuse              ends the program with one SKIP where FUSE cannot be used
#   start_mount [OPTION]   mounts store $S on $M; the server's log is $T/log
#   stop_mount             returns once the server has ended
#   make_snapshot DIR [SEED]   meta, vcpu and a ram of 4 MiB with holes; SEED varies the content

S=$T/store
M=$T/mnt

need_fuse() {
	[ "$(id -u)" = 0 ] || { skip "mounts" "needs root"; tap_done; }
	[ -c /dev/fuse ] || { skip "mounts" "no /dev/fuse"; tap_done; }
}

start_mount() {
	smfs mount "$@" --log "$T/log" "$S" "$M"
}

# Until server and keeper have ended, too: a sanitizer looks for leaks then.
stop_mount() {
	server=$(cat "$M/.smfs/pid" 2>/dev/null)
	keeper=$(cat "$M/.smfs/keeper" 2>/dev/null)
	smfs unmount "$M" || return 1
	for _ in $(seq 600); do
		[ -d "/proc/${server:-gone}" ] || [ -d "/proc/${keeper:-gone}" ] || return 0
		sleep 0.1
	done
	return 1
}

log_clean() { # no sanitizer has found anything in the server
	! grep -E "ERROR: |runtime error|SUMMARY: |WARNING: ThreadSanitizer" "$T/log"
}

# By force, and whatever is left, when the test ends early.
at_exit 'grep -q " $M " /proc/self/mountinfo && smfs unmount --force "$M"'

make_snapshot() {
	mkdir -p "$1"
	python3 - "$1" "${2:-1}" <<'PY'
import json, os, random, sys
d, seed = sys.argv[1], int(sys.argv[2])
r = random.Random(seed)
with open(d + "/vcpu", "wb") as f:
    f.write(r.randbytes(70001))
size = 4 << 20
with open(d + "/ram", "wb") as f:
    for at, n in ((0, 4096), (65536, 200000), (1 << 20, 1 << 20), (3 << 20, 5), (size - 4096, 4096)):
        f.seek(at)
        f.write(r.randbytes(n))
    f.truncate(size)
with open(d + "/meta", "w") as f:
    json.dump({"format": 1, "seed": seed, "ram_bytes": size, "vcpu": {"bytes": 70001}}, f)
PY
}

same_tree() { # same_tree A B: same names, same bytes
	diff -r "$1" "$2" >/dev/null
}
