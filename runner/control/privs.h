/*
 * privs.h - what a VM's process gives up once it has opened all it needs.
 *
 * Everything it still does (KVM, its sockets, files owned by its own user) needs no capability:
 * all are dropped, for good, in every thread made after, and system calls a VM does not make are
 * refused (syscalls.h). A guest that breaks out of a device model finds an unprivileged process
 * that cannot start another. Called before any other thread exists, and refused after; again in a
 * fork's child, where nothing is left to do.
 */
#ifndef RUNNER_CONTROL_PRIVS_H
#define RUNNER_CONTROL_PRIVS_H

#include "smfs/base/err.h"

int privs_drop(struct err *err);

#endif
