#include "runner/control/spawn.h"
#include "runner/control/sanitizer.h"

#include "runner/control/control.h"
#include "runner/control/jsontext.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

struct spawn_child {
	int fd; /* write end of the report pipe, -1 once used */
};

static void report(struct spawn_child *c, json_t *j)
{
	cleanup_free char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;

	json_decref(j);
	if (c->fd < 0)
		return;
	/* A parent that is gone has nobody to tell; the VM lives on. */
	if (text)
		(void)write_full(c->fd, text, strlen(text));
	close(c->fd);
	c->fd = -1;
}

void spawn_ready(struct spawn_child *c, json_t *details)
{
	report(c, json_pack("{s:b, s:o*}", "ok", 1, "details", details));
}

static int redirect(const struct rundir *d, struct err *err)
{
	char path[RUNDIR_PATH_MAX];
	cleanup_fd int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	cleanup_fd int log = open(rundir_file(d, "vmm.log", path),
				  O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	if (null < 0 || log < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(log, STDOUT_FILENO) < 0 ||
	    dup2(log, STDERR_FILENO) < 0)
		return err_errno(err, "redirect output to %s", path);
	return 0;
}

static void report_failure(struct spawn_child *c, const struct err *err)
{
	report(c,
	       json_pack("{s:b, s:i, s:o}", "ok", 0, "code", err->code ? err->code : EIO, "error",
			 json_text(err->code ? err->msg : "the VM ended while starting")));
}

_Noreturn void spawn_fail(int report_fd, const struct err *err)
{
	struct spawn_child c = {.fd = report_fd};

	report_failure(&c, err);
	_exit(EXIT_FAILED);
}

_Noreturn void spawn_become(struct rundir *d, int report_fd, const int *keep, size_t nkeep,
			    spawn_body body, void *arg)
{
	int open_fds[2 + SPAWN_KEEP_MAX] = {report_fd, d->lock_fd};
	struct spawn_child c = {.fd = report_fd};
	struct err err = ERR_INIT;
	int code = EXIT_FAILED, r = 0;

	setsid();
	d->info.pid = getpid();
	/*
	 * What else the caller has open is not the VM's to keep: the other end of somebody's pipe,
	 * a lock a script holds until its commands are done.
	 */
	if (nkeep)
		memcpy(open_fds + 2, keep, nkeep * sizeof(*keep));
	close_fds_except(open_fds, 2 + nkeep);
	r = redirect(d, &err);
	if (r == 0)
		code = body(&c, d, arg, &err);
	if (c.fd >= 0)
		report_failure(&c, &err);
	rundir_remove(d);
	sanitizer_end();
	/* Not exit(): the parent's stdio buffers and handlers are not ours to run. */
	_exit(r < 0 ? EXIT_FAILED : code);
}

static int read_report(int fd, char **out)
{
	cleanup_free char *buf = malloc(SPAWN_REPORT_MAX);
	size_t len = 0;

	while (buf && len < SPAWN_REPORT_MAX - 1) {
		ssize_t n = read(fd, buf + len, SPAWN_REPORT_MAX - 1 - len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		len += n;
	}
	if (!buf || !len)
		return -EIO;
	buf[len] = '\0';
	*out = steal_ptr(&buf);
	return 0;
}

int spawn_report(const char *text, size_t len, json_t **details, struct err *err)
{
	json_t *j = json_loadb(text, len, 0, NULL);
	const char *msg = json_string_value(json_object_get(j, "error"));
	json_int_t code = json_integer_value(json_object_get(j, "code"));
	int r = 0;

	if (json_is_true(json_object_get(j, "ok"))) {
		if (details)
			*details = json_incref(json_object_get(j, "details"));
	} else {
		r = err_set(err, code > 0 && code < 4096 ? (int)code : EIO, "%s",
			    msg ? msg : "the VM's process gave no account of its start");
	}
	json_decref(j);
	return r;
}

int spawn_begin(struct rundir *d, bool attached, spawn_body body, void *arg, struct spawn *out,
		struct err *err)
{
	pid_t parent = getpid();
	int fd[2];

	if (pipe2(fd, O_CLOEXEC) < 0)
		return err_errno(err, "create pipe");
	fflush(NULL);
	pid_t pid = fork();
	if (pid < 0) {
		close(fd[0]);
		close(fd[1]);
		return err_errno(err, "start the VM's process");
	}
	if (pid == 0) {
		if (attached) {
			prctl(PR_SET_PDEATHSIG, SIGTERM);
			if (getppid() != parent)
				_exit(EXIT_FAILED);
		}
		spawn_become(d, fd[1], NULL, 0, body, arg);
	}
	close(fd[1]);
	/* The lock is the child's now. */
	close(d->lock_fd);
	d->lock_fd = -1;
	d->info.pid = pid;
	*out = (struct spawn){.pid = pid, .fd = fd[0]};
	return 0;
}

int spawn_finish(struct spawn *s, json_t **details, struct err *err)
{
	cleanup_free char *text = NULL;
	int status, r = read_report(s->fd, &text);

	if (r < 0)
		r = err_set(err, EIO, "the VM's process died while starting");
	else
		r = spawn_report(text, strlen(text), details, err);
	/* One that is to be no more must not wait for this end of the pipe. */
	close(s->fd);
	if (r == 0)
		return 0;
	/* Failed, dead, or not understood, and then it may run. */
	kill(s->pid, SIGTERM);
	while (waitpid(s->pid, &status, 0) < 0 && errno == EINTR)
		;
	return r;
}
