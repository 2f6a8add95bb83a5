#include "smfs/base/io.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/err.h"

#include <fcntl.h>
#include <libgen.h>
#include <string.h>
#include <sys/stat.h>

ssize_t pread_upto(int fd, void *buf, size_t n, uint64_t off)
{
	size_t done = 0;

	while (done < n) {
		ssize_t r = pread(fd, (char *)buf + done, n - done, (off_t)(off + done));

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		if (r == 0)
			break;
		done += r;
	}
	return (ssize_t)done;
}

int pread_full(int fd, void *buf, size_t n, uint64_t off)
{
	ssize_t r = pread_upto(fd, buf, n, off);

	if (r < 0)
		return (int)r;
	return (size_t)r == n ? 0 : -EIO;
}

int read_full(int fd, void *buf, size_t n)
{
	size_t done = 0;

	while (done < n) {
		ssize_t r = read(fd, (char *)buf + done, n - done);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		if (r == 0)
			return -EIO;
		done += r;
	}
	return 0;
}

int write_full(int fd, const void *buf, size_t n)
{
	size_t done = 0;

	while (done < n) {
		ssize_t r = write(fd, (const char *)buf + done, n - done);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		done += r;
	}
	return 0;
}

int pwrite_full(int fd, const void *buf, size_t n, uint64_t off)
{
	size_t done = 0;

	while (done < n) {
		ssize_t r = pwrite(fd, (const char *)buf + done, n - done, (off_t)(off + done));

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		done += r;
	}
	return 0;
}

int read_file(int dirfd, const char *path, size_t max, char **out, size_t *len, struct err *err)
{
	cleanup_fd int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC);
	cleanup_free char *buf = NULL;
	size_t cap = 0, n = 0;

	if (fd < 0)
		return err_errno(err, "open %s", path);
	for (;;) {
		if (n == cap) {
			size_t want = cap ? cap * 2 : 4096;
			char *p;

			if (cap > max)
				return err_set(err, EFBIG, "read %s: larger than %zu bytes", path,
					       max);
			p = realloc(buf, want + 1);
			if (!p)
				return err_set(err, ENOMEM, "read %s: out of memory", path);
			buf = p;
			cap = want;
		}
		ssize_t r = read(fd, buf + n, cap - n);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return err_errno(err, "read %s", path);
		if (r == 0)
			break;
		n += r;
	}
	if (n > max)
		return err_set(err, EFBIG, "read %s: larger than %zu bytes", path, max);
	buf[n] = '\0';
	*out = steal_ptr(&buf);
	if (len)
		*len = n;
	return 0;
}

int write_file_atomic(int dirfd, const char *path, const void *data, size_t len, unsigned mode,
		      struct err *err)
{
	cleanup_free char *tmp = NULL, *dup = strdup(path);
	int r;

	if (!dup || asprintf(&tmp, "%s.tmp.%d", path, (int)getpid()) < 0)
		return err_set(err, ENOMEM, "write %s: out of memory", path);
	cleanup_fd int fd = openat(dirfd, tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
	if (fd < 0)
		return err_errno(err, "create %s", tmp);
	r = write_full(fd, data, len);
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	if (r == 0 && renameat(dirfd, tmp, dirfd, path) < 0)
		r = -errno;
	if (r < 0) {
		unlinkat(dirfd, tmp, 0);
		errno = -r;
		return err_errno(err, "write %s", path);
	}
	cleanup_fd int dfd = openat(dirfd, dirname(dup), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dfd < 0 || fsync(dfd) < 0)
		return err_errno(err, "sync directory of %s", path);
	return 0;
}

void close_fds_except(const int *keep, size_t n)
{
	unsigned from = STDERR_FILENO + 1;

	for (;;) {
		unsigned next = ~0u;

		for (size_t i = 0; i < n; i++)
			if (keep[i] >= 0 && (unsigned)keep[i] >= from && (unsigned)keep[i] < next)
				next = (unsigned)keep[i];
		if (next > from)
			close_range(from, next == ~0u ? ~0u : next - 1, 0);
		if (next == ~0u)
			return;
		from = next + 1;
	}
}
