/*
 * writers.h - who may write to a store: any number of writers, or one repair.
 *
 * A writer is an ingest from begin to end, a removal, a renaming, a collection. While a handle has
 * any, it holds the byte of `lock` at WRITERS_BASE + its process's own byte. A repair locks all
 * such bytes: it meets every writer, and every writer meets it; neither waits, both get EBUSY.
 * Readers take no part: what a repair takes away they keep open until they look for the new
 * (index_follow()).
 *
 * The file `repair` in the store says that a repair has begun to replace the journal and the index,
 * which is two steps: until one has done both, nobody writes.
 */
#ifndef SMFS_STORE_WRITERS_H
#define SMFS_STORE_WRITERS_H

#include "smfs/store/store_priv.h"

#define WRITERS_BASE ((off_t)1 << 60)
#define WRITERS_SPAN ((off_t)1 << 56)
#define REPAIR_FILE  "repair"

/* The byte of `lock` that stands for this process. */
off_t store_process_byte(void);

/*
 * Before anything is written. Nests, and is shared by threads. After it the handle has the index
 * and journal that are in place now. EBUSY: a repair is at work; EBADMSG: one was cut short.
 */
int writers_enter(struct smfs_store *s, struct err *err);
void writers_leave(struct smfs_store *s);

/* A descriptor that keeps writers out until it is closed. EBUSY names a process that writes. */
int writers_exclude(int dirfd, const char *dir, struct err *err);

#endif
