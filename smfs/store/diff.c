/*
 * Where two contents differ.
 *
 * Both maps are gone through at once. Equal nodes are equal bytes and are passed over whole, so the
 * cost is that of what differs. Where the references differ the bytes still may not: they are
 * compared, unless the caller is content with references.
 */
#include "smfs/store/map.h"
#include "smfs/store/object.h"

#include "smfs/base/cleanup.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define GRAIN 4096u
#define STEP  MIB /* compared at once */

struct differ {
	struct smfs_store *s;
	const struct smfs_content *c[2];
	struct smfs_file *f[2];
	uint8_t *buf[2]; /* NULL: compare references only */
	uint64_t size;	 /* of the longer */
	smfs_range_fn fn;
	void *arg;
	struct err *err;

	uint64_t start, end; /* the range to report, not yet reported: more may join */
	uint64_t seen;	     /* bytes below were compared */
	uint64_t base;	     /* of the leaf at hand */
};

static int report(struct differ *d)
{
	uint64_t start = d->start, end = d->end;

	d->start = d->end = 0;
	return end > start ? d->fn(d->arg, start, end - start, d->err) : 0;
}

static int differs(struct differ *d, uint64_t start, uint64_t end)
{
	int r = 0;

	if (d->end != start || d->end == d->start) {
		r = report(d);
		d->start = start;
	}
	d->end = end;
	return r;
}

static int load(struct differ *d, int which, uint64_t off, size_t len)
{
	ssize_t n = smfs_file_pread(d->f[which], d->buf[which], len, off, d->err);

	if (n < 0)
		return (int)n;
	memset(d->buf[which] + n, 0, len - (size_t)n);
	return 0;
}

static int compare_bytes(struct differ *d, uint64_t start, uint64_t end)
{
	while (start < end) {
		size_t n = MIN(end - start, STEP);
		int r = load(d, 0, start, n);

		if (r == 0)
			r = load(d, 1, start, n);
		for (size_t at = 0; r == 0 && at < n; at += GRAIN) {
			size_t len = MIN(n - at, (size_t)GRAIN);

			if (memcmp(d->buf[0] + at, d->buf[1] + at, len) != 0)
				r = differs(d, start + at, start + at + len);
		}
		if (r < 0)
			return r;
		start += n;
	}
	return 0;
}

/* The references differ in [start, end). */
static int candidate(struct differ *d, uint64_t start, uint64_t end)
{
	start = MAX(align_down(start, GRAIN), d->seen);
	end = MIN(align_up(end, GRAIN), d->size);
	if (start >= end)
		return 0;
	d->seen = end;
	return d->buf[0] ? compare_bytes(d, start, end) : differs(d, start, end);
}

static int stretch(void *arg, uint32_t off, uint32_t len, const struct map_extent *e)
{
	struct differ *d = arg;

	return candidate(d, d->base + off, d->base + off + len);
}

static int diff_nodes(struct differ *d, const struct smfs_id *a, const struct smfs_id *b,
		      uint8_t level, uint64_t base);

/* Children by position; NULL where there is none. */
static int diff_inner(struct differ *d, const void *a, const void *b, uint8_t level, uint64_t base)
{
	uint32_t i = 0, k = 0;

	for (;;) {
		struct map_child x = {.pos = INNER_FANOUT}, y = {.pos = INNER_FANOUT};

		if (a && i < map_count(a))
			map_inner_at(a, i, &x);
		if (b && k < map_count(b))
			map_inner_at(b, k, &y);
		uint32_t pos = MIN(x.pos, y.pos);
		if (pos == INNER_FANOUT)
			return 0;
		i += x.pos == pos;
		k += y.pos == pos;
		int r = diff_nodes(d, x.pos == pos ? &x.id : NULL, y.pos == pos ? &y.id : NULL,
				   (uint8_t)(level - 1), base + pos * map_span(level - 1));
		if (r < 0)
			return r;
	}
}

static int diff_nodes(struct differ *d, const struct smfs_id *a, const struct smfs_id *b,
		      uint8_t level, uint64_t base)
{
	cleanup_entry struct cache_entry *x = NULL, *y = NULL;
	int r = 0;

	if (base >= d->size || (a && b && id_equal(a, b)))
		return 0;
	if (a)
		r = object_map(d->s, a, level, &x, d->err);
	if (r == 0 && b)
		r = object_map(d->s, b, level, &y, d->err);
	if (r < 0)
		return r;
	if (level)
		return diff_inner(d, x ? x->data : NULL, y ? y->data : NULL, level, base);
	d->base = base;
	return map_leaf_compare(x ? x->data : NULL, y ? y->data : NULL, stretch, d);
}

static const struct smfs_id *root(const struct smfs_content *c)
{
	return c->kind == SMFS_MAP ? &c->id : NULL;
}

/* The trees may differ in height: the higher one's first child is where the other begins. */
static int diff_maps(struct differ *d, const struct smfs_content *high,
		     const struct smfs_content *low, const struct smfs_id *id, uint8_t level,
		     uint64_t base)
{
	cleanup_entry struct cache_entry *node = NULL;
	bool swapped = high != d->c[0];

	if (level == low->depth || low->kind != SMFS_MAP)
		return diff_nodes(d, swapped ? root(low) : id, swapped ? id : root(low), level,
				  base);
	int r = object_map(d->s, id, level, &node, d->err);
	for (uint32_t i = 0; r == 0 && i < map_count(node->data); i++) {
		struct map_child c;

		map_inner_at(node->data, i, &c);
		if (i == 0 && c.pos != 0)
			r = diff_nodes(d, swapped ? root(low) : NULL, swapped ? NULL : root(low),
				       low->depth, 0);
		if (r == 0 && c.pos == 0)
			r = diff_maps(d, high, low, &c.id, (uint8_t)(level - 1), 0);
		else if (r == 0)
			r = diff_nodes(d, swapped ? NULL : &c.id, swapped ? &c.id : NULL,
				       (uint8_t)(level - 1), c.pos * map_span(level - 1));
	}
	return r;
}

static int diff(struct differ *d)
{
	const struct smfs_content *a = d->c[0], *b = d->c[1];
	bool a_higher = b->kind != SMFS_MAP || (a->kind == SMFS_MAP && a->depth >= b->depth);
	int r = 0;

	if (memcmp(&a->id, &b->id, sizeof(a->id)) == 0 && a->kind == b->kind &&
	    a->depth == b->depth)
		return 0;
	/* What is no map is at most one chunk, or nothing. */
	if (a->kind == SMFS_CHUNK || b->kind == SMFS_CHUNK)
		r = candidate(d, 0, FRAME_SIZE);
	if (r == 0 && a_higher && a->kind == SMFS_MAP)
		r = diff_maps(d, a, b, &a->id, a->depth, 0);
	else if (r == 0 && b->kind == SMFS_MAP)
		r = diff_maps(d, b, a, &b->id, b->depth, 0);
	return r < 0 ? r : report(d);
}

int smfs_content_diff(struct smfs_store *s, const struct smfs_content *a,
		      const struct smfs_content *b, unsigned flags, smfs_range_fn fn, void *arg,
		      struct err *err)
{
	cleanup_free uint8_t *buf = NULL;
	struct differ d = {.s = s,
			   .c = {a, b},
			   .size = MAX(a->size, b->size),
			   .fn = fn,
			   .arg = arg,
			   .err = err};
	int r = 0;

	if (!(flags & SMFS_DIFF_REFS)) {
		buf = malloc(2 * STEP);
		if (!buf)
			return err_set(err, ENOMEM, "compare: out of memory");
		d.buf[0] = buf;
		d.buf[1] = buf + STEP;
	}
	r = smfs_file_open(s, a, &d.f[0], err);
	if (r == 0)
		r = smfs_file_open(s, b, &d.f[1], err);
	if (r == 0)
		r = diff(&d);
	smfs_file_close(d.f[0]);
	smfs_file_close(d.f[1]);
	return r;
}

/* ---- lineage ---- */

struct own {
	struct smfs_range *v;
	size_t n, max;
	uint64_t gap; /* ranges this close or closer are one */
};

static void join(struct own *o)
{
	size_t n = 0;

	assert(o->v);
	for (size_t i = 1; i < o->n; i++) {
		struct smfs_range *last = &o->v[n], *r = &o->v[i];

		if (r->off - (last->off + last->len) <= o->gap)
			last->len = r->off + r->len - last->off;
		else
			o->v[++n] = *r;
	}
	o->n = o->n ? n + 1 : 0;
}

static int add_own(void *arg, uint64_t off, uint64_t len, struct err *err)
{
	struct own *o = arg;

	for (;;) {
		struct smfs_range *last = o->n ? &o->v[o->n - 1] : NULL;

		if (last && off - (last->off + last->len) <= o->gap) {
			last->len = off + len - last->off;
			return 0;
		}
		assert(o->v);
		if (o->n < o->max) {
			o->v[o->n++] = (struct smfs_range){off, len};
			return 0;
		}
		o->gap = MAX(o->gap * 2, (uint64_t)GRAIN);
		join(o);
	}
}

ssize_t smfs_content_own(struct smfs_store *s, const struct smfs_content *parent,
			 const struct smfs_content *c, struct smfs_range *out, size_t max,
			 struct err *err)
{
	struct own o = {.v = out, .max = max};

	if (!out || max < 2)
		return err_set(err, EINVAL, "lineage: room for at least two ranges is needed");
	int r = smfs_content_diff(s, parent, c, SMFS_DIFF_REFS, add_own, &o, err);
	if (r < 0)
		return r;
	/* Past the parent's end there is nothing of it, and nothing of the file past its own. */
	if (parent->size < c->size) {
		uint64_t off = align_down(parent->size, GRAIN);

		if (o.n)
			off = MAX(off, out[o.n - 1].off + out[o.n - 1].len);
		if (off < c->size)
			r = add_own(&o, off, c->size - off, err);
	}
	while (o.n && out[o.n - 1].off >= c->size)
		o.n--;
	if (o.n)
		out[o.n - 1].len = MIN(out[o.n - 1].len, c->size - out[o.n - 1].off);
	return r < 0 ? r : (ssize_t)o.n;
}
