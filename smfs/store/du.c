/*
 * What several names take, each and together, and what would be free without them.
 *
 * Each chosen name is walked once. A frame remembers the name it was first met by and whether
 * others reach it, so exclusive bytes are summed in the end. The other names are walked together,
 * each of their nodes once: they only tell which frames would stay.
 */
#include "smfs/store/data_bytes.h"
#include "smfs/store/index_gc.h"
#include "smfs/store/names_each.h"
#include "smfs/store/walk.h"

#include <stdlib.h>
#include <string.h>

#define SEVERAL 1u /* of the chosen names reach it */
#define OUTSIDE 2u /* another name does */

struct du {
	struct walk w;
	struct idset own;   /* value: first name << 32 | last name to have counted it; from 1 */
	struct idset other; /* nodes of other names already walked */
	struct data_memo memo;
	const struct smfs_name *names;
	const struct smfs_name **sorted; /* the same */
	struct smfs_usage *out;
	size_t n;
	uint32_t now; /* the name being walked, from 1 */
	struct smfs_usage *total;
};

static int find_len(struct du *u, uint8_t kind, const struct smfs_id *id, uint32_t *stored,
		    struct err *err)
{
	struct frame_loc loc;
	char hex[65];
	/* A name may be removed, and collected, while it is measured. */
	int r = index_find_any(u->w.s->ix, kind, id, &loc, err);

	if (r == 0)
		return err_set(err, EBADMSG, "frame %.12s: not in the store", smfs_id_hex(id, hex));
	*stored = loc.stored_len;
	return r;
}

/* 1 = first met by this name. */
static int meet(struct du *u, uint8_t kind, const struct smfs_id *id, struct err *err)
{
	bool fresh;
	struct idset_entry *e = idset_add(&u->own, kind, id, &fresh);

	if (!e)
		return err_set(err, ENOMEM, "du: out of memory");
	if (fresh) {
		int r = find_len(u, kind, id, &e->stored, err);

		if (r < 0)
			return r;
		e->value = (uint64_t)u->now << 32;
		u->total->stored_bytes += frame_disk_len(e->stored);
	} else if ((uint32_t)e->value == u->now) {
		return 0;
	} else {
		e->bits |= SEVERAL;
	}
	e->value = (e->value & ~(uint64_t)UINT32_MAX) | u->now;
	u->out[u->now - 1].stored_bytes += frame_disk_len(e->stored);
	return 1;
}

static int own_node(struct walk *w, uint8_t kind, const struct smfs_id *id, struct err *err)
{
	return meet(container_of(w, struct du, w), kind, id, err);
}

static int own_chunk(struct walk *w, const struct smfs_id *id, uint32_t off, uint32_t len,
		     struct err *err)
{
	int r = meet(container_of(w, struct du, w), FRAME_CHUNK, id, err);

	return r < 0 ? r : 0;
}

static int own_bad(struct walk *w, struct err *err)
{
	return err_wrap(err, -err->code, "%s", w->path_len ? w->path : ".");
}

static void mark(struct du *u, uint8_t kind, const struct smfs_id *id)
{
	struct idset_entry *e = idset_find(&u->own, kind, id);

	if (e)
		e->bits |= OUTSIDE;
}

static int other_node(struct walk *w, uint8_t kind, const struct smfs_id *id, struct err *err)
{
	struct du *u = container_of(w, struct du, w);
	bool fresh;

	if (!idset_add(&u->other, kind, id, &fresh))
		return err_set(err, ENOMEM, "du: out of memory");
	if (fresh)
		mark(u, kind, id);
	return fresh;
}

static int other_chunk(struct walk *w, const struct smfs_id *id, uint32_t off, uint32_t len,
		       struct err *err)
{
	mark(container_of(w, struct du, w), FRAME_CHUNK, id);
	return 0;
}

/* Another name's damage is not this name's trouble. */
static int other_bad(struct walk *w, struct err *err)
{
	err_clear(err);
	return 0;
}

static int by_name(const void *a, const void *b)
{
	const struct smfs_name *x = *(const struct smfs_name *const *)a;
	const struct smfs_name *y = *(const struct smfs_name *const *)b;

	return x->kind != y->kind ? (int)x->kind - (int)y->kind : strcmp(x->name, y->name);
}

static int walk_other(const struct smfs_name *n, void *arg, struct err *err)
{
	struct du *u = arg;

	if (bsearch(&n, u->sorted, u->n, sizeof(const struct smfs_name *), by_name))
		return 0;
	return walk_tree(&u->w, &n->root, err);
}

static int walk_own(struct du *u, struct err *err)
{
	u->w.node = own_node;
	u->w.chunk = own_chunk;
	u->w.bad = own_bad;
	for (size_t i = 0; i < u->n; i++) {
		struct smfs_usage *o = &u->out[i];

		u->now = (uint32_t)i + 1;
		o->logical_bytes = u->names[i].logical_bytes;
		int r = walk_tree(&u->w, &u->names[i].root, err);
		if (r == 0)
			r = data_bytes(u->w.s, &u->memo, &u->names[i].root, &o->data_bytes, err);
		if (r < 0)
			return err_wrap(err, r, "%s %s", kind_word(u->names[i].kind),
					u->names[i].name);
		u->total->logical_bytes += o->logical_bytes;
		u->total->data_bytes += o->data_bytes;
	}
	return 0;
}

static void sum_shared(struct du *u)
{
	uint64_t kept = 0;

	for (size_t i = 0; i < u->n; i++)
		u->out[i].shared_bytes = u->out[i].stored_bytes;
	for (size_t i = 0; i < u->own.cap; i++) {
		const struct idset_entry *e = &u->own.v[i];
		uint64_t len = frame_disk_len(e->stored);

		if (!e->kind)
			continue;
		if (!e->bits)
			u->out[(e->value >> 32) - 1].shared_bytes -= len;
		if (e->bits & OUTSIDE)
			kept += len;
	}
	u->total->shared_bytes = kept;
}

int smfs_names_usage(struct smfs_store *s, const struct smfs_name *names, size_t n,
		     struct smfs_usage *each, struct smfs_usage *total, struct err *err)
{
	struct du u = {.w.s = s, .names = names, .n = n, .out = each, .total = total};

	*total = (struct smfs_usage){0};
	memset(each, 0, n * sizeof(*each));
	if (n >= UINT32_MAX)
		return err_set(err, E2BIG, "du of %zu names", n);
	u.sorted = calloc(n + 1, sizeof(const struct smfs_name *));
	if (!u.sorted)
		return err_set(err, ENOMEM, "du: out of memory");
	for (size_t i = 0; i < n; i++)
		u.sorted[i] = &names[i];
	qsort(u.sorted, n, sizeof(const struct smfs_name *), by_name);
	int r = walk_own(&u, err);
	if (r == 0) {
		u.w.node = other_node;
		u.w.chunk = other_chunk;
		u.w.bad = other_bad;
		r = names_each(s, walk_other, &u, err);
	}
	if (r == 0)
		sum_shared(&u);
	walk_fini(&u.w);
	idset_free(&u.own);
	idset_free(&u.other);
	data_memo_free(&u.memo);
	free(u.sorted);
	return r < 0 ? err_wrap(err, r, "du") : 0;
}
