/*
 * jobs.h - a worker's machine: the one thread that makes it, resets it, takes its snapshots.
 *
 * It serves the machine's control socket too (exec, info, snapshot of a worker's VM work as of
 * any), and between requests of that finds its next job on the desk. What a job comes to is told by
 * events.
 */
#ifndef RUNNER_WORKER_JOBS_H
#define RUNNER_WORKER_JOBS_H

#include "runner/control/vmm.h"
#include "runner/worker/desk.h"

struct jobs {
	struct desk *desk;
	struct rundir *dir;
	const char *mount;
	enum prefault_policy prefault;
	/* What JOB_START is: a snapshot, or an image; both NULL: there is none. */
	const char *restore;
	const struct vmm_boot *boot;
	char *const *ready; /* of the image: conditions, NULL-terminated, at least one */
	int ready_ms;

	/* Its own. */
	struct vmm *v;
	int epoll_fd; /* a job, or the machine's end */
	bool watched; /* the machine's end is in it */
	bool primed;  /* vm_prime_remap() is done */
	bool held;    /* a snapshot waits for the one being written */
	struct job held_job;
	bool done; /* JOB_LEAVE was carried out */
};

int jobs_init(struct jobs *j, struct err *err);
/* Until JOB_LEAVE is done; the machine is gone then. */
void jobs_run(struct jobs *j);
void jobs_fini(struct jobs *j);

#endif
