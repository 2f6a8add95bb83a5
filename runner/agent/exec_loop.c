/* The loop of an exec session: the connection, the program's descriptors and its end. */
#include "runner/agent/cgroup.h"
#include "runner/agent/exec.h"
#include "runner/agent/session.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <termios.h>

#define OUT_HIGH      (256u << 10) /* bytes for the peer above which the program is not read */
#define IN_HIGH	      (256u << 10) /* bytes for the program above which the peer is not read */
#define END_GRACE_MS  10	   /* between the end of a program's output and its own */
#define TTY_GRACE_US  100000	   /* a terminal kept open by others: silence that ends the drain */
#define TTY_DRAIN_MAX (1u << 20)

static size_t queued(const struct queue *q)
{
	return q->w.len - q->off;
}

static void consume(struct queue *q, size_t n)
{
	q->off += n;
	if (q->off == q->w.len)
		q->off = q->w.len = 0;
	else if (q->off >= AGENT_DATA_MAX) {
		memmove(q->w.p, q->w.p + q->off, q->w.len - q->off);
		q->w.len -= q->off;
		q->off = 0;
	}
}

void exec_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void exec_queue_frame(struct exec *x, uint16_t type, const void *data, size_t len)
{
	uint8_t hdr[AGENT_FRAME_HDR];

	agent_header_put(hdr, type, (uint32_t)len);
	put_bytes(&x->to_peer.w, hdr, sizeof(hdr));
	put_bytes(&x->to_peer.w, data, len);
}

static void source_end(struct exec *x, struct source *s)
{
	if (!s->eof_sent)
		exec_queue_frame(x, s->type, NULL, 0);
	s->eof_sent = true;
	/* With a terminal, input and output are the same descriptor's duplicates. */
	exec_close(&s->fd);
}

/* One read. The count; 0 when there is nothing now; -1 at the end. */
static ssize_t source_read(struct exec *x, struct source *s, size_t max)
{
	ssize_t n = read(s->fd, x->buf, MIN(max, sizeof(x->buf)));

	if (n > 0) {
		exec_queue_frame(x, s->type, x->buf, (size_t)n);
		return n;
	}
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	/* A terminal whose last user is gone reads as EIO. */
	source_end(x, s);
	return -1;
}

static int peer_write(struct exec *x)
{
	while (queued(&x->to_peer)) {
		ssize_t n = send(x->conn, x->to_peer.w.p + x->to_peer.off, queued(&x->to_peer),
				 MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : -ECONNRESET;
		consume(&x->to_peer, (size_t)n);
	}
	agent_frame_take(x->conn, x->held);
	return 0;
}

static void program_write(struct exec *x)
{
	while (x->in >= 0 && queued(&x->to_program)) {
		ssize_t n =
			write(x->in, x->to_program.w.p + x->to_program.off, queued(&x->to_program));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0) {
			/* It closed its input: what is left has no reader. */
			exec_close(&x->in);
			break;
		}
		consume(&x->to_program, (size_t)n);
	}
	if (x->in < 0)
		consume(&x->to_program, queued(&x->to_program));
	else if (x->in_eof)
		exec_close(&x->in);
}

static void program_eof(struct exec *x)
{
	struct termios t;
	uint8_t c = 4;

	/* A terminal is not closed by its peer's end of file; the line discipline is told. */
	if (x->tty && x->in >= 0) {
		if (tcgetattr(x->in, &t) == 0)
			c = t.c_cc[VEOF];
		put_u8(&x->to_program.w, c);
	} else {
		x->in_eof = true;
	}
}

static int peer_frame(struct exec *x, uint16_t type, const uint8_t *p, uint32_t len)
{
	struct reader r = reader_of(p, len);
	uint32_t sig;

	switch (type) {
	case AGENT_STDIN:
		if (x->in_eof || x->in < 0)
			return 0;
		if (len)
			put_bytes(&x->to_program.w, p, len);
		else
			program_eof(x);
		program_write(x);
		return 0;
	case AGENT_WINSIZE: {
		struct winsize ws = {.ws_row = get_u16(&r), .ws_col = get_u16(&r)};

		if (!reader_done(&r))
			return -EPROTO;
		if (x->tty && x->in >= 0)
			ioctl(x->in, TIOCSWINSZ, &ws);
		return 0;
	}
	case AGENT_SIGNAL:
		sig = get_u32(&r);
		if (!reader_done(&r) || sig == 0 || sig >= NSIG)
			return -EPROTO;
		if (x->pidfd >= 0)
			kill(-x->pid, (int)sig);
		return 0;
	default:
		return -EPROTO;
	}
}

static int peer_read(struct exec *x)
{
	ssize_t n = recv(x->conn, x->rx + x->rx_len, sizeof(x->rx) - x->rx_len, MSG_DONTWAIT);
	size_t at = 0;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0)
		return -ECONNRESET;
	x->rx_len += (size_t)n;
	while (x->rx_len - at >= AGENT_FRAME_HDR) {
		uint16_t type;
		uint32_t len;
		int r = agent_header_parse(x->rx + at, &type, &len, NULL);

		/* Nothing longer than the buffer is allowed here. */
		if (r < 0 || len > AGENT_DATA_MAX)
			return -EPROTO;
		if (x->rx_len - at < AGENT_FRAME_HDR + len)
			break;
		r = peer_frame(x, type, x->rx + at + AGENT_FRAME_HDR, len);
		if (r < 0)
			return r;
		at += AGENT_FRAME_HDR + len;
	}
	memmove(x->rx, x->rx + at, x->rx_len - at);
	x->rx_len -= at;
	return 0;
}

static void reap(struct exec *x)
{
	pid_t p = waitpid(x->pid, &x->status, WNOHANG);

	if (p == x->pid)
		exec_close(&x->pidfd);
}

void exec_kill(struct exec *x)
{
	struct err e = ERR_INIT;

	if (x->group[0] && cgroup_kill(x->group, &e) < 0)
		log_warn("%s", e.msg);
	kill(-x->pid, SIGKILL);
}

static int ms_until(uint64_t when, uint64_t now)
{
	return (int)MIN((when - now) / 1000 + 1, (uint64_t)INT32_MAX);
}

static int timeout_of(struct exec *x)
{
	uint64_t now;
	int ms = -1;

	if (!x->deadline_us && !x->answer_us)
		return -1;
	now = monotonic_us();
	if (x->deadline_us && now < x->deadline_us) {
		ms = ms_until(x->deadline_us, now);
	} else if (x->deadline_us) {
		x->timed_out = true;
		x->deadline_us = 0;
		exec_kill(x);
	}
	if (x->answer_us && now < x->answer_us)
		ms = MIN((unsigned)ms, (unsigned)ms_until(x->answer_us, now));
	else
		x->answer_us = 0;
	return ms;
}

/* That it runs is told with what else there is. */
static bool answer_waits(struct exec *x)
{
	if (queued(&x->to_peer) > x->answer_len)
		x->answer_us = 0;
	return x->answer_us != 0;
}

/*
 * True when the program has ended. One that closes an output mostly does so by that, the other
 * output with it: waited for once, so that the peer is told all of it in one packet.
 */
static bool ends_too(struct exec *x)
{
	struct pollfd p = {.fd = x->pidfd, .events = POLLIN};

	if (x->end_awaited || !(x->out.eof_sent || x->err.eof_sent))
		return false;
	x->end_awaited = true;
	return poll(&p, 1, END_GRACE_MS) > 0;
}

/* Until the program has been reaped. */
int exec_carry(struct exec *x)
{
	while (x->pidfd >= 0) {
		bool room = queued(&x->to_peer) < OUT_HIGH;
		struct pollfd p[5] = {
			{.fd = x->conn},
			{.fd = x->pidfd, .events = POLLIN},
			{.fd = room ? x->out.fd : -1, .events = POLLIN},
			{.fd = room ? x->err.fd : -1, .events = POLLIN},
			{.fd = queued(&x->to_program) ? x->in : -1, .events = POLLOUT},
		};
		int r = 0, timeout = timeout_of(x);

		if (queued(&x->to_program) < IN_HIGH && !*x->held)
			p[0].events |= POLLIN;
		if (queued(&x->to_peer) && !x->answer_us)
			p[0].events |= POLLOUT;
		if (poll(p, ARRAY_SIZE(p), timeout) < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		if (p[4].revents)
			program_write(x);
		if (p[2].revents)
			source_read(x, &x->out, sizeof(x->buf));
		if (p[3].revents)
			source_read(x, &x->err, sizeof(x->buf));
		if (p[0].revents & POLLIN)
			r = peer_read(x);
		else if (p[0].revents & (POLLERR | POLLHUP))
			r = -ECONNRESET;
		const bool ended = p[1].revents || ends_too(x);
		/* What is left is said together with the end. */
		if (r == 0 && !ended && !answer_waits(x))
			r = peer_write(x);
		if (r == 0 && (x->to_peer.w.failed || x->to_program.w.failed))
			r = -ENOMEM;
		if (r < 0)
			return r;
		if (ended)
			reap(x);
	}
	return 0;
}

static int flush_peer(struct exec *x, size_t below)
{
	while (queued(&x->to_peer) > below) {
		struct pollfd p = {.fd = x->conn, .events = POLLOUT};

		if (poll(&p, 1, -1) < 0 && errno != EINTR)
			return -errno;
		int r = peer_write(x);
		if (r < 0)
			return r;
		if (p.revents & (POLLERR | POLLHUP))
			return -ECONNRESET;
	}
	return x->to_peer.w.failed ? -ENOMEM : 0;
}

/*
 * What the program wrote before it ended is in the pipe by now; what its background children
 * write later is not waited for, so that a daemon does not hold the session open.
 */
static int drain_pipe(struct exec *x, struct source *s)
{
	int left = 0, r;

	if (s->fd >= 0 && ioctl(s->fd, FIONREAD, &left) < 0)
		left = 0;
	while (s->fd >= 0 && left > 0) {
		ssize_t n = source_read(x, s, (size_t)left);

		if (n <= 0)
			break;
		left -= (int)n;
		r = flush_peer(x, OUT_HIGH);
		if (r < 0)
			return r;
	}
	source_end(x, s);
	return 0;
}

/* A terminal passes bytes on a little later: until its last user is gone, or it falls silent. */
static int drain_tty(struct exec *x, struct source *s)
{
	size_t total = 0;

	while (s->fd >= 0 && total < TTY_DRAIN_MAX) {
		struct pollfd p = {.fd = s->fd, .events = POLLIN};
		ssize_t n;
		int r = poll(&p, 1, TTY_GRACE_US / 1000);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			break;
		n = source_read(x, s, sizeof(x->buf));
		total += n > 0 ? (size_t)n : 0;
		r = flush_peer(x, OUT_HIGH);
		if (r < 0)
			return r;
	}
	source_end(x, s);
	return 0;
}

int exec_finish(struct exec *x)
{
	cleanup_writer struct writer w = WRITER_INIT;
	struct agent_exit e = {0};
	struct err err = ERR_INIT;
	int r = x->tty ? drain_tty(x, &x->out) : drain_pipe(x, &x->out);

	if (r == 0 && !x->tty)
		r = drain_pipe(x, &x->err);
	if (r < 0)
		return r;
	e.kind = x->timed_out		  ? AGENT_EXIT_TIMEOUT
		 : WIFSIGNALED(x->status) ? AGENT_EXIT_SIGNAL
					  : AGENT_EXIT_CODE;
	e.value = (uint32_t)(x->timed_out	      ? SIGKILL
			     : WIFSIGNALED(x->status) ? WTERMSIG(x->status)
						      : WEXITSTATUS(x->status));
	if (x->group[0] && cgroup_peak(x->group, &e.peak, &err) < 0)
		log_warn("%s", err.msg);
	agent_put_exit(&w, &e);
	if (w.failed)
		return -ENOMEM;
	exec_queue_frame(x, AGENT_EXIT, w.p, w.len);
	return flush_peer(x, 0);
}

/* Reads what is there; true at the end of the stream. */
static bool drained(struct exec *x)
{
	ssize_t n = recv(x->conn, x->buf, sizeof(x->buf), MSG_DONTWAIT);

	return n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}

void exec_linger(struct exec *x)
{
	uint64_t end = monotonic_us() + SESSION_REPLY_MS * 1000ull, now;

	while ((now = monotonic_us()) < end) {
		struct pollfd p = {.fd = x->conn, .events = POLLIN};
		int r = poll(&p, 1, (int)((end - now) / 1000 + 1));

		if (r < 0 && errno != EINTR)
			return;
		if (r > 0 && drained(x))
			return;
	}
}
