/*
 * ops_io.c - requests on open files. See ops.h.
 */
#include <stdlib.h>
#include <string.h>

#include "smfs/base/num.h"
#include "smfs/mount/hot.h"
#include "smfs/mount/ops.h"

/* ---- open and close ------------------------------------------------------------------------ */

/* With handles_lock held. */
static void link_handle(struct smfs_mount *m, struct handle *h)
{
	h->next = m->handles;
	if (h->next)
		h->next->prev = h;
	m->handles = h;
	atomic_store(&m->by_slot[takeover_handle_slot(h->fh)], h);
}

static struct handle *new_handle(struct smfs_mount *m, struct inode *i, int flags)
{
	struct handle *h = calloc(1, sizeof(*h));

	if (!h)
		return NULL;
	h->inode = i;
	h->flags = flags;
	pthread_mutex_init(&h->lock, NULL);
	node_ref(&m->nodes, &i->node);
	return h;
}

static void drop_handle(struct smfs_mount *m, struct handle *h)
{
	listing_free(&h->listing);
	pthread_mutex_destroy(&h->lock);
	node_unref(&m->nodes, &h->inode->node);
	free(h);
}

/* Of this very request, by an earlier server that could not tell the kernel. */
static struct handle *opened_before(struct smfs_mount *m, uint64_t unique)
{
	const struct takeover_handle *e;
	struct handle *h = NULL;
	uint64_t fh;

	pthread_mutex_lock(&m->handles_lock);
	for (uint32_t slot = 0; !h && (e = takeover_next_handle(m->takeover, &slot, &fh));)
		if (e->unique == unique)
			h = atomic_load(&m->by_slot[takeover_handle_slot(fh)]);
	pthread_mutex_unlock(&m->handles_lock);
	return h;
}

struct handle *ops_handle_new(struct smfs_mount *m, struct inode *i, int flags)
{
	uint64_t unique = channel_unique(m->channel);
	struct handle *h;

	if (channel_resent(m->channel) && (h = opened_before(m, unique)))
		ops_close_handle(m, h);
	h = new_handle(m, i, flags);
	if (!h)
		return NULL;
	pthread_mutex_lock(&m->handles_lock);
	h->fh = takeover_add_handle(m->takeover, i->node.ino, (uint32_t)flags, unique);
	bool ok = h->fh != TAKEOVER_NO_HANDLE;
	if (ok)
		link_handle(m, h);
	pthread_mutex_unlock(&m->handles_lock);
	if (!ok) {
		drop_handle(m, h);
		h = NULL;
	}
	return h;
}

int fs_restore_handle(struct smfs_mount *m, struct inode *i, int flags, unsigned mode, uint64_t fh)
{
	struct handle *h = new_handle(m, i, flags);

	if (!h)
		return -ENOMEM;
	h->fh = fh;
	if (hot_restore(m, h, mode) < 0) {
		drop_handle(m, h);
		return -ENOMEM;
	}
	pthread_mutex_lock(&m->handles_lock);
	link_handle(m, h);
	pthread_mutex_unlock(&m->handles_lock);
	return 0;
}

void ops_handle_free(struct smfs_mount *m, struct handle *h)
{
	pthread_mutex_lock(&m->handles_lock);
	if (h->next)
		h->next->prev = h->prev;
	*(h->prev ? &h->prev->next : &m->handles) = h->next;
	atomic_store(&m->by_slot[takeover_handle_slot(h->fh)], NULL);
	takeover_drop_handle(m->takeover, h->fh);
	pthread_mutex_unlock(&m->handles_lock);
	drop_handle(m, h);
}

struct handle *ops_find_handle(struct smfs_mount *m, uint64_t fh)
{
	uint32_t slot = takeover_handle_slot(fh);
	struct handle *h = slot < TAKEOVER_HANDLES ? atomic_load(&m->by_slot[slot]) : NULL;

	return h && h->fh == fh ? h : NULL;
}

struct handle *handle_of(fuse_req_t req, const struct fuse_file_info *fi)
{
	struct smfs_mount *m = mount_of(req);
	struct handle *h = ops_find_handle(m, fi->fh);
	struct err err = ERR_INIT;

	if (!h) {
		fuse_reply_err(req, ESTALE);
		return NULL;
	}
	if (atomic_load(&h->inode->asleep)) {
		int r = inode_wake(m, h->inode, &err);

		if (r < 0) {
			ops_fail(req, r == -ENOENT ? -ESTALE : r, "find again", h->inode, "", &err);
			return NULL;
		}
	}
	return h;
}

static void describe(struct handle *h, struct fuse_file_info *fi)
{
	fi->fh = h->fh;
	fi->direct_io = h->direct;
	fi->keep_cache = h->inode->keep_cache;
	fi->noflush = !h->inode->ops->flush;
}

int ops_open_inode(struct smfs_mount *m, struct inode *i, struct fuse_file_info *fi,
		   struct err *err)
{
	struct handle *h;
	int r;

	if (!i->ops->open)
		return S_ISDIR(i->st.st_mode) ? -EISDIR : -EOPNOTSUPP;
	h = ops_handle_new(m, i, fi->flags);
	if (!h)
		return err_set(err, ENFILE, "open %s: out of memory, or %u files are open already",
			       i->name, TAKEOVER_HANDLES);
	r = i->ops->open(m, i, h, err);
	if (r < 0) {
		ops_handle_free(m, h);
		return r;
	}
	stats_add(&m->stats, COUNT_OPENS, 1);
	describe(h, fi);
	return 0;
}

void ops_close_handle(struct smfs_mount *m, struct handle *h)
{
	/* While its inode sleeps, nothing was done with it here. */
	if (!atomic_load(&h->inode->asleep) && h->inode->ops->release)
		h->inode->ops->release(m, h);
	hot_release(m, h);
	ops_handle_free(m, h);
}

void fs_close_all(struct smfs_mount *m)
{
	while (m->handles)
		ops_close_handle(m, m->handles);
}

void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct smfs_mount *m = mount_of(req);
	struct inode *i = inode_of(req, ino);
	struct err err = ERR_INIT;

	if (!i)
		return;
	int r = ops_open_inode(m, i, fi, &err);
	if (r < 0) {
		ops_fail(req, r, "open", i, "", &err);
		return;
	}
	struct handle *h = ops_find_handle(m, fi->fh);
	int backing = hot_open(m, h, req);
	if (backing != HOT_LATER)
		ops_answer_open(req, h, backing);
}

/* struct fuse_open_out as of protocol 7.40: libfuse 3.14 knows no backing file. */
struct open_out {
	uint64_t fh;
	uint32_t open_flags;
	int32_t backing_id;
};
#define OPEN_NOFLUSH	 (1u << 5)
#define OPEN_PASSTHROUGH (1u << 7)

void ops_answer_open(fuse_req_t req, struct handle *h, int backing)
{
	struct smfs_mount *m = mount_of(req);
	struct fuse_file_info fi = {0};
	const struct open_out out = {
		.fh = h->fh,
		/* The page cache is that of the backing file: there is none of ours to keep. */
		.open_flags = OPEN_PASSTHROUGH | OPEN_NOFLUSH,
		.backing_id = backing,
	};
	int r;

	describe(h, &fi);
	if (backing > 0)
		r = fuse_reply_buf(req, (const char *)&out, sizeof(out));
	else
		r = fuse_reply_open(req, &fi);
	/* Nobody waits for it any more. */
	if (r < 0)
		ops_close_handle(m, h);
}

void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct smfs_mount *m = mount_of(req);
	/* None: closed by an earlier server that could not tell the kernel. */
	struct handle *h = ops_find_handle(m, fi->fh);

	if (h)
		ops_close_handle(m, h);
	fuse_reply_err(req, 0);
}

void ops_answer(void *arg, int r)
{
	fuse_req_t req = arg;

	fuse_reply_err(req, ops_visible(r));
}

void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct handle *h = handle_of(req, fi);

	if (!h)
		return;
	if (h->inode->ops->flush)
		h->inode->ops->flush(mount_of(req), h, ops_answer, req);
	else
		fuse_reply_err(req, 0);
}

/* A snapshot being copied in becomes durable as a whole, when its last file is closed. */
void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	fuse_reply_err(req, 0);
}

/* ---- data ---------------------------------------------------------------------------------- */

static void count_read(struct smfs_mount *m, size_t n)
{
	stats_add(&m->stats, COUNT_READS, 1);
	stats_add(&m->stats, COUNT_READ_BYTES, n);
}

void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct smfs_mount *m = mount_of(req);
	struct handle *h = handle_of(req, fi);
	struct err err = ERR_INIT;
	void *buf = ops_buffer(m);
	ssize_t n = -ENOMEM;

	if (!h)
		return;
	size_t len = MIN(size, FS_IO_MAX);
	const void *lent = h->inode->ops->lend && off >= 0
				   ? h->inode->ops->lend(m, h, &len, (uint64_t)off)
				   : NULL;
	if (lent) {
		/* Once answered, the handle may be closed: only what is really lent keeps it. */
		void (*take_back)(struct smfs_mount *, struct handle *, const void *, uint64_t) =
			h->inode->ops->take_back;

		count_read(m, len);
		fuse_reply_buf(req, lent, len);
		take_back(m, h, lent, (uint64_t)off);
		return;
	}
	if (buf && off >= 0)
		n = h->inode->ops->read(m, h, buf, MIN(size, FS_IO_MAX), (uint64_t)off, &err);
	if (n == -EBADMSG) {
		fuse_reply_err(req, EIO); /* and reported already, with its range */
	} else if (n < 0) {
		ops_fail(req, (int)n, "read", h->inode, "", &err);
	} else {
		count_read(m, (size_t)n);
		fuse_reply_buf(req, buf, (size_t)n);
	}
}

void op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
	      struct fuse_file_info *fi)
{
	struct smfs_mount *m = mount_of(req);
	struct handle *h = handle_of(req, fi);
	struct err err = ERR_INIT;
	ssize_t n = -EROFS;

	if (!h)
		return;
	if (h->inode->ops->write && off >= 0)
		n = h->inode->ops->write(m, h, buf, size, (uint64_t)off, &err);
	if (n < 0) {
		ops_fail(req, (int)n, "write", h->inode, "", &err);
		return;
	}
	stats_add(&m->stats, COUNT_WRITES, 1);
	stats_add(&m->stats, COUNT_WRITE_BYTES, (uint64_t)n);
	fuse_reply_write(req, (size_t)n);
}

void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len,
		  struct fuse_file_info *fi)
{
	struct handle *h = handle_of(req, fi);
	struct err err = ERR_INIT;
	int r = -EROFS;

	if (!h)
		return;
	if (h->inode->ops->fallocate && off >= 0 && len > 0)
		r = h->inode->ops->fallocate(mount_of(req), h, mode, (uint64_t)off, (uint64_t)len,
					     &err);
	if (r < 0)
		ops_fail(req, r, "allocate", h->inode, "", &err);
	else
		fuse_reply_err(req, 0);
}

void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
	struct handle *h = handle_of(req, fi);
	struct err err = ERR_INIT;
	uint64_t out;
	int r = -ENXIO;

	if (!h)
		return;
	if (h->inode->ops->seek && off >= 0)
		r = h->inode->ops->seek(mount_of(req), h, (uint64_t)off, whence, &out, &err);
	if (r < 0)
		ops_fail(req, r, "seek in", h->inode, "", &err);
	else
		fuse_reply_lseek(req, (off_t)out);
}
