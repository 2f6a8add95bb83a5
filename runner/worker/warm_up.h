/*
 * warm_up.h - run a program in a machine that nobody uses yet, so that the next one starts faster.
 *
 * A machine that was restored, or reset, has its RAM but no page of it mapped for the guest, and
 * what a program's start writes is still the snapshot's: the first program meets a fault for each
 * page.
 */
#ifndef RUNNER_WORKER_WARM_UP_H
#define RUNNER_WORKER_WARM_UP_H

#include "smfs/base/err.h"

struct vmm;

/*
 * `program`, looked up in the image's PATH, without arguments, its output dropped; until it has
 * ended, and then, when the guest has come to rest, once more. It is killed, with ECANCELED, as
 * soon as `give_up_fd` is readable or somebody asks the machine's control socket, by whatever
 * connection, and after `timeout_ms` (ETIMEDOUT). ENOTSUP: this guest has no agent.
 * ECHILD: it has ended otherwise than with status 0. ECONNRESET: the machine has ended.
 */
int warm_up(struct vmm *v, const char *program, int timeout_ms, int give_up_fd, struct err *err);

#endif
