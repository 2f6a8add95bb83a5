/*
 * lineage.c - which parts of a snapshot's RAM are its own, told through the mount.
 *
 *   user.smfs.own.SNAPSHOT   of a stored file: the ranges that are not, at the same offset, those
 * of `ram` of the snapshot named. Lines of "OFFSET LENGTH" in decimal, ascending; empty: all is the
 * other's. At most LINES, close ones joined.
 *
 * A reader of a diff's `ram` may map the named snapshot's everywhere else, and then shares
 * its pages in memory. The two are compared when asked, by what they refer to, so nothing depends
 * on a record of who came from whom: any snapshot can be named, and what is told is true.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "smfs/base/cleanup.h"
#include "smfs/mount/fs.h"

#define LINES	   1500 /* of at most 42 bytes: the kernel passes 64 KiB */
#define LINE_BYTES 43

static int find_ram(struct smfs_mount *m, const char *snapshot, struct smfs_content *out,
		    struct err *err)
{
	struct smfs_name n;
	struct smfs_dir *d;
	int r = smfs_name_check(SMFS_SNAPSHOT, snapshot, err) < 0
			? -ENODATA
			: smfs_name_get(m->store, SMFS_SNAPSHOT, snapshot, &n, err);

	if (r == 0)
		r = smfs_dir_open(m->store, &n.root, &d, err);
	if (r != 0)
		return r == -ENOENT ? -ENODATA : r;
	const struct smfs_entry *e = smfs_dir_find(d, "ram");
	if (e && S_ISREG(e->mode))
		*out = e->content;
	else
		r = -ENODATA;
	smfs_dir_close(d);
	return r;
}

int lineage_get(struct smfs_mount *m, struct inode *i, const char *snapshot, char **out,
		size_t *len, struct err *err)
{
	cleanup_free struct smfs_range *v = calloc(LINES, sizeof(*v));
	cleanup_free char *text = malloc(LINES * LINE_BYTES);
	struct smfs_content parent;

	*len = 0;
	if (!v || !text)
		return err_set(err, ENOMEM, "lineage: out of memory");
	int r = find_ram(m, snapshot, &parent, err);
	if (r < 0)
		return r;
	ssize_t n = smfs_content_own(m->store, &parent, &i->content, v, LINES, err);
	for (ssize_t k = 0; k < n; k++)
		*len += (size_t)snprintf(text + *len, LINE_BYTES, "%" PRIu64 " %" PRIu64 "\n",
					 v[k].off, v[k].len);
	*out = steal_ptr(&text);
	return n < 0 ? (int)n : 0;
}
