/*
 * hot_cache.c - the directory: names, seals, use, eviction. How a file is made: hot_make.c.
 */
#include "smfs/mount/hot_cache.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <xxhash.h>

#include "smfs/base/bytes.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"
#include "smfs/mount/hot_make.h"
#include "smfs/store/spare.h"

#define LIMIT_FILE "limit"
#define LIMIT_TEXT 32

/* trusted: nobody below root can write it. */
#define SEAL_XATTR "trusted.smfs.seal"
#define SEAL_MAGIC 0x31746f68736d66ull
#define SEAL_LEN   (8 + SMFS_CONTENT_LEN + 8 + 8)

bool hot_cache_takes(const struct smfs_content *c)
{
	return c->kind == SMFS_MAP && c->size >= HOT_MIN_SIZE;
}

/* ---- open and close ------------------------------------------------------------------------ */

static uint64_t default_limit(int dirfd)
{
	struct statvfs st;

	if (fstatvfs(dirfd, &st) < 0)
		return HOT_LIMIT_MAX;
	return MIN((uint64_t)st.f_blocks * st.f_frsize / 10, HOT_LIMIT_MAX);
}

static int set_limit(int dirfd, uint64_t limit, struct err *err)
{
	char text[LIMIT_TEXT];
	int n = snprintf(text, sizeof(text), "%" PRIu64 "\n", limit);

	return write_file_atomic(dirfd, LIMIT_FILE, text, (size_t)n, 0600, err);
}

/* Another process may set it at any time: asked whenever it matters. */
uint64_t hot_cache_limit(const struct hot_cache *c)
{
	cleanup_free char *text = NULL;
	uint64_t limit;
	size_t n;

	if (read_file(c->dirfd, LIMIT_FILE, LIMIT_TEXT, &text, &n, NULL) < 0)
		return default_limit(c->dirfd);
	if (n && text[n - 1] == '\n')
		text[n - 1] = '\0';
	if (parse_u64(text, 0, UINT64_MAX, &limit, NULL) < 0)
		return default_limit(c->dirfd);
	return limit;
}

int hot_cache_open(const char *store_dir, unsigned flags, uint64_t limit, struct hot_cache **out,
		   struct err *err)
{
	bool rdonly = flags & HOT_CACHE_RDONLY;
	cleanup_fd int store = open(store_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (store < 0)
		return err_errno(err, "open %s", store_dir);
	if (!rdonly && mkdirat(store, "cache", 0700) < 0 && errno != EEXIST)
		return err_errno(err, "create %s/cache", store_dir);
	cleanup_fd int dir =
		openat(store, "cache", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir < 0)
		return err_errno(err, "open %s/cache", store_dir);
	cleanup_fd int lock = -1;
	if (!rdonly) {
		lock = openat(dir, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
		if (lock < 0)
			return err_errno(err, "open %s/cache/lock", store_dir);
		int r = limit == HOT_LIMIT_KEEP ? 0 : set_limit(dir, limit, err);
		if (r < 0)
			return err_wrap(err, r, "%s/cache", store_dir);
	}
	struct hot_cache *c = calloc(1, sizeof(*c));
	if (!c)
		return err_set(err, ENOMEM, "open %s/cache: out of memory", store_dir);
	*c = (struct hot_cache){
		.dirfd = steal_fd(&dir), .lockfd = steal_fd(&lock), .rdonly = rdonly};
	*out = c;
	return 0;
}

void hot_cache_close(struct hot_cache *c)
{
	if (!c)
		return;
	close(c->dirfd);
	if (c->lockfd >= 0)
		close(c->lockfd);
	free(c);
}

/* ---- names and seals ----------------------------------------------------------------------- */

char *hot_file_name(const struct smfs_content *c, char out[HOT_NAME_LEN])
{
	smfs_id_hex(&c->id, out);
	snprintf(out + 64, HOT_NAME_LEN - 64, "-%" PRIu64, c->size);
	return out;
}

static int64_t mtime_ns(const struct stat *st)
{
	return (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
}

int hot_seal(int fd, const struct smfs_content *c)
{
	cleanup_writer struct writer w = WRITER_INIT;
	uint8_t enc[SMFS_CONTENT_LEN];
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	smfs_content_encode(c, enc);
	put_u64(&w, SEAL_MAGIC);
	put_bytes(&w, enc, sizeof(enc));
	put_u64(&w, (uint64_t)mtime_ns(&st));
	if (w.failed)
		return -ENOMEM;
	put_u64(&w, XXH3_64bits(w.p, w.len));
	if (w.failed)
		return -ENOMEM;
	return fsetxattr(fd, SEAL_XATTR, w.p, w.len, 0) < 0 ? -errno : 0;
}

/* 0 with the content it is sealed for; -EBADMSG when it is not whole, or not ours. */
static int check_seal(int fd, struct stat *st, struct smfs_content *c)
{
	uint8_t buf[SEAL_LEN + 1];
	ssize_t n = fgetxattr(fd, SEAL_XATTR, buf, sizeof(buf));

	if (n != SEAL_LEN || fstat(fd, st) < 0)
		return -EBADMSG;
	struct reader r = reader_of(buf, SEAL_LEN);
	uint64_t magic = get_u64(&r);
	const void *enc = get_view(&r, SMFS_CONTENT_LEN);
	int64_t mtime = (int64_t)get_u64(&r);
	uint64_t sum = get_u64(&r);
	if (magic != SEAL_MAGIC || sum != XXH3_64bits(buf, SEAL_LEN - 8) ||
	    smfs_content_decode(enc, SMFS_CONTENT_LEN, c, NULL) < 0)
		return -EBADMSG;
	if (!S_ISREG(st->st_mode) || st->st_uid != geteuid() || (st->st_mode & 0222) ||
	    (uint64_t)st->st_size != c->size || mtime_ns(st) != mtime)
		return -EBADMSG;
	return 0;
}

/* ---- use ----------------------------------------------------------------------------------- */

/*
 * In use is a read lock that belongs to the open file, which the kernel keeps for as long as it
 * serves it, too. Nobody ever takes a write lock: looking does not get in anybody's way.
 */
static int mark_used(int fd)
{
	struct flock l = {.l_type = F_RDLCK, .l_whence = SEEK_SET};

	return fcntl(fd, F_OFD_SETLK, &l) < 0 ? -errno : 0;
}

static int open_file(const struct hot_cache *c, const char *name)
{
	int fd = openat(c->dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOATIME);

	return fd < 0 ? -errno : fd;
}

/* A name that leads to something other than what it says is not left to be met again. */
static void discard(const struct hot_cache *c, const char *name)
{
	log_warn("cache/%s: damaged or changed, removed", name);
	if (!c->rdonly)
		unlinkat(c->dirfd, name, 0);
}

int hot_cache_get(struct hot_cache *c, const struct smfs_content *content, struct err *err)
{
	const struct timespec now[2] = {{.tv_nsec = UTIME_NOW}, {.tv_nsec = UTIME_OMIT}};
	uint8_t want[SMFS_CONTENT_LEN], have[SMFS_CONTENT_LEN];
	char name[HOT_NAME_LEN];
	struct smfs_content sealed;
	struct stat st;

	if (!hot_cache_takes(content))
		return -ENOENT;
	cleanup_fd int fd = open_file(c, hot_file_name(content, name));
	if (fd == -ENOENT)
		return -ENOENT;
	if (fd < 0)
		return err_set(err, -fd, "open cache/%s: %s", name, strerror(-fd));
	int r = mark_used(fd);
	if (r < 0)
		return err_set(err, -r, "lock cache/%s: %s", name, strerror(-r));
	if (check_seal(fd, &st, &sealed) < 0) {
		discard(c, name);
		return -ENOENT;
	}
	smfs_content_encode(content, want);
	smfs_content_encode(&sealed, have);
	if (memcmp(want, have, sizeof(want)) != 0) {
		discard(c, name);
		return -ENOENT;
	}
	if (st.st_nlink == 0)
		return -ENOENT; /* removed before our lock */
	/* Telemetry for eviction: on a read-only medium there is none. */
	if (futimens(fd, now) < 0)
		log_debug("cache/%s: set the time of use: %s", name, strerror(errno));
	return steal_fd(&fd);
}

int hot_cache_drop(struct hot_cache *c, const struct smfs_content *content, struct err *err)
{
	char name[HOT_NAME_LEN];

	if (c->rdonly)
		return err_set(err, EROFS, "drop from the cache: it is read-only");
	int r = spare_drop(c->dirfd, hot_file_name(content, name));
	if (r < 0 && r != -ENOENT)
		err_set(err, -r, "drop cache/%.12s: %s", name,
			r == -EBUSY ? "in use; it goes when its last user has gone, by eviction"
				    : strerror(-r));
	return r;
}

/* ---- what there is ------------------------------------------------------------------------- */

int hot_cache_list(struct hot_cache *c, struct hot_entry **out, size_t *n, struct err *err)
{
	int dup = openat(c->dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cleanup_dir DIR *d = dup < 0 ? NULL : fdopendir(dup);
	cleanup_free struct hot_entry *v = NULL;
	size_t cap = 0, count = 0;
	struct dirent *de;

	if (!d)
		return err_errno(err, "list the cache");
	while ((de = readdir(d))) {
		struct hot_entry e = {0};
		struct stat st;

		if (!spare_is_file(de->d_name))
			continue;
		cleanup_fd int fd = open_file(c, de->d_name);
		if (fd < 0)
			continue; /* evicted meanwhile */
		if (check_seal(fd, &st, &e.content) < 0) {
			discard(c, de->d_name);
			continue;
		}
		e.bytes = (uint64_t)st.st_blocks * 512;
		e.used = (int64_t)st.st_atim.tv_sec * 1000000000 + st.st_atim.tv_nsec;
		e.in_use = spare_is_used(fd);
		if (count == cap) {
			cap = cap ? cap * 2 : 64;
			struct hot_entry *more = reallocarray(v, cap, sizeof(*v));
			if (!more)
				return err_set(err, ENOMEM, "list the cache: out of memory");
			v = more;
		}
		v[count++] = e;
	}
	*out = steal_ptr(&v);
	*n = count;
	return 0;
}

int hot_cache_stat(struct hot_cache *c, struct hot_cache_stat *out, struct err *err)
{
	cleanup_free struct hot_entry *v = NULL;
	size_t n;
	int r = hot_cache_list(c, &v, &n, err);

	if (r < 0)
		return r;
	*out = (struct hot_cache_stat){.files = n, .limit = hot_cache_limit(c)};
	for (size_t i = 0; i < n; i++)
		out->bytes += v[i].bytes;
	return 0;
}

/* ---- room ---------------------------------------------------------------------------------- */

static int by_use(const void *a, const void *b)
{
	const struct hot_entry *x = a, *y = b;

	return (x->used > y->used) - (x->used < y->used);
}

static uint64_t minus(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

/*
 * What all of the cache may take, and what the file system can give it. The store comes first: its
 * limit is for both, and what it keeps free is not for the cache either.
 */
static int bounds(const struct hot_cache *c, struct smfs_store *s, uint64_t *limit, uint64_t *room,
		  struct err *err)
{
	struct smfs_room store;
	struct statvfs st;
	int r = smfs_store_room(s, &store, err);

	if (r < 0)
		return r;
	if (fstatvfs(c->dirfd, &st) < 0)
		return err_errno(err, "statfs of the cache");
	*limit = hot_cache_limit(c);
	if (store.limit)
		*limit = MIN(*limit, minus(store.limit, store.used));
	uint64_t reserve = MIN((uint64_t)st.f_blocks * st.f_frsize / 20, HOT_RESERVE_MAX);
	*room = minus((uint64_t)st.f_bavail * st.f_frsize, MAX(reserve, store.reserve));
	return 0;
}

int hot_cache_room(struct hot_cache *c, struct smfs_store *s, uint64_t need, uint64_t *evicted,
		   struct err *err)
{
	cleanup_free struct hot_entry *v = NULL;
	uint64_t total = 0, room = 0, limit = 0;
	char name[HOT_NAME_LEN];
	size_t n;
	int r = hot_cache_list(c, &v, &n, err);

	if (r == 0)
		r = bounds(c, s, &limit, &room, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++)
		total += v[i].bytes;
	if (n)
		qsort(v, n, sizeof(*v), by_use);
	/* Nothing is sacrificed for what will not fit anyway. */
	for (size_t i = 0; need <= limit && i < n && (total > limit - need || room < need); i++) {
		if (spare_drop(c->dirfd, hot_file_name(&v[i].content, name)) < 0)
			continue;
		total -= v[i].bytes;
		room += v[i].bytes;
		++*evicted;
	}
	char want[SIZE_STR_MAX], have[SIZE_STR_MAX];
	if (need > limit || total > limit - need)
		return err_set(
			err, ENOSPC,
			"the cache may take %s, and %s more do not fit beside what is in use; "
			"raise --cache-size, or the store's limit",
			format_size(limit, have), format_size(need, want));
	if (room < need)
		return err_set(err, ENOSPC,
			       "the file system has %s to spare for the cache, %s are needed",
			       format_size(room, have), format_size(need, want));
	return 0;
}
