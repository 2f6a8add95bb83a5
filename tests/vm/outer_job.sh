# What test_outer.sh runs inside the outer machine: prints one line per fact, for the suite to compare.
#
#   outer_job.sh facts ARG...      the tools, the devices, the arguments; ends with status 7
#   outer_job.sh hang              never ends
#   outer_job.sh crash             panics the kernel
case $1 in
facts)
	shift
	python3 tests/vm/kvm_tiny.py && echo 'kvm runs a guest'
	[ -c /dev/fuse ] && echo 'fuse is there'
	[ "$(pwd)" = /src ] && [ "$BUILD" = build ] && echo 'the tree is in place'
	ls /boot/vmlinuz-* >/dev/null && modprobe --show-depends virtio_pmem >/dev/null && echo 'a kernel to boot is there'
	curl --version >/dev/null && jq --version >/dev/null && mkfs.erofs --help >/dev/null 2>&1 && echo 'the tools run'
	echo kept >/disk1/file && echo 'the data disk is writable'
	printf 'argument <%s>\n' "$@"
	exit 7
	;;
hang) exec sleep 1000 ;;
crash)
	echo 1 >/proc/sys/kernel/sysrq
	echo c >/proc/sysrq-trigger
	exec sleep 1000
	;;
esac
