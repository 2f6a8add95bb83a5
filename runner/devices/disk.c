/* disk.c - a disk that is written, and the old bytes put aside for its views. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runner/devices/disk_priv.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/log.h"

#define CACHE_DIR "/var/cache/smvm"

struct disk {
	int fd;
	uint64_t bytes;
	bool readonly;
	struct disk_view *base; /* of a private disk, with `own`: which clusters are in `fd` */
	uint8_t *own;
	uint8_t *scratch; /* one cluster */

	/* Guards what follows: a view may be made by another thread than writes. */
	pthread_mutex_t lock;
	struct aside *aside[DISK_VIEWS_MAX];
	unsigned nasides;
};

/* ---- life ----------------------------------------------------------------------------------- */

/* A file without a name. */
static int temporary(const char *id, uint64_t bytes, struct err *err)
{
	const char *env = getenv("SMVM_CACHE_DIR"), *dir = env && *env ? env : CACHE_DIR;
	char path[4096];
	cleanup_fd int fd = -1;

	if (mkdir(dir, 0755) < 0 && errno != EEXIST)
		return err_errno(err, "%s: make directory %s for its changes", id, dir);
	fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0 && errno == EOPNOTSUPP) {
		snprintf(path, sizeof(path), "%s/disk-XXXXXX", dir);
		fd = mkostemp(path, O_CLOEXEC);
		if (fd >= 0)
			unlink(path);
	}
	if (fd < 0)
		return err_errno(err, "%s: make a file for its changes in %s", id, dir);
	if (ftruncate(fd, (off_t)bytes) < 0)
		return err_errno(err, "%s: make a file of %llu bytes in %s", id,
				 (unsigned long long)bytes, dir);
	return steal_fd(&fd);
}

static struct disk *disk_new(void)
{
	struct disk *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->fd = -1;
	d->scratch = malloc(DISK_CLUSTER);
	if (!d->scratch) {
		free(d);
		return NULL;
	}
	pthread_mutex_init(&d->lock, NULL);
	return d;
}

void disk_free(struct disk *d)
{
	if (!d)
		return;
	for (unsigned i = 0; i < d->nasides; i++)
		aside_put(d->aside[i]);
	disk_view_put(d->base);
	if (d->fd >= 0)
		close(d->fd);
	free(d->own);
	free(d->scratch);
	pthread_mutex_destroy(&d->lock);
	free(d);
}

static int medium_size(int fd, uint64_t *bytes)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	*bytes = (uint64_t)st.st_size;
	if (S_ISBLK(st.st_mode))
		return ioctl(fd, BLKGETSIZE64, bytes) < 0 ? -errno : 0;
	return S_ISREG(st.st_mode) ? 0 : -EINVAL;
}

static int open_medium(struct disk *d, const char *id, const char *path, struct err *err)
{
	uint64_t bytes = 0;
	int ret;

	d->fd = open(path, (d->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK);
	if (d->fd < 0)
		return err_errno(err, "%s: open %s", id, path);
	if (flock(d->fd, (d->readonly ? LOCK_SH : LOCK_EX) | LOCK_NB) < 0)
		return err_errno(err,
				 "%s: lock %s (is it the disk of another machine, or of one forked "
				 "from it?)",
				 id, path);
	ret = medium_size(d->fd, &bytes);
	if (ret < 0 || bytes < DISK_SECTOR)
		return err_set(err, ret < 0 ? -ret : EINVAL,
			       "%s: %s cannot be a disk: needs a file or block device of 512 bytes "
			       "or more",
			       id, path);
	d->bytes = bytes / DISK_SECTOR * DISK_SECTOR;
	return 0;
}

int disk_open(const char *id, const char *path, bool readonly, struct disk **out, struct err *err)
{
	struct disk *d = disk_new();
	int ret;

	*out = NULL;
	if (!d)
		return err_set(err, ENOMEM, "%s: out of memory", id);
	d->readonly = readonly;
	ret = open_medium(d, id, path, err);
	if (ret < 0)
		disk_free(d);
	else
		*out = d;
	return ret;
}

int disk_private(const char *id, struct disk_view *base, struct disk **out, struct err *err)
{
	struct disk *d = disk_new();

	*out = NULL;
	if (d)
		d->own = calloc(1, clusters_of(base->bytes) / 8 + 1);
	if (!d || !d->own) {
		disk_free(d);
		return err_set(err, ENOMEM, "%s: out of memory", id);
	}
	d->bytes = base->bytes;
	d->base = disk_view_get(base);
	d->fd = temporary(id, d->bytes, err);
	if (d->fd < 0) {
		int ret = d->fd;

		disk_free(d);
		return ret;
	}
	*out = d;
	return 0;
}

uint64_t disk_bytes(const struct disk *d)
{
	return d->bytes;
}

bool disk_readonly(const struct disk *d)
{
	return d->readonly;
}

/* ---- putting aside -------------------------------------------------------------------------- */

static bool abandoned(const struct aside *a)
{
	struct pollfd p = {.fd = a->watch_fd, .events = POLLIN};

	return poll(&p, 1, 0) > 0;
}

/* Views that nobody has any more need nothing. */
static void drop_abandoned(struct disk *d)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < d->nasides; i++) {
		if (abandoned(d->aside[i]))
			aside_put(d->aside[i]);
		else
			d->aside[kept++] = d->aside[i];
	}
	d->nasides = kept;
}

static void put_aside(struct disk *d, struct aside *a, uint64_t cluster)
{
	const uint64_t off = cluster * DISK_CLUSTER;
	const size_t len = cluster_end(off, d->bytes) - off;
	int ret;

	/* Not in this file then, or put aside before. */
	if ((a->own && !map_has(a->own, cluster)) || atomic_load(&a->state[cluster]) != ASIDE_NOT)
		return;
	ret = pread_full(d->fd, d->scratch, len, off);
	if (ret == 0)
		ret = pwrite_full(a->fd, d->scratch, len, off);
	if (ret < 0)
		log_warn("disk: %zu bytes at %llu that a snapshot or fork has of it are lost: %s",
			 len, (unsigned long long)off, strerror(-ret));
	/* Before the disk has other bytes there. */
	atomic_store(&a->state[cluster], ret < 0 ? ASIDE_LOST : ASIDE_KEPT);
}

/* ---- reading and writing -------------------------------------------------------------------- */

int disk_read(struct disk *d, void *buf, size_t len, uint64_t off)
{
	const uint64_t end = off + len;
	uint8_t *p = buf;
	int ret = 0;

	if (!d->own)
		return pread_full(d->fd, buf, len, off);
	while (ret == 0 && off < end) {
		const uint64_t to = map_run(d->own, off, end);

		ret = map_has(d->own, off / DISK_CLUSTER)
			      ? pread_full(d->fd, p, to - off, off)
			      : disk_view_read(d->base, p, to - off, off);
		p += to - off;
		off = to;
	}
	return ret;
}

/* [off, off + len) is within one cluster that is still the base's. */
static int write_first(struct disk *d, const void *buf, size_t len, uint64_t off)
{
	const uint64_t cluster = off / DISK_CLUSTER, start = cluster * DISK_CLUSTER;
	const size_t whole = cluster_end(start, d->bytes) - start;
	int ret = len == whole ? 0 : disk_view_read(d->base, d->scratch, whole, start);

	if (ret < 0)
		return ret;
	memcpy(d->scratch + (off - start), buf, len);
	ret = pwrite_full(d->fd, d->scratch, whole, start);
	if (ret == 0)
		d->own[cluster / 8] |= (uint8_t)(1u << (cluster % 8));
	return ret;
}

static int write_clusters(struct disk *d, const uint8_t *p, uint64_t off, uint64_t end)
{
	int ret = 0;

	while (ret == 0 && off < end) {
		const uint64_t to = cluster_end(off, end), cluster = off / DISK_CLUSTER;

		for (unsigned i = 0; i < d->nasides; i++)
			put_aside(d, d->aside[i], cluster);
		ret = d->own && !map_has(d->own, cluster) ? write_first(d, p, to - off, off)
							  : pwrite_full(d->fd, p, to - off, off);
		p += to - off;
		off = to;
	}
	return ret;
}

int disk_write(struct disk *d, const void *buf, size_t len, uint64_t off)
{
	int ret;

	pthread_mutex_lock(&d->lock);
	drop_abandoned(d);
	if (!d->nasides && !d->own)
		ret = pwrite_full(d->fd, buf, len, off);
	else
		ret = write_clusters(d, buf, off, off + len);
	pthread_mutex_unlock(&d->lock);
	return ret;
}

int disk_flush(struct disk *d)
{
	if (d->own)
		return 0;
	return fdatasync(d->fd) < 0 ? -errno : 0;
}

/* ---- freezing ------------------------------------------------------------------------------- */

static int aside_new(const struct disk *d, const char *id, struct aside **out, int *hold_fd,
		     struct err *err)
{
	struct aside *a = calloc(1, sizeof(*a));
	int fd[2];

	*out = NULL;
	if (!a)
		return err_set(err, ENOMEM, "%s: out of memory", id);
	atomic_init(&a->refs, 1);
	a->watch_fd = -1;
	a->clusters = clusters_of(d->bytes);
	a->fd = temporary(id, d->bytes, err);
	if (a->fd < 0)
		goto fail;
	a->state = mmap(NULL, a->clusters, PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (a->state == MAP_FAILED) {
		a->state = NULL;
		err_errno(err, "%s: map memory for a frozen copy", id);
		goto fail;
	}
	if (d->own) {
		a->own = malloc(a->clusters / 8 + 1);
		if (!a->own) {
			err_set(err, ENOMEM, "%s: out of memory", id);
			goto fail;
		}
		memcpy(a->own, d->own, a->clusters / 8 + 1);
	}
	if (pipe2(fd, O_CLOEXEC) < 0) {
		err_errno(err, "%s: create pipe", id);
		goto fail;
	}
	a->watch_fd = fd[0];
	*hold_fd = fd[1];
	*out = a;
	return 0;
fail:
	aside_put(a);
	return -err->code;
}

static int freeze(struct disk *d, const char *id, struct disk_view **out, struct err *err)
{
	cleanup_fd int fd = -1, hold = -1;
	struct aside *a;
	int ret;

	if (d->nasides == DISK_VIEWS_MAX)
		return err_set(err, EBUSY,
			       "%s: %d snapshots being written and groups of forked machines look "
			       "into it already; wait for some to end",
			       id, DISK_VIEWS_MAX);
	if (d->base && d->base->depth == DISK_DEPTH_MAX)
		return err_set(err, EBUSY,
			       "%s: is a fork of a fork, %d deep; snapshot the machine and restore "
			       "that instead",
			       id, DISK_DEPTH_MAX);
	fd = fcntl(d->fd, F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		return err_errno(err, "%s: keep it open", id);
	ret = aside_new(d, id, &a, &hold, err);
	if (ret < 0)
		return ret;
	ret = disk_view_of_file(steal_fd(&fd), d->bytes, out, err);
	if (ret < 0) {
		aside_put(a);
		return ret;
	}
	atomic_fetch_add(&a->refs, 1);
	(*out)->aside = a;
	(*out)->hold_fd = steal_fd(&hold);
	if (d->base) {
		(*out)->base = disk_view_get(d->base);
		(*out)->depth = d->base->depth + 1;
	}
	d->aside[d->nasides++] = a;
	return 0;
}

int disk_freeze(struct disk *d, const char *id, struct disk_view **out, struct err *err)
{
	int ret;

	*out = NULL;
	pthread_mutex_lock(&d->lock);
	drop_abandoned(d);
	ret = freeze(d, id, out, err);
	pthread_mutex_unlock(&d->lock);
	return ret;
}
