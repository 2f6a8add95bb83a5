/*
 * readahead.h - decode ahead of a sequential reader, so that more than one core works for it.
 */
#ifndef SMFS_MOUNT_READAHEAD_H
#define SMFS_MOUNT_READAHEAD_H

#include "smfs/mount/fs.h"

/* smfs_file_pread() of an open handle. Any thread. */
ssize_t readahead_pread(struct smfs_mount *m, struct handle *h, struct smfs_file *f, void *buf,
			size_t len, uint64_t off, struct err *err);
void readahead_free(struct readahead *ra);

#endif
