/* index_priv.h - shared by index.c (environment, transactions) and index_db.c (records). */
#ifndef SMFS_STORE_INDEX_PRIV_H
#define SMFS_STORE_INDEX_PRIV_H

#include "smfs/store/index.h"

#include <lmdb.h>
#include <pthread.h>

#define READERS_KEPT 64

struct index {
	MDB_env *env;
	int datafd, sealfd; /* index_seal.c; -1 = none */
	MDB_dbi chunks, nodes, names, packs, meta, condemned;
	bool rdonly, nolock;
	char *path;
	/* Held shared for the length of every transaction; exclusively to move the mapping, or env.
	 */
	pthread_rwlock_t map_lock;
	unsigned opened; /* how often; env is NULL when it could not be opened again */
	pthread_mutex_t kept_lock;
	MDB_txn *kept[READERS_KEPT];
	unsigned nkept;
};

struct index_txn {
	struct index *ix;
	MDB_txn *txn;
	bool full; /* MDB_MAP_FULL was met: grow and run again */
};

/* An LMDB result as an error. MDB_MAP_FULL of a writer is noted in txn->full. */
int index_err(struct err *err, int rc, const char *what);
int index_txn_err(struct index_txn *txn, struct err *err, int rc, const char *what);

/*
 * RECORDS ARE SEALED. Every value of our databases ends in a sum over its key and what comes before
 * it, so that neither a changed value nor a changed key is ever taken for a record. `len` is with
 * the sum.
 */
#define RECORD_SUM_LEN 4u
void index_record_seal(const void *key, size_t klen, uint8_t *value, size_t len);
bool index_record_ok(const void *key, size_t klen, const void *value, size_t len);

/*
 * index_seal.c: a note beside the data that its pages were proven (index_pages.h) as they are now.
 * It holds for one state of the file in one boot, and is written after a proof and after each
 * commit to a file it held for. A note of a later transaction than the file's own is damage: the
 * file has lost a commit.
 */
struct stat;
bool index_seal_holds(const struct index *ix);
void index_seal_write(struct index *ix);
/* The newest transaction any note that can be read speaks of; 0 = none. */
uint64_t index_seal_txnid(const struct index *ix);

/* index_db.c: a place within a record, of LOC_LEN bytes. Decoding: -EBADMSG for what no writer
 * wrote. */
#define LOC_LEN 28u
MDB_dbi index_frame_dbi(struct index *ix, uint8_t kind);
void index_put_loc(const struct frame_loc *loc, uint8_t out[LOC_LEN]);
int index_get_loc(struct reader *r, struct frame_loc *loc);
int index_bad_record(struct err *err, const char *db);
/* A whole record of `chunks` or `nodes`, with its sum. */
#define FRAME_REC_LEN (LOC_LEN + RECORD_SUM_LEN)
void index_frame_encode(const struct smfs_id *id, const struct frame_loc *loc,
			uint8_t out[FRAME_REC_LEN]);
int index_frame_decode(const MDB_val *k, const MDB_val *v, struct frame_loc *loc);

int index_read_begin(struct index *ix, MDB_txn **txn, struct err *err);
void index_read_end(struct index *ix, MDB_txn *txn);

#endif
