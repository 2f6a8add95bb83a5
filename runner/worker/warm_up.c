#include "runner/worker/warm_up.h"

#include "runner/control/identity.h"
#include "runner/control/vmm_internal.h"
#include "runner/guest/agent_client.h"
#include "runner/worker/give_up.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/num.h"

#include <poll.h>

/* More is no program to warm up by. */
#define OUTPUT_MAX 65536
/*
 * The second finds the pages that the first one's end has freed, as one after it will, and is
 * served as that will be: by a session that the agent makes for the next connection when it has
 * been at rest for a moment.
 */
#define RUNS	2
#define REST_MS 200

static int left_ms(uint64_t until)
{
	const uint64_t now = monotonic_us();

	return now < until ? (int)((until - now) / 1000) + 1 : 0;
}

static int how_it_ended(const char *program, const struct agent_exit *x, struct err *err)
{
	if (x->kind == AGENT_EXIT_TIMEOUT)
		return err_set(err, ETIMEDOUT, "%s did not end in time", program);
	if (x->kind == AGENT_EXIT_SIGNAL || x->value)
		return err_set(err, ECHILD, "%s ended with %s %u", program,
			       x->kind == AGENT_EXIT_SIGNAL ? "signal" : "status", x->value);
	return 0;
}

static int run(struct agent *a, const char *program, uint64_t until, struct err *err)
{
	char *argv[] = {(char *)(uintptr_t)program, NULL};
	const struct agent_exec x = {.argv = argv};
	struct agent_output o;
	int r = agent_exec_capture(a, &x, NULL, 0, OUTPUT_MAX, left_ms(until), &o, err);

	if (r == 0)
		r = how_it_ended(program, &o.exit, err);
	agent_output_free(&o);
	return r;
}

/* Over a connection of its own, as whatever comes later. */
static int connect_and_run(struct vmm *v, const char *program, uint64_t until, int stop_fd,
			   struct err *err)
{
	struct agent *a = NULL;
	int r = vmm_agent_unless(v, left_ms(until), stop_fd, &a, err);

	if (r == 0)
		r = run(a, program, until, err);
	/* Which kills what still runs. */
	agent_close(a);
	return r;
}

/* Until the guest is at rest again; of a short time most is left to the program. */
static int rest(int stop_fd, uint64_t until)
{
	struct pollfd p = {.fd = stop_fd, .events = POLLIN};

	return poll(&p, 1, MIN(REST_MS, left_ms(until) / 4)) > 0 ? -ECANCELED : 0;
}

int warm_up(struct vmm *v, const char *program, int timeout_ms, int give_up_fd, struct err *err)
{
	int fds[1 + CONTROL_FDS_MAX] = {give_up_fd};
	const size_t n = 1 + (v->control ? control_fds(v->control, fds + 1) : 0);
	const uint64_t until = monotonic_us() + (uint64_t)timeout_ms * 1000;
	int r = 0;

	if (!v->has_agent)
		return err_set(err, ENOTSUP, "this guest has no agent");
	cleanup_fd int stop_fd = give_up_new(v, fds, n, err);
	if (stop_fd < 0)
		return stop_fd;
	for (int i = 0; r == 0 && i < RUNS; i++) {
		r = i ? rest(stop_fd, until) : 0;
		if (r == 0)
			r = connect_and_run(v, program, until, stop_fd, err);
	}
	return r == -ECANCELED ? give_up_why(v, "another request has come", err) : r;
}
