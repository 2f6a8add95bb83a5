/*
 * cgroup.h - the workload's cgroup: everything the guest runs for its user is in it, so one
 * write stops it all.
 *
 * A task in a frozen cgroup2 stands at the border of user mode and holds no kernel lock; SIGKILL
 * still works on it.
 */
#ifndef RUNNER_AGENT_CGROUP_H
#define RUNNER_AGENT_CGROUP_H

#include <stdbool.h>
#include <stdint.h>

#include "smfs/base/err.h"

/* Make the folder `path` below a mounted cgroup2, if it is not there. */
int cgroup_make(const char *path, struct err *err);
/*
 * Freeze or thaw and wait until the kernel says that it is so. ETIMEDOUT after `timeout_ms`; a
 * freeze that did not come about is taken back.
 */
int cgroup_freeze(const char *path, bool freeze, int timeout_ms, struct err *err);
/* SIGKILL to everything in it, whatever session or group it has made for itself (Linux 5.14). */
int cgroup_kill(const char *path, struct err *err);
/* Have the memory of what is in the folders below it accounted for. It holds no process itself. */
int cgroup_account(const char *path, struct err *err);
/* The most bytes it has used at a time (Linux 5.19). */
int cgroup_peak(const char *path, uint64_t *peak, struct err *err);
/* What is still in `from` goes on as part of `to`. */
void cgroup_move(const char *from, const char *to);

#endif
