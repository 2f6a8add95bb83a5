/* Deltas: a leaf as what it changes of another. Layout: doc/store-format.md, section 4. */
#include "smfs/store/map.h"

#include "smfs/base/cleanup.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define DELTA_MAGIC 0x544c4544u /* "DELT" */
#define NO_ID	    UINT32_MAX	/* zeros */
/* A delta replaces a leaf at least this many times its size: what it overrides of its base is
 * kept in the store for nothing, and this bounds it. */
#define DELTA_GAIN 3u

static uint32_t at32(const void *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return le32toh(v);
}

static uint32_t id_count(const uint8_t *node)
{
	return at32(node + 12);
}

static const uint8_t *entry(const uint8_t *node, uint32_t i)
{
	return node + DELTA_HEAD_LEN + (size_t)id_count(node) * SMFS_ID_LEN +
	       (size_t)i * DELTA_ENTRY_LEN;
}

bool map_is_delta(const void *node, size_t len)
{
	return len >= DELTA_HEAD_LEN && at32(node) == DELTA_MAGIC;
}

int map_delta_check(const void *node, size_t len)
{
	const uint8_t *p = node;
	uint32_t end = 0;

	if (!map_is_delta(node, len) || at32(p + 4) != 0)
		return -EBADMSG;
	uint32_t n = map_count(node), ids = id_count(p);
	if (n == 0 || n > DELTA_MAX || ids > n ||
	    len != DELTA_HEAD_LEN + (size_t)ids * SMFS_ID_LEN + (size_t)n * DELTA_ENTRY_LEN)
		return -EBADMSG;
	for (uint32_t i = 0; i < n; i++) {
		const uint8_t *e = entry(p, i);
		uint32_t off = at32(e), l = at32(e + 4), chunk_off = at32(e + 8), id = at32(e + 12);

		if (off < end || l == 0 || !range_ok(off, l, LEAF_SPAN))
			return -EBADMSG;
		if (id == NO_ID ? chunk_off != 0 : id >= ids || !range_ok(chunk_off, l, FRAME_SIZE))
			return -EBADMSG;
		end = off + l;
	}
	return 0;
}

void map_delta_base(const void *node, struct smfs_id *id)
{
	memcpy(id->b, (const uint8_t *)node + MAP_HEAD_LEN, SMFS_ID_LEN);
}

void map_delta_at(const void *node, uint32_t i, struct map_extent *e, bool *zeros)
{
	const uint8_t *p = node, *at = entry(p, i);
	uint32_t id = at32(at + 12);

	*e = (struct map_extent){.off = at32(at), .len = at32(at + 4), .chunk_off = at32(at + 8)};
	*zeros = id == NO_ID;
	if (!*zeros)
		memcpy(e->id.b, p + DELTA_HEAD_LEN + (size_t)id * SMFS_ID_LEN, SMFS_ID_LEN);
}

/* ---- applying ---- */

/* A leaf in the making; what continues the last extent extends it. */
struct merge {
	struct writer *w;
	struct map_extent last;
	uint32_t n;
};

static void merge_add(struct merge *m, const struct map_extent *e)
{
	struct map_extent *last = &m->last;

	if (last->len && last->off + last->len == e->off &&
	    last->chunk_off + last->len == e->chunk_off && id_equal(&last->id, &e->id)) {
		last->len += e->len;
		return;
	}
	if (last->len)
		map_leaf_entry(m->w, last);
	m->n += e->len != 0;
	*last = *e;
}

/* The base's extents within [from, to). *i: the first that may be. */
static void merge_base(struct merge *m, const void *base, uint32_t *i, uint32_t from, uint32_t to)
{
	for (uint32_t n = map_count(base); *i < n; ++*i) {
		struct map_extent e;

		map_leaf_at(base, *i, &e);
		if (e.off >= to)
			return;
		uint32_t a = MAX(e.off, from), b = MIN(e.off + e.len, to);
		if (a < b) {
			struct map_extent part = {a, b - a, e.chunk_off + (a - e.off), e.id};

			merge_add(m, &part);
		}
		/* The rest of it may come after what is laid over it. */
		if (e.off + e.len > to)
			return;
	}
}

int map_delta_apply(const void *base, const void *delta, struct writer *out)
{
	struct merge m = {.w = out};
	uint32_t at = 0, next = 0;

	map_leaf_head(out, 0);
	for (uint32_t i = 0, n = map_count(delta); i < n; i++) {
		struct map_extent e;
		bool zeros;

		map_delta_at(delta, i, &e, &zeros);
		merge_base(&m, base, &next, at, e.off);
		if (!zeros)
			merge_add(&m, &e);
		at = e.off + e.len;
	}
	merge_base(&m, base, &next, at, LEAF_SPAN);
	merge_add(&m, &(struct map_extent){.off = 0});
	if (out->failed)
		return -ENOMEM;
	if (m.n == 0 || m.n > LEAF_MAX)
		return -EBADMSG;
	patch_u32(out, 8, m.n);
	return 0;
}

/* ---- making ---- */

struct delta_entry {
	uint32_t off, len, chunk_off, id;
};

struct maker {
	struct smfs_id *ids;
	struct delta_entry *v;
	uint32_t nids, n, max;
};

static uint32_t id_index(struct maker *d, const struct smfs_id *id)
{
	for (uint32_t i = d->nids; i-- > 0;)
		if (id_equal(&d->ids[i], id))
			return i;
	d->ids[d->nids] = *id;
	return d->nids++;
}

/* 1: it is no gain any more. */
static int maker_add(void *arg, uint32_t off, uint32_t len, const struct map_extent *e)
{
	struct maker *d = arg;
	uint32_t chunk_off = e ? e->chunk_off : 0;
	struct delta_entry *last = d->v && d->n ? &d->v[d->n - 1] : NULL;

	if (!d->v || d->n == d->max)
		return 1;
	uint32_t k = e ? id_index(d, &e->id) : NO_ID;
	if (last && last->off + last->len == off && last->id == k &&
	    (!e || last->chunk_off + last->len == chunk_off))
		last->len += len;
	else
		d->v[d->n++] = (struct delta_entry){off, len, chunk_off, k};
	return 0;
}

int map_delta_make(const void *base, const struct smfs_id *id, const void *node, size_t len,
		   struct writer *out)
{
	size_t room = len / DELTA_GAIN;
	struct maker d = {.max = (uint32_t)MIN(room / DELTA_ENTRY_LEN, DELTA_MAX)};
	cleanup_free struct smfs_id *ids = calloc(d.max + 1, sizeof(*ids));
	cleanup_free struct delta_entry *v = calloc(d.max + 1, sizeof(*v));

	d.ids = ids;
	d.v = v;
	if (!ids || !v || map_leaf_compare(base, node, maker_add, &d) != 0)
		return 0;
	if (d.n == 0)
		return 2;
	if (DELTA_HEAD_LEN + (size_t)d.nids * SMFS_ID_LEN + (size_t)d.n * DELTA_ENTRY_LEN > room)
		return 0;
	put_u32(out, DELTA_MAGIC);
	put_u32(out, 0);
	put_u32(out, d.n);
	put_u32(out, d.nids);
	put_bytes(out, id->b, SMFS_ID_LEN);
	for (uint32_t i = 0; i < d.nids; i++)
		put_bytes(out, ids[i].b, SMFS_ID_LEN);
	for (uint32_t i = 0; i < d.n; i++) {
		put_u32(out, v[i].off);
		put_u32(out, v[i].len);
		put_u32(out, v[i].chunk_off);
		put_u32(out, v[i].id);
	}
	return 1;
}
