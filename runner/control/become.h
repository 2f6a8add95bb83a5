/*
 * become.h - the machine of this process becomes a snapshot's, in place where it can.
 *
 * IN PLACE (snapshot_reset()): same process, same KVM VM, same sockets' paths; no work that grows
 * with RAM. REBUILT: the machine has another shape or has ended, or KVM would not take the state; a
 * new VM is made, still in this process and in its run directory. Either way the guest gets a new
 * generation, as of any restore.
 *
 * Called by the thread that serves the VM's control socket. A snapshot that is being written goes
 * on; but a machine whose snapshot is being written cannot be rebuilt (EBUSY, it is untouched).
 */
#ifndef RUNNER_CONTROL_BECOME_H
#define RUNNER_CONTROL_BECOME_H

#include "runner/control/vmm.h"

enum become_how { BECOME_NEW, BECOME_WARM, BECOME_REBUILT };

struct became {
	enum become_how how;
	struct err why; /* of BECOME_REBUILT */
};

/*
 * *v is the machine, or NULL; afterwards the one there is, or NULL. A snapshot that is missing or
 * unfit is refused with *v as it was. *timings is as of vmm_restore(); decref it.
 */
int vmm_become(struct vmm **v, struct rundir *dir, const struct vmm_restore *r, struct became *how,
	       json_t **timings, struct err *err);
const char *become_name(enum become_how how);

#endif
