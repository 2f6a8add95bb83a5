/* The map of a stream: slots into leaves, leaves into nodes, nodes into a root. */
#include "smfs/store/stream.h"

#include "smfs/base/cleanup.h"

#include <stdlib.h>
#include <string.h>

static void leaf_free(struct leaf *leaf)
{
	struct slab *s;

	while ((s = leaf->first)) {
		leaf->first = s->next;
		for (unsigned i = 0; i < s->n; i++)
			free(s->slot[i].mixed);
		free(s);
	}
	free(leaf);
}

static int remember(struct smfs_stream *st, uint64_t index, const struct smfs_id *id)
{
	int r = 0;

	pthread_mutex_lock(&st->lock);
	if (st->nsealed == st->sealed_cap) {
		size_t cap = st->sealed_cap ? st->sealed_cap * 2 : 16;
		struct sealed *v = reallocarray(st->sealed, cap, sizeof(*v));

		if (v) {
			st->sealed = v;
			st->sealed_cap = cap;
		} else {
			r = -ENOMEM;
		}
	}
	if (r == 0)
		st->sealed[st->nsealed++] = (struct sealed){index, *id};
	pthread_mutex_unlock(&st->lock);
	return r;
}

/* Returns how many entries it has. */
static uint32_t put_slot(struct writer *w, const struct slot *slot)
{
	const struct map_extent *e = slot->mixed ? slot->mixed->e : &slot->e;
	unsigned n = slot->mixed ? slot->mixed->n : slot->e.len != 0;

	for (unsigned i = 0; i < n; i++)
		map_leaf_entry(w, &e[i]);
	return n;
}

static void seal(struct leaf *leaf)
{
	struct smfs_ingest *ing = leaf->st->ing;
	cleanup_writer struct writer w = WRITER_INIT;
	struct err err = ERR_INIT;
	struct smfs_id id;
	uint32_t n = 0;

	if (atomic_load(&leaf->st->dropped) || ingest_check(ing, NULL) < 0)
		return;
	map_leaf_head(&w, 0);
	for (struct slab *s = leaf->first; s; s = s->next)
		for (unsigned i = 0; i < s->n; i++)
			n += put_slot(&w, &s->slot[i]);
	if (n == 0)
		return;
	patch_u32(&w, 8, n);
	if (w.failed) {
		ingest_fail(ing, err_set(&err, ENOMEM, "map leaf: out of memory"), &err);
		return;
	}
	int r = leaf->st->diff ? diff_leaf(leaf->st, leaf->index, &w, &id, &err) : 0;
	if (r < 0) {
		ingest_fail(ing, r, &err);
		return;
	}
	if (r == 0 && ingest_put(ing, FRAME_MAP, w.p, (uint32_t)w.len, 0, &id, NULL) < 0)
		return;
	note_regions(leaf->st, leaf, &id);
	if (remember(leaf->st, leaf->index, &id) < 0)
		ingest_fail(ing, err_set(&err, ENOMEM, "map: out of memory"), &err);
}

void leaf_put(struct leaf *leaf)
{
	if (atomic_fetch_sub(&leaf->refs, 1) != 1)
		return;
	seal(leaf);
	leaf_free(leaf);
}

void leaf_discard(struct leaf *leaf)
{
	if (leaf)
		leaf_free(leaf);
}

/* A slot for the extent at `off` of the file. Offsets never decrease. */
int leaf_add(struct smfs_stream *st, uint64_t off, struct slot **slot, struct err *err)
{
	uint64_t index = off / LEAF_SPAN;
	struct leaf *leaf = st->leaf;

	if (leaf && leaf->index != index) {
		st->leaf = NULL;
		leaf_put(leaf);
		leaf = NULL;
	}
	if (!leaf) {
		leaf = calloc(1, sizeof(*leaf));
		if (!leaf)
			return err_set(err, ENOMEM, "map leaf: out of memory");
		leaf->st = st;
		leaf->index = index;
		atomic_init(&leaf->refs, 1);
		st->leaf = leaf;
	}
	if (!leaf->last || leaf->last->n == SLAB_SLOTS) {
		struct slab *s = malloc(sizeof(*s));

		if (!s)
			return err_set(err, ENOMEM, "map leaf: out of memory");
		s->next = NULL;
		s->n = 0;
		if (leaf->last)
			leaf->last->next = s;
		else
			leaf->first = s;
		leaf->last = s;
	}
	*slot = &leaf->last->slot[leaf->last->n++];
	**slot = (struct slot){.e.off = (uint32_t)(off % LEAF_SPAN)};
	leaf->nslots++;
	return 0;
}

int leaf_copy(struct smfs_stream *st, uint64_t index, const struct smfs_id *id, struct err *err)
{
	if (st->leaf)
		leaf_put(st->leaf);
	st->leaf = NULL;
	return remember(st, index, id) < 0 ? err_set(err, ENOMEM, "map: out of memory") : 0;
}

static int by_index(const void *a, const void *b)
{
	const struct sealed *x = a, *y = b;

	return x->index < y->index ? -1 : x->index > y->index;
}

/* Replace the nodes of one level by their parents, in place. */
static int build_level(struct smfs_stream *st, uint8_t level, struct err *err)
{
	size_t out = 0;

	for (size_t i = 0; i < st->nsealed;) {
		cleanup_writer struct writer w = WRITER_INIT;
		uint64_t parent = st->sealed[i].index / INNER_FANOUT;
		struct smfs_id id;
		uint32_t n = 0;

		map_inner_head(&w, level, 0);
		for (; i < st->nsealed && st->sealed[i].index / INNER_FANOUT == parent; i++, n++)
			map_inner_entry(&w, &(struct map_child){st->sealed[i].index % INNER_FANOUT,
								st->sealed[i].id});
		patch_u32(&w, 8, n);
		if (w.failed)
			return err_set(err, ENOMEM, "map node: out of memory");
		int r = ingest_put(st->ing, FRAME_MAP, w.p, (uint32_t)w.len, 0, &id, err);
		if (r < 0)
			return r;
		st->sealed[out++] = (struct sealed){parent, id};
	}
	st->nsealed = out;
	return 0;
}

int stream_root(struct smfs_stream *st, struct smfs_content *out, struct err *err)
{
	*out = (struct smfs_content){.size = st->start};
	if (st->nsealed == 0)
		return 0;
	qsort(st->sealed, st->nsealed, sizeof(*st->sealed), by_index);
	out->kind = SMFS_MAP;
	out->depth = map_depth(out->size);
	for (uint8_t level = 1; level <= out->depth; level++) {
		int r = build_level(st, level, err);

		if (r < 0)
			return r;
	}
	out->id = st->sealed[0].id;
	return 0;
}
