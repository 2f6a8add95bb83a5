/*
 * index_gc.h - the index as the garbage collector changes it (gc.h has the why).
 *
 * Database `condemned`: frames found unreachable, taken out of `chunks` and `nodes` so that nobody
 * new refers to them, kept readable for those who did before. Key: 1 for a chunk or 2 for a node,
 * then the id; value: the place, and the generation of the condemnation.
 */
#ifndef SMFS_STORE_INDEX_GC_H
#define SMFS_STORE_INDEX_GC_H

#include "smfs/store/index.h"

/* As index_find(), and condemned frames too: for reading, never to deduplicate against. */
int index_find_any(struct index *ix, uint8_t kind, const struct smfs_id *id, struct frame_loc *out,
		   struct err *err);

/* Condemned frames only. */
int index_find_condemned(struct index *ix, uint8_t kind, const struct smfs_id *id,
			 struct frame_loc *out, struct err *err);

enum index_db { INDEX_CHUNKS, INDEX_NODES, INDEX_CONDEMNED };

/* Where a paged scan is; zero to begin. */
struct index_pos {
	uint8_t key[1 + SMFS_ID_LEN];
	size_t len;
};
struct index_frame {
	struct smfs_id id;
	struct frame_loc loc;
	uint64_t gen; /* condemned ones */
};
/*
 * The next at most `max` frames in key order: their number, 0 at the end. One short read
 * transaction a call, so that a long scan keeps no old pages of the index alive.
 */
ssize_t index_scan(struct index *ix, enum index_db db, struct index_pos *pos,
		   struct index_frame *out, size_t max, struct err *err);

/* 1 = condemned, *loc tells what was there; 0 = not in the index any more. */
int index_txn_condemn(struct index_txn *txn, uint8_t kind, const struct smfs_id *id, uint64_t gen,
		      struct frame_loc *loc, struct err *err);
/* 2 = brought back from the condemned, with *loc; 1 = was in the index; 0 = is nowhere. */
int index_txn_revive(struct index_txn *txn, uint8_t kind, const struct smfs_id *id,
		     struct frame_loc *loc, struct err *err);
/* Forget a condemned frame for good: 1; 0 when it is not there with that generation. */
int index_txn_expire(struct index_txn *txn, const struct index_frame *f, struct err *err);
/* The frame, in the index or condemned, is at `to` if it was at `from`: 1; otherwise 0. */
int index_txn_move(struct index_txn *txn, const struct smfs_id *id, const struct frame_loc *from,
		   const struct frame_loc *to, struct err *err);
int index_txn_del_pack(struct index_txn *txn, uint64_t pack, struct err *err);

#endif
