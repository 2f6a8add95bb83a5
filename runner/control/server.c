#include "runner/control/control.h"

#include "runner/control/jsontext.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/io.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"

#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define CLIENT_IDLE_MS	10000
#define REPLY_WAIT_MS	10000 /* for a client to take its answer, in all: others wait */
#define ACCEPT_AGAIN_MS 100

struct client {
	int fd;
	int64_t deadline_ms;
	uint64_t deferred; /* the number it awaits an answer under, 0: it is still to send its
			      request */
	size_t len;
	char line[CONTROL_LINE_MAX];
};

struct control {
	int listen_fd;
	char path[108];
	const struct control_op *ops;
	void *arg;
	struct client *clients[CONTROL_CLIENTS_MAX];
	uint64_t last_deferred;
	int64_t accept_again_ms; /* the listener is not looked at before */
	struct {
		int fd; /* -1: none */
		int period_ms;
		int64_t next_ms;
		void (*fn)(void *arg, bool readable);
		void *arg;
	} watch;
};

struct control_request {
	struct control *control;
	uint64_t deferred;
	void (*taken)(void *arg, int fd);
	void *taken_arg;
};

void control_detach(struct control_request *rq, void (*taken)(void *arg, int fd), void *arg)
{
	rq->taken = taken;
	rq->taken_arg = arg;
}

int control_listen(const char *path, const struct control_op *ops, void *arg, struct control **out,
		   struct err *err)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};

	if (strlen(path) >= sizeof(sa.sun_path))
		return err_set(err, ENAMETOOLONG, "listen on %s: path too long for a socket", path);
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
	cleanup_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_errno(err, "create socket");
	if (unlink(path) < 0 && errno != ENOENT)
		return err_errno(err, "remove old %s", path);
	/* The directory is 0700, so the instant before the chmod is nobody else's. */
	if (bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 || chmod(path, 0600) < 0 ||
	    listen(fd, 16) < 0)
		return err_errno(err, "listen on %s", path);
	struct control *c = calloc(1, sizeof(*c));
	if (!c)
		return err_set(err, ENOMEM, "listen on %s: out of memory", path);
	snprintf(c->path, sizeof(c->path), "%s", path);
	c->listen_fd = steal_fd(&fd);
	c->watch.fd = -1;
	c->ops = ops;
	c->arg = arg;
	*out = c;
	return 0;
}

static void drop(struct client **slot)
{
	if ((*slot)->fd >= 0)
		close((*slot)->fd);
	free(*slot);
	*slot = NULL;
}

void control_free(struct control *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++)
		if (c->clients[i])
			drop(&c->clients[i]);
	close(c->listen_fd);
	unlink(c->path);
	free(c);
}

static void accept_client(struct control *c)
{
	cleanup_fd int fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0) {
		/* Whoever waits there stays, and would be seen again at once. */
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
			c->accept_again_ms = monotonic_ms() + ACCEPT_AGAIN_MS;
		return;
	}
	for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++) {
		if (c->clients[i])
			continue;
		c->clients[i] = calloc(1, sizeof(struct client));
		if (!c->clients[i])
			return;
		c->clients[i]->fd = steal_fd(&fd);
		c->clients[i]->deadline_ms = monotonic_ms() + CLIENT_IDLE_MS;
		return;
	}
	log_warn("control: %d connections open, one more refused", CONTROL_CLIENTS_MAX);
}

static int send_line(int fd, const json_t *obj)
{
	cleanup_free char *text = json_dumps(obj, JSON_COMPACT);
	const int64_t until = monotonic_ms() + REPLY_WAIT_MS;
	size_t len = text ? strlen(text) : 0, done = 0;

	if (!text)
		return -ENOMEM;
	text[len++] = '\n'; /* in place of the terminator: sent by length */
	while (done < len) {
		ssize_t n = send(fd, text + done, len - done, MSG_NOSIGNAL);

		if (n < 0 && errno == EAGAIN) {
			struct pollfd p = {.fd = fd, .events = POLLOUT};
			const int64_t left = until - monotonic_ms();

			if (left <= 0)
				return -ETIMEDOUT;
			(void)poll(&p, 1, (int)left);
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		done += n;
	}
	return 0;
}

static int dispatch(struct control *c, struct control_request *rq, const char *line, size_t len,
		    json_t *reply, struct err *err)
{
	json_error_t je;
	json_t *body = json_loadb(line, len, JSON_REJECT_DUPLICATES, &je);
	const char *op = json_string_value(json_object_get(body, "op"));
	int r;

	if (!op) {
		r = err_set(err, EPROTO, "control request: not a JSON object with \"op\"");
	} else {
		const struct control_op *o = c->ops;

		while (o->name && strcmp(o->name, op) != 0)
			o++;
		r = o->name ? o->fn(c->arg, rq, body, reply, err)
			    : err_set(err, EPROTO, "control request: unknown op '%s'", op);
	}
	json_decref(body);
	return r;
}

static int send_answer(int fd, int r, json_t *reply, const struct err *err)
{
	if (r < 0) {
		json_decref(reply);
		reply = json_pack("{s:b, s:i, s:o}", "ok", 0, "code", -r, "error",
				  json_text(err->msg));
	} else {
		json_object_set_new(reply, "ok", json_true());
	}
	r = reply ? send_line(fd, reply) : -ENOMEM;
	json_decref(reply);
	return r;
}

uint64_t control_defer(struct control_request *rq)
{
	return rq->deferred = ++rq->control->last_deferred;
}

void control_answer(struct control *c, uint64_t who, int r, json_t *reply, const struct err *err)
{
	for (size_t i = 0; who && i < CONTROL_CLIENTS_MAX; i++) {
		if (!c->clients[i] || c->clients[i]->deferred != who)
			continue;
		send_answer(c->clients[i]->fd, r, reply ? reply : json_object(), err);
		drop(&c->clients[i]);
		return;
	}
	json_decref(reply);
}

int control_watch(struct control *c, int fd, int period_ms, void (*fn)(void *arg, bool readable),
		  void *arg, struct err *err)
{
	if (fd >= 0 && c->watch.fd >= 0)
		return err_set(err, EBUSY, "control: something is watched already");
	c->watch.fd = fd;
	c->watch.period_ms = period_ms;
	c->watch.next_ms = monotonic_ms() + period_ms;
	c->watch.fn = fn;
	c->watch.arg = arg;
	return 0;
}

/*
 * One whole line is there: answer it, hand the connection over, or keep the client for an answer to
 * come: true.
 */
static bool answer(struct control *c, struct client *cl, size_t line_len)
{
	struct control_request rq = {.control = c};
	struct err err = ERR_INIT;
	json_t *reply = json_object();
	int r = reply ? dispatch(c, &rq, cl->line, line_len, reply, &err)
		      : err_set(&err, ENOMEM, "control request: out of memory");

	if (r == 0 && rq.deferred) {
		json_decref(reply);
		cl->deferred = rq.deferred;
		return true;
	}
	if (send_answer(cl->fd, r, reply, &err) == 0 && r == 0 && rq.taken) {
		rq.taken(rq.taken_arg, cl->fd);
		cl->fd = -1;
	}
	return false;
}

static void read_client(struct control *c, struct client **slot)
{
	struct client *cl = *slot;

	if (cl->deferred) {
		/* It has said all it may: it is gone. */
		drop(slot);
		return;
	}
	ssize_t n = read(cl->fd, cl->line + cl->len, sizeof(cl->line) - cl->len);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n > 0) {
		cl->len += n;
		char *nl = memchr(cl->line, '\n', cl->len);

		if (!nl && cl->len < sizeof(cl->line))
			return;
		if (nl && answer(c, cl, nl - cl->line))
			return;
		if (!nl)
			log_warn("control: request line over %d bytes, connection dropped",
				 CONTROL_LINE_MAX);
	}
	drop(slot);
}

static int64_t watch_wait(const struct control *c, int64_t now)
{
	return c->watch.fd < 0 || c->watch.period_ms < 0 ? -1
							 : MAX(c->watch.next_ms - now, (int64_t)0);
}

static void run_watch(struct control *c, bool readable)
{
	int64_t now = monotonic_ms();

	if (!readable && (c->watch.period_ms < 0 || now < c->watch.next_ms))
		return;
	c->watch.next_ms = now + c->watch.period_ms;
	c->watch.fn(c->watch.arg, readable);
}

size_t control_fds(const struct control *c, int fds[CONTROL_FDS_MAX])
{
	size_t n = 0;

	fds[n++] = c->listen_fd;
	/* One that awaits its answer has nothing more to ask. */
	for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++)
		if (c->clients[i] && !c->clients[i]->deferred)
			fds[n++] = c->clients[i]->fd;
	return n;
}

int control_serve(struct control *c, int end_fd, struct err *err)
{
	for (;;) {
		struct pollfd p[3 + CONTROL_CLIENTS_MAX];
		struct client **who[3 + CONTROL_CLIENTS_MAX];
		int64_t now = monotonic_ms(), wait = watch_wait(c, now);
		nfds_t n = 3;

		p[0] = (struct pollfd){.fd = end_fd, .events = POLLIN};
		const bool looks = now >= c->accept_again_ms;
		p[1] = (struct pollfd){.fd = looks ? c->listen_fd : -1, .events = POLLIN};
		if (!looks && (wait < 0 || c->accept_again_ms - now < wait))
			wait = c->accept_again_ms - now;
		p[2] = (struct pollfd){.fd = c->watch.fd, .events = POLLIN};
		for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++) {
			struct client *cl = c->clients[i];

			if (!cl)
				continue;
			if (!cl->deferred && (wait < 0 || cl->deadline_ms - now < wait))
				wait = MAX(cl->deadline_ms - now, (int64_t)0);
			who[n] = &c->clients[i];
			p[n++] = (struct pollfd){.fd = cl->fd,
						 .events = cl->deferred ? POLLRDHUP : POLLIN};
		}
		if (poll(p, n, (int)wait) < 0 && errno != EINTR)
			return err_errno(err, "wait for control requests");
		if (p[0].revents)
			return 0;
		/*
		 * Below, a deadline that has passed counts only for a client with nothing to read:
		 * one that waited behind a long request had its own in the socket all along.
		 */
		for (nfds_t i = 3; i < n; i++)
			if (p[i].revents)
				read_client(c, who[i]);
			else if (!(*who[i])->deferred && (*who[i])->deadline_ms <= now)
				drop(who[i]);
		if (p[1].revents)
			accept_client(c);
		/* Last: it may answer, and so drop, a client of the list above. */
		if (c->watch.fd >= 0 && c->watch.fd == p[2].fd)
			run_watch(c, p[2].revents != 0);
	}
}
