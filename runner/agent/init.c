#include "runner/agent/init.h"

#include "runner/agent/cgroup.h"
#include "runner/agent/journal.h"
#include "runner/agent/session.h"
#include "runner/agent/spawn.h"
#include "runner/proto/tlv.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <linux/vm_sockets.h>

#define GRACE_MAX_MS   3600000u
#define SPARE_BUSY_US  250000  /* from when it was taken, while what it was taken for runs */
#define SPARE_AFTER_US 50000   /* from a session's end */
#define SPARE_AGAIN_US 1000000 /* after a fork that failed */
#define REST_MS	       1000u /* what is left for the others when the entrypoint has used it all up */

struct init {
	struct guest *g;
	int listener, signals;
	int power_rd;
	int ended_wr; /* closed when the entrypoint has ended */
	pid_t entry;
	pid_t session[INIT_SESSIONS_MAX];
	/*
	 * A session that awaits the next connection, in a slot of `session` (the same process, or
	 * 0): a connection need not wait for a fork. The next one is made once that is not in
	 * anybody's way: a short program has ended by then, which a fork beside it would delay.
	 */
	pid_t spare;
	int taken_rd, taken_wr; /* a byte when it has one */
	uint64_t spare_us;	/* when to make it */
	bool off;
	uint32_t grace_ms;
};

int init_listen(struct err *err)
{
	struct sockaddr_vm a = {
		.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = AGENT_PORT};
	cleanup_fd int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return err_errno(err, "open a vsock");
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 64) < 0)
		return err_errno(err, "listen on vsock port %u", AGENT_PORT);
	return steal_fd(&fd);
}

/* ---- the workload -------------------------------------------------------------------------- */

static void entry_ended(struct init *in, const struct agent_exit *x)
{
	struct guest *g = in->g;

	guest_lock(g);
	g->shared->entry_state = AGENT_ENTRY_EXITED;
	g->shared->entry_exit = *x;
	g->shared->entry_pid = 0;
	guest_unlock(g);
	in->entry = 0;
	close(in->ended_wr);
	in->ended_wr = -1;
	log_info("entrypoint ended: %s %u", x->kind == AGENT_EXIT_SIGNAL ? "signal" : "status",
		 x->value);
	if (g->conf->poweroff_on_exit) {
		in->off = true;
		in->grace_ms = 2000;
	}
}

static int entry_start(struct guest *g, pid_t *pid, struct err *err)
{
	const struct bootconf *c = g->conf;
	struct creds creds;
	cleanup_fd int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	cleanup_fd int con = open("/dev/console", O_WRONLY | O_NOCTTY | O_CLOEXEC);
	cleanup_fd int tty = -1;
	struct err e = ERR_INIT;
	pid_t journal;
	struct spawn s = {.argv = c->argv,
			  .cwd = c->cwd && *c->cwd ? c->cwd : "/",
			  .creds = &creds,
			  .fd = {null, con >= 0 ? con : null, con >= 0 ? con : null},
			  .cgroup = guest_work(g)};
	char **env;
	int r;

	if (null < 0)
		return err_errno(err, "open /dev/null");
	r = users_resolve(g->root, c->user, &creds, err);
	if (r < 0)
		return r;
	env = spawn_env(c->env, NULL, creds.home, false);
	if (!env)
		return err_set(err, ENOMEM, "out of memory");
	s.env = env;
	/* Without a journal the console has it all the same; only log: conditions are refused. */
	if (journal_start(&g->journal, con, &tty, &journal, &e) < 0)
		log_warn("%s", e.msg);
	else
		s.fd[1] = s.fd[2] = tty;
	r = spawn(&s, pid, err);
	strv_free(env);
	return r;
}

/* An entrypoint that cannot start has ended, with the status a shell would give it. */
static void entry_begin(struct init *in)
{
	struct guest *g = in->g;
	struct err e = ERR_INIT;
	int p[2];

	in->ended_wr = g->ended_rd = -1;
	if (!g->conf->argv || !g->conf->argv[0])
		return;
	if (pipe2(p, O_CLOEXEC) < 0) {
		log_err("entrypoint: pipe: %s", strerror(errno));
		return;
	}
	g->ended_rd = p[0];
	in->ended_wr = p[1];
	if (entry_start(g, &in->entry, &e) < 0) {
		const struct agent_exit x = {.kind = AGENT_EXIT_CODE,
					     .value = e.code == ENOENT ? 127 : 126};

		log_err("entrypoint: %s", e.msg);
		entry_ended(in, &x);
		return;
	}
	guest_lock(g);
	g->shared->entry_state = AGENT_ENTRY_RUNNING;
	g->shared->entry_pid = in->entry;
	guest_unlock(g);
}

/* ---- sessions ------------------------------------------------------------------------------ */

static void count_sessions(struct init *in, int by)
{
	guest_lock(in->g);
	in->g->shared->sessions += (uint32_t)by;
	guest_unlock(in->g);
}

static unsigned free_slot(const struct init *in)
{
	unsigned i = 0;

	while (i < INIT_SESSIONS_MAX && in->session[i])
		i++;
	return i;
}

/* fork(2) into a slot; what is process 1's alone the child does not have. */
static pid_t session_fork(struct init *in, unsigned slot)
{
	sigset_t none;
	pid_t p = fork();

	if (p > 0)
		in->session[slot] = p;
	if (p != 0)
		return p;
	/* Held by another, nobody would see the end of `ended`. */
	if (in->ended_wr >= 0)
		close(in->ended_wr);
	close(in->signals);
	close(in->power_rd);
	close(in->taken_rd);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	return 0;
}

static void session_begin(struct init *in, int fd)
{
	const unsigned slot = free_slot(in);
	struct err e = ERR_INIT;
	pid_t p;

	if (slot == INIT_SESSIONS_MAX) {
		err_set(&e, EBUSY, "%u sessions are open, the most there may be", slot);
		log_warn("session refused: %s", e.msg);
		session_refuse(fd, &e);
		return;
	}
	count_sessions(in, 1);
	p = session_fork(in, slot);
	if (p < 0) {
		count_sessions(in, -1);
		log_warn("session refused: fork: %s", strerror(errno));
	}
	if (p != 0)
		return;
	close(in->taken_wr);
	close(in->listener);
	session_serve(in->g, fd);
	_exit(0);
}

/* The next connection of the host's, or -1: there is none now. */
static int accept_one(struct init *in)
{
	for (;;) {
		struct sockaddr_vm peer = {0};
		socklen_t len = sizeof(peer);
		cleanup_fd int fd =
			accept4(in->listener, (struct sockaddr *)&peer, &len, SOCK_CLOEXEC);

		if (fd < 0) {
			if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
				log_warn("accept: %s", strerror(errno));
			return -1;
		}
		/* Sessions are root's: a program in the guest gets none by vsock's loopback. */
		if (peer.svm_cid == VMADDR_CID_HOST)
			return steal_fd(&fd);
		log_warn("session refused: from CID %u, not the host", peer.svm_cid);
	}
}

static void accept_all(struct init *in)
{
	for (;;) {
		cleanup_fd int fd = accept_one(in);

		if (fd < 0)
			return;
		session_begin(in, fd);
	}
}

/* ---- the spare one -------------------------------------------------------------------------- */

static void spare_run(struct init *in)
{
	struct pollfd p = {.fd = in->listener, .events = POLLIN};
	int fd;

	do
		poll(&p, 1, -1);
	while ((fd = accept_one(in)) < 0);
	guest_lock(in->g);
	in->g->shared->sessions++;
	in->g->shared->spare_taken = true;
	guest_unlock(in->g);
	(void)!write(in->taken_wr, "", 1);
	close(in->taken_wr);
	close(in->listener);
	session_serve(in->g, fd);
	_exit(0);
}

/* The last slot is for whoever comes: one is not refused for the sake of a spare. */
static void spare_make(struct init *in)
{
	const unsigned slot = free_slot(in);
	pid_t p;

	in->spare_us = 0;
	if (in->listener < 0 || slot >= INIT_SESSIONS_MAX - 1)
		return;
	in->g->shared->spare_taken = false;
	p = session_fork(in, slot);
	if (p == 0)
		spare_run(in);
	if (p < 0) {
		log_warn("a spare session: fork: %s", strerror(errno));
		in->spare_us = monotonic_us() + SPARE_AGAIN_US;
	} else {
		in->spare = p;
	}
}

static void spare_gone(struct init *in)
{
	char c[8];

	while (read(in->taken_rd, c, sizeof(c)) > 0)
		;
	in->spare = 0;
	in->spare_us = monotonic_us() + SPARE_BUSY_US;
}

/* There may have been no room for one; and one that waits for a session's request to be done with
 * need not wait on. */
static void spare_soon(struct init *in)
{
	const uint64_t soon = monotonic_us() + SPARE_AFTER_US;

	if (!in->spare && (!in->spare_us || in->spare_us > soon))
		in->spare_us = soon;
}

/* ---- the dead ------------------------------------------------------------------------------ */

static void reap_all(struct init *in)
{
	int status;
	pid_t p;

	while ((p = waitpid(-1, &status, WNOHANG)) > 0) {
		for (unsigned i = 0; i < INIT_SESSIONS_MAX; i++) {
			if (in->session[i] != p)
				continue;
			in->session[i] = 0;
			/* The spare one is a session, and counted, from its connection on. */
			if (p != in->spare || in->g->shared->spare_taken)
				count_sessions(in, -1);
			if (p == in->spare)
				spare_gone(in);
			spare_soon(in);
			control_release_dead(in->g, p);
		}
		if (p == in->entry) {
			struct agent_exit x = {.kind = AGENT_EXIT_CODE,
					       .value = (uint32_t)WEXITSTATUS(status)};

			if (WIFSIGNALED(status))
				x = (struct agent_exit){.kind = AGENT_EXIT_SIGNAL,
							.value = (uint32_t)WTERMSIG(status)};
			entry_ended(in, &x);
		}
	}
}

static void on_signal(struct init *in)
{
	struct signalfd_siginfo si;

	while (read(in->signals, &si, sizeof(si)) == sizeof(si)) {
		if (si.ssi_signo == SIGCHLD) {
			reap_all(in);
		} else {
			/* SIGINT is ctrl-alt-del, SIGPWR a power button; kill 1 asks the same. */
			in->off = true;
			in->grace_ms = 5000;
		}
	}
}

uint32_t init_run(struct guest *g, int listener)
{
	struct init in = {.g = g, .listener = listener};
	sigset_t set;
	int p[2];

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGPWR);
	sigprocmask(SIG_BLOCK, &set, NULL);
	in.signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	if (in.signals < 0 || pipe2(p, O_CLOEXEC | O_NONBLOCK) < 0) {
		log_err("process 1: %s", strerror(errno));
		return 0;
	}
	in.power_rd = p[0];
	g->power_wr = p[1];
	if (pipe2(p, O_CLOEXEC | O_NONBLOCK) < 0) {
		log_err("process 1: %s", strerror(errno));
		return 0;
	}
	in.taken_rd = p[0];
	in.taken_wr = p[1];
	g->ready_ms = boottime_ms();
	entry_begin(&in);
	log_info("ready after %llu ms: %s, generation %llu", (unsigned long long)g->ready_ms,
		 g->rootfs, (unsigned long long)g->shared->generation);
	spare_make(&in);
	while (!in.off) {
		const uint64_t now = monotonic_us();

		if (in.spare_us && now >= in.spare_us)
			spare_make(&in);
		struct pollfd pfd[4] = {{.fd = in.spare ? -1 : in.listener, .events = POLLIN},
					{.fd = in.signals, .events = POLLIN},
					{.fd = in.power_rd, .events = POLLIN},
					{.fd = in.taken_rd, .events = POLLIN}};

		if (poll(pfd, ARRAY_SIZE(pfd),
			 in.spare_us ? (int)((in.spare_us - now) / 1000) + 1 : -1) < 0 &&
		    errno != EINTR)
			break;
		if (pfd[3].revents)
			spare_gone(&in);
		if (pfd[1].revents)
			on_signal(&in);
		if (pfd[0].revents)
			accept_all(&in);
		if (pfd[2].revents &&
		    read(in.power_rd, &in.grace_ms, sizeof(in.grace_ms)) == sizeof(in.grace_ms))
			in.off = true;
	}
	return in.grace_ms;
}

/* Until `who` (0: every child) has been reaped, or `end`, in monotonic microseconds, has come. */
static bool wait_children(pid_t who, uint64_t end)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	for (;;) {
		struct timespec left;
		uint64_t now;
		pid_t p;

		while ((p = waitpid(-1, NULL, WNOHANG)) > 0)
			if (p == who)
				return true;
		if (p < 0 && errno == ECHILD)
			return true;
		now = monotonic_us();
		if (now >= end)
			return false;
		left.tv_sec = (time_t)((end - now) / 1000000);
		left.tv_nsec = (long)((end - now) % 1000000 * 1000);
		sigtimedwait(&set, NULL, &left);
	}
}

/*
 * The entrypoint first: it may need what it has started to end in order. Then everybody, and what
 * has not ended by then is killed.
 */
static void end_all(struct guest *g, uint32_t grace_ms)
{
	uint64_t end = monotonic_us() + MIN(grace_ms, GRACE_MAX_MS) * 1000ull;
	pid_t entry;

	guest_lock(g);
	entry = g->shared->entry_state == AGENT_ENTRY_RUNNING ? g->shared->entry_pid : 0;
	guest_unlock(g);
	if (entry && kill(entry, SIGTERM) == 0 && !wait_children(entry, end))
		log_warn("the entrypoint did not end in %u ms", grace_ms);
	kill(-1, SIGTERM);
	if (!wait_children(0, MAX(end, monotonic_us() + MIN(grace_ms, REST_MS) * 1000ull))) {
		kill(-1, SIGKILL);
		wait_children(0, monotonic_us() + 1000000);
	}
}

void init_power_off(struct guest *g, uint32_t grace_ms)
{
	struct err e = ERR_INIT;

	log_info("powering off");
	if (g->cgroup && cgroup_freeze(g->cgroup, false, 1000, &e) < 0)
		log_warn("%s", e.msg);
	end_all(g, grace_ms);
	sync();
	for (unsigned i = g->conf->ndisks; i-- > 0;)
		if (umount2(g->conf->disk[i].path, 0) < 0)
			log_warn("unmount %s: %s", g->conf->disk[i].path, strerror(errno));
	sync();
	reboot(RB_POWER_OFF);
	/* Only without privilege or ACPI does it come back: the processor is still to be stopped.
	 */
	reboot(RB_HALT_SYSTEM);
	for (;;)
		pause();
}
