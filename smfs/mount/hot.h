/*
 * hot.h - which stored files the kernel serves by itself, and when.
 *
 * A large file is *cold*, its reads come here and are decompressed; or *hot*, its opens name a
 * materialised file (hot_cache.h) as backing, and the kernel serves reads and mappings from that
 * (FUSE passthrough) at the speed of the file system below, even when this process is dead.
 *
 * NEVER SWITCHED WHILE OPEN. The kernel does not bear the two ways on one inode at a time, so the
 * first open decides and later ones follow until the last has been released. A file that is
 * materialised while a machine maps it becomes hot once that machine has gone.
 *
 * POLICY, of a mount:
 *   never   nothing is hot.
 *   auto    what is in the cache is hot. What is not is materialised in the background when it has
 *           been opened HOT_OPENS times (a template, not a single use), or when HOT_READS times its
 *           size was read of it: one copy out is not worth a second on disk, but whoever reads on
 *           and on soon pays more than that.
 *   always  materialised at the first open, which waits for it: HOT_WAIT_SECONDS at most, then it
 * is served cold, and a later one hot. No serving thread waits; the request does. Only content that
 * hot_cache_takes(), of the files of snapshots and images themselves.
 *
 * REFUSALS. Passthrough wants a kernel that offers it (6.9), CAP_SYS_ADMIN, and a file system below
 * that is not stacked itself. Where it is refused, files are served cold, smfs_hot_refused_total
 * counts and the log says why, once.
 *
 * THREADS. One makes files, one at a time; one more, with `always`, ends waits. hot_open() and
 * hot_release() run in the serving threads and do no more than a few system calls.
 */
#ifndef SMFS_MOUNT_HOT_H
#define SMFS_MOUNT_HOT_H

#include "smfs/mount/ops.h"

#define HOT_OPENS	 3
#define HOT_READS	 2
#define HOT_WAIT_SECONDS 5
/* After a failure (no room, mostly), how long until the same file is tried again. */
#define HOT_RETRY_SECONDS 60

struct hot;

/* NULL in *out with success where the mount is to be cold for good: the log says why. */
int hot_new(struct smfs_mount *m, unsigned mount_flags, struct hot **out, struct err *err);
/* Make nothing more, and answer whoever waits. The session must still be there. NULL is fine. */
void hot_stop(struct hot *hot);
void hot_free(struct hot *hot);

/* In the init operation: ask the kernel for passthrough. */
void hot_greet(struct smfs_mount *m);

/*
 * A handle of a regular file was opened. 0: cold. Positive: hot, the id of the backing file for the
 * reply. HOT_LATER: ops_answer_open() will be called for `req`.
 */
#define HOT_LATER (-1)
int hot_open(struct smfs_mount *m, struct handle *h, fuse_req_t req);
void hot_release(struct smfs_mount *m, struct handle *h);
/* An open file that an earlier server left, in that mode. -ENOMEM. */
int hot_restore(struct smfs_mount *m, struct handle *h, enum handle_mode mode);
/* `n` bytes of it were read cold. */
void hot_note_read(struct smfs_mount *m, struct inode *i, uint64_t n);
/* Of an inode that goes. */
void hot_forget(struct inode *i);

/* Files open hot at the moment. */
size_t hot_count(struct hot *hot);
struct hot_cache *hot_cache_of(struct hot *hot);

#endif
