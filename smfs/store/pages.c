#include "smfs/store/pages.h"

#include "smfs/store/zero.h"

#include <stdlib.h>
#include <xxhash.h>

/* Eight pages that hash alike share two cache lines; room for 2 GiB of distinct pages, 8 MiB. */
#define WAYS	8u
#define BUCKETS 65536u

struct entry {
	uint64_t hash; /* its low bits replaced by the page's number in its chunk */
	struct origin *from;
};

#define SLAB_ORIGINS 256u
struct origins {
	struct origins *next;
	unsigned n;
	struct origin v[SLAB_ORIGINS];
};

struct pages {
	struct origins *origins;
	struct entry entry[BUCKETS][WAYS];
};

int pages_new(struct pages **out)
{
	/* Untouched pages of it cost nothing. */
	*out = calloc(1, sizeof(**out));
	return *out ? 0 : -ENOMEM;
}

void pages_free(struct pages *pg)
{
	struct origins *o;

	if (!pg)
		return;
	while ((o = pg->origins)) {
		pg->origins = o->next;
		free(o);
	}
	free(pg);
}

static struct origin *new_origin(struct pages *pg)
{
	struct origins *o = pg->origins;

	if (!o || o->n == SLAB_ORIGINS) {
		o = malloc(sizeof(*o));
		if (!o)
			return NULL;
		o->n = 0;
		o->next = pg->origins;
		pg->origins = o;
	}
	o->v[o->n] = (struct origin){.state = ORIGIN_OPEN};
	return &o->v[o->n++];
}

static struct entry *bucket(struct pages *pg, uint64_t hash)
{
	return pg->entry[hash >> 48];
}

static struct entry *find(struct pages *pg, uint64_t hash)
{
	struct entry *b = bucket(pg, hash);

	for (unsigned i = 0; i < WAYS && b[i].from; i++)
		if ((b[i].hash ^ hash) < CHUNK_PAGES)
			return &b[i];
	return NULL;
}

static void insert(struct pages *pg, uint64_t hash, unsigned page, struct origin *from)
{
	struct entry *b = bucket(pg, hash);
	unsigned i = 0;

	while (i < WAYS && b[i].from)
		i++;
	if (i == WAYS)
		i = (hash >> 45) % WAYS;
	b[i] = (struct entry){align_down(hash, CHUNK_PAGES) | page, from};
}

/* The next page is at `off`: part of the last run, or a run of its own. */
static bool append(struct page_run runs[PAGE_RUNS], unsigned *n, uint32_t off,
		   const struct entry *e)
{
	struct page_run *last = *n ? &runs[*n - 1] : NULL;
	uint32_t from_off = (uint32_t)(e->hash % CHUNK_PAGES) * PAGE_LEN;

	if (last && last->from == e->from && last->off + last->len == off &&
	    last->from_off + last->len == from_off) {
		last->len += PAGE_LEN;
		return true;
	}
	if (*n == PAGE_RUNS)
		return false;
	runs[(*n)++] = (struct page_run){e->from, off, from_off, PAGE_LEN};
	return true;
}

int pages_match(struct pages *pg, const uint8_t *p, struct page_run runs[PAGE_RUNS],
		struct origin **origin)
{
	uint64_t hash[CHUNK_PAGES];
	bool fresh[CHUNK_PAGES] = {false};
	bool whole = true, news = false;
	unsigned n = 0;

	*origin = NULL;
	for (unsigned i = 0; i < CHUNK_PAGES; i++) {
		const uint8_t *page = p + i * PAGE_LEN;

		if (zero_trim(page, PAGE_LEN) == 0)
			continue;
		hash[i] = XXH3_64bits(page, PAGE_LEN);
		struct entry *e = find(pg, hash[i]);
		fresh[i] = !e;
		news |= !e;
		whole = whole && e && append(runs, &n, i * PAGE_LEN, e);
	}
	/* The same chunk again is found by its id, without reading anything. */
	if (whole && !(n == 1 && runs[0].off == runs[0].from_off))
		return (int)n;
	if (!news)
		return 0;
	*origin = new_origin(pg);
	if (!*origin)
		return -ENOMEM;
	for (unsigned i = 0; i < CHUNK_PAGES; i++)
		if (fresh[i] && !find(pg, hash[i]))
			insert(pg, hash[i], i, *origin);
	return 0;
}
