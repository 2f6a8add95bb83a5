/*
 * launch.h - boot and restore in the background: a new process, up and ready when the call returns.
 */
#ifndef RUNNER_CONTROL_LAUNCH_H
#define RUNNER_CONTROL_LAUNCH_H

#include "runner/control/vmm.h"

/*
 * Both return once the guest's agent answers (a bare guest: once it runs), with the VM's process in
 * the background and *out telling its id and paths (rundir_release() it). `attached`: it dies with
 * the caller. On failure nothing is left behind, and the error ends with the console's last line
 * where the guest itself failed.
 */
int launch_boot(const char *name, const struct vmm_boot *b, bool attached, struct rundir **out,
		struct err *err);
int launch_restore(const char *name, const struct vmm_restore *r, struct rundir **out,
		   json_t **timings, struct err *err);

/*
 * The same in this process, the console on its standard streams, until the VM ends. Returns an exit
 * code.
 */
int foreground_boot(const char *name, const struct vmm_boot *b, struct err *err);
int foreground_restore(const char *name, const struct vmm_restore *r, struct err *err);

#endif
