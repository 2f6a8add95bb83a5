/*
 * prefault.h - pages of a restored machine's RAM, mapped before the guest asks for them.
 *
 *     prefault_new(machine, policy, ws_fd, &p, err);      the machine is complete, and has not run
 *     prefault_start(p, err);                             it has been started
 *     prefault_stats(p, &st);                             at any time
 *     prefault_stop(p);                                   before the machine is freed
 *
 * A fault of the guest costs it an exit, and its page a walk through the kernel, a copy if it
 * writes, and, where the page is not cached, a wait for the store. All but the exit is done
 * beforehand, of many pages at once: a fifth of the time. A restored guest wants most of its set in
 * its first moments, in which a thread beside it would come too late for half of it. So the set is
 * mapped before the guest runs, for PREFAULT_AHEAD_US at most; what is left of it by a thread
 * of its own, which begins once the guest has run, works in small steps, since whoever forks the
 * process waits for the step at hand, and ends with its work or with the machine.
 *
 * ORDER. First the kernel is asked to read ahead all of the set that is not cached. Then pages that
 * are only read are mapped: sixteen in the time of one copy. Then those that will be written
 * get their copies. Each in the order of addresses, since nothing else is known.
 *
 * LIMIT. Copies are memory of this machine's own, whether the guest then needs them or not: at most
 * an eighth of its RAM (but PREFAULT_COPIES_MIN), and a quarter of what the host has
 * available at the start.
 *
 * A `ws` that is not fit is not used, which is said in the log and in the stats; the machine runs.
 *
 * THREADS. What its thread holds of the process's may be held when the process forks: the device
 * lock never (whoever forks has it), so it logs under that.
 */
#ifndef RUNNER_SNAPSHOT_PREFAULT_H
#define RUNNER_SNAPSHOT_PREFAULT_H

#include <stdbool.h>
#include <stdint.h>

#include "runner/vm/machine.h"
#include "smfs/base/err.h"

#define PREFAULT_COPIES_MIN (64ull << 20)
#define PREFAULT_AHEAD_US   100000

enum prefault_policy {
	PREFAULT_WS, /* the snapshot's working set, if it has one */
	PREFAULT_NONE,
	PREFAULT_ALL, /* and then all of `ram` that holds data, to be read */
};

enum prefault_state {
	PREFAULT_OFF,	  /* not asked for */
	PREFAULT_MISSING, /* the snapshot has no working set */
	PREFAULT_RUNNING,
	PREFAULT_DONE,
	PREFAULT_LIMIT,	  /* done, with fewer copies than the set has */
	PREFAULT_STOPPED, /* the machine ended first */
	PREFAULT_REFUSED, /* `ws` is damaged or hostile; not used */
	PREFAULT_FAILED,  /* the kernel would not */
};

struct prefault_stats {
	enum prefault_state state;
	uint64_t read_pages, written_pages; /* mapped, and copied, so far */
	uint64_t us;			    /* what it took; 0: nothing was to be done */
	uint64_t ahead_us;		    /* that part of it which the guest has waited for */
};

struct prefault;

/* "none", "ws", "all"; false: none of them. */
bool prefault_policy_of(const char *text, enum prefault_policy *out);
const char *prefault_policy_name(enum prefault_policy p);
const char *prefault_state_name(enum prefault_state s);

/*
 * `ws_fd`: the open file, taken over; -1: there is none. Maps what is mapped ahead. `m` outlives
 * *out, which is NULL on failure.
 */
int prefault_new(struct machine *m, enum prefault_policy policy, int ws_fd, struct prefault **out,
		 struct err *err);
/* The rest. On failure the guest has to fault by itself. */
int prefault_start(struct prefault *p, struct err *err);
void prefault_stats(const struct prefault *p, struct prefault_stats *out);
/* NULL is fine. */
void prefault_stop(struct prefault *p);

#endif
