/*
 * The forwarder's loop: listeners, and connections from their first byte to the guest's agent on.
 * Everything is non-blocking and on one thread.
 */
#include "runner/control/forward_serve.h"

#include "runner/proto/agent_files.h"
#include "runner/proto/relay.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"
#include "smfs/base/unix_socket.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

/* The agent's answer, which a guest that is being restored takes its time for. */
#define GREETING_MS 30000

enum state { FREE, WANT_OK, WANT_HELLO, WANT_OPENED, RELAYING };

struct conn;

/* What an epoll event points to: kind 0 is a listener. */
struct watch {
	enum { LISTENER, SOCK, CONN, END } kind;
	unsigned listener;
	struct conn *c;
	int fd;
	uint32_t events; /* 0: not in the set */
};

struct conn {
	enum state state;
	struct watch sock, conn;
	const struct forward *spec;
	int64_t deadline_ms;
	bool doomed;
	/* Until the relay has it: the request, and what the agent has said so far. */
	struct writer request;
	size_t request_at;
	uint8_t said[AGENT_FRAME_HDR + AGENT_DATA_MAX];
	size_t said_len;
	struct relay relay;
};

struct serving {
	struct forwarder *f;
	const char *vsock_path;
	int epoll;
	struct watch listener[FORWARD_MAX], end;
	struct conn *conn[FORWARD_CONNS];
	unsigned nconns;
	bool told_old;		/* once is enough */
	int64_t quiet_until_ms; /* no descriptors: listeners are looked away from */
};

static int watch_for(struct serving *s, struct watch *w, uint32_t events)
{
	struct epoll_event e = {.events = events, .data.ptr = w};
	int op = !w->events ? EPOLL_CTL_ADD : events ? EPOLL_CTL_MOD : EPOLL_CTL_DEL;

	if (events == w->events)
		return 0;
	if (epoll_ctl(s->epoll, op, w->fd, &e) < 0)
		return -errno;
	w->events = events;
	return 0;
}

/* POLLIN and POLLOUT have epoll's values. */
static int update(struct serving *s, struct conn *c)
{
	int r;

	if (c->state == RELAYING) {
		r = watch_for(s, &c->sock, (uint32_t)relay_wants_sock(&c->relay));
		return r < 0 ? r : watch_for(s, &c->conn, (uint32_t)relay_wants_conn(&c->relay));
	}
	/* A client's end is only seen later; its reset shows in any case. */
	return watch_for(s, &c->conn, EPOLLIN | (c->request_at < c->request.len ? EPOLLOUT : 0));
}

/* ---- the agent's greeting -------------------------------------------------------------------- */

static void put_frame(struct writer *out, uint16_t type, const struct writer *payload)
{
	uint8_t hdr[AGENT_FRAME_HDR];

	agent_header_put(hdr, type, (uint32_t)payload->len);
	put_bytes(out, hdr, sizeof(hdr));
	put_bytes(out, payload->p, payload->len);
	out->failed |= payload->failed;
}

/* All of it at once: each answer is checked when it comes. */
static void put_request(struct writer *out, const struct agent_target *t)
{
	cleanup_writer struct writer hello = WRITER_INIT, target = WRITER_INIT;
	char line[32];

	put_bytes(out, line, (size_t)snprintf(line, sizeof(line), "CONNECT %u\n", AGENT_PORT));
	agent_put_hello(&hello);
	put_frame(out, AGENT_HELLO, &hello);
	agent_put_target(&target, t);
	put_frame(out, AGENT_CONNECT, &target);
}

static int send_request(struct conn *c)
{
	while (c->request_at < c->request.len) {
		ssize_t n = send(c->conn.fd, c->request.p + c->request_at,
				 c->request.len - c->request_at, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : -errno;
		c->request_at += (size_t)n;
	}
	return 0;
}

static void drop(struct conn *c, size_t n)
{
	memmove(c->said, c->said + n, c->said_len - n);
	c->said_len -= n;
}

/* 1: taken; 0: not whole yet. */
static int take_ok(struct conn *c, struct err *err)
{
	uint8_t *end = memchr(c->said, '\n', MIN(c->said_len, (size_t)32));

	if (!end && c->said_len < 32)
		return 0;
	if (!end || c->said_len < 3 || memcmp(c->said, "OK ", 3) != 0)
		return err_set(err, EPROTO, "the answer to CONNECT is no OK");
	drop(c, (size_t)(end - c->said) + 1);
	c->state = WANT_HELLO;
	return 1;
}

static int take_frame(struct serving *s, struct conn *c, struct err *err)
{
	struct agent_frame f = {.data = c->said + AGENT_FRAME_HDR};
	struct agent_opened o;
	uint16_t version;
	int r;

	if (c->said_len < AGENT_FRAME_HDR)
		return 0;
	r = agent_header_parse(c->said, &f.type, &f.len, err);
	if (r < 0)
		return r;
	/* None of the answers there may be is longer. */
	if (f.len > 8192)
		return err_set(err, EPROTO, "the agent sent %s", agent_type_name(f.type));
	if (c->said_len < AGENT_FRAME_HDR + f.len)
		return 0;
	if (f.type == AGENT_ERROR)
		return agent_get_error(&f, err);
	if (c->state == WANT_HELLO) {
		r = agent_get_hello(&f, &version, err);
		if (r == 0 && version < agent_type_since(AGENT_CONNECT))
			r = err_set(
				err, ENOTSUP,
				"the agent in this guest (version %u) cannot forward ports, which "
				"takes version %u; boot its image anew",
				version, agent_type_since(AGENT_CONNECT));
	} else if (f.type != AGENT_OPENED) {
		r = err_set(err, EPROTO, "the agent sent %s", agent_type_name(f.type));
	} else {
		r = agent_get_opened(&f, &o, err);
	}
	if (r < 0)
		return r;
	drop(c, AGENT_FRAME_HDR + f.len);
	if (c->state == WANT_HELLO) {
		c->state = WANT_OPENED;
	} else {
		relay_init(&c->relay, c->sock.fd, c->conn.fd);
		relay_feed(&c->relay, c->said, c->said_len);
		c->state = RELAYING;
	}
	return 1;
}

static int greet(struct serving *s, struct conn *c, struct err *err)
{
	ssize_t n;
	int r = send_request(c);

	if (r < 0)
		return err_set(err, -r, "%s", strerror(-r));
	do
		n = recv(c->conn.fd, c->said + c->said_len, sizeof(c->said) - c->said_len,
			 MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return 0;
	if (n <= 0)
		return err_set(err, ECONNRESET, "the guest's agent does not answer");
	c->said_len += (size_t)n;
	do
		r = c->state == WANT_OK ? take_ok(c, err) : take_frame(s, c, err);
	while (r == 1 && c->state != RELAYING);
	return r < 0 ? r : 0;
}

/* ---- connections ---------------------------------------------------------------------------- */

static void conn_end(struct serving *s, struct conn *c, bool reset)
{
	watch_for(s, &c->sock, 0);
	watch_for(s, &c->conn, 0);
	if (reset)
		relay_reset(c->sock.fd);
	else
		close(c->sock.fd);
	if (c->conn.fd >= 0)
		close(c->conn.fd);
	writer_free(&c->request);
	/* Events of this round may still point here: freed after it. */
	c->doomed = true;
}

static void conn_step(struct serving *s, struct conn *c)
{
	char text[FORWARD_TEXT_MAX];
	struct err err = ERR_INIT;
	int r = 0;

	if (c->state != RELAYING)
		r = greet(s, c, &err);
	if (r < 0) {
		if (r != -ENOTSUP || !s->told_old)
			log_warn("forward %s: %s", forward_text(c->spec, c->spec->port, text),
				 err.msg);
		s->told_old |= r == -ENOTSUP;
	} else if (c->state == RELAYING) {
		r = relay_step(&c->relay);
	}
	if (r == 0)
		r = update(s, c);
	if (r != 0)
		conn_end(s, c, r < 0);
}

static void conn_begin(struct serving *s, unsigned listener, int fd)
{
	struct conn *c = calloc(1, sizeof(*c));
	struct err err = ERR_INIT;
	unsigned i = 0;
	int one = 1;

	if (!c) {
		relay_reset(fd);
		return;
	}
	while (s->conn[i])
		i++;
	s->conn[i] = c;
	s->nconns++;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	c->spec = &s->f->spec[listener];
	c->state = WANT_OK;
	c->deadline_ms = monotonic_ms() + GREETING_MS;
	c->sock = (struct watch){.kind = SOCK, .c = c, .fd = fd};
	c->conn = (struct watch){.kind = CONN, .c = c, .fd = unix_connect(s->vsock_path, 0, &err)};
	put_request(&c->request, &c->spec->target);
	if (c->conn.fd < 0 || c->request.failed) {
		log_warn("forward: the VM cannot be reached: %s",
			 c->conn.fd < 0 ? err.msg : "out of memory");
		conn_end(s, c, true);
		return;
	}
	conn_step(s, c);
}

static void accept_some(struct serving *s, struct watch *w)
{
	while (s->nconns < FORWARD_CONNS) {
		int fd = accept4(w->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd >= 0) {
			conn_begin(s, w->listener, fd);
			continue;
		}
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
			s->quiet_until_ms = monotonic_ms() + 1000;
		return;
	}
}

/* Those that ended, and those whose greeting takes too long. */
static void sweep(struct serving *s)
{
	const int64_t now = monotonic_ms();

	for (unsigned i = 0; i < FORWARD_CONNS; i++) {
		struct conn *c = s->conn[i];

		if (!c)
			continue;
		if (!c->doomed && c->state != RELAYING && now >= c->deadline_ms) {
			log_warn("forward: the guest's agent did not answer in %d s",
				 GREETING_MS / 1000);
			conn_end(s, c, true);
		}
		if (c->doomed) {
			free(c);
			s->conn[i] = NULL;
			s->nconns--;
		}
	}
	for (unsigned i = 0; i < s->f->n; i++)
		watch_for(s, &s->listener[i],
			  s->nconns < FORWARD_CONNS && now >= s->quiet_until_ms ? EPOLLIN : 0);
}

static bool waits(const struct serving *s)
{
	for (unsigned i = 0; i < FORWARD_CONNS; i++)
		if (s->conn[i] && s->conn[i]->state != RELAYING)
			return true;
	return s->quiet_until_ms > monotonic_ms();
}

static int serve(struct serving *s, struct err *err)
{
	struct epoll_event e[64];

	for (;;) {
		sweep(s);
		int n = epoll_wait(s->epoll, e, ARRAY_SIZE(e), waits(s) ? 1000 : -1);

		if (n < 0 && errno != EINTR)
			return err_errno(err, "forward: wait for connections");
		for (int i = 0; i < n; i++) {
			struct watch *w = e[i].data.ptr;

			if (w->kind == END)
				return 0;
			if (w->kind == LISTENER)
				accept_some(s, w);
			else if (!w->c->doomed)
				conn_step(s, w->c);
		}
	}
}

int forwarder_run(struct forwarder *f, const char *vsock_path, int end_fd, struct err *err)
{
	struct serving *s = calloc(1, sizeof(*s));
	int r = 0;

	if (!s)
		return err_set(err, ENOMEM, "forward: out of memory");
	s->f = f;
	s->vsock_path = vsock_path;
	s->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (s->epoll < 0)
		r = err_errno(err, "forward: create an epoll");
	for (unsigned i = 0; i < f->n; i++)
		s->listener[i] = (struct watch){.kind = LISTENER, .listener = i, .fd = f->fd[i]};
	s->end = (struct watch){.kind = END, .fd = end_fd};
	if (r == 0 && end_fd >= 0 && (r = watch_for(s, &s->end, EPOLLIN)) < 0)
		err_set(err, -r, "forward: watch for the end: %s", strerror(-r));
	if (r == 0)
		r = serve(s, err);
	for (unsigned i = 0; i < FORWARD_CONNS; i++)
		if (s->conn[i]) {
			if (!s->conn[i]->doomed)
				conn_end(s, s->conn[i], true);
			free(s->conn[i]);
		}
	if (s->epoll >= 0)
		close(s->epoll);
	free(s);
	return r;
}
