/* requests.h - what a VM's process answers on its control socket. */
#ifndef RUNNER_CONTROL_REQUESTS_H
#define RUNNER_CONTROL_REQUESTS_H

#include "runner/control/control.h"

/* info, snapshot, stop, console; the handlers' argument is the struct vmm. */
extern const struct control_op vmm_requests[];

#endif
