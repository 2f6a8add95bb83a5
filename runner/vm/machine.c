/* machine.c - the device list. */
#include "runner/vm/machine.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runner/devices/pm.h"
#include "runner/devices/serial.h"
#include "runner/devices/virtio_blk.h"
#include "runner/devices/virtio_pmem.h"
#include "runner/devices/virtio_rng.h"
#include "runner/devices/virtio_vsock.h"
#include "runner/devices/vmgenid.h"
#include "runner/proto/agent.h"
#include "smfs/base/cleanup.h"

static int check(const struct machine_config *cfg, struct err *err)
{
	if (!cfg->linux_guest && (cfg->rootfs || cfg->vsock_path))
		return err_set(err, EINVAL,
			       "machine: a bare guest has no virtio devices but disks");
	if (cfg->ndisks > MACHINE_MAX_DISKS)
		return err_set(err, EINVAL, "machine: %u disks, at most %u", cfg->ndisks,
			       MACHINE_MAX_DISKS);
	return 0;
}

static int add_disk(struct machine *m, const struct machine_disk *d, uint64_t *bytes,
		    struct err *err)
{
	struct disk *disk;
	int ret = d->base ? disk_private(d->id, d->base, &disk, err)
			  : disk_open(d->id, d->path, d->readonly, &disk, err);

	if (ret < 0)
		return ret;
	*bytes = disk_bytes(disk);
	return virtio_blk_new(m->vm, d->id, disk, err);
}

static int add_disks(struct machine *m, const struct machine_config *cfg, struct err *err)
{
	for (unsigned i = 0; i < cfg->ndisks; i++) {
		const struct machine_disk *d = &cfg->disk[i];
		struct machine_disk_kept *k = &m->disk[i];
		int ret;

		if (snprintf(k->id, sizeof(k->id), "%s", d->id) >= (int)sizeof(k->id) ||
		    snprintf(k->path, sizeof(k->path), "%s", d->path) >= (int)sizeof(k->path))
			return err_set(err, ENAMETOOLONG, "disk %s: %s: name too long", d->id,
				       d->path);
		k->readonly = d->readonly;
		m->ndisks++;
		ret = add_disk(m, d, &k->bytes, err);
		if (ret < 0)
			return ret;
	}
	return 0;
}

/* The order is the machine's layout: GSIs and windows follow from it. */
static int add_devices(struct machine *m, const struct machine_config *cfg, struct err *err)
{
	struct vm *vm = m->vm;
	int ret;

	if ((ret = serial_new(vm, cfg->serial_sink, cfg->serial_arg, &m->serial, err)) < 0 ||
	    (ret = pm_new(vm, err)) < 0)
		return ret;
	if (!cfg->linux_guest)
		return add_disks(m, cfg, err);
	if ((ret = i8042_new(vm, err)) < 0 || (ret = vmgenid_new(vm, &m->vmgenid, err)) < 0)
		return ret;
	if (cfg->rootfs && (ret = virtio_pmem_new(vm, "pmem-rootfs", 0, err)) < 0)
		return ret;
	if ((ret = add_disks(m, cfg, err)) < 0 || (ret = virtio_rng_new(vm, "rng0", err)) < 0)
		return ret;
	if (!cfg->vsock_path)
		return 0;
	ret = virtio_vsock_new(vm, "vsock0", MACHINE_GUEST_CID, cfg->vsock_path, err);
	/* The agent's listener has what room Linux gives. */
	if (ret == 0)
		virtio_vsock_early(vm_find_device(vm, "vsock0"), AGENT_PORT);
	return ret;
}

int machine_new(const struct machine_config *cfg, struct machine *out, struct err *err)
{
	struct machine m = {.ram_fd = -1};
	struct vm_config vc = {.ram_bytes = cfg->ram_bytes,
			       .vcpus = cfg->vcpus,
			       .ram_fd = cfg->ram_fd,
			       .ram_path = cfg->ram_path,
			       .ram_used = cfg->ram_used,
			       .inherited = cfg->inherited,
			       .irqchip = true,
			       .restore = cfg->ram_fd >= 0 || cfg->inherited};
	cleanup_fd int rootfs = -1, ram = -1;
	struct stat st;
	int ret;

	memset(out, 0, sizeof(*out));
	out->ram_fd = -1;
	if ((ret = check(cfg, err)) < 0)
		return ret;
	if (cfg->rootfs) {
		rootfs = open(cfg->rootfs, O_RDONLY | O_CLOEXEC);
		if (rootfs < 0)
			return err_errno(err, "open root file system %s", cfg->rootfs);
		if (fstat(rootfs, &st) < 0)
			return err_errno(err, "stat root file system %s", cfg->rootfs);
		m.rootfs_dev = st.st_dev;
		m.rootfs_ino = st.st_ino;
		vc.pmem[vc.npmem++] =
			(struct vm_pmem){.id = "pmem-rootfs", .fd = rootfs, .path = cfg->rootfs};
	}
	if (cfg->ram_fd >= 0) {
		ram = fcntl(cfg->ram_fd, F_DUPFD_CLOEXEC, 0);
		if (ram < 0)
			return err_errno(err, "keep %s open", cfg->ram_path);
	}
	ret = vm_new(&vc, &m.vm, err);
	if (ret < 0)
		return ret;
	m.ram_fd = steal_fd(&ram);
	ret = add_devices(&m, cfg, err);
	if (ret < 0) {
		machine_free(&m);
		return ret;
	}
	*out = m;
	return 0;
}

int machine_freeze_disks(const struct machine *m, struct machine_disks *out, struct err *err)
{
	memset(out, 0, sizeof(*out));
	for (unsigned i = 0; i < m->ndisks; i++) {
		int ret = m->disk[i].readonly
				  ? 0
				  : virtio_blk_freeze(vm_find_device(m->vm, m->disk[i].id),
						      &out->view[i], err);

		if (ret < 0) {
			machine_disks_put(out);
			return ret;
		}
	}
	return 0;
}

void machine_disks_put(struct machine_disks *d)
{
	for (unsigned i = 0; i < MACHINE_MAX_DISKS; i++)
		disk_view_put(d->view[i]);
	memset(d, 0, sizeof(*d));
}

unsigned machine_disks_fds(const struct machine_disks *d, int *fds)
{
	unsigned n = 0;

	for (unsigned i = 0; i < MACHINE_MAX_DISKS; i++)
		if (d->view[i])
			n += disk_view_fds(d->view[i], fds + n);
	return n;
}

void machine_free(struct machine *m)
{
	if (m->vm) {
		vm_free(m->vm);
		if (m->ram_fd >= 0)
			close(m->ram_fd);
	}
	memset(m, 0, sizeof(*m));
	m->ram_fd = -1;
}
