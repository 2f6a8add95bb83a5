/* The host's side of an exec session. */
#include "runner/guest/agent_client.h"
#include "runner/guest/agent_conn.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/num.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

#define OUT_HIGH (256u << 10) /* bytes for the guest above which `in` is not read */

int agent_exec_start(struct agent *a, const struct agent_exec *x, int timeout_ms, struct err *err)
{
	cleanup_writer struct writer w = WRITER_INIT;
	int r = 0;

	/* All else means the same in every version, so that this need not be known yet. */
	if (x->measure && !x->measure_or_not)
		r = agent_needs(a, 2, "measure a program's memory", err);
	if (r < 0)
		return r;
	agent_put_exec(&w, x);
	a->exec_limit_ms = x->timeout_ms;
	return agent_call(a, AGENT_EXEC, &w, AGENT_STARTED, timeout_ms, err);
}

/* ---- the loop, over callbacks ---------------------------------------------------------------- */

/* Where the session's bytes come from and go to; one for descriptors, one for memory. */
struct pump {
	struct agent *a;
	struct writer tx; /* frames for the guest from tx_off on */
	size_t tx_off;
	uint8_t rx[AGENT_FRAME_HDR + AGENT_DATA_MAX];
	size_t rx_len;
	uint8_t buf[AGENT_DATA_MAX];
	int in; /* -1: at its end */
	int signal_fd, tty_fd;
	int64_t end_ms; /* -1: none */
	int (*output)(struct pump *p, uint16_t type, const void *data, size_t len, struct err *err);
	void *ctx;
	bool done;
	struct agent_exit exit;
};

static void queue(struct pump *p, uint16_t type, const void *data, size_t len)
{
	uint8_t hdr[AGENT_FRAME_HDR];

	agent_header_put(hdr, type, (uint32_t)len);
	put_bytes(&p->tx, hdr, sizeof(hdr));
	put_bytes(&p->tx, data, len);
}

static int guest_write(struct pump *p, struct err *err)
{
	while (p->tx_off < p->tx.len) {
		ssize_t n = send(p->a->fd, p->tx.p + p->tx_off, p->tx.len - p->tx_off,
				 MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return 0;
		/* The guest may have said EXIT and closed: what it said is still to be read. */
		if (n < 0 && (errno == EPIPE || errno == ECONNRESET))
			break;
		if (n < 0)
			return err_errno(err, "exec: send to the guest");
		p->tx_off += (size_t)n;
	}
	p->tx.len = p->tx_off = 0;
	return 0;
}

/* The guest has no part in how long its output takes to be read here. */
static int output(struct pump *p, const struct agent_frame *f, struct err *err)
{
	const int64_t began = monotonic_ms();
	int r = f->len ? p->output(p, f->type, f->data, f->len, err) : 0;

	if (p->end_ms >= 0)
		p->end_ms += monotonic_ms() - began;
	return r;
}

static int guest_frame(struct pump *p, struct agent_frame *f, struct err *err)
{
	switch (f->type) {
	case AGENT_STDOUT:
	case AGENT_STDERR:
		return output(p, f, err);
	case AGENT_EXIT:
		p->done = true;
		return agent_get_exit(f, &p->exit, err);
	case AGENT_ERROR:
		return agent_get_error(f, err);
	default:
		return err_set(err, EPROTO, "exec: the agent sent %s in a session",
			       agent_type_name(f->type));
	}
}

static int guest_read(struct pump *p, struct err *err)
{
	ssize_t n = recv(p->a->fd, p->rx + p->rx_len, sizeof(p->rx) - p->rx_len, MSG_DONTWAIT);
	size_t at = 0;
	int r = 0;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0)
		return err_set(err, ECONNRESET,
			       "exec: the connection to the guest ended before the program did");
	p->rx_len += (size_t)n;
	while (r == 0 && !p->done && p->rx_len - at >= AGENT_FRAME_HDR) {
		struct agent_frame f;

		r = agent_header_parse(p->rx + at, &f.type, &f.len, err);
		if (r < 0)
			return r;
		if (f.len > AGENT_DATA_MAX)
			return err_set(err, EPROTO, "exec: the agent sent %s in a session",
				       agent_type_name(f.type));
		if (p->rx_len - at < AGENT_FRAME_HDR + f.len)
			break;
		f.data = p->rx + at + AGENT_FRAME_HDR;
		r = guest_frame(p, &f, err);
		at += AGENT_FRAME_HDR + f.len;
	}
	memmove(p->rx, p->rx + at, p->rx_len - at);
	p->rx_len -= at;
	return r;
}

static void input(struct pump *p)
{
	ssize_t n = read(p->in, p->buf, sizeof(p->buf));

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	/* An input that fails reads as ended: the program should not wait for it. */
	queue(p, AGENT_STDIN, p->buf, n > 0 ? (size_t)n : 0);
	if (n <= 0)
		p->in = -1;
}

static void signals(struct pump *p)
{
	struct signalfd_siginfo si;
	struct winsize ws;
	uint8_t b[4];

	if (read(p->signal_fd, &si, sizeof(si)) != sizeof(si))
		return;
	if (si.ssi_signo != SIGWINCH) {
		for (int i = 0; i < 4; i++)
			b[i] = (uint8_t)(si.ssi_signo >> (8 * i));
		queue(p, AGENT_SIGNAL, b, 4);
	} else if (p->tty_fd >= 0 && ioctl(p->tty_fd, TIOCGWINSZ, &ws) == 0) {
		b[0] = ws.ws_row & 0xff;
		b[1] = ws.ws_row >> 8;
		b[2] = ws.ws_col & 0xff;
		b[3] = ws.ws_col >> 8;
		queue(p, AGENT_WINSIZE, b, 4);
	}
}

static int pump_run(struct pump *p, struct err *err)
{
	while (!p->done) {
		size_t waiting = p->tx.len - p->tx_off;
		struct pollfd f[4] = {{.fd = p->a->fd, .events = POLLIN},
				      {.fd = waiting < OUT_HIGH ? p->in : -1, .events = POLLIN},
				      {.fd = p->signal_fd, .events = POLLIN},
				      {.fd = p->a->end_fd, .events = POLLIN}};
		int64_t left = p->end_ms < 0 ? -1 : p->end_ms - monotonic_ms();
		int r = 0;

		if (p->end_ms >= 0 && left <= 0)
			return err_set(err, ETIMEDOUT, "exec: the program did not end in time");
		if (waiting)
			f[0].events |= POLLOUT;
		if (poll(f, ARRAY_SIZE(f), (int)MIN(left, (int64_t)INT_MAX)) < 0) {
			if (errno == EINTR)
				continue;
			return err_errno(err, "exec: poll");
		}
		if (f[1].revents)
			input(p);
		if (f[2].revents)
			signals(p);
		if (p->tx.failed)
			return err_set(err, ENOMEM, "exec: out of memory");
		if (p->tx.len)
			r = guest_write(p, err);
		if (r == 0 && (f[0].revents & ~POLLOUT))
			r = guest_read(p, err);
		if (r < 0)
			return r;
		/* Its last words are still heard. */
		if (!p->done && !f[0].revents && f[3].revents)
			return err_set(err, ECANCELED, "exec: given up");
	}
	return 0;
}

/* ---- over descriptors ------------------------------------------------------------------------ */

static int to_fd(struct pump *p, uint16_t type, const void *data, size_t len, struct err *err)
{
	const struct agent_exec_io *io = p->ctx;
	int fd = type == AGENT_STDOUT ? io->out : io->err;

	if (fd < 0)
		return 0;
	while (len) {
		ssize_t n = write(fd, data, len);

		/* The descriptor may be non-blocking by somebody else's doing. */
		if (n < 0 && errno == EAGAIN) {
			struct pollfd f = {.fd = fd, .events = POLLOUT};

			poll(&f, 1, -1);
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_errno(err, "exec: write %s",
					 type == AGENT_STDOUT ? "standard output"
							      : "standard error");
		data = (const char *)data + n;
		len -= (size_t)n;
	}
	return 0;
}

int agent_exec_run(struct agent *a, const struct agent_exec_io *io, struct agent_exit *exit,
		   struct err *err)
{
	struct pump *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return err_set(err, ENOMEM, "exec: out of memory");
	p->a = a;
	p->in = io->in;
	p->signal_fd = io->signal_fd;
	p->tty_fd = io->tty_fd;
	p->end_ms = a->exec_limit_ms ? monotonic_ms() + a->exec_limit_ms +
					       (io->late_ms ? io->late_ms : AGENT_TIMEOUT_MS)
				     : -1;
	p->output = to_fd;
	p->ctx = (void *)io;
	if (p->in < 0)
		queue(p, AGENT_STDIN, NULL, 0);
	r = pump_run(p, err);
	if (r == 0)
		*exit = p->exit;
	writer_free(&p->tx);
	free(p);
	return r;
}

/* ---- into memory ------------------------------------------------------------------------------
 */

struct capture {
	struct writer out, err;
	size_t max;
};

static int to_memory(struct pump *p, uint16_t type, const void *data, size_t len, struct err *err)
{
	struct capture *c = p->ctx;
	struct writer *w = type == AGENT_STDOUT ? &c->out : &c->err;

	if (len > c->max - w->len)
		return err_set(err, EFBIG, "exec: more than %zu bytes of output", c->max);
	put_bytes(w, data, len);
	return w->failed ? err_set(err, ENOMEM, "exec: out of memory") : 0;
}

static int finish_capture(struct capture *c, struct agent_output *o, struct err *err)
{
	o->out_len = c->out.len;
	o->err_len = c->err.len;
	put_u8(&c->out, 0);
	put_u8(&c->err, 0);
	if (c->out.failed || c->err.failed)
		return err_set(err, ENOMEM, "exec: out of memory");
	o->out = (char *)steal_ptr(&c->out.p);
	o->err = (char *)steal_ptr(&c->err.p);
	return 0;
}

int agent_exec_capture(struct agent *a, const struct agent_exec *x, const void *input_data,
		       size_t input_len, size_t max, int timeout_ms, struct agent_output *o,
		       struct err *err)
{
	struct capture c = {.max = max};
	struct agent_exec with_in = *x;
	struct pump *p = calloc(1, sizeof(*p));
	int r;

	*o = (struct agent_output){0};
	if (!p)
		return err_set(err, ENOMEM, "exec: out of memory");
	with_in.stdin_open = input_data != NULL;
	p->a = a;
	p->in = p->signal_fd = p->tty_fd = -1;
	p->end_ms = timeout_ms < 0 ? -1 : monotonic_ms() + timeout_ms;
	p->output = to_memory;
	p->ctx = &c;
	for (size_t at = 0; at < input_len; at += AGENT_DATA_MAX)
		queue(p, AGENT_STDIN, (const char *)input_data + at,
		      MIN(input_len - at, AGENT_DATA_MAX));
	queue(p, AGENT_STDIN, NULL, 0);
	r = agent_exec_start(a, &with_in, timeout_ms, err);
	if (r == 0)
		r = pump_run(p, err);
	o->exit = p->exit;
	if (r == 0)
		r = finish_capture(&c, o, err);
	writer_free(&c.out);
	writer_free(&c.err);
	writer_free(&p->tx);
	free(p);
	return r;
}

void agent_output_free(struct agent_output *o)
{
	free(o->out);
	free(o->err);
	*o = (struct agent_output){0};
}
