# job.sh - what bench/bench-agent.sh runs where guests run: job.sh IMAGE ROUNDS, with $DISK as tests/vm/job.sh has it, and
# in it QEMU in a folder, guest.py and lib.sh. Prints the figures.
. tests/vm/job.sh
. "$DISK/lib.sh"

image=$1 rounds=$2
stop() { smvm-runner stop -f "$1" >/dev/null; }

# ---- ours --------------------------------------------------------------------------------------
step 'mount the store' smfs mount "$SMFS_STORE" "$M"
step 'boot' smvm-runner boot --name origin --cpus 2 --memory 256M "$image" >"$T/id"
step 'the service answers' vm_answers origin
step 'snapshot' smvm-runner snapshot origin warm >/dev/null
step 'stop' stop origin

# ---- QEMU: the same kernel, initramfs, root and service ------------------------------------------------
modprobe vhost_vsock || cannot 'no vhost_vsock for the QEMU beside us'
for kernel in /boot/vmlinuz-*-cloud-amd64; do :; done
for initramfs in "$SMVM_CACHE_DIR"/initramfs-*.cpio; do :; done
cp "$M/images/$image/rootfs.erofs" "$DISK/rootfs.erofs" || exit 2
modules=$(for m in virtio_pci virtio_blk; do modprobe -S "${kernel#/boot/vmlinuz-}" --show-depends $m; done | awk '$1 == "insmod" && !s[$2]++ { print $2 }')
# shellcheck disable=SC2086
python3 "$DISK/guest.py" initrd "$initramfs" $modules <"$M/images/$image/config.json" >"$DISK/initrd" || exit 2
qemu() { # qemu save|time
	qemu_what=$1
	LD_LIBRARY_PATH=$DISK/qemu/lib python3 "$DISK/guest.py" "$qemu_what" "$DISK/qemu.state" \
		"$DISK/qemu/qemu" -L "$DISK/qemu/share" -nodefaults -no-user-config -display none \
		-machine pc -accel kvm -cpu host -smp 2 -m 256M -kernel "$kernel" -initrd "$DISK/initrd" \
		-append 'console=ttyS0 quiet panic=-1' -serial "file:$T/qemu.log" \
		-drive "if=none,id=root,format=raw,readonly=on,file=$DISK/rootfs.erofs" -device virtio-blk-pci,drive=root \
		-device virtio-rng-pci -device vhost-vsock-pci,guest-cid=3
}
qemu save >"$T/state" || { tail -n 20 "$T/qemu.log" >&2; exit 2; }
say "QEMU's state: $(cat "$T/state") bytes; $(LD_LIBRARY_PATH=$DISK/qemu/lib "$DISK/qemu/qemu" --version 2>/dev/null | head -n 1)"

# ---- one after the other --------------------------------------------------------------------------
i=0
while [ $i -lt "$rounds" ]; do
	i=$((i + 1))
	python3 "$DISK/guest.py" ours warm "r$i" >"$T/restore" 2>"$T/times" || { cat "$T/times" >&2; exit 2; }
	cut -d ' ' -f 1 "$T/times" >>"$T/ours"
	cut -d ' ' -f 2 "$T/times" >>"$T/identities"
	stop "r$i"
	qemu time >>"$T/qemus" || exit 2
done
say "of the last one, in microseconds: $(jq -c '.timings | del(.identity)' "$T/restore")"
line agent-answers "$(median <"$T/ours")" us "$(median <"$T/qemus")" "QEMU -incoming, same guest" '<=0.2'
line agent-identity "$(median <"$T/identities")" us "$(median <"$T/qemus")" "QEMU -incoming, which gives none" -

# ---- a working set ---------------------------------------------------------------------------------
# Page faults of vCPUs.
first_second() { # first_second POLICY
	smvm-runner restore --json --prefault "$1" --name faults warm-ws >"$T/faults" || exit 2
	sleep 1
	for task in /proc/"$(jq .pid "$T/faults")"/task/*; do
		case $(cat "$task/comm") in vcpu*) ;; *) continue ;; esac
		sed 's/.*) //' "$task/stat" | cut -d ' ' -f 8
	done | awk '{ n += $1 } END { print n }'
	stop faults
}
smvm-runner restore --name set warm >/dev/null && vm_answers set && smvm-runner ws set warm-ws >/dev/null && stop set || exit 2
i=0
while [ $i -lt 3 ]; do
	i=$((i + 1))
	first_second none >>"$T/without"
	first_second ws >>"$T/with"
done
line agent-ws-faults "$(median <"$T/with")" faults "$(median <"$T/without")" 'without a working set' '<=0.2'
