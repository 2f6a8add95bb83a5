/*
 * ready.h - when an image that was booted is ready to be baked into a snapshot.
 *
 * The conditions are those of agent_reach.h, and the guest's agent is who looks. A guest that has
 * none is a bare one, whose only output is its serial console: of it there are `agent`, which
 * always holds, and `log:`, which is about the lines there.
 */
#ifndef RUNNER_WORKER_READY_H
#define RUNNER_WORKER_READY_H

#include "smfs/base/err.h"

struct vmm;

/* Whether there is such a condition. EINVAL. */
int ready_check(const char *condition, struct err *err);

/*
 * Waits until the agent answers and all `conditions` (NULL-terminated, at least one) hold.
 * ETIMEDOUT; ECANCELED as soon as `give_up_fd` is readable; ECONNRESET as soon as the machine has
 * ended; ECHILD when its entrypoint has failed; ENOTSUP for what this guest has nobody to tell.
 */
int ready_wait(struct vmm *v, char *const *conditions, int timeout_ms, int give_up_fd,
	       struct err *err);

#endif
