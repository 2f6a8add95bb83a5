/*
 * spawn.h - start a VM's process in the background and learn how its start went.
 *
 * The child runs `body`, which calls spawn_ready() once the VM is up (or returns an error
 * before); the parent waits for that one message. The child leads its own session with its
 * standard streams on vmm.log; the parent's end of the pipe closing early means it died.
 */
#ifndef RUNNER_CONTROL_SPAWN_H
#define RUNNER_CONTROL_SPAWN_H

#include <jansson.h>
#include <stdbool.h>

#include "runner/control/rundir.h"
#include "smfs/base/err.h"

struct spawn_child; /* what `body` gets to report through */

/* Runs in the child; its return value is the child's exit code. */
typedef int (*spawn_body)(struct spawn_child *c, struct rundir *d, void *arg, struct err *err);

/* Report success; `details` (stolen, may be NULL) reaches the parent. Once. */
void spawn_ready(struct spawn_child *c, json_t *details);

/*
 * Fork. `attached`: the child dies with the parent (for `run`). On success *details is the child's
 * object or NULL and the VM runs. On failure the child has ended, its directory is gone, and
 * *err is what it said. `d` stays the caller's (rundir_release()).
 */
int spawn_vm(struct rundir *d, bool attached, spawn_body body, void *arg, json_t **details,
	     struct err *err);

#endif
