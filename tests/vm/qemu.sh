# qemu.sh - sourced by outer.sh: which QEMU emulates the outer machine.
#
#   qemu_fetch DIR     make DIR hold a QEMU fit for nested guests, if the installed one is not and Debian has one
#   qemu_mend C SO     build what is to be preloaded into it (vmrun.c)
#   qemu_command DIR   print the command: $OUTER_QEMU, what qemu_fetch left in DIR, or the installed one
#
# Debian 12's QEMU 7.2 runs nested guests, but not for long: in some runs of several minutes a guest stops for ever,
# triple faults, or the outer kernel goes on with a guest's GS base and panics. Debian's own backport for the same
# release has years of fixes to that code, and is faster. It is downloaded by apt, signatures checked as ever, and
# unpacked beside the tests' other files: nothing on the host is installed or changed.
#
# It still has faults that kill guests, which vmrun.c describes and mends in QEMU's memory (7.2 exports too little for that):
# the worst lets any processor's FXRSTOR undo what another has just noted of entering or leaving a guest.

qemu_fit() { # the installed one is new enough
	qemu_version=$(qemu-system-x86_64 --version | sed -n '1s/.*version \([0-9]*\).*/\1/p')
	[ "${qemu_version:-0}" -ge 9 ]
}

qemu_fetch() {
	[ -z "${OUTER_QEMU:-}" ] && ! qemu_fit && [ ! -x "$1/qemu-system-x86_64" ] || return 0
	qemu_codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
	# shellcheck disable=SC2016
	qemu_mirror=$(apt-get indextargets --format '$(REPO_URI)' "Codename: $qemu_codename" 'Created-By: Packages' | head -n 1)
	rm -rf "$1" && mkdir -p "$1/apt/lists/partial" "$1/apt/cache/archives/partial" || return 1
	for qemu_suite in "$qemu_codename" "$qemu_codename-backports"; do
		echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]" \
			"${qemu_mirror:-http://deb.debian.org/debian} $qemu_suite main"
	done >"$1/apt/sources.list"
	set -- "$1" -q -o "Dir::Etc::sourcelist=$1/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null \
		-o "Dir::State::lists=$1/apt/lists" -o "Dir::Cache=$1/apt/cache" -o APT::Sandbox::User=root \
		-o Acquire::Retries=1 -o Acquire::http::Timeout=20
	qemu_dir=$1
	shift
	{
		timeout 120 apt-get "$@" update &&
			timeout 300 apt-get "$@" install -y --no-install-recommends --download-only \
				-t "$qemu_codename-backports" qemu-system-x86 || return 1
	} >"$qemu_dir/apt/log" 2>&1 || return 1
	for qemu_deb in "$qemu_dir"/apt/cache/archives/*.deb; do
		dpkg -x "$qemu_deb" "$qemu_dir" || return 1
	done
	rm -rf "$qemu_dir/apt/lists" "$qemu_dir/apt/cache" "$qemu_dir/usr/share/doc"
	cat >"$qemu_dir/qemu-system-x86_64" <<-'SH' && chmod 755 "$qemu_dir/qemu-system-x86_64"
		#!/bin/sh
		usr=$(dirname "$0")/usr
		export LD_LIBRARY_PATH="$usr/lib/x86_64-linux-gnu"
		exec "$usr/bin/qemu-system-x86_64" -L "$usr/share/qemu" -L "$usr/share/seabios" "$@"
	SH
}

qemu_mend() {
	cc -std=gnu11 -D_GNU_SOURCE -O2 -Wall -Wextra -Werror -shared -fPIC -o "$2" "$1"
}

qemu_command() {
	if [ -n "${OUTER_QEMU:-}" ]; then
		echo "$OUTER_QEMU"
	elif [ -x "$1/qemu-system-x86_64" ]; then
		echo "$1/qemu-system-x86_64"
	else
		echo qemu-system-x86_64
	fi
}
