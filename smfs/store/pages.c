#include "smfs/store/pages.h"

#include "smfs/store/zero.h"

#include <errno.h>
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

void pages_hash(const uint8_t *p, struct page_facts *f)
{
	for (unsigned i = 0; i < CHUNK_PAGES; i++, p += PAGE_LEN) {
		f->in[i] = CHUNK_PAGES;
		f->hash[i] = 0;
		/* 0 stands for zeros; another page that hashes to it is found under 1. */
		if (zero_trim(p, PAGE_LEN))
			f->hash[i] = MAX(XXH3_64bits(p, PAGE_LEN), (uint64_t)1);
	}
	f->nfound = 0;
}

/* ---- the plan of one region ---- */

/* A chunk that some of the region's pages are in. */
struct source {
	struct origin *from;	    /* of the stream, or NULL */
	const struct origin *found; /* of the store */
	unsigned pages;
	bool taken;
};

struct region {
	struct source source[CHUNK_PAGES];
	unsigned nsources;
	/* Of each page: its source, CHUNK_PAGES if none, and its number there. */
	uint8_t in[CHUNK_PAGES], page[CHUNK_PAGES];
	unsigned pages; /* not zero */
};

static unsigned source_of(struct region *r, struct origin *from, const struct origin *found)
{
	unsigned i = 0;

	while (i < r->nsources && (r->source[i].from != from || r->source[i].found != found))
		i++;
	if (i == r->nsources)
		r->source[r->nsources++] = (struct source){.from = from, .found = found};
	r->source[i].pages++;
	return i;
}

static void find_sources(struct pages *pg, const struct page_facts *f, struct region *r)
{
	for (unsigned i = 0; i < CHUNK_PAGES; i++) {
		r->in[i] = CHUNK_PAGES;
		if (f->hash[i] == 0)
			continue;
		r->pages++;
		const struct entry *e = find(pg, f->hash[i]);
		if (e) {
			r->in[i] = (uint8_t)source_of(r, e->from, NULL);
			r->page[i] = (uint8_t)(e->hash % CHUNK_PAGES);
		} else if (f->in[i] < CHUNK_PAGES) {
			r->in[i] = (uint8_t)source_of(r, NULL, &f->found[f->in[i]]);
			r->page[i] = f->page[i];
		}
	}
}

/* Those that give most, as many as a reader may have to touch. Returns how many pages are left. */
static unsigned take_sources(struct region *r)
{
	unsigned left = r->pages;

	for (unsigned frames = 0; left && frames < REGION_FRAMES; frames++) {
		struct source *best = NULL;

		for (unsigned i = 0; i < r->nsources; i++) {
			struct source *s = &r->source[i];

			if (!s->taken && (!best || s->pages > best->pages))
				best = s;
		}
		/* The last frame is the pack's, unless nothing is left for one. */
		if (!best || (frames == REGION_FRAMES - 1 && best->pages < left))
			break;
		best->taken = true;
		left -= best->pages;
	}
	return left;
}

static bool taken(const struct region *r, unsigned i)
{
	return r->in[i] < CHUNK_PAGES && r->source[r->in[i]].taken;
}

/* Is it a chunk of the stream again? That is found by its id, without reading anything. */
static bool is_repeat(const struct region *r, const struct page_facts *f)
{
	if (r->nsources != 1 || !r->source[0].from || r->source[0].pages < r->pages)
		return false;
	for (unsigned i = 0; i < CHUNK_PAGES; i++)
		if (f->hash[i] && r->page[i] != i)
			return false;
	return true;
}

static void append(struct page_plan *plan, unsigned i, struct origin *from, unsigned page,
		   bool packed)
{
	struct page_run *last = plan->nruns ? &plan->run[plan->nruns - 1] : NULL;
	uint32_t off = i * PAGE_LEN, from_off = page * PAGE_LEN;

	if (last && last->from == from && last->off + last->len == off &&
	    last->from_off + last->len == from_off)
		last->len += PAGE_LEN;
	else
		plan->run[plan->nruns++] = (struct page_run){from, off, from_off, PAGE_LEN, packed};
}

/* The pack that the region's other pages, `n` of them, go to. */
static struct page_pack *pack_for(struct pages *pg, unsigned n, struct page_pack *packs,
				  unsigned *npacks)
{
	if (*npacks && packs[*npacks - 1].n + n <= CHUNK_PAGES)
		return &packs[*npacks - 1];
	struct page_pack *pack = &packs[*npacks];

	*pack = (struct page_pack){.origin = new_origin(pg)};
	if (!pack->origin)
		return NULL;
	++*npacks;
	return pack;
}

static int plan_mixed(struct pages *pg, const uint8_t *p, const struct page_facts *f,
		      struct region *r, unsigned left, struct page_pack *packs, unsigned *npacks,
		      struct page_plan *plan)
{
	struct page_pack *pack = NULL;

	for (unsigned i = 0; i < r->nsources; i++) {
		struct source *s = &r->source[i];

		if (!s->taken || s->from)
			continue;
		s->from = new_origin(pg);
		if (!s->from)
			return -ENOMEM;
		*s->from = *s->found;
	}
	for (unsigned i = 0; i < CHUNK_PAGES; i++) {
		if (f->hash[i] == 0)
			continue;
		if (taken(r, i)) {
			append(plan, i, r->source[r->in[i]].from, r->page[i], false);
			continue;
		}
		if (!pack && !(pack = pack_for(pg, left, packs, npacks)))
			return -ENOMEM;
		append(plan, i, pack->origin, pack->n, true);
		if (r->in[i] == CHUNK_PAGES && !find(pg, f->hash[i]))
			insert(pg, f->hash[i], pack->n, pack->origin);
		pack->page[pack->n] = p + i * PAGE_LEN;
		pack->hash[pack->n++] = f->hash[i];
	}
	return 0;
}

static int plan_whole(struct pages *pg, const struct page_facts *f, const struct region *r,
		      struct page_plan *plan)
{
	bool news = false;

	for (unsigned i = 0; i < CHUNK_PAGES; i++)
		news |= f->hash[i] && r->in[i] == CHUNK_PAGES;
	if (!news)
		return 0;
	plan->origin = new_origin(pg);
	if (!plan->origin)
		return -ENOMEM;
	for (unsigned i = 0; i < CHUNK_PAGES; i++)
		if (f->hash[i] && r->in[i] == CHUNK_PAGES && !find(pg, f->hash[i]))
			insert(pg, f->hash[i], i, plan->origin);
	return 0;
}

int pages_plan(struct pages *pg, const uint8_t *p, const struct page_facts *f,
	       struct page_pack *packs, unsigned *npacks, struct page_plan *plan)
{
	struct region r = {.nsources = 0};

	plan->nruns = 0;
	plan->origin = NULL;
	find_sources(pg, f, &r);
	if (is_repeat(&r, f))
		return 0;
	unsigned left = take_sources(&r);
	return left < r.pages ? plan_mixed(pg, p, f, &r, left, packs, npacks, plan)
			      : plan_whole(pg, f, &r, plan);
}
