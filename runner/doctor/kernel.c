/* kernel.c - what the runner and the store use of the kernel, each tried. */
#include "runner/doctor/doctor.h"
#include "runner/vm/pagemap.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/num.h"

#include <fcntl.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define PAGE	 4096u
#define PM_FILE	 (1ull << 61) /* Documentation/admin-guide/mm/pagemap.rst */
#define PM_THERE (1ull << 63)

/* Each returns 0 or a negative errno. */

static int try_memfd(void)
{
	cleanup_fd int fd = memfd_create("doctor", MFD_CLOEXEC);

	return fd < 0 ? -errno : 0;
}

static int pagemap_entry(const volatile char *p, uint64_t *out)
{
	cleanup_fd int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	ssize_t n = pread(fd, out, sizeof(*out), (off_t)((uintptr_t)p / PAGE * sizeof(*out)));
	return n == (ssize_t)sizeof(*out) ? 0 : n < 0 ? -errno : -EIO;
}

/* What diffs rest on: a private page that was written is no page of the file's any more. */
static int try_pagemap(void)
{
	cleanup_fd int fd = memfd_create("doctor", MFD_CLOEXEC);
	uint64_t read_one = 0, written = 0;
	int r;

	if (fd < 0 || ftruncate(fd, 2 * PAGE) < 0)
		return -errno;
	volatile char *p = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	(void)p[0];
	p[PAGE] = 1;
	r = pagemap_entry(p, &read_one);
	if (r == 0)
		r = pagemap_entry(p + PAGE, &written);
	munmap((void *)p, 2 * PAGE);
	if (r == 0 && (!(read_one & PM_FILE) || (written & PM_FILE) || !(written & PM_THERE)))
		r = -EOPNOTSUPP;
	return r;
}

/* What a reset to the same snapshot asks, of one page that nobody has written. */
static int try_pagemap_scan(void)
{
	cleanup_fd int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	struct page_region found;
	struct pm_scan_arg a = {.size = sizeof(a),
				.vec = (uintptr_t)&found,
				.vec_len = 1,
				.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
				.return_mask = PAGE_IS_FILE};
	void *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (fd < 0 || p == MAP_FAILED)
		return -errno;
	a.start = (uintptr_t)p;
	a.end = a.start + PAGE;
	int r = ioctl(fd, PAGEMAP_SCAN, &a) < 0 ? -errno : 0;
	munmap(p, PAGE);
	return r;
}

static int try_populate(void)
{
	void *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return -errno;
	int r = madvise(p, PAGE, MADV_POPULATE_WRITE) < 0 ? -errno : 0;
	munmap(p, PAGE);
	return r;
}

static int try_pidfd(void)
{
	cleanup_fd int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);

	return fd < 0 ? -errno : 0;
}

static int try_seccomp(void)
{
	uint32_t action = SECCOMP_RET_ERRNO;

	return syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) < 0 ? -errno : 0;
}

static int try_holes(void)
{
	cleanup_fd int fd = memfd_create("doctor", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, 16 * PAGE) < 0 || pwrite(fd, "x", 1, (off_t)8 * PAGE) != 1)
		return -errno;
	off_t at = lseek(fd, 0, SEEK_DATA);
	return at < 0 ? -errno : at == (off_t)8 * PAGE ? 0 : -EOPNOTSUPP;
}

static const struct {
	const char *name;
	int (*try)(void);
	enum doctor_status without;
	const char *found, *cost;
} features[] = {
	{"memfd", try_memfd, DOCTOR_FAIL, "files in memory",
	 "no machine boots; memfd_create(2) is of Linux 3.17"},
	{"pagemap", try_pagemap, DOCTOR_FAIL, "tells written pages from a snapshot's own",
	 "no machine can be snapshotted; the kernel needs CONFIG_PROC_PAGE_MONITOR and /proc"},
	{"pagemap-scan", try_pagemap_scan, DOCTOR_WARN, "PAGEMAP_SCAN",
	 "a reset in place takes 0.3 ms longer per GiB of RAM; Linux 6.7 has it"},
	{"populate", try_populate, DOCTOR_WARN, "MADV_POPULATE_WRITE",
	 "a restored machine's first writes cost several times as much; Linux 5.14 has it"},
	{"pidfd", try_pidfd, DOCTOR_FAIL, "processes are watched by descriptor",
	 "no machine can be stopped in order; pidfd_open(2) is of Linux 5.3"},
	{"seccomp", try_seccomp, DOCTOR_FAIL, "system calls of a machine's process are filtered",
	 "no machine starts unconfined; the kernel needs CONFIG_SECCOMP_FILTER"},
	{"holes", try_holes, DOCTOR_WARN, "SEEK_DATA finds them",
	 "sparse files are read whole, and exports take what holes would not; Linux 3.8 has it"},
};

void doctor_kernel(struct doctor *d)
{
	struct utsname u;
	unsigned long major = 0, minor = 0;
	char *dot = NULL;

	if (uname(&u) == 0) {
		major = strtoul(u.release, &dot, 10);
		minor = *dot == '.' ? strtoul(dot + 1, NULL, 10) : 0;
	}
	if (!major)
		doctor_say(d, DOCTOR_SKIP, "version", "none; each feature is tried below",
			   "the kernel does not tell its version");
	else if (strcmp(u.machine, "x86_64") != 0)
		doctor_say(d, DOCTOR_FAIL, "version", "machines are x86-64 only", "Linux %s on %s",
			   u.release, u.machine);
	else if (major < 5 || (major == 5 && minor < 14))
		doctor_say(d, DOCTOR_WARN, "version", "6.1 is the reference; take that or later",
			   "Linux %s", u.release);
	else
		doctor_say(d, DOCTOR_PASS, "version", NULL, "Linux %s", u.release);
	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		int r = features[i].try();

		if (r == 0)
			doctor_say(d, DOCTOR_PASS, features[i].name, NULL, "%s", features[i].found);
		else
			doctor_say(d, features[i].without, features[i].name, features[i].cost,
				   "not there: %s", strerror(-r));
	}
}
