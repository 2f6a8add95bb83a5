#include "smfs/store/page_index.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"

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
#define VERSION	 2u
#define HEAD_LEN 4096u

#define WAYS	    64u
#define LINE	    8u /* entries in a line of the processor's cache, where a search begins */
#define BUCKET_LEN  (WAYS * sizeof(uint64_t))
#define BUCKETS_MIN 256u /* 128 KiB */
#define BUCKETS_MAX ((uint32_t)(PAGE_INDEX_MAX / BUCKET_LEN))

/*
 * A hash's first 32 bits, its KEY, count: bucket b of n is for the n-th part of the keys that
 * begins with first_key(b, n), and an entry holds its key's distance from there. So a table of any
 * other number of buckets can be made of its entries alone.
 */
#define TAG_BITS 24u /* 2^32 / BUCKETS_MIN keys in a bucket */

/*
 * Of 2^24 pages one in 256 has the key of any new page. So that it is not taken for that page, a
 * place is kept with the hash's other 32 bits over those it shares with a frame's id: under a hash
 * that is another's it reads as the place of a frame that hardly ever exists.
 */
#define VEIL_SHIFT (PLACE_BITS - 32u)
_Static_assert(VEIL_SHIFT >= PLACE_REGION && VEIL_SHIFT >= PLACE_PAGE, "numbers stay as they are");
#define PLACE_MASK (((uint64_t)1 << PLACE_BITS) - 1)

struct head {
	char magic[8];
	uint32_t version, buckets;
	uint8_t uuid[UUID_LEN];
	uint64_t sum;	       /* of the above */
	_Atomic uint64_t used; /* entries, about */
};

/* A mapped table, or a window of one being made, from bucket `first` on. */
struct table {
	struct head *head;
	_Atomic uint64_t *entry;
	uint32_t buckets, first;
	size_t len;
	int fd;
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
	if (t->head) {
		munmap(t->head, t->len);
		close(t->fd);
	}
	*t = (struct table){0};
}

/* Map `fd`, which is taken if so; what is no table of this store is not. */
static bool map(const struct page_index *px, int *fd, struct table *out)
{
	struct stat st;

	if (fstat(*fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size < (off_t)HEAD_LEN ||
	    st.st_size > (off_t)table_len(BUCKETS_MAX))
		return false;
	void *p = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
	if (p == MAP_FAILED)
		return false;
	struct table t = {.head = p, .len = (size_t)st.st_size, .dev = st.st_dev, .ino = st.st_ino};
	if (!head_ok(px, t.head, t.len)) {
		munmap(p, t.len);
		return false;
	}
	t.fd = steal_fd(fd);
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

static _Atomic uint64_t *bucket(const struct table *t, uint32_t key)
{
	return t->entry + (size_t)(bucket_of(key, t->buckets) - t->first) * WAYS;
}

/* Where the search for a key begins; it goes on to the bucket's end, and from its beginning. */
static unsigned first_way(uint32_t key)
{
	return key % (WAYS / LINE) * LINE;
}

/* The way with this key's entry, or a free one, or (full) one to replace. */
static _Atomic uint64_t *way(const struct table *t, uint32_t key, uint64_t *tag)
{
	_Atomic uint64_t *e = bucket(t, key);
	unsigned first = first_way(key);

	*tag = key - first_key(bucket_of(key, t->buckets), t->buckets);
	for (unsigned i = 0; i < WAYS; i++) {
		_Atomic uint64_t *w = &e[(first + i) % WAYS];
		uint64_t v = load(w);

		if (v == 0 || v >> PLACE_BITS == *tag)
			return w;
	}
	return &e[first + key / (WAYS / LINE) % LINE];
}

static uint32_t key_of(uint64_t hash)
{
	return (uint32_t)(hash >> 32);
}

/* Put on, or taken off. */
static uint64_t veil(uint64_t hash, uint64_t place)
{
	return place ^ (hash & UINT32_MAX) << VEIL_SHIFT;
}

static void put(const struct table *t, uint32_t key, uint64_t veiled)
{
	uint64_t tag;
	_Atomic uint64_t *w = way(t, key, &tag);
	uint64_t v = tag << PLACE_BITS | veiled;

	if (v && load(w) == 0)
		atomic_fetch_add_explicit(&t->head->used, 1, memory_order_relaxed);
	/* The one that would be no entry is not found. */
	if (v)
		keep(w, v);
}

static void fetch(const struct table *t, uint64_t hash)
{
	uint32_t key = key_of(hash);

	__builtin_prefetch(bucket(t, key) + first_way(key));
}

/* ---- the file ---- */

/*
 * Many entries are written by write(2), so many buckets at a time: 256 KiB. In the mapping each
 * page of the table would take a fault, and again after the kernel has written it back.
 */
#define WINDOW	    512u
#define WINDOWS_MAX (BUCKETS_MAX / WINDOW)

/* What `from` has for the `n` buckets of the window. */
static void copy_entries(const struct table *from, const struct table *to, uint32_t n)
{
	uint64_t end = ((uint64_t)(to->first + n) << 32) / to->buckets;
	uint32_t b = bucket_of(first_key(to->first, to->buckets), from->buckets);

	for (; b < from->buckets && first_key(b, from->buckets) <= end; b++) {
		for (unsigned i = 0; i < WAYS; i++) {
			uint64_t e = load(&from->entry[(size_t)b * WAYS + i]);
			uint32_t key = first_key(b, from->buckets) + (uint32_t)(e >> PLACE_BITS);

			if (e && bucket_of(key, to->buckets) - to->first < n)
				put(to, key, e & PLACE_MASK);
		}
	}
}

/* By write(2): to map a table that is not in the page cache yet would take a fault for each page.
 */
static bool write_entries(const struct table *from, int fd, struct head *h)
{
	uint32_t buckets = le32toh(h->buckets), n;
	cleanup_free void *window = malloc(BUCKET_LEN * WINDOW);

	for (uint32_t first = 0; window && first < buckets; first += n) {
		struct table to = {.head = h, .entry = window, .buckets = buckets, .first = first};

		n = MIN(buckets - first, WINDOW);
		memset(window, 0, BUCKET_LEN * n);
		copy_entries(from, &to, n);
		if (pwrite_full(fd, window, BUCKET_LEN * n, table_len(first)) < 0)
			return false;
	}
	return window;
}

/*
 * A new file in tmp/ with what is in `from`, locked so that it is no dead writer's, all its blocks
 * allocated. `name` is its path.
 */
static int make_file(const struct page_index *px, const struct table *from, uint32_t buckets,
		     char name[40])
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
	    (!from->head || write_entries(from, fd, &h)) && pwrite_full(fd, &h, sizeof(h), 0) == 0)
		return steal_fd(&fd);
	unlinkat(px->dirfd, name, 0);
	return -1;
}

/* The table becomes one of so many buckets, with what is in it. The lock is held. */
static void make(struct page_index *px, uint32_t buckets)
{
	struct table t = {0};
	char name[40];
	cleanup_fd int fd = make_file(px, &px->t, buckets, name);

	if (fd < 0)
		return;
	if (!map(px, &fd, &t) || renameat2(px->dirfd, name, px->dirfd, PAGE_INDEX_FILE, 0) < 0) {
		unlinkat(px->dirfd, name, 0);
		unmap(&t);
		return;
	}
	unmap(&px->t);
	px->t = t;
}

/* Few buckets overflow before three quarters of the entries are used. */
static uint64_t buckets_for(uint64_t entries)
{
	return entries / (WAYS / 4 * 3) + 1;
}

/* For `n` more entries. A table that has become too small becomes an eighth larger at least. */
static void make_room(struct page_index *px, size_t n)
{
	pthread_rwlock_wrlock(&px->lock);
	const struct table *t = &px->t;
	const uint64_t most = (uint64_t)BUCKETS_MAX * WAYS;
	uint64_t used = 0;

	/* The count may say anything. */
	if (t->head)
		used = MIN(atomic_load_explicit(&t->head->used, memory_order_relaxed),
			   (uint64_t)t->buckets * WAYS);
	uint64_t need = buckets_for(used + MIN(n, most));

	if (!t->head || (need > t->buckets && t->buckets < BUCKETS_MAX)) {
		need = MAX(need, MAX((uint64_t)t->buckets + t->buckets / 8, BUCKETS_MIN));
		make(px, (uint32_t)MIN(need, BUCKETS_MAX));
	}
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
		map(px, &fd, &px->t);
	}
	pthread_rwlock_unlock(&px->lock);
}

static uint64_t find(const struct table *t, uint64_t hash)
{
	uint64_t tag, e = load(way(t, key_of(hash), &tag));

	return e && e >> PLACE_BITS == tag ? veil(hash, e & PLACE_MASK) : 0;
}

void page_index_find(struct page_index *px, const uint64_t *hash, unsigned n, uint64_t *place)
{
	memset(place, 0, n * sizeof(*place));
	pthread_rwlock_rdlock(&px->lock);
	for (unsigned i = 0; px->t.head && i < n; i++)
		fetch(&px->t, hash[i]);
	for (unsigned i = 0; px->t.head && i < n; i++)
		if (hash[i])
			place[i] = find(&px->t, hash[i]);
	pthread_rwlock_unlock(&px->lock);
}

/* ---- many at once ---- */

/* Fewer of a window are put where they belong one by one. */
#define FEW (WINDOW / 16)

/* `n` notes of one window. What another process writes to it meanwhile may get lost. */
static void add_window(const struct table *t, uint32_t first, const struct page_note *notes,
		       size_t n, void *window)
{
	size_t len = BUCKET_LEN * MIN(t->buckets - first, WINDOW);
	struct table in = {.head = t->head, .entry = window, .buckets = t->buckets, .first = first};
	bool whole = window && n > FEW && pread_full(t->fd, window, len, table_len(first)) == 0;

	for (size_t i = 0; i < n; i++)
		put(whole ? &in : t, key_of(notes[i].hash), veil(notes[i].hash, notes[i].place));
	if (whole)
		(void)!pwrite_full(t->fd, window, len, table_len(first));
}

static uint32_t window_of(const struct table *t, uint64_t hash)
{
	return bucket_of(key_of(hash), t->buckets) / WINDOW;
}

/* Window by window: out[from[w]] to out[from[w + 1]] are the notes of w. */
static void sort(const struct table *t, const struct page_note *notes, size_t n,
		 struct page_note *out, size_t from[WINDOWS_MAX + 1])
{
	size_t sum = 0;

	memset(from, 0, (WINDOWS_MAX + 1) * sizeof(*from));
	for (size_t i = 0; i < n; i++)
		from[window_of(t, notes[i].hash)]++;
	for (unsigned w = 0; w <= WINDOWS_MAX; w++) {
		sum += from[w];
		from[w] = sum;
	}
	for (size_t i = n; i-- > 0;)
		out[--from[window_of(t, notes[i].hash)]] = notes[i];
}

static void add(const struct table *t, const struct page_note *notes, size_t n)
{
	cleanup_free struct page_note *sorted = reallocarray(NULL, n, sizeof(*sorted));
	cleanup_free void *window = n > FEW ? malloc(BUCKET_LEN * WINDOW) : NULL;
	size_t from[WINDOWS_MAX + 1];

	if (!sorted)
		return;
	sort(t, notes, n, sorted, from);
	for (uint32_t w = 0; w < WINDOWS_MAX; w++)
		if (from[w + 1] > from[w])
			add_window(t, w * WINDOW, sorted + from[w], from[w + 1] - from[w], window);
}

/* What is sorted at once: 16 MiB. */
#define SLICE ((size_t)1 << 20)

void page_index_add(struct page_index *px, const struct page_note *notes, size_t n)
{
	for (size_t done = 0, some; done < n; done += some) {
		some = MIN(n - done, SLICE);
		make_room(px, some);
		pthread_rwlock_rdlock(&px->lock);
		if (px->t.head)
			add(&px->t, notes + done, some);
		pthread_rwlock_unlock(&px->lock);
	}
}
