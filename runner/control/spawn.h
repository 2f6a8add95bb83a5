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

#define SPAWN_REPORT_MAX (128u << 10) /* bytes: one restore, its results included */

struct spawn_child; /* what `body` gets to report through */

/* Runs in the child; its return value is the child's exit code. */
typedef int (*spawn_body)(struct spawn_child *c, struct rundir *d, void *arg, struct err *err);

/* Report success; `details` (stolen, may be NULL) reaches the parent. Once. */
void spawn_ready(struct spawn_child *c, json_t *details);

struct spawn {
	pid_t pid;
	int fd; /* the read end of its report */
};

/*
 * Fork. `attached`: the child dies with the parent (for `run`). `d` stays the caller's
 * (rundir_release()); its lock is the child's.
 */
int spawn_begin(struct rundir *d, bool attached, spawn_body body, void *arg, struct spawn *out,
		struct err *err);
/*
 * Wait for the report. On success *details is the child's object or NULL and the VM runs. On
 * failure the child has ended, its directory is gone, and *err is what it said.
 */
int spawn_finish(struct spawn *s, json_t **details, struct err *err);

/*
 * The child's part alone, for a process forked by other means: takes on the identity of `d`'s VM,
 * runs `body`, reports through `report_fd` (one JSON object, in one write) and ends the process. Of
 * other descriptors only the `nkeep` (at most SPAWN_KEEP_MAX) in `keep` stay open.
 */
#define SPAWN_KEEP_MAX 256
_Noreturn void spawn_become(struct rundir *d, int report_fd, const int *keep, size_t nkeep,
			    spawn_body body, void *arg);
/* Report a failure before there is a directory to become; the process then ends. */
_Noreturn void spawn_fail(int report_fd, const struct err *err);
/* What a report says: 0, its details in *details (may be NULL), or the error it tells. */
int spawn_report(const char *text, size_t len, json_t **details, struct err *err);

#endif
