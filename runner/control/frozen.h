/*
 * frozen.h - do something to a VM while its workload stands still and its guest knows.
 */
#ifndef RUNNER_CONTROL_FROZEN_H
#define RUNNER_CONTROL_FROZEN_H

#include "smfs/base/err.h"

struct vmm;

/*
 * The guest's agent freezes the workload and runs the pre-snapshot hooks; fn(arg) captures or
 * copies the machine; the workload goes on. A copy finds its agent frozen, and thaws only with its
 * new identity. A guest that does not thaw is an error even when fn succeeded. Needs an agent.
 */
int frozen_do(struct vmm *v, int (*fn)(void *arg, struct err *err), void *arg, struct err *err);

#endif
