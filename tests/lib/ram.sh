# ram.sh - sourced: files that are the RAM of real Debian guests.
#
#   ram_image NAME          prints the path of an image of $RAM_MIB (1024) MiB; NAME is one of
#       boot        a guest that has just booted
#       idle        the same guest after doing nothing for a while
#       python      the same guest, in which a Python program has some hundred MiB of live objects
#       files       the same guest later: the program has ended, and it walked, packed and compared its file system
#       boot2       another guest that has just booted: what two guests of one kind share
#
# The first four are one guest's memory at four moments, as four snapshots of it would be. The guest is the outer
# machine's (tests/vm/outer.sh): a stock kernel and Debian packages under QEMU, whose RAM is a file. At a moment its
# job (ram_job.sh) announces, QEMU is stopped and the file copied. Emulation changes how long the work takes, not what
# it leaves in memory. Images are made once, into $BUILD/ram, keyed by what makes them; zero pages are holes.

# ram_record DIR FILE STAGE...: run the guest with FILE as its RAM; its RAM at each stage becomes DIR/STAGE.
ram_record() {
	ram_to=$1 ram_file=$2
	shift 2
	tests/vm/outer.sh --timeout 900 --memory "${RAM_MIB:-1024}M" --ram-file "$ram_file" tests/lib/ram_job.sh "$@" |
		while read -r ram_word ram_stage; do
			[ "$ram_word" = stage ] || { echo "$ram_word $ram_stage" >&2 && continue; }
			ram_pid=$(pgrep -f "^[^ ]*qemu-system-x86_64 .*mem-path=$ram_file,") || exit 1
			kill -STOP "$ram_pid" && cp --sparse=always "$ram_file" "$ram_to/$ram_stage"
			kill -CONT "$ram_pid"
		done
	for ram_stage; do [ -f "$ram_to/$ram_stage" ] || return 1; done
}

ram_image() (
	ram_dir=$(mkdir -p "${BUILD:-build}/ram" && cd "${BUILD:-build}/ram" && pwd) || exit 1
	ram_key=${RAM_MIB:-1024}-$(cat tests/lib/ram_job.sh tests/lib/ram.sh | sha256sum | cut -c 1-12)
	exec 9>"$ram_dir/lock" && flock 9 || exit 1
	if [ ! -d "$ram_dir/$ram_key" ]; then
		# On tmpfs, where QEMU's stores into the mapping do not go to a disk in passing.
		ram_tmp=$(mktemp /dev/shm/smtest-ram.XXXXXX) && ram_new=$(mktemp -d "$ram_dir/new.XXXXXX") || exit 1
		trap 'rm -rf "$ram_tmp" "$ram_new"' EXIT
		ram_record "$ram_new" "$ram_tmp" boot idle python files && : >"$ram_tmp" &&
			ram_record "$ram_new" "$ram_tmp" boot2 || exit 1
		find "$ram_dir" -mindepth 1 -maxdepth 1 ! -name lock ! -path "$ram_new" -exec rm -rf {} +
		sync -f "$ram_new" && mv "$ram_new" "$ram_dir/$ram_key" || exit 1
	fi
	[ -f "$ram_dir/$ram_key/$1" ] && echo "$ram_dir/$ram_key/$1"
)
