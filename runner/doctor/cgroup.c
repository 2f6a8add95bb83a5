/* cgroup.c - what the control group this process is in allows the machines it starts. */
#include "runner/doctor/doctor.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"

#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>

#define ROOT	    "/sys/fs/cgroup"
#define MEMORY_WARN (1 * GIB)
#define PIDS_WARN   512
#define GROUPS_MAX  (64u << 10)

/* The lowest of `file` in this group and all above it; UINT64_MAX: none. */
static uint64_t lowest(const char *group, const char *file)
{
	char path[PATH_MAX], at[PATH_MAX];
	uint64_t low = UINT64_MAX;

	snprintf(at, sizeof(at), "%s", group);
	for (;;) {
		if ((size_t)snprintf(path, sizeof(path), ROOT "%s/%s", at, file) < sizeof(path)) {
			cleanup_free char *line = doctor_line(path);
			uint64_t v;

			if (line && parse_u64(line, 0, UINT64_MAX, &v, NULL) == 0)
				low = MIN(low, v);
		}
		char *slash = strrchr(at, '/');
		if (!slash)
			return low;
		*slash = '\0';
	}
}

/* This process's group, malloc'd, "" for the root; NULL without a v2 hierarchy. */
static char *own_group(void)
{
	cleanup_free char *text = NULL;

	if (read_file(AT_FDCWD, "/proc/self/cgroup", GROUPS_MAX, &text, NULL, NULL) < 0)
		return NULL;
	for (char *p = text; *p; p += strcspn(p, "\n"), p += *p == '\n') {
		if (strncmp(p, "0::/", 4) != 0)
			continue;
		p[strcspn(p, "\n")] = '\0';
		return strdup(p[4] ? p + 3 : "");
	}
	return NULL;
}

void doctor_cgroup(struct doctor *d)
{
	cleanup_free char *group = own_group();
	char size[SIZE_STR_MAX];
	struct statfs st;

	if (!group || statfs(ROOT, &st) < 0 || st.f_type != CGROUP2_SUPER_MAGIC) {
		doctor_say(d, DOCTOR_SKIP, "version",
			   "limits of machines cannot be looked at; boot with "
			   "systemd.unified_cgroup_hierarchy=1, or mount cgroup2 on " ROOT,
			   "no cgroup v2 at " ROOT);
		return;
	}
	/* Then what is mounted here is of other groups than this process's. */
	if (!strncmp(group, "/..", 3)) {
		doctor_say(d, DOCTOR_SKIP, "version",
			   "ask from a process of this cgroup namespace: its limits cannot be seen",
			   "this process's group is outside of what is mounted on " ROOT);
		return;
	}
	doctor_say(d, DOCTOR_PASS, "version", NULL, "v2, group %s", group[0] ? group : "/");

	uint64_t memory = lowest(group, "memory.max");
	if (memory == UINT64_MAX)
		doctor_say(d, DOCTOR_PASS, "memory", NULL, "no limit");
	else
		doctor_say(d, memory < MEMORY_WARN ? DOCTOR_WARN : DOCTOR_PASS, "memory",
			   memory < MEMORY_WARN ? "raise memory.max (MemoryMax= of the unit): what "
						  "machines write is charged here"
						: NULL,
			   "%s", format_size(memory, size));
	uint64_t pids = lowest(group, "pids.max");
	if (pids == UINT64_MAX)
		doctor_say(d, DOCTOR_PASS, "pids", NULL, "no limit");
	else
		doctor_say(d, pids < PIDS_WARN ? DOCTOR_WARN : DOCTOR_PASS, "pids",
			   pids < PIDS_WARN ? "raise pids.max (TasksMax= of the unit): a machine "
					      "takes three and one per virtual CPU"
					    : NULL,
			   "%" PRIu64 " processes and threads", pids);
}
