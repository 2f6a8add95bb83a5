/*
 * cache.h - a bounded cache of verified, decompressed frames: partly read chunks and map nodes.
 *
 * Keyed by (is it a chunk, id). Entries are counted references to bytes that never change: what
 * cache_get() or cache_add() returned stays valid until cache_put(), evicted or not. Sharded by
 * id, least recently used out first in each shard. Any thread.
 */
#ifndef SMFS_STORE_CACHE_H
#define SMFS_STORE_CACHE_H

#include "smfs/store/format.h"

#include <stdatomic.h>

struct cache;

struct cache_entry {
	struct cache_entry *chain, *prev, *next;
	atomic_uint refs;
	struct smfs_id id;
	uint32_t len;
	bool node;
	bool delta; /* a leaf merged of a delta of the leaf `base` (map.h) */
	struct smfs_id base;
	/* Aligned, for vector code and zstd. */
	uint8_t data[] __attribute__((aligned(16)));
};

struct cache *cache_new(size_t budget);
void cache_free(struct cache *c);
/* Forget everything, so that what is read next comes from disk. */
void cache_clear(struct cache *c);

struct cache_entry *cache_get(struct cache *c, bool node, const struct smfs_id *id);
/* A new unshared entry of `len` bytes for the caller to fill. NULL: out of memory. */
struct cache_entry *cache_entry_new(bool node, const struct smfs_id *id, uint32_t len);
/* Publish a filled entry. Returns it, or the one another thread published first. */
struct cache_entry *cache_add(struct cache *c, struct cache_entry *e);
void cache_put(struct cache_entry *e);

static inline void cleanup_cache_put_(struct cache_entry **e)
{
	if (*e)
		cache_put(*e);
}
#define cleanup_entry __attribute__((cleanup(cleanup_cache_put_)))

#endif
