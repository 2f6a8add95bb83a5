/* Creating, opening, closing a store, and its totals. */
#include "smfs/store/store_priv.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/log.h"
#include "smfs/base/workers.h"
#include "smfs/store/journal.h"
#include "smfs/store/lease.h"
#include "smfs/store/limit.h"
#include "smfs/store/names_each.h"
#include "smfs/store/packw.h"
#include "smfs/store/page_index.h"
#include "smfs/store/quarantine.h"
#include "smfs/store/writers.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>

#define CACHE_BUDGET (64 * MIB)
#define WORKER_QUEUE 8 /* jobs of up to 1 MiB of file content that may wait */

int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* ---- init ---- */

static const char *const parts[] = {"lock", "packs", "index", "journal", "tmp"};

/* "<part>.tmp.<pid>": a part that write_file_atomic() did not finish. */
static bool unfinished(const char *name)
{
	const char *tmp = strstr(name, ".tmp.");

	return tmp && tmp[5 + strspn(tmp + 5, "0123456789")] == '\0' &&
	       (strncmp(name, "journal.", 8) == 0 || strncmp(name, FORMAT_FILE ".", 7) == 0);
}

/*
 * Empty, or what an init that was interrupted left: parts, which are completed, and unfinished
 * files, which go. No other init is at work: the directory is locked.
 */
static int check_empty(int dirfd, const char *dir, struct err *err)
{
	int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cleanup_dir DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	if (!d)
		return err_errno(err, "read directory %s", dir);
	while ((e = readdir(d))) {
		bool ours = strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
			    strcmp(e->d_name, "lost+found") == 0;

		if (strcmp(e->d_name, FORMAT_FILE) == 0)
			return err_set(err, EEXIST, "init %s: is a store already", dir);
		for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
			ours |= strcmp(e->d_name, parts[i]) == 0;
		if (unfinished(e->d_name) && unlinkat(dirfd, e->d_name, 0) == 0)
			ours = true;
		if (!ours)
			return err_set(err, ENOTEMPTY, "init %s: not empty (%s)", dir, e->d_name);
	}
	return 0;
}

static int make_parts(int dirfd, const char *dir, const uint8_t uuid[UUID_LEN], struct err *err)
{
	static const char *const dirs[] = {"packs", "index", "tmp"};
	static const char *const begun[] = {"index/data.mdb", "index/lock.mdb"};
	uint8_t head[JOURNAL_HEAD_LEN];
	cleanup_free char *index = NULL;

	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++)
		if (mkdirat(dirfd, dirs[i], 0700) < 0 && errno != EEXIST)
			return err_errno(err, "create %s/%s", dir, dirs[i]);
	/* Not a store yet, so an index that is there is of an init that was interrupted: perhaps
	 * half. */
	for (size_t i = 0; i < ARRAY_SIZE(begun); i++)
		if (unlinkat(dirfd, begun[i], 0) < 0 && errno != ENOENT)
			return err_errno(err, "remove %s/%s", dir, begun[i]);
	cleanup_fd int lock = openat(dirfd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (lock < 0)
		return err_errno(err, "create %s/lock", dir);
	journal_head_encode(uuid, head);
	int r = write_file_atomic(dirfd, "journal", head, sizeof(head), 0600, err);
	if (r < 0)
		return err_wrap(err, r, "store %s", dir);
	if (asprintf(&index, "%s/index", dir) < 0)
		return err_set(err, ENOMEM, "init %s: out of memory", dir);
	return index_create(index, err);
}

int smfs_store_init(const char *dir, struct err *err)
{
	uint8_t uuid[UUID_LEN];
	int r;

	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return err_errno(err, "create store directory %s", dir);
	cleanup_fd int dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dirfd < 0)
		return err_errno(err, "open store directory %s", dir);
	/* Two inits at once: the second waits and then finds a store. */
	if (flock(dirfd, LOCK_EX) < 0)
		return err_errno(err, "lock %s", dir);
	r = check_empty(dirfd, dir, err);
	if (r < 0)
		return r;
	if (getrandom(uuid, sizeof(uuid), 0) != sizeof(uuid))
		return err_errno(err, "init %s: random uuid", dir);
	r = make_parts(dirfd, dir, uuid, err);
	if (r < 0)
		return r;
	if (fsync(dirfd) < 0)
		return err_errno(err, "sync %s", dir);
	/* Last: with this file it is a store. */
	return store_format_write(dirfd, dir, uuid, now_ns(), err);
}

/* ---- open ---- */

/*
 * Is the file system itself read-only, not just this mount of it? The last field of a line of
 * mountinfo is the options of the file system.
 */
static bool medium_is_readonly(int fd)
{
	cleanup_file FILE *f = fopen("/proc/self/mountinfo", "re");
	cleanup_free char *line = NULL;
	char dev[32], *minor;
	size_t cap = 0;
	struct stat st;

	if (!f || fstat(fd, &st) < 0)
		return false;
	while (getline(&line, &cap, f) > 0) {
		const char *options = strrchr(line, ' ');

		if (!options || sscanf(line, "%*s %*s %31s", dev) != 1)
			continue;
		unsigned long major = strtoul(dev, &minor, 10);
		if (*minor == ':' && makedev(major, strtoul(minor + 1, NULL, 10)) == st.st_dev)
			return strncmp(options, " ro", 3) == 0;
	}
	return false;
}

/* Without its lock file a store is as the medium has it: LMDB takes no locks either (index.c). */
static int lock_nothing(struct smfs_store *s, struct err *err)
{
	if (!medium_is_readonly(s->dirfd))
		log_warn("store %s: no locks can be taken here; nobody may change it meanwhile",
			 s->dir);
	s->lockfd = openat(s->dirfd, "lock", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	return s->lockfd < 0 ? err_errno(err, "open %s/lock", s->dir) : 0;
}

/*
 * LMDB must not be open twice in one process: closing either drops the locks of both. So each
 * handle locks the byte of `lock` that stands for its process, (pid namespace, pid), with an
 * open-file-description lock: a second open of this process meets it, one of any other does not,
 * and it is gone with the handle.
 */
static int lock_process(struct smfs_store *s, struct err *err)
{
	struct flock fl = {
		.l_type = F_WRLCK,
		.l_whence = SEEK_SET,
		.l_start = store_process_byte(),
		.l_len = 1,
	};

	s->lockfd = openat(s->dirfd, "lock", O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (s->lockfd < 0 && (errno == EROFS || errno == EACCES || errno == EPERM)) {
		if (!s->rdonly)
			return err_set(err, errno, "store %s: %m; it can be read only", s->dir);
		return lock_nothing(s, err);
	}
	if (s->lockfd < 0)
		return err_errno(err, "open %s/lock", s->dir);
	if (fcntl(s->lockfd, F_OFD_SETLK, &fl) == 0)
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		return err_set(err, EBUSY, "open store %s: this process has it open already",
			       s->dir);
	return err_errno(err, "lock %s/lock", s->dir);
}

static int open_parts(struct smfs_store *s, struct err *err)
{
	cleanup_free char *index = NULL;
	int r;

	s->dirfd = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->dirfd < 0 && errno == ENOENT)
		return err_set(err, ENOENT, "store %s: no such directory; run `smfs init %s`",
			       s->dir, s->dir);
	if (s->dirfd < 0)
		return err_errno(err, "open store %s", s->dir);
	r = store_format_read(s->dirfd, s->dir, s->uuid, &s->created, err);
	if (r < 0)
		return r;
	r = lock_process(s, err);
	if (r < 0)
		return r;
	s->journalfd = openat(s->dirfd, "journal",
			      (s->rdonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOFOLLOW);
	if (s->journalfd < 0)
		return err_errno(err, "open %s/journal", s->dir);
	r = journal_head_check(s->journalfd, s->uuid, err);
	if (r < 0)
		return err_wrap(err, r, "store %s", s->dir);
	int fd = openat(s->dirfd, "packs", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_errno(err, "open %s/packs", s->dir);
	r = packs_new(fd, s->uuid, &s->packs, err);
	if (r < 0)
		return r;
	s->cache = cache_new(CACHE_BUDGET);
	if (!s->cache || asprintf(&index, "%s/index", s->dir) < 0)
		return err_set(err, ENOMEM, "open store %s: out of memory", s->dir);
	r = index_open(index, s->rdonly, &s->ix, err);
	if (r == 0)
		r = quarantine_open(s, err);
	if (r == 0 && !s->rdonly && page_index_new(s->dirfd, s->uuid, &s->page_index) < 0)
		r = err_set(err, ENOMEM, "open store %s: out of memory", s->dir);
	return r < 0 ? r : leases_open(s, err);
}

int smfs_store_open(const char *dir, unsigned flags, struct smfs_store **out, struct err *err)
{
	struct smfs_store *s = calloc(1, sizeof(*s));

	if (!s)
		return err_set(err, ENOMEM, "open store %s: out of memory", dir);
	s->dirfd = s->lockfd = s->journalfd = -1;
	s->rdonly = flags & SMFS_RDONLY;
	s->compare = flags & SMFS_COMPARE;
	scratch_pool_init(&s->scratch);
	pthread_mutex_init(&s->workers_lock, NULL);
	pthread_mutex_init(&s->writers_lock, NULL);
	s->dir = realpath(dir, NULL);
	if (!s->dir)
		s->dir = strdup(dir);
	int r = s->dir ? open_parts(s, err) : err_set(err, ENOMEM, "open store: out of memory");
	if (r < 0) {
		smfs_store_close(s);
		return r;
	}
	if (!s->rdonly) {
		index_drop_stale_readers(s->ix);
		/* Beside a repair nothing is a dead writer's for certain. */
		if (writers_enter(s, NULL) == 0) {
			packw_clean(s);
			writers_leave(s);
		}
	}
	*out = s;
	return 0;
}

void smfs_store_close(struct smfs_store *s)
{
	if (!s)
		return;
	workers_free(s->workers);
	leases_close(s);
	quarantine_close(s);
	page_index_free(s->page_index);
	index_close(s->ix);
	cache_free(s->cache);
	packs_free(s->packs);
	scratch_pool_fini(&s->scratch);
	pthread_mutex_destroy(&s->workers_lock);
	pthread_mutex_destroy(&s->writers_lock);
	if (s->journalfd >= 0)
		close(s->journalfd);
	/* After the index: this lock guards it. */
	if (s->lockfd >= 0)
		close(s->lockfd);
	if (s->dirfd >= 0)
		close(s->dirfd);
	free(s->dir);
	free(s);
}

const char *smfs_store_dir(const struct smfs_store *s)
{
	return s->dir;
}

int64_t smfs_store_created(const struct smfs_store *s)
{
	return s->created;
}

uint64_t smfs_store_seq(struct smfs_store *s)
{
	struct index_meta m;

	/* Who asks whether anything is new learns of a repair, too. */
	index_follow(s->ix, NULL);
	return index_meta(s->ix, &m, NULL) < 0 ? 0 : m.seq;
}

int store_workers(struct smfs_store *s, struct workers **out, struct err *err)
{
	int r = 0;

	pthread_mutex_lock(&s->workers_lock);
	if (!s->workers)
		r = workers_new(&s->workers, 0, WORKER_QUEUE, err);
	*out = s->workers;
	pthread_mutex_unlock(&s->workers_lock);
	return r;
}

/* ---- stat ---- */

static int count_name(const struct smfs_name *n, void *arg, struct err *err)
{
	struct smfs_store_stat *st = arg;

	*(n->kind == SMFS_SNAPSHOT ? &st->snapshots
	  : n->kind == SMFS_IMAGE  ? &st->images
				   : &st->layers) += 1;
	st->logical_bytes += n->logical_bytes;
	return 0;
}

int smfs_store_stat(struct smfs_store *s, struct smfs_store_stat *out, struct err *err)
{
	cleanup_free struct index_pack *packs = NULL;
	struct index_meta m;
	struct smfs_room room;
	size_t npacks;
	int r;

	*out = (struct smfs_store_stat){0};
	if ((r = names_each(s, count_name, out, err)) < 0 ||
	    (r = index_counts(s->ix, &out->chunks, &out->nodes, err)) < 0 ||
	    (r = index_meta(s->ix, &m, err)) < 0 ||
	    (r = index_packs(s->ix, &packs, &npacks, err)) < 0 ||
	    (r = limit_room(s, true, &room, err)) < 0)
		return r;
	out->packs = npacks;
	out->seq = m.seq;
	out->raw_bytes = m.chunk_raw;
	out->stored_bytes = m.chunk_stored;
	out->disk_bytes = room.used;
	out->free_bytes = room.free;
	out->quarantined = quarantine_count(s);
	out->healed = quarantine_heals(s);
	out->limit_bytes = room.limit;
	out->reserve_bytes = room.reserve;
	out->left_bytes = room.left;
	return 0;
}
