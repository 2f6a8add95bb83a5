/*
 * stage_file.c - the data of a snapshot being copied in, and when a file counts as written. See
 * stage.h.
 */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "smfs/base/io.h"
#include "smfs/mount/stage.h"

/* The handle is about to change its file: from here until its flush nothing is published. */
static int begin_write(struct smfs_mount *m, struct handle *h, struct err *err)
{
	pthread_mutex_lock(&m->stages->lock);
	int r = stage_check_writing(h->inode->stage, err);
	if (r == 0 && !h->pending) {
		h->pending = true;
		h->inode->stage_file->writers++;
	}
	if (r == 0)
		h->wrote = true;
	pthread_mutex_unlock(&m->stages->lock);
	return r;
}

static bool for_writing(const struct handle *h)
{
	return (h->flags & O_ACCMODE) != O_RDONLY;
}

static int file_open(struct smfs_mount *m, struct inode *i, struct handle *h, struct err *err)
{
	int r = 0;

	/* Nothing may reach us after the last close, as the page cache's write-back could. */
	h->direct = true;
	if (for_writing(h)) {
		pthread_mutex_lock(&m->stages->lock);
		r = stage_check_writing(i->stage, err);
		if (r == 0) {
			h->pending = true;
			i->stage_file->writers++;
		}
		pthread_mutex_unlock(&m->stages->lock);
	}
	if (r == 0 && (h->flags & O_TRUNC) && ftruncate(i->stage_file->fd, 0) < 0)
		r = err_errno(err, "truncate %s", i->name);
	return r;
}

/* With the lock held: the handle writes no more. */
static void end_write(struct handle *h)
{
	if (h->pending)
		h->inode->stage_file->writers--;
	h->pending = h->wrote = false;
}

/*
 * A descriptor was closed. There may be others of the same open (the shell dups and closes one
 * before the command has written a byte), so it only counts when something was written.
 */
static void file_flush(struct smfs_mount *m, struct handle *h, void (*done)(void *arg, int r),
		       void *arg)
{
	struct stage_area *a = m->stages;
	bool later = false;

	pthread_mutex_lock(&a->lock);
	if (h->wrote) {
		end_write(h);
		later = publish_if_complete(a, h->inode->stage, done, arg);
	}
	pthread_mutex_unlock(&a->lock);
	if (!later)
		done(arg, 0);
}

static void nobody_waits(void *arg, int r)
{
}

static void file_release(struct smfs_mount *m, struct handle *h)
{
	struct stage_area *a = m->stages;

	pthread_mutex_lock(&a->lock);
	if (h->pending) {
		end_write(h);
		publish_if_complete(a, h->inode->stage, nobody_waits, NULL);
	}
	pthread_mutex_unlock(&a->lock);
}

static ssize_t file_read(struct smfs_mount *m, struct handle *h, void *buf, size_t len,
			 uint64_t off, struct err *err)
{
	ssize_t n = pread_upto(h->inode->stage_file->fd, buf, len, off);

	return n < 0 ? err_set(err, (int)-n, "read %s: %s", h->inode->name, strerror((int)-n)) : n;
}

static ssize_t file_write(struct smfs_mount *m, struct handle *h, const void *buf, size_t len,
			  uint64_t off, struct err *err)
{
	int r = begin_write(m, h, err);

	if (r == 0)
		r = stage_take_room(m->stages, len, err);
	if (r < 0)
		return r;
	r = pwrite_full(h->inode->stage_file->fd, buf, len, off);
	if (r < 0)
		return err_set(err, -r, "write %s/%s: %s", h->inode->stage->name, h->inode->name,
			       strerror(-r));
	return (ssize_t)len;
}

static int file_fallocate(struct smfs_mount *m, struct handle *h, int mode, uint64_t off,
			  uint64_t len, struct err *err)
{
	int r = begin_write(m, h, err);

	if (r == 0 && !(mode & FALLOC_FL_PUNCH_HOLE))
		r = stage_take_room(m->stages, len, err);
	if (r < 0)
		return r;
	if (fallocate(h->inode->stage_file->fd, mode, (off_t)off, (off_t)len) < 0)
		return err_errno(err, "allocate %s/%s", h->inode->stage->name, h->inode->name);
	return 0;
}

static int file_seek(struct smfs_mount *m, struct handle *h, uint64_t off, int whence,
		     uint64_t *out, struct err *err)
{
	/* The descriptor's position is shared, and used by nobody. */
	off_t at = lseek(h->inode->stage_file->fd, (off_t)off, whence);

	if (at < 0)
		return -errno;
	*out = (uint64_t)at;
	return 0;
}

static int file_getattr(struct smfs_mount *m, struct inode *i, struct stat *st, struct err *err)
{
	struct stat under;

	if (fstat(i->stage_file->fd, &under) < 0)
		return err_errno(err, "stat %s", i->name);
	*st = i->st;
	st->st_ino = i->node.ino;
	st->st_size = under.st_size;
	st->st_blocks = under.st_blocks;
	st->st_mtim = under.st_mtim;
	return 0;
}

static int file_setattr(struct smfs_mount *m, struct inode *i, struct handle *h, int64_t size,
			struct err *err)
{
	int r;

	if (size < 0)
		return 0;
	if (h) {
		r = begin_write(m, h, err);
	} else {
		pthread_mutex_lock(&m->stages->lock);
		r = stage_check_writing(i->stage, err);
		pthread_mutex_unlock(&m->stages->lock);
	}
	if (r == 0 && ftruncate(i->stage_file->fd, size) < 0)
		r = err_errno(err, "truncate %s/%s", i->stage->name, i->name);
	return r;
}

const struct inode_ops stage_file_ops = {
	.getattr = file_getattr,
	.setattr = file_setattr,
	.open = file_open,
	.release = file_release,
	.read = file_read,
	.write = file_write,
	.fallocate = file_fallocate,
	.seek = file_seek,
	.flush = file_flush,
};
