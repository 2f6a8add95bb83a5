#include "runner/pool/ask.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "runner/pool/pool.h"
#include "runner/worker/line.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/num.h"

#define ANSWER_MS  10000
#define CLAIM_MS   (LINE_DEADLINE_MAX + ANSWER_MS) /* the pool has its own limit below */
#define ANSWER_MAX (256u << 10)

static int dial(const char *name, struct err *err)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	cleanup_fd int fd = -1;
	int r = pool_socket(name, a.sun_path, err);

	if (r < 0)
		return r;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_errno(err, "create socket");
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		return errno == ENOENT || errno == ECONNREFUSED
			       ? err_set(err, ENOENT,
					 "no pool '%s' is running; smvm-runner pool --name %s "
					 "starts one",
					 name, name)
			       : err_errno(err, "connect to pool %s", name);
	return steal_fd(&fd);
}

/* One line of an answer, without its LF. */
static int hear(int fd, int timeout_ms, char **out, struct err *err)
{
	const uint64_t until = monotonic_us() + (uint64_t)timeout_ms * 1000;
	cleanup_free char *line = malloc(ANSWER_MAX);
	size_t n = 0;

	while (line && n < ANSWER_MAX) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		const uint64_t now = monotonic_us();

		if (now >= until || poll(&p, 1, (int)((until - now) / 1000) + 1) == 0)
			return err_set(err, ETIMEDOUT, "the pool does not answer");
		ssize_t k = recv(fd, line + n, ANSWER_MAX - n, 0);
		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return err_set(err, ECONNRESET, "the pool has closed the connection");
		n += (size_t)k;
		if (line[n - 1] == '\n') {
			line[n - 1] = '\0';
			*out = steal_ptr(&line);
			return 0;
		}
	}
	return err_set(err, EPROTO, "the pool's answer is too long");
}

/* "ERR_<what> code=<name> <text>" */
static int refused(const char *line, struct err *err)
{
	const char *code = strstr(line, "code="), *text = code ? strchr(code, ' ') : NULL;
	int n = EIO;

	for (int e = 1; code && e < 134; e++) {
		const char *name = strerrorname_np(e);

		if (name && !strncmp(code + 5, name, strlen(name)) && code[5 + strlen(name)] == ' ')
			n = e;
	}
	return err_set(err, n, "%s", text ? text + 1 : line);
}

static int request(const char *name, const char *line, const char *word, int timeout_ms, char **out,
		   struct err *err)
{
	cleanup_fd int fd = dial(name, err);
	cleanup_free char *answer = NULL;
	int r;

	if (fd < 0)
		return fd;
	if (send(fd, line, strlen(line), MSG_NOSIGNAL) != (ssize_t)strlen(line))
		return err_errno(err, "ask pool %s", name);
	r = hear(fd, timeout_ms, &answer, err);
	if (r < 0)
		return err_wrap(err, r, "pool %s", name);
	const size_t n = strlen(word);
	if (strncmp(answer, word, n) != 0 || answer[n] != ' ')
		return err_wrap(err, refused(answer, err), "pool %s", name);
	memmove(answer, answer + n + 1, strlen(answer + n + 1) + 1);
	*out = steal_ptr(&answer);
	return 0;
}

int pool_ask_status(const char *name, json_t **out, struct err *err)
{
	cleanup_free char *text = NULL;
	int r = request(name, "STATUS\n", "STATUS", ANSWER_MS, &text, err);

	if (r < 0)
		return r;
	*out = json_loads(text, 0, NULL);
	return *out ? 0 : err_set(err, EPROTO, "pool %s: its answer is no JSON", name);
}

int pool_ask_claim(const char *name, unsigned timeout_ms, struct pool_claimed *out, struct err *err)
{
	char line[64], key[LINE_KEY_MAX], value[LINE_PATH_MAX];
	cleanup_free char *text = NULL;
	int r;

	memset(out, 0, sizeof(*out));
	if (timeout_ms)
		snprintf(line, sizeof(line), "CLAIM keep=1 deadline_ms=%u\n", timeout_ms);
	else
		snprintf(line, sizeof(line), "CLAIM keep=1\n");
	r = request(name, line, "CLAIMED", CLAIM_MS, &text, err);
	if (r < 0)
		return r;
	const char *p = text, *end = text + strlen(text);
	while (line_word(&p, end, key, value) > 0) {
		if (!strcmp(key, "vm"))
			snprintf(out->vm, sizeof(out->vm), "%.31s", value);
		else if (!strcmp(key, "dir"))
			snprintf(out->dir, sizeof(out->dir), "%.127s", value);
		else if (!strcmp(key, "claim"))
			out->claim = strtoull(value, NULL, 10);
		else if (!strcmp(key, "waited_us"))
			out->waited_us = strtoull(value, NULL, 10);
	}
	return out->vm[0] && out->claim ? 0 : err_set(err, EPROTO, "pool %s: %s", name, text);
}

int pool_ask_release(const char *name, const char *vm, struct err *err)
{
	char word[4 * 64 + 3], line[sizeof(word) + 32];
	cleanup_free char *text = NULL;

	if (strlen(vm) >= 64)
		return err_set(err, EINVAL, "'%.80s' is no VM's id", vm);
	line_quote(vm, word);
	snprintf(line, sizeof(line), "RELEASE vm=%s\n", word);
	return request(name, line, "RELEASED", ANSWER_MS, &text, err);
}
