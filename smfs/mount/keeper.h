/*
 * keeper.h - a mount that outlives the process that serves it.
 *
 *     smfs mount ── keeper ── worker          the worker serves; the keeper holds
 *                     │  └─── next worker     /dev/fuse (all devices), the takeover table,
 *                     └ `smfs remount`        and the program to start
 *
 * The kernel ends a FUSE connection when the last descriptor of it is closed. The keeper keeps them
 * open, in a process that does next to nothing: it never opens the store, never reads a request,
 * never touches the mount, has one thread and allocates nothing once it runs. When the worker dies,
 * however, a new one is started at once. It maps the table (takeover.h), shows its session the INIT
 * of the one before (channel.h), and has the kernel send again what was taken and not answered.
 * Whoever waits on the mount waits a little longer; whoever does not, notices nothing.
 *
 * WHAT A KILL COSTS. Nothing that is in the store, and nothing that was answered. Requests in
 * flight are carried out by the next worker; what changes something may have been carried out
 * already, so a request marked as sent again succeeds when it finds its work done: unlink, rmdir
 * the name is gone           rename  the old name gone, the new one there open, create   the first
 * handle is closed, another opened release, forget                           nothing left to do
 *     flush that publishes a copied-in snapshot: there with the very same content, or EIO
 * Snapshots being copied in are lost: EIO, and a line in the log (takeover_stage.h). Counters of
 * .smfs/stats begin again at 0. An open .smfs file, or a listing of names/ read half, goes on as of
 * now.
 *
 * WATCHDOG. A worker that is at one request longer than `watchdog` seconds, or leaves requests
 * unread that long, is killed and replaced. So is one that does not come up. A request that has
 * cost CHANNEL_DEATHS_MAX workers (by their own crash, or by the watchdog) is answered EIO. After
 * KEEPER_STRIKES deaths of its own in a row without progress, or KEEPER_PATIENCE_SECONDS of
 * workers that something else kills before they serve, or if one cannot even be killed, the
 * connection is ended: errors for the users of the mount, rather than waiting for ever. Requests a
 * worker has put aside (publishing a snapshot, materialising a file) do not count.
 *
 * UPGRADE. `smfs remount` has the keeper start a worker of another executable, which gets ready
 * beside the old one. Only then the old one drains: it answers what it has taken, takes nothing
 * more, and exits; the new one serves. If the new one cannot (it does not start, or knows another
 * version of the table, or wants other terms of the kernel), the old one has never stopped.
 *
 * THE END. The worker's devices report the end of the connection, whoever unmounted; it exits, then
 * the keeper. If the keeper is killed, the worker goes on alone and says so in the log.
 */
#ifndef SMFS_MOUNT_KEEPER_H
#define SMFS_MOUNT_KEEPER_H

#include <limits.h>
#include <stdint.h>

#include "smfs/base/err.h"
#include "smfs/mount/channel.h"

struct smfs_mount;

#define KEEPER_STRIKES		5
#define KEEPER_PATIENCE_SECONDS 60
#define KEEPER_WATCHDOG_SECONDS 30

/* Descriptors a worker starts with. */
enum {
	KEEPER_FD_CONTROL = 3,
	KEEPER_FD_TABLE,
	KEEPER_FD_DEVICE,
	KEEPER_FD_END = KEEPER_FD_DEVICE + CHANNEL_THREADS
};

/* ---- keeper
 * -------------------------------------------------------------------------------------- */

struct keeper_config {
	/* Command lines of the worker that mounts, and of those that take over. NULL-terminated. */
	char *const *first, *const *next;
	unsigned watchdog; /* seconds; 0: none */
	/* Once: the mount answers (err->code 0), or why there is none. Returns 0 to go on. */
	int (*ready)(void *arg, const struct err *err);
	void *arg;
};

/*
 * Keep a mount until it ends; the exit status of the command. With SIGINT, SIGTERM and SIGHUP
 * blocked (they are passed on to the worker), no other threads, and no children.
 */
int keeper_run(const struct keeper_config *cfg);

/* ---- worker
 * -------------------------------------------------------------------------------------- */

enum keeper_say {
	KEEPER_READY = 1, /* worker: mounted and serving; or prepared; or `err` */
	KEEPER_GO,	  /* keeper: the one before has ended */
	KEEPER_SERVING,	  /* worker */
	KEEPER_DRAIN,	  /* keeper: answer what you have, then exit KEEPER_DRAINED */
	KEEPER_BUSY,	  /* worker: not now, `err` says why */
};
#define KEEPER_DRAINED 100

struct keeper_message {
	uint32_t say;
	struct err err;
};

/*
 * On KEEPER_FD_CONTROL. `err` may be NULL. Negative: the other end has gone. A descriptor may go
 * along (-1: none): a worker gives its leases (smfs_lease_fd()) for the keeper to hold, so that
 * what is open is not collected between its death and the next one's first lease.
 */
int keeper_tell(int control, enum keeper_say say, const struct err *err, int fd);
int keeper_hear(int control, struct keeper_message *out, int *fd);

/* ---- `smfs remount`
 * ------------------------------------------------------------------------------ */

/*
 * The mount on `dir` (absolute): the minor number of its device, found without touching it.
 * -ENOENT: nothing is mounted there. -EINVAL: something else is.
 */
int keeper_find(const char *dir, unsigned *minor, struct err *err);
/* Have the keeper of that mount change to the program `exe`. Returns when it serves. */
int keeper_remount(unsigned minor, const char *exe, struct err *err);

#endif
