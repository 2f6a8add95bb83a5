#!/bin/sh
# Debian packages from an install tree, by dpkg-deb alone: what goes where is the table below, what each depends on
# is what dpkg-shlibdeps finds. Called by `make deb` with VERSION, BUILD and MAKE set.
#
#   smfs          the store: smfs, smvm-pull, the service, completions, manuals
#   smvm-runner   the monitor, the guest's agent, the service of pools
#   libsmfs0      libsmfs.so.0            libsmvm0   libsmvm.so.0
#   libsmvm-dev   headers, static libraries and pkg-config files of both
set -eu
cd "$(dirname "$0")/../.."
: "${VERSION:?}" "${BUILD:?}"
arch=$(dpkg --print-architecture)
multiarch=$(dpkg-architecture -qDEB_HOST_MULTIARCH)
out=$(cd "$BUILD" && pwd)/deb
all=$out/tree
rm -rf "$out"
mkdir -p "$all"
# The same time in every file of a commit's packages.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH

${MAKE:-make} -s install BUILD="$BUILD" PREFIX=/usr LIBDIR="/usr/lib/$multiarch" DESTDIR="$all" >/dev/null
strip --strip-unneeded "$all"/usr/bin/* "$all"/usr/lib/smvm/* "$all/usr/lib/$multiarch"/*.so.0
strip --strip-debug "$all/usr/lib/$multiarch"/*.a
gzip -9n "$all"/usr/share/man/man1/*.1

files_of() { # files_of PACKAGE: patterns below the tree
	lib=usr/lib/$multiarch
	case $1 in
	smfs) echo "usr/bin/smfs usr/bin/smvm-pull usr/share/*/*/*smfs* usr/share/*/*/*smvm-pull* usr/lib/systemd/system/smfs.service etc" ;;
	smvm-runner) echo "usr/bin/smvm-runner usr/lib/smvm usr/lib/systemd/system/smvm-pool@.service usr/share/*/*/*smvm-runner* usr/share/doc/smvm-runner/examples" ;;
	libsmfs0) echo "$lib/libsmfs.so.0" ;;
	libsmvm0) echo "$lib/libsmvm.so.0" ;;
	libsmvm-dev) echo "usr/include $lib/lib*.a $lib/lib*.so $lib/pkgconfig" ;;
	esac
}
says() { # says PACKAGE: section, then a line, then the text
	case $1 in
	smfs) echo "admin|deduplicating store of microVM snapshots and images, with its mount| Snapshots of microVMs and OCI images in one content-addressed store, seen\n through a FUSE mount as directories of plain files." ;;
	smvm-runner) echo "admin|boot, snapshot, restore and fork Linux microVMs| A KVM virtual machine monitor whose snapshots are restored in milliseconds,\n sharing their memory." ;;
	libsmfs0) echo "libs|content-addressed store of microVM snapshots, shared library| What smfs is made of." ;;
	libsmvm0) echo "libs|KVM virtual machine monitor, shared library| Boot, snapshot, restore and fork microVMs from a program." ;;
	libsmvm-dev) echo "libdevel|development files of libsmvm and libsmfs| Headers, static libraries and pkg-config files." ;;
	esac
}
needs() { # needs PACKAGE: what no linker tells
	case $1 in
	smfs) echo "fuse3" ;;
	smvm-runner) echo "" ;;
	libsmvm-dev) echo "libsmvm0 (= $VERSION), libsmfs0 (= $VERSION), libjansson-dev, libzstd-dev, libxxhash-dev, liblmdb-dev, libssl-dev, libarchive-dev, libfuse3-dev" ;;
	esac
}
recommends() {
	case $1 in
	smfs) echo "erofs-utils, smvm-runner" ;;
	smvm-runner) echo "smfs, linux-image-cloud-$arch, kmod" ;;
	libsmvm0) echo "smvm-runner (= $VERSION)" ;;
	esac
}

for p in smfs smvm-runner libsmfs0 libsmvm0 libsmvm-dev; do
	root=$out/$p
	mkdir -p "$root/DEBIAN"
	for pattern in $(files_of $p); do
		for f in $(cd "$all" && ls -d $pattern); do
			mkdir -p "$root/$(dirname "$f")"
			mv "$all/$f" "$root/$f"
		done
	done
	mkdir -p "$root/usr/share/doc/$p"
	printf 'smfs and smvm-runner %s, built from commit %s.\n' "$VERSION" "$(git rev-parse HEAD 2>/dev/null || echo unknown)" \
		>"$root/usr/share/doc/$p/README"

	# dpkg-shlibdeps wants a source package around it.
	mkdir -p "$out/shlibs/debian"
	printf 'Source: smfs\n\nPackage: %s\nArchitecture: any\n' $p >"$out/shlibs/debian/control"
	programs=$(find "$root" -type f \( -path '*/bin/*' -o -name '*.so.*' \))
	deps=
	if [ -n "$programs" ]; then
		(cd "$out/shlibs" && dpkg-shlibdeps --ignore-missing-info -O $programs) >"$out/shlibs/depends" 2>"$out/shlibs/said" || {
			cat "$out/shlibs/said" >&2
			exit 1
		}
		deps=$(sed -n 's/^shlibs:Depends=//p' "$out/shlibs/depends")
	fi
	depends=$(printf '%s\n%s\n' "$deps" "$(needs $p)" | grep -v '^$' | paste -sd, | sed 's/,\([^ ]\)/, \1/g')
	text=$(says $p)
	rest=${text#*|}
	{
		echo "Package: $p"
		echo "Source: smfs"
		echo "Version: $VERSION"
		echo "Architecture: $arch"
		echo "Section: ${text%%|*}"
		echo "Priority: optional"
		echo "Maintainer: the smfs developers <root@localhost>"
		echo "Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f1)"
		[ -z "$depends" ] || echo "Depends: $depends"
		[ -z "$(recommends $p)" ] || echo "Recommends: $(recommends $p)"
		echo "Description: ${rest%%|*}"
		printf '%b\n' "${rest#*|}"
	} >"$root/DEBIAN/control"
	[ ! -d "$root/etc" ] || (cd "$root" && find etc -type f | sed 's|^|/|') >"$root/DEBIAN/conffiles"
	for script in packaging/deb/$p.*; do
		[ -f "$script" ] && install -m 755 "$script" "$root/DEBIAN/${script##*.}"
	done
	case $p in lib*[0-9])
		echo "activate-noawait ldconfig" >"$root/DEBIAN/triggers"
		echo "${p%0} 0 $p (>= $VERSION)" >"$root/DEBIAN/shlibs" ;;
	esac
	(cd "$root" && find usr etc -type f 2>/dev/null | sort | xargs md5sum) >"$root/DEBIAN/md5sums"
	find "$root" -type d -exec chmod 755 {} +
	dpkg-deb --root-owner-group -Zxz -b "$root" "$out/${p}_${VERSION}_$arch.deb" >/dev/null
	echo "$out/${p}_${VERSION}_$arch.deb"
done
left=$(find "$all" ! -type d)
[ -z "$left" ] || {
	printf 'in no package:\n%s\n' "$left" >&2
	exit 1
}
