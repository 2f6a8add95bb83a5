#include "runner/pool/ask.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runner/pool/pool.h"
#include "runner/worker/line.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/num.h"
#include "smfs/base/unix_socket.h"

#define ANSWER_MS  10000
#define CLAIM_MS   (LINE_DEADLINE_MAX + ANSWER_MS) /* the pool has its own limit below */
#define ANSWER_MAX (256u << 10)

int pool_dial(const char *name, unsigned timeout_ms, struct err *err)
{
	struct err why = ERR_INIT;
	char path[108];
	int r = strchr(name, '/') ? 0 : pool_socket(name, path, err);

	if (r < 0)
		return r;
	r = unix_connect(strchr(name, '/') ? name : path, MAX(timeout_ms, 1u), &why);
	if (r >= 0)
		return r;
	return r == -EAGAIN ? err_set(err, ETIMEDOUT, "pool %s does not answer", name)
	       : r == -ENOENT || r == -ECONNREFUSED
		       ? err_set(err, ENOENT,
				 "no pool '%s' is running; smvm-runner pool --name %s starts one",
				 name, name)
		       : err_set(err, -r, "pool %s: %s", name, why.msg);
}

/* One line of an answer, without its LF. */
static int hear(int fd, uint64_t until, char **out, struct err *err)
{
	cleanup_free char *line = malloc(ANSWER_MAX);
	size_t n = 0;

	if (!line)
		return err_set(err, ENOMEM, "out of memory");
	while (n < ANSWER_MAX) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		const uint64_t now = monotonic_us();

		if (now >= until || poll(&p, 1, (int)((until - now) / 1000) + 1) == 0)
			return err_set(err, ETIMEDOUT, "the pool does not answer");
		ssize_t k = recv(fd, line + n, ANSWER_MAX - n, MSG_DONTWAIT);
		if (k < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (k <= 0)
			return err_set(err, ECONNRESET, "the pool has closed the connection");
		char *lf = memchr(line + n, '\n', (size_t)k);
		n += (size_t)k;
		if (!lf)
			continue;
		*lf = '\0';
		if (strlen(line) != (size_t)(lf - line))
			return err_set(err, EPROTO, "the pool's answer is not text");
		*out = steal_ptr(&line);
		return 0;
	}
	return err_set(err, EPROTO, "the pool's answer is too long");
}

int pool_refusal(const char *line, struct err *err)
{
	const char *code = strstr(line, " code="), *text;

	if (!code)
		return err_set(err, EPROTO, "an answer that is none: %.200s", line);
	code += strlen(" code=");
	text = strchr(code, ' ');
	return err_set(err, line_error_code(code, strcspn(code, " ")), "%s",
		       text ? text + 1 : "no reason given");
}

static int request(const char *name, const char *line, const char *word, int timeout_ms, char **out,
		   struct err *err)
{
	const uint64_t until = monotonic_us() + (uint64_t)timeout_ms * 1000;
	cleanup_fd int fd = pool_dial(name, MIN(timeout_ms, ANSWER_MS), err);
	cleanup_free char *answer = NULL;
	int r;

	if (fd < 0)
		return fd;
	if (send(fd, line, strlen(line), MSG_NOSIGNAL) != (ssize_t)strlen(line))
		return err_errno(err, "ask pool %s", name);
	r = hear(fd, until, &answer, err);
	if (r < 0)
		return err_wrap(err, r, "pool %s", name);
	const size_t n = strlen(word);
	if (strncmp(answer, word, n) != 0 || answer[n] != ' ') {
		r = err_wrap(err, pool_refusal(answer, err), "pool %s", name);
		return MIN(r, -1);
	}
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

static bool take_text(const char *value, char *out, size_t size)
{
	const size_t n = strlen(value);

	if (n >= size)
		return false;
	memcpy(out, value, n + 1);
	return true;
}

int pool_claimed_parse(const char *words, struct pool_claimed *out, struct err *err)
{
	char key[LINE_KEY_MAX], value[LINE_PATH_MAX];
	const char *p = words, *end = p + strlen(p);
	bool ok = true;

	memset(out, 0, sizeof(*out));
	while (line_word(&p, end, key, value) > 0) {
		if (!strcmp(key, "vm"))
			ok = ok && take_text(value, out->vm, sizeof(out->vm));
		else if (!strcmp(key, "dir"))
			ok = ok && take_text(value, out->dir, sizeof(out->dir));
		else if (!strcmp(key, "forwards"))
			ok = ok && take_text(value, out->forwards, sizeof(out->forwards));
		else if (!strcmp(key, "claim"))
			ok = ok && parse_u64(value, 1, UINT64_MAX, &out->claim, NULL) == 0;
		else if (!strcmp(key, "waited_us"))
			ok = ok && parse_u64(value, 0, UINT64_MAX, &out->waited_us, NULL) == 0;
	}
	if (!ok || !out->vm[0] || !out->dir[0] || !out->claim)
		return err_set(err, EPROTO, "an answer without a machine: CLAIMED %.200s", words);
	return 0;
}

int pool_ask_claim(const char *name, unsigned timeout_ms, struct pool_claimed *out, struct err *err)
{
	cleanup_free char *text = NULL;
	char line[64];
	int r;

	if (timeout_ms)
		snprintf(line, sizeof(line), "CLAIM keep=1 deadline_ms=%u\n", timeout_ms);
	else
		snprintf(line, sizeof(line), "CLAIM keep=1\n");
	r = request(name, line, "CLAIMED", timeout_ms ? (int)timeout_ms + ANSWER_MS : CLAIM_MS,
		    &text, err);
	if (r == 0)
		r = pool_claimed_parse(text, out, err);
	return r < 0 ? err_wrap(err, r, "pool %s", name) : 0;
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
