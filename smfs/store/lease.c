#include "smfs/store/lease.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>

/*
 * The file: an array of slots, the first of them its header. Address space for all is mapped at
 * once, so that slots never move; the file grows step by step, with its blocks allocated, so that
 * a full disk is met as an error here and not as a signal when a slot is written.
 */
#define LEASE_MAGIC "SMFSLEAS"
#define SLOTS_MAX   (1u << 20)
#define GROW_FIRST  102u /* a page of them */
#define GROW_STEP   4096u
#define NAME_LEN    32

enum slot_tag { SLOT_FREE, SLOT_PIN, SLOT_ROOT };

struct slot {
	_Atomic uint64_t tag;
	_Atomic uint64_t word[4]; /* a root's id, or a pin's generation and zeros */
};
_Static_assert(sizeof(struct slot) == 40, "slots of all processes have one layout");

struct leases {
	pthread_mutex_t lock;
	struct slot *slots; /* NULL: no file */
	int fd;
	char name[NAME_LEN];
	uint32_t cap;	/* slots the file has */
	uint32_t fresh; /* never used from here on */
	uint32_t *freed;
	size_t nfreed, freed_cap;
	size_t over; /* leases without a slot: LEASE_ALL_BYTE is locked for them */
	uint32_t handle_pin;
	bool handle_pinned;
};

#define SLOT_OVER UINT32_MAX /* the "slot" of a lease without one */

static int lock_byte(int fd, int64_t at, short type, bool wait)
{
	struct flock fl = {.l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};

	for (;;) {
		if (fcntl(fd, wait ? F_OFD_SETLKW : F_OFD_SETLK, &fl) == 0)
			return 0;
		if (errno != EINTR)
			return -errno;
	}
}

/* ---- the file ---- */

static int file_grow(struct leases *l, uint32_t cap)
{
	int r = posix_fallocate(l->fd, 0, (off_t)(cap * sizeof(struct slot)));

	if (r == 0)
		l->cap = cap;
	return -r;
}

/*
 * A new file, locked. Whoever cleans tmp/ may see it between its creation and the lock and take
 * it for a dead one: then it is gone, and another is made.
 */
static int file_make(struct smfs_store *s, struct leases *l, struct err *err)
{
	char path[NAME_LEN + 8];
	uint64_t id;

	for (int tries = 0; tries < 64; tries++) {
		struct stat st;

		if (getrandom(&id, sizeof(id), 0) != sizeof(id))
			return err_errno(err, "lease: random name");
		snprintf(l->name, sizeof(l->name), LEASE_PREFIX "%016" PRIx64, id);
		snprintf(path, sizeof(path), "tmp/%s", l->name);
		cleanup_fd int fd =
			openat(s->dirfd, path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (fd < 0 && errno != EEXIST)
			return err_errno(err, "create a lease in %s/tmp", s->dir);
		if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0 || fstat(fd, &st) < 0 ||
		    st.st_nlink == 0)
			continue;
		l->fd = steal_fd(&fd);
		return 0;
	}
	return err_set(err, EAGAIN, "create a lease in %s/tmp: it is removed each time", s->dir);
}

static void file_remove(struct smfs_store *s, struct leases *l)
{
	char path[NAME_LEN + 8];

	snprintf(path, sizeof(path), "tmp/%s", l->name);
	unlinkat(s->dirfd, path, 0);
	close(l->fd);
	l->fd = -1;
}

static int file_open(struct smfs_store *s, struct leases *l, struct err *err)
{
	int r = file_make(s, l, err);

	if (r < 0)
		return r;
	r = file_grow(l, GROW_FIRST);
	if (r < 0) {
		file_remove(s, l);
		return err_set(err, -r, "make room for leases in %s/tmp: %s", s->dir, strerror(-r));
	}
	void *p = mmap(NULL, SLOTS_MAX * sizeof(struct slot), PROT_READ | PROT_WRITE, MAP_SHARED,
		       l->fd, 0);
	if (p == MAP_FAILED) {
		r = err_errno(err, "map a lease of %s", s->dir);
		file_remove(s, l);
		return r;
	}
	l->slots = p;
	l->fresh = 1;
	memcpy(p, LEASE_MAGIC, 8);
	return 0;
}

int leases_open(struct smfs_store *s, struct err *err)
{
	struct leases *l = calloc(1, sizeof(*l));
	struct err why = ERR_INIT;

	if (!l)
		return err_set(err, ENOMEM, "open store %s: out of memory", s->dir);
	pthread_mutex_init(&l->lock, NULL);
	l->fd = -1;
	s->leases = l;
	int r = file_open(s, l, &why);
	/* Without a file each lease is a pin of everything, which needs no disk. */
	if (r < 0 && r != -ENOSPC && r != -EDQUOT && r != -EROFS && r != -EACCES) {
		if (err)
			*err = why;
		return r;
	}
	return lease_pin_handle(s, err);
}

void leases_close(struct smfs_store *s)
{
	struct leases *l = s->leases;

	if (!l)
		return;
	if (l->slots)
		munmap(l->slots, SLOTS_MAX * sizeof(struct slot));
	/* LEASE_ALL_BYTE goes with s->lockfd. */
	if (l->fd >= 0)
		file_remove(s, l);
	pthread_mutex_destroy(&l->lock);
	free(l->freed);
	free(l);
	s->leases = NULL;
}

/* ---- slots ---- */

/* The lock is held. 0: none to be had. */
static uint32_t slot_take(struct leases *l)
{
	if (l->nfreed)
		return l->freed[--l->nfreed];
	if (!l->slots)
		return 0;
	if (l->fresh == l->cap) {
		uint32_t want = l->cap == GROW_FIRST ? GROW_STEP : l->cap + GROW_STEP;

		if (want > SLOTS_MAX || file_grow(l, want) < 0)
			return 0;
	}
	/* Room to give it back is made now, so that giving back cannot fail. */
	if (l->fresh >= l->freed_cap) {
		size_t cap = l->freed_cap ? l->freed_cap * 2 : 64;
		uint32_t *v = reallocarray(l->freed, cap, sizeof(*v));

		if (!v)
			return 0;
		l->freed = v;
		l->freed_cap = cap;
	}
	return l->fresh++;
}

static int lease_take(struct smfs_store *s, enum slot_tag tag, const void *words, uint32_t *slot,
		      struct err *err)
{
	struct leases *l = s->leases;
	uint64_t w[4];
	int r = 0;

	memcpy(w, words, sizeof(w));
	pthread_mutex_lock(&l->lock);
	uint32_t at = slot_take(l);
	if (at) {
		for (int i = 0; i < 4; i++)
			atomic_store_explicit(&l->slots[at].word[i], w[i], memory_order_relaxed);
		atomic_store(&l->slots[at].tag, tag);
	} else {
		if (l->over == 0)
			r = lock_byte(s->lockfd, LEASE_ALL_BYTE, F_RDLCK, false);
		if (r == 0)
			l->over++;
		at = SLOT_OVER;
	}
	pthread_mutex_unlock(&l->lock);
	atomic_thread_fence(memory_order_seq_cst);
	if (r < 0)
		return err_set(err, -r, "lock %s/lock for a lease: %s", s->dir, strerror(-r));
	*slot = at;
	return 0;
}

void lease_drop(struct smfs_store *s, uint32_t slot)
{
	struct leases *l = s->leases;

	if (slot == LEASE_NONE || !l)
		return;
	pthread_mutex_lock(&l->lock);
	if (slot != SLOT_OVER) {
		atomic_store(&l->slots[slot].tag, SLOT_FREE);
		l->freed[l->nfreed++] = slot;
	} else if (--l->over == 0) {
		lock_byte(s->lockfd, LEASE_ALL_BYTE, F_UNLCK, false);
	}
	pthread_mutex_unlock(&l->lock);
}

int lease_root(struct smfs_store *s, const struct smfs_id *root, uint32_t *slot, struct err *err)
{
	return lease_take(s, SLOT_ROOT, root->b, slot, err);
}

int lease_pin(struct smfs_store *s, uint32_t *slot, uint64_t *gen, struct err *err)
{
	struct index_meta m;
	int r = index_meta(s->ix, &m, err);

	while (r == 0) {
		uint64_t words[4] = {m.gc_gen}, pinned = m.gc_gen;

		r = lease_take(s, SLOT_PIN, words, slot, err);
		if (r < 0)
			break;
		r = index_meta(s->ix, &m, err);
		if (r == 0 && m.gc_gen == pinned) {
			*gen = pinned;
			return 0;
		}
		lease_drop(s, *slot);
		*slot = LEASE_NONE;
	}
	return r;
}

int lease_pin_handle(struct smfs_store *s, struct err *err)
{
	struct leases *l = s->leases;
	uint32_t slot;
	uint64_t gen;
	int r = lease_pin(s, &slot, &gen, err);

	if (r != 0)
		return r;
	pthread_mutex_lock(&l->lock);
	bool had = l->handle_pinned;
	if (!had) {
		l->handle_pin = slot;
		l->handle_pinned = true;
	}
	pthread_mutex_unlock(&l->lock);
	if (had)
		lease_drop(s, slot);
	return 0;
}

void lease_unpin_handle(struct smfs_store *s)
{
	struct leases *l = s->leases;

	pthread_mutex_lock(&l->lock);
	uint32_t slot = l->handle_pinned ? l->handle_pin : LEASE_NONE;
	l->handle_pinned = false;
	pthread_mutex_unlock(&l->lock);
	lease_drop(s, slot);
}

/* ---- public ---- */

int smfs_lease_name(struct smfs_store *s, enum smfs_kind kind, const char *name,
		    struct smfs_name *out, uint32_t *lease, struct err *err)
{
	struct smfs_name again;
	int r = smfs_name_get(s, kind, name, out, err);

	while (r == 0) {
		r = lease_root(s, &out->root, lease, err);
		if (r < 0)
			break;
		r = smfs_name_get(s, kind, name, &again, err);
		if (r == 0 && id_equal(&again.root, &out->root)) {
			*out = again;
			return 0;
		}
		lease_drop(s, *lease);
		*lease = LEASE_NONE;
		*out = again;
	}
	return r;
}

int smfs_lease_root(struct smfs_store *s, const struct smfs_id *root, uint32_t *lease,
		    struct err *err)
{
	return lease_root(s, root, lease, err);
}

void smfs_lease_drop(struct smfs_store *s, uint32_t lease)
{
	lease_drop(s, lease);
}

void smfs_store_unpin(struct smfs_store *s)
{
	lease_unpin_handle(s);
}

int smfs_lease_fd(const struct smfs_store *s)
{
	return s->leases->fd;
}

int smfs_lease_watch(struct smfs_store *s, struct err *err)
{
	cleanup_free char *path = NULL;
	cleanup_fd int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);

	if (asprintf(&path, "%s/lock", s->dir) < 0)
		return err_set(err, ENOMEM, "watch %s: out of memory", s->dir);
	if (fd < 0 || inotify_add_watch(fd, path, IN_ATTRIB) < 0)
		return err_errno(err, "watch %s", path);
	if (s->leases->slots)
		atomic_store(&s->leases->slots[0].word[0], 1);
	return steal_fd(&fd);
}

void smfs_lease_answer(struct smfs_store *s)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	if (s->leases->slots)
		atomic_store(&s->leases->slots[0].word[0],
			     (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec);
}

void smfs_lease_unwatch(struct smfs_store *s, int fd)
{
	if (s->leases->slots)
		atomic_store(&s->leases->slots[0].word[0], 0);
	close(fd);
}
