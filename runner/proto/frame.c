/* Frames of the agent protocol on a descriptor. */
#include "runner/proto/agent.h"

#include "smfs/base/clock.h"
#include "smfs/base/num.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

static const struct {
	const char *name;
	uint32_t max;
	unsigned since; /* 0: the first version */
} types[] = {
	[AGENT_HELLO] = {"HELLO", 64},
	[AGENT_ERROR] = {"ERROR", 4096},
	[AGENT_EXEC] = {"EXEC", AGENT_FRAME_MAX},
	[AGENT_STARTED] = {"STARTED", 64},
	[AGENT_STDIN] = {"STDIN", AGENT_DATA_MAX},
	[AGENT_STDOUT] = {"STDOUT", AGENT_DATA_MAX},
	[AGENT_STDERR] = {"STDERR", AGENT_DATA_MAX},
	[AGENT_WINSIZE] = {"WINSIZE", 4},
	[AGENT_SIGNAL] = {"SIGNAL", 4},
	[AGENT_EXIT] = {"EXIT", 64},
	[AGENT_PREPARE] = {"PREPARE", 4096},
	[AGENT_THAW] = {"THAW", 4096},
	[AGENT_GENERATION] = {"GENERATION", 4096},
	[AGENT_STOP] = {"STOP", 4096},
	[AGENT_INFO] = {"INFO", 4096},
	[AGENT_INFO_IS] = {"INFO_IS", 4096},
	[AGENT_RESULTS] = {"RESULTS", AGENT_FRAME_MAX},
	[AGENT_WAIT] = {"WAIT", 4096},
	[AGENT_CLOCK] = {"CLOCK", 64},
	[AGENT_READY] = {"READY", 65536, 2},
	[AGENT_CONNECT] = {"CONNECT", 4096, 2},
	[AGENT_OPENED] = {"OPENED", 4096, 2},
	[AGENT_READ] = {"READ", 8192, 2},
	[AGENT_WRITE] = {"WRITE", 8192, 2},
	[AGENT_FETCH] = {"FETCH", 8192, 2},
	[AGENT_PUT] = {"PUT", 8192, 2},
	[AGENT_DATA] = {"DATA", AGENT_DATA_MAX, 2},
	[AGENT_ENTRY] = {"ENTRY", 16384, 2},
	[AGENT_DONE] = {"DONE", 64, 2},
};

const char *agent_type_name(uint16_t type)
{
	if (type >= ARRAY_SIZE(types) || !types[type].name)
		return "unknown frame";
	return types[type].name;
}

unsigned agent_type_since(uint16_t type)
{
	return type < ARRAY_SIZE(types) && types[type].since ? types[type].since : 1;
}

int agent_header_parse(const uint8_t hdr[AGENT_FRAME_HDR], uint16_t *type, uint32_t *len,
		       struct err *err)
{
	struct reader r = reader_of(hdr, AGENT_FRAME_HDR);
	uint32_t n = get_u32(&r);
	uint16_t t = get_u16(&r);
	uint16_t zero = get_u16(&r);

	if (t >= ARRAY_SIZE(types) || !types[t].name || zero)
		return err_set(err, EPROTO, "agent frame: unknown type %u/%u", t, zero);
	if (n > types[t].max)
		return err_set(err, EPROTO, "agent frame %s: %u bytes, at most %u are allowed",
			       types[t].name, n, types[t].max);
	*type = t;
	*len = n;
	return 0;
}

void agent_header_put(uint8_t hdr[AGENT_FRAME_HDR], uint16_t type, uint32_t len)
{
	hdr[0] = len & 0xff;
	hdr[1] = len >> 8 & 0xff;
	hdr[2] = len >> 16 & 0xff;
	hdr[3] = len >> 24;
	hdr[4] = type & 0xff;
	hdr[5] = type >> 8;
	hdr[6] = hdr[7] = 0;
}

void agent_frame_free(struct agent_frame *f)
{
	free(f->data);
	*f = (struct agent_frame){0};
}

/* Waits for `events` until `end` (monotonic ms, -1: for ever) or until `end_fd` is readable. */
static int wait_fd(int fd, short events, int end_fd, int64_t end, struct err *err)
{
	for (;;) {
		struct pollfd p[2] = {{.fd = fd, .events = events},
				      {.fd = end_fd, .events = POLLIN}};
		int64_t left = end < 0 ? -1 : MAX(end - monotonic_ms(), (int64_t)0);
		int r = poll(p, 2, (int)MIN(left, (int64_t)INT32_MAX));

		if (r > 0)
			return p[0].revents ? 0
					    : err_set(err, ECANCELED, "agent connection: given up");
		if (r < 0 && errno != EINTR)
			return err_errno(err, "agent connection");
		if (r == 0 && end >= 0 && monotonic_ms() >= end)
			return err_set(err, ETIMEDOUT, "agent connection: no answer in time");
	}
}

static int gone(struct err *err, int code)
{
	if (code == EPIPE || code == ENOTCONN || code == 0)
		code = ECONNRESET;
	return err_set(err, code, "agent connection: %s",
		       code == ECONNRESET ? "closed by the other side" : strerror(code));
}

static int recv_all(int fd, void *buf, size_t n, int end_fd, int64_t end, struct err *err)
{
	size_t done = 0;

	while (done < n) {
		ssize_t k = recv(fd, (char *)buf + done, n - done, MSG_DONTWAIT);

		if (k < 0 && errno == EAGAIN) {
			int r = wait_fd(fd, POLLIN, end_fd, end, err);

			if (r < 0)
				return r;
			continue;
		}
		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return gone(err, k ? errno : 0);
		done += (size_t)k;
	}
	return 0;
}

/* A header and what it announces, in one packet where both fit. */
static int send_all(int fd, const void *hdr, size_t nh, const void *data, size_t n, int64_t end,
		    struct err *err)
{
	struct iovec v[2] = {{.iov_base = (void *)(uintptr_t)hdr, .iov_len = nh},
			     {.iov_base = (void *)(uintptr_t)data, .iov_len = n}};

	while (v[0].iov_len || v[1].iov_len) {
		struct msghdr m = {.msg_iov = v, .msg_iovlen = 2};
		ssize_t k = sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (k < 0 && errno == EAGAIN) {
			int r = wait_fd(fd, POLLOUT, -1, end, err);

			if (r < 0)
				return r;
			continue;
		}
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return gone(err, errno);
		for (int i = 0; i < 2; i++) {
			size_t take = MIN((size_t)k, v[i].iov_len);

			if (!take) /* of what has no bytes there may be no address either */
				continue;
			v[i].iov_base = (char *)v[i].iov_base + take;
			v[i].iov_len -= take;
			k -= (ssize_t)take;
		}
	}
	return 0;
}

static int read_header(int fd, int end_fd, struct agent_frame *f, int64_t end, struct err *err)
{
	uint8_t hdr[AGENT_FRAME_HDR];
	int r;

	if (!f->data && !(f->data = malloc(AGENT_FRAME_MAX)))
		return err_set(err, ENOMEM, "agent connection: out of memory");
	r = recv_all(fd, hdr, sizeof(hdr), end_fd, end, err);
	return r < 0 ? r : agent_header_parse(hdr, &f->type, &f->len, err);
}

static int64_t end_of(int timeout_ms)
{
	return timeout_ms < 0 ? -1 : monotonic_ms() + timeout_ms;
}

int agent_frame_read_unless(int fd, int end_fd, struct agent_frame *f, int timeout_ms,
			    struct err *err)
{
	const int64_t end = end_of(timeout_ms);
	int r = read_header(fd, end_fd, f, end, err);

	return r < 0 ? r : recv_all(fd, f->data, f->len, end_fd, end, err);
}

int agent_frame_read_holding(int fd, uint16_t type, struct agent_frame *f, size_t *held,
			     int timeout_ms, struct err *err)
{
	const int64_t end = end_of(timeout_ms);
	int r = read_header(fd, -1, f, end, err);

	*held = 0;
	if (r < 0)
		return r;
	if (f->type == type && f->len &&
	    recv(fd, f->data, f->len, MSG_PEEK | MSG_DONTWAIT) == (ssize_t)f->len) {
		*held = f->len;
		return 0;
	}
	return recv_all(fd, f->data, f->len, -1, end, err);
}

void agent_frame_take(int fd, size_t *held)
{
	uint8_t sink[4096];

	while (*held) {
		ssize_t k = recv(fd, sink, MIN(*held, sizeof(sink)), MSG_DONTWAIT);

		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0) /* it was there: the connection is gone */
			break;
		*held -= (size_t)k;
	}
	*held = 0;
}

int agent_frame_read(int fd, struct agent_frame *f, int timeout_ms, struct err *err)
{
	return agent_frame_read_unless(fd, -1, f, timeout_ms, err);
}

int agent_frame_write(int fd, uint16_t type, const void *data, size_t len, int timeout_ms,
		      struct err *err)
{
	int64_t end = end_of(timeout_ms);
	uint8_t hdr[AGENT_FRAME_HDR];

	if (type >= ARRAY_SIZE(types) || len > types[type].max)
		return err_set(err, E2BIG, "agent request %s: %zu bytes, at most %u fit",
			       agent_type_name(type), len,
			       type < ARRAY_SIZE(types) ? types[type].max : 0);
	agent_header_put(hdr, type, (uint32_t)len);
	return send_all(fd, hdr, sizeof(hdr), data, len, end, err);
}

int agent_frame_send(int fd, uint16_t type, const struct writer *w, int timeout_ms, struct err *err)
{
	if (w->failed)
		return err_set(err, ENOMEM, "agent message %s: out of memory or a value too long",
			       agent_type_name(type));
	return agent_frame_write(fd, type, w->p, w->len, timeout_ms, err);
}
