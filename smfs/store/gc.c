/* The order of a collection; condemning and forgetting. gc.h has the design. */
#include "smfs/store/gc.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/store/lease.h"
#include "smfs/store/packw.h"
#include "smfs/store/writers.h"

#include <string.h>

/* A batch's result beside errno's: names came that are not marked. */
#define MARK_MORE (-4096)
/* So often; then the difference is marked with commits held off. */
#define MARK_TRIES 8

int gc_update(struct gc *g, index_fn fn, void *arg, struct err *err)
{
	uint64_t start = monotonic_us();
	int r = index_update(g->s->ix, fn, arg, err);

	g->out->longest_update_us = MAX(g->out->longest_update_us, monotonic_us() - start);
	return r;
}

static int timed_mark(struct gc *g, struct err *err)
{
	uint64_t start = monotonic_us();
	int r = gc_mark(g, err);

	g->out->mark_us += monotonic_us() - start;
	return r;
}

/* ---- condemn ---- */

struct condemn {
	struct gc *g;
	bool mark_here; /* hold commits off */
	uint64_t frames, bytes;
};

static int condemn_txn(struct index_txn *txn, void *arg, struct err *err)
{
	struct condemn *c = arg;
	struct gc *g = c->g;
	struct index_meta m;
	int r = index_txn_meta(txn, &m, err);

	c->frames = c->bytes = 0;
	if (r < 0)
		return r;
	if (m.seq != g->seq && !c->mark_here)
		return MARK_MORE;
	if (m.seq != g->seq && (r = timed_mark(g, err)) < 0)
		return r;
	m.gc_gen++;
	m.gc_busy = 1;
	for (size_t i = 0; i < g->nfound; i++) {
		const struct index_frame *f = &g->found[i];
		struct frame_loc loc;

		if (gc_is_marked(g, f->loc.kind, &f->id))
			continue;
		r = index_txn_condemn(txn, f->loc.kind, &f->id, m.gc_gen, &loc, err);
		if (r < 0)
			return r;
		if (r == 0)
			continue;
		uint64_t bytes = frame_disk_len(loc.stored_len);
		uint64_t *total = loc.kind == FRAME_CHUNK ? &m.chunk_stored : &m.node_stored;

		/* A damaged index may have wrong totals; they are for people only. */
		*total -= MIN(*total, bytes);
		if (loc.kind == FRAME_CHUNK)
			m.chunk_raw -= MIN(m.chunk_raw, loc.raw_len);
		c->frames++;
		c->bytes += bytes;
	}
	return index_txn_set_meta(txn, &m, err);
}

static int condemn_found(struct gc *g, struct err *err)
{
	struct condemn c = {.g = g};
	int r = 0;

	if (g->nfound == 0)
		return 0;
	for (int tries = 0; tries <= MARK_TRIES; tries++) {
		c.mark_here = tries == MARK_TRIES;
		r = gc_update(g, condemn_txn, &c, err);
		if (r != MARK_MORE)
			break;
		r = timed_mark(g, err);
		if (r < 0)
			break;
	}
	g->nfound = 0;
	if (r < 0)
		return r;
	g->out->condemned_frames += c.frames;
	g->out->condemned_bytes += c.bytes;
	return 0;
}

static int condemn_db(struct gc *g, enum index_db db, struct err *err)
{
	struct index_pos pos = {0};
	ssize_t n;
	int r;

	while ((n = index_scan(g->s->ix, db, &pos, g->page, GC_BATCH, err)) > 0) {
		r = gc_stopped(g, err);
		for (ssize_t i = 0; i < n && r == 0; i++) {
			const struct index_frame *f = &g->page[i];

			if (gc_is_marked(g, f->loc.kind, &f->id))
				continue;
			if (g->dry) {
				g->out->condemned_frames++;
				g->out->condemned_bytes += frame_disk_len(f->loc.stored_len);
				continue;
			}
			g->found[g->nfound++] = *f;
			if (g->nfound == GC_BATCH)
				r = condemn_found(g, err);
		}
		if (r < 0)
			return r;
	}
	return n < 0 ? (int)n : condemn_found(g, err);
}

static int rest_txn(struct index_txn *txn, void *arg, struct err *err)
{
	struct index_meta m;
	int r = index_txn_meta(txn, &m, err);

	m.gc_busy = 0;
	return r < 0 ? r : index_txn_set_meta(txn, &m, err);
}

/* Nodes first: until both are done, a node may still be found whose children are not. */
static int condemn(struct gc *g, struct err *err)
{
	struct index_meta m;
	int r;

	if ((r = condemn_db(g, INDEX_NODES, err)) < 0 ||
	    (r = condemn_db(g, INDEX_CHUNKS, err)) < 0 || (r = index_meta(g->s->ix, &m, err)) < 0)
		return r;
	return m.gc_busy && !g->dry ? gc_update(g, rest_txn, NULL, err) : 0;
}

/* ---- expire ---- */

struct expire {
	struct gc *g;
	uint64_t frames, bytes;
};

static int expire_txn(struct index_txn *txn, void *arg, struct err *err)
{
	struct expire *e = arg;

	e->frames = e->bytes = 0;
	for (size_t i = 0; i < e->g->nfound; i++) {
		const struct index_frame *f = &e->g->found[i];
		int r = index_txn_expire(txn, f, err);

		if (r < 0)
			return r;
		e->frames += r == 1;
		e->bytes += r == 1 ? frame_disk_len(f->loc.stored_len) : 0;
	}
	return 0;
}

static int expire_found(struct gc *g, struct err *err)
{
	struct expire e = {.g = g};
	int r = 0;

	if (g->nfound && !g->dry)
		r = gc_update(g, expire_txn, &e, err);
	for (size_t i = 0; i < g->nfound && g->dry; i++, e.frames++)
		e.bytes += frame_disk_len(g->found[i].loc.stored_len);
	g->nfound = 0;
	if (r < 0)
		return r;
	g->out->freed_frames += e.frames;
	g->out->freed_bytes += e.bytes;
	return 0;
}

/* Pins read after this have a generation that hides what is condemned by now. */
static int expire(struct gc *g, struct err *err)
{
	struct index_pos pos = {0};
	struct lease_view v;
	ssize_t n;
	int r = lease_view_read(g->s, &v, err);

	if (r < 0)
		return r;
	g->out->holders = v.holders;
	g->min_pin = v.min_pin;
	lease_view_free(&v);
	while ((n = index_scan(g->s->ix, INDEX_CONDEMNED, &pos, g->page, GC_BATCH, err)) > 0) {
		r = gc_stopped(g, err);
		for (ssize_t i = 0; i < n && r == 0; i++) {
			const struct index_frame *f = &g->page[i];

			if (f->gen > g->min_pin) {
				g->out->waiting_frames++;
				g->out->waiting_bytes += frame_disk_len(f->loc.stored_len);
				continue;
			}
			g->found[g->nfound++] = *f;
			if (g->nfound == GC_BATCH)
				r = expire_found(g, err);
		}
		if (r < 0)
			return r;
	}
	if (n < 0)
		return (int)n;
	if (g->dry) {
		bool free = g->min_pin == UINT64_MAX;

		*(free ? &g->out->freed_frames : &g->out->waiting_frames) +=
			g->out->condemned_frames;
		*(free ? &g->out->freed_bytes : &g->out->waiting_bytes) += g->out->condemned_bytes;
	}
	return expire_found(g, err);
}

/* ---- all of it ---- */

static int collect(struct gc *g, struct err *err)
{
	int r;

	if (!g->dry && (r = lease_ask(g->s, err)) < 0)
		return r;
	if ((r = timed_mark(g, err)) < 0 || (r = condemn(g, err)) < 0 || (r = expire(g, err)) < 0 ||
	    (r = gc_count(g, err)) < 0)
		return r;
	/* The set is of no more use, and compaction wants memory of its own. */
	gc_mark_free(g);
	if ((r = gc_sweep(g, err)) < 0)
		return r;
	return gc_compact(g, err);
}

int smfs_gc(struct smfs_store *s, unsigned flags, struct smfs_gc *out, struct err *err)
{
	struct smfs_gc in = *out;
	struct gc g = {.s = s, .out = out, .dry = flags & SMFS_GC_DRY_RUN};
	struct err local = ERR_INIT;

	*out = (struct smfs_gc){
		.compact_percent = in.compact_percent, .stop = in.stop, .arg = in.arg};
	if (s->rdonly && !g.dry)
		return err_set(err, EROFS, "collect garbage of %s: opened read-only", s->dir);
	cleanup_fd int lock = lease_gc_lock(s, true, err);
	if (lock < 0)
		return lock;
	int entered = g.dry ? 0 : writers_enter(s, err);
	if (entered < 0)
		return entered;
	lease_unpin_handle(s);
	g.page = calloc(GC_BATCH, sizeof(*g.page));
	g.found = calloc(GC_BATCH, sizeof(*g.found));
	int r = g.page && g.found ? collect(&g, &local) : err_set(&local, ENOMEM, "out of memory");
	gc_mark_free(&g);
	free(g.page);
	free(g.found);
	free(g.packs);
	int pinned = lease_pin_handle(s, r < 0 ? NULL : &local);
	if (r == 0)
		r = pinned;
	if (!g.dry)
		writers_leave(s);
	if (r < 0 && err)
		*err = local;
	return r < 0 ? err_wrap(err, r, "collect garbage of %s", s->dir) : 0;
}
