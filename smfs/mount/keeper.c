#include "smfs/mount/keeper.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"
#include "smfs/mount/keeper_sock.h"
#include "smfs/mount/takeover.h"

#define SECOND	      ((uint64_t)1000000000)
#define TICK_MS	      500
#define START_SECONDS 10 /* for a worker to get ready, if the watchdog is quicker */
/* Out of the way of the numbers workers are given. */
#define FIRST_FD 64

enum state { NONE, STARTING, PREPARED, GONE_ON, SERVING };

struct worker {
	enum state state;
	pid_t pid;
	int sock;
	uint64_t since; /* when it came into its state */
	uint64_t taken; /* by all before it */
	uint64_t refused;
	uint64_t killed; /* when the watchdog did; 0 */
};

struct keeper {
	const struct keeper_config *cfg;
	struct takeover *takeover;
	struct takeover_area *area;
	int dev[CHANNEL_THREADS], table, signals, listener, client;
	int lease;	    /* of the last one that served, or -1 */
	int exe, other_exe; /* to start from; what to go back to, or to go to, or -1 */
	struct worker cur, next;
	bool told, ended;
	int status;
	unsigned strikes, nsignals, minor;
	uint64_t died;	   /* when the last one did */
	uint64_t served;   /* when the last one that served did */
	uint64_t start_at; /* a replacement is due then; 0: none is */
	/* Watchdog: */
	uint64_t seen_taken, progress_at;
	bool doubt;
	uint64_t ended_at; /* the connection, with a server still there; 0 */
};

static int move_up(int *fd)
{
	int up = fcntl(*fd, F_DUPFD_CLOEXEC, FIRST_FD);

	close(*fd);
	*fd = up;
	return up < 0 ? -1 : 0;
}

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * SECOND + (uint64_t)ts.tv_nsec;
}

static uint64_t taken(const struct keeper *k)
{
	uint64_t n = 0;

	for (size_t i = 0; i < CHANNEL_THREADS; i++)
		n += atomic_load(&k->area->channel.slots[i].taken);
	return n;
}

static void enter(struct worker *w, enum state state)
{
	w->state = state;
	w->since = now();
}

static uint64_t patience(const struct keeper *k)
{
	return MAX(k->cfg->watchdog, (unsigned)START_SECONDS) * SECOND;
}

/* The kernel has ended the connection. */
static bool disconnected(const struct keeper *k)
{
	struct pollfd p = {.fd = k->dev[0]};

	return poll(&p, 1, 0) == 1 && p.revents & (POLLERR | POLLHUP);
}

static void finish(struct keeper *k, int status)
{
	k->ended = true;
	k->status = status;
}

static void report(struct keeper *k, const struct err *err)
{
	if (!k->told && k->cfg->ready(k->cfg->arg, err) < 0)
		finish(k, EXIT_FAILED);
	k->told = true;
}

/* The users of the mount get errors instead of waiting for ever. */
static void give_up(struct keeper *k, const char *why)
{
	log_err("%s: %s: the connection is ended; `smfs unmount` clears the mount away",
		k->area->dir, why);
	finish(k, EXIT_FAILED);
	/* Once it has ended, another mount may have its number. */
	if (disconnected(k))
		return;
	/* Our end of it is closed as we exit; this also frees a worker that cannot be killed. */
	keeper_abort(k->minor, k->area->dir);
}

/* ---- workers --------------------------------------------------------------------------------- */

static void become_worker(struct keeper *k, int sock, int exe, char *const *argv)
{
	sigset_t none;
	bool ok = dup2(sock, KEEPER_FD_CONTROL) >= 0 && dup2(k->table, KEEPER_FD_TABLE) >= 0;

	for (int i = 0; ok && i < CHANNEL_THREADS; i++)
		ok = dup2(k->dev[i], KEEPER_FD_DEVICE + i) >= 0;
	/* The terminal's signals are the keeper's, which passes them on. */
	setsid();
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (ok && close_range(KEEPER_FD_END, UINT_MAX, CLOSE_RANGE_CLOEXEC) == 0)
		syscall(SYS_execveat, exe, "", argv, environ, AT_EMPTY_PATH);
	_exit(127);
}

static int start(struct keeper *k, struct worker *w, int exe, char *const *argv, struct err *err)
{
	int sock[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sock) < 0)
		return err_errno(err, "start a server: socketpair");
	pid_t pid = fork();
	if (pid < 0) {
		int r = err_errno(err, "start a server: fork");

		close(sock[0]);
		close(sock[1]);
		return r;
	}
	if (pid == 0)
		become_worker(k, sock[1], exe, argv);
	close(sock[1]);
	*w = (struct worker){.pid = pid,
			     .sock = sock[0],
			     .taken = taken(k),
			     .refused = atomic_load(&k->area->channel.refused)};
	enter(w, STARTING);
	return 0;
}

static void forget(struct worker *w)
{
	if (w->sock >= 0)
		close(w->sock);
	*w = (struct worker){.sock = -1};
}

/* It says no more; its death comes by signal. */
static void hang_up(struct worker *w)
{
	close(w->sock);
	w->sock = -1;
}

static void go(struct keeper *k, struct worker *w)
{
	enter(w, GONE_ON);
	k->progress_at = w->since;
	keeper_tell(w->sock, KEEPER_GO, NULL, -1);
}

static void answer_client(struct keeper *k, const struct err *err)
{
	if (k->client < 0)
		return;
	if (send(k->client, err, sizeof(*err), MSG_NOSIGNAL) < 0)
		log_info("answer `smfs remount`: %s", strerror(errno));
	close(k->client);
	k->client = -1;
}

/* The next worker will not be; nothing has changed for the one that serves. */
static void drop_next(struct keeper *k, const struct err *err)
{
	if (k->next.state != NONE) {
		kill(k->next.pid, SIGKILL);
		waitpid(k->next.pid, NULL, 0);
		forget(&k->next);
	}
	if (k->other_exe >= 0)
		close(k->other_exe);
	k->other_exe = -1;
	log_warn("remount: %s; the server stays as it was", err->msg);
	answer_client(k, err);
}

static void schedule(struct keeper *k)
{
	k->start_at = now() + k->strikes * SECOND / 10;
}

static void start_replacement(struct keeper *k)
{
	struct err err = ERR_INIT;

	k->start_at = 0;
	if (start(k, &k->cur, k->exe, k->cfg->next, &err) == 0)
		return;
	log_err("%s", err.msg);
	if (++k->strikes >= KEEPER_STRIKES)
		give_up(k, "no server can be started");
	else
		schedule(k);
}

static void promote(struct keeper *k)
{
	int exe = k->exe;

	k->cur = k->next;
	k->next = (struct worker){.sock = -1};
	/* To go back to, until the new one serves. */
	k->exe = k->other_exe;
	k->other_exe = exe;
	go(k, &k->cur);
}

static const char *manner(int status, char buf[64])
{
	if (WIFSIGNALED(status))
		snprintf(buf, 64, "signal %d, %s", WTERMSIG(status), strsignal(WTERMSIG(status)));
	else
		snprintf(buf, 64, "exit status %d", WEXITSTATUS(status));
	return buf;
}

static void replace(struct keeper *k, const struct worker *was, int status)
{
	char how[64];
	bool by_itself = was->killed || !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL;
	/*
	 * More than can be at work at once: some were answered. Or one that had cost servers was:
	 * who reads a page through readahead, for example, asks again, which costs as many.
	 */
	bool progress = taken(k) - was->taken > CHANNEL_THREADS ||
			atomic_load(&k->area->channel.refused) > was->refused;

	if (was->state == SERVING)
		k->served = k->died;
	log_warn("server %d of %s died (%s)", (int)was->pid, k->area->dir, manner(status, how));
	if (by_itself)
		channel_suspect(&k->area->channel);
	else
		for (size_t i = 0; i < CHANNEL_THREADS; i++)
			atomic_store(&k->area->channel.slots[i].unique, 0);
	if (progress || (was->state == SERVING && !by_itself))
		k->strikes = 0;
	else
		k->strikes += by_itself;
	if (was->state == GONE_ON && k->other_exe >= 0) {
		struct err err = ERR_INIT;

		err_set(&err, EIO,
			"remount: the new server died (%s); the old program serves again", how);
		log_err("%s", err.msg);
		answer_client(k, &err);
		close(k->exe);
		k->exe = k->other_exe;
		k->other_exe = -1;
	}
	if (k->next.state == PREPARED)
		promote(k);
	else if (k->strikes >= KEEPER_STRIKES)
		give_up(k, "servers die as they start");
	else if (k->served + KEEPER_PATIENCE_SECONDS * SECOND < now())
		give_up(k, "no server has stayed alive");
	else
		schedule(k);
}

static void died(struct keeper *k, pid_t pid, int status)
{
	struct err err = ERR_INIT;
	char how[64];

	if (k->next.state != NONE && pid == k->next.pid) {
		forget(&k->next);
		err_set(&err, EIO, "the new server ended before it was ready (%s)",
			manner(status, how));
		drop_next(k, &err);
		return;
	}
	if (k->cur.state == NONE || pid != k->cur.pid)
		return;
	struct worker was = k->cur;
	k->died = now();
	forget(&k->cur);
	if (!k->told) {
		err_set(&err, EIO, "mount: the server ended before it was ready (%s)",
			manner(status, how));
		report(k, &err);
		/* It may have come as far as mounting. */
		if (k->area->dir[0])
			umount2(k->area->dir, MNT_DETACH | MNT_FORCE);
		finish(k, EXIT_FAILED);
	} else if (WIFEXITED(status) && WEXITSTATUS(status) == KEEPER_DRAINED &&
		   k->next.state == PREPARED) {
		promote(k);
	} else if (disconnected(k)) {
		finish(k, EXIT_OK);
	} else if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_INTERRUPTED && k->nsignals) {
		finish(k, EXIT_INTERRUPTED);
	} else {
		replace(k, &was, status);
	}
}

/* ---- what workers say ------------------------------------------------------------------------ */

static void now_serving(struct keeper *k)
{
	uint64_t us = (now() - k->died) / 1000;

	enter(&k->cur, SERVING);
	atomic_store(&k->area->last_pause_us, us);
	if (us > atomic_load(&k->area->max_pause_us))
		atomic_store(&k->area->max_pause_us, us);
	log_warn("server %d of %s has taken over after %u ms", (int)k->cur.pid, k->area->dir,
		 (unsigned)(us / 1000));
	if (k->other_exe >= 0) {
		struct err none = ERR_INIT;

		close(k->other_exe);
		k->other_exe = -1;
		answer_client(k, &none);
	}
}

/* Of the one that serves now; what it has not leased itself by now, nobody needs. */
static void hold_lease(struct keeper *k, int fd)
{
	if (fd < 0)
		return;
	if (k->lease >= 0)
		close(k->lease);
	k->lease = fd;
	if (move_up(&k->lease) < 0)
		log_warn("hold the leases of the server: %s", strerror(errno));
}

static void hear_current(struct keeper *k)
{
	struct keeper_message m;
	int fd;

	if (keeper_hear(k->cur.sock, &m, &fd) < 0) {
		hang_up(&k->cur);
		return;
	}
	hold_lease(k, fd);
	if (m.say == KEEPER_READY && !k->told) {
		enter(&k->cur, SERVING);
		k->progress_at = k->cur.since;
		if (m.err.code == 0 && keeper_find(k->area->dir, &k->minor, &m.err) == 0)
			k->listener = keeper_listen(k->minor, &m.err);
		report(k, &m.err);
		if (m.err.code)
			finish(k, err_exit_code(m.err.code));
	} else if (m.say == KEEPER_READY && m.err.code) {
		log_err("take over %s: %s", k->area->dir, m.err.msg);
	} else if (m.say == KEEPER_READY) {
		go(k, &k->cur);
	} else if (m.say == KEEPER_SERVING) {
		now_serving(k);
	} else if (m.say == KEEPER_BUSY && k->next.state != NONE) {
		drop_next(k, &m.err);
	}
}

static void hear_next(struct keeper *k)
{
	struct keeper_message m;

	if (keeper_hear(k->next.sock, &m, NULL) < 0 || m.say != KEEPER_READY) {
		hang_up(&k->next);
	} else if (m.err.code) {
		drop_next(k, &m.err);
	} else {
		enter(&k->next, PREPARED);
		/* While nobody serves, it is the replacement. */
		if (k->cur.state == NONE)
			promote(k);
		else
			keeper_tell(k->cur.sock, KEEPER_DRAIN, NULL, -1);
	}
}

static void hear_client(struct keeper *k)
{
	char exe[PATH_MAX];
	struct err err = ERR_INIT;
	int client = keeper_accept(k->listener, exe);

	if (client < 0)
		return;
	if (k->client >= 0 || k->next.state != NONE || k->cur.state != SERVING) {
		err_set(&err, EBUSY, "remount: the server is being replaced already; try again");
		if (send(client, &err, sizeof(err), MSG_NOSIGNAL) < 0)
			log_info("answer `smfs remount`: %s", strerror(errno));
		close(client);
		return;
	}
	k->client = client;
	int fd = open(exe, O_RDONLY | O_CLOEXEC);
	k->other_exe = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, FIRST_FD);
	if (fd >= 0)
		close(fd);
	if (k->other_exe < 0)
		err_errno(&err, "open %s", exe);
	else
		start(k, &k->next, k->other_exe, k->cfg->next, &err);
	if (err.code)
		drop_next(k, &err);
}

/* ---- watchdog -------------------------------------------------------------------------------- */

static bool request_is_old(const struct keeper *k, uint64_t limit)
{
	uint64_t t = now();

	for (size_t i = 0; i < CHANNEL_THREADS; i++) {
		const struct channel_slot *s = &k->area->channel.slots[i];
		uint64_t since = atomic_load(&s->since_ns);

		if (atomic_load(&s->unique) && since + limit < t) {
			if (k->doubt)
				log_err("server %d of %s: thread %u is at request %u of inode %llu "
					"for %u s",
					(int)k->cur.pid, k->area->dir, atomic_load(&s->thread),
					atomic_load(&s->opcode),
					(unsigned long long)atomic_load(&s->node),
					(unsigned)((t - since) / SECOND));
			return true;
		}
	}
	return false;
}

/* Requests wait in the device, and none is taken. */
static bool is_deaf(struct keeper *k, uint64_t limit)
{
	struct pollfd p = {.fd = k->dev[0], .events = POLLIN};
	uint64_t n = taken(k);

	if (n != k->seen_taken || poll(&p, 1, 0) != 1 || !(p.revents & POLLIN)) {
		k->seen_taken = n;
		k->progress_at = now();
		return false;
	}
	if (k->progress_at + limit >= now())
		return false;
	if (k->doubt)
		log_err("server %d of %s takes no requests", (int)k->cur.pid, k->area->dir);
	return true;
}

static void kill_worker(struct keeper *k, struct worker *w)
{
	log_err("server %d of %s is killed", (int)w->pid, k->area->dir);
	w->killed = now();
	kill(w->pid, SIGKILL);
}

static void watch(struct keeper *k)
{
	uint64_t t = now(), limit = k->cfg->watchdog * SECOND;
	struct err err = ERR_INIT;

	if (k->next.state == STARTING && k->next.since + patience(k) < t) {
		err_set(&err, ETIMEDOUT, "the new server does not get ready");
		drop_next(k, &err);
	}
	if (k->next.state == PREPARED && k->next.since + patience(k) < t) {
		err_set(&err, ETIMEDOUT, "the old server does not come to an end");
		drop_next(k, &err);
		kill_worker(k, &k->cur);
	}
	if (k->cur.state == NONE || !k->told)
		return;
	if (k->cur.killed) {
		if (k->cur.killed + patience(k) < t)
			give_up(k, "a server hangs in the kernel and cannot be killed");
		return;
	}
	bool stuck;
	if (disconnected(k)) {
		/* It should have noticed, and have exited. */
		k->ended_at = k->ended_at ? k->ended_at : t;
		stuck = k->ended_at + patience(k) < t;
	} else if (k->cur.state == SERVING) {
		stuck = limit && (request_is_old(k, limit) || is_deaf(k, limit));
	} else {
		stuck = k->cur.since + patience(k) < t;
	}
	/* Twice in a row, as all of us may have been stopped for a while. */
	if (stuck && k->doubt)
		kill_worker(k, &k->cur);
	k->doubt = stuck && !k->doubt;
}

/* ---- the loop -------------------------------------------------------------------------------- */

static void on_signals(struct keeper *k)
{
	struct signalfd_siginfo si;
	int status;
	pid_t pid;

	while (read(k->signals, &si, sizeof(si)) == (ssize_t)sizeof(si)) {
		if (si.ssi_signo == SIGCHLD)
			continue;
		k->nsignals++;
		if (k->cur.state == NONE || k->nsignals > 2)
			finish(k, EXIT_INTERRUPTED);
		else
			kill(k->cur.pid, (int)si.ssi_signo);
	}
	while (!k->ended && (pid = waitpid(-1, &status, WNOHANG)) > 0)
		died(k, pid, status);
}

static int timeout(const struct keeper *k)
{
	uint64_t t = now();

	if (!k->start_at)
		return TICK_MS;
	return k->start_at <= t ? 0 : (int)MIN((k->start_at - t) / 1000000 + 1, (uint64_t)TICK_MS);
}

static void loop(struct keeper *k)
{
	uint64_t watched = 0;

	while (!k->ended) {
		struct pollfd p[] = {{.fd = k->signals, .events = POLLIN},
				     {.fd = k->cur.sock, .events = POLLIN},
				     {.fd = k->next.sock, .events = POLLIN},
				     {.fd = k->listener, .events = POLLIN}};

		if (poll(p, ARRAY_SIZE(p), timeout(k)) < 0 && errno != EINTR) {
			log_err("poll: %s", strerror(errno));
			return;
		}
		/* One thing at a time: each may change what the others are about. */
		if (p[1].revents & POLLIN)
			hear_current(k);
		else if (p[2].revents & POLLIN)
			hear_next(k);
		else if (p[3].revents & POLLIN)
			hear_client(k);
		else if (p[0].revents & POLLIN)
			on_signals(k);
		else if (k->start_at && k->start_at <= now())
			start_replacement(k);
		if (now() - watched >= TICK_MS * (SECOND / 1000)) {
			watched = now();
			watch(k);
		}
	}
}

static int set_up(struct keeper *k, struct err *err)
{
	sigset_t set;
	int r = channel_open_devices(k->dev, err);

	if (r < 0)
		return r;
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	k->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	k->exe = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	if (k->signals < 0 || k->exe < 0)
		return err_errno(err, k->exe < 0 ? "open /proc/self/exe" : "signalfd");
	k->table = takeover_create(err);
	if (k->table < 0)
		return k->table;
	bool ok = move_up(&k->exe) == 0 && move_up(&k->table) == 0;
	for (size_t i = 0; i < CHANNEL_THREADS; i++)
		ok = move_up(&k->dev[i]) == 0 && ok;
	if (!ok)
		return err_errno(err, "mount: duplicate a descriptor");
	r = takeover_map(k->table, &k->takeover, err);
	if (r < 0)
		return r;
	k->area = takeover_area(k->takeover);
	atomic_store(&k->area->keeper, (int32_t)getpid());
	return 0;
}

int keeper_run(const struct keeper_config *cfg)
{
	struct keeper k = {.cfg = cfg,
			   .listener = -1,
			   .client = -1,
			   .other_exe = -1,
			   .exe = -1,
			   .lease = -1,
			   .cur.sock = -1,
			   .next.sock = -1};
	struct err err = ERR_INIT;
	int r = set_up(&k, &err);

	if (r == 0)
		r = start(&k, &k.cur, k.exe, cfg->first, &err);
	if (r < 0) {
		cfg->ready(cfg->arg, &err);
		return err_exit_code(err.code);
	}
	loop(&k);
	/* What a worker still has of the connection must not keep it. */
	if (k.next.state != NONE)
		kill(k.next.pid, SIGKILL);
	if (k.cur.state != NONE && k.told) {
		kill(k.cur.pid, SIGKILL);
	} else if (k.cur.state != NONE) {
		waitpid(k.cur.pid, NULL, 0);
	}
	takeover_unmap(k.takeover);
	return k.status;
}
