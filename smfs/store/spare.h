/*
 * spare.h - bytes of a store that may go at any time: the files of its cache/ that nobody has in
 * use. What they are is mount/hot_cache.h's; here they only take room that new content needs more.
 *
 * A file in use bears a lock of its open file (F_OFD_SETLK, shared); nobody ever takes an exclusive
 * one. Least recently used, by access time, goes first. Any thread, any process.
 */
#ifndef SMFS_STORE_SPARE_H
#define SMFS_STORE_SPARE_H

#include <stdbool.h>
#include <stdint.h>

/* Of a directory entry of cache/: is it a file of content? */
bool spare_is_file(const char *name);
/* Is the open file in use by somebody else? */
bool spare_is_used(int fd);
/* Remove unless in use: 0, -EBUSY, -errno. */
int spare_drop(int cachefd, const char *name);

/* Both of the store whose directory that is. A store without a cache has none to spare. */
uint64_t spare_bytes(int storefd);
/* Remove files until that many bytes are free, or none is left; how many bytes went. */
uint64_t spare_free(int storefd, uint64_t bytes);

#endif
