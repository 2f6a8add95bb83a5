/*
 * dircache.h - directory objects in parsed form, shared.
 *
 * Equal subtrees of many images are one object in the store and one parsed copy here. An object
 * stays while referenced; inodes made from its entries hold a reference, as they point into it.
 * Any thread.
 */
#ifndef SMFS_MOUNT_DIRCACHE_H
#define SMFS_MOUNT_DIRCACHE_H

#include <pthread.h>

#include "smfs/store/store.h"

#define DIRCACHE_BUCKETS 4096

struct dirobj {
	struct smfs_id id;
	struct smfs_dir *dir;
	struct dirobj *next;
	unsigned refs;
};

struct dircache {
	struct smfs_store *store;
	pthread_mutex_t lock;
	struct dirobj *heads[DIRCACHE_BUCKETS];
};

void dircache_init(struct dircache *c, struct smfs_store *store);
/* Every reference must be back. */
void dircache_free(struct dircache *c);

int dircache_get(struct dircache *c, const struct smfs_id *id, struct dirobj **out,
		 struct err *err);
struct dirobj *dircache_ref(struct dircache *c, struct dirobj *d);
void dircache_put(struct dircache *c, struct dirobj *d); /* NULL is fine */

#endif
