/* virtio_vsock_host.c - how connections begin on the host's side. See virtio_vsock_conn.h. */
#include "runner/devices/virtio_vsock_conn.h"

#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "smfs/base/cleanup.h"
#include "smfs/base/log.h"

/* Ports of our end. High, so that they are told from services in a log. */
#define PORT_FIRST 0x40000000u
#define PORT_LAST  0x7fffffffu

#define ACCEPT_BATCH 16

/* ---- listener ------------------------------------------------------------------------------- */

static void on_listener(void *arg, uint32_t events)
{
	struct vsock *s = arg;

	for (unsigned i = 0; i < ACCEPT_BATCH && !s->v.quiet && s->nconns < VSOCK_MAX_CONNS; i++) {
		int fd = accept4(s->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		struct vsock_conn *c;

		if (fd < 0) {
			/* Without descriptors the listener stays readable: look away for a second.
			 */
			if (errno == EMFILE || errno == ENFILE || errno == ENOMEM ||
			    errno == ENOBUFS)
				vsock_deadline(s, &s->listen_again, 1);
			break;
		}
		c = conn_new(s, fd, CONN_GREETING);
		if (!c) {
			close(fd);
			break;
		}
		vsock_deadline(s, &c->deadline, VSOCK_GREETING_SEC);
		conn_watch(c);
	}
	host_watch(s);
}

void host_watch(struct vsock *s)
{
	struct loop *l = s->v.dev.vm->loop;
	bool want =
		s->listen_fd >= 0 && !s->v.quiet && !s->listen_again && s->nconns < VSOCK_MAX_CONNS;

	if (!want && s->listen_watch) {
		loop_unwatch(l, s->listen_watch);
		s->listen_watch = NULL;
	} else if (want && !s->listen_watch &&
		   loop_watch(l, s->listen_fd, EPOLLIN, on_listener, s, &s->listen_watch, NULL) <
			   0) {
		vsock_deadline(s, &s->listen_again, 1);
	}
}

static int remove_stale(const char *path, struct err *err)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : err_errno(err, "stat %s", path);
	if (!S_ISSOCK(st.st_mode))
		return err_set(err, EEXIST, "listen on %s: something that is no socket is there",
			       path);
	if (unlink(path) < 0 && errno != ENOENT)
		return err_errno(err, "remove the old socket %s", path);
	return 0;
}

int host_listen(struct vsock *s, const char *uds_path, struct err *err)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	cleanup_fd int fd = -1;
	int ret;

	if (snprintf(s->path, sizeof(s->path), "%s", uds_path) >= (int)sizeof(s->path))
		return err_set(err, ENAMETOOLONG, "%s: socket path %s is longer than %zu bytes",
			       s->v.dev.id, uds_path, sizeof(s->path) - 1);
	ret = remove_stale(uds_path, err);
	if (ret < 0)
		return err_wrap(err, ret, "%s", s->v.dev.id);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_errno(err, "%s: create a socket", s->v.dev.id);
	memcpy(a.sun_path, s->path, sizeof(s->path));
	/* On Linux the mode of the socket becomes that of the file: private from the start. */
	if (fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 ||
	    listen(fd, SOMAXCONN) < 0)
		return err_errno(err, "%s: listen on %s", s->v.dev.id, uds_path);
	s->listen_fd = steal_fd(&fd);
	host_watch(s);
	/* A quiet device watches from its resume on. */
	if (!s->listen_watch && !s->v.quiet)
		return err_set(err, ENOMEM, "%s: cannot watch %s", s->v.dev.id, uds_path);
	return 0;
}

void host_close(struct vsock *s)
{
	if (s->listen_watch)
		loop_unwatch(s->v.dev.vm->loop, s->listen_watch);
	s->listen_watch = NULL;
	if (s->listen_fd < 0)
		return;
	unlink(s->path);
	close(s->listen_fd);
	s->listen_fd = -1;
}

/* ---- greeting ------------------------------------------------------------------------------- */

/* A free port for our end of a connection to `guest_port`. There are far more than connections. */
static uint32_t free_port(struct vsock *s, uint32_t guest_port)
{
	do
		s->next_port = s->next_port < PORT_FIRST || s->next_port >= PORT_LAST
				       ? PORT_FIRST
				       : s->next_port + 1;
	while (conn_find(s, s->next_port, guest_port));
	return s->next_port;
}

/*
 * Take bytes off the socket up to the end of the line and no further: what follows is the stream.
 * 1: the line is whole, 0: not yet, -EPROTO: it will never be.
 */
static int take_line(struct vsock_conn *c)
{
	for (;;) {
		char *to = c->line + c->line_len, *end;
		ssize_t n = recv(c->fd, to, VSOCK_LINE_MAX - c->line_len, MSG_PEEK | MSG_DONTWAIT);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return 0;
		if (n <= 0)
			return -EPROTO;
		end = memchr(to, '\n', (size_t)n);
		if (end)
			n = end - to + 1;
		if (recv(c->fd, to, (size_t)n, MSG_DONTWAIT) != n)
			return -EPROTO;
		c->line_len += (unsigned)n;
		if (end) {
			*end = '\0';
			return 1;
		}
		if (c->line_len == VSOCK_LINE_MAX)
			return -EPROTO;
	}
}

void host_greeting(struct vsock_conn *c)
{
	static const char verb[] = "CONNECT ";
	struct vsock *s = c->s;
	uint64_t port;
	int ret = take_line(c);

	if (ret == 0) {
		conn_watch(c);
		return;
	}
	if (ret < 0 || strlen(c->line) + 1 != c->line_len ||
	    strncmp(c->line, verb, sizeof(verb) - 1) != 0 ||
	    parse_u64(c->line + sizeof(verb) - 1, 0, VSOCK_PORT_ANY - 1, &port, NULL) < 0 ||
	    !virtio_live(&s->v)) {
		conn_free(c);
		return;
	}
	conn_name(c, free_port(s, (uint32_t)port), (uint32_t)port);
	c->state = CONN_REQUESTED;
	/* Until the guest tells what it has. */
	c->peer_alloc = port == s->early_port ? VSOCK_EARLY : 0;
	vsock_deadline(s, &c->deadline, VSOCK_GREETING_SEC);
	conn_ready(c, TODO_REQUEST);
	conn_watch(c);
}

int host_greet(struct vsock_conn *c)
{
	char line[24];
	int n = snprintf(line, sizeof(line), "OK %u\n", c->host_port);

	/* The first bytes on this socket: they fit, or there is no one to read them. */
	return send(c->fd, line, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT) == n ? 0 : -EPIPE;
}

int host_dial(struct vsock *s, uint32_t port)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	cleanup_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	snprintf(a.sun_path, sizeof(a.sun_path), "%s_%u", s->path, port);
	/* A Unix socket connects at once or not at all; a full backlog is EAGAIN. */
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		return -errno;
	return steal_fd(&fd);
}
