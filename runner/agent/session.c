#include "runner/agent/session.h"

#include "runner/agent/control.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

int session_refuse(int fd, const struct err *e)
{
	cleanup_writer struct writer w = WRITER_INIT;

	agent_put_error(&w, e->code ? e->code : EIO, e->msg);
	return agent_frame_send(fd, AGENT_ERROR, &w, SESSION_REPLY_MS, NULL);
}

int session_hello(int fd, struct err *err)
{
	cleanup_writer struct writer w = WRITER_INIT;

	agent_put_hello(&w);
	return agent_frame_send(fd, AGENT_HELLO, &w, SESSION_REPLY_MS, err);
}

static int read_hello(int fd, struct agent_frame *f, struct err *err)
{
	uint16_t version;
	int r = agent_frame_read(fd, f, SESSION_HELLO_MS, err);

	return r < 0 ? r : agent_get_hello(f, &version, err);
}

static bool has_more(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, 0) > 0;
}

static int reply_info(struct guest *g, int fd)
{
	cleanup_writer struct writer w = WRITER_INIT;
	struct agent_info i = {.uptime_ms = boottime_ms(), .ready_ms = g->ready_ms};
	struct utsname u;

	guest_lock(g);
	i.entry_state = g->shared->entry_state;
	i.entry_exit = g->shared->entry_exit;
	i.entry_pid = (uint32_t)g->shared->entry_pid;
	i.frozen = g->shared->frozen;
	i.generation = g->shared->generation;
	memcpy(i.uuid, g->shared->uuid, sizeof(i.uuid));
	i.sessions = g->shared->sessions;
	guest_unlock(g);
	i.mailbox = control_mailbox(g, &i.mailbox_generation);
	if (uname(&u) == 0)
		snprintf(i.kernel, sizeof(i.kernel), "%.64s", u.release);
	snprintf(i.rootfs, sizeof(i.rootfs), "%s", g->rootfs);
	snprintf(i.agent, sizeof(i.agent), "%s", SMFS_VERSION);
	agent_put_info(&w, &i);
	return agent_frame_send(fd, AGENT_INFO_IS, &w, SESSION_REPLY_MS, NULL);
}

static int reply_results(int fd, const struct agent_results *rs)
{
	cleanup_writer struct writer w = WRITER_INIT;

	agent_put_results(&w, rs);
	return agent_frame_send(fd, AGENT_RESULTS, &w, SESSION_REPLY_MS, NULL);
}

/* The outcome of one control operation, the claim held. */
static int control_run(struct guest *g, uint16_t type, const struct agent_generation *gen,
		       const struct agent_clock *clock, struct agent_results *rs, struct err *err)
{
	switch (type) {
	case AGENT_PREPARE:
		return control_prepare(g, rs, err);
	case AGENT_THAW:
		return control_thaw(g, rs, err);
	case AGENT_GENERATION:
		return control_generation(g, gen, rs, err);
	case AGENT_CLOCK:
		return control_clock(g, clock->wall_ns, rs, err);
	default:
		if (g->power_wr < 0)
			return err_set(err, ENOTSUP, "stop: this guest cannot power off");
		return 0;
	}
}

/* One of PREPARE, THAW, GENERATION, STOP, CLOCK. */
static int control(struct guest *g, int fd, const struct agent_frame *f, struct err *err)
{
	/* Tens of kilobytes: not the stack's. */
	cleanup_free struct agent_results *rs = calloc(1, sizeof(*rs));
	struct agent_generation gen = {0};
	struct agent_clock clock = {0};
	struct agent_stop stop = {0};
	int r = 0;

	if (f->type == AGENT_GENERATION)
		r = agent_get_generation(f, &gen, err);
	else if (f->type == AGENT_STOP)
		r = agent_get_stop(f, &stop, err);
	else if (f->type == AGENT_CLOCK)
		r = agent_get_clock(f, &clock, err);
	if (r < 0)
		return r;
	if (!rs)
		r = err_set(err, ENOMEM, "%s: out of memory", agent_type_name(f->type));
	if (r == 0)
		r = control_claim(g, err);
	if (r < 0)
		return session_refuse(fd, err);
	r = control_run(g, f->type, &gen, &clock, rs, err);
	explicit_bzero(&gen, sizeof(gen));
	r = r < 0 ? session_refuse(fd, err) : reply_results(fd, rs);
	/* Nobody knows that the guest is frozen: nobody would thaw it. */
	if (r < 0 && f->type == AGENT_PREPARE)
		control_unprepare(g, rs);
	control_release(g);
	if (r == 0 && f->type == AGENT_STOP && g->power_wr >= 0 &&
	    write(g->power_wr, &stop.grace_ms, sizeof(stop.grace_ms)) != sizeof(stop.grace_ms))
		log_err("stop: process 1 could not be told: %s", strerror(errno));
	return r;
}

static int reply_ready(struct guest *g, int fd, const struct agent_frame *f, struct err *err)
{
	cleanup_free struct agent_results *rs = calloc(1, sizeof(*rs));
	int r;

	if (!rs) {
		err_set(err, ENOMEM, "READY: out of memory");
		return session_refuse(fd, err);
	}
	r = ready_serve(g, fd, f, rs, err);
	if (r == -EPROTO || r == -ECONNRESET)
		return r;
	return r < 0 ? session_refuse(fd, err) : reply_results(fd, rs);
}

/* Answers once the entrypoint has ended; a peer that goes away meanwhile ends the wait. */
static int reply_wait(struct guest *g, int fd)
{
	cleanup_writer struct writer w = WRITER_INIT;
	struct pollfd p[2] = {{.fd = g->ended_rd, .events = POLLIN},
			      {.fd = fd, .events = POLLRDHUP}};
	struct agent_exit x;

	if (g->ended_rd < 0) {
		struct err e = ERR_INIT;

		err_set(&e, ENOENT, "wait: the guest was booted without an entrypoint");
		return session_refuse(fd, &e);
	}
	do {
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return -errno;
		if (p[1].revents)
			return -ECONNRESET;
	} while (!p[0].revents);
	guest_lock(g);
	x = g->shared->entry_exit;
	guest_unlock(g);
	agent_put_exit(&w, &x);
	return agent_frame_send(fd, AGENT_EXIT, &w, SESSION_REPLY_MS, NULL);
}

/* 0: the connection takes another request. Negative: it is broken; EPROTO is the peer's doing. */
static int serve_one(struct guest *g, int fd, struct agent_frame *f, bool *greet, size_t *held,
		     struct err *err)
{
	const bool first = *greet;
	int r = 0;

	*greet = false;
	if (f->type == AGENT_EXEC)
		return exec_serve(g, fd, f, first, held, err);
	if (first && (r = session_hello(fd, err)) < 0)
		return r;
	switch (f->type) {
	case AGENT_INFO:
		return reply_info(g, fd);
	case AGENT_WAIT:
		return reply_wait(g, fd);
	case AGENT_READY:
		return reply_ready(g, fd, f, err);
	case AGENT_CONNECT:
		return connect_serve(g, fd, f, err);
	case AGENT_READ:
	case AGENT_WRITE:
	case AGENT_FETCH:
	case AGENT_PUT:
		return files_serve(g, fd, f, err);
	case AGENT_PREPARE:
	case AGENT_THAW:
	case AGENT_GENERATION:
	case AGENT_STOP:
	case AGENT_CLOCK:
		return control(g, fd, f, err);
	default:
		return err_set(err, EPROTO, "%s is not a request", agent_type_name(f->type));
	}
}

void session_serve(struct guest *g, int fd)
{
	struct agent_frame f = {0};
	struct err e = ERR_INIT;
	bool greet = true;
	size_t held = 0;
	int r;

	signal(SIGPIPE, SIG_IGN);
	/* A power off ends everything else first, so that the peers hear of it. */
	signal(SIGTERM, SIG_IGN);
	r = read_hello(fd, &f, &e);
	/* To a peer that has gone on to its request HELLO is said with the answer: a packet less.
	 */
	if (r == 0 && !has_more(fd)) {
		r = session_hello(fd, &e);
		greet = false;
	}
	while (r == 0) {
		err_clear(&e);
		r = agent_frame_read_holding(fd, AGENT_EXEC, &f, &held, -1, &e);
		if (r == 0)
			r = serve_one(g, fd, &f, &greet, &held, &e);
		agent_frame_take(fd, &held);
	}
	if (r == -EPROTO) {
		log_warn("session: %s", e.msg);
		session_refuse(fd, &e);
	}
	agent_frame_free(&f);
}
