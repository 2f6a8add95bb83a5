/*
 * session.h - one program in a guest, wired to this process's standard streams. `exec` and `run`
 * are both this.
 *
 * SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1/2 go to the program's process group, SIGWINCH becomes
 * the window size. With a terminal, standard input is raw for the length of the session.
 */
#ifndef RUNNER_CMD_SESSION_H
#define RUNNER_CMD_SESSION_H

#include "runner/guest/agent_client.h"

/*
 * Run `x` through the agent behind `vsock_path`. *status: what a shell would report of it.
 * `connect_ms`: how long the agent may take to answer.
 */
int session_exec(const char *vsock_path, struct agent_exec *x, int connect_ms, int *status,
		 struct err *err);

#endif
