#!/bin/sh
# Run a script inside a virtual machine of its own, with the project's binaries and a /dev/kvm that can
# run stock kernels whatever the host's KVM can do.
#
#   tests/vm/outer.sh [options] SCRIPT [ARG...]
#
#     --disk IMG       an ext4 image, attached read-write and mounted on /disk1 (the next on /disk2 ...)
#     --add PATH       also copy this file or folder of the tree (for example build/unit/test_vm) inside
#     --timeout S      kill the machine after S seconds (default 300); status 124
#     --memory SIZE    guest RAM (default 4G); pages never touched cost nothing
#     --ram-file F     let F be the guest's RAM, SIZE bytes; it keeps what was in it at the end
#     --keep-log F     keep the kernel's console log as F whatever happens ($OUTER_LOGLEVEL, 4: how much it says)
#
# SCRIPT is a path below the tree. Inside, it runs by sh as root with the tree's tests/ and the commands
# of $BUILD at the same relative places below /src, in that directory, with BUILD set and $BUILD first in
# PATH; everything is writable and gone afterwards, except what is written to a data disk. There are
# python3, curl, jq, strace, mkfs.erofs, fusermount3 and the usual shell tools, /dev/kvm, /dev/fuse, the
# kernel in /boot and its modules; lo is up; there is no other network.
#
# Output of SCRIPT goes to standard output as it comes. Status: that of SCRIPT; 124 the time is up;
# 125 the machine died under the script (the console log is then printed and kept); 126 it could not be set up.
#
# How: QEMU without acceleration (TCG; tests/vm/qemu.sh tells which) emulates an AMD processor with SVM, so
# Debian's stock kernel and its kvm-amd give real hardware virtualization semantics, slowly (4 s to boot, guest code
# 10-50 times slower than native). The root is an erofs image made of the files of this host's installed Debian
# packages, cached in $BUILD/vm and rebuilt when a package, the kernel or this script changes; the tree goes into
# a second, small image made anew for each run. tests/vm/outer_init.c is process 1.
set -eu

here=$(cd "$(dirname "$0")/../.." && pwd)
build=${BUILD:-build}
case $build in /*) build_abs=$build ;; *) build_abs=$here/$build ;; esac
cache=$build_abs/vm
disks='' adds='' keep_log='' ram_file='' seconds=300 memory=4G

die() { # die MESSAGE: the set-up failed
	echo "outer: $*" >&2
	exit 126
}

while [ $# -gt 0 ]; do
	case $1 in
	--disk) disks="$disks $2" && shift 2 ;;
	--add) adds="$adds $2" && shift 2 ;;
	--timeout) seconds=$2 && shift 2 ;;
	--memory) memory=$2 && shift 2 ;;
	--ram-file) ram_file=$2 && shift 2 ;;
	--keep-log) keep_log=$2 && shift 2 ;;
	-*) die "unknown option $1" ;;
	*) break ;;
	esac
done
[ $# -gt 0 ] || die "usage: outer.sh [options] SCRIPT [ARG...]"
[ -f "$here/$1" ] || [ -f "$1" ] || die "$1: no such script"

kernel=${OUTER_KERNEL:-}
if [ -z "$kernel" ]; then
	for k in /boot/vmlinuz-*-cloud-amd64; do kernel=$k; done
fi
[ -f "$kernel" ] || die "no /boot/vmlinuz-*-cloud-amd64 here: run make deps"
kver=${kernel#/boot/vmlinuz-}
for tool in qemu-system-x86_64 mkfs.erofs cpio modprobe cc; do
	command -v $tool >/dev/null || PATH=$PATH:/usr/sbin:/sbin command -v $tool >/dev/null ||
		die "$tool is not installed: run make deps"
done
PATH=$PATH:/usr/sbin:/sbin
. "$here/tests/vm/qemu.sh"

# What the root holds: these packages and what they depend on.
packages='dash bash coreutils util-linux mount procps kmod fuse3 iproute2 python3 erofs-utils curl grep sed mawk findutils
diffutils jq tar gzip zstd hostname attr e2fsprogs strace libfuse3-3 libarchive13 libcurl4 libzstd1 libxxhash0 liblmdb0
libjansson4 libssl3 libseccomp2 libslirp0 libcmocka0'
# What process 1 loads, those that find the disks first.
modules='virtio_pci virtio_blk erofs overlay virtio_console kvm-amd fuse loop vsock vmw_vsock_virtio_transport tun'

package_closure() {
	# shellcheck disable=SC2086
	apt-cache depends --recurse --installed --no-recommends --no-suggests --no-conflicts --no-breaks \
		--no-replaces --no-enhances $packages | grep '^[a-z0-9]' | sort -u
}

root_recipe() { # everything the root image depends on
	echo "$kver"
	cat "$here/tests/vm/outer.sh" "$here/tests/vm/qemu.sh" "$here/tests/vm/outer_init.c" \
		"$here/tests/vm/vmrun.c"
	stat -c '%n %s %Y' "$kernel" "/lib/modules/$kver/modules.dep"
	stat -c %Y /var/lib/dpkg/status
}

# The root: files of packages, taken from this host, without documentation; merged /usr.
build_root() { # build_root DIR
	mkdir -p "$1/usr/bin" "$1/usr/sbin" "$1/usr/lib" "$1/usr/lib64" "$1/usr/lib/modules" "$1/etc" "$1/boot" "$1/root" \
		"$1/proc" "$1/sys" "$1/dev" "$1/run" "$1/tmp" "$1/var/lib" "$1/var/cache" "$1/var/tmp" "$1/mnt" "$1/src"
	for d in bin sbin lib lib64; do ln -s usr/$d "$1/$d"; done
	package_closure | xargs dpkg-query -L 2>/dev/null | sort -u |
		grep -Ev '^/usr/share/(doc|man|locale|info|lintian|bash-completion|perl5|python3/debpython|zoneinfo)(/|$)' |
		grep -Ev '^/(\.|bin|sbin|lib|lib64)?$|^/(var|boot|home|dev|proc|sys|root|tmp|run)(/|$)' |
		while IFS= read -r f; do if [ -e "$f" ] || [ -L "$f" ]; then echo ".$f"; fi; done >"$1.list"
	# Compiled by the packages' own scripts, so in no package's list; compiling them again under TCG takes seconds.
	find /usr/lib/python3.11 -name '*.pyc' ! -path '*/test/*' -printf '.%p\n' >>"$1.list" 2>/dev/null || true
	tar -C / --no-recursion -cf - -T "$1.list" --transform 's,^\./\(bin\|sbin\|lib\|lib64\)/,./usr/\1/,rSh' |
		tar -C "$1" --keep-directory-symlink --no-same-owner -xf - || return 1
	ln -sf mawk "$1/usr/bin/awk"
	printf 'root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/:/usr/sbin/nologin\nnobody:x:65534:65534::/:/usr/sbin/nologin\n' \
		>"$1/etc/passwd"
	printf 'root:x:0:\ndaemon:x:1:\ntty:x:5:\nkvm:x:103:\nnogroup:x:65534:\n' >"$1/etc/group"
	printf 'passwd: files\ngroup: files\nhosts: files dns\n' >"$1/etc/nsswitch.conf"
	printf '127.0.0.1 localhost outer\n' >"$1/etc/hosts"
	printf 'user_allow_other\n' >"$1/etc/fuse.conf"
	: >"$1/etc/fstab"
	ln -sf /proc/self/mounts "$1/etc/mtab"
	cp "$kernel" "$1/boot/"
	cp -r "/lib/modules/$kver" "$1/usr/lib/modules/"
	ldconfig -r "$1"
}

build_initramfs() { # build_initramfs DIR
	mkdir -p "$1/modules"
	cc -std=gnu11 -O2 -Wall -Wextra -static -o "$1/init" "$here/tests/vm/outer_init.c" || return 1
	for m in $modules; do modprobe -S "$kver" --show-depends "$m" || return 1; done |
		awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >"$1.list"
	while IFS= read -r ko; do
		cp "$ko" "$1/modules/" && basename "$ko" >>"$1/modules/list"
	done <"$1.list"
	(cd "$1" && find . | cpio -o -H newc --quiet) >"$1.cpio"
}

mkdir -p "$cache"
work=$(mktemp -d "$cache/run.XXXXXX")
qemu=
# shellcheck disable=SC2317
finish() {
	if [ -n "$qemu" ]; then kill "$qemu" 2>/dev/null && wait "$qemu" || true; fi
	rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

(
	flock 9
	key=$(root_recipe | sha256sum | cut -c 1-32)
	if [ "$(cat "$cache/key" 2>/dev/null)" != "$key" ]; then
		rm -f "$cache/key"
		echo "outer: building the machine's root in $cache" >&2
		build_root "$work/root" || die "copying the root's files failed"
		mkfs.erofs -T0 --all-root "$work/root.erofs" "$work/root" >"$work/mkfs.log" 2>&1 ||
			die "mkfs.erofs: $(tail -n 1 "$work/mkfs.log")"
		build_initramfs "$work/initramfs" || die "building the initramfs failed"
		mv "$work/root.erofs" "$cache/root.erofs"
		mv "$work/initramfs.cpio" "$cache/initramfs.cpio"
		rm -rf "$work/root" "$work/initramfs"
		qemu_mend "$here/tests/vm/vmrun.c" "$cache/vmrun.so" || die "building vmrun.so failed"
		qemu_fetch "$cache/qemu" ||
			echo "outer: no newer QEMU to be had ($(tail -n 1 "$cache/qemu/apt/log")): expect nested guests to fail now" \
				"and then under $(qemu-system-x86_64 --version | head -n 1)" >&2
		echo "$key" >"$cache/key"
	fi
) 9>"$cache/lock" || exit 126

# The tree: tests/ and the commands, and one script that starts the job.
job=$work/job
inner_build=build
mkdir -p "$job/$inner_build"
cp -r "$here/tests" "$job/tests"
for f in smfs smvm-pull smvm-runner smvm-init libsmfs.so libsmvm.so guest; do
	[ -e "$build_abs/$f" ] && cp -r "$build_abs/$f" "$job/$inner_build/"
done
for f in $adds; do
	rel=${f#"$here"/}
	case $rel in
	"$build_abs"/*) to=$inner_build/${rel#"$build_abs"/} ;;
	"$build"/*) to=$inner_build/${rel#"$build"/} ;;
	/*) to=$(basename "$rel") ;;
	*) to=$rel ;;
	esac
	mkdir -p "$job/$(dirname "$to")"
	(cd "$here" && cp -rL "$f" "$job/$to") || die "--add $f failed"
done
script=$1
shift
case $script in "$here"/*) script=${script#"$here"/} ;; esac
if [ ! -f "$job/$script" ]; then
	cp "$(cd "$here" && realpath "$script")" "$job/script"
	script=script
fi
{
	# Emulated vector instructions are the slow ones: OpenSSL's plain code hashes four times as fast here (the
	# bits are AVX and SSSE3, AVX2 and BMI). Nothing else changes: guests and their vCPUs have them all.
	echo 'export OPENSSL_ia32cap=~0x1000020000000000:~0x128'
	echo "cd /src && export BUILD=$inner_build PATH=/src/$inner_build:\$PATH"
	printf 'exec sh'
	for a in "$script" "$@"; do
		printf " '%s'" "$(printf %s "$a" | sed "s/'/'\\\\''/g")"
	done
	echo
} >"$job/.job"
mkfs.erofs -T0 --all-root "$work/job.erofs" "$job" >"$work/mkfs.log" 2>&1 ||
	die "mkfs.erofs: $(tail -n 1 "$work/mkfs.log")"
rm -rf "$job"

set -- -drive "if=none,id=root,format=raw,readonly=on,file=$cache/root.erofs" -device virtio-blk-pci,drive=root,serial=root \
	-drive "if=none,id=job,format=raw,readonly=on,file=$work/job.erofs" -device virtio-blk-pci,drive=job,serial=job
n=0
for d in $disks; do
	[ -f "$d" ] || die "--disk $d: no such file"
	n=$((n + 1))
	set -- "$@" -drive "if=none,id=disk$n,format=raw,cache=unsafe,discard=unmap,file=$d" \
		-device "virtio-blk-pci,drive=disk$n,serial=disk$n"
done
if [ -n "$ram_file" ]; then
	set -- "$@" -object "memory-backend-file,id=ram,share=on,mem-path=$ram_file,size=$memory" -machine memory-backend=ram
fi

console=$work/console.log
# A standard input that never ends: at its end QEMU would take the port's host side for gone.
mkfifo "$work/stdin"
setpriv --pdeathsig TERM timeout -k 5 "$seconds" setpriv --pdeathsig KILL \
	env "LD_PRELOAD=$cache/vmrun.so" "$(qemu_command "$cache/qemu")" \
	-nodefaults -no-user-config -no-reboot -display none \
	-machine pc,hpet=off -accel tcg,thread=multi,tb-size=1024 -cpu max,-la57 -smp 2 -m "$memory" \
	-kernel "$kernel" -initrd "$cache/initramfs.cpio" \
	-append "console=ttyS0 loglevel=${OUTER_LOGLEVEL:-4} panic=-1 mitigations=off tsc=reliable random.trust_cpu=on no_timer_check" \
	-serial "file:$console" -device virtio-rng-pci -device virtio-serial-pci \
	-chardev stdio,id=out,signal=off -device virtserialport,chardev=out,name=smtest.out \
	-chardev "file,id=rc,path=$work/rc" -device virtserialport,chardev=rc,name=smtest.rc \
	"$@" <>"$work/stdin" 2>"$work/qemu.log" &
qemu=$!
status=0
wait "$qemu" || status=$?
qemu=

result=$(sed -n 's/^status //p' "$work/rc" 2>/dev/null || true)
if [ -n "$keep_log" ]; then cp "$console" "$keep_log" 2>/dev/null || true; fi
if [ -n "$result" ] && [ "$result" != 125 ]; then
	exit "$result"
fi
cp "$console" "$cache/last-console.log" 2>/dev/null || true
{
	case $status in
	124 | 137) echo "outer: killed after $seconds s" ;;
	*) echo "outer: the machine ended before its job did (qemu status $status)" ;;
	esac
	tail -n 5 "$work/qemu.log"
	echo "outer: end of the console log, kept as $cache/last-console.log:"
	tail -n 30 "$console" 2>/dev/null | sed 's/^/  | /'
} >&2
case $status in
124 | 137) exit 124 ;;
esac
exit 125
