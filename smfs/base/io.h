/*
 * io.h - whole reads and writes: EINTR and short counts handled once, here.
 * All return 0 (or a count where said) or a negative errno; none fills an err, the caller knows
 * the path.
 */
#ifndef SMFS_BASE_IO_H
#define SMFS_BASE_IO_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct err;

/* Exactly `n` bytes or -EIO at end of file (-errno otherwise). */
int read_full(int fd, void *buf, size_t n);
int pread_full(int fd, void *buf, size_t n, uint64_t off);
int write_full(int fd, const void *buf, size_t n);
int pwrite_full(int fd, const void *buf, size_t n, uint64_t off);

/* As many as there are up to `n`: the count (less than n only at end of file) or -errno. */
ssize_t pread_upto(int fd, void *buf, size_t n, uint64_t off);

/*
 * The whole of a file of at most `max` bytes, NUL-terminated, in *out (caller frees). *len may
 * be NULL. -EFBIG above max.
 */
int read_file(int dirfd, const char *path, size_t max, char **out, size_t *len, struct err *err);

/*
 * Replace `path` durably: temporary beside it, fsync, rename, fsync of the directory.
 * A reader sees the old content or the new, never a mixture.
 */
int write_file_atomic(int dirfd, const char *path, const void *data, size_t len, unsigned mode,
		      struct err *err);

/* Close every descriptor above standard error but the `n` in `keep`, of which any may be -1. */
void close_fds_except(const int *keep, size_t n);

#endif
