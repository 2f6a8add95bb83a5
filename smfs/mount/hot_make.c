/* hot_make.c - content into a file of the cache, and the comparison of the two. */
#include "smfs/mount/hot_make.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"

#define MAKING "making"
#define BLOCK  MIB
/* How often the disk is told to begin writing, so that the fsync at the end is short. */
#define WRITE_BEHIND (32 * MIB)
/* Between looks at a lock another process holds. */
#define LOCK_POLL_NS 20000000
/* What the kernel maps with one entry of a page directory, and the most it reads as one folio. */
#define HUGE (2 * MIB)

/* Linux 5.14; Debian 12's glibc has it, older ones do not. */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

static bool go_on(struct hot_progress *p, uint64_t done)
{
	return !p->go_on || p->go_on(p->arg, done);
}

/* One maker per store: it has the disk to itself, and what it evicts is not counted twice. */
static int lock_cache(struct hot_cache *c, struct hot_progress *p, int *lock, struct err *err)
{
	const struct timespec pause = {.tv_nsec = LOCK_POLL_NS};
	/* Its own open file: threads of one process exclude each other, too. */
	cleanup_fd int fd =
		openat(c->dirfd, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);

	if (fd < 0)
		return err_errno(err, "open cache/lock");
	while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK && errno != EINTR)
			return err_errno(err, "lock the cache");
		if (!go_on(p, 0))
			return err_set(err, ECANCELED, "materialise: stopped");
		nanosleep(&pause, NULL);
	}
	*lock = steal_fd(&fd);
	return 0;
}

struct copy {
	struct smfs_file *file;
	int fd;
	uint8_t *buf;
	uint64_t done, behind;
};

static int copy_run(struct copy *c, uint64_t off, uint64_t end, struct hot_progress *p,
		    struct err *err)
{
	while (off < end) {
		size_t n = MIN(end - off, BLOCK);
		ssize_t got = smfs_file_pread(c->file, c->buf, n, off, err);

		if (got < 0)
			return (int)got;
		if ((size_t)got != n)
			return err_set(err, EIO, "materialise: the stored file ends early");
		int r = pwrite_full(c->fd, c->buf, n, off);
		if (r < 0)
			return err_set(err, -r, "materialise: write the cache: %s", strerror(-r));
		off += n;
		c->done += n;
		if (!go_on(p, c->done))
			return err_set(err, ECANCELED, "materialise: stopped");
		if (c->done - c->behind >= WRITE_BEHIND) {
			c->behind = c->done;
			sync_file_range(c->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
		}
	}
	return 0;
}

/* Holes stay holes. */
static int copy_all(struct copy *c, uint64_t size, struct hot_progress *p, struct err *err)
{
	uint64_t at = 0, end;

	if (ftruncate(c->fd, (off_t)size) < 0)
		return err_errno(err, "materialise: set the size of the cache file");
	while (at < size) {
		int r = smfs_file_seek(c->file, at, SEEK_DATA, &at, err);

		if (r == -ENXIO) {
			err_clear(err);
			return 0;
		}
		if (r == 0)
			r = smfs_file_seek(c->file, at, SEEK_HOLE, &end, err);
		if (r == 0)
			r = copy_run(c, at, end, p, err);
		if (r != 0)
			return r;
		at = end;
	}
	return 0;
}

/*
 * Writing leaves the page cache in folios as small as the runs of data were, and a mapping of those
 * takes faults by the page. So once on disk all of it is dropped and read back in folios of 2 MiB,
 * which are mapped whole: what machines that map the file fault on is a quarter of what it was, and
 * a scan of it five times as fast. Advice, all of it: where the kernel does not take it, the file
 * is as good and the first to read it loads it.
 */
static int load_huge(int fd, uint64_t size, struct hot_progress *p, struct err *err)
{
	off_t at = 0, end;
	int r = 0;

	if (posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) != 0)
		return 0;
	uint8_t *m = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	if (m == MAP_FAILED)
		return 0;
	bool takes = madvise(m, size, MADV_HUGEPAGE) == 0;
	while (takes && r == 0 && (at = lseek(fd, at, SEEK_DATA)) >= 0 &&
	       (end = lseek(fd, at, SEEK_HOLE)) >= 0) {
		uint64_t from = align_down((uint64_t)at, HUGE);
		uint64_t to = MIN(align_up((uint64_t)end, HUGE), size);

		for (; takes && r == 0 && from < to; from += HUGE) {
			takes = madvise(m + from, MIN(HUGE, to - from), MADV_POPULATE_READ) == 0;
			if (!go_on(p, size))
				r = err_set(err, ECANCELED, "materialise: stopped");
		}
		at = (off_t)to;
	}
	munmap(m, size);
	return r;
}

/* Whole and on disk before it has the name it is looked for by. */
static int publish(struct hot_cache *c, int fd, const struct smfs_content *content,
		   struct hot_progress *p, struct err *err)
{
	char name[HOT_NAME_LEN];
	int r = hot_seal(fd, content);

	if (r < 0)
		return err_set(err, -r, "materialise: seal the cache file: %s", strerror(-r));
	if (fsync(fd) < 0)
		return err_errno(err, "materialise: fsync the cache file");
	r = load_huge(fd, content->size, p, err);
	if (r < 0)
		return r;
	if (renameat(c->dirfd, MAKING, c->dirfd, hot_file_name(content, name)) < 0)
		return err_errno(err, "materialise: rename the cache file");
	return 0;
}

static int make(struct hot_cache *c, struct smfs_store *s, struct smfs_file *file,
		const struct smfs_content *content, struct hot_progress *p, struct err *err)
{
	uint64_t data, stored;
	int r = smfs_file_usage(file, &data, &stored, err);

	if (r == 0)
		r = hot_cache_room(c, s, data, &p->evicted, err);
	if (r < 0)
		return r;
	cleanup_free uint8_t *buf = malloc(BLOCK);
	if (!buf)
		return err_set(err, ENOMEM, "materialise: out of memory");
	/* With the lock held it is what somebody left who died. */
	if (unlinkat(c->dirfd, MAKING, 0) < 0 && errno != ENOENT)
		return err_errno(err, "materialise: remove an unfinished cache file");
	cleanup_fd int fd =
		openat(c->dirfd, MAKING, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0400);
	if (fd < 0)
		return err_errno(err, "materialise: create a cache file");
	struct copy copy = {.file = file, .fd = fd, .buf = buf};
	r = copy_all(&copy, content->size, p, err);
	if (r == 0)
		r = publish(c, fd, content, p, err);
	if (r < 0)
		unlinkat(c->dirfd, MAKING, 0);
	return r;
}

/* The file that is there, loaded again: the page cache may have lost it, or hold it in crumbs. */
static int again(int fd, const struct smfs_content *content, struct hot_progress *p,
		 struct err *err)
{
	int r = load_huge(fd, content->size, p, err);

	if (r == 0)
		return fd;
	close(fd);
	return r;
}

int hot_cache_make(struct hot_cache *c, struct smfs_store *s, const struct smfs_content *content,
		   struct hot_progress *p, struct err *err)
{
	struct hot_progress none = {0};
	struct smfs_file *file;
	cleanup_fd int lock = -1;

	if (!p)
		p = &none;
	p->evicted = 0;
	if (!hot_cache_takes(content))
		return err_set(err, EINVAL, "materialise: content of this size is served as it is");
	int fd = hot_cache_get(c, content, NULL);
	if (fd >= 0)
		return again(fd, content, p, err);
	if (c->rdonly)
		return err_set(err, EROFS, "materialise: the cache is read-only");
	int r = lock_cache(c, p, &lock, err);
	if (r < 0)
		return r;
	fd = hot_cache_get(c, content, NULL);
	if (fd >= 0)
		return again(fd, content, p, err);
	r = smfs_file_open(s, content, &file, err);
	if (r < 0)
		return r;
	r = make(c, s, file, content, p, err);
	smfs_file_close(file);
	if (r < 0)
		return r;
	fd = hot_cache_get(c, content, err);
	return fd == -ENOENT ? err_set(err, EIO, "materialise: the cache file has gone again") : fd;
}

/* ---- comparing ----------------------------------------------------------------------------- */

static int same_bytes(struct smfs_file *file, int fd, uint64_t size, struct err *err)
{
	cleanup_free uint8_t *a = malloc(BLOCK), *b = malloc(BLOCK);

	if (!a || !b)
		return err_set(err, ENOMEM, "check the cache: out of memory");
	for (uint64_t off = 0; off < size; off += BLOCK) {
		size_t n = MIN(size - off, BLOCK);
		ssize_t got = smfs_file_pread(file, a, n, off, err);

		if (got < 0)
			return (int)got;
		/* An unreadable block of the cache is a difference. */
		if ((size_t)got != n || pread_full(fd, b, n, off) < 0 || memcmp(a, b, n) != 0)
			return 0;
	}
	return 1;
}

int hot_cache_check(struct hot_cache *c, struct smfs_store *s, const struct smfs_content *content,
		    struct err *err)
{
	char name[HOT_NAME_LEN];
	struct smfs_file *file;
	cleanup_fd int fd = hot_cache_get(c, content, err);

	if (fd < 0)
		return fd;
	int r = smfs_file_open(s, content, &file, err);
	if (r < 0)
		return r;
	r = same_bytes(file, fd, content->size, err);
	smfs_file_close(file);
	if (r != 0)
		return r < 0 ? r : 0;
	/* In use or not: who has it open reads wrong bytes already, nobody else shall. */
	if (!c->rdonly && unlinkat(c->dirfd, hot_file_name(content, name), 0) < 0 &&
	    errno != ENOENT)
		return err_errno(err, "remove cache/%s", name);
	return 1;
}
