#include "runner/control/frozen.h"

#include "runner/control/identity.h"
#include "runner/control/vmm_internal.h"
#include "runner/guest/agent_client.h"

#include "smfs/base/log.h"

#define WAIT_MS 60000

int frozen_do(struct vmm *v, int (*fn)(void *arg, struct err *err), void *arg, struct err *err)
{
	struct err thaw_err = ERR_INIT;
	struct agent *a = NULL;
	int r = vmm_agent(v, WAIT_MS, &a, err);

	if (r == 0)
		r = agent_prepare(a, WAIT_MS, NULL, err);
	if (r < 0) {
		agent_close(a);
		return err_wrap(err, r, "prepare the guest (--no-agent skips this)");
	}
	r = fn(arg, err);
	/* A guest that has ended meanwhile has nothing to thaw, and would not answer. */
	bool thaw = atomic_load(&v->machine.vm->end) == VM_RUNNING;
	if (thaw && agent_thaw(a, WAIT_MS, NULL, &thaw_err) < 0) {
		/* One more try over a fresh connection: a guest left frozen is worse than a slow
		 * reply. */
		agent_close(a);
		a = NULL;
		int again = vmm_agent(v, WAIT_MS, &a, &thaw_err);

		if (again == 0)
			again = agent_thaw(a, WAIT_MS, NULL, &thaw_err);
		if (again < 0) {
			log_err("thaw the guest: %s", thaw_err.msg);
			if (r == 0)
				r = err_set(err, thaw_err.code,
					    "it is taken, but the guest does not thaw: %s",
					    thaw_err.msg);
		}
	}
	agent_close(a);
	return r;
}
