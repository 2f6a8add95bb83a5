/*
 * fork.h - children of a running VM: fork(2) of its process, each with a KVM VM of its own over the
 * same memory, copy on write.
 *
 * The workload is frozen and the VM paused once, however many children there are: the state is
 * captured, the process forked, and the parent runs on. That first child forks the others and
 * then becomes the last of them. Each drops what it inherited, makes a run directory, builds a
 * machine over the memory, loads the captured state with a new generation, uuid, name and sockets,
 * and gives its guest its identity before its workload thaws. No disk is touched. Parent and
 * children live and die independently.
 */
#ifndef RUNNER_CONTROL_FORK_H
#define RUNNER_CONTROL_FORK_H

#include "runner/control/control.h"

#define FORK_MAX 1000 /* children of one request */

/*
 * The handler of "fork": {"n", "name" (one child's, or the stem of several), "no_agent", "clock",
 * "forwards" (for each child what the caller will let lead into it, as in vm_info)}. Each of the
 * reply's "children" has its "index", from 0.
 */
int fork_request(void *arg, struct control_request *rq, const json_t *body, json_t *reply,
		 struct err *err);

#endif
