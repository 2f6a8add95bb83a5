/*
 * init.h - process 1's own loop: the workload, the listener, the dead, and the end.
 */
#ifndef RUNNER_AGENT_INIT_H
#define RUNNER_AGENT_INIT_H

#include "runner/agent/guest.h"

#define INIT_SESSIONS_MAX 256

/* A listening AF_VSOCK socket on AGENT_PORT. */
int init_listen(struct err *err);

/*
 * Start the configured workload, serve `listener` and reap, until a session or the configuration
 * asks for power off. Returns the grace period in milliseconds.
 */
uint32_t init_run(struct guest *g, int listener);

/*
 * SIGTERM to the entrypoint, once it has ended to all others, SIGKILL after `grace_ms`, sync, off.
 * Does not return.
 */
void init_power_off(struct guest *g, uint32_t grace_ms) __attribute__((noreturn));

#endif
