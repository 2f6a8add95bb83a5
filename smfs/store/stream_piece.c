/* A worker's part of a stream: one piece into the store. */
#include "smfs/store/stream.h"

#include "smfs/store/object.h"
#include "smfs/store/zero.h"

#include <stdlib.h>
#include <string.h>

int piece_store(struct smfs_ingest *ing, const uint8_t *p, uint32_t *len, struct smfs_id *id,
		struct err *err)
{
	uint32_t n = (uint32_t)zero_trim(p, *len);

	if (n < *len)
		atomic_fetch_add(&ing->zero, *len - n);
	*len = n;
	return n ? ingest_put(ing, FRAME_CHUNK, p, n, 0, id, err) : 0;
}

static void settle(struct smfs_stream *st, struct origin *o, const struct smfs_id *id, uint32_t len)
{
	pthread_mutex_lock(&st->lock);
	o->state = id ? ORIGIN_STORED : ORIGIN_LOST;
	if (id)
		o->id = *id;
	o->len = len;
	pthread_cond_broadcast(&st->changed);
	pthread_mutex_unlock(&st->lock);
}

/*
 * Origins are pieces of this job or of one submitted before. Jobs are begun in the order they were
 * submitted, so whoever waits here waits for one that has begun and itself waits, if at all,
 * for an earlier one only.
 */
static bool origin_stored(struct smfs_stream *st, struct origin *o)
{
	pthread_mutex_lock(&st->lock);
	while (o->state == ORIGIN_OPEN)
		pthread_cond_wait(&st->changed, &st->lock);
	bool yes = o->state == ORIGIN_STORED;
	pthread_mutex_unlock(&st->lock);
	return yes;
}

/* Are the piece's runs really there? The bytes are compared, those of the frames as stored. */
static bool runs_hold(struct smfs_stream *st, struct job *j, const struct piece *pc)
{
	const struct origin *loaded = NULL;
	struct smfs_store *s = st->ing->s;
	struct frame_loc loc;

	if (!j->source && !(j->source = malloc(FRAME_SIZE)))
		return false;
	for (unsigned i = 0; i < pc->nruns; i++) {
		const struct page_run *run = &pc->run[i];

		if (run->from != loaded) {
			if (!origin_stored(st, run->from) ||
			    ingest_chunk_loc(st->ing, &run->from->id, &loc) != 1 ||
			    object_read_at(s, &loc, &run->from->id, false, j->source, NULL) < 0)
				return false;
			memset(j->source + loc.raw_len, 0, FRAME_SIZE - loc.raw_len);
			loaded = run->from;
		}
		if (memcmp(pc->p + run->off, j->source + run->from_off, run->len) != 0)
			return false;
	}
	return true;
}

/* The piece's slots are one for each run, in order. */
static void store_runs(struct smfs_stream *st, const struct piece *pc)
{
	uint32_t covered = 0;

	for (unsigned i = 0; i < pc->nruns; i++) {
		const struct page_run *run = &pc->run[i];
		struct map_extent *e = &pc->slot[i]->e;

		/* The last page may end in zeros, which its chunk does not have. */
		e->len = MIN(run->len, run->from->len - run->from_off);
		e->chunk_off = run->from_off;
		e->id = run->from->id;
		covered += e->len;
	}
	atomic_fetch_add(&st->ing->dup, covered);
	atomic_fetch_add(&st->ing->zero, pc->len - covered);
}

static void run_packed(struct smfs_stream *st, struct piece *pc)
{
	uint32_t len = pc->len;
	struct smfs_id id = {{0}};
	int r = piece_store(st->ing, pc->p, &len, &id, NULL);

	for (unsigned i = 0; i < pc->npacked; i++) {
		struct map_extent *e = &pc->packed[i].slot->e;

		/* The last page may end in zeros, which the chunk does not have. */
		e->len = r == 0 && e->chunk_off < len ? MIN(e->len, len - e->chunk_off) : 0;
		e->id = id;
		leaf_put(pc->packed[i].leaf);
	}
	free(pc->packed);
}

void piece_drop(struct piece *pc)
{
	for (unsigned i = 0; i < pc->npacked; i++)
		leaf_put(pc->packed[i].leaf);
	free(pc->packed);
	if (pc->leaf)
		leaf_put(pc->leaf);
}

void piece_run(struct smfs_stream *st, struct job *j, struct piece *pc)
{
	if (pc->packed) {
		run_packed(st, pc);
		return;
	}
	if (pc->nruns && runs_hold(st, j, pc)) {
		store_runs(st, pc);
	} else {
		struct map_extent *e = &pc->slot[0]->e;
		uint32_t len = pc->len;
		struct smfs_id id;

		int r = piece_store(st->ing, pc->p, &len, &id, NULL);
		if (r == 0 && len) {
			e->off = pc->off;
			e->len = len;
			e->id = id;
		}
		if (pc->origin)
			settle(st, pc->origin, r == 0 ? &id : NULL, len);
	}
	leaf_put(pc->leaf);
}
