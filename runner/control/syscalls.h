/*
 * syscalls.h - a VM's process may make only the system calls that a VM makes.
 *
 * A filter (seccomp) over this thread and all made after, for good, children by fork(2) included.
 * What it does not list fails with EPERM: no program can be started, no process looked into, no
 * mount or namespace made, no socket but a Unix one, no ioctl but KVM's and a terminal's modes.
 * Needs no_new_privs (privs.h). x86-64 only: calls of the 32-bit and x32 tables are refused.
 */
#ifndef RUNNER_CONTROL_SYSCALLS_H
#define RUNNER_CONTROL_SYSCALLS_H

#include "smfs/base/err.h"

/* Once in a process; its children have it. Errors: EINVAL where the kernel has no filters. */
int syscalls_confine(struct err *err);

#endif
