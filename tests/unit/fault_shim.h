/*
 * fault_shim.h - the system calls by which a store is read and changed, interposed.
 *
 * The one source file of a test program that includes this defines the C library's wrappers anew,
 * and so for liblmdb, too; each under the name the compiler gives it for 64-bit offsets and under
 * the plain one. Calls outside `shim.root`, or while it is not armed, pass through.
 *
 *   FAULTS   The `at`-th call fails, comes back short, or is the process's last. What each call was
 * is noted in `calls`, so that a test runs only faults that can be. SYNCS    Syncs of the classes
 * in `skip` do nothing, as if the code had forgotten them. ORDER    A file with bytes since its
 * last sync and a directory with entries since its own are *unsynced*. shim_unsynced() counts them
 * where an operation is acknowledged: a stricter disk than any, since real file systems sync more
 * than they are asked to. And nothing of packs/ may be destroyed while there is any.
 */
#ifndef TESTS_UNIT_FAULT_SHIM_H
#define TESTS_UNIT_FAULT_SHIM_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum shim_fault {
	SHIM_NONE,
	SHIM_EIO,
	SHIM_ENOSPC,
	SHIM_SHORT, /* half of a write, or of a read */
	SHIM_KILL,  /* the process ends before the call */
	SHIM_TORN,  /* the process ends in the middle of a write */
	SHIM_FAULTS
};

/* What a call is. */
#define CALL_READ  1u
#define CALL_WRITE 2u /* of data */
#define CALL_GROW  4u /* may find the disk full */
#define CALL_SYNC  8u
#define CALL_ENTRY 16u /* of a directory */

/* Classes of syncs. */
#define SYNC_PACK      1u
#define SYNC_PACKS_DIR 2u
#define SYNC_JOURNAL   4u
#define SYNC_INDEX     8u  /* LMDB's data pages */
#define SYNC_META      16u /* LMDB's meta page, written through O_DSYNC */
#define SYNC_OTHER     32u

#define SHIM_CALLS_MAX	  65536u
#define SHIM_UNSYNCED_MAX 64

static struct {
	char root[PATH_MAX];
	size_t root_len;
	atomic_bool armed;
	enum shim_fault fault;
	uint64_t at;
	bool sticky;  /* every call from there on */
	pid_t victim; /* of SHIM_KILL; 0: who makes the call */
	atomic_uint_fast64_t count;
	uint8_t *calls; /* SHIM_CALLS_MAX, or NULL; call n at [n - 1] */
	unsigned skip;
	bool track;
	pthread_mutex_t lock; /* of what follows */
	char *unsynced[SHIM_UNSYNCED_MAX];
	unsigned nunsynced;
	char early[2 * PATH_MAX + 32]; /* what was destroyed too early */
} shim = {.lock = PTHREAD_MUTEX_INITIALIZER};

#define SHIM_API __attribute__((visibility("default")))

static inline void shim_root(const char *dir)
{
	if (!realpath(dir, shim.root))
		abort();
	shim.root_len = strlen(shim.root);
}

/* ---- which file a call is about ---- */

/* The path below the root in `out`, or false. */
static inline bool shim_of_fd(int fd, char out[PATH_MAX])
{
	char link[32];

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, out, PATH_MAX - 1);
	if (n < (ssize_t)shim.root_len)
		return false;
	out[n] = '\0';
	return strncmp(out, shim.root, shim.root_len) == 0 &&
	       (out[shim.root_len] == '/' || !out[shim.root_len]);
}

static inline bool shim_of_path(int dirfd, const char *path, char out[PATH_MAX])
{
	char dir[PATH_MAX];

	if (*path == '/') {
		snprintf(out, PATH_MAX, "%s", path);
		return strncmp(path, shim.root, shim.root_len) == 0 && path[shim.root_len] == '/';
	}
	if (dirfd == AT_FDCWD || !shim_of_fd(dirfd, dir))
		return false;
	return snprintf(out, PATH_MAX, "%s/%s", dir, path) < PATH_MAX;
}

static inline bool shim_ends(const char *path, const char *tail)
{
	size_t n = strlen(path), t = strlen(tail);

	return n >= t && strcmp(path + n - t, tail) == 0;
}

static inline unsigned shim_sync_class(const char *path)
{
	return shim_ends(path, ".pack")	      ? SYNC_PACK
	       : shim_ends(path, "/packs")    ? SYNC_PACKS_DIR
	       : shim_ends(path, "/journal")  ? SYNC_JOURNAL
	       : shim_ends(path, "/data.mdb") ? SYNC_INDEX
					      : SYNC_OTHER;
}

/* ---- unsynced files and directories ---- */

/* What a power cut may take without harm: locks, a note of what was proven, files being made. */
static inline bool shim_volatile(const char *path)
{
	return shim_ends(path, "/lock.mdb") || shim_ends(path, "/seal") ||
	       shim_ends(path, "/lock") || strstr(path, "/tmp/") || shim_ends(path, "/tmp");
}

static inline void shim_mark(const char *path, bool dirty)
{
	unsigned i = 0;

	if (!shim.track || shim_volatile(path))
		return;
	pthread_mutex_lock(&shim.lock);
	while (i < shim.nunsynced && strcmp(shim.unsynced[i], path) != 0)
		i++;
	if (dirty && i == shim.nunsynced && i < SHIM_UNSYNCED_MAX) {
		shim.unsynced[shim.nunsynced++] = strdup(path);
	} else if (!dirty && i < shim.nunsynced) {
		free(shim.unsynced[i]);
		shim.unsynced[i] = shim.unsynced[--shim.nunsynced];
	}
	pthread_mutex_unlock(&shim.lock);
}

static inline void shim_mark_dir_of(const char *path)
{
	char dir[PATH_MAX];
	char *slash;

	if (shim_volatile(path))
		return;
	snprintf(dir, sizeof(dir), "%s", path);
	slash = strrchr(dir, '/');
	if (slash) {
		*slash = '\0';
		shim_mark(dir, true);
	}
}

/* A file goes, or gets another name: its bytes are nobody's, or the new name's. */
static inline void shim_moved(const char *from, const char *to)
{
	bool dirty = to && strstr(from, "/tmp/"); /* what is made in tmp/ was not watched */

	pthread_mutex_lock(&shim.lock);
	for (unsigned i = 0; i < shim.nunsynced; i++)
		dirty |= strcmp(shim.unsynced[i], from) == 0;
	pthread_mutex_unlock(&shim.lock);
	shim_mark(from, false);
	if (to) {
		if (dirty)
			shim_mark(to, true);
		shim_mark_dir_of(to);
	}
}

static inline unsigned shim_unsynced(void)
{
	for (unsigned i = 0; i < shim.nunsynced; i++)
		fprintf(stderr, "# unsynced: %s\n", shim.unsynced[i]);
	return shim.nunsynced;
}

/* Bytes of a pack are about to go; packs of which nobody was told yet may. */
static inline void shim_destroys(const char *path)
{
	if (!shim.track || !strstr(path, "/packs/"))
		return;
	pthread_mutex_lock(&shim.lock);
	for (unsigned i = 0; i < shim.nunsynced; i++)
		if (strcmp(shim.unsynced[i], path) != 0)
			snprintf(shim.early, sizeof(shim.early), "%s before a sync of %s", path,
				 shim.unsynced[i]);
	pthread_mutex_unlock(&shim.lock);
}

/* ---- faults ---- */

enum { GO_ON = 0, HALF = -1, HALF_AND_END = -2 }; /* or a positive errno */

static inline int shim_before(unsigned what)
{
	uint64_t n = atomic_fetch_add(&shim.count, 1) + 1;

	if (shim.calls && n <= SHIM_CALLS_MAX)
		shim.calls[n - 1] = (uint8_t)what;
	if (n != shim.at && !(shim.sticky && n > shim.at))
		return GO_ON;
	switch (shim.fault) {
	case SHIM_EIO:
		return EIO;
	case SHIM_ENOSPC:
		return what & CALL_GROW ? ENOSPC : GO_ON;
	case SHIM_SHORT:
		return what & (CALL_READ | CALL_WRITE) ? HALF : GO_ON;
	case SHIM_TORN:
		if (what & CALL_WRITE)
			return HALF_AND_END;
		/* fall through */
	case SHIM_KILL:
		kill(shim.victim ? shim.victim : getpid(), SIGKILL);
		/* fall through */
	default:
		return GO_ON;
	}
}

/* Can the fault happen at a call of this kind? */
static inline bool shim_applies(enum shim_fault f, unsigned what)
{
	return f == SHIM_ENOSPC	 ? what & CALL_GROW
	       : f == SHIM_SHORT ? what & (CALL_READ | CALL_WRITE)
	       : f == SHIM_TORN	 ? what & CALL_WRITE
				 : true;
}

static inline ssize_t shim_refuse(int e)
{
	errno = e;
	return -1;
}

/* ---- data ---- */

static inline ssize_t shim_io(long nr, int fd, void *p, size_t len, off_t off, bool writes)
{
	char path[PATH_MAX];
	int v;

	if (!atomic_load(&shim.armed) || !shim_of_fd(fd, path))
		return syscall(nr, fd, p, len, off);
	v = shim_before(writes ? CALL_WRITE | CALL_GROW : CALL_READ);
	if (v > 0)
		return shim_refuse(v);
	if (v == HALF && len > 1)
		len /= 2;
	if (writes && !(fcntl(fd, F_GETFL) & O_DSYNC))
		shim_mark(path, true);
	if (v == HALF_AND_END) {
		syscall(nr, fd, p, len / 2, off);
		kill(getpid(), SIGKILL);
	}
	return syscall(nr, fd, p, len, off);
}

/* A vector is halved by writing its first half of parts, or half of its only one. */
static inline ssize_t shim_iov(long nr, int fd, const struct iovec *v, int n, off_t off)
{
	char path[PATH_MAX];
	int f;

	if (!atomic_load(&shim.armed) || !shim_of_fd(fd, path))
		return syscall(nr, fd, v, n, off, 0);
	f = shim_before(CALL_WRITE | CALL_GROW);
	if (f > 0)
		return shim_refuse(f);
	if (!(fcntl(fd, F_GETFL) & O_DSYNC))
		shim_mark(path, true);
	if (f == GO_ON)
		return syscall(nr, fd, v, n, off, 0);
	ssize_t done = n > 1 ? syscall(nr, fd, v, n / 2, off, 0)
			     : syscall(SYS_pwrite64, fd, v->iov_base, (v->iov_len + 1) / 2, off);
	if (f == HALF_AND_END)
		kill(getpid(), SIGKILL);
	return done;
}

SHIM_API ssize_t pread(int fd, void *p, size_t n, off_t off)
{
	return shim_io(SYS_pread64, fd, p, n, off, false);
}
SHIM_API ssize_t shim_plain_pread(int fd, void *p, size_t n, off_t off) __asm__("pread");
ssize_t shim_plain_pread(int fd, void *p, size_t n, off_t off)
{
	return pread(fd, p, n, off);
}

SHIM_API ssize_t pwrite(int fd, const void *p, size_t n, off_t off)
{
	return shim_io(SYS_pwrite64, fd, (void *)p, n, off, true);
}
SHIM_API ssize_t shim_plain_pwrite(int fd, const void *p, size_t n, off_t off) __asm__("pwrite");
ssize_t shim_plain_pwrite(int fd, const void *p, size_t n, off_t off)
{
	return pwrite(fd, p, n, off);
}

SHIM_API ssize_t write(int fd, const void *p, size_t n)
{
	return shim_io(SYS_write, fd, (void *)p, n, 0, true);
}

SHIM_API ssize_t pwritev(int fd, const struct iovec *v, int n, off_t off)
{
	return shim_iov(SYS_pwritev, fd, v, n, off);
}
SHIM_API ssize_t shim_plain_pwritev(int fd, const struct iovec *v, int n,
				    off_t off) __asm__("pwritev");
ssize_t shim_plain_pwritev(int fd, const struct iovec *v, int n, off_t off)
{
	return pwritev(fd, v, n, off);
}

/* ---- sizes ---- */

SHIM_API int ftruncate(int fd, off_t len)
{
	char path[PATH_MAX];
	struct stat st;
	int v;

	if (!atomic_load(&shim.armed) || !shim_of_fd(fd, path))
		return (int)syscall(SYS_ftruncate, fd, len);
	v = shim_before(CALL_GROW);
	if (v > 0)
		return (int)shim_refuse(v);
	/* What is cut off was never acknowledged; a file of that size already does not change. */
	if (fstat(fd, &st) == 0 && st.st_size != len)
		shim_mark(path, true);
	return (int)syscall(SYS_ftruncate, fd, len);
}
SHIM_API int shim_plain_ftruncate(int fd, off_t len) __asm__("ftruncate");
int shim_plain_ftruncate(int fd, off_t len)
{
	return ftruncate(fd, len);
}

SHIM_API int fallocate(int fd, int mode, off_t off, off_t len)
{
	char path[PATH_MAX];
	int v;

	if (!atomic_load(&shim.armed) || !shim_of_fd(fd, path))
		return (int)syscall(SYS_fallocate, fd, mode, off, len);
	v = shim_before(CALL_GROW);
	if (v > 0)
		return (int)shim_refuse(v);
	if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE | FALLOC_FL_COLLAPSE_RANGE))
		shim_destroys(path);
	else
		shim_mark(path, true);
	return (int)syscall(SYS_fallocate, fd, mode, off, len);
}
SHIM_API int shim_plain_fallocate(int fd, int mode, off_t off, off_t len) __asm__("fallocate");
int shim_plain_fallocate(int fd, int mode, off_t off, off_t len)
{
	return fallocate(fd, mode, off, len);
}

/* ---- syncs ---- */

static inline int shim_sync(long nr, int fd)
{
	char path[PATH_MAX];
	int v;

	if (!atomic_load(&shim.armed) || !shim_of_fd(fd, path))
		return (int)syscall(nr, fd);
	v = shim_before(CALL_SYNC | CALL_GROW);
	if (v > 0)
		return (int)shim_refuse(v);
	if (shim.skip & shim_sync_class(path))
		return 0;
	int r = (int)syscall(nr, fd);
	if (r == 0)
		shim_mark(path, false);
	return r;
}

SHIM_API int fsync(int fd)
{
	return shim_sync(SYS_fsync, fd);
}

SHIM_API int fdatasync(int fd)
{
	return shim_sync(SYS_fdatasync, fd);
}

/* ---- entries ---- */

static int shim_open(int dirfd, const char *name, int flags, unsigned mode)
{
	char path[PATH_MAX];
	int v = GO_ON;

	if (!atomic_load(&shim.armed) || !shim_of_path(dirfd, name, path))
		return (int)syscall(SYS_openat, dirfd, name, flags, mode);
	bool makes = flags & O_CREAT && access(path, F_OK) < 0;
	v = shim_before(makes ? CALL_ENTRY | CALL_GROW : CALL_ENTRY);
	if (v > 0)
		return (int)shim_refuse(v);
	if (shim.skip & SYNC_META && shim_ends(path, "/data.mdb"))
		flags &= ~O_DSYNC;
	int fd = (int)syscall(SYS_openat, dirfd, name, flags, mode);
	if (fd >= 0 && makes) {
		shim_mark_dir_of(path);
		shim_mark(path, true);
	}
	return fd;
}

#define SHIM_MODE(flags)                                 \
	({                                               \
		unsigned mode_ = 0;                      \
		if ((flags) & (O_CREAT | __O_TMPFILE)) { \
			va_list ap_;                     \
			va_start(ap_, flags);            \
			mode_ = va_arg(ap_, unsigned);   \
			va_end(ap_);                     \
		}                                        \
		mode_;                                   \
	})

SHIM_API int shim_plain_open(const char *path, int flags, ...) __asm__("open");
int shim_plain_open(const char *path, int flags, ...)
{
	return shim_open(AT_FDCWD, path, flags, SHIM_MODE(flags));
}
SHIM_API int open(const char *path, int flags, ...)
{
	return shim_open(AT_FDCWD, path, flags, SHIM_MODE(flags));
}
SHIM_API int shim_plain_openat(int dirfd, const char *path, int flags, ...) __asm__("openat");
int shim_plain_openat(int dirfd, const char *path, int flags, ...)
{
	return shim_open(dirfd, path, flags, SHIM_MODE(flags));
}
SHIM_API int openat(int dirfd, const char *path, int flags, ...)
{
	return shim_open(dirfd, path, flags, SHIM_MODE(flags));
}

SHIM_API int mkdirat(int dirfd, const char *name, mode_t mode)
{
	char path[PATH_MAX];
	int v;

	if (!atomic_load(&shim.armed) || !shim_of_path(dirfd, name, path))
		return (int)syscall(SYS_mkdirat, dirfd, name, mode);
	v = shim_before(CALL_ENTRY | CALL_GROW);
	if (v > 0)
		return (int)shim_refuse(v);
	int r = (int)syscall(SYS_mkdirat, dirfd, name, mode);
	if (r == 0)
		shim_mark_dir_of(path);
	return r;
}

SHIM_API int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
	char a[PATH_MAX], b[PATH_MAX];
	int v;

	if (!atomic_load(&shim.armed) || !shim_of_path(from_fd, from, a) ||
	    !shim_of_path(to_fd, to, b))
		return (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
	v = shim_before(CALL_ENTRY | CALL_GROW);
	if (v > 0)
		return (int)shim_refuse(v);
	int r = (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
	if (r == 0)
		shim_moved(a, b);
	return r;
}

SHIM_API int renameat(int from_fd, const char *from, int to_fd, const char *to)
{
	return renameat2(from_fd, from, to_fd, to, 0);
}

SHIM_API int rename(const char *from, const char *to)
{
	return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0);
}

SHIM_API int unlinkat(int dirfd, const char *name, int flags)
{
	char path[PATH_MAX];
	int v;

	if (!atomic_load(&shim.armed) || !shim_of_path(dirfd, name, path))
		return (int)syscall(SYS_unlinkat, dirfd, name, flags);
	v = shim_before(CALL_ENTRY);
	if (v > 0)
		return (int)shim_refuse(v);
	shim_destroys(path);
	int r = (int)syscall(SYS_unlinkat, dirfd, name, flags);
	if (r == 0)
		shim_moved(path, NULL);
	return r;
}

SHIM_API int unlink(const char *path)
{
	return unlinkat(AT_FDCWD, path, 0);
}

#endif
