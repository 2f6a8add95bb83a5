/*
 * idset.h - a set of frames by id, with a few bits each: what usage and fsck remember.
 * Grows without bound (48 bytes a frame); belongs to one thread.
 */
#ifndef SMFS_STORE_IDSET_H
#define SMFS_STORE_IDSET_H

#include "smfs/store/format.h"

struct idset_entry {
	struct smfs_id id;
	uint32_t stored; /* payload bytes in its pack */
	uint8_t kind;	 /* enum frame_kind; 0 = free place */
	uint8_t bits;	 /* the user's, as is: */
	uint64_t value;
};

struct idset {
	struct idset_entry *v;
	size_t n, cap; /* cap is a power of two or 0 */
};

/* NULL: not in the set. Chunks and nodes are apart, as everywhere. */
struct idset_entry *idset_find(const struct idset *s, uint8_t kind, const struct smfs_id *id);
/* The entry, new (bits 0, *fresh true) or old. NULL: out of memory. Moves other entries. */
struct idset_entry *idset_add(struct idset *s, uint8_t kind, const struct smfs_id *id, bool *fresh);
void idset_free(struct idset *s);

#define cleanup_idset __attribute__((cleanup(idset_free)))

#endif
