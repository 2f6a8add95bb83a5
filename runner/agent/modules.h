/*
 * modules.h - load the kernel modules the runner put into the initramfs.
 */
#ifndef RUNNER_AGENT_MODULES_H
#define RUNNER_AGENT_MODULES_H

#include "smfs/base/err.h"

#define MODULES_LIST "/modules.list"

/*
 * One path a line, dependencies first. A module that is there already is fine; one that does not
 * load is logged by name and the rest still tried, since what it was for will be missed and named
 * where it is needed. Returns the number that failed, or a negative errno when `list` cannot be
 * read.
 */
int modules_load(const char *list, struct err *err);

#endif
