/* ask.h - a pool's client: one request over a connection of its own. Blocks, for bounded time. */
#ifndef RUNNER_POOL_ASK_H
#define RUNNER_POOL_ASK_H

#include <jansson.h>
#include <stdint.h>

#include "smfs/base/err.h"

struct pool_claimed {
	char vm[32], dir[128];
	uint64_t claim, waited_us;
};

/* *out: decref it. ENOENT: there is no pool of this name. */
int pool_ask_status(const char *name, json_t **out, struct err *err);
/* A claim that lasts until it is released. `timeout_ms` 0: the pool's own. */
int pool_ask_claim(const char *name, unsigned timeout_ms, struct pool_claimed *out,
		   struct err *err);
int pool_ask_release(const char *name, const char *vm, struct err *err);

#endif
