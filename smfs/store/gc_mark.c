/* What is reachable: the names, the leased roots, and all below them. */
#include "smfs/store/gc.h"

#include "smfs/store/lease.h"
#include "smfs/store/names_each.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- chunks ---- */

static uint64_t fingerprint(const struct smfs_id *id)
{
	uint64_t v = id_hash(id);

	return v ? v : 1;
}

static uint64_t *fp_place(const struct fpset *s, uint64_t fp)
{
	size_t i = fp & (s->cap - 1);

	while (s->v[i] && s->v[i] != fp)
		i = (i + 1) & (s->cap - 1);
	return &s->v[i];
}

static int fp_add(struct fpset *s, uint64_t fp)
{
	if (s->n * 4 >= s->cap * 3) {
		struct fpset bigger = {.cap = s->cap ? s->cap * 2 : 4096, .n = s->n};

		bigger.v = calloc(bigger.cap, sizeof(*bigger.v));
		if (!bigger.v)
			return -ENOMEM;
		for (size_t i = 0; i < s->cap; i++)
			if (s->v[i])
				*fp_place(&bigger, s->v[i]) = s->v[i];
		free(s->v);
		*s = bigger;
	}
	uint64_t *at = fp_place(s, fp);
	s->n += *at == 0;
	*at = fp;
	return 0;
}

bool gc_is_marked(const struct gc *g, uint8_t kind, const struct smfs_id *id)
{
	if (kind != FRAME_CHUNK)
		return idset_find(&g->nodes, kind, id);
	return g->chunks.cap && *fp_place(&g->chunks, fingerprint(id));
}

void gc_mark_free(struct gc *g)
{
	walk_fini(&g->w);
	idset_free(&g->nodes);
	free(g->chunks.v);
	g->chunks = (struct fpset){0};
}

/* ---- the walk ---- */

static int out_of_memory(struct err *err)
{
	return err_set(err, ENOMEM, "mark what is in use: out of memory");
}

static int mark_node(struct walk *w, uint8_t kind, const struct smfs_id *id, struct err *err)
{
	struct gc *g = container_of(w, struct gc, w);
	bool fresh;

	g->out->marked++;
	if (!idset_add(&g->nodes, kind, id, &fresh))
		return out_of_memory(err);
	int r = fresh ? gc_stopped(g, err) : 0;
	return r < 0 ? r : fresh;
}

static int mark_chunk(struct walk *w, const struct smfs_id *id, uint32_t off, uint32_t len,
		      struct err *err)
{
	struct gc *g = container_of(w, struct gc, w);

	g->out->marked++;
	return fp_add(&g->chunks, fingerprint(id)) < 0 ? out_of_memory(err) : 0;
}

/* What is below it is not known, so nothing can be told to be garbage. */
static int mark_bad(struct walk *w, struct err *err)
{
	struct gc *g = container_of(w, struct gc, w);

	return err_wrap(err, -err->code, "%s: %s", g->where, w->path_len ? w->path : ".");
}

static int mark_name(const struct smfs_name *n, void *arg, struct err *err)
{
	struct gc *g = arg;

	g->out->names++;
	if (idset_find(&g->nodes, FRAME_DIR, &n->root))
		return 0;
	snprintf(g->where, sizeof(g->where), "%s %s", kind_word(n->kind), n->name);
	return walk_tree(&g->w, &n->root, err);
}

static int mark_leases(struct gc *g, struct err *err)
{
	struct lease_view v;
	int r = lease_view_read(g->s, &v, err);

	if (r < 0)
		return r;
	g->out->leased_roots = v.nroots;
	g->out->holders = v.holders;
	snprintf(g->where, sizeof(g->where), "in use by a mount");
	for (size_t i = 0; i < v.nroots && r == 0; i++) {
		struct frame_loc loc;

		if (idset_find(&g->nodes, FRAME_DIR, &v.roots[i]))
			continue;
		/* One caught half written leads nowhere (lease.h). */
		r = index_find(g->s->ix, FRAME_DIR, &v.roots[i], &loc, err);
		if (r == 1)
			r = walk_tree(&g->w, &v.roots[i], err);
	}
	lease_view_free(&v);
	return r;
}

/*
 * The sequence number is read first: if it is still the same in a later transaction, no name
 * came or moved while they were listed. Names before leases: what loses its name between the two
 * is leased by then if anyone reads it (lease.h, ORDER).
 */
int gc_mark(struct gc *g, struct err *err)
{
	struct index_meta m;
	int r = index_meta(g->s->ix, &m, err);

	g->w.s = g->s;
	g->w.node = mark_node;
	g->w.chunk = mark_chunk;
	g->w.bad = mark_bad;
	g->out->names = 0;
	if (r == 0)
		r = names_each(g->s, mark_name, g, err);
	if (r == 0)
		r = mark_leases(g, err);
	if (r == 0)
		g->seq = m.seq;
	return r;
}
