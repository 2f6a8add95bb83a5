/*
 * index.h - the LMDB environment: where frames are, which names exist, how far files are valid.
 *
 * Databases: `chunks` and `nodes` (id -> place), two of them so that a chunk's id and a node's id
 * are never compared; `names` (kind, name -> record); `packs` (id -> durable length); `meta` (one
 * record: struct index_meta); `condemned` (index_gc.h). All but names can be rebuilt from the
 * packs, names from the journal.
 *
 * Everything the index says is durable: an update commits only after the bytes it speaks of are
 * synced (see ingest_commit.c). So a pack or the journal beyond its length here is garbage of a
 * writer that died, and the next writer truncates it.
 *
 * Threads: any. Processes: any; one updates at a time, readers never wait for it. Read
 * transactions are kept, reset, for reuse: a lookup costs about a microsecond.
 */
#ifndef SMFS_STORE_INDEX_H
#define SMFS_STORE_INDEX_H

#include "smfs/store/format.h"

struct index;
struct index_txn;

struct frame_loc {
	uint64_t pack, off;
	uint32_t stored_len, raw_len;
	uint8_t kind, codec;
};

struct index_meta {
	uint64_t seq;			  /* of the last commit */
	uint64_t journal_len;		  /* bytes of the journal that count */
	uint64_t chunk_raw, chunk_stored; /* totals over the chunks database */
	uint64_t node_stored;
	uint64_t gc_gen;  /* counts condemnations, see gc.h */
	uint64_t gc_busy; /* 1 while a collection condemns, or died doing so */
};

/* Make an empty index in the directory `path`, or complete one whose making was interrupted. */
int index_create(const char *path, struct err *err);
int index_open(const char *path, bool rdonly, struct index **out, struct err *err);
void index_close(struct index *ix);
/*
 * Open the index that is in the place of this one by now, if a repair has put another there. What
 * was read before stays right, as packs do not change. One system call if nothing has happened.
 */
int index_follow(struct index *ix, struct err *err);
/* Frees reader slots of processes that died without closing. */
void index_drop_stale_readers(struct index *ix);

/* 1 = found, 0 = no such frame. */
int index_find(struct index *ix, uint8_t kind, const struct smfs_id *id, struct frame_loc *out,
	       struct err *err);
/*
 * The first frame of this kind whose id begins with the upper `bits` bits of `prefix` (1 to 64): 1
 * with its id and place, 0 = there is none.
 */
int index_find_prefix(struct index *ix, uint8_t kind, uint64_t prefix, unsigned bits,
		      struct smfs_id *id, struct frame_loc *out, struct err *err);
int index_meta(struct index *ix, struct index_meta *out, struct err *err);
/* 1 = found, 0 = not in the index (no commit has used this pack). */
int index_pack_len(struct index *ix, uint64_t pack, uint64_t *len, struct err *err);

struct index_pack {
	uint64_t id, len;
};
/* All packs, in an array the caller frees. */
int index_packs(struct index *ix, struct index_pack **out, size_t *n, struct err *err);
int index_counts(struct index *ix, uint64_t *chunks, uint64_t *nodes, struct err *err);

/* 1 = found, 0 = no such name. */
int index_name(struct index *ix, enum smfs_kind kind, const char *name, struct smfs_name *out,
	       struct err *err);
/* Names after `after` (NULL: from the first) in byte order: the count, at most `max`. */
ssize_t index_names(struct index *ix, enum smfs_kind kind, const char *after, struct smfs_name *out,
		    size_t max, struct err *err);

/*
 * Run `fn` in the one write transaction of the store and commit it. `fn` may run more than once
 * (the map had to grow): it must be repeatable. A negative result rolls everything back.
 */
typedef int (*index_fn)(struct index_txn *txn, void *arg, struct err *err);
int index_update(struct index *ix, index_fn fn, void *arg, struct err *err);

int index_txn_meta(struct index_txn *txn, struct index_meta *out, struct err *err);
int index_txn_set_meta(struct index_txn *txn, const struct index_meta *m, struct err *err);
/* 1 = added, 0 = the id is there already and keeps its place. */
int index_txn_add(struct index_txn *txn, const struct smfs_id *id, const struct frame_loc *loc,
		  struct err *err);
int index_txn_set_pack(struct index_txn *txn, uint64_t pack, uint64_t len, struct err *err);
int index_txn_name(struct index_txn *txn, enum smfs_kind kind, const char *name,
		   struct smfs_name *out, struct err *err);
int index_txn_set_name(struct index_txn *txn, const struct smfs_name *name, struct err *err);
int index_txn_del_name(struct index_txn *txn, enum smfs_kind kind, const char *name,
		       struct err *err);

/* Calls `fn` for every frame of one database; a negative result ends the walk and is returned. */
typedef int (*index_frame_fn)(const struct smfs_id *id, const struct frame_loc *loc, void *arg,
			      struct err *err);
int index_each_frame(struct index *ix, bool nodes, index_frame_fn fn, void *arg, struct err *err);

/* Records by themselves, as index_salvage() hands them on; -EBADMSG for what is none. */
int index_name_decode(const void *key, size_t klen, const void *value, size_t len,
		      struct smfs_name *out);
int index_meta_decode(const void *key, size_t klen, const void *value, size_t len,
		      struct index_meta *out);

#endif
