/*
 * object.h - a frame's raw bytes by id: found, read, verified, decompressed.
 *
 * Chunks are verified by their checksum (XXH3-64 over header and payload, so over the id too);
 * nodes also by their SHA-256, since everything else trusts them. EBADMSG names the frame.
 */
#ifndef SMFS_STORE_OBJECT_H
#define SMFS_STORE_OBJECT_H

#include "smfs/store/store_priv.h"

/*
 * Bytes [off, off + len) of a chunk into `buf`; past the chunk's end is an error. Whole chunks go
 * straight to `buf`; parts come from, and leave the chunk in, the cache.
 */
int object_chunk(struct smfs_store *s, const struct smfs_id *id, uint32_t off, void *buf,
		 uint32_t len, struct err *err);
/* The same for a chunk whose end counts as followed by zeros. */
int object_chunk_padded(struct smfs_store *s, const struct smfs_id *id, uint32_t off, void *buf,
			uint32_t len, struct err *err);

/* A checked map node. Level 0 is a leaf; one stored as a delta comes merged, and says so (cache.h).
 */
int object_map(struct smfs_store *s, const struct smfs_id *id, uint8_t level,
	       struct cache_entry **out, struct err *err);

/*
 * The first leaf of a map (content of kind SMFS_MAP) at or after *index, counted in LEAF_SPANs: 1
 * with *index moved to it and its id, 0 when none follows. The leaf itself is not read.
 */
int object_next_leaf(struct smfs_store *s, const struct smfs_content *c, uint64_t *index,
		     struct smfs_id *id, struct err *err);

/* The bytes of a directory node, in memory the caller frees. */
int object_dir(struct smfs_store *s, const struct smfs_id *id, uint8_t **out, size_t *len,
	       struct err *err);

/* One frame into `raw` of loc->raw_len bytes, verified; SHA-256 too when `rehash`. */
int object_read_at(struct smfs_store *s, const struct frame_loc *loc, const struct smfs_id *id,
		   bool rehash, uint8_t *raw, struct err *err);

#endif
