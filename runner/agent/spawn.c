#include "runner/agent/spawn.h"

#include "runner/proto/tlv.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"

#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum step { STEP_NONE, STEP_FDS, STEP_TTY, STEP_USER, STEP_CWD, STEP_EXEC };

static const char *const step_name[] = {
	[STEP_NONE] = "start of",
	[STEP_FDS] = "pass descriptors to",
	[STEP_TTY] = "take the terminal for",
	[STEP_USER] = "change user for",
	[STEP_CWD] = "change directory for",
	[STEP_EXEC] = "run",
};

struct failure {
	int step, code;
};

const char *env_get(char *const *env, const char *name)
{
	size_t n = strlen(name);

	for (; env && *env; env++)
		if (!strncmp(*env, name, n) && (*env)[n] == '=')
			return *env + n + 1;
	return NULL;
}

/* 0 when it did not return. ENOENT only if no candidate was found, as execvp(3) has it. */
static int exec_search(char *const *argv, char *const *env)
{
	const char *path = env_get(env, "PATH");
	int code = ENOENT;
	char file[PATH_MAX];

	if (strchr(argv[0], '/')) {
		execve(argv[0], argv, env);
		return errno;
	}
	if (!argv[0][0])
		return ENOENT;
	for (const char *p = path ? path : SPAWN_PATH; p; p = *p ? p + 1 : NULL) {
		size_t n = strcspn(p, ":");

		if (snprintf(file, sizeof(file), "%.*s%s%s", (int)n, p, n ? "/" : "./", argv[0]) <
		    (int)sizeof(file)) {
			execve(file, argv, env);
			if (errno == EACCES)
				code = EACCES;
			else if (errno != ENOENT && errno != ENOTDIR)
				return errno;
		}
		p += n;
		if (!*p)
			break;
	}
	return code;
}

static void reset_signals(void)
{
	struct sigaction dfl = {.sa_handler = SIG_DFL};
	sigset_t none;

	for (int s = 1; s < NSIG; s++)
		if (s != SIGKILL && s != SIGSTOP)
			sigaction(s, &dfl, NULL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Runs in the child; returns the failure. */
static struct failure child(const struct spawn *s, pid_t parent)
{
	int fd[3];

	setsid();
	/* Out of the way first: a target may be another's source. */
	for (int i = 0; i < 3; i++)
		if ((fd[i] = fcntl(s->fd[i], F_DUPFD_CLOEXEC, 10)) < 0)
			return (struct failure){STEP_FDS, errno};
	for (int i = 0; i < 3; i++)
		if (dup2(fd[i], i) < 0)
			return (struct failure){STEP_FDS, errno};
	if (s->tty && ioctl(0, TIOCSCTTY, 0) < 0)
		return (struct failure){STEP_TTY, errno};
	/* setgroups() needs privilege; a test on a host may have none, and then nothing to change.
	 */
	if (geteuid() == 0 && setgroups(s->creds->ngroups, s->creds->groups) < 0)
		return (struct failure){STEP_USER, errno};
	if (setresgid(s->creds->gid, s->creds->gid, s->creds->gid) < 0 ||
	    setresuid(s->creds->uid, s->creds->uid, s->creds->uid) < 0)
		return (struct failure){STEP_USER, errno};
	if (s->die_with_parent) {
		/* After the change of user, which clears it; the parent may be gone already. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(127);
	}
	if (chdir(s->cwd) < 0)
		return (struct failure){STEP_CWD, errno};
	umask(022);
	reset_signals();
	close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
	return (struct failure){STEP_EXEC, exec_search(s->argv, s->env)};
}

/*
 * fork(2), the child being in the cgroup from its beginning. One that moved there by itself would
 * wait for every processor to come to rest, some 10 ms. The C library does not know of this fork:
 * the process has one thread, and the child makes only system calls until exec.
 */
static pid_t fork_into(const char *cgroup, struct err *err)
{
	struct clone_args a = {.exit_signal = SIGCHLD};
	cleanup_fd int dir = -1;
	pid_t p;

	if (!cgroup)
		return (p = fork()) < 0 ? err_errno(err, "fork") : p;
	dir = open(cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return err_errno(err, "open cgroup %s", cgroup);
	a.flags = CLONE_INTO_CGROUP;
	a.cgroup = (uint64_t)dir;
	p = (pid_t)syscall(SYS_clone3, &a, sizeof(a));
	return p < 0 ? err_errno(err, "fork into cgroup %s", cgroup) : p;
}

int spawn(const struct spawn *s, pid_t *pid, struct err *err)
{
	cleanup_fd int rd = -1, wr = -1;
	struct failure f = {0};
	pid_t parent = getpid(), p;
	int pipefd[2];
	ssize_t n;

	if (pipe2(pipefd, O_CLOEXEC) < 0)
		return err_errno(err, "run %s: pipe", s->argv[0]);
	rd = pipefd[0];
	/* Above 2, so that the program's descriptors do not fall on it. */
	wr = fcntl(pipefd[1], F_DUPFD_CLOEXEC, 10);
	close(pipefd[1]);
	if (wr < 0)
		return err_errno(err, "run %s: pipe", s->argv[0]);
	p = fork_into(s->cgroup, err);
	if (p < 0)
		return err_wrap(err, p, "run %s", s->argv[0]);
	if (p == 0) {
		f = child(s, parent);
		write_full(wr, &f, sizeof(f));
		_exit(127);
	}
	close(steal_fd(&wr));
	do
		n = read(rd, &f, sizeof(f));
	while (n < 0 && errno == EINTR);
	if (n == 0) {
		*pid = p;
		return 0;
	}
	while (waitpid(p, NULL, 0) < 0 && errno == EINTR)
		;
	if (n != sizeof(f) || f.step < 0 || f.step >= (int)ARRAY_SIZE(step_name))
		return err_set(err, EIO, "run %s: the child died before exec", s->argv[0]);
	if (f.step == STEP_CWD)
		return err_set(err, f.code, "run %s: change directory to %s: %s", s->argv[0],
			       s->cwd, strerror(f.code));
	return err_set(err, f.code, "%s %s: %s", step_name[f.step], s->argv[0], strerror(f.code));
}

static bool same_name(const char *a, const char *b)
{
	size_t n = strcspn(a, "=");

	return !strncmp(a, b, n) && b[n] == '=';
}

static bool append(char **list, unsigned *n, char *s)
{
	list[*n] = s;
	if (s)
		list[++*n] = NULL;
	return s != NULL;
}

char **spawn_env(char *const *base, char *const *over, const char *home, bool tty)
{
	unsigned n = 0, max = 4;
	bool ok = true;
	char **env;

	for (char *const *p = base; p && *p; p++)
		max++;
	for (char *const *p = over; p && *p; p++)
		max++;
	env = calloc(max, sizeof(*env));
	if (!env)
		return NULL;
	for (char *const *p = base; ok && p && *p; p++) {
		bool replaced = false;

		for (char *const *q = over; q && *q; q++)
			replaced |= same_name(*p, *q);
		if (!replaced)
			ok = append(env, &n, strdup(*p));
	}
	for (char *const *p = over; ok && p && *p; p++)
		ok = append(env, &n, strdup(*p));
	if (ok && !env_get(env, "PATH"))
		ok = append(env, &n, strdup("PATH=" SPAWN_PATH));
	if (ok && !env_get(env, "HOME")) {
		char *s = NULL;

		ok = asprintf(&s, "HOME=%s", home) >= 0 && append(env, &n, s);
	}
	if (ok && tty && !env_get(env, "TERM"))
		ok = append(env, &n, strdup("TERM=xterm"));
	if (ok)
		return env;
	strv_free(env);
	return NULL;
}
