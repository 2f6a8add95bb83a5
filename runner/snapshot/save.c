/* save.c - pause, capture, write, publish. */
#include "runner/snapshot/save.h"

#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>
#include <xxhash.h>

#include "runner/snapshot/ram_file.h"
#include "runner/snapshot/sections.h"
#include "runner/snapshot/state_file.h"
#include "runner/vm/vcpu.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/hex.h"
#include "smfs/base/num.h"
#include "smfs/base/sha256.h"
#include "smfs/store/store.h"

/* A kernel image above this is not hashed: it would hold the caller up for no use. */
#define KERNEL_HASH_MAX (256u << 20)

static uint64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* false, and nothing copied, if `s` does not fit. */
static bool copy_text(char *out, size_t size, const char *s)
{
	const size_t n = strlen(s);

	if (n >= size)
		return false;
	memcpy(out, s, n + 1);
	return true;
}

/* ---- before the pause --------------------------------------------------------------------- */

/* For people: which kernel this is. One that is gone or unreadable is left unnamed. */
static void describe_kernel(const char *path, struct snapshot_meta *m)
{
	cleanup_fd int fd = path && path[0] ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	cleanup_free uint8_t *buf = malloc(MIB);
	struct sha256 h;
	uint8_t sum[SHA256_LEN];
	uint64_t off = 0;
	ssize_t n = -1;

	if (path)
		copy_text(m->kernel.path, sizeof(m->kernel.path), path);
	if (fd < 0 || !buf)
		return;
	sha256_init(&h);
	while ((n = pread(fd, buf, MIB, (off_t)off)) > 0 && off < KERNEL_HASH_MAX) {
		sha256_update(&h, buf, (size_t)n);
		off += (uint64_t)n;
	}
	if (n == 0) {
		sha256_final(&h, sum);
		hex_encode(sum, sizeof(sum), m->kernel.sha256);
	}
}

static int describe_image(const struct save_info *info, struct snapshot_meta *m, struct err *err)
{
	cleanup_free char *rootfs = NULL, *mount = NULL;
	struct stat st;
	ssize_t n;
	size_t len;

	if (!info->rootfs || !info->rootfs[0])
		return 0;
	rootfs = realpath(info->rootfs, NULL);
	if (!rootfs)
		return err_errno(err, "find root file system %s", info->rootfs);
	mount = realpath(info->mount, NULL);
	if (!mount)
		return err_errno(err, "find mount %s", info->mount);
	len = strlen(mount);
	if (strncmp(rootfs, mount, len) != 0 || rootfs[len] != '/')
		return err_set(err, ENOTSUP,
			       "root file system %s is not below the mount %s: a restore could not "
			       "find it; pull the image and run it from the mount",
			       rootfs, mount);
	if (!copy_text(m->image.rootfs, sizeof(m->image.rootfs), rootfs + len + 1) ||
	    !copy_text(m->image.ref, sizeof(m->image.ref), info->image_ref ? info->image_ref : ""))
		return err_set(err, ENAMETOOLONG, "image %s: name too long", rootfs);
	if (stat(rootfs, &st) < 0)
		return err_errno(err, "stat %s", rootfs);
	m->image.size = (uint64_t)st.st_size;
	n = getxattr(rootfs, "user.smfs.digest", m->image.digest, sizeof(m->image.digest) - 1);
	if (n == 0)
		errno = ENODATA;
	if (n <= 0)
		return err_errno(err, "read digest (user.smfs.digest) of %s", rootfs);
	m->image.digest[n] = 0;
	m->has_image = true;
	return 0;
}

static int check_name(struct smfs_store *store, const char *name, struct err *err)
{
	struct smfs_name taken;
	int ret = smfs_name_check(SMFS_SNAPSHOT, name, err);

	if (ret < 0)
		return ret;
	ret = smfs_name_get(store, SMFS_SNAPSHOT, name, &taken, err);
	if (ret == 0)
		return err_set(err, EEXIST, "snapshot %s exists; remove it or choose another name",
			       name);
	if (ret != -ENOENT)
		return ret;
	err_clear(err);
	return 0;
}

static int check_disks(const struct machine *m, struct err *err)
{
	for (unsigned i = 0; i < m->ndisks; i++)
		if (!m->disk[i].readonly)
			return err_set(err, ENOTSUP,
				       "disk %s (%s) is writable: its content is no part of a "
				       "snapshot, and restored machines could not share it",
				       m->disk[i].id, m->disk[i].path);
	return 0;
}

/* ---- the machine, paused ------------------------------------------------------------------ */

static int capture_vcpus(const struct vm *vm, struct snapshot_meta *meta, struct writer *w,
			 struct err *err)
{
	cleanup_free struct vcpu_state *s = malloc(sizeof(*s));
	cleanup_free struct state_plan *plan = malloc(sizeof(*plan));
	int ret;

	if (!s || !plan)
		return err_set(err, ENOMEM, "capture vCPU state: out of memory");
	ret = state_plan_new(vm->kvm_fd, vm->fd, vm->irqchip, plan, err);
	for (unsigned i = 0; ret == 0 && i < vm->nvcpus; i++) {
		ret = vcpu_state_get(vm->vcpu[i]->fd, i, plan, s, err);
		if (ret < 0)
			break;
		state_file_put_vcpu(w, i, s);
		if (i == 0) {
			const uint64_t microcode = meta->cpu.microcode;

			/* struct vcpu_cpuid is kvm_cpuid2 with room. */
			hostcpu_get(&meta->cpu, (const struct kvm_cpuid2 *)&s->cpuid);
			meta->cpu.microcode = microcode;
			meta->tsc_khz = s->tsc_khz;
		}
	}
	return ret;
}

static int capture_vm(const struct vm *vm, struct writer *w, struct err *err)
{
	cleanup_free struct vm_irq_state *s = malloc(sizeof(*s));
	int ret;

	if (!s)
		return err_set(err, ENOMEM, "capture VM state: out of memory");
	ret = vm_irq_state_get(vm->fd, vm->irqchip, s, err);
	if (ret == 0)
		state_file_put_vm(w, s);
	return ret;
}

static int capture_devices(const struct machine *m, struct snapshot_meta *meta, struct writer *w,
			   struct err *err)
{
	for (struct device *d = m->vm->devices; d; d = d->next) {
		struct meta_device *md;
		size_t at;

		if (meta->ndevices == META_DEVICES_MAX)
			return err_set(err, E2BIG, "more than %d devices", META_DEVICES_MAX);
		md = &meta->device[meta->ndevices++];
		if (!copy_text(md->id, sizeof(md->id), d->id) ||
		    !copy_text(md->type, sizeof(md->type), d->ops->type))
			return err_set(err, ENAMETOOLONG, "device %s: name too long", d->id);
		md->version = d->ops->version;
		md->base = d->base;
		md->size = d->size;
		md->gsi = d->gsi;
		for (unsigned i = 0; i < m->ndisks; i++)
			if (strcmp(m->disk[i].id, d->id) == 0) {
				/* Both are of MACHINE_PATH_MAX. */
				copy_text(md->source, sizeof(md->source), m->disk[i].path);
				md->readonly = m->disk[i].readonly;
			}
		at = section_open(w, SECTION_DEVICE, d->ops->version, 0, d->id);
		if (d->ops->save)
			d->ops->save(d, w);
		section_close(w, at);
	}
	return 0;
}

static void describe_memory(const struct memory *mem, struct snapshot_meta *meta)
{
	meta->ram_bytes = memory_ram_bytes(mem);
	for (unsigned i = 0; i < mem->n; i++) {
		const struct memory_region *r = &mem->region[i];

		if (r->kind == MEMORY_RAM)
			meta->region[meta->nregions++] = (struct meta_region){
				.gpa = r->gpa, .size = r->size, .offset = r->file_off};
	}
}

static int capture(const struct machine *m, struct snapshot_meta *meta, struct writer *w,
		   struct err *err)
{
	struct vm *vm = m->vm;
	struct timespec wall;
	int ret;

	clock_gettime(CLOCK_REALTIME, &wall);
	meta->wall_clock_ns = (int64_t)wall.tv_sec * 1000000000 + wall.tv_nsec;
	meta->vcpus = vm->nvcpus;
	describe_memory(&vm->mem, meta);
	sections_begin(w);
	pthread_mutex_lock(&vm->dev_lock);
	ret = capture_vcpus(vm, meta, w, err);
	if (ret == 0)
		ret = capture_vm(vm, w, err);
	if (ret == 0)
		ret = capture_devices(m, meta, w, err);
	pthread_mutex_unlock(&vm->dev_lock);
	if (ret < 0)
		return ret;
	sections_end(w);
	if (w->failed)
		return err_set(err, ENOMEM, "capture state: out of memory, or state too large");
	meta->vcpu_bytes = w->len;
	meta->vcpu_xxh3 = XXH3_64bits(w->p, w->len);
	return 0;
}

/* ---- the store ---------------------------------------------------------------------------- */

static int write_ram(const struct machine *m, struct snapshot_meta *meta, struct smfs_ingest *ing,
		     struct smfs_content *out, struct save_stats *stats, struct err *err)
{
	struct ram_blocks blocks;
	struct smfs_stream *st;
	int ret = ram_blocks_find(&m->vm->mem, m->ram_fd, &blocks, err);

	if (ret < 0)
		return ret;
	stats->ram_bytes = blocks.ram_bytes;
	stats->data_bytes = blocks.data_bytes;
	for (unsigned i = 0; i < meta->nregions; i++)
		meta->region[i].used =
			ram_blocks_used(&blocks, meta->region[i].offset, meta->region[i].size);
	ret = smfs_stream_open(ing, SMFS_STREAM_STABLE, &st, err);
	if (ret == 0) {
		ret = ram_blocks_write(&m->vm->mem, &blocks, st, err);
		if (ret == 0)
			ret = smfs_stream_finish(st, out, err);
		else
			smfs_stream_abort(st);
	}
	ram_blocks_free(&blocks);
	return ret;
}

static int write_rest(const char *name, const struct snapshot_meta *meta, const struct writer *vcpu,
		      const struct smfs_content *ram, struct smfs_ingest *ing, struct err *err)
{
	enum { META, RAM, VCPU, N };
	struct smfs_entry e[N] = {
		[META] = {.name = "meta"}, [RAM] = {.name = "ram"}, [VCPU] = {.name = "vcpu"}};
	cleanup_free char *text = NULL;
	struct smfs_id dir;
	size_t len;
	int ret = meta_encode(meta, &text, &len, err);

	if (ret < 0)
		return ret;
	for (int i = 0; i < N; i++) {
		e[i].mode = S_IFREG | 0400;
		e[i].nlink = 1;
		e[i].mtime_sec = meta->wall_clock_ns / 1000000000;
		e[i].mtime_nsec = (uint32_t)(meta->wall_clock_ns % 1000000000);
	}
	e[RAM].content = *ram;
	if ((ret = smfs_ingest_mem(ing, text, len, &e[META].content, err)) < 0 ||
	    (ret = smfs_ingest_mem(ing, vcpu->p, vcpu->len, &e[VCPU].content, err)) < 0 ||
	    (ret = smfs_ingest_dir(ing, e, N, &dir, err)) < 0)
		return ret;
	return smfs_ingest_name(ing, SMFS_SNAPSHOT, name, &dir, NULL, 0, err);
}

/* ---- all together ------------------------------------------------------------------------- */

/* From the pause on. Resumes what it paused, also after a failure. */
static int save_paused(const struct machine *m, const char *name, struct snapshot_meta *meta,
		       struct smfs_ingest *ing, struct save_stats *stats, struct err *err)
{
	cleanup_writer struct writer vcpu = WRITER_INIT;
	const bool pause = !m->vm->paused;
	const uint64_t start = now_us();
	struct smfs_content ram;
	struct err resume_err = ERR_INIT;
	int ret;

	if (pause && (ret = vm_pause(m->vm, err)) < 0)
		return ret;
	ret = capture(m, meta, &vcpu, err);
	stats->capture_us = now_us() - start;
	if (ret == 0)
		ret = write_ram(m, meta, ing, &ram, stats, err);
	if (pause && vm_resume(m->vm, &resume_err) < 0) {
		/* The machine is lost; what was captured of it is not worth less for that. */
		if (ret == 0)
			ret = err_set(err, resume_err.code, "resume after capture: %s",
				      resume_err.msg);
	}
	stats->pause_us = now_us() - start;
	if (ret == 0)
		ret = write_rest(name, meta, &vcpu, &ram, ing, err);
	return ret;
}

static int save_to(struct smfs_store *store, const struct machine *m, const struct save_info *info,
		   struct save_stats *stats, struct err *err)
{
	cleanup_free struct snapshot_meta *meta = calloc(1, sizeof(*meta));
	struct smfs_ingest *ing;
	struct smfs_ingest_stat is;
	uint64_t start;
	int ret;

	if (!meta)
		return err_set(err, ENOMEM, "out of memory");
	if ((ret = check_name(store, info->name, err)) < 0 || (ret = check_disks(m, err)) < 0 ||
	    (ret = describe_image(info, meta, err)) < 0)
		return ret;
	describe_kernel(info->kernel_path, meta);
	meta->cpu.microcode = hostcpu_microcode();
	meta->generation = info->generation;
	memcpy(meta->uuid, info->uuid, sizeof(meta->uuid));

	if ((ret = smfs_ingest_begin(store, &ing, err)) < 0)
		return ret;
	start = now_us();
	ret = save_paused(m, info->name, meta, ing, stats, err);
	if (ret < 0) {
		smfs_ingest_abort(ing);
		return ret;
	}
	smfs_ingest_stat(ing, &is);
	stats->new_bytes = is.new_bytes;
	stats->stored_bytes = is.stored_bytes;
	ret = smfs_ingest_commit(ing, err);
	stats->save_us = now_us() - start - stats->capture_us;
	return ret;
}

int snapshot_save(const struct machine *m, const struct save_info *info, struct save_stats *out,
		  struct err *err)
{
	struct smfs_store *store;
	int ret;

	memset(out, 0, sizeof(*out));
	ret = smfs_store_open(info->store, 0, &store, err);
	if (ret == 0) {
		ret = save_to(store, m, info, out, err);
		smfs_store_close(store);
	}
	return ret < 0 ? err_wrap(err, ret, "snapshot %s", info->name) : 0;
}
