# What tests/guest/test_systemd-long.sh starts in namespaces of its own: systemd_root.sh DIR. Makes DIR the root, with the
# devices a microVM host has, and systemd its first process.
R=$1
mount --make-rprivate / && mount --bind "$R" "$R" && mount -t proc proc "$R/proc" && mount -t sysfs -o ro sysfs "$R/sys" &&
	mount -t cgroup2 cgroup2 "$R/sys/fs/cgroup" && mount -t tmpfs -o mode=755 tmpfs "$R/run" && mount -t tmpfs tmpfs "$R/tmp" &&
	mount -t tmpfs -o mode=755 tmpfs "$R/dev" && mkdir "$R/dev/shm" && mount -t tmpfs tmpfs "$R/dev/shm" &&
	mkdir "$R/dev/pts" && mount -t devpts -o newinstance,ptmxmode=666 devpts "$R/dev/pts" && ln -s pts/ptmx "$R/dev/ptmx" &&
	ln -s /proc/self/fd "$R/dev/fd" || exit 1
for d in null zero full random urandom tty kvm fuse; do
	touch "$R/dev/$d" && mount --bind "/dev/$d" "$R/dev/$d" || exit 1
done
mkdir -p "$R/outside" && cd "$R" && pivot_root . outside && umount -l /outside || exit 1
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C \
	/lib/systemd/systemd --unit=multi-user.target --log-target=console </dev/null
