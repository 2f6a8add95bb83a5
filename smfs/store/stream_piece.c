/* A worker's part of a stream: the pieces of a job into the store. */
#include "smfs/store/stream.h"

#include "smfs/base/sha256.h"
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

/* ---- look ---- */

/* A stream of one job has no page to look for: the table would cost more than it finds. */
static struct look *new_look(struct job *j, const struct piece *pc)
{
	if (pc->packed || pc->len != FRAME_SIZE || j->alone)
		return NULL;
	if (!j->pages && !(j->pages = calloc(1, sizeof(*j->pages))))
		return NULL;
	return j->pages->nlooks < JOB_LOOKS ? &j->pages->look[j->pages->nlooks++] : NULL;
}

static void look_at(struct smfs_stream *st, struct piece *pc)
{
	struct look *l = pc->look;

	l->settled = false;
	l->plan.nruns = 0;
	l->plan.origin = NULL;
	l->there = 0;
	if (l->len == 0)
		return;
	l->there = ingest_find_chunk(st->ing, &l->id, &l->loc);
	if (l->there || (l->settled = known_region(st, pc->p, l)))
		return;
	pages_hash(pc->p, &l->facts);
	known_pages(st, l);
}

void pieces_look(struct smfs_stream *st, struct job *j)
{
	struct sha256_msg hash[JOB_LOOKS];
	size_t n = 0;

	for (unsigned i = 0; i < j->n; i++) {
		struct piece *pc = &j->piece[i];
		struct look *l = pc->look = new_look(j, pc);

		if (!l)
			continue;
		l->len = (uint32_t)zero_trim(pc->p, pc->len);
		if (l->len)
			hash[n++] = (struct sha256_msg){pc->p, l->len, l->id.b};
	}
	chunk_ids(hash, n);
	for (unsigned i = 0; i < j->n; i++)
		if (j->piece[i].look)
			look_at(st, &j->piece[i]);
}

/* ---- plan ---- */

void pieces_plan(struct smfs_stream *st, struct job *j)
{
	struct err err = ERR_INIT;
	int r = 0;

	for (unsigned i = 0; i < j->n && r == 0; i++) {
		struct look *l = j->piece[i].look;

		if (!l || l->there || l->settled || l->len == 0)
			continue;
		if (!st->pages)
			r = pages_new(&st->pages);
		if (r == 0)
			r = pages_plan(st->pages, j->piece[i].p, &l->facts, j->pages->pack,
				       &j->pages->npacks, &l->plan);
	}
	if (r < 0)
		ingest_fail(st->ing, err_set(&err, -r, "look for equal pages: out of memory"),
			    &err);
}

/* ---- run ---- */

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

static void run_pack(struct smfs_stream *st, struct job *j, struct page_pack *pack)
{
	uint8_t *bytes = j->pages->bytes;
	uint32_t len = pack->n * PAGE_LEN;
	struct smfs_id id;

	for (unsigned i = 0; i < pack->n; i++)
		memcpy(bytes + i * PAGE_LEN, pack->page[i], PAGE_LEN);
	int r = piece_store(st->ing, bytes, &len, &id, NULL);
	if (r == 0)
		note_pages(st, pack->hash, pack->n, &id);
	settle(st, pack->origin, r == 0 ? &id : NULL, len);
}

/* The slot is the plan's runs. False: no memory, nothing done. */
static bool settle_runs(struct smfs_stream *st, const struct piece *pc)
{
	const struct look *l = pc->look;
	const struct page_plan *plan = &l->plan;
	struct mixed *m = malloc(sizeof(*m));
	uint32_t covered = 0, packed = 0;

	if (!m)
		return false;
	m->id = l->id;
	m->n = 0;
	for (unsigned i = 0; i < plan->nruns; i++) {
		const struct page_run *run = &plan->run[i];
		/* The last page may end in zeros, which its chunk does not have. */
		uint32_t len = MIN(run->len, run->from->len - run->from_off);

		m->e[m->n++] =
			(struct map_extent){pc->off + run->off, len, run->from_off, run->from->id};
		if (run->packed)
			packed += run->len;
		else
			covered += len;
	}
	pc->slot->mixed = m;
	atomic_fetch_add(&st->ing->dup, covered);
	atomic_fetch_add(&st->ing->zero, pc->len - covered - packed);
	return true;
}

static void run_look(struct smfs_stream *st, const struct piece *pc)
{
	struct look *l = pc->look;
	int r = 0;

	if (l->plan.nruns && (l->settled || runs_hold(st, pc->p, &l->plan)) && settle_runs(st, pc))
		return;
	atomic_fetch_add(&st->ing->zero, pc->len - l->len);
	if (l->len)
		r = ingest_put_chunk(st->ing, pc->p, l->len, &l->id, l->there == 1 ? &l->loc : NULL,
				     NULL);
	if (r == 0 && l->len) {
		pc->slot->e.len = l->len;
		pc->slot->e.id = l->id;
	}
	if (!l->plan.origin)
		return;
	if (r == 0)
		note_pages(st, l->facts.hash, CHUNK_PAGES, &l->id);
	settle(st, l->plan.origin, r == 0 ? &l->id : NULL, l->len);
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

static void run_piece(struct smfs_stream *st, const struct piece *pc)
{
	uint32_t len = pc->len;
	struct smfs_id id;

	if (piece_store(st->ing, pc->p, &len, &id, NULL) < 0 || len == 0)
		return;
	pc->slot->e.len = len;
	pc->slot->e.id = id;
}

void pieces_run(struct smfs_stream *st, struct job *j)
{
	for (unsigned i = 0; j->pages && i < j->pages->npacks; i++)
		run_pack(st, j, &j->pages->pack[i]);
	for (unsigned i = 0; i < j->n; i++) {
		struct piece *pc = &j->piece[i];

		if (pc->packed) {
			run_packed(st, pc);
			continue;
		}
		if (pc->look)
			run_look(st, pc);
		else
			run_piece(st, pc);
		leaf_put(pc->leaf);
	}
}

void piece_drop(struct piece *pc)
{
	for (unsigned i = 0; i < pc->npacked; i++)
		leaf_put(pc->packed[i].leaf);
	free(pc->packed);
	if (pc->leaf)
		leaf_put(pc->leaf);
}
