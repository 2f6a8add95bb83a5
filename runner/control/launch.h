/*
 * launch.h - boot and restore in the background: a new process, up and ready when the call returns.
 */
#ifndef RUNNER_CONTROL_LAUNCH_H
#define RUNNER_CONTROL_LAUNCH_H

#include "runner/control/vmm.h"

/*
 * Returns once the guest's agent answers (a bare guest: once it runs), with the VM's process in
 * the background and *out telling its id and paths (rundir_release() it). `attached`: it dies with
 * the caller. On failure nothing is left behind, and the error ends with the console's last line
 * where the guest itself failed.
 */
int launch_boot(const char *name, const struct vmm_boot *b, bool attached, struct rundir **out,
		struct err *err);

/*
 * Of a booted guest in this process: until its agent answers; it is given the time then. `stop_fd`
 * as for vmm_agent_unless(). *out (may be NULL) is the connection, to be closed.
 */
struct agent;
int launch_await_agent(struct vmm *v, int timeout_ms, int stop_fd, struct agent **out,
		       struct err *err);

struct launched {
	struct rundir *dir; /* rundir_release() it */
	json_t *timings;    /* decref it */
};

/*
 * The same of `n` restores at once, called `name` or, if more than one, name-1, name-2 ...; NULL:
 * their ids. Those that came up are in out[0..], as many as the value says; of the others *err has
 * the first error.
 */
unsigned launch_restores(const char *name, unsigned n, const struct vmm_restore *r,
			 struct launched *out, struct err *err);

/*
 * The same in this process, the console on its standard streams, until the VM ends. Returns an exit
 * code.
 */
int foreground_boot(const char *name, const struct vmm_boot *b, struct err *err);
int foreground_restore(const char *name, const struct vmm_restore *r, struct err *err);

#endif
