/*
 * map.h - map nodes: the Merkle tree that says which chunk holds which bytes of a file.
 *
 * A leaf covers LEAF_SPAN bytes of the *file*, aligned, so that a span two files have in common
 * at the same offset is one node. It lists extents: `len` bytes at `off` of the span are the
 * bytes from `chunk_off` of chunk `id`. What no extent covers is zero. An inner node lists up to
 * INNER_FANOUT children by position; an absent child is zero. A tree is never higher than its
 * file's size needs.
 *
 * A diff's leaf may be a DELTA: another leaf's id, and the ranges in which this one differs. That
 * leaf is never a delta itself, so reading one takes one more node whatever the depth of the diff.
 * object_map() gives the whole leaf, merged; who follows references has to follow the id, too.
 *
 * A decoded node is used in place: map_leaf_check() and map_inner_check() prove every invariant
 * once, the accessors rely on it.
 */
#ifndef SMFS_STORE_MAP_H
#define SMFS_STORE_MAP_H

#include "smfs/store/format.h"

#define MAP_HEAD_LEN	16u
#define LEAF_ENTRY_LEN	48u
#define INNER_ENTRY_LEN 36u
#define MAP_NODE_MAX	(MAP_HEAD_LEN + LEAF_MAX * LEAF_ENTRY_LEN)

struct map_extent {
	uint32_t off, len, chunk_off;
	struct smfs_id id;
};

struct map_child {
	uint32_t pos;
	struct smfs_id id;
};

/* Bytes of the file one node of this level covers; level 0 is a leaf. */
static inline uint64_t map_span(unsigned level)
{
	return LEAF_SPAN << (8 * level);
}

/* The lowest level whose one node covers `size` bytes. */
static inline uint8_t map_depth(uint64_t size)
{
	uint8_t d = 0;

	while (d < MAP_DEPTH_MAX && map_span(d) < size)
		d++;
	return d;
}

void map_leaf_head(struct writer *w, uint32_t count);
void map_leaf_entry(struct writer *w, const struct map_extent *e);
void map_inner_head(struct writer *w, uint8_t level, uint32_t count);
void map_inner_entry(struct writer *w, const struct map_child *c);

/* 0, or -EBADMSG when the bytes are not a well-formed node of that level. */
int map_leaf_check(const void *node, size_t len);
int map_inner_check(const void *node, size_t len, uint8_t level);

/* On checked nodes only. */
uint32_t map_count(const void *node);
uint32_t map_level(const void *node);
void map_leaf_at(const void *node, uint32_t i, struct map_extent *e);
void map_inner_at(const void *node, uint32_t i, struct map_child *c);
/* The first extent that ends after `off`; map_count() when none does. */
uint32_t map_leaf_find(const void *node, uint32_t off);
/* The first child at or after `pos`; map_count() when there is none. */
uint32_t map_inner_find(const void *node, uint32_t pos);

/*
 * Two checked leaves (NULL: one that is empty) side by side: calls `fn` for every stretch where
 * they refer to different bytes, ascending, touching ones not joined. `b`: what the second has
 * there, of length `len`; NULL: zeros. A result other than 0 ends it and is returned.
 */
typedef int (*map_differ_fn)(void *arg, uint32_t off, uint32_t len, const struct map_extent *b);
int map_leaf_compare(const void *a, const void *b, map_differ_fn fn, void *arg);

/* ---- deltas (map_delta.c) ---- */

#define DELTA_HEAD_LEN	(MAP_HEAD_LEN + SMFS_ID_LEN)
#define DELTA_ENTRY_LEN 16u
#define DELTA_MAX	4096u /* entries */

bool map_is_delta(const void *node, size_t len);
int map_delta_check(const void *node, size_t len);
/* On a checked delta. An extent of `zeros` has no id. */
void map_delta_base(const void *node, struct smfs_id *id);
void map_delta_at(const void *node, uint32_t i, struct map_extent *e, bool *zeros);

/* The whole leaf: the checked leaf `base` with the checked delta over it. -EBADMSG when that is no
 * leaf: empty, or of too many extents. */
int map_delta_apply(const void *base, const void *delta, struct writer *out);
/*
 * The delta that makes the checked leaf `base`, named `id`, into the checked leaf `node`, which is
 * `len` bytes: 1 with *out filled; 0 when it would not be a good deal smaller; 2 when the two are
 * equal.
 */
int map_delta_make(const void *base, const struct smfs_id *id, const void *node, size_t len,
		   struct writer *out);

#endif
