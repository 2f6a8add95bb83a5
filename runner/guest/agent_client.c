#include "runner/guest/agent_client.h"

#include "runner/guest/agent_conn.h"
#include "runner/proto/agent_reach.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/num.h"
#include "smfs/base/unix_socket.h"

#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define ANSWER_MS      10000 /* beyond a deadline that the agent keeps itself */
#define RETRY_FIRST_MS 5
#define RETRY_MAX_MS   100
/*
 * One attempt: an answer may be lost while the guest boots, so it is tried again; but on a guest
 * that is merely slow giving up too early would never get through, so each attempt is more patient.
 */
#define ATTEMPT_FIRST_MS 1000
#define ATTEMPT_MAX_MS	 16000

static uint64_t wall_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int left_ms(int64_t end)
{
	return (int)MIN(MAX(end - monotonic_ms(), (int64_t)0), (int64_t)INT_MAX);
}

/* ---- connect ------------------------------------------------------------------------------- */

/* Until `fd` has something to read; `end_fd` (or -1) ends the wait for good. */
static int wait_answer(int fd, int end_fd, int64_t end, struct err *err)
{
	for (;;) {
		struct pollfd p[2] = {{.fd = fd, .events = POLLIN},
				      {.fd = end_fd, .events = POLLIN}};
		int64_t left = end - monotonic_ms();

		if (left <= 0)
			return err_set(err, ETIMEDOUT, "vsock: no answer");
		if (poll(p, 2, (int)MIN(left, (int64_t)INT_MAX)) < 0 && errno != EINTR)
			return err_errno(err, "vsock: poll");
		/* The last words of a guest that has ended are still an answer. */
		if (p[0].revents)
			return 0;
		if (p[1].revents)
			return err_set(err, ECANCELED, "the guest has ended");
	}
}

/* "OK <port>\n", byte by byte: what follows belongs to the guest's stream. */
static int read_ok(int fd, int end_fd, int64_t end, struct err *err)
{
	char line[32];
	size_t n = 0;

	for (;;) {
		int r = wait_answer(fd, end_fd, end, err);

		if (r < 0)
			return r;
		ssize_t k = recv(fd, line + n, 1, 0);
		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return err_set(err, ECONNREFUSED, "vsock: the guest does not listen on %u",
				       AGENT_PORT);
		if (line[n] == '\n')
			break;
		if (++n == sizeof(line))
			return err_set(err, EPROTO, "vsock: the answer to CONNECT is no OK");
	}
	line[n] = '\0';
	if (strncmp(line, "OK ", 3) != 0)
		return err_set(err, EPROTO, "vsock: the answer to CONNECT is no OK");
	return 0;
}

/* HELLO was said over it: its answer, unless that has come. */
static int settle(struct agent *a, int64_t end, struct err *err)
{
	int r;

	if (a->version)
		return 0;
	r = wait_answer(a->fd, a->end_fd, end, err);
	if (r == 0)
		r = agent_frame_read_unless(a->fd, a->end_fd, &a->frame, left_ms(end), err);
	if (r == 0 && a->frame.type == AGENT_ERROR)
		r = agent_get_error(&a->frame, err);
	else if (r == 0)
		r = agent_get_hello(&a->frame, &a->version, err);
	return r;
}

/* HELLO was said over `fd`, which is taken over in every case. `early`: its answer is read later.
 */
static int attach(int fd, int end_fd, bool early, int64_t end, struct agent **out, struct err *err)
{
	struct agent *a = calloc(1, sizeof(*a));
	int r;

	if (!a) {
		close(fd);
		return err_set(err, ENOMEM, "agent connection: out of memory");
	}
	a->fd = fd;
	a->end_fd = end_fd;
	r = early ? 0 : settle(a, end, err);
	if (r < 0) {
		agent_close(a);
		return r;
	}
	*out = a;
	return 0;
}

static int attempt(const char *path, int end_fd, bool early, int64_t end, struct agent **out,
		   struct err *err)
{
	cleanup_writer struct writer hello = WRITER_INIT, first = WRITER_INIT;
	cleanup_fd int fd = unix_connect(path, (unsigned)MAX(left_ms(end), 1), err);
	uint8_t hdr[AGENT_FRAME_HDR];
	char line[32];
	int r;

	if (fd < 0)
		return fd;
	agent_put_hello(&hello);
	agent_header_put(hdr, AGENT_HELLO, (uint32_t)hello.len);
	put_bytes(&first, line, (size_t)snprintf(line, sizeof(line), "CONNECT %u\n", AGENT_PORT));
	put_bytes(&first, hdr, sizeof(hdr));
	put_bytes(&first, hello.p, hello.len);
	if (hello.failed || first.failed)
		return err_set(err, ENOMEM, "vsock: CONNECT: out of memory");
	/*
	 * HELLO waits in the socket for the stream to begin: the guest has it a trip earlier. In
	 * one piece: one whose guest does not listen may be closed as soon as the line is there.
	 */
	if (send(fd, first.p, first.len, MSG_NOSIGNAL) != (ssize_t)first.len)
		return err_set(err, ECONNRESET, "vsock: CONNECT: %s", strerror(errno));
	r = read_ok(fd, end_fd, end, err);
	return r < 0 ? r : attach(steal_fd(&fd), end_fd, early, end, out, err);
}

/* What may still come: a socket not yet there, a guest not yet listening, one that was reset. */
static bool worth_retrying(int r)
{
	return r == -ENOENT || r == -ECONNREFUSED || r == -ECONNRESET || r == -ETIMEDOUT ||
	       r == -EAGAIN;
}

static int connect_to(const char *vsock_path, int timeout_ms, int end_fd, bool early,
		      struct agent **out, struct err *err)
{
	int64_t end = timeout_ms < 0 ? INT64_MAX : monotonic_ms() + timeout_ms;
	int64_t patience = ATTEMPT_FIRST_MS, wait = RETRY_FIRST_MS;
	struct err last = ERR_INIT;

	for (;;) {
		struct pollfd p = {.fd = end_fd, .events = POLLIN};
		struct err e = ERR_INIT;
		int64_t now = monotonic_ms();
		int r = attempt(vsock_path, end_fd, early, MIN(end, now + patience), out, &e);

		if (r == 0)
			return 0;
		if (!worth_retrying(r))
			return err_set(err, -r, "connect to the guest's agent: %s", e.msg);
		/* The last attempt's time may be too short to tell anything. */
		if (r != -ETIMEDOUT || now + patience <= end || !last.code)
			last = e;
		if (r == -ETIMEDOUT)
			patience = MIN(patience * 2, ATTEMPT_MAX_MS);
		now = monotonic_ms();
		if (now >= end)
			return err_set(err, ETIMEDOUT,
				       "connect to the guest's agent: not up after %d ms (%s)",
				       timeout_ms, last.msg);
		if (poll(&p, 1, (int)MIN(wait, end - now)) > 0)
			return err_set(err, ECANCELED,
				       "connect to the guest's agent: given up (%s)", last.msg);
		wait = MIN(wait * 2, RETRY_MAX_MS);
	}
}

int agent_connect(const char *vsock_path, int timeout_ms, struct agent **out, struct err *err)
{
	return connect_to(vsock_path, timeout_ms, -1, false, out, err);
}

int agent_connect_unless(const char *vsock_path, int timeout_ms, int end_fd, struct agent **out,
			 struct err *err)
{
	return connect_to(vsock_path, timeout_ms, end_fd, false, out, err);
}

int agent_connect_early(const char *vsock_path, int timeout_ms, int end_fd, struct agent **out,
			struct err *err)
{
	return connect_to(vsock_path, timeout_ms, end_fd, true, out, err);
}

int agent_attach(int fd, int timeout_ms, struct agent **out, struct err *err)
{
	cleanup_writer struct writer hello = WRITER_INIT;
	const int64_t end = timeout_ms < 0 ? INT64_MAX : monotonic_ms() + timeout_ms;
	int r;

	agent_put_hello(&hello);
	r = agent_frame_send(fd, AGENT_HELLO, &hello, timeout_ms, err);
	if (r < 0) {
		close(fd);
		return r;
	}
	return attach(fd, -1, false, end, out, err);
}

void agent_close(struct agent *a)
{
	if (!a)
		return;
	close(a->fd);
	agent_frame_free(&a->frame);
	free(a);
}

/* ---- control ------------------------------------------------------------------------------- */

unsigned agent_version(const struct agent *a)
{
	return a->version;
}

int agent_needs(struct agent *a, unsigned since, const char *what, struct err *err)
{
	int r = settle(a, monotonic_ms() + AGENT_TIMEOUT_MS, err);

	if (r < 0)
		return err_wrap(err, r, "connect to the guest's agent");
	if (a->version >= since)
		return 0;
	return err_set(
		err, ENOTSUP,
		"the agent in this guest (version %u) cannot %s, which takes version %u; boot "
		"its image anew, and snapshot that instead of the old snapshot",
		a->version, what, since);
}

int agent_call(struct agent *a, uint16_t type, const struct writer *w, uint16_t want,
	       int timeout_ms, struct err *err)
{
	static const struct writer none;
	int64_t end = timeout_ms < 0 ? INT64_MAX : monotonic_ms() + timeout_ms;
	int r = agent_frame_send(a->fd, type, w ? w : &none, timeout_ms, err);

	/* One that has refused and closed meanwhile has said why. */
	if (!a->version && (r == 0 || r == -ECONNRESET)) {
		struct err why = ERR_INIT;
		const int s = settle(a, end, &why);

		if (s < 0)
			return err_set(err, -s, "connect to the guest's agent: %s", why.msg);
	}
	if (r == 0 && a->end_fd >= 0)
		r = wait_answer(a->fd, a->end_fd, end, err);
	if (r == 0)
		r = agent_frame_read_unless(a->fd, a->end_fd, &a->frame,
					    timeout_ms < 0 ? -1 : left_ms(end), err);
	if (r < 0)
		return err_wrap(err, r, "%s", agent_type_name(type));
	if (a->frame.type == AGENT_ERROR)
		return agent_get_error(&a->frame, err);
	if (a->frame.type != want)
		return err_set(err, EPROTO, "agent answered %s with %s", agent_type_name(type),
			       agent_type_name(a->frame.type));
	return 0;
}

static int call_results(struct agent *a, uint16_t type, const struct writer *w, int timeout_ms,
			struct agent_results *results, struct err *err)
{
	cleanup_free struct agent_results *own = NULL;
	int r = agent_call(a, type, w, AGENT_RESULTS, timeout_ms, err);

	if (r < 0)
		return r;
	if (!results) {
		results = own = malloc(sizeof(*own));
		if (!own)
			return err_set(err, ENOMEM, "%s: out of memory", agent_type_name(type));
	}
	return agent_get_results(&a->frame, results, err);
}

int agent_info(struct agent *a, struct agent_info *out, int timeout_ms, struct err *err)
{
	int r = agent_call(a, AGENT_INFO, NULL, AGENT_INFO_IS, timeout_ms, err);

	return r < 0 ? r : agent_get_info(&a->frame, out, err);
}

int agent_prepare(struct agent *a, int timeout_ms, struct agent_results *results, struct err *err)
{
	return call_results(a, AGENT_PREPARE, NULL, timeout_ms, results, err);
}

int agent_thaw(struct agent *a, int timeout_ms, struct agent_results *results, struct err *err)
{
	return call_results(a, AGENT_THAW, NULL, timeout_ms, results, err);
}

int agent_generation(struct agent *a, const struct agent_generation *g, int timeout_ms,
		     struct agent_results *results, struct err *err)
{
	cleanup_writer struct writer w = WRITER_INIT;
	struct agent_generation now = *g;
	int r;

	if (now.wall_ns == AGENT_WALL_NOW)
		now.wall_ns = wall_ns();
	agent_put_generation(&w, &now);
	r = call_results(a, AGENT_GENERATION, &w, timeout_ms, results, err);
	explicit_bzero(now.entropy, sizeof(now.entropy));
	if (w.p)
		explicit_bzero(w.p, w.len);
	return r;
}

int agent_clock(struct agent *a, int timeout_ms, struct err *err)
{
	cleanup_writer struct writer w = WRITER_INIT;
	struct agent_clock c = {.wall_ns = wall_ns()};

	agent_put_clock(&w, &c);
	return call_results(a, AGENT_CLOCK, &w, timeout_ms, NULL, err);
}

int agent_stop(struct agent *a, unsigned grace_ms, int timeout_ms, struct err *err)
{
	cleanup_writer struct writer w = WRITER_INIT;
	struct agent_stop s = {.grace_ms = grace_ms};

	agent_put_stop(&w, &s);
	return call_results(a, AGENT_STOP, &w, timeout_ms, NULL, err);
}

int agent_ready(struct agent *a, char *const *conditions, int timeout_ms,
		struct agent_results *results, struct err *err)
{
	cleanup_writer struct writer w = WRITER_INIT;
	const struct agent_ready q = {.condition = (char **)(uintptr_t)conditions,
				      .timeout_ms = (uint32_t)MAX(timeout_ms, 0)};
	enum agent_condition kind;
	bool only_agent = true;
	const char *arg;
	int r = 0;

	for (char *const *c = conditions; r == 0 && *c; c++) {
		r = agent_condition_parse(*c, &kind, &arg, err);
		only_agent = only_agent && kind == CONDITION_AGENT;
	}
	if (r < 0 || only_agent) {
		if (results)
			results->n = 0;
		return r;
	}
	r = agent_needs(a, agent_type_since(AGENT_READY), "tell when a service is ready", err);
	if (r < 0)
		return r;
	agent_put_ready(&w, &q);
	/* The agent's own deadline comes first, and says what was missing. */
	return call_results(a, AGENT_READY, &w,
			    timeout_ms > INT_MAX - ANSWER_MS ? -1 : timeout_ms + ANSWER_MS, results,
			    err);
}

int agent_wait(struct agent *a, int timeout_ms, struct agent_exit *exit, struct err *err)
{
	int r = agent_call(a, AGENT_WAIT, NULL, AGENT_EXIT, timeout_ms, err);

	return r < 0 ? r : agent_get_exit(&a->frame, exit, err);
}
