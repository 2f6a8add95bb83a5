#include "runner/api/child.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/num.h"

#define LAST_WORDS_MS 5000

extern char **environ;

/* ---- the command line ---- */

void args_begin(struct args *a, const char *command)
{
	const char *runner = getenv("SMVM_RUNNER");

	a->n = 0;
	a->failed = false;
	args_add(a, "%s", runner && *runner ? runner : "smvm-runner");
	args_add(a, "%s", command);
}

void args_add(struct args *a, const char *fmt, ...)
{
	char *word = NULL;
	va_list ap;

	va_start(ap, fmt);
	if (a->failed || a->n == CHILD_ARGS_MAX || vasprintf(&word, fmt, ap) < 0)
		a->failed = true;
	else
		a->v[a->n++] = word;
	va_end(ap);
	a->v[a->n] = NULL;
}

void args_option(struct args *a, const char *name, const char *value)
{
	if (value)
		args_add(a, "--%s=%s", name, value);
}

void args_free(struct args *a)
{
	for (size_t i = 0; i < a->n; i++)
		free(a->v[i]);
	a->n = 0;
}

/* ---- its life ---- */

void child_init(struct child *c)
{
	memset(c, 0, sizeof(*c));
	c->pidfd = c->log_fd = -1;
}

/* It takes no time, but a signal may come. */
static void end_now(pid_t pid)
{
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

static void place(posix_spawn_file_actions_t *files, int fd, int as, int mode)
{
	if (fd < 0)
		posix_spawn_file_actions_addopen(files, as, "/dev/null", mode, 0);
	else
		posix_spawn_file_actions_adddup2(files, fd, as);
}

int child_spawn(struct child *c, const struct args *a, int in, int out, struct err *err)
{
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t none, all;
	int log[2];

	if (a->failed)
		return err_set(err, E2BIG, "start %s: more than %d words, or out of memory",
			       a->n ? a->v[0] : "smvm-runner", CHILD_ARGS_MAX);
	/* Both ends: the child does not wait for its reader, nor we for it. */
	if (pipe2(log, O_CLOEXEC | O_NONBLOCK) < 0)
		return err_errno(err, "make a pipe");
	cleanup_fd int said = log[1];
	c->log_fd = log[0];
	sigemptyset(&none);
	sigfillset(&all);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &all);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
						POSIX_SPAWN_SETSID);
	posix_spawn_file_actions_init(&files);
	place(&files, in, STDIN_FILENO, O_RDONLY);
	place(&files, out, STDOUT_FILENO, O_WRONLY);
	place(&files, said, STDERR_FILENO, O_WRONLY);
	posix_spawn_file_actions_addclosefrom_np(&files, STDERR_FILENO + 1);
	int r = posix_spawnp(&c->pid, a->v[0], &files, &attr, a->v, environ);
	posix_spawn_file_actions_destroy(&files);
	posix_spawnattr_destroy(&attr);
	if (r) {
		c->pid = 0;
		close(steal_fd(&c->log_fd));
		return err_set(err, r, "start %s: %s; name it with SMVM_RUNNER", a->v[0],
			       strerror(r));
	}
	c->pidfd = (int)syscall(SYS_pidfd_open, c->pid, 0);
	if (c->pidfd >= 0)
		return 0;
	r = err_errno(err, "watch process %d", (int)c->pid);
	end_now(c->pid);
	c->pid = 0;
	close(steal_fd(&c->log_fd));
	return r;
}

void child_listen(struct child *c)
{
	char text[CHILD_TAIL_MAX];
	ssize_t n = 1;

	/* As much as a pipe holds: one that talks faster than we listen is listened to again. */
	for (int i = 0; c->log_fd >= 0 && i < 16; i++) {
		n = read(c->log_fd, text, sizeof(text));
		if (n <= 0)
			break;
		const size_t got = (size_t)n, keep = MIN(c->ntail, sizeof(c->tail) - got);

		memmove(c->tail, c->tail + c->ntail - keep, keep);
		memcpy(c->tail + keep, text, got);
		c->ntail = keep + got;
	}
	/* Nobody can say anything there any more. */
	if (n == 0) {
		close(c->log_fd);
		c->log_fd = -1;
	}
}

bool child_ended(const struct child *c)
{
	struct pollfd p = {.fd = c->pidfd, .events = POLLIN};

	return c->joined || (c->pidfd >= 0 && poll(&p, 1, 0) == 1);
}

/* Until it has ended, whatever signals the program gets meanwhile; false: it has not. */
static bool await_end(const struct child *c, int timeout_ms)
{
	const uint64_t until = monotonic_us() + (uint64_t)MAX(timeout_ms, 0) * 1000;
	struct pollfd p = {.fd = c->pidfd, .events = POLLIN};
	int n;

	do {
		uint64_t now = monotonic_us();

		n = poll(&p, 1,
			 timeout_ms < 0 ? -1
			 : now < until	? (int)((until - now) / 1000) + 1
					: 0);
	} while (n < 0 && errno == EINTR);
	return n != 0;
}

int child_join(struct child *c, int timeout_ms, int *status, struct err *err)
{
	siginfo_t info = {0};

	if (!c->pid)
		return err_set(err, ENOTSUP, "join: this handle has started no process");
	if (c->joined)
		return err_set(err, EALREADY, "already joined");
	if (!await_end(c, timeout_ms))
		return err_set(err, ETIMEDOUT, "process %d has not ended within %d ms", (int)c->pid,
			       timeout_ms);
	if (waitid(P_PID, (id_t)c->pid, &info, WEXITED) < 0)
		return err_errno(err, "wait for process %d", (int)c->pid);
	c->joined = true;
	if (status)
		*status = info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
	return 0;
}

/* The codes of err_exit_code(), backwards; 0 where it stands for none. */
static int exit_errno(const struct child *c)
{
	siginfo_t info = {0};

	if (c->joined || waitid(P_PID, (id_t)c->pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0 ||
	    info.si_code != CLD_EXITED)
		return 0;
	switch (info.si_status) {
	case EXIT_USAGE:
		return EINVAL;
	case EXIT_NOT_FOUND:
		return ENOENT;
	case EXIT_BUSY:
		return EBUSY;
	case EXIT_REFUSED:
		return ENOTSUP;
	default:
		return 0;
	}
}

int child_last_words(struct child *c, int r, struct err *err)
{
	char text[CHILD_TAIL_MAX + 1];
	int code;

	/* It may have closed what it was known by before it says why; its status tells the kind. */
	if (c->pidfd >= 0)
		await_end(c, LAST_WORDS_MS);
	child_listen(c);
	size_t n = c->ntail;
	while (n > 0 && c->tail[n - 1] == '\n')
		n--;
	if (!n)
		return r;
	memcpy(text, c->tail, n);
	text[n] = '\0';
	char *line = strrchr(text, '\n');
	line = line ? line + 1 : text;
	if (!strncmp(line, "smvm-runner: ", 13))
		line += 13;
	code = exit_errno(c);
	if (!code)
		code = -r == EPIPE ? EIO : -r;
	return err_set(err, code, "%s", line);
}

void child_end(struct child *c, int grace_ms)
{
	if (c->pid && !c->joined && child_join(c, grace_ms, NULL, NULL) < 0)
		end_now(c->pid);
	if (c->pidfd >= 0)
		close(c->pidfd);
	if (c->log_fd >= 0)
		close(c->log_fd);
	child_init(c);
}
