/*
 * privs.h - what a VM's process gives up once it has opened all it needs.
 *
 * Everything it still does (KVM, its sockets, files owned by its own user) needs no capability:
 * all are dropped, for good, in every thread made after. A guest that breaks out of a device model
 * finds an unprivileged process. Called before any other thread exists, and refused after.
 */
#ifndef RUNNER_CONTROL_PRIVS_H
#define RUNNER_CONTROL_PRIVS_H

#include "smfs/base/err.h"

int privs_drop(struct err *err);

#endif
