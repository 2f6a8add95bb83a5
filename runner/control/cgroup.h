/*
 * cgroup.h - the control groups (v2) that this process is in, and what they allow it.
 *
 * A limit of any group above counts as well as its own. Files are read as they are asked for; a
 * limit that cannot be read is none.
 */
#ifndef RUNNER_CONTROL_CGROUP_H
#define RUNNER_CONTROL_CGROUP_H

#include <stdint.h>

#include "smfs/base/err.h"

#define CGROUP_ROOT "/sys/fs/cgroup"

/*
 * Its group below CGROUP_ROOT, malloc'd: "/system.slice/x", "" for the root. ENOTSUP: there is no
 * v2 hierarchy; EXDEV: what is mounted there is of other groups than this process's.
 */
int cgroup_own(char **out, struct err *err);
/* The same of what /proc/<pid>/cgroup says. */
int cgroup_parse(const char *text, char **out, struct err *err);
/* The lowest that `file` ("memory.max") says of `group` below `root`; UINT64_MAX: no limit. */
uint64_t cgroup_lowest(const char *root, const char *group, const char *file);
/*
 * Bytes of memory that may still be taken in `group`, counting what the kernel would give back:
 * page cache. UINT64_MAX: no limit.
 */
uint64_t cgroup_room(const char *root, const char *group);

#endif
