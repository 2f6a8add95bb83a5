#include "runner/agent/spawn.h"

#include "runner/proto/tlv.h"
#include "smfs/base/cleanup.h"
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

/* What runs in the child, whose memory is its parent's: it leaves no trace of a sanitizer's there.
 */
#define IN_CHILD __attribute__((no_sanitize("address", "thread", "undefined")))

enum step { STEP_NONE, STEP_FDS, STEP_TTY, STEP_USER, STEP_CWD, STEP_EXEC };

static const char *const step_name[] = {
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
static IN_CHILD int exec_search(char *const *argv, char *const *env)
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

static IN_CHILD void reset_signals(void)
{
	struct sigaction dfl = {.sa_handler = SIG_DFL};
	sigset_t none;

	for (int s = 1; s < NSIG; s++)
		if (s != SIGKILL && s != SIGSTOP)
			sigaction(s, &dfl, NULL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* What the child knows; `failed` is how it has failed, and told by it. */
struct birth {
	const struct spawn *s;
	pid_t parent;
	struct failure failed;
};

/* Returns the failure. */
static IN_CHILD struct failure become(const struct birth *b)
{
	const struct spawn *s = b->s;
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
		if (getppid() != b->parent)
			_exit(127);
	}
	if (chdir(s->cwd) < 0)
		return (struct failure){STEP_CWD, errno};
	umask(022);
	reset_signals();
	close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
	return (struct failure){STEP_EXEC, exec_search(s->argv, s->env)};
}

static IN_CHILD void child(void *arg)
{
	struct birth *b = arg;

	b->failed = become(b);
	_exit(127);
}

/*
 * clone3(2); the child, on a stack of its own, calls fn(arg), which does not return. The C library
 * has no call for that. Both are in registers that the kernel keeps, and are named lest one be rbp,
 * which is cleared before they are used.
 */
static pid_t clone_and_call(struct clone_args *a, void (*fn)(void *), void *arg)
{
	long r = SYS_clone3;

	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "xor %%ebp, %%ebp\n\t"
			 "mov %%rbx, %%rdi\n\t"
			 "call *%%rdx\n\t"
			 "ud2\n"
			 "1:"
			 : "+a"(r)
			 : "D"(a), "S"(sizeof(*a)), "d"(fn), "b"(arg)
			 : "rcx", "r11", "memory");
	return (pid_t)r;
}

/*
 * As vfork(2) has it the child uses this process's memory, which stands still until the child has
 * become the program: nothing is copied, and how it failed is simply there. It is in its cgroup
 * from the beginning; one that moved there by itself would wait for every processor to come to
 * rest, some 10 ms. The process has one thread.
 */
static pid_t give_birth(struct birth *b, struct err *err)
{
	static char stack[32768] __attribute__((aligned(16)));
	const char *cgroup = b->s->cgroup;
	struct clone_args a = {.flags = CLONE_VM | CLONE_VFORK,
			       .exit_signal = SIGCHLD,
			       .stack = (uintptr_t)stack,
			       .stack_size = sizeof(stack)};
	cleanup_fd int dir = -1;
	pid_t p;

	if (cgroup) {
		dir = open(cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (dir < 0)
			return err_errno(err, "open cgroup %s", cgroup);
		a.flags |= CLONE_INTO_CGROUP;
		a.cgroup = (uint64_t)dir;
	}
	p = clone_and_call(&a, child, b);
	return p < 0 ? err_set(err, -p, "fork: %s", strerror(-p)) : p;
}

int spawn(const struct spawn *s, pid_t *pid, struct err *err)
{
	struct birth b = {.s = s, .parent = getpid()};
	const struct failure *f = &b.failed;
	pid_t p = give_birth(&b, err);

	if (p < 0)
		return err_wrap(err, p, "run %s", s->argv[0]);
	if (f->step == STEP_NONE) {
		*pid = p;
		return 0;
	}
	while (waitpid(p, NULL, 0) < 0 && errno == EINTR)
		;
	if (f->step == STEP_CWD)
		return err_set(err, f->code, "run %s: change directory to %s: %s", s->argv[0],
			       s->cwd, strerror(f->code));
	return err_set(err, f->code, "%s %s: %s", step_name[f->step], s->argv[0],
		       strerror(f->code));
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
