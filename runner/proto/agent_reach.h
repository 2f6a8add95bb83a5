/*
 * agent_reach.h - messages of the agent protocol for what runs in the guest: is it ready, and a
 * stream to one of its ports. See agent.h; since version 2.
 */
#ifndef RUNNER_PROTO_AGENT_REACH_H
#define RUNNER_PROTO_AGENT_REACH_H

#include "runner/proto/agent.h"

#define AGENT_CONDITIONS_MAX 32u
#define AGENT_CONDITION_MAX  4095u /* characters */

/*
 * Conditions, all of which are to hold:
 *
 *     agent      the agent answers
 *     port:N     somebody listens on TCP port N
 *     file:PATH  PATH, which is absolute, exists
 *     log:RE     a line of the entrypoint's output matches the POSIX extended expression
 *     exec:CMD   `sh -c CMD` ends with status 0
 */
struct agent_ready {
	char **condition; /* NULL-terminated, at least one */
	uint32_t timeout_ms;
};
/* put: pointers stay the caller's. get: owned, agent_ready_free(). Each is checked as below. */
void agent_put_ready(struct writer *w, const struct agent_ready *q);
int agent_get_ready(const struct agent_frame *f, struct agent_ready *q, struct err *err);
void agent_ready_free(struct agent_ready *q);

enum agent_condition {
	CONDITION_AGENT,
	CONDITION_PORT,
	CONDITION_FILE,
	CONDITION_LOG,
	CONDITION_EXEC
};
/* What `text` asks for; *arg is the part behind the colon. EINVAL says what there is. */
int agent_condition_parse(const char *text, enum agent_condition *kind, const char **arg,
			  struct err *err);

/* Where a forwarded stream ends. */
#define AGENT_SOCKET_PATH_MAX 107u
struct agent_target {
	uint16_t port;			      /* of TCP on the guest's loopback, or 0 and */
	char path[AGENT_SOCKET_PATH_MAX + 1]; /* a Unix socket, absolute; "" with a port */
};
void agent_put_target(struct writer *w, const struct agent_target *t);
int agent_get_target(const struct agent_frame *f, struct agent_target *t, struct err *err);

#endif
