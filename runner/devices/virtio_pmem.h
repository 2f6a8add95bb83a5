/*
 * virtio_pmem.h - a read-only file as the guest's persistent memory.
 *
 * The file (rootfs.erofs, from the mount) is mapped into the guest as a memory slot of its own, so
 * with DAX every guest of one image reads the host's page cache and none copies it into its RAM.
 * The slot is read-only for the guest: KVM_MEM_READONLY over a PROT_READ mapping.
 *
 * TWO STEPS, because all memory slots must exist before the irqchip does (KVM.md: 8.5 ms
 * otherwise), and the device can only be made after:
 *   1. virtio_pmem_map(), called by vm_new() per entry of vm_config.pmem, maps and adds the region;
 *   2. virtio_pmem_new() makes the device over the n-th such region.
 *
 * PLACE. Regions follow RAM (never below 4 GiB), in the order of vm_config.pmem, each starting
 * on a multiple of VIRTIO_PMEM_GAP. So the place follows from the configuration alone; it is part
 * of the saved state, and load() refuses a machine where it differs.
 */
#ifndef RUNNER_DEVICES_VIRTIO_PMEM_H
#define RUNNER_DEVICES_VIRTIO_PMEM_H

#include "runner/vm/vm.h"

/* Linux' memory section size: a section is then never half RAM, half device memory. */
#define VIRTIO_PMEM_GAP (128ull << 20)
#define VIRTIO_PMEM_MAX (64ull << 30)

/*
 * Map `p->fd` and add it to `m`, padded with zeroes to VM_PMEM_ALIGN. The descriptor may be closed
 * afterwards. EINVAL: empty, not a file, or above VIRTIO_PMEM_MAX.
 */
int virtio_pmem_map(struct memory *m, const struct vm_pmem *p, struct err *err);

/* The device `id` over the n-th (from 0) pmem region of `vm`, which then owns it. */
int virtio_pmem_new(struct vm *vm, const char *id, unsigned n, struct err *err);

#endif
