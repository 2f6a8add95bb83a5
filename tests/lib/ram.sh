# ram.sh - sourced: files that are the RAM of a real Debian guest after real work.
#
#   ram_image NAME          prints the path of an image of $RAM_MIB (1024) MiB; NAME is one of
#       python      a Python program with some hundred MiB of live objects, and what it read to make them
#       files       a guest that walked, packed and compared its file system
#       python2     the first again, in another boot: what two guests of one kind share
#
# The guest is the outer machine's (tests/vm/outer.sh): a stock kernel and Debian packages under QEMU, whose RAM is
# the file. Emulation changes how long the work takes, not what it leaves in memory. Images are made once,
# into $BUILD/ram, keyed by what makes them; zero pages are holes.

ram_image() (
	ram_dir=$(mkdir -p "${BUILD:-build}/ram" && cd "${BUILD:-build}/ram" && pwd) || exit 1
	ram_key=$(cat tests/lib/ram_job.sh tests/lib/ram.sh tests/vm/outer_init.c | sha256sum | cut -c 1-12)
	ram_file=$ram_dir/$1-${RAM_MIB:-1024}-$ram_key
	exec 9>"$ram_dir/lock" && flock 9 || exit 1
	if [ ! -f "$ram_file" ]; then
		# On tmpfs, where QEMU's stores into the mapping do not go to a disk in passing.
		ram_tmp=$(mktemp /dev/shm/smtest-ram.XXXXXX) || exit 1
		trap 'rm -f "$ram_tmp" "$ram_file.new"' EXIT
		tests/vm/outer.sh --timeout 600 --memory "${RAM_MIB:-1024}M" --ram-file "$ram_tmp" tests/lib/ram_job.sh "$1" >&2 &&
			cp --sparse=always "$ram_tmp" "$ram_file.new" && sync "$ram_file.new" &&
			mv "$ram_file.new" "$ram_file" || exit 1
	fi
	echo "$ram_file"
)
