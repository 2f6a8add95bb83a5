#include "runner/control/cgroup.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>

#define GROUPS_MAX (64u << 10)
#define STAT_MAX   (64u << 10)

/* Above the root: the kernel puts "/.." in front, once for each step up. "/..x" is a name. */
static bool is_outside(const char *group)
{
	return !strncmp(group, "/..", 3) && (group[3] == '/' || !group[3]);
}

int cgroup_parse(const char *text, char **out, struct err *err)
{
	const char *p = text;

	while (*p && strncmp(p, "0::/", 4) != 0) {
		p += strcspn(p, "\n");
		p += *p == '\n';
	}
	if (!*p)
		return err_set(err, ENOTSUP, "no cgroup v2 at " CGROUP_ROOT);
	p += 3;
	cleanup_free char *group = strndup(p, strcspn(p, "\n"));
	if (!group)
		return err_set(err, ENOMEM, "control group: out of memory");
	if (is_outside(group))
		return err_set(
			err, EXDEV,
			"this process's group is outside of what is mounted on " CGROUP_ROOT);
	if (!group[1])
		group[0] = '\0';
	*out = steal_ptr(&group);
	return 0;
}

int cgroup_own(char **out, struct err *err)
{
	cleanup_free char *text = NULL;
	struct statfs st;

	if (statfs(CGROUP_ROOT, &st) < 0 || st.f_type != CGROUP2_SUPER_MAGIC ||
	    read_file(AT_FDCWD, "/proc/self/cgroup", GROUPS_MAX, &text, NULL, NULL) < 0)
		return err_set(err, ENOTSUP, "no cgroup v2 at " CGROUP_ROOT);
	return cgroup_parse(text, out, err);
}

/* The text of a file of the group `at`, malloc'd; NULL when it is not there. */
static char *file_of(const char *root, const char *at, const char *file)
{
	char path[PATH_MAX];
	char *text;

	if ((size_t)snprintf(path, sizeof(path), "%s%s/%s", root, at, file) >= sizeof(path) ||
	    read_file(AT_FDCWD, path, STAT_MAX, &text, NULL, NULL) < 0)
		return NULL;
	return text;
}

/* The number that it is; `otherwise` when it is none: "max". */
static uint64_t number_of(const char *root, const char *at, const char *file, uint64_t otherwise)
{
	cleanup_free char *text = file_of(root, at, file);
	uint64_t v;

	if (!text)
		return otherwise;
	text[strcspn(text, "\n")] = '\0';
	return parse_u64(text, 0, UINT64_MAX, &v, NULL) == 0 ? v : otherwise;
}

/* Clean pages of files, which are given back rather than swapped. */
static uint64_t page_cache(const char *root, const char *at)
{
	cleanup_free char *text = file_of(root, at, "memory.stat");
	uint64_t sum = 0;

	for (const char *p = text; p && *p; p += strcspn(p, "\n"), p += *p == '\n')
		if (!strncmp(p, "active_file ", 12) || !strncmp(p, "inactive_file ", 14))
			sum += strtoull(strchr(p, ' '), NULL, 10);
	return sum;
}

static uint64_t room_of(const char *root, const char *at)
{
	/* Above memory.high it is not killed, but slowed down and swapped. */
	const uint64_t max = MIN(number_of(root, at, "memory.max", UINT64_MAX),
				 number_of(root, at, "memory.high", UINT64_MAX));

	if (max == UINT64_MAX)
		return max;
	const uint64_t current = number_of(root, at, "memory.current", 0);
	const uint64_t kept = current - MIN(page_cache(root, at), current);
	return max - MIN(kept, max);
}

/* To the group above; false: this was the root. */
static bool up(char *at)
{
	char *slash = strrchr(at, '/');

	if (slash)
		*slash = '\0';
	return slash;
}

uint64_t cgroup_lowest(const char *root, const char *group, const char *file)
{
	uint64_t low = UINT64_MAX;
	char at[PATH_MAX];

	snprintf(at, sizeof(at), "%s", group);
	do
		low = MIN(low, number_of(root, at, file, UINT64_MAX));
	while (up(at));
	return low;
}

uint64_t cgroup_room(const char *root, const char *group)
{
	uint64_t low = UINT64_MAX;
	char at[PATH_MAX];

	snprintf(at, sizeof(at), "%s", group);
	do
		low = MIN(low, room_of(root, at));
	while (up(at));
	return low;
}
