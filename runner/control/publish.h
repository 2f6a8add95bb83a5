/*
 * publish.h - ports of the host that lead into a VM for as long as it lives: --publish.
 *
 * The listeners are open before there is a machine, so that a port that is taken is known before
 * anything else is done; they are served by a process of their own (forward.h) through the VM's
 * vsock.sock, whose path outlives every guest behind it. So a machine that is reset keeps its
 * ports; its clients' connections end with the guest that had them.
 */
#ifndef RUNNER_CONTROL_PUBLISH_H
#define RUNNER_CONTROL_PUBLISH_H

#include <jansson.h>

#include "runner/control/forward.h"
#include "runner/control/rundir.h"

/*
 * Of the VM that this process has or will have; before privs_drop(), for a VM's process may not
 * make listeners. They end with the calling thread. d->info.forwards tells of them, "" if n is 0.
 */
int publish_ports(struct rundir *d, const struct forward *list, unsigned n, struct err *err);

/*
 * Of a VM that is another process, which `d` was found by: `f` (stays the caller's) is served until
 * that process ends.
 */
int publish_for(const struct rundir *d, struct forwarder *f, struct err *err);

/* EINVAL when `machines` of them cannot have these ports each: one that is not 0. */
int publish_check(const struct forward *list, unsigned n, uint64_t machines, struct err *err);

/* The host's port of the one at `index` in `forwards` (as in vm_info), 0 if there is none. */
unsigned publish_port(const char *forwards, unsigned index);
/*
 * Tell them in `j`: "forwards", a list of texts, and "host_port", the host's port of the first.
 * Nothing when there are none ("" or NULL).
 */
void publish_add(json_t *j, const char *forwards);

#endif
