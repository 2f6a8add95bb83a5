/*
 * hot_cache.h - materialised content: files of a store's cache/ that hold the plain bytes of
 * large stored files, for the kernel to serve without us.
 *
 *     DIR/cache/<content id>-<size>   one content, sparse, read-only, mode 0400
 *     DIR/cache/making                the one being made
 *     DIR/cache/lock                  flock(2): held by whoever makes or evicts
 *     DIR/cache/limit                 bytes the cache may take, decimal; missing: the default
 *
 * It is a cache: all of it may be deleted at any time, mounted or not, and no repair, check or
 * collection of the store ever reads it.
 *
 * INVARIANTS.
 *   - A file under its final name is whole. It is written as `making`, every frame verified as it
 *     comes out of the store; sealed (an extended attribute with the content and the file's mtime);
 *     fsynced; and only then renamed. After a power loss a name is there with all its bytes, or not
 *     there. Whoever opens a file checks the seal, the size and the mtime, and removes what does
 * not fit; so a file that was touched by hand is not served.
 *   - What the disk itself corrupts later is not noticed on reading, as with any file below:
 *     hot_cache_check() compares with the store and removes what differs.
 *   - A file in use bears a read lock of the open file hot_cache_get() gives, and is not evicted.
 *     Removing it would harm nobody, only free nothing.
 *   - Bytes of all files stay within the limit, and within what the store leaves of its own; and a
 *     part of the file system stays free (HOT_RESERVE, or the store's reserve where that is more).
 *     The store comes first: who ingests removes files here before it is refused (limit.h).
 *
 * LRU by access time, which hot_cache_get() sets: it is shared by all processes, and survives them.
 *
 * THREADS. A struct hot_cache may be used by any thread.
 */
#ifndef SMFS_MOUNT_HOT_CACHE_H
#define SMFS_MOUNT_HOT_CACHE_H

#include "smfs/store/store.h"

/* Below this a file is in the page cache after a few reads, and costs more as a file of its own. */
#define HOT_MIN_SIZE ((uint64_t)1 << 20)
/* The limit when none was ever set: this, or a tenth of the file system if that is less. */
#define HOT_LIMIT_MAX ((uint64_t)8 << 30)
/* Never touched: a twentieth of the file system, at most this. */
#define HOT_RESERVE_MAX ((uint64_t)4 << 30)

struct hot_cache;

#define HOT_CACHE_RDONLY 1u /* use what is there, make nothing, remove nothing */

/*
 * Of the store in `store_dir`. `limit` other than HOT_LIMIT_KEEP is set for good, for every
 * process; 0 keeps nothing but what is in use.
 */
#define HOT_LIMIT_KEEP UINT64_MAX
int hot_cache_open(const char *store_dir, unsigned flags, uint64_t limit, struct hot_cache **out,
		   struct err *err);
void hot_cache_close(struct hot_cache *c); /* NULL is fine */

/* Is content of this kind and size ever materialised? */
bool hot_cache_takes(const struct smfs_content *c);

/* A read-only descriptor, the file in use until it is closed. -ENOENT: not there. */
int hot_cache_get(struct hot_cache *c, const struct smfs_content *content, struct err *err);

/*
 * Materialise, have it in the page cache, and give the descriptor as hot_cache_get() does.
 * `go_on` (may be NULL) is asked every few MiB, and while another process makes something.
 * -ECANCELED: go_on said no. -ENOSPC: the limit, or the file system, has no room even after
 * evicting all that is unused. -EROFS: a read-only cache.
 */
struct hot_progress {
	bool (*go_on)(void *arg, uint64_t done);
	void *arg;
	uint64_t evicted; /* out: files */
};
int hot_cache_make(struct hot_cache *c, struct smfs_store *s, const struct smfs_content *content,
		   struct hot_progress *p, struct err *err);

/* -ENOENT, or -EBUSY when in use. */
int hot_cache_drop(struct hot_cache *c, const struct smfs_content *content, struct err *err);

/* Compare with the store: 0 equal, 1 differed and was removed, -ENOENT not there. */
int hot_cache_check(struct hot_cache *c, struct smfs_store *s, const struct smfs_content *content,
		    struct err *err);

struct hot_entry {
	struct smfs_content content;
	uint64_t bytes; /* on disk */
	int64_t used;	/* ns */
	bool in_use;
};
/* Sealed files, in no order. */
int hot_cache_list(struct hot_cache *c, struct hot_entry **out, size_t *n, struct err *err);

struct hot_cache_stat {
	uint64_t files, bytes, limit;
};
int hot_cache_stat(struct hot_cache *c, struct hot_cache_stat *out, struct err *err);

#endif
