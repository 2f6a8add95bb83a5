/*
 * disk.h - the bytes behind a guest's disk, and what they were at one instant.
 *
 * A struct disk is either a file or block device of the host, written in place and locked (flock:
 * shared for a read-only disk, exclusive otherwise) as long as it or a view of it is open; or a
 * private copy of a view: clusters of DISK_CLUSTER bytes that have been written are in a file of
 * its own, without a name, all others are the view's. A private disk ends with its machine, so it
 * owes nobody a flush.
 *
 * A struct disk_view is a disk frozen: it reads the same for ever, whatever is written to the disk
 * since, and after the disk is gone. It costs no copy when it is made. From then on, before a
 * cluster is overwritten for the first time, its old bytes are put aside into a file that the view
 * looks into; who has put aside what is told in memory that both share. A view is inherited through
 * fork(2) and works in the child, which makes it what a forked machine's private disk is based on
 * and what the process writing a live snapshot reads. A reader needs no lock: it reads the disk,
 * then asks whether the cluster was put aside meanwhile.
 *
 * A disk keeps putting aside as long as any process has the view open, which it learns from a pipe.
 * There are at most DISK_VIEWS_MAX such views of a disk at once, and DISK_DEPTH_MAX disks below one
 * another; more are refused. Where old bytes cannot be put aside (no room) the view loses that
 * cluster, EIO to its reader: the disk's own guest goes on.
 *
 * THREADS. A disk is read and written by one thread. It is frozen by any, with nothing in flight.
 * Views may be read by any number of threads.
 *
 * Files are made in $SMVM_CACHE_DIR or /var/cache/smvm. Offsets and lengths are within the size.
 */
#ifndef RUNNER_DEVICES_DISK_H
#define RUNNER_DEVICES_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "smfs/base/err.h"

#define DISK_SECTOR    512u
#define DISK_CLUSTER   (64u << 10)
#define DISK_VIEWS_MAX 16
#define DISK_DEPTH_MAX 8
/* Descriptors of one view at most. */
#define DISK_VIEW_FDS (3 * DISK_DEPTH_MAX)

struct disk;
struct disk_view;

/* `id` is for messages. EAGAIN: it is somebody else's disk. */
int disk_open(const char *id, const char *path, bool readonly, struct disk **out, struct err *err);
/* A private disk; takes a reference of `base`. */
int disk_private(const char *id, struct disk_view *base, struct disk **out, struct err *err);
void disk_free(struct disk *d);

/* Whole sectors: an odd tail of the file is out of reach. */
uint64_t disk_bytes(const struct disk *d);
bool disk_readonly(const struct disk *d);

/* 0 or a negative errno. */
int disk_read(struct disk *d, void *buf, size_t len, uint64_t off);
int disk_write(struct disk *d, const void *buf, size_t len, uint64_t off);
int disk_flush(struct disk *d);

/* EBUSY: too many views, or too deep. */
int disk_freeze(struct disk *d, const char *id, struct disk_view **out, struct err *err);

/* A file that nobody changes; the descriptor is taken over in any case. */
int disk_view_of_file(int fd, uint64_t bytes, struct disk_view **out, struct err *err);
struct disk_view *disk_view_get(struct disk_view *v);
void disk_view_put(struct disk_view *v); /* NULL is fine */
uint64_t disk_view_bytes(const struct disk_view *v);
int disk_view_read(const struct disk_view *v, void *buf, size_t len, uint64_t off);

/*
 * The bytes from `off` on, `len` of them: all of one kind. `own`: written since the file at the
 * bottom was taken for a disk, so that without it they are the file's. `data`: may be anything but
 * zeros.
 */
struct disk_run {
	uint64_t len;
	bool own, data;
};
int disk_view_run(const struct disk_view *v, uint64_t off, struct disk_run *out, struct err *err);
/* That file, -1 if there is none that does not change. */
int disk_view_origin(const struct disk_view *v);

/* The view's descriptors, which a child that closes others is to keep: how many, at most
 * DISK_VIEW_FDS. */
unsigned disk_view_fds(const struct disk_view *v, int *fds);

#endif
