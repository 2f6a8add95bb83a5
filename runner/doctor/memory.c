/* memory.c - how many machines fit, and what the kernel makes of memory promised but not there. */
#include "runner/doctor/doctor.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/meminfo.h"
#include "smfs/base/num.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* What a small restored guest comes to write; two booted ones of 512 MiB, the default. */
#define AVAILABLE_FAIL (128 * MIB)
#define AVAILABLE_WARN (1 * GIB)
#define MEMINFO_MAX    (64u << 10)

/* A line of /proc/meminfo in bytes. */
static bool meminfo(const char *key, uint64_t *out)
{
	cleanup_free char *text = NULL;

	if (read_file(AT_FDCWD, "/proc/meminfo", MEMINFO_MAX, &text, NULL, NULL) < 0)
		return false;
	for (const char *p = text; p; p = strchr(p, '\n')) {
		p += *p == '\n';
		size_t n = strlen(key);

		if (!strncmp(p, key, n) && p[n] == ':') {
			*out = strtoull(p + n + 1, NULL, 10) * KIB;
			return true;
		}
	}
	return false;
}

static void check_available(struct doctor *d)
{
	uint64_t total, available = meminfo_available();
	char a[SIZE_STR_MAX], t[SIZE_STR_MAX];

	if (!meminfo("MemTotal", &total)) {
		doctor_say(d, DOCTOR_SKIP, "available", "mount /proc", "no /proc/meminfo");
		return;
	}
	doctor_say(d, doctor_grade(available, AVAILABLE_WARN, AVAILABLE_FAIL), "available",
		   "end what else takes memory, or boot with --memory of less than 512M; restored "
		   "machines share theirs, and pay for what they write",
		   "%s of %s", format_size(available, a), format_size(total, t));
	doctor_figure(d, "available_bytes", (double)available);
	doctor_figure(d, "total_bytes", (double)total);
}

static void check_overcommit(struct doctor *d)
{
	cleanup_free char *mode = doctor_line("/proc/sys/vm/overcommit_memory");

	if (!mode)
		doctor_say(d, DOCTOR_SKIP, "overcommit", "mount /proc",
			   "no /proc/sys/vm/overcommit_memory");
	else if (!strcmp(mode, "2"))
		doctor_say(d, DOCTOR_WARN, "overcommit",
			   "sysctl vm.overcommit_memory=0; with 2 each machine, snapshot and fork "
			   "needs its whole RAM promised, though it shares nearly all",
			   "strict (vm.overcommit_memory=2)");
	else
		doctor_say(d, DOCTOR_PASS, "overcommit", NULL, "%s (vm.overcommit_memory=%s)",
			   !strcmp(mode, "1") ? "always" : "by estimate", mode);
}

static void check_swap(struct doctor *d)
{
	uint64_t total, left;
	char a[SIZE_STR_MAX], t[SIZE_STR_MAX];

	if (!meminfo("SwapTotal", &total) || !meminfo("SwapFree", &left))
		doctor_say(d, DOCTOR_SKIP, "swap", "mount /proc", "no /proc/meminfo");
	else if (!total)
		doctor_say(d, DOCTOR_PASS, "swap", NULL,
			   "none: idle machines stay in memory, too many of them are killed");
	else if (left < total / 2)
		doctor_say(
			d, DOCTOR_WARN, "swap",
			"run fewer machines or smaller ones, or end what else takes memory: those "
			"that are swapped out start to run slowly",
			"%s of %s left", format_size(left, a), format_size(total, t));
	else
		doctor_say(d, DOCTOR_PASS, "swap", NULL, "%s of %s left", format_size(left, a),
			   format_size(total, t));
}

static void check_huge(struct doctor *d)
{
	cleanup_free char *line = doctor_line("/sys/kernel/mm/transparent_hugepage/enabled");

	if (!line)
		doctor_say(d, DOCTOR_WARN, "huge-pages",
			   "CONFIG_TRANSPARENT_HUGEPAGE makes booted guests faster; restored ones "
			   "do not use it",
			   "the kernel has no transparent huge pages");
	else if (strstr(line, "[never]"))
		doctor_say(d, DOCTOR_WARN, "huge-pages",
			   "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled: booted "
			   "guests take their memory 2 MiB at a time; restored ones do not use it",
			   "transparent huge pages: never");
	else
		doctor_say(d, DOCTOR_PASS, "huge-pages", NULL, "transparent huge pages: %s",
			   strstr(line, "[always]") ? "always" : "where asked for (madvise)");
}

void doctor_memory(struct doctor *d)
{
	check_available(d);
	check_overcommit(d);
	check_swap(d);
	check_huge(d);
}
