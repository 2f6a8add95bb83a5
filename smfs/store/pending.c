#include "smfs/store/pending.h"

#include "smfs/base/bytes.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/hex.h"
#include "smfs/base/io.h"
#include "smfs/base/log.h"
#include "smfs/base/sha256.h"
#include "smfs/store/store_priv.h"
#include "smfs/store/writers.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define DIR_NAME "pending"
static const char magic_text[8] = {"SMFSPEND"}; /* no terminator */
#define VERSION 1u

/* A slot; both fit in one block of any file system, so that the second needs no room of a full one.
 */
#define SLOT_LEN 2048u
enum {
	AT_STATE = 12, /* after magic and version */
	AT_PID = 16,   /* then four zero bytes */
	AT_TIME = 24,
	AT_BOOT = 32,
	AT_NAME = 72,
	AT_BY = 208,
	AT_REASON = 336,
	AT_SUM = SLOT_LEN - 8,
};
#define BOOT_LEN 36u
_Static_assert(AT_NAME + SMFS_PENDING_NAME <= AT_BY, "fields do not overlap");
_Static_assert(AT_BY + SMFS_PENDING_BY <= AT_REASON, "fields do not overlap");
_Static_assert(AT_REASON + SMFS_PENDING_REASON <= AT_SUM, "fields do not overlap");

/* Bytes of the file that are locked. */
enum { BYTE_ALIVE, BYTE_CHANGE };

#define HASH_LEN (2 * SHA256_LEN)
#define PATH_LEN (sizeof(DIR_NAME) + HASH_LEN + 1)

/* ---- locks ---- */

static int lock_byte(int fd, int cmd, short type, off_t at)
{
	struct flock fl = {.l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};

	while (fcntl(fd, cmd, &fl) < 0)
		if (errno != EINTR)
			return -errno;
	return cmd == F_OFD_GETLK ? fl.l_type != F_UNLCK : 0;
}

static bool is_alive(int fd)
{
	/* What cannot be asked is taken for alive: nothing is then changed. */
	return lock_byte(fd, F_OFD_GETLK, F_RDLCK, BYTE_ALIVE) != 0;
}

static bool is_linked(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && st.st_nlink > 0;
}

/* For who does not write the snapshot: true = hold the file, which nobody writes. */
static bool change_begin(int fd)
{
	if (lock_byte(fd, F_OFD_SETLKW, F_WRLCK, BYTE_CHANGE) < 0)
		return false;
	if (!is_alive(fd) && is_linked(fd))
		return true;
	lock_byte(fd, F_OFD_SETLK, F_UNLCK, BYTE_CHANGE);
	return false;
}

static void change_end(int fd)
{
	lock_byte(fd, F_OFD_SETLK, F_UNLCK, BYTE_CHANGE);
}

/* ---- slots ---- */

static void boot_id(uint8_t out[BOOT_LEN])
{
	cleanup_fd int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);

	if (fd < 0 || read_full(fd, out, BOOT_LEN) < 0)
		memset(out, 0, BOOT_LEN);
}

static void copy_text(char *to, size_t n, const char *from)
{
	snprintf(to, n, "%s", from ? from : "");
	/* One record is one line of every listing. */
	for (char *p = to; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = ' ';
}

static void encode(const struct smfs_pending *p, uint8_t out[SLOT_LEN])
{
	memset(out, 0, SLOT_LEN);
	memcpy(out, magic_text, sizeof(magic_text));
	store_le32(out + 8, VERSION);
	store_le32(out + AT_STATE, p->state);
	store_le32(out + AT_PID, (uint32_t)p->pid);
	store_le64(out + AT_TIME,
		   (uint64_t)(p->state == SMFS_PENDING_WRITING ? p->began : p->ended));
	boot_id(out + AT_BOOT);
	copy_text((char *)out + AT_NAME, SMFS_PENDING_NAME, p->name);
	copy_text((char *)out + AT_BY, SMFS_PENDING_BY, p->by);
	copy_text((char *)out + AT_REASON, SMFS_PENDING_REASON, p->reason);
	store_le64(out + AT_SUM, XXH3_64bits(out, AT_SUM));
}

static bool is_text(const uint8_t *p, size_t n)
{
	const uint8_t *end = memchr(p, 0, n);

	for (size_t i = 0; end && p + i < end; i++)
		if (p[i] < 0x20 || p[i] == 0x7f)
			return false;
	return end != NULL;
}

/* False: not whole, or not one of ours. `boot` (BOOT_LEN bytes) is of the machine's run then.
 */
static bool decode(const uint8_t in[SLOT_LEN], uint32_t state, struct smfs_pending *p,
		   uint8_t boot[BOOT_LEN])
{
	struct reader r = reader_of(in, SLOT_LEN);
	char magic[8];
	uint32_t version, got;

	get_bytes(&r, magic, sizeof(magic));
	version = get_u32(&r);
	got = get_u32(&r);
	p->pid = (pid_t)get_u32(&r);
	get_u32(&r);
	int64_t time = (int64_t)get_u64(&r);
	struct reader sum = reader_of(in + AT_SUM, 8);

	if (memcmp(magic, magic_text, sizeof(magic)) != 0 || version != VERSION || got != state ||
	    get_u64(&sum) != XXH3_64bits(in, AT_SUM) || !is_text(in + AT_NAME, SMFS_PENDING_NAME) ||
	    !is_text(in + AT_BY, SMFS_PENDING_BY) ||
	    !is_text(in + AT_REASON, SMFS_PENDING_REASON) ||
	    smfs_name_check(SMFS_SNAPSHOT, (const char *)in + AT_NAME, NULL) < 0)
		return false;
	p->state = state;
	*(state == SMFS_PENDING_WRITING ? &p->began : &p->ended) = time;
	memcpy(p->name, in + AT_NAME, SMFS_PENDING_NAME);
	memcpy(p->by, in + AT_BY, SMFS_PENDING_BY);
	memcpy(p->reason, in + AT_REASON, SMFS_PENDING_REASON);
	memcpy(boot, in + AT_BOOT, BOOT_LEN);
	return true;
}

/* What the file says, whoever is alive. False: nothing whole, as a crash in begin() leaves it. */
static bool file_read(int fd, struct smfs_pending *p)
{
	uint8_t slot[2 * SLOT_LEN];
	uint8_t boot[BOOT_LEN], now[BOOT_LEN];
	struct smfs_pending failed = {0};

	memset(p, 0, sizeof(*p));
	if (pread_full(fd, slot, sizeof(slot), 0) < 0 ||
	    !decode(slot, SMFS_PENDING_WRITING, p, boot))
		return false;
	boot_id(now);
	snprintf(p->reason, sizeof(p->reason), "%s",
		 memcmp(boot, now, BOOT_LEN) == 0
			 ? "its writer ended before the snapshot was ready"
			 : "the machine went down before the snapshot was ready");
	if (decode(slot + SLOT_LEN, SMFS_PENDING_FAILED, &failed, boot) &&
	    strcmp(failed.name, p->name) == 0) {
		p->state = failed.state;
		p->ended = failed.ended;
		memcpy(p->reason, failed.reason, sizeof(p->reason));
	}
	return true;
}

static int file_write(int fd, const struct smfs_pending *p)
{
	uint8_t slot[2 * SLOT_LEN] = {0};
	const bool first = p->state == SMFS_PENDING_WRITING;
	int r;

	encode(p, slot);
	/* The first writes over a failure of before. */
	r = pwrite_full(fd, slot, first ? sizeof(slot) : SLOT_LEN, first ? 0 : SLOT_LEN);
	return r < 0 ? r : fdatasync(fd) < 0 ? -errno : 0;
}

/* ---- files ---- */

/* Names reach no path of the host's: the hash of one does. */
static void path_of(const char *name, char out[PATH_LEN])
{
	uint8_t sum[SHA256_LEN];
	struct sha256 h;

	sha256_init(&h);
	sha256_update(&h, name, strlen(name));
	sha256_final(&h, sum);
	memcpy(out, DIR_NAME "/", sizeof(DIR_NAME));
	hex_encode(sum, sizeof(sum), out + sizeof(DIR_NAME));
}

static int sync_path(struct smfs_store *s, const char *path)
{
	cleanup_fd int fd = openat(s->dirfd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

/* The file of a name, there and synced with it. */
static int file_make(struct smfs_store *s, const char *path, int *out)
{
	const int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW;
	int fd = openat(s->dirfd, path, flags), r;

	if (fd < 0 && errno == ENOENT) {
		if (mkdirat(s->dirfd, DIR_NAME, 0700) == 0) {
			if ((r = sync_path(s, ".")) < 0)
				return r;
		} else if (errno != EEXIST) {
			return -errno;
		}
		fd = openat(s->dirfd, path, flags | O_CREAT, 0600);
	}
	if (fd < 0)
		return -errno;
	*out = fd;
	return 0;
}

static int refuse_taken(struct smfs_store *s, const char *name, struct err *err)
{
	struct smfs_name taken;
	int r = smfs_name_get(s, SMFS_SNAPSHOT, name, &taken, err);

	if (r == 0)
		return err_set(err, EEXIST, "snapshot %s exists; remove it or choose another name",
			       name);
	if (r != -ENOENT)
		return r;
	err_clear(err);
	return 0;
}

static int refuse_busy(int fd, const char *name, struct err *err)
{
	struct smfs_pending p;

	return file_read(fd, &p)
		       ? err_set(err, EBUSY,
				 "snapshot %s is being written by %s, process %d; wait for it, or "
				 "choose another name",
				 name, p.by, (int)p.pid)
		       : err_set(err, EBUSY, "snapshot %s is being written", name);
}

/* Locked by this open file, and linked; -EAGAIN: another round. */
static int hold(int fd, const char *name, struct err *err)
{
	int r = lock_byte(fd, F_OFD_SETLK, F_WRLCK, BYTE_ALIVE);

	if (r == -EAGAIN || r == -EACCES)
		return refuse_busy(fd, name, err);
	if (r == 0)
		r = lock_byte(fd, F_OFD_SETLKW, F_WRLCK, BYTE_CHANGE);
	if (r < 0)
		return err_set(err, -r, "lock the record of snapshot %s: %s", name, strerror(-r));
	return is_linked(fd) ? 0 : -EAGAIN;
}

static int begin(struct smfs_store *s, const char *name, const char *by, int *out, struct err *err)
{
	struct smfs_pending p = {.state = SMFS_PENDING_WRITING, .pid = getpid(), .began = now_ns()};
	char path[PATH_LEN];
	int r;

	path_of(name, path);
	copy_text(p.name, sizeof(p.name), name);
	copy_text(p.by, sizeof(p.by), by);
	for (;;) {
		cleanup_fd int fd = -1;

		r = file_make(s, path, &fd);
		if (r < 0)
			return err_set(err, -r, "record snapshot %s in %s/" DIR_NAME ": %s", name,
				       s->dir, strerror(-r));
		r = hold(fd, name, err);
		if (r == -EAGAIN)
			continue;
		if (r == 0 && (r = refuse_taken(s, name, err)) == 0) {
			r = file_write(fd, &p);
			/* Also one that was there: whoever made it may not have come to this. */
			if (r == 0)
				r = sync_path(s, DIR_NAME);
			if (r < 0)
				err_set(err, -r, "record snapshot %s in %s/" DIR_NAME ": %s", name,
					s->dir, strerror(-r));
			/* Without a record there is nothing that may be left of it. */
			if (r < 0)
				unlinkat(s->dirfd, path, 0);
		} else if (r == -EEXIST) {
			unlinkat(s->dirfd, path, 0);
		}
		change_end(fd);
		if (r == 0)
			*out = steal_fd(&fd);
		return r;
	}
}

int smfs_pending_begin(struct smfs_store *s, const char *name, const char *by, int *fd,
		       struct err *err)
{
	int r = smfs_name_check(SMFS_SNAPSHOT, name, err);

	*fd = -1;
	if (r < 0)
		return r;
	if (s->rdonly)
		return err_set(err, EROFS, "snapshot %s: store opened read-only", name);
	r = writers_enter(s, err);
	if (r == 0) {
		r = begin(s, name, by, fd, err);
		writers_leave(s);
	}
	return r;
}

int smfs_pending_fail(int fd, const char *reason, struct err *err)
{
	struct smfs_pending p;
	int r;

	if (!file_read(fd, &p))
		return err_set(err, EBADMSG, "record that a snapshot failed: no record of it");
	p.state = SMFS_PENDING_FAILED;
	p.ended = now_ns();
	copy_text(p.reason, sizeof(p.reason), reason);
	lock_byte(fd, F_OFD_SETLKW, F_WRLCK, BYTE_CHANGE);
	r = file_write(fd, &p);
	change_end(fd);
	return r < 0 ? err_set(err, -r, "record that snapshot %s failed: %s", p.name, strerror(-r))
		     : 0;
}

void smfs_pending_done(struct smfs_store *s, const char *name)
{
	char path[PATH_LEN];

	path_of(name, path);
	/* One that stays is void, for the name exists. */
	if (unlinkat(s->dirfd, path, 0) < 0 || sync_path(s, DIR_NAME) < 0)
		log_debug("forget that snapshot %s was being written: %m", name);
}

/* ---- looking ---- */

static int exists(struct smfs_store *s, const char *name, struct err *err)
{
	struct smfs_name n;

	return index_name(s->ix, SMFS_SNAPSHOT, name, &n, err);
}

/*
 * Nobody holds it, so it is void or has failed: what others are to find is made so. Looked at anew,
 * for since the caller did all may have changed.
 */
static void settle(struct smfs_store *s, int fd, const char *path)
{
	struct smfs_pending p;

	if (s->rdonly || !change_begin(fd))
		return;
	if (!file_read(fd, &p) || exists(s, p.name, NULL) > 0) {
		unlinkat(s->dirfd, path, 0);
	} else if (p.state == SMFS_PENDING_WRITING) {
		p.state = SMFS_PENDING_FAILED;
		p.ended = now_ns();
		/* If not, the next one finds the same. */
		(void)file_write(fd, &p);
	}
	change_end(fd);
}

/* 1: *p is one. 0: the file is none, or void. */
static int look(struct smfs_store *s, const char *path, struct smfs_pending *p, struct err *err)
{
	const int flags = O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
	cleanup_fd int fd = openat(s->dirfd, path, flags | (s->rdonly ? O_RDONLY : O_RDWR));

	if (fd < 0)
		return errno == ENOENT ? 0 : err_errno(err, "open %s/%s", s->dir, path);
	/*
	 * In this order: a writer publishes, then removes its file, then lets go. So one that is
	 * found to be gone while its file is there and its name is not has failed.
	 */
	const bool whole = file_read(fd, p), alive = is_alive(fd), linked = is_linked(fd);
	const int taken = whole ? exists(s, p->name, err) : 0;

	if (taken < 0)
		return taken;
	if (!linked || (!whole && alive))
		return 0;
	if (!alive)
		settle(s, fd, path);
	if (!whole || taken)
		return 0;
	if (!alive)
		p->state = SMFS_PENDING_FAILED;
	else if (p->state == SMFS_PENDING_WRITING)
		p->reason[0] = 0;
	return 1;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct smfs_pending *)a)->name,
		      ((const struct smfs_pending *)b)->name);
}

static int list(struct smfs_store *s, DIR *d, struct smfs_pending **v, size_t *n, struct err *err)
{
	struct dirent *e;
	size_t cap = 0;

	while ((e = readdir(d))) {
		char path[sizeof(DIR_NAME) + sizeof(e->d_name)];
		int r;

		if (strlen(e->d_name) != HASH_LEN)
			continue;
		if (*n == cap) {
			void *more = reallocarray(*v, cap = 2 * cap + 8, sizeof(**v));

			if (!more)
				return err_set(err, ENOMEM,
					       "list pending snapshots: out of memory");
			*v = more;
		}
		snprintf(path, sizeof(path), DIR_NAME "/%s", e->d_name);
		r = look(s, path, &(*v)[*n], err);
		if (r < 0)
			return r;
		*n += (size_t)r;
	}
	return 0;
}

int smfs_pending_list(struct smfs_store *s, struct smfs_pending **out, size_t *n, struct err *err)
{
	int fd = openat(s->dirfd, DIR_NAME, O_RDONLY | O_DIRECTORY | O_CLOEXEC), r;
	DIR *d = fd < 0 ? NULL : fdopendir(fd);

	*out = NULL;
	*n = 0;
	if (!d) {
		r = errno == ENOENT ? 0 : err_errno(err, "open %s/" DIR_NAME, s->dir);
		if (fd >= 0)
			close(fd);
		return r;
	}
	r = list(s, d, out, n, err);
	closedir(d);
	if (r < 0) {
		free(*out);
		*out = NULL;
		*n = 0;
	}
	if (*n)
		qsort(*out, *n, sizeof(**out), by_name);
	return r;
}

int pending_forget(struct smfs_store *s, const char *name)
{
	char path[PATH_LEN];
	int r = 0;

	path_of(name, path);
	cleanup_fd int fd = openat(s->dirfd, path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || !change_begin(fd))
		return 0;
	if (unlinkat(s->dirfd, path, 0) == 0 && sync_path(s, DIR_NAME) == 0)
		r = 1;
	change_end(fd);
	return r;
}

int smfs_pending_remove(struct smfs_store *s, const char *name, struct err *err)
{
	char path[PATH_LEN];
	struct smfs_pending p;
	int r = smfs_name_check(SMFS_SNAPSHOT, name, err);

	if (r < 0)
		return r;
	if (s->rdonly)
		return err_set(err, EROFS, "remove %s: store opened read-only", name);
	path_of(name, path);
	if ((r = look(s, path, &p, err)) < 0)
		return r;
	if (r == 0)
		return err_set(err, ENOENT, "snapshot %s: nobody has begun to write it", name);
	if (p.state == SMFS_PENDING_WRITING)
		return err_set(err, EBUSY, "snapshot %s is being written by %s, process %d", name,
			       p.by, (int)p.pid);
	if (!pending_forget(s, name) && look(s, path, &p, NULL) > 0)
		return err_set(err, EIO, "snapshot %s: its record in %s/%s cannot be removed", name,
			       s->dir, path);
	return 0;
}
