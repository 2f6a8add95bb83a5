#include "runner/pool/member.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runner/pool/pool.h"
#include "smfs/base/clock.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"

extern char **environ;

const char *member_state_name(enum member_state s)
{
	static const char *const names[] = {[MEMBER_STARTING] = "starting",
					    [MEMBER_WARM] = "warm",
					    [MEMBER_CLAIMED] = "claimed",
					    [MEMBER_RESETTING] = "resetting",
					    [MEMBER_DEAD] = "dead"};

	return names[s];
}

const char *member_name(const struct member *m)
{
	return m->vm[0] ? m->vm : "a worker that is starting";
}

static void enter(struct member *m, enum member_state state, unsigned limit_ms)
{
	m->state = state;
	m->since_us = monotonic_us();
	m->deadline_us = limit_ms ? m->since_us + limit_ms * (uint64_t)1000 : 0;
}

int member_spawn(struct member *m, const struct pool_config *cfg, const char *socket,
		 struct err *err)
{
	char *argv[9 + 2 * FORWARD_MAX] = {
		"smvm-runner", "worker",
		"--socket",    (char *)(uintptr_t)socket,
		"--mount",     (char *)(uintptr_t)cfg->mount,
		"--prefault",  (char *)(uintptr_t)prefault_policy_name(cfg->prefault)};
	char ports[FORWARD_MAX][FORWARD_TEXT_MAX];
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t none;
	int r;

	memset(m, 0, offsetof(struct member, buf));
	m->fd = -1;
	for (unsigned i = 0; i < cfg->nforwards; i++) {
		argv[8 + 2 * i] = "--publish";
		argv[9 + 2 * i] = forward_text(&cfg->forward[i], cfg->forward[i].port, ports[i]);
	}
	sigemptyset(&none);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigmask(&attr, &none);
	/* A terminal's interrupt is for the pool, which then ends its workers. */
	posix_spawnattr_setpgroup(&attr, 0);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
	/* The pool's own are for whoever started it. */
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
	r = posix_spawn(&m->pid, "/proc/self/exe", &files, &attr, argv, environ);
	posix_spawn_file_actions_destroy(&files);
	posix_spawnattr_destroy(&attr);
	if (r) {
		m->pid = 0;
		return err_set(err, r, "start a worker: %s", strerror(r));
	}
	enter(m, MEMBER_STARTING, MEMBER_START_MS);
	return 0;
}

void member_die(struct member *m, int code, const char *why)
{
	if (m->state == MEMBER_DEAD)
		return;
	err_set(&m->why, code, "%s", why);
	log_warn("pool: %s (%s): %s", member_name(m), member_state_name(m->state), why);
	enter(m, MEMBER_DEAD, 0);
	/* Whatever the loop has looked at before: at its next turn, which is now. */
	m->deadline_us = m->since_us;
}

void member_end(struct member *m, bool kill_it)
{
	if (m->fd >= 0)
		close(m->fd);
	m->fd = -1;
	if (kill_it && !m->ended)
		kill(m->pid, SIGKILL);
}

static void say(struct member *m, const char *line)
{
	const size_t n = strlen(line);

	/* A request at a time: what does not fit at once meets a worker that does not read. */
	if (send(m->fd, line, n, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)n)
		member_die(m, EPIPE, "it does not take its request");
}

static void restore(struct member *m, const char *snapshot)
{
	char word[4 * LINE_PATH_MAX + 3], line[sizeof(word) + 64];

	line_quote(snapshot, word);
	snprintf(line, sizeof(line), "RESTORE %s deadline_ms=%d\n", word, MEMBER_RESET_MS);
	say(m, line);
}

void member_reset(struct member *m, const char *snapshot)
{
	m->claim = m->owner = 0;
	/* A second more than the worker itself takes to say that it is late. */
	enter(m, MEMBER_RESETTING, MEMBER_RESET_MS + 1000);
	restore(m, snapshot);
}

void member_warm_up(struct member *m, const char *program)
{
	char word[4 * LINE_PATH_MAX + 3], line[sizeof(word) + 64];

	m->cold = false;
	m->warming = true;
	line_quote(program, word);
	snprintf(line, sizeof(line), "WARM_UP %s deadline_ms=%d\n", word, MEMBER_WARM_UP_MS);
	say(m, line);
}

void member_connected(struct member *m, int fd)
{
	m->fd = fd;
}

/* ---- its lines ------------------------------------------------------------------------------ */

static bool begins(const char *line, const char *word)
{
	const size_t n = strlen(word);

	return strncmp(line, word, n) == 0 && (line[n] == ' ' || !line[n]);
}

static bool keep_dir(struct member *m, const char *dir)
{
	if (4 * strlen(dir) + 3 > sizeof(m->quoted))
		return false;
	line_quote(dir, m->quoted);
	return true;
}

static void take_hello(struct member *m, const char *line, const char *end)
{
	char key[LINE_KEY_MAX], value[LINE_PATH_MAX];
	const char *p = line + strlen("HELLO");
	bool has_dir = false;

	while (line_word(&p, end, key, value) > 0) {
		if (!strcmp(key, "vm"))
			snprintf(m->vm, sizeof(m->vm), "%.31s", value);
		if (!strcmp(key, "dir"))
			has_dir = keep_dir(m, value);
		if (!strcmp(key, "forwards") && strlen(value) < sizeof(m->forwards))
			memcpy(m->forwards, value, strlen(value) + 1);
	}
	if (!m->vm[0] || !has_dir)
		member_die(m, EPROTO, "an answer to HELLO without vm and dir");
}

static void take_done(struct member *m, const char *line, const char *end)
{
	char key[LINE_KEY_MAX], value[LINE_PATH_MAX];
	const char *p = line + strlen("DONE");

	m->took_us = strtoull(p, NULL, 10);
	while (line_word(&p, end, key, value) > 0)
		if (!strcmp(key, "how") && !strcmp(value, "warm"))
			m->warm_resets++;
	m->restores++;
	m->cold = true;
	enter(m, MEMBER_WARM, 0);
}

/* Whatever has made it end early is no fault of the program's. */
static void take_not_warmed(struct member *m, const char *line, const char *end)
{
	char key[LINE_KEY_MAX], value[LINE_PATH_MAX];
	const char *p = line + strlen("ERR_WARM_UP");

	m->warming = false;
	if (line_word(&p, end, key, value) <= 0 || strcmp(key, "code") != 0 ||
	    !strcmp(value, "ECANCELED") || !strcmp(value, "ECONNRESET") ||
	    !strcmp(value, "ENODATA"))
		return;
	/* Of a guest without an agent nobody expects it. */
	m->warm_up_fails = !strcmp(value, "EOPNOTSUPP") ? MEMBER_WARM_UP_TRIES : 1;
	if (m->warm_up_fails == 1)
		log_warn("pool: %s was not warmed up:%s", member_name(m), p);
}

bool member_lasts(const struct member *m)
{
	return monotonic_us() - m->since_us >= MEMBER_PROVEN_MS * (uint64_t)1000;
}

static void take_line(struct member *m, const char *line, size_t n, const char *snapshot)
{
	const bool restoring = m->state == MEMBER_STARTING || m->state == MEMBER_RESETTING;

	if (begins(line, "READY") && m->state == MEMBER_STARTING && !m->vm[0]) {
		say(m, "HELLO 1\n");
	} else if (begins(line, "HELLO") && m->state == MEMBER_STARTING && !m->vm[0]) {
		take_hello(m, line, line + n);
		if (m->state == MEMBER_STARTING)
			restore(m, snapshot);
	} else if (begins(line, "DONE") && restoring && m->vm[0]) {
		take_done(m, line, line + n);
	} else if (begins(line, "ERR_RESTORE") && restoring) {
		member_die(m, EIO, line);
	} else if (begins(line, "ENDED")) {
		/* One that nobody has is made again; whose it is notices by itself. */
		if (m->state == MEMBER_WARM && !member_lasts(m))
			member_die(m, ECHILD, line);
		else if (m->state == MEMBER_WARM)
			member_reset(m, snapshot);
	} else if (begins(line, "WARMED")) {
		m->warming = false;
		m->warmed = true;
	} else if (begins(line, "ERR_WARM_UP")) {
		take_not_warmed(m, line, line + n);
	} else if (!begins(line, "PROGRESS") && !begins(line, "SETTLED")) {
		member_die(m, EPROTO, line);
	}
}

void member_read(struct member *m, const char *snapshot)
{
	ssize_t n = recv(m->fd, m->buf + m->len, MEMBER_LINE_MAX - m->len, MSG_DONTWAIT);
	char *nl;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		member_die(m, ECONNRESET, "its connection has ended");
		return;
	}
	m->len += (size_t)n;
	while (m->state != MEMBER_DEAD && (nl = memchr(m->buf, '\n', m->len))) {
		const size_t k = (size_t)(nl - m->buf);

		*nl = '\0';
		take_line(m, m->buf, k, snapshot);
		m->len -= k + 1;
		memmove(m->buf, nl + 1, m->len);
	}
	if (m->len == MEMBER_LINE_MAX)
		member_die(m, EMSGSIZE, "a line without an end");
}
