#include "smfs/store/spare.h"

#include "smfs/base/cleanup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A content's id in hex, "-", its size. */
#define ID_HEX 64

struct spare {
	char name[ID_HEX + 24];
	int64_t used; /* ns */
	uint64_t bytes;
};

bool spare_is_file(const char *name)
{
	size_t n = strlen(name);

	return n > ID_HEX + 1 && n < sizeof(((struct spare *)0)->name) && name[ID_HEX] == '-';
}

bool spare_is_used(int fd)
{
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	return fcntl(fd, F_OFD_GETLK, &l) == 0 && l.l_type != F_UNLCK;
}

int spare_drop(int cachefd, const char *name)
{
	cleanup_fd int fd =
		openat(cachefd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOATIME);

	if (fd < 0)
		return -errno;
	/* Who marks it between these two has a file without a name: whole, and soon gone. */
	if (spare_is_used(fd))
		return -EBUSY;
	return unlinkat(cachefd, name, 0) < 0 ? -errno : 0;
}

static int by_use(const void *a, const void *b)
{
	const struct spare *x = a, *y = b;

	return (x->used > y->used) - (x->used < y->used);
}

/* As much of a list as there is memory for. */
static struct spare *list(int storefd, int *cachefd, size_t *n)
{
	struct spare *v = NULL;
	size_t cap = 0;
	struct dirent *de;

	*n = 0;
	*cachefd = openat(storefd, "cache", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	int dup = *cachefd < 0 ? -1 : openat(*cachefd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cleanup_dir DIR *d = dup < 0 ? NULL : fdopendir(dup);
	while (d && (de = readdir(d))) {
		struct stat st;

		if (!spare_is_file(de->d_name) ||
		    fstatat(*cachefd, de->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		if (*n == cap) {
			cap = cap ? cap * 2 : 64;
			struct spare *more = reallocarray(v, cap, sizeof(*v));
			if (!more)
				break;
			v = more;
		}
		struct spare *s = &v[(*n)++];
		snprintf(s->name, sizeof(s->name), "%s", de->d_name);
		s->used = (int64_t)st.st_atim.tv_sec * 1000000000 + st.st_atim.tv_nsec;
		s->bytes = (uint64_t)st.st_blocks * 512;
	}
	return v;
}

uint64_t spare_bytes(int storefd)
{
	cleanup_fd int cachefd = -1;
	uint64_t sum = 0;
	size_t n;
	cleanup_free struct spare *v = list(storefd, &cachefd, &n);

	for (size_t i = 0; i < n; i++)
		sum += v[i].bytes;
	return sum;
}

uint64_t spare_free(int storefd, uint64_t bytes)
{
	cleanup_fd int cachefd = -1;
	uint64_t gone = 0;
	size_t n;
	cleanup_free struct spare *v = list(storefd, &cachefd, &n);

	if (n)
		qsort(v, n, sizeof(*v), by_use);
	for (size_t i = 0; i < n && gone < bytes; i++)
		if (spare_drop(cachefd, v[i].name) == 0)
			gone += v[i].bytes;
	return gone;
}
