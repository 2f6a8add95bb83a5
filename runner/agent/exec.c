/* An exec session's set-up: the program's descriptors, user and environment; and its end. */
#include "runner/agent/exec.h"
#include "runner/agent/session.h"

#include "runner/agent/cgroup.h"
#include "runner/agent/spawn.h"
#include "runner/proto/tlv.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/num.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>

#define STARTED_WAITS_US 100000

static int nonblock_pipe(int *ours, int *theirs, bool we_read)
{
	int p[2];

	if (pipe2(p, O_CLOEXEC) < 0)
		return -errno;
	*ours = p[we_read ? 0 : 1];
	*theirs = p[we_read ? 1 : 0];
	return fcntl(*ours, F_SETFL, O_NONBLOCK) < 0 ? -errno : 0;
}

/* Opens the pair and gives the program's side to its user, as a login would. */
static int open_tty(struct exec *x, const struct agent_exec *req, const struct creds *c, int *slave,
		    struct err *err)
{
	struct winsize ws = {.ws_row = req->rows, .ws_col = req->cols};
	char name[64];

	x->in = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (x->in < 0)
		return err_errno(err, "open a terminal");
	if (grantpt(x->in) < 0 || unlockpt(x->in) < 0 || ptsname_r(x->in, name, sizeof(name)) != 0)
		return err_errno(err, "set up the terminal");
	ioctl(x->in, TIOCSWINSZ, &ws);
	*slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (*slave < 0)
		return err_errno(err, "open %s", name);
	if (geteuid() == 0 && fchown(*slave, c->uid, (gid_t)-1) < 0)
		return err_errno(err, "give %s to uid %u", name, c->uid);
	x->out.fd = fcntl(x->in, F_DUPFD_CLOEXEC, 10);
	return x->out.fd < 0 ? err_errno(err, "duplicate %s", name) : 0;
}

static int open_pipes(struct exec *x, const struct agent_exec *req, int theirs[3], struct err *err)
{
	int r = nonblock_pipe(&x->out.fd, &theirs[1], true);

	if (r == 0)
		r = nonblock_pipe(&x->err.fd, &theirs[2], true);
	if (r == 0 && req->stdin_open)
		r = nonblock_pipe(&x->in, &theirs[0], false);
	if (r < 0)
		return err_set(err, -r, "open a pipe: %s", strerror(-r));
	if (!req->stdin_open && (theirs[0] = open("/dev/null", O_RDONLY | O_CLOEXEC)) < 0)
		return err_errno(err, "open /dev/null");
	return 0;
}

/* Beside the other programs', so that it is frozen with them. */
static int own_group(struct exec *x, const char *program, struct err *err)
{
	char path[PATH_MAX];
	int r;

	if (!x->g->work)
		return err_set(err, ENOTSUP,
			       "run %s: this guest's kernel cannot measure its memory", program);
	snprintf(path, sizeof(path), "%s/exec.%d", x->g->cgroup, (int)getpid());
	r = cgroup_make(path, err);
	if (r == 0)
		memcpy(x->group, path, sizeof(path));
	return r;
}

static int start(struct exec *x, const struct agent_exec *req, struct err *err)
{
	const struct bootconf *conf = x->g->conf;
	const char *user = req->user ? req->user : conf->user;
	const char *cwd = req->cwd ? req->cwd : conf->cwd;
	struct creds c;
	int theirs[3] = {-1, -1, -1}, r;
	struct spawn s = {.argv = req->argv,
			  .cwd = cwd && *cwd ? cwd : "/",
			  .creds = &c,
			  .tty = req->tty,
			  .cgroup = guest_work(x->g),
			  .die_with_parent = true};
	char **env = NULL;
	bool frozen;

	guest_lock(x->g);
	frozen = x->g->shared->frozen;
	guest_unlock(x->g);
	if (frozen)
		return err_set(err, EAGAIN, "run %s: the guest is frozen for a snapshot; try later",
			       req->argv[0]);
	r = users_resolve(x->g->root, user, &c, err);
	if (r == 0 && req->measure) {
		r = own_group(x, req->argv[0], err);
		s.cgroup = x->group;
	}
	if (r == 0 && !(env = spawn_env(conf->env, req->env, c.home, req->tty)))
		r = err_set(err, ENOMEM, "run %s: out of memory", req->argv[0]);
	if (r == 0)
		r = req->tty ? open_tty(x, req, &c, &theirs[0], err)
			     : open_pipes(x, req, theirs, err);
	if (r == 0) {
		s.env = env;
		for (int i = 0; i < 3; i++)
			s.fd[i] = req->tty ? theirs[0] : theirs[i];
		r = spawn(&s, &x->pid, err);
	}
	for (int i = 0; i < 3; i++)
		exec_close(&theirs[i]);
	strv_free(env);
	if (r < 0)
		return r;
	x->pidfd = pidfd_open(x->pid, 0);
	if (x->pidfd < 0) {
		r = err_errno(err, "watch %s", req->argv[0]);
		kill(-x->pid, SIGKILL);
		waitpid(x->pid, NULL, 0);
		return r;
	}
	if (req->timeout_ms)
		x->deadline_us = monotonic_us() + (uint64_t)req->timeout_ms * 1000;
	return 0;
}

static void exec_free(struct exec *x)
{
	if (x->group[0]) {
		/* What it leaves running on purpose is part of the workload from now on. */
		cgroup_move(x->group, guest_work(x->g));
		rmdir(x->group);
	}
	exec_close(&x->in);
	exec_close(&x->out.fd);
	exec_close(&x->err.fd);
	exec_close(&x->pidfd);
	writer_free(&x->to_peer.w);
	writer_free(&x->to_program.w);
	free(x);
}

static void kill_group(struct exec *x)
{
	exec_kill(x);
	while (waitpid(x->pid, NULL, 0) < 0 && errno == EINTR)
		;
}

static struct exec *exec_new(struct guest *g, int fd)
{
	struct exec *x = calloc(1, sizeof(*x));

	if (!x)
		return NULL;
	x->g = g;
	x->conn = fd;
	x->pidfd = x->in = x->out.fd = x->err.fd = -1;
	x->out.type = AGENT_STDOUT;
	x->err.type = AGENT_STDERR;
	return x;
}

/*
 * Of a program that is sent no input nobody can make use of knowing that it runs: it is told
 * together with what comes next, mostly all of its output and its end, unless that takes long.
 */
static void answer(struct exec *x, const struct agent_exec *req, bool greet)
{
	cleanup_writer struct writer hello = WRITER_INIT;
	uint8_t pid[4];

	if (greet) {
		agent_put_hello(&hello);
		exec_queue_frame(x, AGENT_HELLO, hello.p, hello.len);
	}
	for (int i = 0; i < 4; i++)
		pid[i] = (uint8_t)((uint32_t)x->pid >> (8 * i));
	exec_queue_frame(x, AGENT_STARTED, pid, sizeof(pid));
	x->answer_len = x->to_peer.w.len;
	x->answer_us = monotonic_us() + (req->tty || req->stdin_open ? 0 : STARTED_WAITS_US);
}

int exec_serve(struct guest *g, int fd, const struct agent_frame *f, bool greet, size_t *held,
	       struct err *err)
{
	struct agent_exec req;
	struct exec *x;
	int r;

	r = agent_get_exec(f, &req, err);
	if (r < 0)
		return r;
	x = exec_new(g, fd);
	if (!x) {
		r = err_set(err, ENOMEM, "run %s: out of memory", req.argv[0]);
	} else {
		x->tty = req.tty;
		x->held = held;
		r = start(x, &req, err);
	}
	if (r == 0)
		answer(x, &req, greet);
	agent_exec_free(&req);
	if (r < 0) {
		if (x)
			exec_free(x);
		if (greet && session_hello(fd, NULL) < 0)
			return -ECONNRESET;
		return session_refuse(fd, err);
	}
	r = exec_carry(x);
	if (r < 0 && x->pidfd >= 0)
		kill_group(x);
	else if (r == 0)
		r = exec_finish(x);
	if (r == 0) {
		exec_linger(x);
		r = -ECONNRESET;
	}
	if (r == -EPROTO)
		err_set(err, EPROTO,
			"exec: a frame that has no place in a session, or is malformed");
	exec_free(x);
	return r;
}
