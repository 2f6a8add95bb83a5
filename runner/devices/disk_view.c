/* disk_view.c - reading a disk as it was. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runner/devices/disk_priv.h"
#include "smfs/base/io.h"

/* ---- life ----------------------------------------------------------------------------------- */

void aside_put(struct aside *a)
{
	if (!a || atomic_fetch_sub(&a->refs, 1) != 1)
		return;
	if (a->state)
		munmap((void *)(uintptr_t)a->state, a->clusters);
	if (a->fd >= 0)
		close(a->fd);
	if (a->watch_fd >= 0)
		close(a->watch_fd);
	free(a->own);
	free(a);
}

int disk_view_of_file(int fd, uint64_t bytes, struct disk_view **out, struct err *err)
{
	struct disk_view *v = calloc(1, sizeof(*v));

	*out = v;
	if (!v) {
		close(fd);
		return err_set(err, ENOMEM, "disk: out of memory");
	}
	atomic_init(&v->refs, 1);
	v->fd = fd;
	v->bytes = bytes;
	v->depth = 1;
	v->hold_fd = -1;
	return 0;
}

struct disk_view *disk_view_get(struct disk_view *v)
{
	atomic_fetch_add(&v->refs, 1);
	return v;
}

void disk_view_put(struct disk_view *v)
{
	if (!v || atomic_fetch_sub(&v->refs, 1) != 1)
		return;
	disk_view_put(v->base);
	aside_put(v->aside);
	if (v->hold_fd >= 0)
		close(v->hold_fd);
	if (v->fd >= 0)
		close(v->fd);
	free(v);
}

uint64_t disk_view_bytes(const struct disk_view *v)
{
	return v->bytes;
}

static const uint8_t *map_of(const struct disk_view *v)
{
	return v->aside ? v->aside->own : NULL;
}

unsigned disk_view_fds(const struct disk_view *v, int *fds)
{
	unsigned n = 0;

	for (; v; v = v->base) {
		fds[n++] = v->fd;
		fds[n++] = v->hold_fd;
		fds[n++] = v->aside ? v->aside->fd : -1;
	}
	return n;
}

int disk_view_origin(const struct disk_view *v)
{
	while (v->base)
		v = v->base;
	return v->aside ? -1 : v->fd;
}

/* ---- reading -------------------------------------------------------------------------------- */

/* [off, off + len) is within a cluster, which was in the disk's own file. */
static int read_cluster(const struct disk_view *v, void *buf, size_t len, uint64_t off)
{
	int ret = pread_full(v->fd, buf, len, off);
	uint8_t state;

	if (!v->aside)
		return ret;
	/*
	 * Whoever overwrites it says so before: what is not said now has not been read above. This
	 * changes nothing, and is ordered after the reading, which a mere load need not be.
	 */
	state = atomic_fetch_or(&v->aside->state[off / DISK_CLUSTER], 0);
	if (state == ASIDE_KEPT)
		return pread_full(v->aside->fd, buf, len, off);
	return state == ASIDE_LOST ? -EIO : ret;
}

int disk_view_read(const struct disk_view *v, void *buf, size_t len, uint64_t off)
{
	const uint64_t end = off + len;
	uint8_t *p = buf;
	int ret = 0;

	while (ret == 0 && off < end) {
		const uint8_t *map = map_of(v);
		const uint64_t to = cluster_end(off, end);

		if (map && !map_has(map, off / DISK_CLUSTER))
			ret = disk_view_read(v->base, p, to - off, off);
		else
			ret = read_cluster(v, p, to - off, off);
		p += to - off;
		off = to;
	}
	return ret;
}

/* ---- what there is -------------------------------------------------------------------------- */

/* Data or hole from `off` on in a file; a device that cannot tell is all data. */
static int file_run(int fd, uint64_t off, uint64_t end, struct disk_run *out, struct err *err)
{
	off_t at = lseek(fd, (off_t)off, SEEK_DATA);

	out->data = true;
	out->len = end - off;
	if (at < 0 && errno == EINVAL)
		return 0;
	if (at < 0 && errno != ENXIO)
		return err_errno(err, "disk: seek data");
	if (at < 0 || (uint64_t)at >= end) {
		out->data = false;
		return 0;
	}
	if ((uint64_t)at > off) {
		out->data = false;
		out->len = (uint64_t)at - off;
		return 0;
	}
	at = lseek(fd, (off_t)off, SEEK_HOLE);
	if (at < 0)
		return err_errno(err, "disk: seek hole");
	if ((uint64_t)at > off)
		out->len = MIN((uint64_t)at, end) - off;
	return 0;
}

/*
 * A hole of a frozen disk's file can become data when it is overwritten, never the other way: what
 * is said to be data may then be zeros put aside.
 */
int disk_view_run(const struct disk_view *v, uint64_t off, struct disk_run *out, struct err *err)
{
	uint64_t end = v->bytes;

	*out = (struct disk_run){0};
	for (const uint8_t *map; (map = map_of(v)) != NULL; v = v->base) {
		end = map_run(map, off, end);
		if (map_has(map, off / DISK_CLUSTER)) {
			out->own = true;
			break;
		}
	}
	return file_run(v->fd, off, end, out, err);
}
