/*
 * live.h - a snapshot written beside the running guest, by a forked copy of its process.
 *
 * Name and store are checked before the guest is paused. Then: pause, capture the state, fork(2),
 * resume. The child's memory is the guest's at that instant, copy on write; it drops every
 * descriptor it does not need, so that it keeps neither the VM nor the run directory alive,
 * writes the snapshot, publishes it, tells the result and ends. It lives on by itself: a snapshot
 * whose machine has ended meanwhile is still completed. Nothing of it is visible before it is
 * ready.
 *
 * Only the forking thread exists in the child. vCPUs are parked and the device lock is held while
 * it forks, so nobody else is inside a device; and the child opens the store anew, with threads of
 * its own.
 *
 * What the guest writes meanwhile is copied, page by page, by the kernel: at worst all of RAM.
 * Whoever starts a live snapshot watches that (control/saves.c).
 */
#ifndef RUNNER_SNAPSHOT_LIVE_H
#define RUNNER_SNAPSHOT_LIVE_H

#include <sys/types.h>

#include "runner/snapshot/save.h"

struct live {
	pid_t pid;
	int fd;	    /* readable once the child has a result, or is dead */
	int record; /* of the store, that it is being written; the child holds it, too */
	/* By which it is known to be in the store, should the child not live to say so. */
	char *store, *name;
	int64_t wall_clock_ns;
	uint64_t vcpu_xxh3;
};

#define LIVE_NONE ((struct live){.pid = -1, .fd = -1, .record = -1})

/* The guest runs again. stats: ram_bytes, pause_us, capture_us, fork_us. */
int live_start(const struct machine *m, const struct save_info *info, struct live *out,
	       struct save_stats *stats, struct err *err);
/*
 * Waits for the child. stats: also data_bytes, new_bytes, stored_bytes, save_us. Of a child that
 * was killed when the snapshot was ready already these are not known: stats->untold.
 */
int live_finish(struct live *l, struct save_stats *stats, struct err *err);
/* Lets the child go on alone. */
void live_leave(struct live *l);

#endif
