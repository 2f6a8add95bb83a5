/* Hooks: the image's own programs around a snapshot, each with a time limit and a result. */
#include "runner/agent/control.h"

#include "runner/agent/cgroup.h"
#include "runner/agent/spawn.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define HOOK_OUTPUT_MAX (1u << 20)
#define KILL_WAIT_MS	5000 /* for what is killed to be gone */

/* run-parts(8)'s names: no backup or half-installed file runs by accident. */
static int wanted(const struct dirent *d)
{
	const char *ok = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";

	return d->d_name[0] && d->d_name[strspn(d->d_name, ok)] == '\0';
}

/* The tail of what a hook said, on one line. */
static void tidy(char *text, size_t n)
{
	while (n && (text[n - 1] == '\n' || text[n - 1] == ' '))
		n--;
	text[n] = '\0';
	for (char *p = text; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = ' ';
}

/* One read of `fd` into the `cap` bytes of `text`, older bytes making room. As read(2). */
static ssize_t keep_tail(int fd, char *text, size_t cap, size_t *n)
{
	char chunk[512];
	ssize_t k = read(fd, chunk, sizeof(chunk));

	if (k > 0) {
		size_t keep = MIN((size_t)k, cap - 1);
		size_t old = MIN(*n, cap - 1 - keep);

		memmove(text, text + (*n - old), old);
		memcpy(text + old, chunk + ((size_t)k - keep), keep);
		*n = old + keep;
	}
	return k;
}

/* With all that it has started: its cgroup where there is one, else its process group. */
static void kill_hook(pid_t pid, const char *group)
{
	struct err e = ERR_INIT;

	if (group[0] && cgroup_kill(group, &e) < 0)
		log_warn("%s", e.msg);
	kill(-pid, SIGKILL);
}

/*
 * Until the hook has ended or `end_us`; keeps the last bytes it printed. Returns its wait status,
 * or -ETIMEDOUT after it was killed, or -EBUSY if not even that ended it.
 */
static int watch(pid_t pid, const char *group, int out, uint64_t end_us, char *text, size_t cap)
{
	cleanup_fd int pidfd = pidfd_open(pid, 0);
	bool timed_out = false, ended = false;
	size_t n = 0, total = 0;
	int status = 0;

	if (pidfd < 0)
		kill_hook(pid, group);
	while (!ended) {
		struct pollfd p[2] = {{.fd = pidfd, .events = POLLIN},
				      {.fd = out, .events = POLLIN}};
		uint64_t now = monotonic_us();

		if (now >= end_us && !timed_out) {
			timed_out = true;
			end_us = now + KILL_WAIT_MS * 1000ull;
			kill_hook(pid, group);
		} else if (now >= end_us) {
			tidy(text, n);
			return -EBUSY;
		}
		if (pidfd >= 0 && poll(p, 2, (int)((end_us - now) / 1000 + 1)) < 0)
			continue;
		/* The program first: what it wrote before it ended is then in the pipe. */
		if (pidfd < 0 || p[0].revents)
			ended = waitpid(pid, &status, 0) == pid || errno == ECHILD;
		/* A background child may hold the pipe and write for ever: one bounded look. */
		do {
			ssize_t k = keep_tail(out, text, cap, &n);

			if (k == 0)
				out = -1;
			if (k <= 0)
				break;
			total += (size_t)k;
		} while (ended && total < HOOK_OUTPUT_MAX);
	}
	tidy(text, n);
	return timed_out ? -ETIMEDOUT : status;
}

/*
 * A cgroup beside the workload's, so that what a hook starts can be killed with it. "": there can
 * be none.
 */
static void hook_group(const struct guest *g, char *group, size_t size)
{
	struct err e = ERR_INIT;

	group[0] = '\0';
	if (!g->cgroup)
		return;
	snprintf(group, size, "%s.hook", g->cgroup);
	if (cgroup_make(group, &e) < 0) {
		log_warn("%s", e.msg);
		group[0] = '\0';
	}
}

static void run_one(struct guest *g, const char *path, const char *item, char *const *env,
		    uint64_t end_us, struct agent_results *rs)
{
	const uint64_t limit_us = end_us - monotonic_us();
	const struct creds root = {.groups = {0}, .ngroups = 1, .uid = getuid(), .gid = getgid()};
	char *argv[] = {(char *)path, NULL};
	cleanup_fd int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	cleanup_fd int rd = -1, wr = -1;
	struct err e = ERR_INIT;
	uint64_t t = monotonic_us();
	char text[200] = "", group[PATH_MAX];
	struct agent_result *r;
	int p[2], status;
	pid_t pid;

	if (null < 0 || pipe2(p, O_CLOEXEC) < 0) {
		agent_result_add(rs, item, errno, 0, "open a pipe: %s", strerror(errno));
		return;
	}
	rd = p[0];
	wr = p[1];
	fcntl(rd, F_SETFL, O_NONBLOCK);
	hook_group(g, group, sizeof(group));
	struct spawn s = {.argv = argv,
			  .env = env,
			  .cwd = "/",
			  .creds = &root,
			  .fd = {null, wr, wr},
			  .cgroup = group[0] ? group : NULL,
			  .die_with_parent = true};
	if (spawn(&s, &pid, &e) < 0) {
		agent_result_add(rs, item, e.code, monotonic_us() - t, "%.250s", e.msg);
		return;
	}
	close(steal_fd(&wr));
	status = watch(pid, group, rd, end_us, text, sizeof(text));
	t = monotonic_us() - t;
	if (status == -ETIMEDOUT)
		r = agent_result_add(rs, item, ETIMEDOUT, t, "killed after its time limit. %s",
				     text);
	else if (status < 0)
		r = agent_result_add(rs, item, -status, t, "killed, and does not end. %s", text);
	else if (WIFSIGNALED(status))
		r = agent_result_add(rs, item, 256 + 128 + WTERMSIG(status), t, "signal %d. %s",
				     WTERMSIG(status), text);
	else
		r = agent_result_add(rs, item, WEXITSTATUS(status) ? 256 + WEXITSTATUS(status) : 0,
				     t, "%s", text);
	r->limit_ms = (uint32_t)(limit_us / 1000);
	if (group[0]) {
		/* What it leaves running on purpose is frozen with the rest from now on. */
		cgroup_move(group, guest_work(g));
		rmdir(group);
	}
}

void hooks_run(struct guest *g, const char *folder, char *const *env, struct agent_results *rs)
{
	uint64_t end = monotonic_us() + CONTROL_HOOKS_MS * 1000ull;
	uint64_t each = (g->hook_ms ? g->hook_ms : CONTROL_HOOK_MS) * 1000ull;
	char dir[PATH_MAX], path[PATH_MAX + NAME_MAX + 2], item[AGENT_NAME_MAX + 1];
	struct dirent **list;
	int n;

	snprintf(dir, sizeof(dir), "%s%s/%s", g->root, CONTROL_HOOK_DIR, folder);
	n = scandir(dir, &list, wanted, alphasort);
	if (n < 0) {
		if (errno != ENOENT && errno != ENOTDIR)
			agent_result_add(rs, folder, errno, 0, "read %s: %s", dir, strerror(errno));
		return;
	}
	for (int i = 0; i < n; i++) {
		uint64_t now = monotonic_us();
		struct stat st;

		snprintf(path, sizeof(path), "%s/%s", dir, list[i]->d_name);
		snprintf(item, sizeof(item), "hook:%.200s", list[i]->d_name);
		free(list[i]);
		if (stat(path, &st) < 0 || !S_ISREG(st.st_mode) || !(st.st_mode & 0111))
			continue;
		if (i >= CONTROL_HOOKS_MAX || now >= end) {
			agent_result_add(rs, item, i >= CONTROL_HOOKS_MAX ? E2BIG : ETIMEDOUT, 0,
					 "not run: %s",
					 i >= CONTROL_HOOKS_MAX ? "too many hooks"
								: "the hooks' time is used up");
			continue;
		}
		run_one(g, path, item, env, MIN(end, now + each), rs);
	}
	free(list);
}
