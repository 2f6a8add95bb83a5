/*
 * What lives in mostly dead packs, moved together.
 *
 * ORDER. A frame is verified when it is read, so damage is never copied under a fresh checksum; it
 * is appended to a pack of a packw; packw_sync(); then one transaction points the index at the
 * copies and records the new pack's length, in the journal too; the last of a pack's transactions
 * also drops the old pack. Death before the transaction leaves bytes past the new pack's length,
 * which the next writer cuts off; between two transactions some frames are in the new pack and the
 * rest in the old one, whole and known to the index. Then, and only then, the old pack is erased
 * (gc.h).
 *
 * DAMAGE. What is no frame is passed over, as by every scan of a pack, and goes with the pack
 * unless the index has a frame there. A frame that is needed and damaged keeps its pack: it is
 * noted in the quarantine, which names it, and while a note stands later collections leave the pack
 * alone without a word. Storing its content again, or removing what needs it, ends that.
 */
#include "smfs/store/gc.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/log.h"
#include "smfs/store/ingest.h"
#include "smfs/store/pack_scan.h"
#include "smfs/store/quarantine.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Packs locked at once, which keeps copies out of them: as many descriptors. */
#define COMPACT_BATCH 128u

struct move {
	struct smfs_id id;
	struct frame_loc from, to;
};

struct compact {
	struct gc *g;
	struct packw *w;
	struct move *moves; /* GC_BATCH */
	size_t nmoves;
	struct index_pack *record; /* packs of the writer, and one that goes */
	size_t nrecord;
	struct locked_pack *from;
	bool last;	/* this transaction drops `from` */
	uint64_t found; /* bytes of living frames met in `from` */
	uint64_t bad;	/* living frames of `from` that cannot be read */
	struct pack_scan scan;
	uint8_t *buf;
	size_t buf_cap;
};

static int by_id(const void *a, const void *b)
{
	return memcmp(((const struct move *)a)->id.b, ((const struct move *)b)->id.b, SMFS_ID_LEN);
}

static int move_txn(struct index_txn *txn, void *arg, struct err *err)
{
	struct compact *c = arg;
	struct journal_record rec = {.packs = c->record, .npacks = c->nrecord};
	struct index_meta m;
	int r = commit_next(txn, &m, err);

	for (size_t i = 0; i < c->nmoves && r >= 0; i++)
		r = index_txn_move(txn, &c->moves[i].id, &c->moves[i].from, &c->moves[i].to, err);
	for (size_t i = 0; i < c->nrecord && r >= 0; i++)
		r = index_txn_set_pack(txn, c->record[i].id, c->record[i].len, err);
	if (r >= 0 && c->last) {
		r = gc_txn_drop(txn, c->from, &c->record[c->nrecord], err);
		rec.npacks++;
	}
	if (r >= 0)
		r = commit_record(c->g->s, txn, &m, &rec, err);
	/* As in a commit: from here on the index may refer to the copies, whatever is reported. */
	if (r >= 0)
		packw_keep(c->w);
	return r;
}

static int flush(struct compact *c, bool last, struct err *err)
{
	size_t n = packw_count(c->w);
	struct index_pack *v = reallocarray(c->record, n + 1, sizeof(*v));

	if (!v)
		return err_set(err, ENOMEM, "compact: out of memory");
	c->record = v;
	c->nrecord = n;
	c->last = last;
	int r = packw_sync(c->w, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++)
		packw_at(c->w, i, &v[i].id, &v[i].len);
	if (c->nmoves)
		qsort(c->moves, c->nmoves, sizeof(*c->moves), by_id);
	r = gc_update(c->g, move_txn, c, err);
	c->nmoves = 0;
	return r;
}

/* Does the index, or a condemnation, need the frame at this place? */
static int is_needed(struct compact *c, const struct smfs_id *id, const struct frame_loc *at,
		     struct err *err)
{
	struct frame_loc loc;
	int r = index_find(c->g->s->ix, at->kind, id, &loc, err);

	if (r == 1 && loc.pack == at->pack && loc.off == at->off)
		return 1;
	if (r < 0)
		return r;
	r = index_find_condemned(c->g->s->ix, at->kind, id, &loc, err);
	return r == 1 ? loc.pack == at->pack && loc.off == at->off : r;
}

static int copy_frame(struct compact *c, struct frame_head *h, const struct frame_loc *from,
		      struct err *err)
{
	struct move *mv = &c->moves[c->nmoves];
	uint64_t len = frame_disk_len(h->stored_len);

	if (len > c->buf_cap) {
		uint8_t *p = realloc(c->buf, len);

		if (!p)
			return err_set(err, ENOMEM, "compact: out of memory");
		c->buf = p;
		c->buf_cap = len;
	}
	c->found += len;
	int r = pack_read_frame(c->g->s->packs, from, &h->id, c->buf, err);
	if (r == -EBADMSG) {
		c->bad++;
		quarantine_note(c->g->s, &h->id, from);
		err_clear(err);
		return 0;
	}
	if (r < 0)
		return r;
	*mv = (struct move){.id = h->id, .from = *from};
	r = packw_append(c->w, h, c->buf + FRAME_HEAD_LEN, &mv->to, err);
	if (r < 0)
		return r;
	c->nmoves++;
	c->g->out->copied_bytes += len;
	return c->nmoves == GC_BATCH ? flush(c, false, err) : 0;
}

/* The unreadable keeps what could be given back. */
static void keep_damaged(struct gc *g, const struct pack_use *use)
{
	uint64_t size = use->len - PACK_HEAD_LEN;

	g->out->packs_damaged++;
	g->out->dead_bytes += size - MIN(use->live, size);
}

static int take_frame(struct pack_scan *scan, uint64_t off, const struct frame_head *head,
		      const uint8_t *payload, struct err *err)
{
	struct compact *c = container_of(scan, struct compact, scan);
	struct frame_head h = *head;
	struct frame_loc at = {.pack = c->from->use->id,
			       .off = off,
			       .stored_len = h.stored_len,
			       .raw_len = h.raw_len,
			       .kind = h.kind,
			       .codec = h.codec};
	int r = gc_stopped(c->g, err);

	if (r == 0)
		r = is_needed(c, &h.id, &at, err);
	return r == 1 ? copy_frame(c, &h, &at, err) : r;
}

/* The frames the index has in this pack whose headers are not there. */
static int note_missing(struct compact *c, enum index_db db, struct err *err)
{
	struct gc *g = c->g;
	struct index_pos pos = {0};
	ssize_t n;

	while ((n = index_scan(g->s->ix, db, &pos, g->page, GC_BATCH, err)) > 0) {
		int r = gc_stopped(g, err);

		if (r < 0)
			return r;
		for (ssize_t i = 0; i < n; i++) {
			const struct index_frame *f = &g->page[i];
			uint8_t head[FRAME_HEAD_LEN];
			struct frame_head h;

			if (f->loc.pack != c->from->use->id)
				continue;
			if (pread_full(c->from->fd, head, sizeof(head), f->loc.off) == 0 &&
			    frame_head_decode(head, &h) == 0 && id_equal(&h.id, &f->id))
				continue;
			c->bad++;
			quarantine_note(g->s, &f->id, &f->loc);
		}
	}
	return (int)n;
}

static int copy_pack(struct compact *c, struct err *err)
{
	const struct pack_use *use = c->from->use;
	char name[PACK_NAME_LEN];

	c->scan = (struct pack_scan){.fd = c->from->fd,
				     .len = use->len,
				     .name = pack_name(use->id, name),
				     .frame = take_frame};
	int r = pack_scan(&c->scan, err);
	/* What the index says is there and the scan did not meet would be lost with the pack. */
	if (r == 0 && c->found != use->live) {
		if ((r = note_missing(c, INDEX_CHUNKS, err)) == 0)
			r = note_missing(c, INDEX_NODES, err);
		if (r == 0 && !c->bad)
			r = err_set(err, EBADMSG,
				    "pack %s: %" PRIu64 " bytes of frames found, %" PRIu64
				    " are indexed",
				    name, c->found, use->live);
	}
	if (r == 0 && c->bad)
		r = err_set(err, EBADMSG, "pack %s: %" PRIu64 " frames that are needed are damaged",
			    name, c->bad);
	return r < 0 ? r : flush(c, true, err);
}

/* Damage keeps a pack as it is, for fsck; everything else ends the collection. */
static int compact_pack(struct compact *c, struct locked_pack *p, struct err *err)
{
	struct gc *g = c->g;

	c->from = p;
	c->found = c->bad = 0;
	c->nmoves = 0;
	uint64_t before = g->out->copied_bytes;
	int r = copy_pack(c, err);
	if (r == 0) {
		gc_erase_pack(g, p);
		g->out->returned_bytes -=
			MIN(g->out->returned_bytes, g->out->copied_bytes - before);
		g->out->packs_compacted++;
	} else if (r == -EBADMSG) {
		log_warn("pack is left as it is: %s; `smfs fsck --read-data` tells what is hit",
			 err->msg);
		err_clear(err);
		keep_damaged(g, p->use);
		r = 0;
	}
	return r;
}

static bool worth_it(const struct gc *g, const struct pack_use *use)
{
	uint64_t size = use->len - PACK_HEAD_LEN;

	return use->frames && use->live < size &&
	       (size - use->live) * 100 >= (uint64_t)g->out->compact_percent * size;
}

/* Those that give most for the least copying first: the disk may be full. */
static int by_live(const void *a, const void *b)
{
	const struct pack_use *x = a, *y = b;

	return x->live < y->live ? -1 : x->live > y->live;
}

static int compact_some(struct compact *c, struct locked_pack *v, size_t n, struct err *err)
{
	int r = n ? packw_new(c->g->s, &c->w, err) : 0;

	for (size_t i = 0; i < n && r == 0; i++)
		r = compact_pack(c, &v[i], err);
	if (n)
		packw_free(c->w);
	c->w = NULL;
	for (size_t i = 0; i < n; i++)
		if (v[i].fd >= 0)
			close(v[i].fd);
	return r;
}

static int compact_all(struct compact *c, struct locked_pack *v, struct err *err)
{
	struct gc *g = c->g;
	size_t n = 0;
	int r = 0;

	quarantine_reload(g->s);
	qsort(g->packs, g->npacks, sizeof(*g->packs), by_live);
	for (size_t i = 0; i < g->npacks && r == 0; i++) {
		struct pack_use *use = &g->packs[i];
		uint64_t dead = use->len - PACK_HEAD_LEN - MIN(use->live, use->len - PACK_HEAD_LEN);

		if (!worth_it(g, use)) {
			g->out->dead_bytes += use->frames ? dead : 0;
			continue;
		}
		if (quarantine_keeps(g->s, use->id)) {
			keep_damaged(g, use);
			continue;
		}
		if (g->dry) {
			g->out->packs_compacted++;
			g->out->returned_bytes += dead;
			continue;
		}
		r = gc_lock_pack(g, use, &v[n], err);
		if (r == 0 && v[n].fd < 0) {
			g->out->packs_busy++;
			g->out->dead_bytes += dead;
		} else if (r == 0 && ++n == COMPACT_BATCH) {
			r = compact_some(c, v, n, err);
			n = 0;
		}
	}
	if (r == 0)
		return compact_some(c, v, n, err);
	while (n)
		close(v[--n].fd);
	return r;
}

int gc_compact(struct gc *g, struct err *err)
{
	cleanup_free struct locked_pack *v = calloc(COMPACT_BATCH, sizeof(*v));
	struct compact c = {.g = g, .moves = calloc(GC_BATCH, sizeof(*c.moves))};
	int r = v && c.moves && g->npacks ? compact_all(&c, v, err) : 0;

	if (!v || !c.moves)
		r = err_set(err, ENOMEM, "compact: out of memory");
	free(c.moves);
	free(c.record);
	free(c.buf);
	return r;
}
