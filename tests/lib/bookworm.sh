# A fresh Debian 12 in a directory, for the suites of packages. Sourced after tap.sh; as root.
#
#   bookworm_root DIR NAME      unpack it there, ready for apt; where no mirror can be reached the suite ends: NAME is skipped
#   in_root COMMAND...          run it there (DIR being $R)
#   apt ARGS...                 the same of apt-get

# The base system is made once and kept; it holds nothing of ours.
bookworm_root() {
	cache=${SMFS_TEST_CACHE:-/var/cache/smfs-tests}
	base=$cache/bookworm-minbase.tar
	mkdir -p "$cache" "$1"
	if ! [ -s "$base" ]; then
		mmdebstrap --quiet --format=tar --variant=minbase --include=ca-certificates bookworm "$base.part" http://deb.debian.org/debian ||
			{ skip "$2" "no Debian mirror can be reached"; tap_done; }
		mv "$base.part" "$base"
	fi
	R=$1
	# In memory: tens of thousands of small files, synced one by one.
	mount -t tmpfs -o mode=755 tmpfs "$R" || exit 1
	at_exit 'umount -l "$R"'
	tar -C "$R" -xf "$base" || exit 1
	cp /etc/resolv.conf "$R/etc/resolv.conf"
	for v in http_proxy https_proxy; do
		p=$(printenv $v) && echo "Acquire::${v%_proxy}::Proxy \"$p\";" >>"$R/etc/apt/apt.conf.d/proxy"
	done
	# Nothing is to be started in a chroot.
	printf '#!/bin/sh\nexit 101\n' >"$R/usr/sbin/policy-rc.d"
	chmod +x "$R/usr/sbin/policy-rc.d"
	apt update >"$T/log" 2>&1 || {
		cat "$T/log"
		skip "$2" "no Debian mirror can be reached"
		tap_done
	}
}

in_root() { DEBIAN_FRONTEND=noninteractive LC_ALL=C chroot "$R" "$@"; }
apt() { in_root apt-get -q -y -o Dpkg::Use-Pty=0 "$@"; }
