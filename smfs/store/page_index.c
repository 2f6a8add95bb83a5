#include "smfs/store/page_index.h"

#include "smfs/base/cleanup.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

/* The file: a head of one page, then buckets of WAYS entries. */
#define MAGIC	 "SMFSPAGE"
#define VERSION	 1u
#define HEAD_LEN 4096u

#define WAYS	    64u
#define BUCKET_LEN  (WAYS * sizeof(uint64_t))
#define BUCKETS_MIN 256u /* 128 KiB */
#define BUCKETS_MAX ((uint32_t)(PAGE_INDEX_MAX / BUCKET_LEN))

/*
 * A hash's first 32 bits, its KEY, count: bucket b of n is for the n-th part of the keys that
 * begins with first_key(b, n), and an entry holds its key's distance from there. So a table of any
 * other number of buckets can be made of its entries alone.
 */
#define TAG_BITS 24u /* 2^32 / BUCKETS_MIN keys in a bucket */

struct head {
	char magic[8];
	uint32_t version, buckets;
	uint8_t uuid[UUID_LEN];
	uint64_t sum;	       /* of the above */
	_Atomic uint64_t used; /* entries, about */
};

/* A mapped table. */
struct table {
	struct head *head;
	_Atomic uint64_t *entry;
	uint32_t buckets;
	size_t len;
	dev_t dev;
	ino_t ino;
};

struct page_index {
	int dirfd;
	uint8_t uuid[UUID_LEN];
	/* Held shared to use the table, exclusively to change which one it is. */
	pthread_rwlock_t lock;
	struct table t; /* head NULL: none */
};

static size_t table_len(uint32_t buckets)
{
	return HEAD_LEN + BUCKET_LEN * buckets;
}

static uint64_t head_sum(const struct head *h)
{
	return XXH3_64bits(h, offsetof(struct head, sum));
}

static bool head_ok(const struct page_index *px, const struct head *h, size_t len)
{
	return memcmp(h->magic, MAGIC, sizeof(h->magic)) == 0 && h->version == htole32(VERSION) &&
	       memcmp(h->uuid, px->uuid, UUID_LEN) == 0 && h->sum == htole64(head_sum(h)) &&
	       le32toh(h->buckets) >= BUCKETS_MIN && le32toh(h->buckets) <= BUCKETS_MAX &&
	       len == table_len(le32toh(h->buckets));
}

static void unmap(struct table *t)
{
	if (t->head)
		munmap(t->head, t->len);
	*t = (struct table){0};
}

/* Map `fd`; what is no table of this store is not. */
static bool map(const struct page_index *px, int fd, struct table *out)
{
	struct stat st;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size < (off_t)HEAD_LEN ||
	    st.st_size > (off_t)table_len(BUCKETS_MAX))
		return false;
	void *p = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return false;
	struct table t = {.head = p, .len = (size_t)st.st_size, .dev = st.st_dev, .ino = st.st_ino};
	if (!head_ok(px, t.head, t.len)) {
		unmap(&t);
		return false;
	}
	t.buckets = le32toh(t.head->buckets);
	t.entry = (_Atomic uint64_t *)((uint8_t *)p + HEAD_LEN);
	/* One lookup has nothing to do with the next. */
	madvise(p, t.len, MADV_RANDOM);
	*out = t;
	return true;
}

/* ---- entries ---- */

static uint32_t bucket_of(uint32_t key, uint32_t buckets)
{
	return (uint32_t)((uint64_t)key * buckets >> 32);
}

static uint32_t first_key(uint32_t bucket, uint32_t buckets)
{
	return (uint32_t)((((uint64_t)bucket << 32) + buckets - 1) / buckets);
}

static uint64_t load(_Atomic uint64_t *e)
{
	return le64toh(atomic_load_explicit(e, memory_order_relaxed));
}

static void keep(_Atomic uint64_t *e, uint64_t v)
{
	atomic_store_explicit(e, htole64(v), memory_order_relaxed);
}

/* The way with this key's entry, or a free one, or (full) one to replace. */
static _Atomic uint64_t *way(const struct table *t, uint32_t key, uint64_t *tag)
{
	uint32_t b = bucket_of(key, t->buckets);
	_Atomic uint64_t *e = t->entry + (size_t)b * WAYS;

	*tag = key - first_key(b, t->buckets);
	for (unsigned i = 0; i < WAYS; i++) {
		uint64_t v = load(&e[i]);

		if (v == 0 || v >> PLACE_BITS == *tag)
			return &e[i];
	}
	return &e[key % WAYS];
}

static uint32_t key_of(uint64_t hash)
{
	return (uint32_t)(hash >> 32);
}

static void put(const struct table *t, uint32_t key, uint64_t place)
{
	uint64_t tag;
	_Atomic uint64_t *w = way(t, key, &tag);

	if (load(w) == 0)
		atomic_fetch_add_explicit(&t->head->used, 1, memory_order_relaxed);
	keep(w, tag << PLACE_BITS | place);
}

/* ---- the file ---- */

/*
 * A new file in tmp/, locked so that it is no dead writer's, all its blocks allocated. `name` is
 * its path.
 */
static int make_file(const struct page_index *px, uint32_t buckets, char name[40])
{
	struct head h = {.version = htole32(VERSION), .buckets = htole32(buckets)};
	uint64_t n;

	if (getrandom(&n, sizeof(n), 0) != sizeof(n))
		return -1;
	snprintf(name, 40, "tmp/pages.%016llx", (unsigned long long)n);
	cleanup_fd int fd = openat(px->dirfd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return -1;
	memcpy(h.magic, MAGIC, sizeof(h.magic));
	memcpy(h.uuid, px->uuid, UUID_LEN);
	h.sum = htole64(head_sum(&h));
	if (flock(fd, LOCK_EX | LOCK_NB) == 0 &&
	    posix_fallocate(fd, 0, (off_t)table_len(buckets)) == 0 &&
	    pwrite(fd, &h, sizeof(h), 0) == (ssize_t)sizeof(h))
		return steal_fd(&fd);
	unlinkat(px->dirfd, name, 0);
	return -1;
}

static void copy_entries(const struct table *from, const struct table *to)
{
	for (uint32_t b = 0; b < from->buckets; b++) {
		uint32_t first = first_key(b, from->buckets);

		for (unsigned i = 0; i < WAYS; i++) {
			uint64_t e = load(&from->entry[(size_t)b * WAYS + i]);

			if (e)
				put(to, first + (uint32_t)(e >> PLACE_BITS),
				    e & (((uint64_t)1 << PLACE_BITS) - 1));
		}
	}
}

/* The table becomes one of so many buckets, with what is in it. The lock is held. */
static void make(struct page_index *px, uint32_t buckets)
{
	struct table t;
	char name[40];
	cleanup_fd int fd = make_file(px, buckets, name);

	if (fd < 0)
		return;
	if (!map(px, fd, &t)) {
		unlinkat(px->dirfd, name, 0);
		return;
	}
	if (px->t.head)
		copy_entries(&px->t, &t);
	if (renameat2(px->dirfd, name, px->dirfd, PAGE_INDEX_FILE, 0) < 0) {
		unlinkat(px->dirfd, name, 0);
		unmap(&t);
		return;
	}
	unmap(&px->t);
	px->t = t;
}

/* Few buckets overflow before this many of the entries are used. */
static bool crowded(const struct table *t)
{
	uint64_t used = atomic_load_explicit(&t->head->used, memory_order_relaxed);

	return t->buckets < BUCKETS_MAX && used > (uint64_t)WAYS * t->buckets / 4 * 3;
}

static void make_room(struct page_index *px)
{
	pthread_rwlock_wrlock(&px->lock);
	if (!px->t.head)
		make(px, BUCKETS_MIN);
	else if (crowded(&px->t))
		make(px, MIN(px->t.buckets + px->t.buckets / 8, BUCKETS_MAX));
	pthread_rwlock_unlock(&px->lock);
}

/* ---- the calls ---- */

int page_index_new(int dirfd, const uint8_t uuid[UUID_LEN], struct page_index **out)
{
	struct page_index *px = calloc(1, sizeof(*px));

	if (!px)
		return -ENOMEM;
	px->dirfd = dirfd;
	memcpy(px->uuid, uuid, UUID_LEN);
	pthread_rwlock_init(&px->lock, NULL);
	*out = px;
	return 0;
}

void page_index_free(struct page_index *px)
{
	if (!px)
		return;
	unmap(&px->t);
	pthread_rwlock_destroy(&px->lock);
	free(px);
}

void page_index_follow(struct page_index *px)
{
	cleanup_fd int fd =
		openat(px->dirfd, PAGE_INDEX_FILE, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	struct stat st;

	pthread_rwlock_wrlock(&px->lock);
	if (fd < 0 || fstat(fd, &st) < 0) {
		unmap(&px->t);
	} else if (!px->t.head || st.st_dev != px->t.dev || st.st_ino != px->t.ino ||
		   st.st_size != (off_t)px->t.len) {
		unmap(&px->t);
		map(px, fd, &px->t);
	}
	pthread_rwlock_unlock(&px->lock);
}

uint64_t page_index_find(struct page_index *px, uint64_t hash)
{
	uint64_t place = 0;

	pthread_rwlock_rdlock(&px->lock);
	if (px->t.head) {
		uint64_t tag, e = load(way(&px->t, key_of(hash), &tag));

		if (e >> PLACE_BITS == tag)
			place = e & (((uint64_t)1 << PLACE_BITS) - 1);
	}
	pthread_rwlock_unlock(&px->lock);
	return place;
}

/* Between two looks at how full the table is. */
#define BATCH 1024u

void page_index_add(struct page_index *px, const struct page_note *notes, size_t n)
{
	for (size_t i = 0; i < n;) {
		make_room(px);
		pthread_rwlock_rdlock(&px->lock);
		for (size_t end = MIN(n, i + BATCH); i < end; i++)
			if (px->t.head)
				put(&px->t, key_of(notes[i].hash), notes[i].place);
		pthread_rwlock_unlock(&px->lock);
	}
}
