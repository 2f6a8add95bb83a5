/*
 * agent_client.h - the host's side of the agent protocol, over the VM's vsock.sock.
 *
 *     agent_connect(sock, deadline, &a, err);         // CONNECT handshake, HELLO
 *     agent_info(a, &info, AGENT_TIMEOUT_MS, err);    // any number of control calls ...
 *     agent_close(a);
 *
 *     agent_connect_early(...); agent_exec_start(a, &x, err); // ... or one exec session
 *     agent_exec_run(a, &io, &exit, err); agent_close(a);
 *
 * Every call blocks, with a deadline in milliseconds where it takes one (-1: none; ETIMEDOUT). A
 * call that failed with anything but the agent's own refusal leaves the connection unusable: close
 * it. ECONNRESET means the connection died (the VM stopped, or was restored under it).
 *
 * A struct agent belongs to one thread at a time; any number may be open. It must not be used on
 * the VM's I/O thread, which is what carries its bytes.
 */
#ifndef RUNNER_GUEST_AGENT_CLIENT_H
#define RUNNER_GUEST_AGENT_CLIENT_H

#include "runner/proto/agent.h"
#include "runner/proto/tree.h"

struct agent;

#define AGENT_TIMEOUT_MS 30000

/*
 * Connect to guest port AGENT_PORT through the unix socket `vsock_path`, retrying until the agent
 * answers or `timeout_ms` is over (ETIMEDOUT, saying what the last attempt met). So it also waits
 * for a booting guest.
 */
int agent_connect(const char *vsock_path, int timeout_ms, struct agent **out, struct err *err);
/*
 * The same, given up as soon as `end_fd` is readable (ECANCELED), and so is any later request on
 * the connection: the eventfd that tells of the VM's end, so that nobody waits for a guest that is
 * no more. It outlives the connection.
 */
int agent_connect_unless(const char *vsock_path, int timeout_ms, int end_fd, struct agent **out,
			 struct err *err);
/*
 * The same for one exec session, without waiting for the agent's HELLO: agent_exec_start() hears it
 * with its own answer, a trip to the guest less. Once the guest has taken the connection nothing is
 * tried again, for a program may have been started by then: what would be, is the error of that
 * call. `end_fd` may be -1.
 */
int agent_connect_early(const char *vsock_path, int timeout_ms, int end_fd, struct agent **out,
			struct err *err);
/* The same as agent_connect() over a connected stream socket, taken over also on failure: for
 * tests. */
int agent_attach(int fd, int timeout_ms, struct agent **out, struct err *err);
/*
 * The version of the protocol that both speak; 0 while that is not settled. What an older agent
 * lacks is refused with ENOTSUP and a message that says so.
 */
unsigned agent_version(const struct agent *a);
/* Kills the exec session that still runs on it, if any. NULL is fine. */
void agent_close(struct agent *a);

/* ---- control ------------------------------------------------------------------------------- */

int agent_info(struct agent *a, struct agent_info *out, int timeout_ms, struct err *err);
/*
 * Freeze the workload, run pre-snapshot hooks, sync. The guest stays frozen, whatever becomes of
 * this connection, until agent_thaw() or agent_generation(). `results` may be NULL.
 * Returns an error when the freeze failed (and the guest is thawed again); a hook that failed is
 * only a result.
 */
int agent_prepare(struct agent *a, int timeout_ms, struct agent_results *results, struct err *err);
int agent_thaw(struct agent *a, int timeout_ms, struct agent_results *results, struct err *err);
#define AGENT_WALL_NOW UINT64_MAX
/*
 * Give a restored guest its new identity, run post-restore hooks, thaw it. wall_ns
 * AGENT_WALL_NOW is filled with the clock at the moment of sending. Items that failed are results;
 * the call fails only when the request itself did.
 */
int agent_generation(struct agent *a, const struct agent_generation *g, int timeout_ms,
		     struct agent_results *results, struct err *err);
/* Set the guest's clock to this host's, as of the moment of sending. */
int agent_clock(struct agent *a, int timeout_ms, struct err *err);
/*
 * SIGTERM to everything, SIGKILL after `grace_ms`, sync, power off. Returns once the agent has
 * agreed; vm_wait() tells when it is off.
 */
int agent_stop(struct agent *a, unsigned grace_ms, int timeout_ms, struct err *err);

/*
 * Wait until all `conditions` hold (agent_reach.h; NULL-terminated, at least one), `timeout_ms` at
 * most: ETIMEDOUT names the one that did not, ECHILD when the entrypoint has failed meanwhile.
 * `results` (may be NULL) has how long each took. "agent" alone holds once there is a connection.
 */
int agent_ready(struct agent *a, char *const *conditions, int timeout_ms,
		struct agent_results *results, struct err *err);

/*
 * Wait until the entrypoint has ended. A guest that powers off then does so only after this is
 * answered. ENOENT when the guest was booted without one.
 */
int agent_wait(struct agent *a, int timeout_ms, struct agent_exit *exit, struct err *err);

/* ---- exec ---------------------------------------------------------------------------------- */

/*
 * Start a program. On return it runs, or the error says why not: ENOENT no such program or cwd,
 * EACCES, EAGAIN while the guest is frozen, EINVAL unknown user.
 */
int agent_exec_start(struct agent *a, const struct agent_exec *x, int timeout_ms, struct err *err);

struct agent_exec_io {
	int in;	 /* to the program's stdin; -1: none (end of file at once) */
	int out; /* where stdout goes (everything, with a tty); -1: dropped */
	int err; /* where stderr goes; -1: dropped */
	/*
	 * A signalfd, or -1. SIGWINCH sends the window size of `tty_fd`; every other signal is
	 * sent to the program's process group.
	 */
	int signal_fd;
	int tty_fd;
	/* How much longer than the program's time limit, if it has one; 0: AGENT_TIMEOUT_MS. */
	int late_ms;
};
/*
 * Carry bytes both ways until the program has ended and all its output is written. `in` is only
 * polled and read, never made non-blocking. Descriptors stay the caller's. A closed `out` or
 * `err` (EPIPE; the caller ignores SIGPIPE) ends the session with that error. A guest that does not
 * keep to the time limit is not believed for ever: ETIMEDOUT, `late_ms` after it; the time that
 * `out` and `err` take to be read does not count.
 */
int agent_exec_run(struct agent *a, const struct agent_exec_io *io, struct agent_exit *exit,
		   struct err *err);

/*
 * Run to the end with captured output: out and err (may be NULL) are malloc'd, NUL-terminated, at
 * most `max` bytes each (EFBIG beyond). `input` may be NULL.
 */
struct agent_output {
	char *out, *err;
	size_t out_len, err_len;
	struct agent_exit exit;
};
int agent_exec_capture(struct agent *a, const struct agent_exec *x, const void *input,
		       size_t input_len, size_t max, int timeout_ms, struct agent_output *o,
		       struct err *err);
void agent_output_free(struct agent_output *o);

/* ---- files ---------------------------------------------------------------------------------- */

/*
 * At most `length` bytes (UINT64_MAX: all) of a regular file of the guest from `offset` on, into
 * the descriptor `out`; EFBIG if it sends more than `max_bytes`, which are there then. *o (may be
 * NULL) tells its size, mode, owner and time. EISDIR, EINVAL for what is no regular file.
 */
int agent_file_read(struct agent *a, const char *path, uint64_t offset, uint64_t length,
		    uint64_t max_bytes, int out, struct agent_opened *o, struct agent_done *done,
		    struct err *err);
/*
 * Replace or make a file of the guest with what `in` has, to its end: atomically, and synced. After
 * a failure what was there is still there, and the connection is to be closed.
 */
int agent_file_write(struct agent *a, const struct agent_write *q, int in, struct agent_done *done,
		     struct err *err);
/*
 * Copy a file or tree of the guest to `name` of the folder `dirfd` (tree_target() gives both). The
 * guest may be hostile: see tree.h. After a failure what had arrived is there. p->idle_ms 0: 120 s.
 */
int agent_fetch(struct agent *a, const char *path, int dirfd, const char *name,
		const struct tree_policy *p, struct agent_done *done, struct err *err);
/* Copy `name` of the folder `dirfd` into the guest. */
int agent_put(struct agent *a, int dirfd, const char *name, const struct agent_put *q,
	      struct agent_done *done, struct err *err);

#endif
