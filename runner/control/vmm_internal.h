/* vmm_internal.h - struct vmm, shared by the files that make up the VM's process. */
#ifndef RUNNER_CONTROL_VMM_INTERNAL_H
#define RUNNER_CONTROL_VMM_INTERNAL_H

#include <limits.h>

#include "runner/control/control.h"
#include "runner/control/saves.h"
#include "runner/control/vmm.h"
#include "runner/devices/vmgenid.h"
#include "runner/snapshot/restore.h"
#include "runner/vm/machine.h"

struct vmm {
	struct rundir *dir; /* borrowed */
	struct machine machine;
	struct console *console;
	struct control *control;
	const char *mount; /* borrowed */
	bool foreground, has_agent;

	/* What the guest is now: its own once it runs. */
	uint64_t generation;
	uint8_t uuid[16];

	/* For the next snapshot. "" where there is none. */
	char kernel[PATH_MAX];
	char image[512];
	char rootfs[PATH_MAX];

	struct prefault *prefault; /* of a restore; NULL after a cold boot */
	json_t *restored;	   /* timings of the restore, NULL after a cold boot */
	struct saves save;
};

/* monotonic_us() at the steps of a restore or fork. */
struct vmm_moments {
	uint64_t began, opened, running, running_seen, published, answered;
	uint64_t stopped_us; /* of a reset: what stopping the old guest took */
};

/*
 * From an open snapshot, which it closes, to a running VM with its own identity. `mount` outlives
 * the VM. Of a fork `prefault` is none. `at` has `began` and `opened`; *timings as for
 * vmm_restore().
 */
int vmm_from_snapshot(struct rundir *dir, struct snapshot *s, const char *mount,
		      enum clock_policy clock, enum prefault_policy prefault, bool foreground,
		      struct vmm_moments *at, struct vmm **out, json_t **timings, struct err *err);

/*
 * The end of a restore, the guest running: what follows is for its observers and its identity. `t`
 * is how its state came in.
 */
int vmm_settle(struct vmm *v, struct snapshot *s, const struct restore_timing *t,
	       enum clock_policy clock, struct vmm_moments *at, json_t **timings, struct err *err);
struct restore_opts vmm_restore_opts(struct vmm *v, enum clock_policy clock,
				     char vsock[RUNDIR_PATH_MAX]);

#endif
