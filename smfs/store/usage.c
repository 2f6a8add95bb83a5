/*
 * What a name takes and shares.
 *
 * Its frames are collected in a set, then every other name is walked and marks what it meets of
 * them. A node met a second time is passed over, so common parts cost once.
 */
#include "smfs/store/data_bytes.h"
#include "smfs/store/idset.h"
#include "smfs/store/names_each.h"
#include "smfs/store/walk.h"

#include <stddef.h>
#include <string.h>

struct usage {
	struct walk w;
	struct idset own;   /* bits: SHARED */
	struct idset other; /* nodes of other names already walked */
	struct data_memo memo;
	const struct smfs_name *name;
	struct smfs_usage *out;
};

#define SHARED 1u

static int add_own(struct walk *w, uint8_t kind, const struct smfs_id *id, struct err *err)
{
	struct usage *u = container_of(w, struct usage, w);
	struct frame_loc loc;
	char hex[65];
	bool fresh;
	struct idset_entry *e = idset_add(&u->own, kind, id, &fresh);

	if (!e)
		return err_set(err, ENOMEM, "usage: out of memory");
	if (!fresh)
		return 0;
	int r = index_find(w->s->ix, kind, id, &loc, err);
	if (r == 0)
		return err_set(err, EBADMSG, "frame %.12s: not in the store", smfs_id_hex(id, hex));
	if (r < 0)
		return r;
	e->stored = loc.stored_len;
	u->out->stored_bytes += frame_disk_len(loc.stored_len);
	return 1;
}

static int own_chunk(struct walk *w, const struct smfs_id *id, uint32_t off, uint32_t len,
		     struct err *err)
{
	int r = add_own(w, FRAME_CHUNK, id, err);

	return r < 0 ? r : 0;
}

static int own_bad(struct walk *w, struct err *err)
{
	return err_wrap(err, -err->code, "%s", w->path_len ? w->path : ".");
}

static void mark(struct usage *u, uint8_t kind, const struct smfs_id *id)
{
	struct idset_entry *e = idset_find(&u->own, kind, id);

	if (e && !(e->bits & SHARED)) {
		e->bits |= SHARED;
		u->out->shared_bytes += frame_disk_len(e->stored);
	}
}

static int other_node(struct walk *w, uint8_t kind, const struct smfs_id *id, struct err *err)
{
	struct usage *u = container_of(w, struct usage, w);
	bool fresh;

	if (!idset_add(&u->other, kind, id, &fresh))
		return err_set(err, ENOMEM, "usage: out of memory");
	if (fresh)
		mark(u, kind, id);
	return fresh;
}

static int other_chunk(struct walk *w, const struct smfs_id *id, uint32_t off, uint32_t len,
		       struct err *err)
{
	mark(container_of(w, struct usage, w), FRAME_CHUNK, id);
	return 0;
}

/* Another name's damage is not this name's trouble. */
static int other_bad(struct walk *w, struct err *err)
{
	err_clear(err);
	return 0;
}

static int walk_other(const struct smfs_name *n, void *arg, struct err *err)
{
	struct usage *u = arg;

	if (n->kind == u->name->kind && strcmp(n->name, u->name->name) == 0)
		return 0;
	return walk_tree(&u->w, &n->root, err);
}

static int measure(struct usage *u, struct err *err)
{
	int r;

	u->w.node = add_own;
	u->w.chunk = own_chunk;
	u->w.bad = own_bad;
	r = walk_tree(&u->w, &u->name->root, err);
	if (r < 0)
		return r;
	/* Sizes count at every mention, so they are not taken from the deduplicated walk. */
	r = data_bytes(u->w.s, &u->memo, &u->name->root, &u->out->data_bytes, err);
	if (r < 0)
		return r;
	u->w.node = other_node;
	u->w.chunk = other_chunk;
	u->w.bad = other_bad;
	return names_each(u->w.s, walk_other, u, err);
}

int smfs_name_usage(struct smfs_store *s, enum smfs_kind kind, const char *name,
		    struct smfs_usage *out, struct err *err)
{
	struct smfs_name n;
	struct usage u = {.w.s = s, .name = &n, .out = out};
	int r = smfs_name_get(s, kind, name, &n, err);

	*out = (struct smfs_usage){.logical_bytes = r < 0 ? 0 : n.logical_bytes};
	if (r < 0)
		return r;
	r = measure(&u, err);
	walk_fini(&u.w);
	idset_free(&u.own);
	idset_free(&u.other);
	data_memo_free(&u.memo);
	return r < 0 ? err_wrap(err, r, "usage of %s", name) : 0;
}
