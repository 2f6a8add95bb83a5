/*
 * desk.h - what lies between a worker's two threads: one job in, any number of events out.
 *
 * The link (link.h) has the socket and the session and never waits for the machine; the machine's
 * thread (jobs.h) carries one job out at a time. Either finds out by a descriptor.
 */
#ifndef RUNNER_WORKER_DESK_H
#define RUNNER_WORKER_DESK_H

#include <pthread.h>
#include <stdatomic.h>

#include "runner/worker/session.h"

struct note;

struct desk {
	pthread_mutex_t lock;
	struct job job;
	bool has_job;
	struct note *first, **last;
	int job_fd, event_fd;	 /* eventfds */
	atomic_bool leaving;	 /* what takes long is to be given up */
	int leave_fd;		 /* an eventfd, readable from then on */
	_Atomic uint64_t faults; /* minor faults when the snapshot being written began */
};

int desk_init(struct desk *d, struct err *err);
void desk_fini(struct desk *d);

/* The link's side. The session has one job out at most; in place of a JOB_WARM_UP it may give
 * another. */
void desk_give(struct desk *d, const struct job *j);
bool desk_next_event(struct desk *d, struct event *out); /* and empties event_fd with the last */
void desk_leave(struct desk *d);

/* The machine's side. */
bool desk_take(struct desk *d, struct job *out); /* empties job_fd */
void desk_wake(struct desk *d);			 /* job_fd is readable, whatever there is */
void desk_tell(struct desk *d, const struct event *e);

#endif
