#include "smfs/mount/readahead.h"

#include <stdlib.h>
#include <string.h>

#include "smfs/base/num.h"
#include "smfs/base/workers.h"

#define BLOCK (128 * KIB)
#define FRAME (64 * KIB)
/* Blocks kept per handle, a power of two, and how far ahead of the reader they go. */
#define SLOTS 16
#define AHEAD 8
/* Consecutive blocks before it is a pattern. */
#define STREAK 3
/* Handles read ahead for at once: bounds the memory to 64 MiB. */
#define READERS_MAX 32
/* More waiting work than this would come too late to be of use. */
#define QUEUE_MAX 64

struct readahead_pool {
	struct workers *workers;
	_Atomic unsigned readers, queued;
	pthread_mutex_t lock; /* of every struct half */
	pthread_cond_t done;  /* one of them is */
};

enum slot_state { EMPTY, QUEUED, RUNNING, READY };

struct slot {
	enum slot_state state;
	uint64_t block;
	size_t len;
	uint8_t *buf;
	unsigned lent; /* replies on their way: the buffer stays */
};

struct readahead {
	struct readahead_pool *pool;
	struct smfs_file *file; /* of the handle's inode; not used after readahead_free() */
	uint64_t size;
	pthread_mutex_t lock;
	pthread_cond_t changed; /* a slot is no longer RUNNING, or lent */
	unsigned refs;		/* the handle's and the queued jobs' */
	uint64_t last;		/* block read last */
	unsigned streak;
	struct slot slots[SLOTS];
};

struct job {
	struct readahead *ra;
	uint64_t block;
};

int readahead_pool_new(struct readahead_pool **out, struct err *err)
{
	struct readahead_pool *p = calloc(1, sizeof(*p));

	if (!p)
		return err_set(err, ENOMEM, "mount: out of memory");
	int r = workers_new(&p->workers, 0, QUEUE_MAX, err);
	if (r < 0) {
		free(p);
		return r;
	}
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->done, NULL);
	*out = p;
	return 0;
}

void readahead_pool_free(struct readahead_pool *p)
{
	if (!p)
		return;
	workers_free(p->workers);
	pthread_mutex_destroy(&p->lock);
	pthread_cond_destroy(&p->done);
	free(p);
}

/* With the lock held, which it drops. */
static void put(struct readahead *ra)
{
	bool last = --ra->refs == 0;

	pthread_mutex_unlock(&ra->lock);
	if (!last)
		return;
	atomic_fetch_sub(&ra->pool->readers, 1);
	for (size_t i = 0; i < SLOTS; i++)
		free(ra->slots[i].buf);
	pthread_mutex_destroy(&ra->lock);
	pthread_cond_destroy(&ra->changed);
	free(ra);
}

void readahead_free(struct readahead *ra)
{
	if (!ra)
		return;
	pthread_mutex_lock(&ra->lock);
	for (size_t i = 0; i < SLOTS; i++) {
		while (ra->slots[i].state == RUNNING || ra->slots[i].lent)
			pthread_cond_wait(&ra->changed, &ra->lock);
		ra->slots[i].state = EMPTY;
	}
	put(ra);
}

static struct readahead *new_readahead(struct readahead_pool *pool, struct smfs_file *f,
				       uint64_t size)
{
	struct readahead *ra;

	if (atomic_fetch_add(&pool->readers, 1) >= READERS_MAX || !(ra = calloc(1, sizeof(*ra)))) {
		atomic_fetch_sub(&pool->readers, 1);
		return NULL;
	}
	*ra = (struct readahead){.pool = pool, .file = f, .size = size, .refs = 1};
	pthread_mutex_init(&ra->lock, NULL);
	pthread_cond_init(&ra->changed, NULL);
	return ra;
}

/* ---- decoding ahead ------------------------------------------------------------------------- */

static struct slot *slot_of(struct readahead *ra, uint64_t block)
{
	return &ra->slots[block % SLOTS];
}

static void decode(void *arg)
{
	struct job *j = arg;
	struct readahead *ra = j->ra;
	struct slot *s = slot_of(ra, j->block);

	atomic_fetch_sub(&ra->pool->queued, 1);
	pthread_mutex_lock(&ra->lock);
	/* The reader may have overtaken the queue. */
	if (s->state == QUEUED && s->block == j->block) {
		s->state = RUNNING;
		pthread_mutex_unlock(&ra->lock);
		ssize_t n = smfs_file_pread(ra->file, s->buf, BLOCK, j->block * BLOCK, NULL);
		pthread_mutex_lock(&ra->lock);
		/* An error is the reader's to find again, and then to report. */
		s->state = n < 0 ? EMPTY : READY;
		s->len = n < 0 ? 0 : (size_t)n;
		pthread_cond_broadcast(&ra->changed);
	}
	put(ra);
	free(j);
}

/* With the lock held. */
static bool schedule(struct readahead *ra, uint64_t block)
{
	struct slot *s = slot_of(ra, block);
	struct job *j;

	if (s->state == RUNNING || s->lent || (s->state != EMPTY && s->block == block))
		return false;
	if (!s->buf && !(s->buf = malloc(BLOCK)))
		return false;
	if (atomic_load(&ra->pool->queued) >= QUEUE_MAX / 2 || !(j = malloc(sizeof(*j))))
		return false;
	*j = (struct job){.ra = ra, .block = block};
	s->state = QUEUED;
	s->block = block;
	ra->refs++;
	atomic_fetch_add(&ra->pool->queued, 1);
	workers_submit(ra->pool->workers, decode, j);
	return true;
}

/* ---- reading -------------------------------------------------------------------------------- */

/* Part of one block in its slot, lent; NULL: the caller decodes it. */
static const uint8_t *lend(struct readahead *ra, size_t len, uint64_t block, uint64_t skip)
{
	struct slot *s = slot_of(ra, block);
	const uint8_t *p = NULL;

	pthread_mutex_lock(&ra->lock);
	while (s->state == RUNNING && s->block == block)
		pthread_cond_wait(&ra->changed, &ra->lock);
	if (s->state == QUEUED && s->block == block)
		s->state = EMPTY; /* nobody has begun: decoding it here is quicker */
	if (s->state == READY && s->block == block && skip + len <= s->len) {
		p = s->buf + skip;
		s->lent++;
	}
	pthread_mutex_unlock(&ra->lock);
	return p;
}

static void take_back(struct readahead *ra, uint64_t block)
{
	struct slot *s = slot_of(ra, block);

	pthread_mutex_lock(&ra->lock);
	if (--s->lent == 0)
		pthread_cond_broadcast(&ra->changed);
	pthread_mutex_unlock(&ra->lock);
}

/* Requests of one reader may arrive a little out of order. */
static void note(struct smfs_mount *m, struct readahead *ra, uint64_t first, uint64_t last)
{
	uint64_t scheduled = 0;

	pthread_mutex_lock(&ra->lock);
	if (first == ra->last + 1)
		ra->streak++;
	else if (first > ra->last + AHEAD || last + AHEAD < ra->last)
		ra->streak = 0;
	ra->last = last;
	if (ra->streak >= STREAK)
		for (uint64_t b = last + 1; b <= last + AHEAD && b * BLOCK < ra->size; b++)
			scheduled += schedule(ra, b);
	pthread_mutex_unlock(&ra->lock);
	if (scheduled)
		stats_add(&m->stats, COUNT_READAHEADS, scheduled);
}

/* The handle's state, made at the second block in a row: most handles never need one. */
static struct readahead *state_of(struct smfs_mount *m, struct handle *h, struct smfs_file *f,
				  uint64_t first, uint64_t end)
{
	struct readahead *ra = atomic_load(&h->ahead), *none = NULL;

	if (ra)
		return ra;
	if (atomic_exchange(&h->next_off, end) != first)
		return NULL;
	ra = new_readahead(m->readahead, f, h->inode->content.size);
	if (ra && !atomic_compare_exchange_strong(&h->ahead, &none, ra)) {
		readahead_free(ra);
		ra = none;
	}
	return ra;
}

/* ---- two at a time -------------------------------------------------------------------------- */

/*
 * Around a fault the kernel asks for 128 KiB wherever they begin: three frames, of which the
 * faulting page waits for all. One of them is read and decoded by another thread meanwhile.
 */
struct half {
	struct readahead_pool *pool;
	struct smfs_file *file; /* the reader's, which waits unless it has taken the work back */
	uint8_t *buf;
	size_t len;
	uint64_t off;
	unsigned refs; /* the reader's and the job's */
	enum { HALF_QUEUED, HALF_RUNNING, HALF_DONE, HALF_TAKEN } state;
	ssize_t got;
};

/* With the lock held, which it drops. */
static void put_half(struct half *h)
{
	bool last = --h->refs == 0;

	pthread_mutex_unlock(&h->pool->lock);
	if (last)
		free(h);
}

static void decode_half(void *arg)
{
	struct half *h = arg;
	struct readahead_pool *p = h->pool;

	atomic_fetch_sub(&p->queued, 1);
	pthread_mutex_lock(&p->lock);
	if (h->state == HALF_QUEUED) {
		h->state = HALF_RUNNING;
		pthread_mutex_unlock(&p->lock);
		ssize_t n = smfs_file_pread(h->file, h->buf, h->len, h->off, NULL);
		pthread_mutex_lock(&p->lock);
		h->got = n;
		h->state = HALF_DONE;
		pthread_cond_broadcast(&p->done);
	}
	put_half(h);
}

/* NULL: everybody is busy, or there is nothing to share. */
static struct half *begin_half(struct readahead_pool *p, struct smfs_file *f, uint8_t *buf,
			       size_t len, uint64_t off)
{
	uint64_t mid = align_up(off + len / 2, FRAME);
	struct half *h;

	if (len < BLOCK / 2 || mid >= off + len || atomic_load(&p->queued) ||
	    !(h = malloc(sizeof(*h))))
		return NULL;
	*h = (struct half){.pool = p,
			   .file = f,
			   .buf = buf + (mid - off),
			   .len = len - (mid - off),
			   .off = mid,
			   .refs = 2};
	atomic_fetch_add(&p->queued, 1);
	workers_submit(p->workers, decode_half, h);
	return h;
}

/* Not begun yet, or failed: the reader does it, and gets the error. */
static bool end_half(struct half *h)
{
	pthread_mutex_lock(&h->pool->lock);
	if (h->state == HALF_QUEUED)
		h->state = HALF_TAKEN;
	while (h->state == HALF_RUNNING)
		pthread_cond_wait(&h->pool->done, &h->pool->lock);
	bool ok = h->state == HALF_DONE && h->got == (ssize_t)h->len;
	put_half(h);
	return ok;
}

/* All of [off, off + len), which is in the file. */
static ssize_t read_shared(struct readahead_pool *p, struct smfs_file *f, uint8_t *buf, size_t len,
			   uint64_t off, struct err *err)
{
	struct half *h = begin_half(p, f, buf, len, off);
	size_t first = h ? len - h->len : len;
	ssize_t n = smfs_file_pread(f, buf, first, off, err);

	if (h && !end_half(h) && n >= 0) {
		ssize_t rest = smfs_file_pread(f, buf + first, len - first, off + first, err);

		return rest < 0 ? rest : n + rest;
	}
	return n < 0 || !h ? n : (ssize_t)len;
}

/* Small reads are page faults, and of a small file nothing is left to decode ahead. */
static bool is_worth(uint64_t size, size_t len)
{
	return len >= BLOCK / 2 && size > 2 * BLOCK;
}

const void *readahead_lend(struct smfs_mount *m, struct handle *h, size_t *len, uint64_t off)
{
	struct readahead *ra = atomic_load(&h->ahead);
	uint64_t size = h->inode->content.size, block = off / BLOCK;

	if (!ra || off >= size)
		return NULL;
	size_t n = MIN(*len, size - off);
	if (!is_worth(size, n) || (off + n - 1) / BLOCK != block)
		return NULL;
	note(m, ra, block, block);
	const void *p = lend(ra, n, block, off % BLOCK);
	if (p)
		*len = n;
	return p;
}

void readahead_take_back(struct handle *h, uint64_t off)
{
	take_back(atomic_load(&h->ahead), off / BLOCK);
}

ssize_t readahead_pread(struct smfs_mount *m, struct handle *h, struct smfs_file *f, void *buf,
			size_t len, uint64_t off, struct err *err)
{
	uint64_t size = h->inode->content.size;
	size_t got = 0;

	if (off >= size)
		return 0;
	len = MIN(len, size - off);
	struct readahead *ra = is_worth(size, len) ? state_of(m, h, f, off, off + len) : NULL;
	if (!ra)
		return read_shared(m->readahead, f, buf, len, off, err);
	note(m, ra, off / BLOCK, (off + len - 1) / BLOCK);
	while (got < len) {
		uint64_t block = (off + got) / BLOCK, skip = (off + got) % BLOCK;
		size_t n = MIN(len - got, BLOCK - skip);

		const uint8_t *p = lend(ra, n, block, skip);
		if (p) {
			memcpy((uint8_t *)buf + got, p, n);
			take_back(ra, block);
		} else {
			ssize_t r = smfs_file_pread(f, (uint8_t *)buf + got, n, off + got, err);

			if (r < 0)
				return r;
		}
		got += n;
	}
	return (ssize_t)len;
}
