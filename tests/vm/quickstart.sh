#!/bin/sh
# The main job for a newcomer: from a registry to two restored machines, with the time each step takes.
#
#   make quickstart            as root; BUILD is the build directory
#
# An image of Debian's python3 serving HTTP is built from Debian packages and pushed to Debian's docker-registry on
# the loopback interface; from there on only this project's commands work. Pull and mount run on this host. The
# guests run on it too if its KVM can boot a stock kernel, and inside an emulated machine otherwise.
set -u
cd "$(dirname "$0")/../.." || exit 1
[ "$(id -u)" = 0 ] || { echo 'quickstart: run as root (mounts, loopback registry, /dev/kvm)' >&2; exit 1; }
. tests/lib/tap.sh
. tests/lib/image.sh
. tests/vm/machine.sh

say() { printf '\n== %s\n' "$*"; }
clock() { date +%s.%N; }
timed() { # timed WHAT COMMAND...
	timed_what=$1
	shift
	timed_t=$(clock)
	"$@" || { echo "quickstart: failed: $timed_what" >&2; exit 1; }
	echo "$timed_t $(clock)" | awk -v what="$timed_what" '{ printf "  %8.2f s  %s\n", $2 - $1, what }'
}

say 'An image from Debian packages, and a registry to pull it from'
timed 'build the image (cached after the first time)' image_python "$T/image"
port=$(free_port)
timed 'start docker-registry on the loopback interface' registry_start "$T/registry" "$port"
at_exit 'registry_stop "$T/registry"'
timed 'push python:1' registry_push "$T/image/python:1" python:1

say 'Pull it'
store=$T/disk/store
mkdir "$T/mnt" "$T/disk"
timed 'smfs init' smfs init "$store"
timed 'smfs mount' smfs mount "$store" "$T/mnt"
at_exit 'mountpoint -q "$T/mnt" && smfs unmount "$T/mnt"'
image=127.0.0.1:$port/python:1
timed "smvm-pull $image" smvm-pull --store "$store" "$image"
ls -l "$T/mnt/images/127.0.0.1:$port/python:1" "$T/mnt/layers"
smfs stat --store "$store"
timed 'smfs unmount' smfs unmount "$T/mnt"

if machine_probe; then
	say "Boot, snapshot, restore: on this host"
else
	say "Boot, snapshot, restore: in an emulated machine with nested KVM, for on this host $machine_why."
	echo '   All times below are of emulated processors, 10 to 50 times slower than real ones.'
fi
MACHINE_TIMEOUT=${MACHINE_TIMEOUT:-600}
if machine_run "$T/disk" tests/vm/mainjob.sh "$image"; then
	say 'All of it worked.'
else
	say 'quickstart FAILED; see above'
	exit 1
fi
