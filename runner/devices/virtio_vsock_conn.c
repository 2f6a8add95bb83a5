/* virtio_vsock_conn.c - one connection: states, credit, its Unix socket. See virtio_vsock_conn.h.
 */
#include "runner/devices/virtio_vsock_conn.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define SHUT_BOTH (VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND)

/* ---- life ----------------------------------------------------------------------------------- */

static unsigned bucket(uint32_t host_port, uint32_t guest_port)
{
	return (host_port * 31 + guest_port) % VSOCK_BUCKETS;
}

struct vsock_conn *conn_find(struct vsock *s, uint32_t host_port, uint32_t guest_port)
{
	struct vsock_conn *c;

	LIST_FOREACH (c, &s->hash[bucket(host_port, guest_port)], hash)
		if (c->host_port == host_port && c->guest_port == guest_port)
			return c;
	return NULL;
}

void conn_name(struct vsock_conn *c, uint32_t host_port, uint32_t guest_port)
{
	c->host_port = host_port;
	c->guest_port = guest_port;
	c->named = true;
	LIST_INSERT_HEAD(&c->s->hash[bucket(host_port, guest_port)], c, hash);
}

struct vsock_conn *conn_new(struct vsock *s, int fd, enum conn_state state)
{
	struct vsock_conn *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->s = s;
	c->fd = fd;
	c->state = state;
	c->readable = true;
	LIST_INSERT_HEAD(&s->all, c, all);
	s->nconns++;
	return c;
}

/* Done with the Unix socket. What it has not taken is lost; what it has, its peer still reads. */
static void close_fd(struct vsock_conn *c)
{
	if (c->watch)
		loop_unwatch(c->s->v.dev.vm->loop, c->watch);
	c->watch = NULL;
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	free(c->buf);
	c->buf = NULL;
	c->buf_len = 0;
}

void conn_free(struct vsock_conn *c)
{
	struct vsock *s = c->s;

	close_fd(c);
	LIST_REMOVE(c, all);
	if (c->named)
		LIST_REMOVE(c, hash);
	if (c->is_ready)
		TAILQ_REMOVE(&s->ready, c, ready);
	free(c);
	s->nconns--;
	host_watch(s);
}

void conn_ready(struct vsock_conn *c, unsigned todo)
{
	c->todo |= todo;
	if (c->is_ready)
		return;
	c->is_ready = true;
	TAILQ_INSERT_TAIL(&c->s->ready, c, ready);
}

static void start_closing(struct vsock_conn *c)
{
	close_fd(c);
	c->state = CONN_CLOSING;
	vsock_deadline(c->s, &c->deadline, VSOCK_CLOSING_SEC);
}

void conn_abort(struct vsock_conn *c)
{
	start_closing(c);
	conn_ready(c, TODO_RST);
}

/* ---- the Unix socket ------------------------------------------------------------------------ */

static bool try_again(void)
{
	return errno == EAGAIN || errno == EINTR;
}

/* The peer takes no more: whatever comes from the guest now counts as passed on. */
static void turn_deaf(struct vsock_conn *c)
{
	c->deaf = true;
	c->forwarded += (uint32_t)c->buf_len;
	c->buf_len = 0;
	free(c->buf);
	c->buf = NULL;
}

static void flush(struct vsock_conn *c)
{
	while (c->buf_len) {
		ssize_t n =
			send(c->fd, c->buf + c->buf_at, c->buf_len, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && try_again())
			return;
		if (n < 0) {
			turn_deaf(c);
			return;
		}
		c->buf_at += (size_t)n;
		c->buf_len -= (size_t)n;
		c->forwarded += (uint32_t)n;
	}
	free(c->buf);
	c->buf = NULL;
}

/* Keep what the socket did not take. There is room: credit was checked. */
static int keep(struct vsock_conn *c, const struct iovec *data, unsigned n, size_t off, size_t len)
{
	if (!c->buf) {
		c->buf = malloc(VSOCK_BUF);
		c->buf_at = 0;
	}
	if (!c->buf)
		return -ENOMEM;
	if (c->buf_at + c->buf_len + len > VSOCK_BUF) {
		memmove(c->buf, c->buf + c->buf_at, c->buf_len);
		c->buf_at = 0;
	}
	c->buf_len += iov_to_buf(data, n, off, c->buf + c->buf_at + c->buf_len, len);
	return 0;
}

static int pass_on(struct vsock_conn *c, struct iovec *data, unsigned n, uint32_t len)
{
	struct msghdr m = {.msg_iov = data, .msg_iovlen = n};
	ssize_t k = 0;

	if (!len)
		return 0;
	if ((c->guest_shut & VIRTIO_VSOCK_SHUTDOWN_SEND) || len > VSOCK_BUF - c->buf_len)
		return -EPROTO;
	c->received += len;
	if (!c->buf_len && !c->deaf) {
		k = sendmsg(c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (k < 0 && !try_again())
			turn_deaf(c);
		k = MAX(k, 0);
	}
	if (c->deaf)
		k = len;
	c->forwarded += (uint32_t)k;
	return k < len ? keep(c, data, n, (size_t)k, len - (size_t)k) : 0;
}

/*
 * The guest closed, so bytes on their way to it are lost as they would be in its own buffer. Taking
 * them out first has the peer see an end of stream rather than a reset. It can send no more:
 * read_shut.
 */
static void drain(struct vsock_conn *c)
{
	uint8_t sink[4096];

	while (recv(c->fd, sink, sizeof(sink), MSG_DONTWAIT) > 0)
		;
}

/* Follow what has changed: ends of stream either way, credit to give. */
static void settle(struct vsock_conn *c)
{
	uint32_t shut = (c->deaf ? VIRTIO_VSOCK_SHUTDOWN_RCV : 0) |
			(c->eof ? VIRTIO_VSOCK_SHUTDOWN_SEND : 0);

	if (c->state != CONN_OPEN)
		return;
	if (shut & ~c->told_shut)
		conn_ready(c, TODO_SHUTDOWN);
	/* Before the guest runs dry, and not for each byte. */
	if (c->forwarded != c->told_forwarded && c->received - c->told_forwarded > VSOCK_BUF / 2)
		conn_ready(c, TODO_CREDIT_UPDATE);
	if ((c->guest_shut & VIRTIO_VSOCK_SHUTDOWN_SEND) && !c->buf_len && !c->write_shut) {
		c->write_shut = true;
		shutdown(c->fd, SHUT_WR);
	}
	if ((c->guest_shut & VIRTIO_VSOCK_SHUTDOWN_RCV) && !c->read_shut) {
		c->read_shut = true;
		shutdown(c->fd, SHUT_RD);
	}
	if (c->write_shut && c->read_shut) {
		drain(c);
		conn_abort(c); /* RST is what a guest that closed waits for */
	}
}

static void on_socket(void *arg, uint32_t events)
{
	struct vsock_conn *c = arg;
	struct vsock *s = c->s;
	bool gone = events & (EPOLLHUP | EPOLLERR);

	if (s->v.quiet) {
		conn_watch(c);
		return;
	}
	if (c->state == CONN_GREETING) {
		if (gone && !(events & EPOLLIN))
			conn_free(c);
		else
			host_greeting(c);
	} else if (c->state == CONN_REQUESTED && gone) {
		conn_abort(c);
	} else if (c->state == CONN_OPEN) {
		if (events & EPOLLOUT)
			flush(c);
		if (gone) {
			c->hup = true;
			turn_deaf(c);
		}
		c->readable |= gone || (events & EPOLLIN);
		settle(c);
		if (c->readable)
			conn_ready(c, 0);
		conn_watch(c);
	}
	vsock_pump(s);
}

/* EPOLLHUP and EPOLLERR come unasked, and for ever once they have: then the watch goes. */
static bool wanted(const struct vsock_conn *c, uint32_t *events)
{
	bool may_read = !c->readable && !c->eof && !c->read_shut;

	*events = 0;
	if (c->state == CONN_GREETING && c->s->event == EVENT_NONE)
		*events = EPOLLIN;
	if (c->state == CONN_OPEN)
		*events = (may_read ? EPOLLIN : 0) | (c->buf_len ? EPOLLOUT : 0);
	return c->fd >= 0 && !c->hup && !c->s->v.quiet;
}

void conn_watch(struct vsock_conn *c)
{
	struct loop *l = c->s->v.dev.vm->loop;
	uint32_t events;
	int ret = 0;

	if (!wanted(c, &events)) {
		if (c->watch)
			loop_unwatch(l, c->watch);
		c->watch = NULL;
		return;
	}
	if (!c->watch)
		ret = loop_watch(l, c->fd, events, on_socket, c, &c->watch, NULL);
	else if (events != c->watched)
		ret = loop_modify(l, c->watch, events, NULL);
	c->watched = events;
	if (ret < 0)
		conn_abort(c);
}

/* ---- packets -------------------------------------------------------------------------------- */

static void receive_open(struct vsock_conn *c, const struct virtio_vsock_hdr *h, struct iovec *data,
			 unsigned n, uint32_t len)
{
	int ret = 0;

	switch (le16toh(h->op)) {
	case VIRTIO_VSOCK_OP_RW:
		ret = pass_on(c, data, n, len);
		break;
	case VIRTIO_VSOCK_OP_SHUTDOWN:
		c->guest_shut |= le32toh(h->flags) & SHUT_BOTH;
		break;
	case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
		conn_ready(c, TODO_CREDIT_UPDATE);
		break;
	case VIRTIO_VSOCK_OP_CREDIT_UPDATE:
		break;
	default:
		ret = -EPROTO;
	}
	if (ret < 0) {
		conn_abort(c);
		return;
	}
	settle(c);
	if (c->readable)
		conn_ready(c, 0); /* there may be credit for it now */
	conn_watch(c);
}

void conn_receive(struct vsock_conn *c, const struct virtio_vsock_hdr *h, struct iovec *data,
		  unsigned n, uint32_t len)
{
	uint16_t op = le16toh(h->op);

	c->peer_alloc = le32toh(h->buf_alloc);
	c->peer_forwarded = le32toh(h->fwd_cnt);
	c->asked_credit = false;
	if (op == VIRTIO_VSOCK_OP_RST) {
		conn_free(c);
	} else if (c->state == CONN_REQUESTED) {
		if (op != VIRTIO_VSOCK_OP_RESPONSE || (c->todo & TODO_REQUEST) ||
		    host_greet(c) < 0) {
			conn_abort(c);
			return;
		}
		c->state = CONN_OPEN;
		c->deadline = 0;
		settle(c); /* its client may have said all it had to say */
		conn_ready(c, 0);
		conn_watch(c);
	} else if (c->state == CONN_OPEN) {
		receive_open(c, h, data, n, len);
	} else if (op == VIRTIO_VSOCK_OP_SHUTDOWN) {
		conn_ready(c, TODO_RST); /* CLOSING already, and the guest now too */
	}
}

static uint32_t credit(const struct vsock_conn *c)
{
	uint32_t flying = c->sent - c->peer_forwarded;

	return flying < c->peer_alloc ? c->peer_alloc - flying : 0;
}

/* Bytes of the Unix socket into the guest's buffer: how many. */
static uint32_t read_socket(struct vsock_conn *c, struct iovec *data, unsigned n)
{
	struct msghdr m = {.msg_iov = data};
	ssize_t k;

	m.msg_iovlen = iov_cut(data, n, credit(c));
	do
		k = recvmsg(c->fd, &m, MSG_DONTWAIT);
	while (k < 0 && errno == EINTR);
	if (k > 0) {
		c->sent += (uint32_t)k;
		return (uint32_t)k;
	}
	c->readable = false;
	if (k == 0 || errno != EAGAIN) {
		/* Reset counts as the end: there is nothing more to come. */
		c->eof = true;
		settle(c);
	}
	return 0;
}

static void told(struct vsock_conn *c, unsigned todo)
{
	c->todo &= ~todo;
}

/* What to tell next: a VIRTIO_VSOCK_OP_*, INVALID for nothing. */
static uint16_t next_op(struct vsock_conn *c, struct virtio_vsock_hdr *h, struct iovec *data,
			unsigned n)
{
	uint32_t len;

	if (c->todo & TODO_RST)
		return VIRTIO_VSOCK_OP_RST;
	if (c->todo & TODO_REQUEST) {
		told(c, TODO_REQUEST);
		return VIRTIO_VSOCK_OP_REQUEST;
	}
	if (c->todo & TODO_RESPONSE) {
		told(c, TODO_RESPONSE);
		return VIRTIO_VSOCK_OP_RESPONSE;
	}
	if ((c->state == CONN_OPEN || c->state == CONN_REQUESTED) && c->readable && !c->eof &&
	    !c->read_shut && credit(c)) {
		len = read_socket(c, data, n);
		h->len = htole32(len);
		if (len)
			return VIRTIO_VSOCK_OP_RW;
	}
	/* Behind the data, which must not be overtaken by the end of the stream. */
	if (c->todo & TODO_SHUTDOWN) {
		told(c, TODO_SHUTDOWN);
		c->told_shut = (c->deaf ? VIRTIO_VSOCK_SHUTDOWN_RCV : 0) |
			       (c->eof ? VIRTIO_VSOCK_SHUTDOWN_SEND : 0);
		h->flags = htole32(c->told_shut);
		return VIRTIO_VSOCK_OP_SHUTDOWN;
	}
	if (c->todo & TODO_CREDIT_UPDATE) {
		told(c, TODO_CREDIT_UPDATE);
		return VIRTIO_VSOCK_OP_CREDIT_UPDATE;
	}
	if (c->state == CONN_OPEN && c->readable && !credit(c) && !c->asked_credit) {
		c->asked_credit = true;
		return VIRTIO_VSOCK_OP_CREDIT_REQUEST;
	}
	return VIRTIO_VSOCK_OP_INVALID;
}

bool conn_packet(struct vsock_conn *c, struct virtio_vsock_hdr *h, struct iovec *data, unsigned n)
{
	uint16_t op;

	if (!c->named) { /* aborted before it had a name; there is no one to tell */
		conn_free(c);
		return false;
	}
	*h = (struct virtio_vsock_hdr){
		.src_cid = htole64(VSOCK_HOST_CID),
		.dst_cid = c->s->config.guest_cid,
		.src_port = htole32(c->host_port),
		.dst_port = htole32(c->guest_port),
		.type = htole16(VIRTIO_VSOCK_TYPE_STREAM),
		.buf_alloc = htole32(VSOCK_BUF),
	};
	op = next_op(c, h, data, n);
	h->op = htole16(op);
	h->fwd_cnt = htole32(c->forwarded);
	if (op == VIRTIO_VSOCK_OP_INVALID) {
		conn_watch(c);
		return false;
	}
	c->told_forwarded = c->forwarded;
	told(c, TODO_CREDIT_UPDATE); /* every packet is one */
	if (op == VIRTIO_VSOCK_OP_RST) {
		conn_free(c);
		return true;
	}
	if (op == VIRTIO_VSOCK_OP_SHUTDOWN && c->told_shut == SHUT_BOTH)
		start_closing(c);
	conn_ready(c, 0);
	return true;
}
