#include "runner/pool/pool_priv.h"

#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runner/control/rundir.h"
#include "runner/control/where.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/log.h"
#include "smfs/base/notify.h"
#include "smfs/base/num.h"
#include "smfs/base/signals.h"

#define STARTING_MAX   4       /* at once: they want processors */
#define PATIENCE_US    5000000 /* for a worker to end once it is told to */
#define QUIT_US	       (LINE_DEADLINE_MS * 1000ull + 1000000) /* its own limit for that, and some */
#define PLAN_US	       100000 /* how often memory is looked at when it was short */
#define BACKOFF_MS     100
#define PORTS_TOLD_MAX 65536 /* bytes */
#define BACKOFF_MAX    5000

/* ---- counting ------------------------------------------------------------------------------- */

static struct plan_in count(const struct pool *p)
{
	struct plan_in in = {.min = p->cfg->min,
			     .max = p->cfg->max,
			     .waiting = p->nwaiting,
			     .vm_bytes = p->cfg->vm_bytes,
			     .reserve = p->cfg->reserve_bytes};
	const uint64_t now = monotonic_us();

	for (size_t i = 0; i < POOL_MEMBERS_MAX; i++) {
		const struct member *m = p->member[i];

		if (!m || m->state == MEMBER_DEAD)
			continue;
		in.warm += m->state == MEMBER_WARM;
		in.claimed += m->state == MEMBER_CLAIMED;
		in.coming += m->state == MEMBER_STARTING || m->state == MEMBER_RESETTING;
		in.idle += m->state == MEMBER_WARM &&
			   now - m->since_us >= p->cfg->idle_ms * (uint64_t)1000;
	}
	return in;
}

static void measure(struct pool *p, struct plan_in *in)
{
	in->available = room_available(&p->room);
	for (size_t i = 0; i < POOL_MEMBERS_MAX; i++)
		if (p->member[i] && p->member[i]->state != MEMBER_DEAD)
			in->promised +=
				in->vm_bytes - MIN(room_taken(p->member[i]->pid), in->vm_bytes);
}

struct plan_in pool_survey(struct pool *p)
{
	struct plan_in in = count(p);

	measure(p, &in);
	return in;
}

static unsigned starting(const struct pool *p)
{
	unsigned n = 0;

	for (size_t i = 0; i < POOL_MEMBERS_MAX; i++)
		n += p->member[i] && p->member[i]->state == MEMBER_STARTING;
	return n;
}

/* ---- members -------------------------------------------------------------------------------- */

static void start_failed(struct pool *p, const struct err *why)
{
	const uint64_t ms =
		MIN((uint64_t)BACKOFF_MS << MIN(p->failures, 10u), (uint64_t)BACKOFF_MAX);

	p->last_failure = *why;
	p->start_again_us = monotonic_us() + ms * 1000;
	p->failures++;
}

static void start_one(struct pool *p)
{
	struct member **slot = NULL;
	struct err err = ERR_INIT;

	for (size_t i = 0; i < POOL_MEMBERS_MAX && !slot; i++)
		if (!p->member[i])
			slot = &p->member[i];
	if (!slot || !(*slot = malloc(sizeof(**slot))))
		return;
	if (member_spawn(*slot, p->cfg, p->worker_socket, &err) < 0) {
		log_err("pool: %s", err.msg);
		start_failed(p, &err);
		free(*slot);
		*slot = NULL;
		return;
	}
	p->count.started++;
}

/* The one that has been idle for the longest. */
static void end_one(struct pool *p)
{
	struct member *oldest = NULL;

	for (size_t i = 0; i < POOL_MEMBERS_MAX; i++) {
		struct member *m = p->member[i];

		if (m && m->state == MEMBER_WARM && (!oldest || m->since_us < oldest->since_us))
			oldest = m;
	}
	if (!oldest)
		return;
	oldest->state = MEMBER_DEAD;
	oldest->since_us = monotonic_us();
	member_end(oldest, false);
	oldest->deadline_us = oldest->since_us + PATIENCE_US;
}

static void carry_out_plan(struct pool *p)
{
	const uint64_t now = monotonic_us();
	struct plan_in in = count(p);
	struct plan_out out;

	/* A file of each member's is read: not at every request. */
	if (plan_wants_more(&in))
		measure(p, &in);
	out = plan(&in);
	p->short_of_memory = out.short_of_memory;
	p->replan_us = out.short_of_memory || in.warm > in.min ? now + PLAN_US : 0;
	for (unsigned n = starting(p); out.start && n < STARTING_MAX; n++, out.start--) {
		if (now < p->start_again_us)
			break;
		start_one(p);
	}
	for (; out.end; out.end--)
		end_one(p);
}

static struct client *client_of(struct pool *p, uint64_t number)
{
	struct client *c;

	TAILQ_FOREACH (c, &p->clients, all)
		if (number && c->number == number)
			return c;
	return NULL;
}

/* Its worker is gone or going; who has its machine is told. */
static void bury(struct pool *p, struct member *m)
{
	struct client *c = client_of(p, m->owner);

	if (m->claim) {
		p->count.lost++;
		if (c)
			client_say(c, "LOST claim=%" PRIu64 " vm=%s code=%s %s", m->claim, m->vm,
				   line_error_name(m->why.code), m->why.msg);
	}
	if (!m->proven)
		start_failed(p, &m->why);
	p->count.died++;
	m->claim = m->owner = 0;
	member_end(m, false);
	m->deadline_us = monotonic_us() + PATIENCE_US;
}

/* A worker that was killed leaves a directory, which whoever lists machines next removes. */
static void sweep_run_directories(void)
{
	struct rundir **all;
	size_t n = 0;

	if (rundir_list(&all, &n, NULL) < 0)
		return;
	for (size_t i = 0; i < n; i++)
		rundir_release(all[i]);
	free(all);
}

static void tend(struct pool *p, struct member **slot)
{
	struct member *m = *slot;
	const uint64_t now = monotonic_us();

	if (m->ended)
		member_die(m, ECHILD, "its process has ended");
	if (m->state != MEMBER_DEAD && m->deadline_us && now >= m->deadline_us)
		member_die(m, ETIMEDOUT, "it took too long");
	if (m->state == MEMBER_DEAD && m->why.code && !m->buried) {
		m->buried = true;
		bury(p, m);
	}
	if (m->state == MEMBER_DEAD && !m->ended && m->deadline_us && now >= m->deadline_us) {
		member_end(m, true);
		m->deadline_us = 0;
	}
	if (!m->proven &&
	    (m->state == MEMBER_CLAIMED || (m->state == MEMBER_WARM && member_lasts(m)))) {
		m->proven = true;
		p->failures = 0;
	}
	if (m->state == MEMBER_DEAD && m->ended) {
		member_end(m, false);
		free(m);
		*slot = NULL;
		sweep_run_directories();
	}
}

static void tend_all(struct pool *p)
{
	for (size_t i = 0; i < POOL_MEMBERS_MAX; i++)
		if (p->member[i])
			tend(p, &p->member[i]);
}

static void reap(struct pool *p)
{
	pid_t pid;

	while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
		for (size_t i = 0; i < POOL_MEMBERS_MAX; i++)
			if (p->member[i] && p->member[i]->pid == pid)
				p->member[i]->ended = true;
}

/* Whose connection this is tells the kernel. */
static void accept_member(struct pool *p)
{
	cleanup_fd int fd = accept4(p->worker_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct ucred who;
	socklen_t n = sizeof(who);

	if (fd < 0)
		pool_accept_failed(p);
	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &n) < 0)
		return;
	for (size_t i = 0; i < POOL_MEMBERS_MAX; i++) {
		struct member *m = p->member[i];

		if (m && m->pid == who.pid && m->state == MEMBER_STARTING && m->fd < 0) {
			member_connected(m, steal_fd(&fd));
			return;
		}
	}
	log_warn("pool: process %d is no worker of this pool", (int)who.pid);
}

/* ---- the loop ------------------------------------------------------------------------------- */

static void sooner(uint64_t *next, uint64_t when)
{
	if (when && (!*next || when < *next))
		*next = when;
}

static int wait_ms(const struct pool *p)
{
	const uint64_t now = monotonic_us();
	const struct waiter *w;
	uint64_t next = p->replan_us;

	TAILQ_FOREACH (w, &p->waiters, queue)
		sooner(&next, w->deadline_us);
	for (size_t i = 0; i < POOL_MEMBERS_MAX; i++)
		if (p->member[i])
			sooner(&next, p->member[i]->deadline_us);
	if (p->start_again_us > now)
		sooner(&next, p->start_again_us);
	if (p->accept_again_us > now)
		sooner(&next, p->accept_again_us);
	return !next ? -1 : next <= now ? 0 : (int)MIN((next - now) / 1000 + 1, (uint64_t)60000);
}

static void take_signals(struct pool *p)
{
	struct signalfd_siginfo si;

	while (read(p->signal_fd, &si, sizeof(si)) == sizeof(si))
		if (si.ssi_signo != SIGCHLD) {
			p->hurried = p->stopping;
			p->stopping = true;
		}
	reap(p);
}

static bool at_end(int fd)
{
	char text[256];
	ssize_t n = read(fd, text, sizeof(text));

	return n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN);
}

static void see_warm_up(struct pool *p, struct member *m)
{
	p->warm_up_fails = m->warmed ? 0 : p->warm_up_fails + m->warm_up_fails;
	m->warmed = false;
	m->warm_up_fails = 0;
	if (!p->warms || p->warm_up_fails < MEMBER_WARM_UP_TRIES)
		return;
	p->warms = false;
	log_info("pool: its machines are not warmed up; what is first run in one takes longer");
}

/* Those that nobody waits for: it takes the processor's time from nobody's way but theirs. */
static void warm_up(struct pool *p)
{
	for (size_t i = 0; i < POOL_MEMBERS_MAX; i++) {
		struct member *m = p->member[i];

		if (!m)
			continue;
		see_warm_up(p, m);
		if (p->warms && m->state == MEMBER_WARM && m->cold)
			member_warm_up(m, p->cfg->warm_up);
	}
}

static void turn(struct pool *p)
{
	/* No more than there are descriptors: poll(2) takes as many as may be open. */
	struct pollfd f[4 + POOL_MEMBERS_MAX + CLIENTS_MAX];
	struct member *member[POOL_MEMBERS_MAX];
	struct client *c;
	nfds_t n = 4, clients, k;

	f[0] = (struct pollfd){.fd = p->signal_fd, .events = POLLIN};
	/* Who cannot be taken now waits in line. */
	const bool looks = monotonic_us() >= p->accept_again_us;
	f[1] = (struct pollfd){.fd = looks ? p->worker_fd : -1, .events = POLLIN};
	f[2] = (struct pollfd){.fd = looks && p->nclients < CLIENTS_MAX ? p->listen_fd : -1,
			       .events = POLLIN};
	f[3] = (struct pollfd){.fd = p->stopping ? -1 : p->cfg->lifeline_fd, .events = POLLIN};
	for (size_t i = 0; i < POOL_MEMBERS_MAX; i++)
		if (p->member[i] && p->member[i]->fd >= 0) {
			member[n - 4] = p->member[i];
			f[n++] = (struct pollfd){.fd = p->member[i]->fd, .events = POLLIN};
		}
	clients = n;
	TAILQ_FOREACH (c, &p->clients, all)
		f[n++] = (struct pollfd){.fd = c->fd, .events = POLLIN};
	if (poll(f, n, wait_ms(p)) < 0 && errno != EINTR) {
		log_err("pool: wait: %m");
		p->stopping = true;
		return;
	}
	/* A machine that has become ready is there for whoever asks in this turn. */
	for (k = 4; k < clients; k++)
		if (f[k].revents)
			member_read(member[k - 4], p->snapshot);
	/* Who has lost its machine hears of that before it is told that there is no such claim. */
	tend_all(p);
	pool_serve_waiters(p);
	k = clients;
	TAILQ_FOREACH (c, &p->clients, all)
		if (f[k++].revents)
			pool_read_client(p, c);
	if (f[0].revents)
		take_signals(p);
	if (f[1].revents)
		accept_member(p);
	if (f[2].revents)
		pool_accept_client(p);
	if (f[3].revents && at_end(p->cfg->lifeline_fd))
		p->stopping = true;
	tend_all(p);
	pool_serve_waiters(p);
	pool_time_out_waiters(p);
	/* Last: any answer may have found that its client is gone. */
	pool_drop_gone(p);
	if (!p->stopping) {
		warm_up(p);
		carry_out_plan(p);
	}
}

static bool any_member(const struct pool *p)
{
	for (size_t i = 0; i < POOL_MEMBERS_MAX; i++)
		if (p->member[i])
			return true;
	return false;
}

static void hurry(struct pool *p)
{
	const uint64_t now = monotonic_us();

	for (size_t i = 0; i < POOL_MEMBERS_MAX; i++)
		if (p->member[i] && p->member[i]->deadline_us > now)
			p->member[i]->deadline_us = now;
}

/*
 * Nobody is served any more; workers end as their connections do, once they have written what they
 * were asked to, or are killed.
 */
static void stop(struct pool *p)
{
	pool_refuse_all(p);
	for (size_t i = 0; i < POOL_MEMBERS_MAX; i++)
		if (p->member[i]) {
			struct member *m = p->member[i];

			m->state = MEMBER_DEAD;
			m->why.code = 0;
			member_end(m, false);
			m->deadline_us = monotonic_us() + QUIT_US;
		}
	pool_drop_all(p);
	while (any_member(p)) {
		if (p->hurried)
			hurry(p);
		turn(p);
	}
	/* Who has come meanwhile was told that it ends. */
	pool_drop_all(p);
}

/* ---- begin and end -------------------------------------------------------------------------- */

/* STATUS has the ports of all machines, in what a socket takes at once. */
static int check_ports(const struct pool_config *cfg, struct err *err)
{
	char text[FORWARD_TEXT_MAX];
	size_t bytes = 0;

	for (unsigned i = 0; i < cfg->nforwards; i++)
		bytes += strlen(forward_text(&cfg->forward[i], UINT16_MAX, text)) + sizeof("\"\",");
	if (bytes * cfg->max <= PORTS_TOLD_MAX)
		return 0;
	return err_set(err, E2BIG,
		       "%u ports of each of %u machines are more than can be told of: fewer, or a "
		       "lower --max",
		       cfg->nforwards, cfg->max);
}

static int begin(struct pool *p, struct pool_config *cfg, struct err *err)
{
	char ram[PATH_MAX + 8];
	struct stat st;
	int r = check_ports(cfg, err);

	if (r == 0)
		r = where_snapshot(cfg->mount, cfg->snapshot, p->snapshot, err);
	if (r == 0)
		r = line_check_word("--snapshot", p->snapshot, err);
	if (r < 0)
		return r;
	snprintf(ram, sizeof(ram), "%s/ram", p->snapshot);
	if (stat(ram, &st) < 0)
		return err_errno(err, "snapshot %s: stat ram", cfg->snapshot);
	if (!cfg->vm_bytes)
		cfg->vm_bytes = (uint64_t)st.st_size;
	/* Before there is anything that a signal would leave behind. */
	p->signal_fd = signals_open((const int[]){SIGTERM, SIGINT, SIGHUP, SIGCHLD, 0},
				    SFD_NONBLOCK, NULL, err);
	r = p->signal_fd < 0 ? p->signal_fd : pool_take_name(p, err);
	sweep_run_directories();
	return r;
}

int pool_run(const struct pool_config *given, struct err *err)
{
	struct pool_config cfg = *given;
	struct pool *p = calloc(1, sizeof(*p));
	int r;

	if (!p) {
		err_set(err, ENOMEM, "pool: out of memory");
		return EXIT_FAILED;
	}
	p->cfg = &cfg;
	p->warms = cfg.warm_up && cfg.warm_up[0];
	p->lock_fd = p->listen_fd = p->worker_fd = p->signal_fd = -1;
	TAILQ_INIT(&p->clients);
	TAILQ_INIT(&p->waiters);
	room_open(&p->room);
	r = begin(p, &cfg, err);
	if (r == 0) {
		printf("pool %s: %s\n", p->cfg->name, p->socket);
		fflush(stdout);
		service_notify("READY=1");
		carry_out_plan(p);
		while (!p->stopping)
			turn(p);
		stop(p);
	}
	pool_release_name(p);
	if (p->signal_fd >= 0)
		close(p->signal_fd);
	room_close(&p->room);
	free(p);
	return r < 0 ? err_exit_code(-r) : EXIT_OK;
}
