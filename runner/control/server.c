#include "runner/control/control.h"

#include "runner/control/jsontext.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"

#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#define CLIENTS_MAX    32
#define CLIENT_IDLE_MS 10000
#define REPLY_WAIT_MS  5000

struct client {
	int fd;
	int64_t deadline_ms;
	size_t len;
	char line[CONTROL_LINE_MAX];
};

struct control {
	int listen_fd;
	char path[108];
	const struct control_op *ops;
	void *arg;
	struct client *clients[CLIENTS_MAX];
};

struct control_request {
	void (*taken)(void *arg, int fd);
	void *taken_arg;
};

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

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
	for (size_t i = 0; i < CLIENTS_MAX; i++)
		if (c->clients[i])
			drop(&c->clients[i]);
	close(c->listen_fd);
	unlink(c->path);
	free(c);
}

static void accept_client(struct control *c)
{
	cleanup_fd int fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	for (size_t i = 0; i < CLIENTS_MAX; i++) {
		if (c->clients[i])
			continue;
		c->clients[i] = calloc(1, sizeof(struct client));
		if (!c->clients[i])
			return;
		c->clients[i]->fd = steal_fd(&fd);
		c->clients[i]->deadline_ms = now_ms() + CLIENT_IDLE_MS;
		return;
	}
	log_warn("control: %d connections open, one more refused", CLIENTS_MAX);
}

static int send_line(int fd, const json_t *obj)
{
	cleanup_free char *text = json_dumps(obj, JSON_COMPACT);
	size_t len = text ? strlen(text) : 0, done = 0;

	if (!text)
		return -ENOMEM;
	text[len++] = '\n'; /* in place of the terminator: sent by length */
	while (done < len) {
		ssize_t n = send(fd, text + done, len - done, MSG_NOSIGNAL);

		if (n < 0 && errno == EAGAIN) {
			struct pollfd p = {.fd = fd, .events = POLLOUT};

			if (poll(&p, 1, REPLY_WAIT_MS) <= 0)
				return -ETIMEDOUT;
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

		while (o->name && strcmp(o->name, op))
			o++;
		r = o->name ? o->fn(c->arg, rq, body, reply, err)
			    : err_set(err, EPROTO, "control request: unknown op '%s'", op);
	}
	json_decref(body);
	return r;
}

/* One whole line is there: answer it and close, or hand the connection over. */
static void answer(struct control *c, struct client *cl, size_t line_len)
{
	struct control_request rq = {0};
	struct err err = ERR_INIT;
	json_t *reply = json_object();
	int r = reply ? dispatch(c, &rq, cl->line, line_len, reply, &err)
		      : err_set(&err, ENOMEM, "control request: out of memory");

	if (r < 0) {
		json_decref(reply);
		reply = json_pack("{s:b, s:i, s:o}", "ok", 0, "code", -r, "error",
				  json_text(err.msg));
	} else {
		json_object_set_new(reply, "ok", json_true());
	}
	if (reply && send_line(cl->fd, reply) == 0 && r == 0 && rq.taken) {
		rq.taken(rq.taken_arg, cl->fd);
		cl->fd = -1;
	}
	json_decref(reply);
}

static void read_client(struct control *c, struct client **slot)
{
	struct client *cl = *slot;
	ssize_t n = read(cl->fd, cl->line + cl->len, sizeof(cl->line) - cl->len);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n > 0) {
		cl->len += n;
		char *nl = memchr(cl->line, '\n', cl->len);

		if (!nl && cl->len < sizeof(cl->line))
			return;
		if (nl)
			answer(c, cl, nl - cl->line);
		else
			log_warn("control: request line over %d bytes, connection dropped",
				 CONTROL_LINE_MAX);
	}
	drop(slot);
}

int control_serve(struct control *c, int end_fd, struct err *err)
{
	for (;;) {
		struct pollfd p[2 + CLIENTS_MAX];
		struct client **who[2 + CLIENTS_MAX];
		int64_t now = now_ms(), wait = -1;
		nfds_t n = 2;

		p[0] = (struct pollfd){.fd = end_fd, .events = POLLIN};
		p[1] = (struct pollfd){.fd = c->listen_fd, .events = POLLIN};
		for (size_t i = 0; i < CLIENTS_MAX; i++) {
			struct client *cl = c->clients[i];

			if (!cl)
				continue;
			if (wait < 0 || cl->deadline_ms - now < wait)
				wait = MAX(cl->deadline_ms - now, (int64_t)0);
			who[n] = &c->clients[i];
			p[n++] = (struct pollfd){.fd = cl->fd, .events = POLLIN};
		}
		if (poll(p, n, (int)wait) < 0 && errno != EINTR)
			return err_errno(err, "wait for control requests");
		if (p[0].revents)
			return 0;
		/*
		 * Below, a deadline that has passed counts only for a client with nothing to read:
		 * one that waited behind a long request had its own in the socket all along.
		 */
		if (p[1].revents)
			accept_client(c);
		for (nfds_t i = 2; i < n; i++)
			if (p[i].revents)
				read_client(c, who[i]);
			else if ((*who[i])->deadline_ms <= now)
				drop(who[i]);
	}
}
