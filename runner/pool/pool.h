/*
 * pool.h - machines of one snapshot, kept warm, claimed and returned (doc/protocol.md, "The pool").
 *
 * One process and one thread: a supervisor of workers (worker/) on one side, a server of claims on
 * the other. It waits for nobody: every descriptor is non-blocking, every wait has a deadline.
 *
 *     member.h    one worker: its process, its connection, what it is doing
 *     claims.h    clients, who waits for a machine and who has one
 *     plan.h      how many there should be
 *     room.h      what memory there is for them
 *     name.c      what it is found by
 *     serve.c     requests of clients
 *     pool.c      the loop between them
 *
 * A MACHINE is given to one claim, then reset to the snapshot by its worker, or replaced if that
 * fails, before it is given again. Claims are served in the order they came. A worker that dies is
 * replaced; its claim is told. When the pool's process ends, however it ends, its workers do.
 *
 * MEMORY. A machine that is started may come to have `vm_bytes` of memory, the host's and its
 * control group's. It is started only while that much is available beyond `reserve_bytes`, and
 * those that run are counted with what they have not taken yet; a claim is refused (ENOMEM) rather
 * than served while less than the reserve is available.
 */
#ifndef RUNNER_POOL_POOL_H
#define RUNNER_POOL_POOL_H

#include <stdint.h>

#include "runner/control/forward.h"
#include "runner/snapshot/prefault.h"
#include "smfs/base/err.h"

#define POOL_MEMBERS_MAX 256
#define POOL_NAME_MAX	 32
#define POOL_WARM_UP	 "true" /* unless it is told another */

struct pool_config {
	const char *name, *mount;
	const char *snapshot; /* a name or a directory, as `restore` takes it */
	enum prefault_policy prefault;
	unsigned min, max;
	unsigned idle_ms;    /* those beyond min that are not claimed for so long are ended */
	unsigned acquire_ms; /* a claim waits at most so long, unless it says otherwise */
	uint64_t vm_bytes, reserve_bytes;
	const char *warm_up; /* a program to run in each machine that nobody waits for; "": none */
	const struct forward
		*forward; /* `nforwards` ports of the host that lead into each machine */
	unsigned nforwards;
	int lifeline_fd; /* the pool ends when this is at its end; -1: none. The caller's */
};

/* Names: [A-Za-z0-9][A-Za-z0-9_-]*, at most POOL_NAME_MAX. The socket's path, in `out`. */
int pool_name_check(const char *name, struct err *err);
int pool_socket(const char *name, char out[108], struct err *err);
/*
 * Until SIGTERM, SIGINT or SIGHUP; a second one ends those that still write. Says one line on
 * standard output, and READY=1 to a service manager, when it takes claims. Returns an exit code; a
 * failure fills *err. EBUSY: there is one already.
 */
int pool_run(const struct pool_config *cfg, struct err *err);

#endif
