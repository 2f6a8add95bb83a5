/* A request to a running VM's process, by the VM's name. */
#include "runner/cmd/cmd.h"
#include "runner/control/control.h"
#include "runner/control/rundir.h"

int ask_vm(const char *vm, json_t *request, int timeout_ms, json_t **reply, struct err *err)
{
	char path[RUNDIR_PATH_MAX];
	struct rundir *d;
	int r = rundir_find(vm, &d, err);

	if (r < 0) {
		json_decref(request);
		return r;
	}
	r = control_call(rundir_file(d, "control.sock", path), request, timeout_ms, reply, NULL,
			 err);
	rundir_release(d);
	if (r == 0)
		json_object_del(*reply, "ok");
	return r;
}
