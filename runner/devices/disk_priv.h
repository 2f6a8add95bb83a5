/* disk_priv.h - what a disk and its views share. */
#ifndef RUNNER_DEVICES_DISK_PRIV_H
#define RUNNER_DEVICES_DISK_PRIV_H

#include <stdatomic.h>

#include "runner/devices/disk.h"
#include "smfs/base/num.h"

/* Of a cluster of a frozen disk: as it was, put aside, or lost. */
enum { ASIDE_NOT, ASIDE_KEPT, ASIDE_LOST };

/* Between a disk and one view of it. Two references in the process that made it. */
struct aside {
	atomic_uint refs;
	int fd; /* old clusters, at their offsets */
	/* One byte per cluster; shared memory, so that a forked child sees what is put aside. */
	_Atomic uint8_t *state;
	uint64_t clusters;
	uint8_t *own; /* the disk's map when it was frozen, NULL without one */
	int watch_fd; /* end of file once no process has the view */
};

struct disk_view {
	atomic_uint refs;
	int fd;
	uint64_t bytes;
	unsigned depth;		/* of disks below it, itself counted */
	struct disk_view *base; /* of a private disk: what is not in `fd` */
	struct aside *aside;	/* NULL: the file never changes */
	int hold_fd;		/* the other end of aside->watch_fd, -1 without */
};

static inline uint64_t clusters_of(uint64_t bytes)
{
	return (bytes + DISK_CLUSTER - 1) / DISK_CLUSTER;
}

/* Of the cluster at `off` what lies before `end`. */
static inline uint64_t cluster_end(uint64_t off, uint64_t end)
{
	return MIN((off / DISK_CLUSTER + 1) * DISK_CLUSTER, end);
}

static inline bool map_has(const uint8_t *map, uint64_t cluster)
{
	return map[cluster / 8] >> (cluster % 8) & 1;
}

/* From `off`, the end of the run of clusters that are all in `map`, or all not; at most `end`. */
static inline uint64_t map_run(const uint8_t *map, uint64_t off, uint64_t end)
{
	const bool in = map_has(map, off / DISK_CLUSTER);
	uint64_t at = off;

	while (at < end && map_has(map, at / DISK_CLUSTER) == in)
		at = cluster_end(at, end);
	return at;
}

void aside_put(struct aside *a);

#endif
