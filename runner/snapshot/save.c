/* save.c - pause, capture, write, publish; and the steps of it that a live snapshot shares. */
#include "runner/snapshot/save.h"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "runner/snapshot/capture.h"
#include "runner/snapshot/save_steps.h"
#include "runner/snapshot/ws.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/hex.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"
#include "smfs/base/sha256.h"
#include "smfs/store/store.h"

/* A kernel image above this is not hashed: it would hold the caller up for no use. */
#define KERNEL_HASH_MAX (256u << 20)

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
		meta_text(m->kernel.path, sizeof(m->kernel.path), path);
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
	if (!meta_text(m->image.rootfs, sizeof(m->image.rootfs), rootfs + len + 1) ||
	    !meta_text(m->image.ref, sizeof(m->image.ref), info->image_ref ? info->image_ref : ""))
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

int save_begin(struct smfs_store *store, const struct machine *m, const struct save_info *info,
	       struct snapshot_meta *meta, int *record, struct err *err)
{
	int ret;

	*record = -1;
	if ((ret = capture_check(m, err)) < 0 || (ret = describe_image(info, meta, err)) < 0 ||
	    (ret = save_base_check(store, m, info, err)) < 0)
		return ret;
	describe_kernel(info->kernel_path, meta);
	meta->cpu.microcode = hostcpu_microcode();
	meta->generation = info->generation;
	memcpy(meta->uuid, info->uuid, sizeof(meta->uuid));
	return smfs_pending_begin(store, info->name, info->by, record, err);
}

int save_end(struct smfs_store *store, const struct save_info *info, int record, int ret,
	     const struct err *err)
{
	struct err why = ERR_INIT;

	if (ret == 0)
		smfs_pending_done(store, info->name);
	else if (smfs_pending_fail(record, err->msg, &why) < 0)
		/* The record says "writing" and is let go: that is a failure, too. */
		log_warn("%s", why.msg);
	close(record);
	return ret;
}

/* ---- the store ---------------------------------------------------------------------------- */

/*
 * What a restored machine has touched since, as far as its page tables still tell: the guest may
 * run meanwhile, which makes it neither less true nor less useful. 1: there is one; 0: there is
 * none.
 */
static int write_ws(const struct machine *m, struct smfs_ingest *ing, struct smfs_content *out,
		    struct err *err)
{
	cleanup_writer struct writer w = WRITER_INIT;
	struct ws ws = {0};
	int ret;

	if (m->ram_fd < 0)
		return 0;
	ret = ws_record(&m->vm->mem, &ws, err);
	if (ret == 0) {
		ws_encode(&ws, &w);
		ret = w.failed ? err_set(err, ENOMEM, "ws: out of memory")
			       : smfs_ingest_mem(ing, w.p, w.len, out, err);
	}
	ws_free(&ws);
	return ret < 0 ? ret : 1;
}

int save_write_rest(const struct machine *m, const struct save_info *info,
		    struct snapshot_meta *meta, const struct save_parts *parts,
		    struct smfs_ingest *ing, struct save_stats *stats, struct err *err)
{
	enum { META, RAM, VCPU, WS };
	struct smfs_content disk[MACHINE_MAX_DISKS];
	struct smfs_entry e[WS + 1 + MACHINE_MAX_DISKS] = {[META] = {.name = "meta"},
							   [RAM] = {.name = "ram"},
							   [VCPU] = {.name = "vcpu"},
							   [WS] = {.name = "ws"}};
	cleanup_free char *text = NULL;
	struct smfs_id dir;
	size_t len, n = WS;
	int ret = write_ws(m, ing, &e[WS].content, err);

	if (ret < 0)
		return ret;
	meta->has_ws = ret;
	n += meta->has_ws;
	if ((ret = save_write_disks(m, parts->disks, info, ing, disk, stats, err)) < 0)
		return ret;
	for (unsigned i = 0; i < m->ndisks; i++)
		if (parts->disks->view[i])
			e[n++] = (struct smfs_entry){.name = m->disk[i].id, .content = disk[i]};
	if ((ret = meta_encode(meta, &text, &len, err)) < 0)
		return ret;
	for (size_t i = 0; i < n; i++) {
		e[i].mode = S_IFREG | 0400;
		e[i].nlink = 1;
		e[i].mtime_sec = meta->wall_clock_ns / 1000000000;
		e[i].mtime_nsec = (uint32_t)(meta->wall_clock_ns % 1000000000);
	}
	e[RAM].content = parts->ram;
	if ((ret = smfs_ingest_mem(ing, text, len, &e[META].content, err)) < 0 ||
	    (ret = smfs_ingest_mem(ing, parts->vcpu->p, parts->vcpu->len, &e[VCPU].content, err)) <
		    0 ||
	    (ret = smfs_ingest_dir(ing, e, n, &dir, err)) < 0)
		return ret;
	return smfs_ingest_name(ing, SMFS_SNAPSHOT, info->name, &dir, NULL, 0, err);
}

/* ---- all together ------------------------------------------------------------------------- */

/* From the pause on. Resumes what it paused, also after a failure. */
static int save_paused(struct smfs_store *store, const struct machine *m,
		       const struct save_info *info, struct snapshot_meta *meta,
		       struct smfs_ingest *ing, struct save_stats *stats, struct err *err)
{
	cleanup_writer struct writer vcpu = WRITER_INIT;
	const bool pause = !m->vm->paused;
	const uint64_t start = monotonic_us();
	struct machine_disks disks = {0};
	struct save_parts parts = {.vcpu = &vcpu, .disks = &disks};
	int ret;

	if (pause && (ret = vm_pause(m->vm, err)) < 0)
		return ret;
	ret = capture_machine(m, meta, &vcpu, err);
	if (ret == 0)
		ret = machine_freeze_disks(m, &disks, err);
	stats->capture_us = monotonic_us() - start;
	if (ret == 0)
		ret = save_write_ram(store, m, info, meta, ing, &parts.ram, stats, err);
	if (pause)
		ret = save_resume(m, ret, err);
	stats->pause_us = monotonic_us() - start;
	if (ret == 0)
		ret = save_write_rest(m, info, meta, &parts, ing, stats, err);
	machine_disks_put(&disks);
	return ret;
}

int save_resume(const struct machine *m, int ret, struct err *err)
{
	struct err e = ERR_INIT;

	/* The machine is lost; what was captured of it is not worth less for that. */
	if (vm_resume(m->vm, &e) < 0 && ret == 0)
		ret = err_set(err, e.code, "resume after capture: %s", e.msg);
	return ret;
}

static int save_recorded(struct smfs_store *store, const struct machine *m,
			 const struct save_info *info, struct snapshot_meta *meta,
			 struct save_stats *stats, struct err *err)
{
	const uint64_t start = monotonic_us();
	struct smfs_ingest *ing;
	int ret = smfs_ingest_begin(store, &ing, err);

	if (ret < 0)
		return ret;
	ret = save_paused(store, m, info, meta, ing, stats, err);
	if (ret < 0) {
		smfs_ingest_abort(ing);
		return ret;
	}
	ret = save_commit(ing, stats, err);
	stats->save_us = monotonic_us() - start - stats->capture_us;
	return ret;
}

static int save_to(struct smfs_store *store, const struct machine *m, const struct save_info *info,
		   struct save_stats *stats, struct err *err)
{
	cleanup_free struct snapshot_meta *meta = calloc(1, sizeof(*meta));
	int ret, record;

	if (!meta)
		return err_set(err, ENOMEM, "out of memory");
	ret = save_begin(store, m, info, meta, &record, err);
	if (ret < 0)
		return ret;
	stats->recorded = true;
	ret = save_recorded(store, m, info, meta, stats, err);
	return save_end(store, info, record, ret, err);
}

int save_commit(struct smfs_ingest *ing, struct save_stats *stats, struct err *err)
{
	struct smfs_ingest_stat is;

	smfs_ingest_stat(ing, &is);
	stats->new_bytes = is.new_bytes;
	stats->stored_bytes = is.stored_bytes;
	return smfs_ingest_commit(ing, err);
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
