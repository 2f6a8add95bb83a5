/* save_ram.c - a snapshot's RAM into the store: all of it, or what differs from a base. */
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "runner/snapshot/ram_file.h"
#include "runner/snapshot/save_steps.h"
#include "smfs/base/hex.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"

/* ---- bases ---------------------------------------------------------------------------------- */

/* A file from elsewhere may carry the attribute, too (cp -a keeps it), whatever has become of its
 * bytes. */
bool save_origin(int fd, const char *mount, uint64_t size, struct smfs_content *out)
{
	uint8_t bytes[SMFS_CONTENT_LEN];
	char text[2 * SMFS_CONTENT_LEN];
	struct stat file, top;

	return fd >= 0 && fstat(fd, &file) == 0 && stat(mount, &top) == 0 &&
	       file.st_dev == top.st_dev &&
	       fgetxattr(fd, "user.smfs.content", text, sizeof(text)) == sizeof(text) &&
	       hex_decode(text, sizeof(text), bytes, sizeof(bytes)) &&
	       smfs_content_decode(bytes, sizeof(bytes), out, NULL) == 0 && out->size == size;
}

/* What the RAM was restored from. */
static bool origin_content(const struct machine *m, const char *mount, struct smfs_content *out)
{
	return save_origin(m->ram_fd, mount, memory_ram_bytes(&m->vm->mem), out);
}

static int named_content(struct smfs_store *store, const struct machine *m, const char *name,
			 struct smfs_content *out, struct err *err)
{
	const uint64_t size = memory_ram_bytes(&m->vm->mem);
	const struct smfs_entry *ram;
	struct smfs_name n;
	struct smfs_dir *d;
	int ret;

	if ((ret = smfs_name_get(store, SMFS_SNAPSHOT, name, &n, err)) < 0 ||
	    (ret = smfs_dir_open(store, &n.root, &d, err)) < 0)
		return err_wrap(err, ret, "base of the diff");
	ram = smfs_dir_find(d, "ram");
	if (!ram || !S_ISREG(ram->mode))
		ret = err_set(err, EINVAL, "base %s: not a snapshot of a machine", name);
	else if (ram->content.size != size)
		ret = err_set(err, EINVAL, "base %s: its machine has %llu MiB of RAM, not %llu",
			      name, (unsigned long long)(ram->content.size / MIB),
			      (unsigned long long)(size / MIB));
	else
		*out = ram->content;
	smfs_dir_close(d);
	return ret;
}

/* Field by field: a struct has padding. */
static bool same_content(const struct smfs_content *a, const struct smfs_content *b)
{
	return a->size == b->size && a->kind == b->kind && a->depth == b->depth &&
	       memcmp(&a->id, &b->id, sizeof(a->id)) == 0;
}

int save_base_check(struct smfs_store *store, const struct machine *m, const struct save_info *info,
		    struct err *err)
{
	struct smfs_content c;

	if (info->base)
		return named_content(store, m, info->base, &c, err);
	if (info->kind == SAVE_DIFF && !origin_content(m, info->mount, &c))
		return err_set(err, ENOENT,
			       "a diff of what: no earlier snapshot of this VM is in the store; "
			       "name another with --base, or leave --diff out");
	return 0;
}

/* ---- writing -------------------------------------------------------------------------------- */

static int end_stream(struct smfs_stream *st, int ret, struct smfs_content *out, struct err *err)
{
	if (ret == 0)
		return smfs_stream_finish(st, out, err);
	smfs_stream_abort(st);
	return ret;
}

/* Only what the guest has written since it was restored from `base`. */
static int write_own(const struct machine *m, struct snapshot_meta *meta, struct smfs_stream *st,
		     struct smfs_content *out, struct save_stats *stats, struct err *err)
{
	uint64_t used[MEMORY_MAX_REGIONS];
	int ret;

	memcpy(used, m->ram_used, sizeof(used));
	ret = ram_diff_write(&m->vm->mem, st, &stats->data_bytes, used, err);
	stats->ram_bytes = memory_ram_bytes(&m->vm->mem);
	for (unsigned i = 0; i < meta->nregions; i++)
		meta->region[i].used = used[i];
	return end_stream(st, ret, out, err);
}

/* All that can be anything but zeros. A stream with a base finds by comparing what differs. */
static int write_all(const struct machine *m, struct snapshot_meta *meta, struct smfs_stream *st,
		     struct smfs_content *out, struct save_stats *stats, struct err *err)
{
	struct ram_blocks blocks;
	int ret = ram_blocks_find(&m->vm->mem, m->ram_fd, &blocks, err);

	if (ret < 0) {
		smfs_stream_abort(st);
		return ret;
	}
	stats->ram_bytes = blocks.ram_bytes;
	stats->data_bytes = blocks.data_bytes;
	for (unsigned i = 0; i < meta->nregions; i++)
		meta->region[i].used =
			ram_blocks_used(&blocks, meta->region[i].offset, meta->region[i].size);
	ret = end_stream(st, ram_blocks_write(&m->vm->mem, &blocks, st, err), out, err);
	ram_blocks_free(&blocks);
	return ret;
}

int save_write_ram(struct smfs_store *store, const struct machine *m, const struct save_info *info,
		   struct snapshot_meta *meta, struct smfs_ingest *ing, struct smfs_content *out,
		   struct save_stats *stats, struct err *err)
{
	struct smfs_content base, origin;
	struct smfs_stream *st;
	struct err why = ERR_INIT;
	/* The mount holds the origin as long as its `ram` is open, whatever becomes of its name. */
	bool own = info->kind != SAVE_FULL && origin_content(m, info->mount, &origin);
	int ret;

	if (info->base) {
		/* Anew: the ingest keeps what is there now. */
		if ((ret = named_content(store, m, info->base, &base, err)) < 0)
			return ret;
		own = own && same_content(&base, &origin);
	} else if (own) {
		base = origin;
	}
	if (info->base || own) {
		/* Copies made in advance and never written to are found to be the base's. */
		const bool changed = own && !m->ram_copied;

		ret = smfs_stream_open_diff(
			ing, &base, SMFS_STREAM_STABLE | (changed ? SMFS_STREAM_CHANGED : 0u), &st,
			&why);
		stats->diff = ret == 0;
		if (ret == 0)
			return own ? write_own(m, meta, st, out, stats, err)
				   : write_all(m, meta, st, out, stats, err);
		if (info->kind == SAVE_DIFF)
			return err_set(err, why.code, "diff: %s", why.msg);
		/* Of another store, most likely. A failure of this one will show again. */
		log_info("no diff, all of RAM is written: %s", why.msg);
	}
	ret = smfs_stream_open(ing, SMFS_STREAM_STABLE, &st, err);
	return ret < 0 ? ret : write_all(m, meta, st, out, stats, err);
}
