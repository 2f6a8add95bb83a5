#include "runner/worker/ready.h"

#include <fcntl.h>
#include <poll.h>
#include <regex.h>

#include "runner/control/identity.h"
#include "runner/control/launch.h"
#include "runner/control/vmm_internal.h"
#include "runner/guest/agent_client.h"
#include "runner/proto/agent_reach.h"
#include "runner/worker/give_up.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/io.h"

#define POLL_MS 20

static int expression(const char *text, regex_t *re, struct err *err)
{
	char why[128];
	int r = regcomp(re, text, REG_EXTENDED | REG_NOSUB | REG_NEWLINE);

	if (r == 0)
		return 0;
	regerror(r, re, why, sizeof(why));
	return err_set(err, EINVAL, "log:%s: %s", text, why);
}

int ready_check(const char *condition, struct err *err)
{
	enum agent_condition kind;
	const char *arg;
	regex_t re;
	int r = agent_condition_parse(condition, &kind, &arg, err);

	if (r < 0 || kind != CONDITION_LOG)
		return r;
	r = expression(arg, &re, err);
	if (r == 0)
		regfree(&re);
	return r;
}

static int left_ms(uint64_t until)
{
	const uint64_t now = monotonic_us();

	return now >= until ? 0 : (int)((until - now) / 1000) + 1;
}

/* Of what has made `stop_fd` readable. */
static int stopped(struct vmm *v, struct err *err)
{
	return give_up_why(v, "the supervisor is gone", err);
}

/* ---- a bare guest ---------------------------------------------------------------------------- */

/* 1: a line matches; 0: none does. */
static int in_console(struct vmm *v, const regex_t *re, struct err *err)
{
	cleanup_free char *text = NULL;
	char path[RUNDIR_PATH_MAX];
	size_t len;
	int ret = read_file(AT_FDCWD, rundir_file(v->dir, "console.log", path), CONSOLE_LOG_MAX,
			    &text, &len, err);

	if (ret < 0)
		return ret;
	/* Lines end in CR LF on a serial line; a NUL would end the text early. */
	for (size_t i = 0; i < len; i++)
		if (text[i] == '\r' || !text[i])
			text[i] = text[i] ? '\n' : '?';
	return regexec(re, text, 0, NULL, 0) == 0;
}

static int await_line(struct vmm *v, const regex_t *re, uint64_t until, int stop_fd,
		      struct err *err)
{
	struct pollfd p = {.fd = stop_fd, .events = POLLIN};

	for (;;) {
		int r = in_console(v, re, err);

		if (r != 0)
			return r < 0 ? r : 0;
		if (!left_ms(until))
			return err_set(err, ETIMEDOUT, "no line of the console matches");
		if (poll(&p, 1, POLL_MS) > 0)
			return stopped(v, err);
	}
}

static int wait_bare(struct vmm *v, char *const *conditions, uint64_t until, int stop_fd,
		     struct err *err)
{
	enum agent_condition kind;
	const char *arg;
	regex_t re;
	int r = 0;

	for (; r == 0 && *conditions; conditions++) {
		r = agent_condition_parse(*conditions, &kind, &arg, err);
		if (r < 0 || kind == CONDITION_AGENT)
			continue;
		if (kind != CONDITION_LOG)
			return err_set(err, ENOTSUP, "this guest has no agent to ask for it");
		r = expression(arg, &re, err);
		if (r < 0)
			return r;
		r = await_line(v, &re, until, stop_fd, err);
		regfree(&re);
	}
	return r;
}

/* ---- a guest with an agent ------------------------------------------------------------------- */

static int wait_agent(struct vmm *v, char *const *conditions, uint64_t until, int stop_fd,
		      struct err *err)
{
	struct agent *a = NULL;
	int r = launch_await_agent(v, left_ms(until), stop_fd, &a, err);

	if (r == 0)
		r = agent_ready(a, conditions, left_ms(until), NULL, err);
	agent_close(a);
	return r == -ECANCELED ? stopped(v, err) : r;
}

int ready_wait(struct vmm *v, char *const *conditions, int timeout_ms, int give_up_fd,
	       struct err *err)
{
	const uint64_t until = monotonic_us() + (uint64_t)timeout_ms * 1000;
	cleanup_fd int stop_fd = give_up_new(v, &give_up_fd, 1, err);
	int r;

	if (stop_fd < 0)
		return stop_fd;
	r = v->has_agent ? wait_agent(v, conditions, until, stop_fd, err)
			 : wait_bare(v, conditions, until, stop_fd, err);
	return r == -ETIMEDOUT ? err_wrap(err, r, "not ready within %d ms", timeout_ms) : r;
}
