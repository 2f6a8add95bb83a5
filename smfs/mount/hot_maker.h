/*
 * hot_maker.h - inside hot.c and hot_maker.c: the state of hot serving, and the thread that
 * materialises.
 *
 * hot->lock guards all of it but what is said to be atomic. The maker's thread takes it for moments
 * only, never while it makes a file.
 */
#ifndef SMFS_MOUNT_HOT_MAKER_H
#define SMFS_MOUNT_HOT_MAKER_H

#include "smfs/mount/hot.h"
#include "smfs/mount/hot_cache.h"

/* Of an inode that may be hot; lives as long as it. */
struct hot_file {
	unsigned hot, cold; /* handles; never both */
	int backing;	    /* its id while `hot`, else 0 */
	uint64_t opens;
	_Atomic uint64_t read; /* cold, bytes */
	bool asked;	       /* in the queue, or failed a short while ago */
	int64_t retry;	       /* when to forget the failure, seconds; 0: none */
};

/* More would be served cold meanwhile. */
#define HOT_JOBS    32
#define HOT_WAITERS 256

struct hot_waiter {
	struct handle *handle;
	fuse_req_t req;
	struct hot_waiter *next;
	int64_t until; /* seconds, CLOCK_MONOTONIC */
};

struct hot_job {
	struct inode *inode; /* referenced */
	struct hot_waiter *waiters;
};

struct hot {
	struct smfs_mount *mount;
	struct hot_cache *cache;
	bool can_make, always;
	pthread_mutex_t lock;
	bool refused; /* by the kernel, for good */
	size_t nhot;  /* inodes */

	pthread_cond_t changed;
	pthread_t maker, clock;
	bool maker_runs, clock_runs;
	_Atomic bool stop;
	struct hot_job jobs[HOT_JOBS]; /* [0] is being made while `making` */
	size_t njobs, nwaiters;
};

/* With the lock held: decide for a handle; the backing id, 0 for cold. */
int hot_settle(struct hot *hot, struct handle *h);

int hot_maker_new(struct hot *hot, struct err *err);
void hot_maker_free(struct hot *hot);
/*
 * With the lock held: have it materialised; with `h`, answer its open afterwards. false: not now,
 * and the open is the caller's to answer.
 */
bool hot_maker_ask(struct hot *hot, struct inode *i, struct handle *h, fuse_req_t req);

#endif
