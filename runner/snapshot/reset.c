/* reset.c - a running machine becomes a snapshot's. */
#include "runner/snapshot/restore_priv.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runner/devices/virtio_blk.h"
#include "runner/devices/virtio_vsock.h"
#include "runner/vm/vcpu.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"

/* ---- the same shape ------------------------------------------------------------------------ */

/* In the mount one content is one inode, whatever image it is in. */
static int check_rootfs(const struct snapshot *s, const struct machine *m, struct err *err)
{
	struct stat st;

	if (!s->rootfs)
		return 0;
	if (stat(s->rootfs, &st) < 0)
		return err_errno(err, "stat %s", s->rootfs);
	if (st.st_dev != m->rootfs_dev || st.st_ino != m->rootfs_ino)
		return err_set(err, ENOTSUP, "another image is under its root");
	return 0;
}

static int check_disks(const struct snapshot *s, const struct machine *m, struct err *err)
{
	if (s->ndisks != m->ndisks)
		return err_set(err, ENOTSUP, "%u disks, and it has %u", s->ndisks, m->ndisks);
	for (unsigned i = 0; i < s->ndisks; i++) {
		const struct machine_disk *d = &s->disk[i];
		const struct machine_disk_kept *k = &m->disk[i];

		if (strcmp(d->id, k->id) != 0 || d->readonly != k->readonly ||
		    (d->readonly && strcmp(d->path, k->path) != 0) ||
		    (!d->readonly && disk_view_bytes(d->base) != k->bytes))
			return err_set(err, ENOTSUP, "disk %s is another one", d->id);
	}
	return 0;
}

int snapshot_fits_machine(const struct snapshot *s, const struct machine *m, struct err *err)
{
	const struct vm *vm = m->vm;
	unsigned regions = 0;
	int ret;

	if (s->inherited || s->ram_fd < 0)
		return err_set(err, ENOTSUP, "not a snapshot with a file of its own");
	if (s->meta.vcpus != vm->nvcpus)
		return err_set(err, ENOTSUP, "%u vCPUs, and it has %u", s->meta.vcpus, vm->nvcpus);
	for (unsigned i = 0; i < vm->mem.n; i++)
		regions += vm->mem.region[i].kind == MEMORY_RAM;
	if (regions != s->meta.nregions || memory_ram_bytes(&vm->mem) != s->meta.ram_bytes)
		return err_set(err, ENOTSUP, "%llu MiB of RAM, and it has %llu",
			       (unsigned long long)(s->meta.ram_bytes >> 20),
			       (unsigned long long)(memory_ram_bytes(&vm->mem) >> 20));
	if ((ret = snapshot_check_machine(&s->meta, vm, err)) < 0 ||
	    (ret = check_disks(s, m, err)) < 0)
		return ret;
	return check_rootfs(s, m, err);
}

/* ---- what the old guest leaves in KVM ---------------------------------------------------------
 */

/*
 * What loading a vCPU's state over an older one would not replace, KVM having been written for one
 * that never ran.
 */
static int forget_vcpu(const struct vm *vm, unsigned i, const struct vcpu_state *s, struct err *err)
{
	enum { MSR_TSC = 0x10, MSR_KVM_ASYNC_PF_EN = 0x4b564d02 };
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msr = {.head = {.nmsrs = 1}};
	struct kvm_mp_state mp;

	/* Pending INIT and start-up signals are taken in, and what they do is then overwritten. */
	if (ioctl(vm->vcpu[i]->fd, KVM_GET_MP_STATE, &mp) < 0)
		return err_errno(err, "vCPU %u: KVM_GET_MP_STATE", i);
	/* Page faults the host still works on for the old guest. Unknown where KVM has none. */
	msr.entry = (struct kvm_msr_entry){.index = MSR_KVM_ASYNC_PF_EN};
	if (ioctl(vm->vcpu[i]->fd, KVM_SET_MSRS, &msr) < 0)
		return err_errno(err, "vCPU %u: disable asynchronous page faults", i);
	/*
	 * KVM takes a TSC written within a second of what the last one has become by now for an
	 * attempt to write the same on all vCPUs, and leaves it going on from there: a machine that
	 * is reset each half second would never see its time go back. One far away first.
	 */
	for (uint32_t k = 0; i == 0 && k < s->msrs.n; k++) {
		if (s->msrs.entry[k].index != MSR_TSC)
			continue;
		msr.entry = (struct kvm_msr_entry){.index = MSR_TSC,
						   .data = s->msrs.entry[k].data +
							   3600ull * 1000 * s->tsc_khz};
		if (ioctl(vm->vcpu[i]->fd, KVM_SET_MSRS, &msr) != 1)
			return err_errno(err, "vCPU 0: set the TSC");
	}
	return 0;
}

/* ---- the steps ------------------------------------------------------------------------------ */

static int replace_disks(const struct snapshot *s, struct machine *m, struct err *err)
{
	int ret = 0;

	for (unsigned i = 0; ret == 0 && i < s->ndisks; i++) {
		const struct machine_disk *d = &s->disk[i];
		struct disk *disk;

		if (d->readonly)
			continue;
		snprintf(m->disk[i].path, sizeof(m->disk[i].path), "%s", d->path);
		ret = disk_private(d->id, d->base, &disk, err);
		if (ret == 0)
			ret = virtio_blk_replace(vm_find_device(m->vm, d->id), disk, err);
	}
	return ret;
}

/* The machine holds it open: while it does, the inode's number is nobody else's. */
static bool is_behind_ram(const struct machine *m, int fd)
{
	struct stat was, is;

	return m->ram_fd >= 0 && fstat(m->ram_fd, &was) == 0 && fstat(fd, &is) == 0 &&
	       was.st_dev == is.st_dev && was.st_ino == is.st_ino;
}

static int remap(struct snapshot *s, struct machine *m, struct restore_timing *t, struct err *err)
{
	cleanup_fd int ram = fcntl(s->ram_fd, F_DUPFD_CLOEXEC, 0);
	int ret;

	if (ram < 0)
		return err_errno(err, "keep %s open", s->ram_path);
	ret = vm_remap_ram(m->vm, s->ram_fd, s->ram_path, is_behind_ram(m, s->ram_fd),
			   &t->rewound_bytes, err);
	if (ret < 0)
		return ret;
	if (m->ram_fd >= 0)
		close(m->ram_fd);
	m->ram_fd = steal_fd(&ram);
	m->ram_copied = false;
	for (unsigned i = 0; i < s->meta.nregions; i++)
		m->ram_used[i] = s->meta.region[i].used;
	return 0;
}

static int reset(struct snapshot *s, const struct restore_opts *o, struct machine *m,
		 struct device *vsock, struct restore_timing *t, struct err *err)
{
	uint64_t t0 = monotonic_us(), t1;
	int ret;

	if (vsock) {
		pthread_mutex_lock(&m->vm->dev_lock);
		virtio_vsock_drop(vsock);
		pthread_mutex_unlock(&m->vm->dev_lock);
	}
	t1 = monotonic_us();
	t->drop_us = t1 - t0;
	ret = remap(s, m, t, err);
	t->map_us = t->machine_us = monotonic_us() - t1;
	if (ret < 0 || (ret = replace_disks(s, m, err)) < 0)
		return ret;
	t0 = monotonic_us();
	for (unsigned i = 0; ret == 0 && i < m->vm->nvcpus; i++)
		ret = forget_vcpu(m->vm, i, &s->state[i], err);
	t1 = monotonic_us();
	if (ret == 0)
		ret = snapshot_load(s, o->clock, m, t, err);
	t->clock_us += t1 - t0;
	t0 = monotonic_us();
	if (ret == 0 && vsock) {
		pthread_mutex_lock(&m->vm->dev_lock);
		ret = virtio_vsock_reopen(vsock, err);
		pthread_mutex_unlock(&m->vm->dev_lock);
	}
	t->listen_us = monotonic_us() - t0;
	return ret;
}

int snapshot_reset(struct snapshot *s, const struct restore_opts *o, struct machine *m,
		   struct restore_timing *t, struct err *err)
{
	int ret;

	memset(t, 0, sizeof(*t));
	ret = reset(s, o, m, vm_find_device(m->vm, "vsock0"), t, err);
	return ret < 0 ? err_wrap(err, ret, "reset to %s", s->dir) : 0;
}
