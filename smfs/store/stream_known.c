/*
 * What the store has already of a region that is not a chunk of it: what the index of pages
 * proposes, and the comparison that every proposal has to pass.
 */
#include "smfs/store/stream.h"

#include "smfs/store/object.h"
#include "smfs/store/quarantine.h"
#include "smfs/store/zero.h"

#include <string.h>

/* ---- proposals ---- */

static uint64_t region_hash(const struct smfs_id *id)
{
	uint64_t h;

	memcpy(&h, id->b, sizeof(h));
	return h;
}

/* The frame a place begins the id of. */
static bool frame_at(struct smfs_stream *st, uint8_t kind, uint64_t place, unsigned bits,
		     struct smfs_id *id, struct frame_loc *loc)
{
	return place && index_find_prefix(st->ing->s->ix, kind, place << (64 - PLACE_BITS),
					  PLACE_BITS - bits, id, loc, NULL) == 1;
}

void known_pages(struct smfs_stream *st, struct look *look)
{
	struct page_facts *f = &look->facts;
	uint64_t places[CHUNK_PAGES], last = 0;

	page_index_find(st->ing->s->page_index, f->hash, CHUNK_PAGES, places);
	for (unsigned i = 0; i < CHUNK_PAGES; i++) {
		struct origin *o = &f->found[f->nfound];
		uint64_t place = places[i];
		struct frame_loc loc;

		if (!place)
			continue;
		/* Mostly the same chunk as the page before. */
		if (!f->nfound || place >> PLACE_PAGE != last >> PLACE_PAGE) {
			if (!frame_at(st, FRAME_CHUNK, place, PLACE_PAGE, &o->id, &loc) ||
			    quarantine_has(st->ing->s, &o->id, &loc))
				continue;
			o->len = loc.raw_len;
			o->state = ORIGIN_STORED;
			last = place;
			f->nfound++;
		}
		unsigned k = 0;
		while (!id_equal(&f->found[k].id, &f->found[f->nfound - 1].id))
			k++;
		f->in[i] = (uint8_t)k;
		f->page[i] = (uint8_t)place_number(place, PLACE_PAGE);
		if (f->page[i] * PAGE_LEN >= f->found[k].len)
			f->in[i] = CHUNK_PAGES;
	}
}

/* The region's extents of a leaf as runs. */
static bool leaf_runs(const void *leaf, uint32_t start, struct look *look)
{
	uint32_t n = map_count(leaf);

	for (uint32_t i = map_leaf_find(leaf, start); i < n; i++) {
		struct origin *o = &look->facts.found[look->plan.nruns];
		struct map_extent e;

		map_leaf_at(leaf, i, &e);
		if (e.off >= start + FRAME_SIZE)
			break;
		if (look->plan.nruns == CHUNK_PAGES || e.off < start ||
		    e.off + e.len > start + FRAME_SIZE)
			return false;
		*o = (struct origin){e.id, e.chunk_off + e.len, ORIGIN_STORED};
		look->plan.run[look->plan.nruns++] =
			(struct page_run){o, e.off - start, e.chunk_off, e.len, false};
	}
	return look->plan.nruns > 1;
}

/* What the runs leave out has to be zeros. */
static bool rest_is_zero(const uint8_t *p, const struct page_plan *plan)
{
	uint32_t at = 0;

	for (unsigned i = 0; i < plan->nruns; i++) {
		if (zero_trim(p + at, plan->run[i].off - at))
			return false;
		at = plan->run[i].off + plan->run[i].len;
	}
	return zero_trim(p + at, FRAME_SIZE - at) == 0;
}

bool known_region(struct smfs_stream *st, const uint8_t *p, struct look *look)
{
	struct smfs_store *s = st->ing->s;
	cleanup_entry struct cache_entry *leaf = NULL;
	uint64_t hash = region_hash(&look->id), place;
	struct frame_loc loc;
	struct smfs_id id;

	page_index_find(s->page_index, &hash, 1, &place);
	if (!frame_at(st, FRAME_MAP, place, PLACE_REGION, &id, &loc) ||
	    object_map(s, &id, 0, &leaf, NULL) < 0)
		return false;
	bool yes = leaf_runs(leaf->data, place_number(place, PLACE_REGION) * FRAME_SIZE, look) &&
		   rest_is_zero(p, &look->plan) && runs_hold(st, p, &look->plan);
	if (!yes)
		look->plan.nruns = 0;
	return yes;
}

/* ---- the comparison ---- */

static bool origin_stored(struct smfs_stream *st, struct origin *o)
{
	pthread_mutex_lock(&st->lock);
	while (o->state == ORIGIN_OPEN)
		pthread_cond_wait(&st->changed, &st->lock);
	bool yes = o->state == ORIGIN_STORED;
	pthread_mutex_unlock(&st->lock);
	return yes;
}

/* The bytes of a chunk of this ingest or the store, as they were stored. NULL: not to be had. */
static struct cache_entry *chunk_bytes(struct smfs_stream *st, const struct smfs_id *id)
{
	struct smfs_store *s = st->ing->s;
	struct cache_entry *e = cache_get(s->cache, false, id);
	struct frame_loc loc;

	if (e)
		return e;
	if (ingest_chunk_loc(st->ing, id, &loc) != 1 || loc.raw_len > FRAME_SIZE ||
	    quarantine_has(s, id, &loc) || !(e = cache_entry_new(false, id, loc.raw_len)))
		return NULL;
	if (object_read_at(s, &loc, id, false, e->data, NULL) < 0) {
		cache_put(e);
		return NULL;
	}
	return cache_add(s->cache, e);
}

static bool run_holds(struct smfs_stream *st, const uint8_t *p, const struct page_run *run)
{
	cleanup_entry struct cache_entry *e = chunk_bytes(st, &run->from->id);

	if (!e || run->from_off >= e->len)
		return false;
	uint32_t n = MIN(run->len, e->len - run->from_off);
	return memcmp(p + run->off, e->data + run->from_off, n) == 0 &&
	       zero_trim(p + run->off + n, run->len - n) == 0;
}

bool runs_hold(struct smfs_stream *st, const uint8_t *p, const struct page_plan *plan)
{
	for (unsigned i = 0; i < plan->nruns; i++) {
		const struct page_run *run = &plan->run[i];
		struct smfs_content c;

		if (!origin_stored(st, run->from))
			return false;
		if (run->packed)
			continue;
		if (!run_holds(st, p, run))
			return false;
		/* From now on the ingest needs it. */
		c = (struct smfs_content){.kind = SMFS_CHUNK, .id = run->from->id};
		if (ingest_has_content(st->ing, &c, NULL) < 0)
			return false;
	}
	return true;
}

/* ---- for later ---- */

void note_pages(struct smfs_stream *st, const uint64_t *hash, unsigned n, const struct smfs_id *id)
{
	struct page_note note[CHUNK_PAGES];
	unsigned k = 0;

	for (unsigned i = 0; i < n; i++)
		if (hash[i])
			note[k++] = (struct page_note){hash[i], place_of(id, PLACE_PAGE, i)};
	ingest_note(st->ing, note, k);
}

void note_regions(struct smfs_stream *st, const struct leaf *leaf, const struct smfs_id *id)
{
	for (const struct slab *s = leaf->first; s; s = s->next)
		for (unsigned i = 0; i < s->n; i++) {
			const struct mixed *m = s->slot[i].mixed;

			/* Where regions are not aligned, after a cut, there is no number for one.
			 */
			if (!m || s->slot[i].e.off % FRAME_SIZE)
				continue;
			struct page_note note = {
				region_hash(&m->id),
				place_of(id, PLACE_REGION, s->slot[i].e.off / FRAME_SIZE)};
			ingest_note(st->ing, &note, 1);
		}
}
