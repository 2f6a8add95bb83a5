# Tiny guests for the suites of this folder: a store, its mount and a run directory below $T, and how to talk to
# a guest over its console. Ends the suite with a skip where there is no KVM or FUSE.
#
#   . tests/lib/tap.sh
#   . tests/guest/tiny.sh

for dev in kvm fuse; do
	if [ ! -w /dev/$dev ]; then
		skip "$(basename "$0" .sh)" "no /dev/$dev"
		tap_done
	fi
done

export SMFS_STORE="$T/store" SMFS_MOUNT="$T/mnt" SMVM_RUN_DIR="$T/run"
mkdir "$SMFS_MOUNT" "$SMVM_RUN_DIR"
smfs init "$SMFS_STORE" >/dev/null && smfs mount "$SMFS_STORE" "$SMFS_MOUNT" || {
	check "a store and its mount" false
	tap_done
}
at_exit 'smfs unmount "$SMFS_MOUNT"'
at_exit 'for v in $(smvm-runner ps -q); do smvm-runner stop -f "$v"; done'

# hold_writer VM COMMAND...: the process that writes the snapshot COMMAND asks for stands still, $writer, before it has written
# anything (HeldWriter in tests/lib/cases.py). kill -CONT lets it go on.
hold_writer() {
	rm -f "$T/held" # of the last time
	python3 tests/lib/held.py "$(smvm-runner info "$1" | jq .pid)" >"$T/held" &
	holder=$!
	shift
	until_true 10 grep -qsx asked "$T/held" && "$@" && wait $holder && writer=$(sed -n 2p "$T/held")
}

log() { smvm-runner console -l "$1"; }
said() { log "$1" 2>/dev/null | grep -q "$2"; }
boot() { smvm-runner boot --kernel "$B/guest/$2" -m "$3" --name "$1" >/dev/null; }
restore() { smvm-runner restore --name "$2" "$1" >/dev/null; }
# connects PORT: somebody listens there, even if only to reset what connects.
connects() { python3 -c 'import socket, sys; sys.exit(socket.socket().connect_ex(("127.0.0.1", int(sys.argv[1]))) == 111)' "$1"; }
connects_not() { ! connects "$1"; }
free_port() { python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
# ask VM CHARACTER PATTERN: type it until the console says PATTERN once more than before.
ask() {
	ask_n=$(log "$1" | grep -c "$3")
	printf %s "$2" | smvm-runner console "$1" >/dev/null &
	ask_pid=$!
	until_true 5 more_than "$ask_n" "$1" "$3"
	set -- $?
	kill $ask_pid 2>/dev/null
	wait $ask_pid 2>/dev/null
	return "$1"
}
more_than() { [ "$(log "$2" | grep -c "$3")" -gt "$1" ]; }
