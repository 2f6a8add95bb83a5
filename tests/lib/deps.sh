#!/bin/sh
# Install everything a build and the tests need on Debian 12. Asks apt only when something is missing.
set -eu

packages='
build-essential pkg-config clang clang-format clang-tidy libclang-rt-14-dev
libfuse3-dev fuse3 libarchive-dev liblzma-dev zlib1g-dev libcurl4-openssl-dev libzstd-dev libxxhash-dev libssl-dev
liblmdb-dev libjansson-dev libslirp-dev libcmocka-dev
erofs-utils qemu-system-x86 linux-image-cloud-amd64 skopeo umoci docker-registry apache2-utils
borgbackup restic casync squashfs-tools mmdebstrap cpio zstd jq strace attr e2fsprogs xfsprogs btrfs-progs kmod procps
man-db groff python3 ca-certificates openssl iproute2
gnuplot-nox zsh systemd dpkg-dev
'

missing=
for p in $packages; do
	dpkg-query -W -f '${db:Status-Abbrev}' "$p" 2>/dev/null | grep -q '^ii' || missing="$missing $p"
done
[ -n "$missing" ] || exit 0
[ "$(id -u)" = 0 ] || { echo "make deps: run as root to install:$missing" >&2; exit 1; }
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
# shellcheck disable=SC2086
apt-get install -q -y --no-install-recommends $missing
