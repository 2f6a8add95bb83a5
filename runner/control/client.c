#include "runner/control/control.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"
#include "smfs/base/unix_socket.h"

#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define CHUNK	   65536u
#define REQUEST_MS 10000 /* to be heard at all, however long the answer may take */

/*
 * Exactly one line, malloc'd: what follows it (console bytes) belongs to whoever takes the
 * descriptor next, so it is looked at before it is taken.
 */
static int read_line(int fd, int timeout_ms, uint64_t until, char **line, struct err *err)
{
	cleanup_free char *buf = NULL;
	size_t len = 0, cap = 0;

	for (;;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		const uint64_t now = monotonic_us();
		int r = poll(&p, 1,
			     timeout_ms < 0 ? -1
			     : now < until  ? (int)((until - now) / 1000) + 1
					    : 0);

		/* What was asked for goes on: a signal that is handled is no reason not to hear of
		 * it. */
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return err_errno(err, "wait for the answer");
		if (r == 0)
			return err_set(err, ETIMEDOUT, "no answer within %d ms", timeout_ms);
		if (cap - len < CHUNK) {
			char *bigger = realloc(buf, cap += MAX(cap, (size_t)CHUNK));

			if (!bigger)
				return err_set(err, ENOMEM, "answer: out of memory");
			buf = bigger;
		}
		ssize_t n = recv(fd, buf + len, CHUNK, MSG_PEEK);
		if (n < 0)
			return err_errno(err, "read answer");
		if (n == 0)
			return err_set(err, ECONNRESET, "the VM's process closed the connection");
		char *end = memchr(buf + len, '\n', (size_t)n);
		n = recv(fd, buf + len, end ? (size_t)(end + 1 - (buf + len)) : (size_t)n, 0);
		if (n < 0)
			return err_errno(err, "read answer");
		len += (size_t)n;
		if (end) {
			*end = '\0';
			*line = steal_ptr(&buf);
			return 0;
		}
		if (len >= CONTROL_REPLY_MAX)
			return err_set(err, EPROTO, "answer longer than %u bytes",
				       CONTROL_REPLY_MAX);
	}
}

int control_call(const char *path, json_t *request, int timeout_ms, json_t **reply, int *fd_out,
		 struct err *err)
{
	cleanup_free char *text = json_dumps(request, JSON_COMPACT);
	cleanup_free char *line = NULL;
	/* In all: a VM's process may be its guest's, and say a byte now and then for ever. */
	const uint64_t until = monotonic_us() + (uint64_t)MAX(timeout_ms, 0) * 1000;
	const int patience = timeout_ms < 0 ? REQUEST_MS : MIN(timeout_ms, REQUEST_MS);
	int r;

	json_decref(request);
	if (!text)
		return err_set(err, ENOMEM, "control request: out of memory");
	cleanup_fd int fd = unix_connect(path, (unsigned)MAX(patience, 1), err);
	if (fd == -EAGAIN)
		return err_set(err, ETIMEDOUT, "no answer within %d ms: it takes no requests",
			       patience);
	if (fd < 0)
		return fd;
	r = write_full(fd, text, strlen(text));
	if (r == 0)
		r = write_full(fd, "\n", 1);
	if (r < 0) {
		errno = -r;
		return err_errno(err, "send request to %s", path);
	}
	r = read_line(fd, timeout_ms, until, &line, err);
	if (r < 0)
		return r;
	json_t *j = json_loads(line, 0, NULL);
	if (!json_is_object(j)) {
		json_decref(j);
		return err_set(err, EPROTO, "answer from %s is not a JSON object", path);
	}
	if (!json_is_true(json_object_get(j, "ok"))) {
		const char *msg = json_string_value(json_object_get(j, "error"));
		json_int_t code = json_integer_value(json_object_get(j, "code"));

		r = err_set(err, code > 0 && code < 4096 ? (int)code : EIO, "%s",
			    msg ? msg : "no reason given");
		json_decref(j);
		return r;
	}
	if (reply)
		*reply = j;
	else
		json_decref(j);
	if (fd_out) {
		/* Whose reader may take its time. */
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &(struct timeval){0},
			   sizeof(struct timeval));
		*fd_out = steal_fd(&fd);
	}
	return 0;
}

#define STOP_MARGIN_MS 30000

int control_stop(const char *path, pid_t pid, bool force, int grace_ms, struct err *err)
{
	/* Taken before the request: afterwards the number could already be somebody else's. */
	cleanup_fd int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	int64_t until;
	int r, n;

	if (pidfd < 0)
		return err_errno(err, "watch process %d", (int)pid);
	r = control_call(
		path,
		json_pack("{s:s, s:b, s:i}", "op", "stop", "force", force, "grace_ms", grace_ms),
		grace_ms + STOP_MARGIN_MS, NULL, NULL, err);
	if (r < 0)
		return r;
	until = monotonic_ms() + STOP_MARGIN_MS;
	while ((n = poll(&p, 1, (int)MAX(until - monotonic_ms(), (int64_t)0))) < 0 &&
	       errno == EINTR)
		;
	if (n != 1)
		return err_set(err, ETIMEDOUT, "VM process %d does not end", (int)pid);
	return 0;
}
