/* The collector's side of leases: who lives, and what all of them hold. */
#include "smfs/store/lease.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#define SLOT_LEN 40u
/* How long watchers may take to answer, and how often they are looked at. */
#define ASK_MS	1000
#define STEP_MS 2

static int push_root(struct lease_view *v, const uint8_t *id, struct err *err)
{
	if (v->nroots == v->cap) {
		size_t cap = v->cap ? v->cap * 2 : 256;
		struct smfs_id *p = reallocarray(v->roots, cap, sizeof(*p));

		if (!p)
			return err_set(err, ENOMEM, "read leases: out of memory");
		v->roots = p;
		v->cap = cap;
	}
	memcpy(v->roots[v->nroots++].b, id, SMFS_ID_LEN);
	return 0;
}

/* The slots as they are now, through read(2): their owner may be writing them. */
static int read_slots(int fd, struct lease_view *v, bool *holds, struct err *err)
{
	uint8_t buf[SLOT_LEN * 256];
	uint64_t off = SLOT_LEN; /* past the header */
	ssize_t n;

	while ((n = pread_upto(fd, buf, sizeof(buf), off)) >= (ssize_t)SLOT_LEN) {
		size_t slots = (size_t)n / SLOT_LEN;

		for (size_t i = 0; i < slots; i++) {
			struct reader r = reader_of(buf + i * SLOT_LEN, SLOT_LEN);
			uint64_t tag = get_u64(&r);
			int ret = 0;

			*holds |= tag != 0;
			if (tag == 1)
				v->min_pin = MIN(v->min_pin, get_u64(&r));
			else if (tag == 2)
				ret = push_root(v, buf + i * SLOT_LEN + 8, err);
			if (ret < 0)
				return ret;
		}
		off += slots * SLOT_LEN;
	}
	if (n < 0) {
		errno = (int)-n;
		return err_errno(err, "read a lease");
	}
	return 0;
}

static void note_watcher(int fd, struct lease_view *v)
{
	uint8_t buf[16];
	struct reader r = reader_of(buf, sizeof(buf));

	if (pread_full(fd, buf, sizeof(buf), 0) < 0)
		return;
	get_u64(&r);
	uint64_t answered = get_u64(&r);
	if (answered)
		v->first_answer = MIN(v->first_answer, answered);
}

static int read_one(int dirfd, const char *name, struct lease_view *v, struct err *err)
{
	cleanup_fd int fd = openat(dirfd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	bool holds = false;

	if (fd < 0 && errno == ENOENT)
		return 0; /* closed since we listed it */
	if (fd < 0)
		return err_errno(err, "open lease %s", name);
	if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
		unlinkat(dirfd, name, 0); /* its process is dead */
		return 0;
	}
	note_watcher(fd, v);
	int r = read_slots(fd, v, &holds, err);
	v->holders += holds;
	return r;
}

/* Is a handle without slots alive? */
static int read_all_byte(struct smfs_store *s, struct lease_view *v, struct err *err)
{
	cleanup_fd int fd = openat(s->dirfd, "lock", O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	struct flock fl = {
		.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = LEASE_ALL_BYTE, .l_len = 1};

	if (fd < 0 || fcntl(fd, F_OFD_GETLK, &fl) < 0)
		return err_errno(err, "ask for locks of %s/lock", s->dir);
	if (fl.l_type != F_UNLCK) {
		v->min_pin = 0;
		v->holders++;
	}
	return 0;
}

int lease_view_read(struct smfs_store *s, struct lease_view *v, struct err *err)
{
	cleanup_fd int fd = openat(s->dirfd, "tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int copy = fd < 0 ? -1 : dup(fd);
	cleanup_dir DIR *d = copy < 0 ? NULL : fdopendir(copy);
	struct dirent *e;
	int r = 0;

	*v = (struct lease_view){.min_pin = UINT64_MAX, .first_answer = UINT64_MAX};
	if (!d) {
		r = err_errno(err, "read %s/tmp", s->dir);
		if (copy >= 0)
			close(copy);
		return r;
	}
	while (r == 0 && (errno = 0, e = readdir(d)))
		if (strncmp(e->d_name, LEASE_PREFIX, strlen(LEASE_PREFIX)) == 0)
			r = read_one(fd, e->d_name, v, err);
	if (r == 0 && errno)
		r = err_errno(err, "read %s/tmp", s->dir);
	if (r == 0)
		r = read_all_byte(s, v, err);
	if (r < 0)
		lease_view_free(v);
	return r;
}

void lease_view_free(struct lease_view *v)
{
	free(v->roots);
	v->roots = NULL;
	v->nroots = v->cap = 0;
}

static uint64_t monotonic_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

int lease_ask(struct smfs_store *s, struct err *err)
{
	uint64_t asked = monotonic_ns();

	if (utimensat(s->dirfd, "lock", NULL, 0) < 0)
		return err_errno(err, "touch %s/lock", s->dir);
	for (;;) {
		struct lease_view v;
		int r = lease_view_read(s, &v, err);

		if (r < 0)
			return r;
		lease_view_free(&v);
		if (v.first_answer >= asked || monotonic_ns() - asked > ASK_MS * 1000000ull)
			return 0;
		nanosleep(&(struct timespec){.tv_nsec = STEP_MS * 1000000}, NULL);
	}
}

int lease_gc_lock(struct smfs_store *s, bool exclusive, struct err *err)
{
	cleanup_fd int fd =
		openat(s->dirfd, "lock", (exclusive ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOFOLLOW);
	struct flock fl = {.l_type = exclusive ? F_WRLCK : F_RDLCK,
			   .l_whence = SEEK_SET,
			   .l_start = LEASE_GC_BYTE,
			   .l_len = 1};

	if (fd < 0)
		return err_errno(err, "open %s/lock", s->dir);
	while (fcntl(fd, exclusive ? F_OFD_SETLK : F_OFD_SETLKW, &fl) < 0) {
		if (errno == EINTR)
			continue;
		if (exclusive && (errno == EAGAIN || errno == EACCES))
			return err_set(err, EBUSY,
				       "collect garbage of %s: another collection or a check is at "
				       "work; try again when it is done",
				       s->dir);
		return err_errno(err, "lock %s/lock", s->dir);
	}
	return steal_fd(&fd);
}
