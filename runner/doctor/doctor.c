#include "runner/doctor/doctor.h"

#include "runner/control/jsontext.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define LINE_MAX_BYTES 4096
#define FOUND_MAX      512

static const struct {
	const char *name;
	void (*check)(struct doctor *d);
} groups[] = {
	{"kvm", doctor_kvm},	   {"fuse", doctor_fuse},     {"kernel", doctor_kernel},
	{"memory", doctor_memory}, {"limits", doctor_limits}, {"cgroup", doctor_cgroup},
	{"clock", doctor_clock},   {"store", doctor_store},   {"guest", doctor_guest},
};

const char *doctor_status_name(enum doctor_status s)
{
	static const char *const names[] = {"PASS", "WARN", "FAIL", "SKIP"};

	return names[s];
}

int doctor_run(struct doctor *d, struct err *err)
{
	d->checks = json_array();
	if (!d->checks)
		return err_set(err, ENOMEM, "look at this host: out of memory");
	for (size_t i = 0; i < ARRAY_SIZE(groups); i++) {
		d->group = groups[i].name;
		groups[i].check(d);
	}
	/* What was said and what was kept are counted apart. */
	size_t said = 0;
	for (int s = 0; s < DOCTOR_STATUSES; s++)
		said += d->count[s];
	if (json_array_size(d->checks) != said)
		return err_set(err, ENOMEM, "keep the findings: out of memory");
	return 0;
}

void doctor_free(struct doctor *d)
{
	json_decref(d->checks);
	d->checks = NULL;
}

void doctor_say(struct doctor *d, enum doctor_status s, const char *name, const char *advice,
		const char *fmt, ...)
{
	char found[FOUND_MAX], full[64];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(found, sizeof(found), fmt, ap);
	va_end(ap);
	d->count[s]++;
	if (s == DOCTOR_PASS)
		advice = NULL;
	json_array_append_new(d->checks,
			      json_pack("{s:s, s:s, s:s, s:o, s:o, s:{}}", "group", d->group,
					"name", name, "status", doctor_status_name(s), "found",
					json_text(found), "advice",
					advice ? json_text(advice) : json_null(), "figures"));
	if (!d->out)
		return;
	snprintf(full, sizeof(full), "%s.%s", d->group, name);
	fprintf(d->out, "%s  %-20s  %s\n", doctor_status_name(s), full, found);
	if (advice)
		fprintf(d->out, "%28s> %s\n", "", advice);
}

enum doctor_status doctor_grade(uint64_t n, uint64_t warn, uint64_t fail)
{
	return n < fail ? DOCTOR_FAIL : n < warn ? DOCTOR_WARN : DOCTOR_PASS;
}

void doctor_figure(struct doctor *d, const char *key, double value)
{
	json_t *last = json_array_get(d->checks, json_array_size(d->checks) - 1);

	json_object_set_new(json_object_get(last, "figures"), key, json_real(value));
}

/* The child's end is awaited by a pidfd, so that no signal handler or busy loop is needed. */
static int await(pid_t pid, int pidfd, int timeout_ms)
{
	const uint64_t until = monotonic_us() + (uint64_t)timeout_ms * 1000;
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	int status, n;

	do {
		uint64_t now = monotonic_us();

		n = poll(&p, 1, now < until ? (int)((until - now + 999) / 1000) : 0);
	} while (n < 0 && errno == EINTR);
	if (n != 1) {
		kill(pid, SIGKILL);
		/* One in an uninterruptible wait stays; init will take it. */
		poll(&p, 1, 100);
		waitpid(pid, &status, WNOHANG);
		return -ETIMEDOUT;
	}
	if (waitpid(pid, &status, 0) != pid)
		return -errno;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -ECHILD;
}

int doctor_try(doctor_trial fn, void *buf, size_t len, int timeout_ms)
{
	void *shared = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (shared == MAP_FAILED)
		return -errno;
	memcpy(shared, buf, len);
	const pid_t parent = getpid();
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		/* It may have died before that. */
		if (getppid() == parent)
			fn(shared);
		_exit(0);
	}
	int r = pid < 0 ? -errno : 0;
	if (r == 0) {
		cleanup_fd int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);

		if (pidfd < 0) {
			r = -errno;
			kill(pid, SIGKILL);
			waitpid(pid, NULL, 0);
		} else {
			r = await(pid, pidfd, timeout_ms);
		}
	}
	memcpy(buf, shared, len);
	munmap(shared, len);
	return r;
}

char *doctor_line(const char *path)
{
	char *text;

	if (read_file(AT_FDCWD, path, LINE_MAX_BYTES, &text, NULL, NULL) < 0)
		return NULL;
	text[strcspn(text, "\n")] = '\0';
	return text;
}
