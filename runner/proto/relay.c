#include "runner/proto/relay.h"

#include "smfs/base/num.h"

#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ROUNDS 16 /* frames each way in one step, so that many relays share a thread fairly */

void relay_init(struct relay *r, int sock, int conn)
{
	r->sock = sock;
	r->conn = conn;
	r->out_at = r->out_len = r->in_at = r->in_len = 0;
	r->left = 0;
	r->sock_eof = r->done_sent = r->done_seen = r->sock_shut = false;
}

void relay_feed(struct relay *r, const void *data, size_t len)
{
	memcpy(r->in, data, MIN(len, sizeof(r->in)));
	r->in_len = MIN(len, sizeof(r->in));
}

/* The count; 0 when it has to wait; -ECONNRESET. */
static ssize_t give(int fd, const void *p, size_t n)
{
	ssize_t k;

	do
		k = send(fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (k < 0 && errno == EINTR);
	if (k >= 0)
		return k;
	return errno == EAGAIN ? 0 : -ECONNRESET;
}

/* The count; 0 at the end; -EAGAIN, -ECONNRESET. */
static ssize_t take(int fd, void *p, size_t n)
{
	ssize_t k;

	do
		k = recv(fd, p, n, MSG_DONTWAIT);
	while (k < 0 && errno == EINTR);
	if (k >= 0)
		return k;
	return errno == EAGAIN ? -EAGAIN : -ECONNRESET;
}

/* One frame out, as far as it goes. 1: there may be more to do at once. */
static int step_out(struct relay *r)
{
	ssize_t k;

	if (r->out_at == r->out_len && !r->sock_eof) {
		k = take(r->sock, r->out + AGENT_FRAME_HDR, AGENT_DATA_MAX);
		if (k < 0)
			return k == -EAGAIN ? 0 : (int)k;
		r->sock_eof = k == 0;
		agent_header_put(r->out, k ? AGENT_DATA : AGENT_DONE, (uint32_t)k);
		r->out_at = 0;
		r->out_len = AGENT_FRAME_HDR + (size_t)k;
	}
	if (r->out_at == r->out_len)
		return 0;
	k = give(r->conn, r->out + r->out_at, r->out_len - r->out_at);
	if (k <= 0)
		return (int)k;
	r->out_at += (size_t)k;
	if (r->out_at < r->out_len)
		return 0;
	r->done_sent = r->sock_eof;
	return !r->done_sent;
}

/* The header at in_at. 0: not whole yet; 1: taken. */
static int next_frame(struct relay *r)
{
	uint16_t type;

	if (r->in_len - r->in_at < AGENT_FRAME_HDR)
		return 0;
	if (agent_header_parse(r->in + r->in_at, &type, &r->left, NULL) < 0)
		return -EPROTO;
	r->in_at += AGENT_FRAME_HDR;
	if (type == AGENT_ERROR)
		return -ECONNRESET;
	if (type == AGENT_DONE && r->left == 0)
		r->done_seen = true;
	else if (type != AGENT_DATA || r->left == 0)
		return -EPROTO;
	return 1;
}

static int step_in(struct relay *r)
{
	ssize_t k;
	int ret;

	if (r->done_seen) {
		if (!r->sock_shut)
			shutdown(r->sock, SHUT_WR);
		r->sock_shut = true;
		return 0;
	}
	if (!r->left) {
		ret = next_frame(r);
		if (ret != 0)
			return ret;
	}
	if (r->left && r->in_at < r->in_len) {
		k = give(r->sock, r->in + r->in_at, MIN((size_t)r->left, r->in_len - r->in_at));
		if (k <= 0)
			return (int)k;
		r->in_at += (size_t)k;
		r->left -= (uint32_t)k;
		return 1;
	}
	/* Less than a header is left, or nothing. */
	memmove(r->in, r->in + r->in_at, r->in_len - r->in_at);
	r->in_len -= r->in_at;
	r->in_at = 0;
	k = take(r->conn, r->in + r->in_len, sizeof(r->in) - r->in_len);
	if (k == 0)
		return -ECONNRESET;
	if (k < 0)
		return k == -EAGAIN ? 0 : (int)k;
	r->in_len += (size_t)k;
	return 1;
}

int relay_step(struct relay *r)
{
	int more = 1, in = 1, out = 1;

	for (int i = 0; i < 2 * ROUNDS && more; i++) {
		out = out ? step_out(r) : 0;
		if (out < 0)
			return out;
		in = in ? step_in(r) : 0;
		if (in < 0)
			return in;
		more = in || out;
	}
	return r->done_sent && r->sock_shut;
}

static bool waits_for_sock(const struct relay *r)
{
	return r->left && r->in_at < r->in_len;
}

short relay_wants_sock(const struct relay *r)
{
	return (short)((r->out_at == r->out_len && !r->sock_eof ? POLLIN : 0) |
		       (waits_for_sock(r) ? POLLOUT : 0));
}

short relay_wants_conn(const struct relay *r)
{
	return (short)((r->out_at < r->out_len ? POLLOUT : 0) |
		       (!r->done_seen && !waits_for_sock(r) ? POLLIN : 0));
}

void relay_reset(int sock)
{
	const struct linger now = {.l_onoff = 1};

	setsockopt(sock, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(sock);
}
