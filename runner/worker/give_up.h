/*
 * give_up.h - what waits for a guest is given up when the machine ends or something else comes.
 */
#ifndef RUNNER_WORKER_GIVE_UP_H
#define RUNNER_WORKER_GIVE_UP_H

#include <stddef.h>

#include "smfs/base/err.h"

struct vmm;

/*
 * A descriptor, the caller's, that is readable as soon as the machine has ended or one of `n` is
 * readable; those below 0 never are.
 */
int give_up_new(const struct vmm *v, const int *fds, size_t n, struct err *err);
/* Which of it was it: why the machine has ended, or ECANCELED with `what`. */
int give_up_why(struct vmm *v, const char *what, struct err *err);

#endif
