/* pool.h - a pool's handle, for claim.c. */
#ifndef RUNNER_API_POOL_H
#define RUNNER_API_POOL_H

#include "runner/api/smvm.h"
#include "smfs/base/err.h"

/* A connection without a claim on it, within `timeout_ms`; the caller's. */
int pool_connection(struct smvm_pool *pool, unsigned timeout_ms, struct err *err);
/* One that was released is taken over, for the next claim. */
void pool_keep_connection(struct smvm_pool *pool, int fd);

#endif
