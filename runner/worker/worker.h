/*
 * worker.h - one process that a supervisor drives (doc/protocol.md).
 *
 *     link.h     thread "link": the socket; session.h, line.h: what is said on it
 *     desk.h     between the two
 *     jobs.h     main thread: the machine
 */
#ifndef RUNNER_WORKER_WORKER_H
#define RUNNER_WORKER_WORKER_H

#include "runner/worker/jobs.h"

struct worker_config {
	const char *socket; /* the supervisor's */
	const char *name;   /* of the machine; NULL: its id */
	const char *mount;
	enum prefault_policy prefault;
	const char *restore;	     /* a snapshot to begin with, or NULL */
	const struct vmm_boot *boot; /* or an image, or NULL */
	char *const *ready;	     /* of the image, as of struct jobs */
	int ready_ms;
	const struct forward *forward; /* `nforwards` ports of the host that lead into it */
	unsigned nforwards;
};

/*
 * Connect, serve until QUIT or the end of the connection. Returns an exit code; a failure fills
 * *err. The process has given up its privileges then.
 */
int worker_run(const struct worker_config *cfg, struct err *err);

#endif
