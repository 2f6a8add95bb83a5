#include "smfs/mount/readahead.h"

#include <stdlib.h>
#include <string.h>

#include "smfs/base/num.h"
#include "smfs/base/workers.h"

#define BLOCK (128 * KIB)
#define FRAME (64 * KIB)
/*
 * The kernel takes a reply by the page of its sender: of a buffer that does not begin at one, twice
 * per page.
 */
#define PAGE 4096
/* Blocks kept per handle, a power of two, and how far ahead of the reader they go. */
#define SLOTS 16
#define AHEAD 8
/* Blocks of one job: to wake a thread takes as long as to decode a quarter of one. */
#define GROUP 4
/* Consecutive blocks before it is a pattern. */
#define STREAK 3
/* Handles read ahead for at once: bounds the memory to 64 MiB. */
#define READERS_MAX 32
/* More waiting work than this would come too late to be of use. */
#define QUEUE_MAX 64

struct readahead_pool {
	struct workers *workers;
	uint8_t *zeros; /* FS_IO_MAX of them, not to be written to */
	_Atomic unsigned readers, queued;
	pthread_mutex_t lock; /* of every struct half */
	pthread_cond_t done;  /* one of them is */
};

enum slot_state { EMPTY, QUEUED, RUNNING, READY, HOLE };

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
	unsigned waiters;	/* for it */
	unsigned refs;		/* the handle's and the queued jobs' */
	uint64_t last;		/* block read last */
	uint64_t planned;	/* blocks before this one were looked at, in this streak */
	unsigned streak;
	struct slot slots[SLOTS];
};

struct job {
	struct readahead *ra;
	uint64_t block[GROUP];
	unsigned n;
};

int readahead_pool_new(struct readahead_pool **out, struct err *err)
{
	struct readahead_pool *p = calloc(1, sizeof(*p));

	if (!p)
		return err_set(err, ENOMEM, "mount: out of memory");
	int r = posix_memalign((void **)&p->zeros, PAGE, FS_IO_MAX) == 0
			? workers_new(&p->workers, 0, QUEUE_MAX, err)
			: err_set(err, ENOMEM, "mount: out of memory");
	if (r < 0) {
		free(p->zeros);
		free(p);
		return r;
	}
	/* Pages of its own: the kernel's zero page takes a slow path when it is sent. */
	memset(p->zeros, 0, FS_IO_MAX);
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
	free(p->zeros);
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

/* With the lock held. */
static void wait_changed(struct readahead *ra)
{
	ra->waiters++;
	pthread_cond_wait(&ra->changed, &ra->lock);
	ra->waiters--;
}

static void tell_changed(struct readahead *ra)
{
	if (ra->waiters)
		pthread_cond_broadcast(&ra->changed);
}

void readahead_free(struct readahead *ra)
{
	if (!ra)
		return;
	pthread_mutex_lock(&ra->lock);
	for (size_t i = 0; i < SLOTS; i++) {
		while (ra->slots[i].state == RUNNING || ra->slots[i].lent)
			wait_changed(ra);
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

/* Nothing stored there. Not known (an error the reader will find) is no. */
static bool is_hole(struct smfs_file *f, uint64_t off, uint64_t len)
{
	struct smfs_extent e;

	return smfs_file_extents(f, off, len, &e, 1, NULL) == 0;
}

/* With the lock held, which it drops meanwhile. */
static void decode_block(struct readahead *ra, uint64_t block)
{
	struct slot *s = slot_of(ra, block);

	/* The reader may have overtaken the queue. */
	if (s->state != QUEUED || s->block != block)
		return;
	s->state = RUNNING;
	pthread_mutex_unlock(&ra->lock);
	ssize_t n = smfs_file_pread(ra->file, s->buf, BLOCK, block * BLOCK, NULL);
	pthread_mutex_lock(&ra->lock);
	/* An error is the reader's to find again, and then to report. */
	s->state = n < 0 ? EMPTY : READY;
	s->len = n < 0 ? 0 : (size_t)n;
	tell_changed(ra);
}

static void decode(void *arg)
{
	struct job *j = arg;
	struct readahead *ra = j->ra;

	atomic_fetch_sub(&ra->pool->queued, 1);
	pthread_mutex_lock(&ra->lock);
	for (unsigned i = 0; i < j->n; i++)
		decode_block(ra, j->block[i]);
	put(ra);
	free(j);
}

/* With the lock held: its slot is ready to be decoded into. */
static bool prepare(struct readahead *ra, uint64_t block)
{
	struct slot *s = slot_of(ra, block);

	if (s->state == RUNNING || s->lent || (s->state != EMPTY && s->block == block))
		return false;
	s->block = block;
	if (is_hole(ra->file, block * BLOCK, BLOCK)) {
		s->state = HOLE;
		return false;
	}
	s->state = EMPTY;
	if (!s->buf && posix_memalign((void **)&s->buf, PAGE, BLOCK) != 0) {
		s->buf = NULL;
		return false;
	}
	s->state = QUEUED;
	return true;
}

/* With the lock held: the blocks from `block` on, up to `end`, as jobs; how many there are. */
static unsigned schedule(struct readahead *ra, uint64_t block, uint64_t end)
{
	struct readahead_pool *pool = ra->pool;
	struct job *j = NULL;
	unsigned n = 0;

	while (block < end) {
		if (!j &&
		    (atomic_load(&pool->queued) >= QUEUE_MAX / 2 || !(j = malloc(sizeof(*j)))))
			break;
		for (j->n = 0; j->n < GROUP && block < end; block++)
			if (prepare(ra, block))
				j->block[j->n++] = block;
		if (!j->n)
			continue;
		j->ra = ra;
		n += j->n;
		ra->refs++;
		atomic_fetch_add(&pool->queued, 1);
		workers_submit(pool->workers, decode, j);
		j = NULL;
	}
	free(j);
	ra->planned = block;
	return n;
}

/* ---- reading -------------------------------------------------------------------------------- */

/* Part of one block in its slot, lent, or of the pool's zeros; NULL: the caller decodes it. */
static const uint8_t *lend(struct readahead *ra, size_t len, uint64_t block, uint64_t skip)
{
	struct slot *s = slot_of(ra, block);
	const uint8_t *p = NULL;

	pthread_mutex_lock(&ra->lock);
	while (s->state == RUNNING && s->block == block)
		wait_changed(ra);
	if (s->state == QUEUED && s->block == block)
		s->state = EMPTY; /* nobody has begun: decoding it here is quicker */
	if (s->state == HOLE && s->block == block) {
		p = ra->pool->zeros;
	} else if (s->state == READY && s->block == block && skip + len <= s->len) {
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
		tell_changed(ra);
	pthread_mutex_unlock(&ra->lock);
}

/* Requests of one reader may arrive a little out of order. */
static void note(struct smfs_mount *m, struct readahead *ra, uint64_t first, uint64_t last)
{
	uint64_t blocks = ra->size / BLOCK + (ra->size % BLOCK != 0);
	unsigned scheduled = 0;

	pthread_mutex_lock(&ra->lock);
	if (first == ra->last + 1) {
		ra->streak++;
	} else if (first > ra->last + AHEAD || last + AHEAD < ra->last) {
		ra->streak = 0;
		ra->planned = 0;
	}
	ra->last = last;
	uint64_t from = MAX(ra->planned, last + 1), end = MIN(last + 1 + AHEAD, blocks);
	/* By the job, or what is left of the file. */
	if (ra->streak >= STREAK && from < end && (end - from >= GROUP || end == blocks))
		scheduled = schedule(ra, from, end);
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

const void *readahead_lend(struct smfs_mount *m, struct handle *h, struct smfs_file *f, size_t *len,
			   uint64_t off)
{
	uint64_t size = h->inode->content.size, block = off / BLOCK;

	if (off >= size)
		return NULL;
	size_t n = MIN(*len, size - off);
	struct readahead *ra = is_worth(size, n) ? state_of(m, h, f, off, off + n) : NULL;
	const void *p = NULL;
	if (ra) {
		uint64_t last = (off + n - 1) / BLOCK;

		note(m, ra, block, last);
		if (last == block)
			p = lend(ra, n, block, off % BLOCK);
	}
	if (!p && is_hole(f, off, n))
		p = m->readahead->zeros;
	if (p)
		*len = n;
	return p;
}

void readahead_take_back(struct smfs_mount *m, struct handle *h, const void *p, uint64_t off)
{
	if (p != m->readahead->zeros)
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
	struct readahead *ra = is_worth(size, len) ? atomic_load(&h->ahead) : NULL;
	if (!ra)
		return read_shared(m->readahead, f, buf, len, off, err);
	while (got < len) {
		uint64_t block = (off + got) / BLOCK, skip = (off + got) % BLOCK;
		size_t n = MIN(len - got, BLOCK - skip);

		const uint8_t *p = lend(ra, n, block, skip);
		if (p) {
			memcpy((uint8_t *)buf + got, p, n);
			if (p != ra->pool->zeros)
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
