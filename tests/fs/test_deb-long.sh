#!/bin/sh
# The Debian packages in a fresh Debian 12: install, run, upgrade over themselves, remove, purge; nothing is left behind.
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/tap.sh
unset MAKEFLAGS MAKELEVEL

if [ "$(id -u)" != 0 ]; then
	skip "packages in a fresh chroot" "needs root"
	tap_done
fi
. tests/lib/bookworm.sh
bookworm_root "$T/root" "packages in a fresh chroot"
mount -t proc proc "$R/proc"
mount --rbind /dev "$R/dev"
mount --make-rslave "$R/dev"
at_exit 'umount -l "$R/dev" "$R/proc"'
# Every file, link and directory but what apt and dpkg keep for themselves.
list() {
	(cd "$R" && find . -xdev \( -path ./proc -o -path ./dev -o -path ./tmp -o -path ./var/cache -o -path ./var/log \
		-o -path ./var/lib/apt -o -path ./var/lib/dpkg -o -path ./run \) -prune -o -print) | sort
}

make -s BUILD="$B" deb >"$T/log" 2>&1 || cat "$T/log"
debs=$(ls "$B"/deb/*.deb)
check "five packages are built" [ "$(echo "$debs" | wc -l)" -eq 5 ]
cp $debs "$R/tmp"
# What they need comes first, so that what comes with them is theirs alone.
needs=$(for d in $debs; do dpkg-deb -f "$d" Depends; done | tr ',' '\n' | sed 's/ (.*//; s/ //g' | grep -vE '^(libsmfs0|libsmvm0)?$' | sort -u)
check "what they depend on is in Debian 12" apt install --no-install-recommends $needs gcc pkg-config
list >"$T/before"
check "they install" sh -c 'cd "$1/tmp" && DEBIAN_FRONTEND=noninteractive chroot "$1" sh -c "cd /tmp && apt-get -q -y install --no-install-recommends ./*.deb"' sh "$R"
check "all of them" sh -c '[ "$(chroot "$1" dpkg-query -W -f "\${db:Status-Abbrev}\n" smfs smvm-runner libsmfs0 libsmvm0 libsmvm-dev | grep -c "^ii")" -eq 5 ]' sh "$R"
version=$(sed -n 's/^VERSION *:= *//p' Makefile)
for c in smfs smvm-runner smvm-pull; do
	check "$c runs there" sh -c 'chroot "$1" $2 --version | grep -qF "$3"' sh "$R" $c "$version"
done
check "dpkg finds every file as it was packed" sh -c '[ -z "$(chroot "$1" dpkg --verify smfs smvm-runner libsmfs0 libsmvm0 libsmvm-dev)" ]' sh "$R"
check "/etc/default/smfs is a configuration file" sh -c 'chroot "$1" dpkg-query -W -f "\${Conffiles}" smfs | grep -q /etc/default/smfs' sh "$R"
check "each service is in the package of its program" sh -c '
	for p in smfs:smfs.service smvm-runner:smvm-pool@.service; do
		chroot "$1" dpkg -L "${p%%:*}" | grep -qx "/usr/lib/systemd/system/${p#*:}" || exit 1
	done' sh "$R"
check "the agent is where the runner looks for it" [ -x "$R/usr/lib/smvm/smvm-init" ]
check "doctor looks around" sh -c 'chroot "$1" smvm-runner doctor --json >"$2"; [ $? -le 1 ] && jq -e ".checks | length > 20" "$2"' sh "$R" "$T/j"
check "a store can be made" in_root smfs init /srv/store
if [ -c /dev/fuse ]; then
	check "and mounted" in_root smfs mount --log /tmp/log /srv/store /srv/mnt
	if [ -c /dev/kvm ]; then
		cp "$B/guest/counter" "$R/tmp"
		check "a machine runs" in_root env SMFS_MOUNT=/srv/mnt smvm-runner boot --name one -m 64M --kernel /tmp/counter
		check "and is snapshotted" in_root env SMFS_MOUNT=/srv/mnt smvm-runner snapshot one s
		check "and restored" in_root env SMFS_MOUNT=/srv/mnt smvm-runner restore --name two s
		in_root smvm-runner stop -f one two
		(exec chroot "$R" env SMFS_MOUNT=/srv/mnt smvm-runner pool --snapshot s --min 1 --max 1 >"$T/pool" 2>&1) &
		pool=$!
		check "a pool of it serves a claim" in_root sh -c 'for i in $(seq 100); do
			vm=$(smvm-runner pool claim 2>/dev/null) && exec smvm-runner pool release "$vm"; sleep 0.1; done; exit 1'
		kill $pool
		check "and ends in order" wait $pool
	fi
	check "and unmounted" in_root smfs unmount /srv/mnt
fi
printf '#include <smfs/store/store.h>\nint main(void) { struct smfs_id i = {{0}}; char t[65]; return smfs_id_hex(&i, t)[0] != 48; }\n' >"$R/tmp/x.c"
check "a program is built with pkg-config alone" in_root sh -c 'cd /tmp && gcc x.c -o x $(pkg-config --cflags --libs smfs) && ./x'
check "and linked to the shared library's version" sh -c 'readelf -d "$1/tmp/x" | grep -q "libsmfs.so.0"' sh "$R"
check "installing them again changes nothing" sh -c 'chroot "$1" sh -c "cd /tmp && apt-get -q -y install --reinstall --no-install-recommends ./*.deb"' sh "$R"
rm -rf "$R/srv/store" "$R/srv/mnt"
check "they are removed" apt remove smfs smvm-runner libsmfs0 libsmvm0 libsmvm-dev
check "with their programs" [ ! -e "$R/usr/bin/smfs" ]
# As machines that were booted leave it.
mkdir -p "$R/var/cache/smvm" && echo kept >"$R/var/cache/smvm/initramfs-kept"
check "but not with the configuration" [ -f "$R/etc/default/smfs" ]
check "which goes when they are purged" in_root dpkg --purge smfs smvm-runner libsmfs0 libsmvm0 libsmvm-dev
list >"$T/after"
check "and the cache of what machines boot from" [ ! -e "$R/var/cache/smvm" ]
check "nothing of them is left" diff "$T/before" "$T/after"
tap_done
