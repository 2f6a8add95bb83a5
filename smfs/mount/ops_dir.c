/*
 * ops_dir.c - requests on open directories. See ops.h.
 */
#include <string.h>

#include "smfs/base/num.h"
#include "smfs/mount/ops.h"

void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct smfs_mount *m = mount_of(req);
	struct inode *i = inode_of(req, ino);

	if (!i)
		return;
	if (!i->ops->list) {
		fuse_reply_err(req, ENOTDIR);
		return;
	}
	struct handle *h = ops_handle_new(m, i, fi->flags);
	if (!h) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	stats_add(&m->stats, COUNT_OPENS, 1);
	fi->fh = h->fh;
	fi->cache_readdir = fi->keep_cache = i->keep_cache;
	if (fuse_reply_open(req, fi) < 0)
		ops_handle_free(m, h);
}

void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct handle *h = ops_find_handle(mount_of(req), fi->fh);

	if (h)
		ops_handle_free(mount_of(req), h);
	fuse_reply_err(req, 0);
}

/* One entry into `buf`: bytes used, 0 if it is full, -ENOENT if the name has gone meanwhile. */
static ssize_t add_entry(fuse_req_t req, struct inode *dir, const char *name, mode_t mode,
			 bool plus, char *buf, size_t room, off_t next, struct err *err)
{
	struct smfs_mount *m = mount_of(req);
	struct fuse_entry_param e = {.attr.st_mode = mode};
	struct inode *i;
	size_t need;
	bool dot = strcmp(name, ".") == 0 || strcmp(name, "..") == 0;

	if (dot) {
		const struct node *up = name[1] && dir->node.parent ? dir->node.parent : &dir->node;

		e.attr.st_ino = up->ino;
	} else {
		int r = dir->ops->lookup(m, dir, name, &i, err);

		if (r < 0)
			return r;
		if (plus) {
			r = ops_enter(m, i, &i, &e, err);
			if (r < 0)
				return r;
		} else {
			e.attr.st_ino = node_ino(&m->nodes, &i->node.key);
			inode_destroy(&i->node);
		}
	}
	if (plus)
		need = fuse_add_direntry_plus(req, buf, room, name, &e, next);
	else
		need = fuse_add_direntry(req, buf, room, name, &e.attr, next);
	if (need <= room)
		return (ssize_t)need;
	if (e.ino)
		node_forget(&m->nodes, e.ino, 1);
	return 0;
}

static void read_directory(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, bool plus,
			   struct fuse_file_info *fi)
{
	struct smfs_mount *m = mount_of(req);
	struct handle *h = handle_of(req, fi);
	struct err err = ERR_INIT;
	size_t used = 0, pos = (size_t)off;
	char *buf = ops_buffer(m);
	int r = 0;

	if (!h)
		return;
	struct inode *dir = h->inode;
	if (!buf || off < 0) {
		fuse_reply_err(req, buf ? EINVAL : ENOMEM);
		return;
	}
	size = MIN(size, FS_IO_MAX);
	pthread_mutex_lock(&h->lock);
	if (pos == 0 || !h->listed) {
		listing_free(&h->listing);
		r = dir->ops->list(m, dir, &h->listing, &err);
		h->listed = r == 0;
	}
	for (; r == 0 && pos < h->listing.count + 2; pos++) {
		bool dot = pos < 2;
		const char *name = dot ? &".."[1 - pos] : listing_name(&h->listing, pos - 2);
		mode_t mode = dot ? S_IFDIR : h->listing.items[pos - 2].mode;
		ssize_t n = add_entry(req, dir, name, mode, plus, buf + used, size - used,
				      (off_t)pos + 1, &err);

		if (n == 0)
			break;
		if (n == -ENOENT)
			continue;
		if (n < 0)
			r = (int)n;
		else
			used += (size_t)n;
	}
	pthread_mutex_unlock(&h->lock);
	/* An error is told when it comes first; what was read before it is not lost. */
	if (r < 0 && used == 0)
		ops_fail(req, r, "list", dir, "", &err);
	else
		fuse_reply_buf(req, buf, used);
}

void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	read_directory(req, ino, size, off, false, fi);
}

void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		    struct fuse_file_info *fi)
{
	read_directory(req, ino, size, off, true, fi);
}
