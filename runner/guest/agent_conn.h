/* agent_conn.h - what the two halves of the agent client share; not for others. */
#ifndef RUNNER_GUEST_AGENT_CONN_H
#define RUNNER_GUEST_AGENT_CONN_H

#include "runner/proto/agent.h"

struct agent {
	int fd;
	uint16_t version;	  /* of the protocol, what both speak; 0: not settled yet */
	int end_fd;		  /* borrowed: readable once the guest is no more; -1: none */
	uint32_t exec_limit_ms;	  /* the time limit of what agent_exec_start() began; 0: none */
	struct agent_frame frame; /* the last one received */
};

/*
 * ENOTSUP when the agent's version of the protocol, which is awaited if need be, is below `since`.
 * `what` completes "cannot ...".
 */
int agent_needs(struct agent *a, unsigned since, const char *what, struct err *err);

/* Send a request and read its answer of type `want` into a->frame; an ERROR becomes the error. */
int agent_call(struct agent *a, uint16_t type, const struct writer *w, uint16_t want,
	       int timeout_ms, struct err *err);

#endif
