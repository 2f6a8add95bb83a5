/*
 * plan.h - how many machines a pool should start or end now. Pure.
 */
#ifndef RUNNER_POOL_PLAN_H
#define RUNNER_POOL_PLAN_H

#include <stdbool.h>
#include <stdint.h>

struct plan_in {
	unsigned min, max;
	unsigned warm;	 /* to be claimed at once */
	unsigned coming; /* starting or being reset */
	unsigned claimed;
	unsigned waiting; /* claims */
	unsigned idle;	  /* of the warm: not claimed for longer than the idle time */
	/* Memory: what the host has available, what may be taken of it still by those that are
	 * there (not more than vm_bytes each), what one more may take, what is to be left. */
	uint64_t available, promised, vm_bytes, reserve;
};

struct plan_out {
	unsigned start, end;
	unsigned short_of_memory; /* how many more would be started */
};

/*
 * Warm ones, and those coming, are to be as many as there are claims waiting, and `min` beside
 * them; all together never more than `max`. More than `min` stay until they have been idle for
 * long.
 */
struct plan_out plan(const struct plan_in *in);

/* More are wanted, and may be: only then does the plan depend on memory. */
bool plan_wants_more(const struct plan_in *in);

#endif
