/* pool_priv.h - struct pool, shared by the files that make up its process. */
#ifndef RUNNER_POOL_POOL_PRIV_H
#define RUNNER_POOL_POOL_PRIV_H

#include <limits.h>

#include "runner/pool/claims.h"
#include "runner/pool/member.h"
#include "runner/pool/plan.h"
#include "runner/pool/pool.h"
#include "runner/pool/room.h"

struct pool {
	const struct pool_config *cfg;
	char snapshot[PATH_MAX], socket[108], worker_socket[108];
	int lock_fd, listen_fd, worker_fd, signal_fd;
	bool stopping;
	bool hurried; /* told to end once more */
	bool warms;   /* machines that nobody waits for run a program */
	unsigned warm_up_fails;
	struct member *member[POOL_MEMBERS_MAX];
	struct clients clients;
	struct waiters waiters;
	unsigned nclients, nwaiting, failures; /* starts that failed one after the other */
	uint64_t start_again_us, replan_us, accept_again_us;
	uint64_t last_claim, last_client;
	struct room room;
	unsigned short_of_memory;
	struct err last_failure;
	struct {
		uint64_t claims, refused, timed_out, released, lost, started, died;
	} count;
};

/* ---- pool.c */
/* What there is, for plan(). */
struct plan_in pool_survey(struct pool *p);

/* ---- name.c */
/* Its sockets, and a lock that is held until the end. EBUSY: another pool has the name. */
int pool_take_name(struct pool *p, struct err *err);
void pool_release_name(struct pool *p);

/* ---- serve.c */
/* Give what is warm to whoever waits. */
void pool_serve_waiters(struct pool *p);
void pool_time_out_waiters(struct pool *p);
void pool_refuse_all(struct pool *p); /* the pool ends */
void pool_accept_client(struct pool *p);
/* Of accept(2), errno tells why: listeners are looked away from for a moment if it would go on so.
 */
void pool_accept_failed(struct pool *p);
/* There is something to read; `gone` may be set. */
void pool_read_client(struct pool *p, struct client *c);
/* Clients that are gone, or all of them, with their claims: those waiting, and those not kept. */
void pool_drop_gone(struct pool *p);
void pool_drop_all(struct pool *p);

#endif
