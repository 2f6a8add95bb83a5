/*
 * member.h - one worker of a pool: its process, its connection, what it is doing.
 *
 *     STARTING   spawned; it has to connect, say READY, answer HELLO, restore
 *     WARM       its machine is the snapshot's, and nobody has had it
 *     CLAIMED    somebody has it
 *     RESETTING  given back; on its way to WARM
 *     DEAD       its connection is gone or it broke the protocol; to be forgotten
 *
 * Lines that are not what the state has to expect make it DEAD: its worker then ends by itself.
 */
#ifndef RUNNER_POOL_MEMBER_H
#define RUNNER_POOL_MEMBER_H

#include <stdbool.h>
#include <sys/types.h>

#include "runner/control/rundir.h"
#include "runner/worker/line.h"

#define MEMBER_LINE_MAX	     LINE_LEN_MAX
#define MEMBER_START_MS	     120000
#define MEMBER_RESET_MS	     60000
#define MEMBER_WARM_UP_MS    10000
#define MEMBER_WARM_UP_TRIES 3 /* failures one after the other, of a pool */
/* A guest that ends sooner than this by itself would end as soon again. */
#define MEMBER_PROVEN_MS 1000

enum member_state { MEMBER_STARTING, MEMBER_WARM, MEMBER_CLAIMED, MEMBER_RESETTING, MEMBER_DEAD };

struct member {
	enum member_state state;
	pid_t pid;			  /* 0: the slot is free */
	bool ended;			  /* the process has been reaped */
	int fd;				  /* -1: not connected */
	char vm[32], quoted[4 * 128 + 3]; /* its directory, as a word */
	char forwards[VM_FORWARDS_MAX];	  /* as HELLO tells them; "" without */
	uint64_t claim;			  /* its number while CLAIMED */
	uint64_t owner; /* the client's number, 0 if the claim outlives its connection */
	bool buried;	/* what its end means to others is done */
	bool proven;	/* it has been claimed, or has stayed warm for MEMBER_PROVEN_MS */
	uint64_t since_us, deadline_us;
	uint64_t restores, warm_resets;
	uint64_t took_us; /* the last restore */
	bool cold;	  /* WARM, and no program was run since it became so */
	bool warming;	  /* one is being run */
	/* What the pool has not yet seen of that: it went well; how often it failed, or might as
	 * well have. */
	bool warmed;
	unsigned warm_up_fails;
	struct err why; /* of DEAD */
	size_t len;
	char buf[MEMBER_LINE_MAX + 1];
};

struct pool_config;

const char *member_state_name(enum member_state s);
/* Start its process, which is to connect to `socket`. */
int member_spawn(struct member *m, const struct pool_config *cfg, const char *socket,
		 struct err *err);
/* `fd` (taken over, non-blocking) is its connection. */
void member_connected(struct member *m, int fd);
/* There is something to read, or it is gone. The state may change. */
void member_read(struct member *m, const char *snapshot);
/* Given back: RESETTING. */
void member_reset(struct member *m, const char *snapshot);
/* WARM and cold: have `program` run in it. It can be claimed all the same. */
void member_warm_up(struct member *m, const char *program);
void member_die(struct member *m, int code, const char *why);
/* It has been in its state for MEMBER_PROVEN_MS. */
bool member_lasts(const struct member *m);
/* Close its connection, by which it ends; with `kill`, at once. */
void member_end(struct member *m, bool kill_it);

const char *member_name(const struct member *m); /* for logs */

#endif
