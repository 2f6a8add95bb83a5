/* guest.c - smvm_vm_exec() and smvm_vm_fork(): over the machine's own sockets. */
#include "runner/api/handle.h"
#include "runner/control/control.h"
#include "runner/guest/agent_client.h"
#include "smfs/base/num.h"

#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FORK_MS	 120000
#define FORK_MAX 1000
/* Measured where the agent and its kernel can; to run at all matters more. */
static int exec_start(struct agent *a, struct agent_exec *x, struct err *err)
{
	x->measure = x->measure_or_not = true;
	int r = agent_exec_start(a, x, AGENT_TIMEOUT_MS, err);
	if (r == -ENOTSUP && x->measure) {
		err_clear(err);
		x->measure = false;
		r = agent_exec_start(a, x, AGENT_TIMEOUT_MS, err);
	}
	return r;
}

/*
 * The program's descriptors may be pipes that nobody reads, and writing to one is a signal that
 * there is no flag against: held up for this thread, and taken back if it was raised here.
 */
static int exec_carry(struct agent *a, const struct agent_exec_io *io, struct agent_exit *ended,
		      struct err *err)
{
	sigset_t pipe, before, pending;

	sigemptyset(&pipe);
	sigaddset(&pipe, SIGPIPE);
	sigpending(&pending);
	pthread_sigmask(SIG_BLOCK, &pipe, &before);
	int r = agent_exec_run(a, io, ended, err);
	if (!sigismember(&pending, SIGPIPE))
		while (sigtimedwait(&pipe, NULL, &(struct timespec){0}) < 0 && errno == EINTR)
			;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return r;
}

static int exec_in(struct smvm_vm *vm, const struct smvm_exec *x, struct smvm_exit *out,
		   struct err *err)
{
	/* The agent's side takes its words as execve(2) does, and changes none. */
	struct agent_exec ax = {.argv = (char **)(uintptr_t)x->argv,
				.env = (char **)(uintptr_t)x->env,
				.user = x->user,
				.cwd = x->directory,
				.stdin_open = x->in >= 0,
				.timeout_ms = x->timeout_ms};
	struct agent_exec_io io = {
		.in = x->in, .out = x->out, .err = x->err, .signal_fd = -1, .tty_fd = -1};
	char path[RUNDIR_PATH_MAX];
	struct agent_exit ended;
	struct agent *a;
	int r = vm_file(vm, "vsock.sock", path, err);

	if (r < 0)
		return r;
	if (access(path, F_OK) < 0)
		return err_set(
			err, ENOTSUP,
			"VM %s has no agent to run programs: it is a bare guest, or there is "
			"no machine",
			vm->id);
	r = agent_connect_early(path, AGENT_TIMEOUT_MS, -1, &a, err);
	if (r < 0)
		return r;
	r = exec_start(a, &ax, err);
	if (r == 0)
		r = exec_carry(a, &io, &ended, err);
	agent_close(a);
	if (r == 0)
		*out = (struct smvm_exit){
			.code = agent_exit_status(&ended),
			.signal = ended.kind == AGENT_EXIT_SIGNAL ? (int)ended.value : 0,
			.timed_out = ended.kind == AGENT_EXIT_TIMEOUT,
			.peak_bytes = ended.peak};
	return r;
}

int smvm_vm_exec(struct smvm_vm *vm, const struct smvm_exec *exec, struct smvm_exit *out,
		 struct smvm_error *err)
{
	static const char *const none[] = {NULL};
	struct smvm_exec x = {.size = sizeof(x)};
	struct smvm_exit unused;
	struct err e = ERR_INIT;
	int r;

	if (exec->size < offsetof(struct smvm_exec, timeout_ms) || exec->size > sizeof(x) ||
	    !exec->argv || !exec->argv[0]) {
		r = err_set(&e, EINVAL, "exec: set `size`, and argv to a program");
		return api_error(err, &e, r);
	}
	memcpy(&x, exec, exec->size);
	if (!x.env)
		x.env = none;
	return api_error(err, &e, exec_in(vm, &x, out ? out : &unused, &e));
}

static int open_children(const json_t *reply, unsigned n, struct smvm_vm **out, unsigned *made,
			 struct err *err)
{
	const json_t *child;
	size_t i;

	json_array_foreach(json_object_get(reply, "children"), i, child)
	{
		const char *id = json_string_value(json_object_get(child, "id"));
		int r = !id || i >= n ? err_set(err, EPROTO, "fork: an answer of another kind")
				      : vm_open_by(id, &out[*made], err);

		if (r < 0)
			return r;
		++*made;
	}
	const char *failed = json_string_value(json_object_get(reply, "error"));
	if (failed)
		return err_set(err, EIO, "%s", failed);
	return *made == n ? 0 : err_set(err, EPROTO, "fork: %u of %u children", *made, n);
}

static int fork_vm(struct smvm_vm *vm, unsigned n, const char *name, struct smvm_vm **out,
		   unsigned *made, struct err *err)
{
	char path[RUNDIR_PATH_MAX];
	json_t *reply = NULL;

	*made = 0;
	if (!n || n > FORK_MAX)
		return err_set(err, EINVAL, "fork: %u children, 1 to %d", n, FORK_MAX);
	int r = vm_file(vm, "control.sock", path, err);
	if (r == 0)
		r = control_call(path,
				 json_pack("{s:s, s:i, s:s*, s:b, s:s}", "op", "fork", "n", (int)n,
					   "name", name, "no_agent", 0, "clock", "advance"),
				 FORK_MS, &reply, NULL, err);
	if (r < 0)
		return r;
	r = open_children(reply, n, out, made, err);
	json_decref(reply);
	return r;
}

int smvm_vm_fork(struct smvm_vm *vm, unsigned n, const char *name, struct smvm_vm **out,
		 unsigned *made, struct smvm_error *err)
{
	struct err e = ERR_INIT;
	unsigned count = 0;
	int r = fork_vm(vm, n, name, out, &count, &e);

	if (made)
		*made = count;
	return api_error(err, &e, r);
}
