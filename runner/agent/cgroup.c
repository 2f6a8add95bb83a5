#include "runner/agent/cgroup.h"

#include "runner/agent/guest.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MOVE_MAX 65536 /* bytes of process numbers */

int cgroup_make(const char *path, struct err *err)
{
	if (mkdir(path, 0755) < 0 && errno != EEXIST)
		return err_errno(err, "create cgroup %s", path);
	return 0;
}

static int open_in(const char *path, const char *file, int flags, struct err *err)
{
	char p[PATH_MAX];
	int fd;

	snprintf(p, sizeof(p), "%s/%s", path, file);
	fd = open(p, flags | O_CLOEXEC);
	return fd < 0 ? err_errno(err, "open %s", p) : fd;
}

static int open_procs(const char *path, struct err *err)
{
	return open_in(path, "cgroup.procs", O_WRONLY, err);
}

static int write_freeze(const char *path, bool freeze, struct err *err)
{
	cleanup_fd int fd = open_in(path, "cgroup.freeze", O_WRONLY, err);

	if (fd < 0)
		return fd;
	if (write(fd, freeze ? "1" : "0", 1) != 1)
		return err_errno(err, "%s cgroup %s", freeze ? "freeze" : "thaw", path);
	return 0;
}

int cgroup_kill(const char *path, struct err *err)
{
	cleanup_fd int fd = open_in(path, "cgroup.kill", O_WRONLY, err);

	if (fd < 0)
		return fd;
	if (write(fd, "1", 1) != 1)
		return err_errno(err, "kill what is in cgroup %s", path);
	return 0;
}

int cgroup_account(const char *path, struct err *err)
{
	cleanup_fd int fd = open_in(path, "cgroup.subtree_control", O_WRONLY, err);

	if (fd < 0)
		return fd;
	if (write(fd, "+memory", 7) != 7)
		return err_errno(err, "account for memory below cgroup %s", path);
	return 0;
}

int cgroup_peak(const char *path, uint64_t *peak, struct err *err)
{
	cleanup_fd int fd = open_in(path, "memory.peak", O_RDONLY, err);
	char text[32];
	ssize_t n;

	if (fd < 0)
		return fd;
	n = pread_upto(fd, text, sizeof(text) - 1, 0);
	if (n < 0)
		return err_set(err, (int)-n, "read %s/memory.peak: %s", path, strerror((int)-n));
	text[n] = '\0';
	text[strcspn(text, "\n")] = '\0';
	return parse_u64(text, 0, UINT64_MAX, peak, err);
}

void cgroup_move(const char *from, const char *to)
{
	cleanup_fd int in = open_in(from, "cgroup.procs", O_RDONLY, NULL);
	cleanup_fd int out = open_procs(to, NULL);
	cleanup_free char *list = NULL;
	ssize_t n;

	if (in < 0 || out < 0 || !(list = malloc(MOVE_MAX + 1)))
		return;
	n = pread_upto(in, list, MOVE_MAX, 0);
	list[MAX(n, (ssize_t)0)] = '\0';
	/* One that has ended meanwhile is refused, which is as good. */
	for (char *save, *pid = strtok_r(list, "\n", &save); pid; pid = strtok_r(NULL, "\n", &save))
		if (write(out, pid, strlen(pid)) < 0)
			continue;
}

static int wait_state(const char *path, bool freeze, int timeout_ms, struct err *err)
{
	const char *want = freeze ? "frozen 1" : "frozen 0";
	uint64_t end = monotonic_us() + (uint64_t)timeout_ms * 1000;
	cleanup_fd int fd = open_in(path, "cgroup.events", O_RDONLY, err);

	if (fd < 0)
		return fd;
	for (;;) {
		struct pollfd p = {.fd = fd, .events = POLLPRI};
		char text[256];
		ssize_t n = pread_upto(fd, text, sizeof(text) - 1, 0);
		uint64_t now = monotonic_us();

		if (n < 0)
			return err_set(err, (int)-n, "read %s/cgroup.events: %s", path,
				       strerror((int)-n));
		text[n] = '\0';
		if (strstr(text, want))
			return 0;
		if (now >= end)
			return err_set(err, ETIMEDOUT, "%s cgroup %s: not done after %d ms",
				       freeze ? "freeze" : "thaw", path, timeout_ms);
		/* The kernel signals a change of this file by POLLPRI. */
		poll(&p, 1, (int)((end - now) / 1000 + 1));
	}
}

int cgroup_freeze(const char *path, bool freeze, int timeout_ms, struct err *err)
{
	int r = write_freeze(path, freeze, err);

	if (r == 0)
		r = wait_state(path, freeze, timeout_ms, err);
	if (r < 0 && freeze)
		write_freeze(path, false, NULL);
	return r;
}
