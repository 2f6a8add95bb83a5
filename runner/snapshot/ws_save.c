#include "runner/snapshot/ws_save.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "runner/snapshot/meta.h"
#include "runner/snapshot/ws.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/num.h"
#include "smfs/store/store.h"

#define FILES_MAX 8

/* A content has one inode, so the same inode is the same content. */
static int check_origin(const struct machine *m, const char *mount, const char *from,
			struct err *err)
{
	char path[PATH_MAX];
	struct stat named, mapped;

	if (m->ram_fd < 0)
		return err_set(
			err, ENOTSUP,
			"the machine was not restored from a snapshot: all it has touched is "
			"its own");
	if (!from[0])
		return err_set(
			err, ENOTSUP,
			"the machine was restored from a directory outside of the store; copy "
			"that to %s/snapshots and restore it from there",
			mount);
	if (snprintf(path, sizeof(path), "%s/snapshots/%s/ram", mount, from) >= (int)sizeof(path))
		return err_set(err, ENAMETOOLONG, "%s: path too long", mount);
	if (stat(path, &named) < 0 || fstat(m->ram_fd, &mapped) < 0)
		return err_errno(err, "stat %s, the snapshot the machine was restored from", path);
	if (named.st_dev != mapped.st_dev || named.st_ino != mapped.st_ino)
		return err_set(err, ESTALE,
			       "snapshot %s is another one than the machine was restored from",
			       from);
	return 0;
}

/* The old snapshot's meta, saying that there is a working set. */
static int put_meta(struct smfs_store *s, struct smfs_ingest *ing, struct smfs_entry *e,
		    struct err *err)
{
	cleanup_free struct snapshot_meta *meta = calloc(1, sizeof(*meta));
	cleanup_free char *text = malloc(META_FILE_MAX), *fresh = NULL;
	struct smfs_file *f;
	ssize_t n;
	size_t len;
	int ret;

	if (!meta || !text)
		return err_set(err, ENOMEM, "meta: out of memory");
	if (e->content.size > META_FILE_MAX)
		return err_set(err, EBADMSG, "meta: too large");
	if ((ret = smfs_file_open(s, &e->content, &f, err)) < 0)
		return ret;
	n = smfs_file_pread(f, text, e->content.size, 0, err);
	smfs_file_close(f);
	if (n < 0)
		return (int)n;
	if ((ret = meta_decode(text, (size_t)n, meta, err)) < 0)
		return ret;
	meta->has_ws = true;
	ret = meta_encode(meta, &fresh, &len, err);
	return ret < 0 ? ret : smfs_ingest_mem(ing, fresh, len, &e->content, err);
}

static int stage(struct smfs_store *s, struct smfs_ingest *ing, const char *from, const char *name,
		 const struct writer *ws, struct err *err)
{
	struct smfs_entry e[FILES_MAX + 1],
		wse = {.name = "ws", .mode = S_IFREG | 0400, .nlink = 1};
	struct smfs_name old, taken;
	struct smfs_id root;
	struct smfs_dir *d;
	size_t n = 0;
	int ret = smfs_name_get(s, SMFS_SNAPSHOT, name, &taken, err);

	if (ret == 0)
		return err_set(err, EEXIST, "snapshot %s exists; remove it or choose another name",
			       name);
	if (ret != -ENOENT)
		return ret;
	err_clear(err);
	if ((ret = smfs_name_get(s, SMFS_SNAPSHOT, from, &old, err)) < 0 ||
	    (ret = smfs_ingest_mem(ing, ws->p, ws->len, &wse.content, err)) < 0 ||
	    (ret = smfs_dir_open(s, &old.root, &d, err)) < 0)
		return ret;
	if (smfs_dir_count(d) > FILES_MAX)
		ret = err_set(err, EBADMSG, "snapshot %s: more than %d files", from, FILES_MAX);
	wse.mtime_sec = time(NULL);
	for (size_t i = 0; ret == 0 && i < smfs_dir_count(d); i++) {
		if (strcmp(smfs_dir_at(d, i)->name, wse.name) == 0)
			continue;
		e[n] = *smfs_dir_at(d, i);
		if (strcmp(e[n].name, "meta") == 0)
			ret = put_meta(s, ing, &e[n], err);
		n++;
	}
	e[n++] = wse;
	if (ret == 0)
		ret = smfs_ingest_dir(ing, e, n, &root, err);
	smfs_dir_close(d);
	return ret < 0 ? ret : smfs_ingest_name(ing, SMFS_SNAPSHOT, name, &root, NULL, 0, err);
}

static int save(struct smfs_store *s, const char *from, const char *name, const struct writer *ws,
		struct err *err)
{
	struct smfs_ingest *ing;
	int ret = smfs_ingest_begin(s, &ing, err);

	if (ret < 0)
		return ret;
	ret = stage(s, ing, from, name, ws, err);
	if (ret == 0)
		return smfs_ingest_commit(ing, err);
	smfs_ingest_abort(ing);
	return ret;
}

int ws_save(const struct machine *m, const char *store, const char *mount, const char *from,
	    const char *name, struct ws_save_stats *out, struct err *err)
{
	cleanup_writer struct writer w = WRITER_INIT;
	const uint64_t start = monotonic_us();
	struct smfs_store *s;
	struct ws ws;
	int ret;

	*out = (struct ws_save_stats){0};
	if ((ret = smfs_name_check(SMFS_SNAPSHOT, name, err)) < 0 ||
	    (ret = check_origin(m, mount, from, err)) < 0 ||
	    (ret = ws_record(&m->vm->mem, &ws, err)) < 0)
		return ret;
	ws_encode(&ws, &w);
	ws_count(&ws, &out->read_pages, &out->written_pages);
	out->ranges = ws.n;
	ws_free(&ws);
	if (w.failed)
		return err_set(err, ENOMEM, "ws: out of memory");
	if ((ret = smfs_store_open(store, 0, &s, err)) < 0)
		return ret;
	ret = save(s, from, name, &w, err);
	smfs_store_close(s);
	out->us = monotonic_us() - start;
	return ret;
}
