/* A stream from the host to a port or socket of the guest. */
#include "runner/agent/session.h"

#include "runner/proto/agent_files.h"
#include "runner/proto/agent_reach.h"
#include "runner/proto/relay.h"
#include "smfs/base/cleanup.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define CONNECT_MS 10000

/* Non-blocking, and connected within CONNECT_MS: a full backlog or a frozen program may take long.
 */
static int dial(int family, const struct sockaddr *a, socklen_t len, const char *what,
		struct err *err)
{
	cleanup_fd int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	const struct timeval patience = {.tv_sec = CONNECT_MS / 1000};
	int one = 1;

	if (fd < 0)
		return err_errno(err, "connect to %s: socket", what);
	/* connect(2) keeps to the send timeout, of every family. */
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (family != AF_UNIX)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(fd, a, len) < 0) {
		if (errno == EINPROGRESS || errno == EAGAIN)
			errno = ETIMEDOUT;
		return err_errno(err, "connect to %s", what);
	}
	if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
		return err_errno(err, "connect to %s", what);
	return steal_fd(&fd);
}

static int dial_target(const struct agent_target *t, struct err *err)
{
	struct sockaddr_in v4 = {.sin_family = AF_INET,
				 .sin_port = htons(t->port),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6,
				  .sin6_port = htons(t->port),
				  .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	char what[32];
	int fd;

	if (t->path[0]) {
		memcpy(un.sun_path, t->path, strlen(t->path) + 1);
		return dial(AF_UNIX, (struct sockaddr *)&un, sizeof(un), t->path, err);
	}
	snprintf(what, sizeof(what), "port %u of the guest", t->port);
	fd = dial(AF_INET, (struct sockaddr *)&v4, sizeof(v4), what, err);
	if (fd == -ECONNREFUSED) {
		fd = dial(AF_INET6, (struct sockaddr *)&v6, sizeof(v6), what, NULL);
		/* A guest without IPv6 has nothing to add to what IPv4 said. */
		if (fd < 0)
			return err_set(err, ECONNREFUSED, "connect to %s: nobody listens there",
				       what);
	}
	return fd;
}

static int carry(int fd, int sock)
{
	struct relay *r = malloc(sizeof(*r));
	int ret;

	if (!r)
		return -ENOMEM;
	relay_init(r, sock, fd);
	while ((ret = relay_step(r)) == 0) {
		struct pollfd p[2] = {{.events = relay_wants_sock(r)},
				      {.events = relay_wants_conn(r)}};

		p[0].fd = p[0].events ? sock : -1;
		p[1].fd = p[1].events ? fd : -1;
		if (poll(p, 2, -1) < 0 && errno != EINTR) {
			ret = -errno;
			break;
		}
	}
	free(r);
	return ret;
}

int connect_serve(struct guest *g, int fd, const struct agent_frame *f, struct err *err)
{
	cleanup_writer struct writer w = WRITER_INIT;
	const struct agent_opened none = {0};
	struct agent_target t;
	int r = agent_get_target(f, &t, err), sock;

	if (r < 0)
		return r;
	sock = dial_target(&t, err);
	if (sock < 0)
		return session_refuse(fd, err);
	agent_put_opened(&w, &none);
	r = agent_frame_send(fd, AGENT_OPENED, &w, SESSION_REPLY_MS, err);
	if (r == 0)
		r = carry(fd, sock);
	if (r < 0)
		relay_reset(sock);
	else
		close(sock);
	if (r == -EPROTO)
		err_set(err, EPROTO, "a forwarded stream takes DATA and DONE only");
	return r < 0 ? r : -ECONNRESET;
}
