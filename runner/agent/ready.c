/* Readiness: waits until conditions hold, for as long as the peer does. */
#include "runner/agent/journal.h"
#include "runner/agent/session.h"
#include "runner/agent/spawn.h"
#include "runner/proto/agent_reach.h"
#include "runner/proto/tlv.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/num.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <regex.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>

/* Asked again after so long, growing: what is ready soon is seen soon. */
#define AGAIN_FIRST_MS 5
#define AGAIN_MAX_MS   100
#define TCP_LISTEN     0x0a
#define LINE_MAX_LEN   4096

struct waiting {
	struct guest *g;
	int fd;
	uint64_t end_us;
	/* Of a log condition. */
	regex_t re;
	uint64_t pos;
	char text[LINE_MAX_LEN + 1];
	/* The last time it did not hold, for people. */
	char why[128];
};

/* ---- port ---------------------------------------------------------------------------------- */

/* Asked of the kernel, not of the service: a connection of ours could confuse it. */
static bool listens(const char *table, uint16_t port)
{
	cleanup_file FILE *f = fopen(table, "re");
	char line[512];

	while (f && fgets(line, sizeof(line), f)) {
		char local[5], state[3];

		if (sscanf(line, " %*u: %*[0-9A-F]:%4[0-9A-F] %*[0-9A-F]:%*4[0-9A-F] %2[0-9A-F]",
			   local, state) == 2 &&
		    strtoul(local, NULL, 16) == port && strtoul(state, NULL, 16) == TCP_LISTEN)
			return true;
	}
	return false;
}

/* ---- log ----------------------------------------------------------------------------------- */

/* Lines from `pos` on; the last one may still grow and is looked at again. */
static bool in_log(struct waiting *w)
{
	for (;;) {
		size_t n = journal_read(w->g->journal, &w->pos, w->text, LINE_MAX_LEN), len;
		char *nl = memchr(w->text, '\n', n);

		if (n == 0)
			return false;
		len = nl ? (size_t)(nl - w->text) : n;
		for (size_t i = 0; i < len; i++)
			if (!w->text[i])
				w->text[i] = '?';
		while (len && w->text[len - 1] == '\r')
			len--;
		w->text[len] = '\0';
		if (regexec(&w->re, w->text, 0, NULL, 0) == 0)
			return true;
		/* A longer line than there is room for is looked at in pieces. */
		if (!nl && n < LINE_MAX_LEN)
			return false;
		w->pos += nl ? (size_t)(nl - w->text) + 1 : n;
	}
}

/* ---- exec ---------------------------------------------------------------------------------- */

static int start(struct waiting *w, const char *command, pid_t *pid, struct err *err)
{
	const struct bootconf *c = w->g->conf;
	char *argv[] = {"sh", "-c", (char *)(uintptr_t)command, NULL};
	cleanup_fd int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	struct creds creds;
	struct spawn s = {.argv = argv,
			  .cwd = c->cwd && *c->cwd ? c->cwd : "/",
			  .creds = &creds,
			  .fd = {null, null, null},
			  .cgroup = guest_work(w->g),
			  .die_with_parent = true};
	int r = users_resolve(w->g->root, c->user, &creds, err);
	char **env;

	if (r < 0)
		return r;
	env = spawn_env(c->env, NULL, creds.home, false);
	if (!env || null < 0)
		r = err_set(err, ENOMEM, "exec:%s: out of memory or descriptors", command);
	s.env = env;
	if (r == 0)
		r = spawn(&s, pid, err);
	strv_free(env);
	return r;
}

static int left_ms(const struct waiting *w)
{
	uint64_t now = monotonic_us();

	return now >= w->end_us ? 0 : (int)MIN((w->end_us - now) / 1000 + 1, (uint64_t)INT_MAX);
}

/* 1 when it ended with status 0; 0 otherwise; negative when it cannot run or the peer is gone. */
static int try_exec(struct waiting *w, const char *command, struct err *err)
{
	cleanup_fd int pidfd = -1;
	int r, status = -1;
	pid_t pid;

	r = start(w, command, &pid, err);
	if (r < 0)
		return r;
	pidfd = pidfd_open(pid, 0);
	do {
		struct pollfd p[2] = {{.fd = pidfd, .events = POLLIN},
				      {.fd = w->fd, .events = POLLRDHUP}};

		r = poll(p, 2, left_ms(w));
		if (r > 0 && p[1].revents)
			r = err_set(err, ECONNRESET, "the peer is gone");
	} while (r < 0 && r != -ECONNRESET && errno == EINTR);
	if (r <= 0)
		kill(-pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	/* One that the deadline cut short says less than one before it that ended. */
	if (r > 0)
		snprintf(w->why, sizeof(w->why), "it ended with status %d",
			 WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
	else if (!w->why[0])
		snprintf(w->why, sizeof(w->why), "it did not end");
	if (r == -ECONNRESET)
		return r;
	return r > 0 && status == 0;
}

/* ---- all ------------------------------------------------------------------------------------ */

static int holds(struct waiting *w, enum agent_condition kind, const char *arg, struct err *err)
{
	char path[PATH_MAX + AGENT_CONDITION_MAX];
	uint64_t port;

	switch (kind) {
	case CONDITION_PORT:
		parse_u64(arg, 1, UINT16_MAX, &port, NULL);
		snprintf(w->why, sizeof(w->why), "nobody listens");
		return listens("/proc/net/tcp", (uint16_t)port) ||
		       listens("/proc/net/tcp6", (uint16_t)port);
	case CONDITION_FILE:
		snprintf(path, sizeof(path), "%s%s", w->g->root, arg);
		snprintf(w->why, sizeof(w->why), "it does not exist");
		return access(path, F_OK) == 0;
	case CONDITION_LOG:
		snprintf(w->why, sizeof(w->why), "no line of the entrypoint matches");
		return in_log(w);
	case CONDITION_EXEC:
		return try_exec(w, arg, err);
	default:
		return 1;
	}
}

/* A service that failed will not be ready; one that went into the background may. */
static int still_possible(struct waiting *w, const char *condition, struct err *err)
{
	struct agent_exit x;
	bool ended;

	guest_lock(w->g);
	ended = w->g->shared->entry_state == AGENT_ENTRY_EXITED;
	x = w->g->shared->entry_exit;
	guest_unlock(w->g);
	if (ended && agent_exit_status(&x) != 0)
		return err_set(err, ECHILD,
			       "%s: the entrypoint ended with status %d before it was ready",
			       condition, agent_exit_status(&x));
	return 0;
}

static int wait_for(struct waiting *w, const char *condition, struct err *err)
{
	enum agent_condition kind;
	const char *arg;
	int again = AGAIN_FIRST_MS, r = agent_condition_parse(condition, &kind, &arg, err);

	w->pos = 0;
	w->why[0] = '\0';
	while (r == 0 && (r = holds(w, kind, arg, err)) == 0) {
		struct pollfd p = {.fd = w->fd, .events = POLLRDHUP};
		int left = left_ms(w);

		r = still_possible(w, condition, err);
		if (r < 0)
			return r;
		if (left == 0)
			return err_set(err, ETIMEDOUT, "not ready in time: %s: %s", condition,
				       w->why);
		if (poll(&p, 1, MIN(again, left)) > 0)
			return err_set(err, ECONNRESET, "the peer is gone");
		again = MIN(again * 2, AGAIN_MAX_MS);
	}
	return r < 0 ? r : 0;
}

static int wait_compiled(struct waiting *w, const char *condition, struct err *err)
{
	enum agent_condition kind;
	char text[128];
	const char *arg;
	int r = agent_condition_parse(condition, &kind, &arg, err);

	if (r < 0 || kind != CONDITION_LOG)
		return r < 0 ? r : wait_for(w, condition, err);
	if (!w->g->journal)
		return err_set(err, ENOTSUP, "%s: this guest keeps no log", condition);
	r = regcomp(&w->re, arg, REG_EXTENDED | REG_NOSUB);
	if (r != 0) {
		regerror(r, &w->re, text, sizeof(text));
		return err_set(err, EINVAL, "%s: %s", condition, text);
	}
	r = wait_for(w, condition, err);
	regfree(&w->re);
	return r;
}

int ready_serve(struct guest *g, int fd, const struct agent_frame *f, struct agent_results *rs,
		struct err *err)
{
	struct agent_ready q;
	struct waiting *w;
	int r = agent_get_ready(f, &q, err);

	if (r < 0)
		return r;
	w = calloc(1, sizeof(*w));
	if (!w)
		r = err_set(err, ENOMEM, "wait for readiness: out of memory");
	for (char **c = q.condition; r == 0 && *c; c++) {
		uint64_t t = monotonic_us();

		w->g = g;
		w->fd = fd;
		if (c == q.condition)
			w->end_us = t + (uint64_t)q.timeout_ms * 1000;
		r = wait_compiled(w, *c, err);
		if (r == 0)
			agent_result_add(rs, *c, 0, monotonic_us() - t, "%s", "");
	}
	free(w);
	agent_ready_free(&q);
	/* Not the peer's breach, which ends the connection: only the decoder's EPROTO is that. */
	return r;
}
