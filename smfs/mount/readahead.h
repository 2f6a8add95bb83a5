/*
 * readahead.h - decode ahead of a sequential reader, so that all cores work for it.
 *
 * The kernel asks for 128 KiB at a time and for one or two of them at once; decompressing and
 * hashing that is one core's work. Once a handle has read a few such blocks in a row, the next
 * blocks are decoded by a pool of threads into buffers of the handle. For a handle that reads at
 * random nothing is decoded ahead, but the pool shares the work of a read. Any thread.
 */
#ifndef SMFS_MOUNT_READAHEAD_H
#define SMFS_MOUNT_READAHEAD_H

#include "smfs/mount/fs.h"

int readahead_pool_new(struct readahead_pool **out, struct err *err);
/* After every handle was released. */
void readahead_pool_free(struct readahead_pool *p);

/* smfs_file_pread() for an open handle, of what readahead_lend() did not have. */
ssize_t readahead_pread(struct smfs_mount *m, struct handle *h, struct smfs_file *f, void *buf,
			size_t len, uint64_t off, struct err *err);
/*
 * Asked first for every read. The bytes at `off` where they were decoded ahead to, or zeros for a
 * hole, *len cut at the end of the file; NULL if they were not, or lie in two blocks. Then
 * readahead_take_back(), with the same `off`.
 */
const void *readahead_lend(struct smfs_mount *m, struct handle *h, struct smfs_file *f, size_t *len,
			   uint64_t off);
void readahead_take_back(struct smfs_mount *m, struct handle *h, const void *p, uint64_t off);
/* Waits for what is being decoded for the handle; NULL is fine. */
void readahead_free(struct readahead *ra);

#endif
