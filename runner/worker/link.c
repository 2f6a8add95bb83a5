#include "runner/worker/link.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "smfs/base/clock.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"

#define READ_CHUNK 65536
#define PAGE	   4096u

/* ---- lines out ------------------------------------------------------------------------------ */

static void hang_up(struct link *l)
{
	if (l->fd >= 0)
		close(l->fd);
	l->fd = -1;
	l->dead = true;
}

static void say(void *arg, const char *line, size_t n)
{
	struct link *l = arg;
	const uint64_t until = monotonic_us() + (l->hurried ? 0 : LINK_SEND_MS * (uint64_t)1000);

	while (n && !l->dead) {
		ssize_t done = send(l->fd, line, n, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (done > 0) {
			line += done;
			n -= (size_t)done;
			continue;
		}
		if (done < 0 && errno == EINTR)
			continue;
		struct pollfd p[2] = {{.fd = l->fd, .events = POLLOUT},
				      {.fd = l->signal_fd, .events = POLLIN}};
		const uint64_t now = monotonic_us();
		/* The end of the session follows from that; a signal is then read as one. */
		if (done == 0 || errno != EAGAIN || now >= until ||
		    poll(p, 2, (int)((until - now) / 1000) + 1) == 0 || p[1].revents)
			hang_up(l);
	}
}

/* ---- the session's other side --------------------------------------------------------------- */

static void start(void *arg, const struct job *j)
{
	struct link *l = arg;

	desk_give(l->desk, j);
}

static uint64_t copied(void *arg)
{
	struct link *l = arg;
	struct rusage u;

	if (getrusage(RUSAGE_SELF, &u) < 0)
		return 0;
	return ((uint64_t)u.ru_minflt - atomic_load(&l->desk->faults)) * PAGE;
}

static const struct session_ops ops = {.say = say, .start = start, .copied = copied};

/* ---- lines in ------------------------------------------------------------------------------- */

static void take_bytes(struct link *l, const char *p, size_t n)
{
	while (n && !l->session.leaving) {
		const uint64_t now = monotonic_us();
		const char *nl = memchr(p, '\n', n);
		size_t part = nl ? (size_t)(nl - p) : n;

		if (!l->len && !l->skipping)
			l->line_us = now;
		if (!l->skipping && part > LINE_LEN_MAX - l->len) {
			l->skipping = true;
			l->len = 0;
			session_no_line(&l->session, EMSGSIZE, now);
		}
		if (!l->skipping) {
			memcpy(l->buf + l->len, p, part);
			l->len += part;
		}
		if (!nl)
			return;
		if (!l->skipping)
			session_line(&l->session, l->buf, l->len, now);
		l->skipping = false;
		l->len = 0;
		p += part + 1;
		n -= part + 1;
	}
}

/* The supervisor has ended, or is to do without us: what it still reads it gets. */
static void quit(struct link *l)
{
	l->hurried = true;
	session_quit(&l->session, monotonic_us());
}

static void read_lines(struct link *l)
{
	char chunk[READ_CHUNK];
	ssize_t n = recv(l->fd, chunk, sizeof(chunk), MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n > 0) {
		take_bytes(l, chunk, (size_t)n);
		return;
	}
	if (n < 0)
		hang_up(l);
	quit(l);
}

static bool has_half_line(const struct link *l)
{
	return (l->len || l->skipping) && !l->session.leaving;
}

static uint64_t half_line_due(const struct link *l)
{
	return l->line_us + LINK_LINE_MS * (uint64_t)1000;
}

/* What comes of it later is skipped, up to its end. */
static void check_half_line(struct link *l, uint64_t now)
{
	if (!has_half_line(l) || now < half_line_due(l))
		return;
	if (!l->skipping)
		session_no_line(&l->session, ETIMEDOUT, now);
	l->skipping = true;
	l->len = 0;
	l->line_us = now;
}

/* ---- the thread ----------------------------------------------------------------------------- */

static int wait_ms(const struct link *l, uint64_t now)
{
	uint64_t next = session_next_us(&l->session);

	if (has_half_line(l) && (!next || half_line_due(l) < next))
		next = half_line_due(l);
	return !next ? -1 : next <= now ? 0 : (int)((next - now) / 1000) + 1;
}

static void take_events(struct link *l)
{
	struct event e;

	while (desk_next_event(l->desk, &e))
		session_event(&l->session, &e, monotonic_us());
}

static void take_signal(struct link *l)
{
	struct signalfd_siginfo si;

	if (read(l->signal_fd, &si, sizeof(si)) == sizeof(si))
		quit(l);
}

static void *link_main(void *arg)
{
	struct link *l = arg;
	struct session *s = &l->session;

	prctl(PR_SET_NAME, "link");
	session_begin(s, l->with_machine, monotonic_us());
	while (!s->over) {
		struct pollfd p[3] = {
			/* Once it is leaving nothing it is told matters, nor that it is told no
			   more. */
			{.fd = s->leaving ? -1 : l->fd, .events = POLLIN},
			{.fd = l->desk->event_fd, .events = POLLIN},
			{.fd = l->signal_fd, .events = POLLIN},
		};

		if (l->dead && !s->leaving)
			quit(l);
		if (s->shut)
			hang_up(l);
		if (s->leaving)
			desk_leave(l->desk);
		if (s->over)
			break;
		if (poll(p, 3, wait_ms(l, monotonic_us())) < 0 && errno != EINTR) {
			log_err("worker: wait for the supervisor: %m");
			quit(l);
		}
		if (p[0].revents && l->fd >= 0)
			read_lines(l);
		if (p[1].revents)
			take_events(l);
		if (p[2].revents)
			take_signal(l);
		check_half_line(l, monotonic_us());
		session_tick(s, monotonic_us());
	}
	hang_up(l);
	/* JOB_LEAVE was not done in time: the machine's thread is stuck in something. */
	if (s->busy)
		l->abandon(l->arg, s->exit_code, &s->why);
	return NULL;
}

int link_start(struct link *l, struct err *err)
{
	sigset_t all, old;
	int r;

	session_init(&l->session, &ops, l, l->vm, l->dir);
	l->session.forwards = l->forwards;
	l->session.baking = l->baking;
	l->session.ready_ms = l->ready_ms;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&l->thread, NULL, link_main, l);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return r ? err_set(err, r, "start the link's thread: %s", strerror(r)) : 0;
}

int link_finish(struct link *l, struct err *err)
{
	pthread_join(l->thread, NULL);
	close(l->signal_fd);
	if (l->session.exit_code)
		*err = l->session.why;
	return l->session.exit_code;
}
