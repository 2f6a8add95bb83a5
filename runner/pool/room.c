#include "runner/pool/room.h"

#include "runner/control/cgroup.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/io.h"
#include "smfs/base/meminfo.h"
#include "smfs/base/num.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#define LOOK_US	  50000 /* a look at the groups is several files, and claims take microseconds */
#define STATM_MAX 256
#define PAGE	  4096u

void room_open(struct room *r)
{
	*r = (struct room){.group_bytes = UINT64_MAX};
	cgroup_own(&r->group, NULL);
}

void room_close(struct room *r)
{
	free(r->group);
	r->group = NULL;
}

uint64_t room_available(struct room *r)
{
	const uint64_t now = monotonic_us();

	if (r->group && now - r->looked_us >= LOOK_US) {
		r->group_bytes = cgroup_room(CGROUP_ROOT, r->group);
		r->looked_us = now;
	}
	return MIN(meminfo_available(), r->group_bytes);
}

uint64_t room_taken(pid_t pid)
{
	cleanup_free char *text = NULL;
	char path[32], *p;

	snprintf(path, sizeof(path), "/proc/%d/statm", (int)pid);
	if (read_file(AT_FDCWD, path, STATM_MAX, &text, NULL, NULL) < 0)
		return 0;
	/* "size resident shared ..." in pages */
	strtoull(text, &p, 10);
	const unsigned long long resident = strtoull(p, &p, 10), shared = strtoull(p, &p, 10);
	return shared > resident ? 0 : (resident - shared) * PAGE;
}
