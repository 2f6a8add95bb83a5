/*
 * hot_make.h - inside the cache of materialised content: what hot_cache.c (the directory) and
 * hot_make.c (making and comparing files) share.
 */
#ifndef SMFS_MOUNT_HOT_MAKE_H
#define SMFS_MOUNT_HOT_MAKE_H

#include "smfs/mount/hot_cache.h"

struct hot_cache {
	int dirfd;
	int lockfd; /* -1 when read-only */
	bool rdonly;
};

#define HOT_NAME_LEN (64 + 1 + 20 + 1)
char *hot_file_name(const struct smfs_content *c, char out[HOT_NAME_LEN]);

uint64_t hot_cache_limit(const struct hot_cache *c);

/* Mark an open file as the whole of `c`. Before its fsync. 0 or -errno. */
int hot_seal(int fd, const struct smfs_content *c);

/* Evict until `need` more bytes fit beside the store `s`. With the lock held. -ENOSPC. */
int hot_cache_room(struct hot_cache *c, struct smfs_store *s, uint64_t need, uint64_t *evicted,
		   struct err *err);

#endif
