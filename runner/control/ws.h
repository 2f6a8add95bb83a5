/* ws.h - the control request that stores a VM's working set (snapshot/ws_save.h). */
#ifndef RUNNER_CONTROL_WS_H
#define RUNNER_CONTROL_WS_H

#include "runner/control/control.h"

struct prefault;

/* The handler of "ws": {"name"}; `arg` is the struct vmm. */
int ws_request(void *arg, struct control_request *rq, const json_t *body, json_t *reply,
	       struct err *err);
/* What became of the working set of the snapshot a VM was restored from, for "info". */
json_t *prefault_json(const struct prefault *p);

#endif
