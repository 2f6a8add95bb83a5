/* cgroup.c - what the control group this process is in allows the machines it starts. */
#include "runner/control/cgroup.h"
#include "runner/doctor/doctor.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/num.h"

#include <errno.h>
#include <inttypes.h>

#define MEMORY_WARN (1 * GIB)
#define PIDS_WARN   512

static void say_limit(struct doctor *d, const char *name, uint64_t limit, uint64_t warn,
		      const char *advice, const char *text)
{
	doctor_say(d, doctor_grade(limit, warn, 0), name, advice, "%s",
		   limit == UINT64_MAX ? "no limit" : text);
}

void doctor_cgroup(struct doctor *d)
{
	cleanup_free char *group = NULL;
	char size[SIZE_STR_MAX], count[64];
	struct err err = ERR_INIT;

	if (cgroup_own(&group, &err) < 0) {
		doctor_say(d, DOCTOR_SKIP, "version",
			   err.code == EXDEV
				   ? "ask from a process of this cgroup namespace: its limits "
				     "cannot be seen"
				   : "limits of machines cannot be looked at; boot with "
				     "systemd.unified_cgroup_hierarchy=1, or mount cgroup2 "
				     "on " CGROUP_ROOT,
			   "%s", err.msg);
		return;
	}
	doctor_say(d, DOCTOR_PASS, "version", NULL, "v2, group %s", group[0] ? group : "/");

	const uint64_t memory = cgroup_lowest(CGROUP_ROOT, group, "memory.max");
	say_limit(d, "memory", memory, MEMORY_WARN,
		  "raise memory.max (MemoryMax= of the unit): what machines write is charged here",
		  format_size(memory, size));
	const uint64_t pids = cgroup_lowest(CGROUP_ROOT, group, "pids.max");
	snprintf(count, sizeof(count), "%" PRIu64 " processes and threads", pids);
	say_limit(d, "pids", pids, PIDS_WARN,
		  "raise pids.max (TasksMax= of the unit): a machine takes three and one per "
		  "virtual CPU",
		  count);
}
