#include "runner/worker/ready.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runner/control/identity.h"
#include "runner/control/vmm_internal.h"
#include "runner/guest/agent_client.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"

#define POLL_MS	   20
#define EXEC_MS	   30000
#define OUTPUT_MAX (1u << 20)
#define TCP_LISTEN 0x0a /* as /proc/net/tcp has it, include/net/tcp_states.h */

int ready_parse(const char *text, struct ready *out, struct err *err)
{
	const char *colon = strchr(text, ':');
	uint64_t port;

	*out = (struct ready){.kind = READY_AGENT, .text = colon ? colon + 1 : ""};
	if (!strcmp(text, "agent"))
		return 0;
	if (!colon || !colon[1])
		return err_set(err, EINVAL, "'%s': port:N, file:PATH, log:RE, exec:CMD or agent",
			       text);
	if (!strncmp(text, "port:", 5)) {
		out->kind = READY_PORT;
		if (parse_u64(out->text, 1, 65535, &port, err) < 0)
			return -EINVAL;
		out->port = (unsigned)port;
		return 0;
	}
	if (!strncmp(text, "file:", 5)) {
		out->kind = READY_FILE;
		return out->text[0] == '/'
			       ? 0
			       : err_set(err, EINVAL, "file:PATH takes an absolute path");
	}
	if (!strncmp(text, "exec:", 5)) {
		out->kind = READY_EXEC;
		return 0;
	}
	if (strncmp(text, "log:", 4) != 0)
		return err_set(err, EINVAL, "'%s': port:N, file:PATH, log:RE, exec:CMD or agent",
			       text);
	char why[128];
	int r = regcomp(&out->re, out->text, REG_EXTENDED | REG_NOSUB | REG_NEWLINE);

	if (r) {
		regerror(r, &out->re, why, sizeof(why));
		return err_set(err, EINVAL, "log:%s: %s", out->text, why);
	}
	out->kind = READY_LOG;
	return 0;
}

void ready_free(struct ready *r)
{
	if (r->kind == READY_LOG)
		regfree(&r->re);
}

/* ---- each condition: 1 holds, 0 not yet, or an error that will not pass -----------------------
 */

static int in_log(struct vmm *v, const struct ready *r, struct err *err)
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
			text[i] = text[i] ? '\n' : ' ';
	return regexec(&r->re, text, 0, NULL, 0) == 0;
}

/* Runs a program in the guest; its status, or a negative errno. */
static int run(struct vmm *v, char *const argv[], struct agent_output *o, int timeout_ms,
	       struct err *err)
{
	struct agent_exec x = {.argv = (char **)(uintptr_t)argv,
			       .timeout_ms = (uint32_t)timeout_ms};
	struct agent *a = NULL;
	int ret = vmm_agent(v, timeout_ms, &a, err);

	memset(o, 0, sizeof(*o));
	if (ret == 0)
		ret = agent_exec_capture(a, &x, NULL, 0, OUTPUT_MAX, timeout_ms, o, err);
	agent_close(a);
	return ret < 0 ? ret : agent_exit_status(&o->exit);
}

static int command(struct vmm *v, const struct ready *r, int timeout_ms, struct err *err)
{
	char *const sh[] = {"/bin/sh", "-c", (char *)(uintptr_t)r->text, NULL};
	char *const test[] = {"/bin/sh", "-c", "test -e \"$1\"", "sh", (char *)(uintptr_t)r->text,
			      NULL};
	struct agent_output o;
	int status = run(v, r->kind == READY_FILE ? test : sh, &o, timeout_ms, err);

	agent_output_free(&o);
	return status < 0 ? status : status == 0;
}

/* "  sl  local_address rem_address   st ..." in /proc/net/tcp and tcp6. */
static bool listens(char *table, unsigned port)
{
	unsigned local, state;
	char *save;

	for (char *line = strtok_r(table, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		if (sscanf(line, " %*u: %*[0-9A-F]:%x %*[0-9A-F]:%*x %x", &local, &state) == 2 &&
		    local == port && state == TCP_LISTEN)
			return true;
	return false;
}

static int on_port(struct vmm *v, const struct ready *r, int timeout_ms, struct err *err)
{
	char *const cat[] = {"cat", "/proc/net/tcp", "/proc/net/tcp6", NULL};
	struct agent_output o;
	int status = run(v, cat, &o, timeout_ms, err);
	/* A guest without IPv6 has no tcp6: cat then fails, having shown the other. */
	const bool is = status >= 0 && o.out && listens(o.out, r->port);

	agent_output_free(&o);
	return status < 0 ? status : is;
}

static int holds(struct vmm *v, const struct ready *r, int left_ms, struct err *err)
{
	struct agent *a = NULL;
	int ret;

	switch (r->kind) {
	case READY_LOG:
		return in_log(v, r, err);
	case READY_PORT:
		return on_port(v, r, MIN(left_ms, EXEC_MS), err);
	case READY_FILE:
	case READY_EXEC:
		return command(v, r, MIN(left_ms, EXEC_MS), err);
	case READY_AGENT:
		break;
	}
	if (!v->has_agent)
		return 1;
	ret = vmm_agent(v, left_ms, &a, err);
	agent_close(a);
	return ret < 0 ? ret : 1;
}

int ready_wait(struct vmm *v, const struct ready *r, int timeout_ms, const atomic_bool *give_up,
	       struct err *err)
{
	const uint64_t until = monotonic_us() + (uint64_t)timeout_ms * 1000;
	const struct timespec pause = {.tv_nsec = POLL_MS * 1000000L};

	if (!v->has_agent && r->kind != READY_LOG && r->kind != READY_AGENT)
		return err_set(err, ENOTSUP, "--ready: this guest has no agent to ask");
	for (;;) {
		const uint64_t now = monotonic_us();
		const int end = atomic_load(&v->machine.vm->end);
		int ret;

		if (atomic_load(give_up))
			return err_set(err, ECANCELED, "the supervisor is gone");
		if (end != VM_RUNNING)
			return err_set(err, ECONNRESET, "the guest %s before it was ready",
				       vmm_end_name(end));
		if (now >= until)
			return err_set(err, ETIMEDOUT, "not ready within %d ms", timeout_ms);
		ret = holds(v, r, (int)((until - now) / 1000) + 1, err);
		if (ret != 0)
			return ret < 0 ? ret : 0;
		nanosleep(&pause, NULL);
	}
}
