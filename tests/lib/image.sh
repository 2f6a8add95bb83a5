# image.sh - sourced by tests: OCI images made of Debian packages, and a registry to pull them from.
#
#   image_base OUTDIR      OUTDIR/base:1     sh, coreutils, busybox: one layer
#   image_python OUTDIR    OUTDIR/python:1   base and a layer with python3 and /srv/app.py as entrypoint
#   image_torture OUTDIR   OUTDIR/torture:1  every corner of layer application (tests/lib/torture.py)
#       Each prints LAYOUT:TAG, as umoci --image and skopeo's oci: take it.
#
#   free_port                                  a loopback TCP port nobody listens on now
#   registry_start DIR PORT [htpasswd=FILE] [token=REALM,SERVICE,ISSUER,CERT]
#       Debian's docker-registry on 127.0.0.1:PORT, data and log in DIR, answering when this returns.
#   registry_push LAYOUT:TAG REPO:TAG [skopeo options]   to the registry started last ($REGISTRY)
#   registry_stop DIR
#
# Images are built once into $BUILD/images, keyed by what makes them, and copied from
# there; concurrent callers wait for one build. The caller stops registries (at_exit 'registry_stop DIR').

image_lib=$(cd "$(dirname "${IMAGE_LIB:-tests/lib/image.sh}")" && pwd)
image_cache=$(mkdir -p "${BUILD:-build}/images" && cd "${BUILD:-build}/images" && pwd)

image_key() {
	cat "$image_lib/image.sh" "$image_lib/app.py" "$image_lib/torture.py" | sha256sum | cut -c 1-16
}

# image_debs TARGET PACKAGES: the packages unpacked, not installed: no maintainer script runs. What no
# test reads (manuals, translations) is left out.
image_debs() {
	target=$1
	mmdebstrap --quiet --mode=root --variant=extract --include="$2" \
		--setup-hook='for d in bin sbin lib lib64; do ln -s usr/$d "$1/$d"; mkdir -p "$1/usr/$d"; done' \
		--extract-hook='cp "$1/usr/share/base-passwd/passwd.master" "$1/etc/passwd"
			cp "$1/usr/share/base-passwd/group.master" "$1/etc/group"
			printf "app:x:1000:1000::/srv:/bin/sh\n" >>"$1/etc/passwd"
			printf "app:x:1000:\n" >>"$1/etc/group"
			rm -rf "$1"/usr/share/doc/* "$1"/usr/share/man/* "$1"/usr/share/locale/* \
				"$1"/usr/share/info/* "$1"/usr/share/lintian "$1"/usr/lib/x86_64-linux-gnu/gconv' \
		"${3:---quiet}" bookworm "$target"
}

image_build_base() {
	image_debs "$1/base.tar" base-files,base-passwd,dash,coreutils,busybox-static || return 1
	umoci init --layout "$1/base" &&
		umoci new --image "$1/base:1" &&
		umoci raw add-layer --image "$1/base:1" "$1/base.tar" &&
		umoci config --image "$1/base:1" --config.env PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin \
			--config.cmd /bin/sh &&
		umoci gc --layout "$1/base"
}

# The second layer is what unpacking python3 over the base changes, found by umoci. The modules
# the service imports are compiled once here rather than at each start in a slow guest.
image_build_python() {
	image_debs "$1/python.tar" \
		base-files,base-passwd,dash,coreutils,busybox-static,python3,libpython3-stdlib \
		--extract-hook='mkdir -p "$1/srv" && cp '"$image_lib"'/app.py "$1/srv/app.py" && chmod 755 "$1/srv/app.py"
			chroot "$1" /usr/bin/python3 -c "import http.server, json, hashlib, socket, subprocess, threading, urllib.request"
			rm -rf "$1"/usr/lib/python3*/test "$1"/usr/lib/python3*/idlelib "$1"/usr/lib/python3*/lib2to3' || return 1
	cp -r "$1/base" "$1/python" &&
		umoci unpack --image "$1/python:1" "$1/bundle" &&
		tar -C "$1/bundle/rootfs" -xpf "$1/python.tar" --xattrs --numeric-owner &&
		umoci repack --image "$1/python:1" "$1/bundle" &&
		umoci config --image "$1/python:1" --config.entrypoint /usr/bin/python3 --config.entrypoint /srv/app.py \
			--clear config.cmd --config.env PORT=8080 --config.workingdir /srv --config.exposedports 8080/tcp &&
		umoci gc --layout "$1/python"
}

image_build_torture() {
	umoci init --layout "$1/torture" && umoci new --image "$1/torture:1" || return 1
	mkdir "$1/layers" && python3 "$image_lib/torture.py" "$1/layers" || return 1
	for layer in "$1"/layers/*.tar; do
		umoci raw add-layer --image "$1/torture:1" "$layer" || return 1
	done
	umoci gc --layout "$1/torture"
}

# The cache is complete or absent: built aside, renamed when whole.
image_cached() (
	exec 9>"$image_cache/lock" && flock 9 || exit 1
	key=$(image_key)
	[ -d "$image_cache/$key" ] && { echo "$image_cache/$key"; exit 0; }
	work=$(mktemp -d "$image_cache/build.XXXXXX") || exit 1
	trap 'rm -rf "$work"' EXIT
	{ image_build_base "$work" && image_build_python "$work" && image_build_torture "$work"; } >&2 || exit 1
	mkdir "$work/done" && mv "$work/base" "$work/python" "$work/torture" "$work/done" || exit 1
	find "$image_cache" -mindepth 1 -maxdepth 1 -type d ! -path "$work" -exec rm -rf {} +
	mv "$work/done" "$image_cache/$key" && echo "$image_cache/$key"
)

image_get() { # image_get NAME OUTDIR
	cached=$(image_cached) || return 1
	mkdir -p "$2" && rm -rf "${2:?}/$1" && cp -r "$cached/$1" "$2/$1" || return 1
	echo "$2/$1:1"
}
image_base() { image_get base "$1"; }
image_python() { image_get python "$1"; }
image_torture() { image_get torture "$1"; }

free_port() {
	python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

registry_start() {
	registry_dir=$1
	REGISTRY=127.0.0.1:$2
	shift 2
	mkdir -p "$registry_dir"
	{
		printf 'version: 0.1\nlog: {level: info}\nhttp: {addr: "%s"}\n' "$REGISTRY"
		printf 'storage: {filesystem: {rootdirectory: "%s/data"}, delete: {enabled: true}}\n' "$registry_dir"
		for option; do
			value=${option#*=}
			case $option in
			htpasswd=*) printf 'auth: {htpasswd: {realm: smvm, path: "%s"}}\n' "$value" ;;
			token=*)
				printf 'auth: {token: {realm: "%s", service: "%s", issuer: "%s", rootcertbundle: "%s"}}\n' \
					$(echo "$value" | tr , ' ')
				;;
			esac
		done
	} >"$registry_dir/config.yml"
	docker-registry serve "$registry_dir/config.yml" >"$registry_dir/log" 2>&1 </dev/null &
	echo $! >"$registry_dir/pid"
	python3 - "$REGISTRY" "$!" <<-'PY' || { cat "$registry_dir/log" >&2; return 1; }
		import os, socket, sys, time
		host, port = sys.argv[1].split(":")
		deadline = time.monotonic() + 120
		while time.monotonic() < deadline:
		    try:
		        socket.create_connection((host, int(port)), 1).close()
		        sys.exit(0)
		    except OSError:
		        time.sleep(0.05)
		sys.exit("registry on port %s does not answer" % port)
	PY
}

registry_stop() {
	[ -f "$1/pid" ] && kill "$(cat "$1/pid")" 2>/dev/null
	rm -f "$1/pid"
}

registry_push() {
	registry_from=$1 registry_to=$2
	shift 2
	skopeo --insecure-policy copy --quiet --dest-tls-verify=false "$@" \
		"oci:$registry_from" "docker://$REGISTRY/$registry_to"
}
