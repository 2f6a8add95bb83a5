/*
 * ask.h - a pool's client: one request over a connection of its own. Blocks, for bounded time. And
 * the parts of it, for libsmvm, whose claims last as long as the connection they came by.
 *
 * A pool is named, or given by the path of its socket (anything with a '/').
 */
#ifndef RUNNER_POOL_ASK_H
#define RUNNER_POOL_ASK_H

#include <jansson.h>
#include <stdint.h>

#include "runner/control/rundir.h"
#include "smfs/base/err.h"

struct pool_claimed {
	char vm[32], dir[108];		/* as long as fits a socket's address */
	char forwards[VM_FORWARDS_MAX]; /* as in vm_info, "" without */
	uint64_t claim, waited_us;
};

/* *out: decref it. ENOENT: there is no pool of this name. */
int pool_ask_status(const char *name, json_t **out, struct err *err);
/* A claim that lasts until it is released. `timeout_ms` 0: the pool's own. */
int pool_ask_claim(const char *name, unsigned timeout_ms, struct pool_claimed *out,
		   struct err *err);
int pool_ask_release(const char *name, const char *vm, struct err *err);

/* Connect within `timeout_ms` (ETIMEDOUT); the descriptor. ENOENT as above. */
int pool_dial(const char *name, unsigned timeout_ms, struct err *err);
/* What follows CLAIMED in its line. EPROTO: no machine is told there. */
int pool_claimed_parse(const char *words, struct pool_claimed *out, struct err *err);
/* "ERR_<what> [id=<id> ]code=<name> <text>", or "LOST ...": its code (EIO for unknown ones), and
 * text. */
int pool_refusal(const char *line, struct err *err);

#endif
