/* limits.c - what this user and this host allow a process, against what machines take. */
#include "runner/doctor/doctor.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/num.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/*
 * A machine's process holds some thirty descriptors and a few per disk and connection; a fork of n
 * children two more for each, a thousand at most.
 */
#define FILES_FAIL 64
#define FILES_WARN 2048
/* Mappings: a machine has under a hundred; a store opened by mmap a few. Linux's default is 65530.
 */
#define MAPS_FAIL 1024
#define MAPS_WARN 65530
/* Threads: a machine has its vCPUs (8 at most), its I/O thread and one or two helpers. */
#define THREADS_WARN 4096
#define MEMORY_FAIL  (4 * GIB)

static void check_files(struct doctor *d)
{
	struct rlimit r;

	getrlimit(RLIMIT_NOFILE, &r);
	/* What is allowed now is enough for one; what a process may allow itself, for many. */
	const bool few = r.rlim_cur < FILES_FAIL;
	doctor_say(d, few ? DOCTOR_FAIL : doctor_grade(r.rlim_max, FILES_WARN, 0), "files",
		   few ? "ulimit -n 4096; a machine needs some thirty"
		       : "ulimit -Hn 4096, or LimitNOFILE= of the service: large forks and the "
			 "mount need more",
		   "%llu open files, up to %llu", (unsigned long long)r.rlim_cur,
		   (unsigned long long)r.rlim_max);
	doctor_figure(d, "soft", (double)r.rlim_cur);
	doctor_figure(d, "hard", (double)r.rlim_max);
}

/* The number in a file of /proc/sys; false when it is not there. */
static bool sysctl_number(const char *path, uint64_t *out)
{
	cleanup_free char *line = doctor_line(path);

	return line && parse_u64(line, 0, UINT64_MAX, out, NULL) == 0;
}

static void check_maps(struct doctor *d)
{
	uint64_t n;

	if (!sysctl_number("/proc/sys/vm/max_map_count", &n)) {
		doctor_say(d, DOCTOR_SKIP, "mappings", "mount /proc",
			   "no /proc/sys/vm/max_map_count");
		return;
	}
	doctor_say(d, doctor_grade(n, MAPS_WARN, MAPS_FAIL), "mappings",
		   "sysctl vm.max_map_count=65530", "%" PRIu64 " per process", n);
}

static void check_threads(struct doctor *d)
{
	uint64_t threads = UINT64_MAX, pids = UINT64_MAX;
	struct rlimit r;

	getrlimit(RLIMIT_NPROC, &r);
	sysctl_number("/proc/sys/kernel/threads-max", &threads);
	sysctl_number("/proc/sys/kernel/pid_max", &pids);
	uint64_t n = MIN(threads, pids);
	if (getuid() != 0)
		n = MIN(n, (uint64_t)r.rlim_cur);
	doctor_say(d, doctor_grade(n, THREADS_WARN, 0), "threads",
		   "ulimit -u, sysctl kernel.threads-max and kernel.pid_max: a machine takes three "
		   "and one per virtual CPU",
		   "%" PRIu64 " processes and threads", n);
}

static void check_address_space(struct doctor *d)
{
	char a[SIZE_STR_MAX];
	struct rlimit r;

	getrlimit(RLIMIT_AS, &r);
	if (r.rlim_cur == RLIM_INFINITY)
		doctor_say(d, DOCTOR_PASS, "address-space", NULL, "unlimited");
	else
		doctor_say(d, doctor_grade(r.rlim_cur, RLIM_INFINITY, MEMORY_FAIL), "address-space",
			   "ulimit -v unlimited: a machine maps all of its RAM, and the store's "
			   "index in full",
			   "%s per process", format_size(r.rlim_cur, a));
}

void doctor_limits(struct doctor *d)
{
	check_files(d);
	check_maps(d);
	check_threads(d);
	check_address_space(d);
}
