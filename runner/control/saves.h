/*
 * saves.h - snapshots of this process's VM: the control request, and the one that is being written.
 *
 * A snapshot is written by a child, beside the running guest (snapshot/live.h); the request is
 * answered when the child is done, or, with "no_wait", when the guest runs again. One with "still"
 * is written within the request, the guest standing still: that takes no memory for copies. A diff
 * without a named base is one of what the VM was restored from or, after a cold boot, of its latest
 * snapshot. One at a time: another request meanwhile is refused (EBUSY), since each copy of the
 * guest's memory costs memory of the host's.
 *
 * THE COPY LIMIT. While the child writes, each page the guest changes is copied. The process's
 * count of minor faults since the fork bounds those copies from above, at no cost. Past the limit
 * the guest is paused until the child is done: it then waits as for one with "still", and the
 * snapshot is as right. Meanwhile a fork is refused (EBUSY), since it would wait for the guest on
 * the thread that lets it go on, and a request to stop lifts the limit.
 */
#ifndef RUNNER_CONTROL_SAVES_H
#define RUNNER_CONTROL_SAVES_H

#include "runner/control/control.h"
#include "runner/snapshot/live.h"

struct vmm;

/* The one being written is ready (r 0, `j` tells of it) or has failed. On the serving thread. */
typedef void (*saves_done)(void *arg, int r, const json_t *j, const struct err *err);

struct saves {
	bool active, throttled; /* a child is writing; the guest waits for it */
	struct live live;
	struct save_stats stats;
	uint64_t began_us, faults, limit_bytes;
	uint64_t waiting; /* the client to answer, 0: none */
	char ready[132];  /* the latest that was completed, "" if none */
	json_t *last;	  /* the latest snapshot as "info" tells it; NULL: there was none */
	saves_done done;  /* whom else to tell; NULL: nobody */
	void *done_arg;
	/* Told that one is over, whoever has asked for it; NULL: nobody. */
	void (*over)(void *arg);
	void *over_arg;
};

/* The handler of "snapshot"; `arg` is the struct vmm. */
int saves_request(void *arg, struct control_request *rq, const json_t *body, json_t *reply,
		  struct err *err);
/*
 * The same for the process itself: `body` is as the request's. Returns when the guest runs again,
 * with *reply filled; then, if v->save.active, `done` is called later.
 */
int saves_take(struct vmm *v, const json_t *body, saves_done done, void *arg, json_t *reply,
	       struct err *err);
/* EBUSY: the guest waits until one is written, and nobody on the serving thread may wait for it. */
int saves_check(const struct vmm *v, struct err *err);
/* The VM is to end: its guest waits for none any more. */
void saves_resume(struct vmm *v);
/* The machine becomes another while one may be being written: that costs no more copies. */
void saves_let_go(struct saves *s);
/* The VM ends: a child goes on by itself. */
void saves_free(struct saves *s);

#endif
