/*
 * store_priv.h - struct smfs_store, and which module owns what in it.
 *
 *     store.c        open, close, lock, stat
 *     format.c map.c on-disk records
 *     index*.c       LMDB: where things are
 *     pack.c         pack files for reading; packw.c for appending
 *     object.c       a frame by id: verified, decompressed, cached (cache.c)
 *     journal.c      the durable record of name changes
 *     ingest*.c stream*.c pages.c dir.c  writing; page_index.c what is stored already
 *     file.c dir.c   reading
 *     name.c usage.c pending.c
 *     fsck*.c quarantine.c repair*.c writers.c  damage: found, noted, put right
 *     lease*.c       what is needed beyond names; gc*.c collects the rest
 */
#ifndef SMFS_STORE_STORE_PRIV_H
#define SMFS_STORE_STORE_PRIV_H

#include "smfs/store/cache.h"
#include "smfs/store/format.h"
#include "smfs/store/index.h"
#include "smfs/store/pack.h"
#include "smfs/store/scratch.h"

#include <pthread.h>

struct workers;
struct quarantine;
struct leases;
struct page_index;

struct smfs_store {
	char *dir;
	int dirfd;
	int lockfd; /* see store.c: one handle of a store per process */
	int journalfd;
	bool rdonly;
	bool compare; /* SMFS_COMPARE */
	uint8_t uuid[UUID_LEN];
	int64_t created;
	struct index *ix;
	struct packs *packs;
	struct cache *cache;
	struct scratch_pool scratch;
	struct leases *leases;
	struct quarantine *quarantine;
	struct page_index *page_index; /* NULL: read-only */
	pthread_mutex_t writers_lock;
	unsigned writers; /* writers.h */
	pthread_mutex_t workers_lock;
	struct workers *workers; /* started by the first ingest that has work for them */
};

/* format_file.c. `dir` is for messages. */
#define FORMAT_FILE "format"
int store_format_read(int dirfd, const char *dir, uint8_t uuid[UUID_LEN], int64_t *created,
		      struct err *err);
int store_format_write(int dirfd, const char *dir, const uint8_t uuid[UUID_LEN], int64_t created,
		       struct err *err);

int store_workers(struct smfs_store *s, struct workers **out, struct err *err);
int64_t now_ns(void);

#endif
