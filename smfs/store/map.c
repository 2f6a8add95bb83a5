#include "smfs/store/map.h"

#include <endian.h>
#include <string.h>

#define LEAF_MAGIC  0x4641454cu /* "LEAF" */
#define INNER_MAGIC 0x45444f4eu /* "NODE" */

static uint32_t at32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return le32toh(v);
}

static void head(struct writer *w, uint32_t magic, uint8_t level, uint32_t count)
{
	put_u32(w, magic);
	put_u32(w, level);
	put_u32(w, count);
	put_u32(w, 0);
}

void map_leaf_head(struct writer *w, uint32_t count)
{
	head(w, LEAF_MAGIC, 0, count);
}

void map_inner_head(struct writer *w, uint8_t level, uint32_t count)
{
	head(w, INNER_MAGIC, level, count);
}

void map_leaf_entry(struct writer *w, const struct map_extent *e)
{
	put_u32(w, e->off);
	put_u32(w, e->len);
	put_u32(w, e->chunk_off);
	put_u32(w, 0);
	put_bytes(w, e->id.b, SMFS_ID_LEN);
}

void map_inner_entry(struct writer *w, const struct map_child *c)
{
	put_u32(w, c->pos);
	put_bytes(w, c->id.b, SMFS_ID_LEN);
}

static int head_check(const uint8_t *p, size_t len, uint32_t magic, uint8_t level, uint32_t max,
		      size_t entry)
{
	if (len < MAP_HEAD_LEN || at32(p) != magic || at32(p + 4) != level || at32(p + 12) != 0)
		return -EBADMSG;
	uint32_t n = at32(p + 8);
	/* An empty node is an absent one, and never written. */
	if (n == 0 || n > max || len != MAP_HEAD_LEN + (size_t)n * entry)
		return -EBADMSG;
	return 0;
}

int map_leaf_check(const void *node, size_t len)
{
	uint32_t end = 0;

	if (head_check(node, len, LEAF_MAGIC, 0, LEAF_MAX, LEAF_ENTRY_LEN) < 0)
		return -EBADMSG;
	for (uint32_t i = 0, n = map_count(node); i < n; i++) {
		const uint8_t *p =
			(const uint8_t *)node + MAP_HEAD_LEN + (size_t)i * LEAF_ENTRY_LEN;
		struct map_extent e;

		map_leaf_at(node, i, &e);
		if (e.off < end || e.len == 0 || !range_ok(e.off, e.len, LEAF_SPAN) ||
		    !range_ok(e.chunk_off, e.len, FRAME_SIZE) || at32(p + 12) != 0)
			return -EBADMSG;
		end = e.off + e.len;
	}
	return 0;
}

int map_inner_check(const void *node, size_t len, uint8_t level)
{
	int64_t last = -1;

	if (level == 0 || level > MAP_DEPTH_MAX ||
	    head_check(node, len, INNER_MAGIC, level, INNER_FANOUT, INNER_ENTRY_LEN) < 0)
		return -EBADMSG;
	for (uint32_t i = 0, n = map_count(node); i < n; i++) {
		struct map_child c;

		map_inner_at(node, i, &c);
		if (c.pos <= last || c.pos >= INNER_FANOUT)
			return -EBADMSG;
		last = c.pos;
	}
	return 0;
}

uint32_t map_count(const void *node)
{
	return at32((const uint8_t *)node + 8);
}

uint32_t map_level(const void *node)
{
	return at32((const uint8_t *)node + 4);
}

void map_leaf_at(const void *node, uint32_t i, struct map_extent *e)
{
	const uint8_t *p = (const uint8_t *)node + MAP_HEAD_LEN + (size_t)i * LEAF_ENTRY_LEN;

	e->off = at32(p);
	e->len = at32(p + 4);
	e->chunk_off = at32(p + 8);
	memcpy(e->id.b, p + 16, SMFS_ID_LEN);
}

void map_inner_at(const void *node, uint32_t i, struct map_child *c)
{
	const uint8_t *p = (const uint8_t *)node + MAP_HEAD_LEN + (size_t)i * INNER_ENTRY_LEN;

	c->pos = at32(p);
	memcpy(c->id.b, p + 4, SMFS_ID_LEN);
}

uint32_t map_leaf_find(const void *node, uint32_t off)
{
	const uint8_t *p = (const uint8_t *)node + MAP_HEAD_LEN;
	uint32_t lo = 0, hi = map_count(node);

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		const uint8_t *e = p + (size_t)mid * LEAF_ENTRY_LEN;

		if (at32(e) + at32(e + 4) <= off)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

uint32_t map_inner_find(const void *node, uint32_t pos)
{
	const uint8_t *p = (const uint8_t *)node + MAP_HEAD_LEN;
	uint32_t lo = 0, hi = map_count(node);

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (at32(p + (size_t)mid * INNER_ENTRY_LEN) < pos)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* ---- two leaves ---- */

/* Where one goes through a leaf. */
struct cursor {
	const void *leaf;
	uint32_t next;
	struct map_extent e; /* the one at or after the position; len 0: none */
};

static void cursor_next(struct cursor *c)
{
	c->e.len = 0;
	if (c->leaf && c->next < map_count(c->leaf))
		map_leaf_at(c->leaf, c->next++, &c->e);
}

/* What is at `pos`: true and the chunk's offset there; up to *end in any case. */
static bool cursor_at(struct cursor *c, uint32_t pos, uint32_t *chunk_off, uint32_t *end)
{
	while (c->e.len && c->e.off + c->e.len <= pos)
		cursor_next(c);
	*chunk_off = 0;
	if (!c->e.len || c->e.off > pos) {
		*end = MIN(*end, c->e.len ? c->e.off : (uint32_t)LEAF_SPAN);
		return false;
	}
	*chunk_off = c->e.chunk_off + (pos - c->e.off);
	*end = MIN(*end, c->e.off + c->e.len);
	return true;
}

int map_leaf_compare(const void *a, const void *b, map_differ_fn fn, void *arg)
{
	struct cursor x = {.leaf = a}, y = {.leaf = b};
	int r = 0;

	cursor_next(&x);
	cursor_next(&y);
	for (uint32_t pos = 0, end; pos < LEAF_SPAN && r == 0; pos = end) {
		uint32_t x_off, y_off;

		end = LEAF_SPAN;
		bool in_x = cursor_at(&x, pos, &x_off, &end);
		bool in_y = cursor_at(&y, pos, &y_off, &end);
		if (in_x == in_y && (!in_x || (x_off == y_off && id_equal(&x.e.id, &y.e.id))))
			continue;
		struct map_extent e = {pos, end - pos, y_off, y.e.id};
		r = fn(arg, pos, end - pos, in_y ? &e : NULL);
	}
	return r;
}
