/* index_priv.h - shared by index.c (environment, transactions) and index_db.c (records). */
#ifndef SMFS_STORE_INDEX_PRIV_H
#define SMFS_STORE_INDEX_PRIV_H

#include "smfs/store/index.h"

#include <lmdb.h>
#include <pthread.h>

#define READERS_KEPT 64

struct index {
	MDB_env *env;
	MDB_dbi chunks, nodes, names, packs, meta;
	bool rdonly;
	/* Held shared for the length of every transaction; exclusively to move the mapping. */
	pthread_rwlock_t map_lock;
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

int index_read_begin(struct index *ix, MDB_txn **txn, struct err *err);
void index_read_end(struct index *ix, MDB_txn *txn);

#endif
