/* restore.c - read, check, refuse; then build and load. */
#include "runner/snapshot/restore_priv.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>
#include <xxhash.h>

#include "runner/devices/vmgenid.h"
#include "runner/proto/mailbox.h"
#include "runner/snapshot/sections.h"
#include "runner/snapshot/state_file.h"
#include "runner/snapshot/state_items.h"
#include "runner/vm/vcpu.h"
#include "runner/x86/layout.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"

/* ---- reading ------------------------------------------------------------------------------ */

/* Opening a pipe somebody put in a file's place would wait for ever. */
static int check_files(int dir, struct err *err)
{
	static const char *const names[] = {"meta", "vcpu", "ram"};
	struct stat st;

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (fstatat(dir, names[i], &st, 0) < 0)
			return err_errno(err, "stat %s", names[i]);
		if (!S_ISREG(st.st_mode))
			return err_set(err, EBADMSG, "%s: not a regular file", names[i]);
	}
	return 0;
}

static int read_meta(struct snapshot *s, int dir, struct err *err)
{
	cleanup_free char *text = NULL;
	size_t len;
	int ret = read_file(dir, "meta", META_FILE_MAX, &text, &len, err);

	if (ret < 0)
		return ret;
	ret = meta_decode(text, len, &s->meta, err);
	return ret < 0 ? err_wrap(err, ret, "meta") : 0;
}

static int read_vcpu(struct snapshot *s, int dir, struct err *err)
{
	const struct snapshot_meta *m = &s->meta;
	size_t len;
	int ret;

	if (m->vcpu_bytes > SECTIONS_FILE_MAX)
		return err_set(err, EBADMSG, "meta: vcpu of %" PRIu64 " bytes is above the limit",
			       m->vcpu_bytes);
	if ((ret = read_file(dir, "vcpu", SECTIONS_FILE_MAX, &s->vcpu, &len, err)) < 0)
		return ret;
	/* First the file itself, since it can say what is wrong with it and where. */
	if ((ret = sections_parse(s->vcpu, len, &s->sections, err)) < 0)
		return err_wrap(err, ret, "vcpu");
	if (len != m->vcpu_bytes || XXH3_64bits(s->vcpu, len) != m->vcpu_xxh3)
		return err_set(err, EBADMSG, "vcpu: is not the file this meta was written with");
	return 0;
}

static int open_ram(struct snapshot *s, int dir, struct err *err)
{
	struct stat st;

	if (asprintf(&s->ram_path, "%s/ram", s->dir) < 0) {
		s->ram_path = NULL;
		return err_set(err, ENOMEM, "out of memory");
	}
	s->ram_fd = openat(dir, "ram", O_RDONLY | O_CLOEXEC);
	if (s->ram_fd < 0)
		return err_errno(err, "open ram");
	if (fstat(s->ram_fd, &st) < 0)
		return err_errno(err, "stat ram");
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != s->meta.ram_bytes)
		return err_set(err, EBADMSG, "ram: %lld bytes, meta says %" PRIu64,
			       (long long)st.st_size, s->meta.ram_bytes);
	return 0;
}

/* ---- checking ----------------------------------------------------------------------------- */

/* The memory map is not free to choose: machine_new() lays RAM out by its size alone. */
static int check_memory(const struct snapshot_meta *m, struct err *err)
{
	struct memory mem;
	int ret;

	memset(&mem, 0, sizeof(mem));
	if ((ret = memory_layout(&mem, m->ram_bytes, err)) < 0)
		return ret;
	if (mem.n != m->nregions)
		return err_set(err, ENOTSUP, "ram_regions: %u regions, this machine has %u",
			       m->nregions, mem.n);
	for (unsigned i = 0; i < mem.n; i++)
		if (mem.region[i].gpa != m->region[i].gpa ||
		    mem.region[i].size != m->region[i].size ||
		    mem.region[i].file_off != m->region[i].offset)
			return err_set(err, ENOTSUP,
				       "ram_regions: region %u is not where this machine has it",
				       i);
	return 0;
}

static bool in_the_store(const struct snapshot *s)
{
	cleanup_free char *dir = realpath(s->dir, NULL), *top = NULL, *snapshots = NULL;

	if (asprintf(&top, "%s/snapshots", s->mount) < 0) {
		top = NULL;
		return false;
	}
	snapshots = realpath(top, NULL);
	const size_t n = snapshots ? strlen(snapshots) : 0;
	return dir && n && strncmp(dir, snapshots, n) == 0 && dir[n] == '/';
}

/*
 * The content of a writable disk is a file of the snapshot's own; as it says nothing about its
 * name, a link would lead to any file of the host.
 */
static int open_disk(struct snapshot *s, int dir, const struct meta_device *d, struct err *err)
{
	cleanup_fd int fd =
		openat(dir, d->id, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
	struct disk_view *v;
	struct stat st;
	int ret;

	if (fd < 0)
		return err_errno(err, "open %s", d->id);
	if (fstat(fd, &st) < 0)
		return err_errno(err, "stat %s", d->id);
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != d->content ||
	    d->content % DISK_SECTOR || !d->content)
		return err_set(err, EBADMSG, "%s: %lld bytes, meta says %" PRIu64, d->id,
			       (long long)st.st_size, d->content);
	ret = disk_view_of_file(steal_fd(&fd), d->content, &v, err);
	if (ret == 0)
		s->disk[s->ndisks++] =
			(struct machine_disk){.id = d->id, .path = d->source, .base = v};
	return ret;
}

/*
 * A read-only disk is a file of the host that the snapshot names. Whoever has put the snapshot into
 * the store answers for that; a directory from elsewhere may name what its guest is not to read.
 */
static int check_disk(struct snapshot *s, int dir, const struct meta_device *d, struct err *err)
{
	if (s->ndisks == MACHINE_MAX_DISKS || (d->readonly ? !d->source[0] : !d->content))
		return err_set(err, EBADMSG, "devices: disk %s cannot be made again", d->id);
	if (!d->readonly)
		return open_disk(s, dir, d, err);
	if (!in_the_store(s))
		return err_set(err, ENOTSUP,
			       "disk %s is %s of this host, which only a snapshot in the store may "
			       "have; copy it to %s/snapshots if it may",
			       d->id, d->source, s->mount);
	s->disk[s->ndisks++] =
		(struct machine_disk){.id = d->id, .path = d->source, .readonly = true};
	return 0;
}

/*
 * From the list of devices to a configuration. That the machine made from it is the one that was
 * saved, device by device, is checked against the list again by snapshot_check_machine().
 */
static int check_devices(struct snapshot *s, int dir, struct err *err)
{
	const struct snapshot_meta *m = &s->meta;

	for (unsigned i = 0; i < m->ndevices; i++) {
		const struct meta_device *d = &m->device[i];

		if (!sections_find(&s->sections, SECTION_DEVICE, 0, d->id))
			return err_set(err, EBADMSG, "vcpu: no section of device %s", d->id);
		if (strcmp(d->type, "serial") == 0 || strcmp(d->type, "pm") == 0)
			continue;
		if (strcmp(d->type, "virtio-blk") == 0) {
			int ret = check_disk(s, dir, d, err);

			if (ret < 0)
				return ret;
			continue;
		}
		s->linux_guest = true;
		if (strcmp(d->type, "virtio-vsock") == 0)
			s->has_vsock = true;
	}
	return 0;
}

static int check_image(struct snapshot *s, struct err *err)
{
	const struct snapshot_meta *m = &s->meta;
	const char *ref = m->image.ref[0] ? m->image.ref : m->image.rootfs;
	char digest[sizeof(m->image.digest)];
	cleanup_fd int fd = -1;
	struct stat st;
	ssize_t n;

	if (!m->has_image)
		return 0;
	if (asprintf(&s->rootfs, "%s/%s", s->mount, m->image.rootfs) < 0) {
		s->rootfs = NULL;
		return err_set(err, ENOMEM, "out of memory");
	}
	fd = open(s->rootfs, O_RDONLY | O_CLOEXEC);
	if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
		return err_set(err, ENOENT,
			       "image %s is missing: no %s; pull it again with smvm-pull", ref,
			       s->rootfs);
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(err, "open image %s: %s", ref, s->rootfs);
	n = fgetxattr(fd, "user.smfs.digest", digest, sizeof(digest) - 1);
	if (n < 0)
		return err_errno(err, "image %s: read digest (user.smfs.digest) of %s", ref,
				 s->rootfs);
	digest[n] = 0;
	if ((uint64_t)st.st_size != m->image.size || strcmp(digest, m->image.digest) != 0)
		return err_set(
			err, ENOTSUP,
			"image %s: %s is another image than the snapshot was taken with (has "
			"%s, %lld bytes; needs %s, %" PRIu64 " bytes); pull that one again",
			ref, s->rootfs, digest, (long long)st.st_size, m->image.digest,
			m->image.size);
	return 0;
}

/* Every state, decoded and checked; and no section that nobody asked for. */
static int decode_states(struct snapshot *s, struct err *err)
{
	const struct snapshot_meta *m = &s->meta;
	const unsigned expected = m->ndevices + state_sections(m->vcpus);
	int ret;

	s->state = calloc(m->vcpus, sizeof(*s->state));
	if (!s->state)
		return err_set(err, ENOMEM, "out of memory");
	if ((ret = state_file_get_vm(&s->sections, &s->irq, err)) < 0)
		return err_wrap(err, ret, "vcpu");
	if (!s->irq.has_irqchip)
		return err_set(err, ENOTSUP, "vcpu: a machine without interrupt controllers");
	for (unsigned i = 0; i < m->vcpus; i++) {
		if ((ret = state_file_get_vcpu(&s->sections, i, &s->state[i], err)) < 0)
			return err_wrap(err, ret, "vcpu");
		if (!s->state[i].has_lapic)
			return err_set(err, EBADMSG, "vcpu: no local APIC state of vCPU %u", i);
	}
	if (s->sections.n != expected)
		return err_set(err, EBADMSG, "vcpu: %u sections, the machine in meta has %u",
			       s->sections.n, expected);
	return 0;
}

static int check_all(struct snapshot *s, int dir, struct err *err)
{
	struct snapshot_cpu host;
	int ret;

	if (s->meta.vcpus > VM_MAX_VCPUS)
		return err_set(err, ENOTSUP, "%u vCPUs, this program runs at most %d",
			       s->meta.vcpus, VM_MAX_VCPUS);
	if (s->meta.parent[0])
		return err_set(err, ENOTSUP, "a diff of %s, which this program cannot restore",
			       s->meta.parent);
	hostcpu_get(&host, NULL);
	if ((ret = hostcpu_fits(&s->meta.cpu, &host, err)) < 0 ||
	    (ret = check_memory(&s->meta, err)) < 0 || (ret = check_devices(s, dir, err)) < 0 ||
	    (ret = decode_states(s, err)) < 0)
		return ret;
	return check_image(s, err);
}

/* A random (version 4) UUID. */
static int new_uuid(uint8_t uuid[16], struct err *err)
{
	if (getrandom(uuid, 16, 0) != 16)
		return err_errno(err, "get random bytes for a generation id");
	uuid[6] = (uuid[6] & 0x0f) | 0x40;
	uuid[8] = (uuid[8] & 0x3f) | 0x80;
	return 0;
}

static int open_at(struct snapshot *s, int dir, struct err *err)
{
	int ret;

	if ((ret = check_files(dir, err)) < 0 || (ret = read_meta(s, dir, err)) < 0 ||
	    (ret = read_vcpu(s, dir, err)) < 0 || (ret = open_ram(s, dir, err)) < 0 ||
	    (ret = check_all(s, dir, err)) < 0)
		return ret;
	/* No part of the state, so whatever is wrong with it is no reason not to restore. */
	s->ws_fd = openat(dir, "ws", O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
	return new_uuid(s->uuid, err);
}

int snapshot_open(const char *dir, const char *mount, struct snapshot **out, struct err *err)
{
	cleanup_fd int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct snapshot *s;
	int ret;

	*out = NULL;
	if (fd < 0)
		return err_errno(err, "open snapshot %s", dir);
	s = calloc(1, sizeof(*s));
	if (!s)
		return err_set(err, ENOMEM, "snapshot %s: out of memory", dir);
	s->ram_fd = s->ws_fd = -1;
	s->dir = strdup(dir);
	s->mount = strdup(mount);
	ret = s->dir && s->mount ? open_at(s, fd, err) : err_set(err, ENOMEM, "out of memory");
	if (ret < 0) {
		snapshot_close(s);
		return err_wrap(err, ret, "snapshot %s", dir);
	}
	*out = s;
	return 0;
}

static int open_copy(struct snapshot *s, struct machine *m, struct machine_disks *disks,
		     const char *rootfs, struct err *err)
{
	int ret = sections_parse(s->vcpu, s->meta.vcpu_bytes, &s->sections, err);

	s->inherited = &m->vm->mem;
	s->ram_copied = m->ram_copied;
	s->linux_guest = m->vmgenid != NULL;
	s->has_vsock = vm_find_device(m->vm, "vsock0") != NULL;
	for (; s->ndisks < m->ndisks; s->ndisks++) {
		const unsigned i = s->ndisks;

		s->disk[i] = (struct machine_disk){.id = m->disk[i].id,
						   .path = m->disk[i].path,
						   .readonly = m->disk[i].readonly,
						   .base = steal_ptr(&disks->view[i])};
	}
	for (unsigned i = 0; i < s->meta.nregions; i++)
		s->meta.region[i].used = m->ram_used[i];
	if (m->ram_fd >= 0) {
		s->ram_fd = fcntl(m->ram_fd, F_DUPFD_CLOEXEC, 0);
		if (s->ram_fd < 0)
			return err_errno(err, "keep the snapshot's ram open");
	}
	if (!s->dir || !s->ram_path || (rootfs[0] && !(s->rootfs = strdup(rootfs))))
		return err_set(err, ENOMEM, "out of memory");
	if (ret < 0 || (ret = decode_states(s, err)) < 0)
		return ret;
	return new_uuid(s->uuid, err);
}

int snapshot_of_copy(struct machine *m, const struct snapshot_meta *meta, struct writer *vcpu,
		     struct machine_disks *disks, const char *rootfs, struct snapshot **out,
		     struct err *err)
{
	struct snapshot *s = calloc(1, sizeof(*s));
	int ret;

	*out = NULL;
	if (!s)
		return err_set(err, ENOMEM, "fork: out of memory");
	s->ram_fd = s->ws_fd = -1;
	s->dir = strdup("the forked machine");
	s->ram_path = strdup("inherited RAM");
	s->meta = *meta;
	s->vcpu = (char *)vcpu->p;
	*vcpu = WRITER_INIT;
	ret = open_copy(s, m, disks, rootfs, err);
	if (ret < 0) {
		snapshot_close(s);
		return err_wrap(err, ret, "fork");
	}
	*out = s;
	return 0;
}

const struct snapshot_meta *snapshot_meta(const struct snapshot *s)
{
	return &s->meta;
}

uint64_t snapshot_next_generation(const struct snapshot *s)
{
	return s->meta.generation + 1;
}

const uint8_t *snapshot_next_uuid(const struct snapshot *s)
{
	return s->uuid;
}

int snapshot_take_ws(struct snapshot *s)
{
	return steal_fd(&s->ws_fd);
}

void snapshot_close(struct snapshot *s)
{
	if (!s)
		return;
	if (s->ws_fd >= 0)
		close(s->ws_fd);
	if (s->ram_fd >= 0)
		close(s->ram_fd);
	for (unsigned i = 0; i < s->ndisks; i++)
		disk_view_put(s->disk[i].base);
	free(s->dir);
	free(s->mount);
	free(s->rootfs);
	free(s->ram_path);
	free(s->vcpu);
	free(s->state);
	free(s);
}

/* ---- restoring ---------------------------------------------------------------------------- */

/* The machine that was made is the machine that was saved. */
int snapshot_check_machine(const struct snapshot_meta *m, const struct vm *vm, struct err *err)
{
	const struct device *d = vm->devices;

	for (unsigned i = 0; i < m->ndevices; i++, d = d->next) {
		const struct meta_device *w = &m->device[i];

		if (!d)
			return err_set(err, ENOTSUP, "device %s (%s): this machine has none", w->id,
				       w->type);
		if (strcmp(d->id, w->id) != 0 || strcmp(d->ops->type, w->type) != 0)
			return err_set(err, ENOTSUP,
				       "device %s (%s): this machine has %s (%s) in its place",
				       w->id, w->type, d->id, d->ops->type);
		if (d->base != w->base || d->size != w->size || d->gsi != w->gsi)
			return err_set(err, ENOTSUP,
				       "device %s: saved at 0x%" PRIx64 " gsi %d, this machine has "
				       "it at 0x%" PRIx64 " gsi %d",
				       w->id, w->base, w->gsi, d->base, d->gsi);
	}
	if (d)
		return err_set(err, ENOTSUP, "device %s: the saved machine had none", d->id);
	return 0;
}

static int load_devices(const struct snapshot *s, struct vm *vm, struct err *err)
{
	for (struct device *d = vm->devices; d; d = d->next) {
		const struct section *sec = sections_find(&s->sections, SECTION_DEVICE, 0, d->id);
		struct reader r;
		int ret = 0;

		if (!sec)
			return err_set(err, EBADMSG, "vcpu: no section of device %s", d->id);
		r = reader_of(sec->data, sec->len);
		if (d->ops->load)
			ret = d->ops->load(d, sec->version, &r, err);
		if (ret < 0)
			return err_wrap(err, ret, "device %s", d->id);
		if (!reader_done(&r))
			return err_set(err, EBADMSG, "device %s: state is too %s", d->id,
				       r.failed ? "short" : "long");
	}
	return 0;
}

/* Before any vCPU runs: the guest must never see that it is two. */
static int give_identity(const struct snapshot *s, enum clock_policy clock, const struct machine *m,
			 struct err *err)
{
	struct mailbox box = {.generation = snapshot_next_generation(s),
			      .wall_ns = (uint64_t)s->meta.wall_clock_ns};
	uint8_t *page = memory_at(&m->vm->mem, LAYOUT_MAILBOX, MAILBOX_LEN);
	struct timespec now;

	if (!page)
		return err_set(err, EBADMSG, "no RAM at the mailbox page");
	if (clock == CLOCK_ADVANCE) {
		clock_gettime(CLOCK_REALTIME, &now);
		box.wall_ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
	}
	memcpy(box.uuid, s->uuid, sizeof(box.uuid));
	mailbox_put(page, &box);
	return m->vmgenid ? vmgenid_set(m->vmgenid, s->uuid, true, err) : 0;
}

/* In the order of KVM.md; x86/state.h has the order within a vCPU. */
int snapshot_load(struct snapshot *s, enum clock_policy clock, struct machine *m,
		  struct restore_timing *t, struct err *err)
{
	struct vm *vm = m->vm;
	uint64_t t0 = monotonic_us(), t1;
	int ret = snapshot_check_machine(&s->meta, vm, err);

	for (unsigned i = 0; ret == 0 && i < vm->nvcpus; i++)
		ret = vcpu_state_set(vm->vcpu[i]->fd, i, &s->state[i], err);
	t1 = monotonic_us();
	if (ret == 0)
		ret = pit_restore(vm, &s->irq, err);
	if (ret == 0)
		ret = vm_irq_state_set(vm->fd, &s->irq, err);
	t->irq_us = monotonic_us() - t1;
	t1 = monotonic_us();
	t->vcpu_us = t1 - t0;
	if (ret < 0)
		return ret;

	pthread_mutex_lock(&vm->dev_lock);
	ret = load_devices(s, vm, err);
	t0 = monotonic_us();
	t->devices_us = t0 - t1;
	if (ret == 0)
		ret = give_identity(s, clock, m, err);
	pthread_mutex_unlock(&vm->dev_lock);
	t1 = monotonic_us();
	for (unsigned i = 0; ret == 0 && i < vm->nvcpus; i++)
		ret = vcpu_kvmclock_paused(vm->vcpu[i]->fd, err);
	t->clock_us = monotonic_us() - t1;
	t->identity_us = monotonic_us() - t0;
	return ret;
}

int snapshot_restore(struct snapshot *s, const struct restore_opts *o, struct machine *out,
		     struct restore_timing *t, struct err *err)
{
	uint64_t used[MEMORY_MAX_REGIONS] = {0};
	struct machine_config cfg = {.vcpus = s->meta.vcpus,
				     .ram_bytes = s->meta.ram_bytes,
				     .ram_fd = s->ram_fd,
				     .ram_path = s->ram_path,
				     .ram_used = s->inherited ? NULL : used,
				     .inherited = s->inherited,
				     .linux_guest = s->linux_guest,
				     .rootfs = s->rootfs,
				     .ndisks = s->ndisks,
				     .vsock_path = s->has_vsock ? o->vsock_path : NULL,
				     .serial_sink = o->serial_sink,
				     .serial_arg = o->serial_arg};
	uint64_t t0 = monotonic_us();
	int ret;

	memset(t, 0, sizeof(*t));
	for (unsigned i = 0; i < s->meta.nregions; i++)
		used[i] = s->meta.region[i].used;
	memcpy(cfg.disk, s->disk, sizeof(cfg.disk));
	if ((ret = machine_new(&cfg, out, err)) < 0)
		return err_wrap(err, ret, "restore %s", s->dir);
	t->machine_us = monotonic_us() - t0;
	t->map_us = out->vm->map_us;
	memcpy(out->ram_used, used, sizeof(out->ram_used));
	out->ram_copied = s->ram_copied;
	ret = snapshot_load(s, o->clock, out, t, err);
	if (ret < 0) {
		machine_free(out);
		return err_wrap(err, ret, "restore %s", s->dir);
	}
	return 0;
}
