/*
 * packw.h - appending frames to packs, on behalf of one ingest.
 *
 * An ingest owns the pack it appends to by flock(2): no two writers share a pack, so writers
 * never wait for each other. It takes an unlocked pack that is not full, cut back to the length the
 * index vouches for (what follows is garbage of a writer that died), or starts a new one. What is
 * cut off, or removed with a pack, may be what a record behind the journal's recorded length speaks
 * of: that goes first (commit_settle()).
 *
 * Nothing appended counts until packw_sync() returned 0 and the index recorded the length; see
 * ingest_commit.c for the whole order. packw_append() may be called by many threads.
 */
#ifndef SMFS_STORE_PACKW_H
#define SMFS_STORE_PACKW_H

#include "smfs/store/store_priv.h"

struct packw;

int packw_new(struct smfs_store *s, struct packw **out, struct err *err);

/* Completes `h` (checksums) and writes the frame; where it went is in *loc. */
int packw_append(struct packw *w, struct frame_head *h, const void *payload, struct frame_loc *loc,
		 struct err *err);

/* Everything appended, and the directory entries of new packs, to stable storage. */
int packw_sync(struct packw *w, struct err *err);

/* The packs used and their lengths, for the index. */
size_t packw_count(const struct packw *w);
void packw_at(const struct packw *w, size_t i, uint64_t *pack, uint64_t *len);

/* After the index committed: what was appended stays. */
void packw_keep(struct packw *w);
/* Releases the packs; unless kept, what was appended is cut off again. */
void packw_free(struct packw *w);

/* Remove temporary files and packs no commit ever recorded, as far as no writer owns them. */
void packw_clean(struct smfs_store *s);

#endif
