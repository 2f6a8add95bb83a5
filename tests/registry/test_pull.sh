# smvm-pull against Debian's docker-registry: what arrives equals what umoci unpacks of the same image.
. tests/lib/tap.sh
. tests/lib/image.sh

export SMFS_STORE="$T/store" DOCKER_CONFIG="$T/docker"
mkdir "$T/docker"

image_python "$T/img" && image_torture "$T/img" && image_base "$T/img" || exit 1
check "a registry runs" registry_start "$T/reg" "$(free_port)"
at_exit 'registry_stop "$T/reg"'
check "images are pushed" eval 'registry_push "$T/img/base:1" base:1 && registry_push "$T/img/python:1" lib/python:1 &&
	registry_push "$T/img/torture:1" torture:1'
# The other media types, and zstd.
check "as Docker schema 2" registry_push "$T/img/torture:1" docker/torture:1 --format v2s2
check "with zstd" registry_push "$T/img/torture:1" zstd/torture:1 --dest-compress-format zstd --dest-compress

pull() { # pull REF OPTIONS...: the result as JSON in $T/json
	smvm-pull --json "$@" >"$T/json" 2>"$T/err"
	pull_status=$?
	sed 's/^/# /' "$T/json" "$T/err"
	return $pull_status
}
json() { # json JQ-CONDITION
	jq -e "$1" "$T/json" >/dev/null
}
refuses() { # refuses STATUS WORDS ARGS...
	want=$1 words=$2
	shift 2
	pull "$@" && return 1
	[ $pull_status = "$want" ] && [ "$(wc -l <"$T/err")" = 1 ] && grep -q -- "$words" "$T/err"
}

check "base: pulled" pull "$REGISTRY/base:1"
check "its one layer is new" json '.layers == 1 and .layers_reused == 0 and .downloaded_bytes > 1000000'
check "rootfs.erofs shares its files' chunks" json '.erofs_shared_bytes > 0.97 * .erofs_bytes'
check "python: pulled" pull "$REGISTRY/lib/python:1"
check "the shared layer is not downloaded again" json '.layers == 2 and .layers_reused == 1'
check "nor stored again: of the new image only what python adds" \
	json '.new_bytes < .erofs_bytes - 40000000 or .erofs_shared_bytes > 0.97 * .erofs_bytes'
for v in torture docker/torture zstd/torture; do
	check "$v: pulled" pull "$REGISTRY/$v:1"
done
check "zstd or gzip, the layers are the same" json '.layers_reused == 4 and .downloaded_bytes == 0'
check "from a layout" pull "oci:$T/img/torture:1" --name t/layout:x
check "by digest" pull "$REGISTRY/lib/python@$(skopeo inspect --tls-verify=false --format '{{.Digest}}' "docker://$REGISTRY/lib/python:1")"
check "fsck is clean" smfs fsck --read-data

check "again: nothing to do" pull "$REGISTRY/lib/python:1"
check "and it says so" json '.up_to_date and .downloaded_bytes == 0'

# Trees.
mkdir "$T/mnt" "$T/loop"
check "the store is mounted" smfs mount "$T/store" "$T/mnt"
at_exit 'umount "$T/loop" 2>/dev/null; smfs unmount "$T/mnt"'
root=$T/mnt/images/$REGISTRY
cmp_tree() { python3 tests/registry/treecmp.py "$@"; }
for i in python torture; do
	umoci unpack --image "$T/img/$i:1" "$T/unpacked-$i"
	[ $i = python ] && dir=$root/lib/python:1 || dir=$root/torture:1
	check "$i: rootfs equals umoci's" cmp_tree "$T/unpacked-$i/rootfs" "$dir/rootfs"
	if grep -qw erofs /proc/filesystems || modprobe -q erofs; then
		mount -t erofs -o loop,ro "$dir/rootfs.erofs" "$T/loop"
		# mkfs.erofs cannot hold times before 1970 and gives those files the image's newest.
		check "$i: rootfs.erofs, mounted, equals umoci's" \
			cmp_tree "$T/unpacked-$i/rootfs" "$T/loop" --clamp-negative-mtime 5000000000000000000
		umount "$T/loop"
	else
		skip "$i: rootfs.erofs, mounted, equals umoci's" "this kernel has no erofs"
	fi
done
for other in "$root/docker/torture:1" "$root/zstd/torture:1" "$T/mnt/images/docker.io/t/layout:x"; do
	check "${other##*/images/}: the same tree" cmp_tree "$root/torture:1/rootfs" "$other/rootfs"
	check "and rootfs.erofs" cmp "$root/torture:1/rootfs.erofs" "$other/rootfs.erofs"
done
check "manifest.json is byte for byte the manifest" \
	test "sha256:$(sha256sum <"$root/lib/python:1/manifest.json" | cut -d ' ' -f 1)" = "$(jq -r .manifest "$T/json")"
check "config.json is the config" test "$(jq -r .config.digest "$root/lib/python:1/manifest.json")" = \
	"sha256:$(sha256sum <"$root/lib/python:1/config.json" | cut -d ' ' -f 1)"
upper=$(jq -r '.rootfs.diff_ids[1]' "$root/torture:1/config.json")
check "a layer's tree shows its whiteouts" test -c "$T/mnt/layers/$upper/etc/gone-by-whiteout"
check "and its opaque folders" test "$(getfattr --only-values -n trusted.overlay.opaque "$T/mnt/layers/$upper/opaque")" = y

# A moved tag.
cp -r "$T/img/base" "$T/img/moved"
mkdir "$T/new" && echo moved >"$T/new/file"
umoci insert --image "$T/img/moved:1" "$T/new" /moved
exec 9<"$root/base:1/rootfs/etc/debian_version"
check "the tag moves" registry_push "$T/img/moved:1" base:1
check "pulled again" pull "$REGISTRY/base:1"
check "one layer is new" json '.layers == 2 and .layers_reused == 1 and (.up_to_date | not)'
check "the name shows the new image" test "$(cat "$root/base:1/rootfs/moved/file")" = moved
check "what was open stays readable" test "$(cat <&9)" = "$(cat "$root/lib/python:1/rootfs/etc/debian_version")"
exec 9<&-

# Sharing, and two at once into one store.
export SMFS_STORE="$T/store2"
(smvm-pull -q "$REGISTRY/lib/python:1" 2>"$T/err1" && touch "$T/ok1") &
first=$!
smvm-pull -q "$REGISTRY/docker/torture:1" 2>"$T/err2" && touch "$T/ok2"
wait $first
sed 's/^/# /' "$T/err1" "$T/err2"
check "two pulls at once into a new store" test -f "$T/ok1" -a -f "$T/ok2"
check "a third image of the same base" pull "$REGISTRY/base:1"
check "two images, one base: each shared byte is stored once" json '.new_bytes < 2000000 and .layers_reused == 1'

# Interrupted.
export SMFS_STORE="$T/store3"
# One that was over before it was interrupted is tried again.
for i in 1 2 3 4 5 6 7 8; do
	rm -rf "$T/store3"
	check "a store" smfs init "$T/store3"
	smvm-pull -q --jobs 1 "$REGISTRY/lib/python:1" 2>"$T/err" &
	pid=$!
	while kill -0 $pid 2>/dev/null && ls /proc/$pid/task | grep -c . | grep -q '^[12]$'; do :; done
	kill -INT $pid 2>/dev/null
	wait $pid
	status=$?
	[ $status = 0 ] || break
done
check "interrupted: exit status 6" test $status = 6
check "one line says so" grep -q 'interrupted' "$T/err"
check "no image is there" test -z "$(smfs ls images)"
check "no file is left beside the store's own" test -z "$(find "$T/store3" -name 'tmp*' -type f)"
check "the store is sound" smfs fsck --read-data
check "and the next pull succeeds" pull "$REGISTRY/lib/python:1"

# What a person sees.
script -qec "SMFS_STORE=$T/store4 smvm-pull $REGISTRY/lib/python:1" "$T/typescript" >/dev/null </dev/null
check "a terminal gets a bar" grep -q '\[#*-*\] .* MiB / .* MiB, .*/s, layer [0-2] of 2' "$T/typescript"
check "and one line at the end" eval 'tr "\r" "\n" <"$T/typescript" | grep -q "python:1: pulled sha256:.*2 layers"'
smvm-pull --name x:seen "$REGISTRY/docker/torture:1" >"$T/out" 2>"$T/err"
check "no terminal, no bar" test ! -s "$T/err" -a "$(wc -l <"$T/out")" = 1

# Refusals that need the real registry.
check "an unknown tag: not found" refuses 3 'manifest unknown' "$REGISTRY/base:nope"
check "another platform: not found, and how to choose" refuses 3 -- "$REGISTRY/base:1" --name x:y --platform linux/arm64
check "more than --max-size" refuses 1 'max-size' "$REGISTRY/lib/python:1" --name x:y --max-size 1M
check "a malformed reference is usage" refuses 2 'reference' "$REGISTRY/UPPER:1"
check "docker-archive is refused with a way" refuses 5 'skopeo copy' docker-archive:x.tar
check "no registry there" refuses 1 'onnect' "127.0.0.1:$(free_port)/x:1"
check "no mkfs.erofs: what to install" eval \
	'! env PATH="$B" smvm-pull -q "$REGISTRY/base:1" --name x:z 2>"$T/err" && grep -q erofs-utils "$T/err"'

# Basic authentication of the real registry.
htpasswd -Bbn user pass >"$T/htpasswd" 2>/dev/null
check "a registry with a password" registry_start "$T/reg-auth" "$(free_port)" htpasswd="$T/htpasswd"
at_exit 'registry_stop "$T/reg-auth"'
check "pushed with it" registry_push "$T/img/base:1" base:1 --dest-creds user:pass
check "pulled with it" pull -u user:pass "$REGISTRY/base:1"
check "not without" refuses 1 'give one with -u' "$REGISTRY/base:1" --name x:y
check "as docker login left it" eval 'skopeo login --tls-verify=false --authfile "$T/docker/config.json" -u user -p pass $REGISTRY &&
	pull "$REGISTRY/base:1" --name x:login'
tap_done
