/*
 * ops.c - requests in, replies out: names, attributes and changes. See ops.h.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "smfs/base/log.h"
#include "smfs/base/num.h"
#include "smfs/mount/hot.h"
#include "smfs/mount/ops.h"

/* "For ever" in seconds: the kernel turns it into jiffies, so not larger than this. */
#define FOR_EVER 31536000.0

void ops_fail(fuse_req_t req, int r, const char *what, const struct inode *i, const char *name,
	      const struct err *err)
{
	struct smfs_mount *m = mount_of(req);
	char path[INODE_PATH_MAX];
	enum log_level level = LOG_ERR;

	switch (-r) {
	case ENOENT:
	case ENODATA:
	case ENXIO:
	case ERANGE:
		fuse_reply_err(req, -r);
		return;
	case EROFS:
	case EEXIST:
	case EINVAL:
	case ENOTEMPTY:
	case EPERM:
	case EISDIR:
	case ENOTSUP:
		level = LOG_INFO;
		break;
	default:
		break;
	}
	stats_add(&m->stats, COUNT_ERRORS, 1);
	log_at(level, "%s %s%s%s: %s", what, inode_path(i, path), *name ? "/" : "", name,
	       err->code ? err->msg : strerror(-r));
	fuse_reply_err(req, ops_visible(r));
}

struct inode *inode_of(fuse_req_t req, fuse_ino_t ino)
{
	struct smfs_mount *m = mount_of(req);
	struct node *n = node_find(&m->nodes, ino);
	struct inode *i = n ? container_of(n, struct inode, node) : NULL;
	struct err err = ERR_INIT;

	if (!i) {
		fuse_reply_err(req, ESTALE);
		return NULL;
	}
	if (atomic_load(&i->asleep)) {
		int r = inode_wake(m, i, &err);

		if (r < 0) {
			ops_fail(req, r == -ENOENT ? -ESTALE : r, "find again", i, "", &err);
			return NULL;
		}
	}
	return i;
}

static int stat_inode(struct smfs_mount *m, struct inode *i, struct stat *st, struct err *err)
{
	if (i->ops->getattr) {
		int r = i->ops->getattr(m, i, st, err);

		if (r < 0)
			return r;
	} else {
		*st = i->st;
		st->st_ino = i->node.ino;
	}
	st->st_atim = st->st_ctim = st->st_mtim;
	return 0;
}

int ops_enter(struct smfs_mount *m, struct inode *fresh, struct inode **in,
	      struct fuse_entry_param *e, struct err *err)
{
	struct node *n = node_intern(&m->nodes, &fresh->node);
	struct inode *i = container_of(n, struct inode, node);

	*e = (struct fuse_entry_param){.ino = n->ino, .generation = 1};
	int r = atomic_load(&i->asleep) ? inode_wake(m, i, err) : 0;
	if (r == 0) {
		e->attr_timeout = i->volatile_attr ? 0 : FOR_EVER;
		e->entry_timeout = i->volatile_name ? 0 : FOR_EVER;
		r = stat_inode(m, i, &e->attr, err);
	}
	if (r < 0)
		node_forget(&m->nodes, n->ino, 1);
	*in = i;
	return r;
}

void *ops_buffer(struct smfs_mount *m)
{
	void *buf = pthread_getspecific(m->buffers);

	if (!buf) {
		/* By the page, as the kernel takes replies: see readahead.c. */
		if (posix_memalign(&buf, 4096, FS_IO_MAX) != 0)
			return NULL;
		if (pthread_setspecific(m->buffers, buf) != 0) {
			free(buf);
			buf = NULL;
		}
	}
	return buf;
}

/* ---- session ------------------------------------------------------------------------------- */

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	conn->max_read = conn->max_write = FS_IO_MAX;
	/* More makes sequential copies faster and random faults ten times slower. */
	conn->max_readahead = MIN(conn->max_readahead, 128u << 10);
	conn->max_background = 64;
	conn->congestion_threshold = 48;
	/* A second copy through a pipe is slower than writev() of what was just decompressed. */
	conn->want &= ~(FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE | FUSE_CAP_SPLICE_READ |
			FUSE_CAP_AUTO_INVAL_DATA);
	conn->want |= conn->capable &
		      (FUSE_CAP_ASYNC_READ | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_CACHE_SYMLINKS |
		       FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_ATOMIC_O_TRUNC);
	hot_greet(userdata);
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct smfs_mount *m = mount_of(req);
	struct smfs_room room;
	struct statvfs st;

	if (statvfs(m->store_dir, &st) < 0) {
		fuse_reply_err(req, errno);
		return;
	}
	/* The store's file system, as far as the store may fill it. */
	if (smfs_store_room(m->store, &room, NULL) == 0) {
		st.f_bavail = MIN(st.f_bavail, room.left / st.f_frsize);
		if (room.limit) {
			st.f_blocks = MIN(st.f_blocks, room.limit / st.f_frsize);
			st.f_bfree = MIN(st.f_bfree, st.f_bavail);
		}
	}
	st.f_namemax = SMFS_NAME_MAX;
	fuse_reply_statfs(req, &st);
}

/* ---- names and attributes ------------------------------------------------------------------ */

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct smfs_mount *m = mount_of(req);
	struct inode *dir = inode_of(req, parent), *i = NULL;
	struct fuse_entry_param e = {0};
	struct err err = ERR_INIT;
	int r;

	if (!dir)
		return;
	stats_add(&m->stats, COUNT_LOOKUPS, 1);
	r = dir->ops->lookup ? dir->ops->lookup(m, dir, name, &i, &err) : -ENOTDIR;
	if (r == -ENOENT && dir->keep_cache) {
		/* What is not there now will never be. */
		e = (struct fuse_entry_param){.entry_timeout = FOR_EVER};
		fuse_reply_entry(req, &e);
		return;
	}
	if (r == 0)
		r = ops_enter(m, i, &i, &e, &err);
	if (r < 0)
		ops_fail(req, r, "look up", dir, name, &err);
	else if (fuse_reply_entry(req, &e) < 0)
		node_forget(&m->nodes, e.ino, 1);
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t lookups)
{
	node_forget(&mount_of(req)->nodes, ino, lookups);
	fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *f)
{
	for (size_t i = 0; i < count; i++)
		node_forget(&mount_of(req)->nodes, f[i].ino, f[i].nlookup);
	fuse_reply_none(req);
}

static void reply_attr(fuse_req_t req, struct inode *i)
{
	struct stat st;
	struct err err = ERR_INIT;
	int r = stat_inode(mount_of(req), i, &st, &err);

	if (r < 0)
		ops_fail(req, r, "stat", i, "", &err);
	else
		fuse_reply_attr(req, &st, i->volatile_attr ? 0 : FOR_EVER);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct inode *i = inode_of(req, ino);

	if (i)
		reply_attr(req, i);
}

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
		       struct fuse_file_info *fi)
{
	struct smfs_mount *m = mount_of(req);
	struct inode *i = inode_of(req, ino);
	struct handle *h = NULL;
	struct err err = ERR_INIT;
	int r;

	if (!i || (fi && !(h = handle_of(req, fi))))
		return;
	if (i->ops->setattr)
		r = i->ops->setattr(m, i, h, to_set & FUSE_SET_ATTR_SIZE ? attr->st_size : -1,
				    &err);
	else
		r = -EROFS;
	if (r < 0)
		ops_fail(req, r, "change", i, "", &err);
	else
		reply_attr(req, i);
}

static void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
	struct inode *i = inode_of(req, ino);

	if (!i)
		return;
	if (!S_ISLNK(i->st.st_mode) || !i->entry)
		fuse_reply_err(req, EINVAL);
	else
		fuse_reply_readlink(req, i->entry->target);
}

static void reply_xattr(fuse_req_t req, int r, const void *buf, size_t size, size_t len,
			const char *what, struct inode *i, const struct err *err)
{
	if (r < 0)
		ops_fail(req, r, what, i, "", err);
	else if (size == 0)
		fuse_reply_xattr(req, len);
	else
		fuse_reply_buf(req, buf, len);
}

static void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	struct smfs_mount *m = mount_of(req);
	struct inode *i = inode_of(req, ino);
	struct err err = ERR_INIT;
	void *buf = ops_buffer(m);
	size_t len = 0;

	if (!i)
		return;
	int r = buf ? xattr_get(m, i, name, buf, MIN(size, FS_IO_MAX), &len, &err) : -ENOMEM;
	reply_xattr(req, r, buf, size, len, "read an attribute of", i, &err);
}

static void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	struct inode *i = inode_of(req, ino);
	struct err err = ERR_INIT;
	void *buf = ops_buffer(mount_of(req));
	size_t len = 0;

	if (!i)
		return;
	int r = buf ? xattr_list(i, buf, MIN(size, FS_IO_MAX), &len, &err) : -ENOMEM;
	reply_xattr(req, r, buf, size, len, "list the attributes of", i, &err);
}

/* ---- changes ------------------------------------------------------------------------------- */

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	struct smfs_mount *m = mount_of(req);
	struct inode *dir = inode_of(req, parent), *i = NULL;
	struct fuse_entry_param e = {0};
	struct err err = ERR_INIT;

	if (!dir)
		return;
	int r = dir->ops->mkdir ? dir->ops->mkdir(m, dir, name, &i, &err) : -EROFS;
	if (r == 0)
		r = ops_enter(m, i, &i, &e, &err);
	if (r < 0)
		ops_fail(req, r, "create", dir, name, &err);
	else if (fuse_reply_entry(req, &e) < 0)
		node_forget(&m->nodes, e.ino, 1);
}

static void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
		      struct fuse_file_info *fi)
{
	struct smfs_mount *m = mount_of(req);
	struct inode *dir = inode_of(req, parent), *i = NULL;
	struct fuse_entry_param e = {0};
	struct err err = ERR_INIT;

	if (!dir)
		return;
	int r = dir->ops->create ? dir->ops->create(m, dir, name, &i, &err) : -EROFS;
	if (r == 0)
		r = ops_enter(m, i, &i, &e, &err);
	if (r == 0) {
		r = ops_open_inode(m, i, fi, &err);
		if (r < 0)
			node_forget(&m->nodes, e.ino, 1);
	}
	if (r < 0) {
		ops_fail(req, r, "create", dir, name, &err);
	} else if (fuse_reply_create(req, &e, fi) < 0) {
		ops_close_handle(m, ops_find_handle(m, fi->fh));
		node_forget(&m->nodes, e.ino, 1);
	}
}

static void reply_change(fuse_req_t req, int r, const char *what, struct inode *dir,
			 const char *name, const struct err *err)
{
	if (r < 0)
		ops_fail(req, r, what, dir, name, err);
	else
		fuse_reply_err(req, 0);
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct inode *dir = inode_of(req, parent);
	struct err err = ERR_INIT;

	if (!dir)
		return;
	int r = dir->ops->unlink ? dir->ops->unlink(mount_of(req), dir, name, &err) : -EROFS;
	if (r == -ENOENT && ops_resent(req))
		r = 0;
	reply_change(req, r, "remove", dir, name, &err);
}

static void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct inode *dir = inode_of(req, parent);
	struct err err = ERR_INIT;

	if (!dir)
		return;
	int r = dir->ops->rmdir ? dir->ops->rmdir(mount_of(req), dir, name, &err) : -EROFS;
	if (r == -ENOENT && ops_resent(req))
		r = 0;
	reply_change(req, r, "remove", dir, name, &err);
}

static bool has(struct smfs_mount *m, struct inode *dir, const char *name)
{
	struct inode *i;

	if (!dir->ops->lookup || dir->ops->lookup(m, dir, name, &i, NULL) < 0)
		return false;
	inode_destroy(&i->node);
	return true;
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent,
		      const char *newname, unsigned flags)
{
	struct inode *from = inode_of(req, parent), *to;
	struct err err = ERR_INIT;
	int r = -EROFS;

	if (!from)
		return;
	to = inode_of(req, newparent);
	if (!to)
		return;
	if (flags & ~(unsigned)RENAME_NOREPLACE)
		r = -EINVAL;
	else if (from->ops->rename && from->ops == to->ops)
		r = from->ops->rename(mount_of(req), from, name, to, newname, flags, ops_answer,
				      req, &err);
	if (r == 1)
		return;
	/* Done by an earlier server: the old name is gone, the new one there. */
	if ((r == -ENOENT || r == -EEXIST) && ops_resent(req) && !has(mount_of(req), from, name) &&
	    has(mount_of(req), to, newname))
		r = 0;
	reply_change(req, r, "rename", from, name, &err);
}

/* Only directories and regular files can be made, and only where snapshots are copied in. */
static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	fuse_reply_err(req, EPERM);
}

static void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	fuse_reply_err(req, EPERM);
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t newparent, const char *newname)
{
	fuse_reply_err(req, EPERM);
}

const struct fuse_lowlevel_ops fs_ops = {
	.init = op_init,
	.statfs = op_statfs,
	.lookup = op_lookup,
	.forget = op_forget,
	.forget_multi = op_forget_multi,
	.getattr = op_getattr,
	.setattr = op_setattr,
	.readlink = op_readlink,
	.getxattr = op_getxattr,
	.listxattr = op_listxattr,
	.open = op_open,
	.release = op_release,
	.flush = op_flush,
	.fsync = op_fsync,
	.read = op_read,
	.write = op_write,
	.fallocate = op_fallocate,
	.lseek = op_lseek,
	.opendir = op_opendir,
	.releasedir = op_releasedir,
	.readdir = op_readdir,
	.readdirplus = op_readdirplus,
	.fsyncdir = op_fsync,
	.mkdir = op_mkdir,
	.create = op_create,
	.unlink = op_unlink,
	.rmdir = op_rmdir,
	.rename = op_rename,
	.mknod = op_mknod,
	.symlink = op_symlink,
	.link = op_link,
};
