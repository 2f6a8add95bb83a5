/* save_disks.c - the content of writable disks into the store. */
#include <stdlib.h>

#include "runner/snapshot/save_steps.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"

#define BUFFER MIB

/* `same`: what is the origin's is not read. */
static int write_view(const struct disk_view *v, bool same, struct smfs_stream *st,
		      uint64_t *data_bytes, struct err *err)
{
	cleanup_free uint8_t *buf = malloc(BUFFER);
	const uint64_t end = disk_view_bytes(v);
	int ret = buf ? 0 : err_set(err, ENOMEM, "out of memory");

	for (uint64_t off = 0, len; ret == 0 && off < end; off += len) {
		struct disk_run run;

		if ((ret = disk_view_run(v, off, &run, err)) < 0)
			break;
		len = run.len;
		if (same && !run.own) {
			ret = smfs_stream_same(st, len, err);
		} else if (!run.data) {
			ret = smfs_stream_hole(st, len, err);
		} else {
			len = MIN(len, BUFFER);
			ret = disk_view_read(v, buf, len, off);
			if (ret < 0)
				return err_set(err, -ret, "read %llu bytes at %llu: %s",
					       (unsigned long long)len, (unsigned long long)off,
					       strerror(-ret));
			*data_bytes += len;
			ret = smfs_stream_write(st, buf, len, err);
		}
	}
	return ret;
}

static int write_disk(const struct disk_view *v, const struct save_info *info,
		      struct smfs_ingest *ing, struct smfs_content *out, struct save_stats *stats,
		      struct err *err)
{
	struct smfs_content base;
	struct smfs_stream *st;
	struct err why = ERR_INIT;
	bool same = info->kind != SAVE_FULL &&
		    save_origin(disk_view_origin(v), info->mount, disk_view_bytes(v), &base);
	int ret;

	/* Whole blocks are written for a changed byte, so what is written need not differ. */
	if (same && smfs_stream_open_diff(ing, &base, 0, &st, &why) < 0) {
		log_info("no diff of a disk, all of it is written: %s", why.msg);
		same = false;
	}
	if (!same && (ret = smfs_stream_open(ing, 0, &st, err)) < 0)
		return ret;
	stats->disk_bytes += disk_view_bytes(v);
	ret = write_view(v, same, st, &stats->disk_data_bytes, err);
	if (ret == 0)
		return smfs_stream_finish(st, out, err);
	smfs_stream_abort(st);
	return ret;
}

int save_write_disks(const struct machine *m, const struct machine_disks *disks,
		     const struct save_info *info, struct smfs_ingest *ing,
		     struct smfs_content out[MACHINE_MAX_DISKS], struct save_stats *stats,
		     struct err *err)
{
	for (unsigned i = 0; i < m->ndisks; i++) {
		int ret = disks->view[i]
				  ? write_disk(disks->view[i], info, ing, &out[i], stats, err)
				  : 0;

		if (ret < 0)
			return err_wrap(err, ret, "disk %s", m->disk[i].id);
	}
	return 0;
}
