/* bundle_check.h - what proves a frame of a bundle; see bundle.h for why this is possible. */
#ifndef SMFS_STORE_BUNDLE_CHECK_H
#define SMFS_STORE_BUNDLE_CHECK_H

#include "smfs/store/ingest.h"

/* The payload's sum, then `raw` of h->raw_len bytes, then that they hash to the id. Any thread. */
int bundle_unpack(struct smfs_store *s, const struct frame_head *h, const void *payload, void *raw,
		  struct err *err);

/*
 * The node parses, and what it refers to is in the ingest or the store and fits: chunks as long as
 * the extents say, children of the level below, sizes that add up. *note is its level (map) or its
 * tree's bytes (directory; takes over `raw`).
 */
int bundle_check_map(struct smfs_ingest *ing, const uint8_t *raw, uint32_t len, uint64_t *note,
		     struct err *err);
int bundle_check_dir(struct smfs_ingest *ing, uint8_t *raw, uint32_t len, uint64_t *note,
		     struct err *err);

#endif
