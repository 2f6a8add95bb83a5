/*
 * guest.h - what every part of smvm-init knows about the machine it runs.
 *
 * PROCESSES. Process 1 boots, starts the workload, accepts connections and reaps. Each connection
 * is served by a forked child of its own (a session), so a slow, dead or hostile peer holds up
 * nobody, and what a session started dies with it. Sessions and process 1 share one small page,
 * struct shared, behind a robust process-shared mutex.
 *
 * Everything of the outside a session touches is reached through struct guest: the root prefix, the
 * workload's cgroup, the hook folder and the identity operations. The unit tests run the same
 * sessions on the host with a temporary folder and operations that only record.
 */
#ifndef RUNNER_AGENT_GUEST_H
#define RUNNER_AGENT_GUEST_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "runner/proto/agent.h"
#include "runner/proto/bootconf.h"
#include "smfs/base/clock.h"

struct guest;
struct journal;

/* Guarded by `lock`, all of it; use guest_lock(). */
struct shared {
	pthread_mutex_t lock;
	pid_t control; /* the session doing a control operation, 0: none */
	bool frozen;
	uint32_t sessions;
	bool spare_taken;    /* the one that awaited a connection is one of them */
	uint8_t entry_state; /* enum agent_entry_state */
	pid_t entry_pid;
	struct agent_exit entry_exit;
	uint64_t generation;
	uint8_t uuid[AGENT_UUID_LEN];
};

/* What makes a guest somebody. Each returns 0 or a negative errno with *err filled. */
struct identity_ops {
	int (*entropy)(struct guest *g, const void *seed, size_t len, struct err *err);
	int (*clock)(struct guest *g, uint64_t wall_ns, struct err *err);
	int (*hostname)(struct guest *g, const char *name, struct err *err);
	int (*machine_id)(struct guest *g, const char *id, struct err *err);
};
extern const struct identity_ops identity_linux;

struct guest {
	struct shared *shared;
	const struct bootconf *conf;
	const struct identity_ops *identity;
	const char *root;   /* in front of /etc/...: "" in a guest */
	const char *cgroup; /* the workload's cgroup2 folder; NULL: none could be made */
	/*
	 * The folder in it where programs are, so that those measured can have another beside it;
	 * NULL: the kernel has no memory controller, and they are in `cgroup` itself.
	 */
	const char *work;
	struct journal *journal; /* NULL: none is kept */
	const uint8_t *mailbox;	 /* the mapped page, NULL: not readable */
	char rootfs[128];	 /* for INFO */
	uint64_t ready_ms;
	unsigned hook_ms; /* a hook's time limit, 0: CONTROL_HOOK_MS */
	int power_wr;	  /* pipe to process 1: a u32 grace_ms asks for power off; -1: refused */
	int ended_rd;	  /* pipe: end of file once the entrypoint has ended; -1: no entrypoint */
};

/* A zeroed page shared with every child forked from now on. */
int shared_new(struct shared **out, struct err *err);
void guest_lock(struct guest *g);
void guest_unlock(struct guest *g);

/*
 * The right to do one control operation: EBUSY names the holder. Released by the holder, or by
 * process 1 when the holder died (control_release_dead).
 */
int control_claim(struct guest *g, struct err *err);
void control_release(struct guest *g);
void control_release_dead(struct guest *g, pid_t pid);

/* The cgroup that programs join, NULL: none. */
static inline const char *guest_work(const struct guest *g)
{
	return g->work ? g->work : g->cgroup;
}

uint64_t boottime_ms(void);

#endif
