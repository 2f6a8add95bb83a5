/*
 * ready.h - when an image that was booted is ready to be baked into a snapshot.
 *
 *     port:N    a program in the guest listens on TCP port N
 *     file:P    the file P is there, in the workload's root
 *     log:RE    a line of the serial console matches the extended regular expression RE
 *     exec:CMD  `/bin/sh -c CMD` in the guest ends with status 0
 *     agent     the agent answers (the default; a guest without one: it runs)
 */
#ifndef RUNNER_WORKER_READY_H
#define RUNNER_WORKER_READY_H

#include <regex.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "smfs/base/err.h"

struct vmm;

enum ready_kind { READY_AGENT, READY_PORT, READY_FILE, READY_LOG, READY_EXEC };

struct ready {
	enum ready_kind kind;
	unsigned port;
	const char *text; /* path or command; borrowed */
	regex_t re;	  /* of READY_LOG */
};

int ready_parse(const char *text, struct ready *out, struct err *err);
void ready_free(struct ready *r);

/*
 * Polls the condition until it holds. ETIMEDOUT; ECANCELED when *give_up is set; ECONNRESET when
 * the machine ends first.
 */
int ready_wait(struct vmm *v, const struct ready *r, int timeout_ms, const atomic_bool *give_up,
	       struct err *err);

#endif
