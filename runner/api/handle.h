/* handle.h - what the files of libsmvm's public calls share. */
#ifndef RUNNER_API_HANDLE_H
#define RUNNER_API_HANDLE_H

#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>

#include "runner/api/child.h"
#include "runner/api/reply.h"
#include "runner/control/rundir.h"

struct smvm_image {
	char mount[PATH_MAX], dir[PATH_MAX], ref[512];
};

/*
 * Restores, snapshots and the like that are done, or failed, and that nobody has been told of: the
 * latest.
 */
#define EVENTS_MAX 16

struct smvm_vm {
	char id[VM_ID_LEN + 1], dir[REPLY_DIR_MAX]; /* "" unknown */
	char forwards[VM_FORWARDS_MAX];		    /* as in vm_info */

	/* A claim of a pool's machine is the connection it came by: it lasts as long as that. */
	bool is_claim;
	bool claiming;	/* asked for, and not answered */
	uint64_t claim; /* its number, while the machine is ours */
	bool released;	/* the pool has said so */

	/* The worker, or the pool, from here to the end: none of smvm_vm_open()'s. */
	int fd;		    /* to it; -1: closed, or none */
	bool is_worker;	    /* it had one */
	bool extended;	    /* it knows HELLO */
	struct child child; /* of smvm_vm_start() */

	/* In flight: what it was asked for and has not answered. */
	bool restoring, snapshotting;
	bool restore_expired; /* told as ETIMEDOUT: by us, or by it */
	bool snapshot_expired;
	bool snapshot_async; /* settled it is only begun */
	/* Requests are counted, whether the dialect has ids or not: an answer is its own's. */
	unsigned serial, restore_serial, snapshot_serial;
	char restore_id[REPLY_ID_MAX + 1], snapshot_id[REPLY_ID_MAX + 1];

	bool ready, hello, baked, bye; /* it has said so */
	struct err bake_error;

	struct news {
		unsigned serial; /* of the request it answers; 0: none */
		struct smvm_event event;
	} news[EVENTS_MAX];
	unsigned nnews;

	size_t len; /* of a line begun */
	char buf[REPLY_LINE_MAX + 2];
};

/* struct err is what the library's inside fills: the same, told outside. Returns `r`. */
int api_error(struct smvm_error *out, const struct err *err, int r);

/* The `size` of a struct of the caller's: `least` is of the first header, `most` of this one. */
int api_check_size(const char *what, size_t size, size_t least, size_t most, struct err *err);

/* ---- link.c: the connection ---- */

/* "command closed" */
int link_closed(struct err *err);
/* One line, its LF added. EPIPE "command closed". */
int link_say(struct smvm_vm *vm, const char *line, struct err *err);
/*
 * Read what there is and act on it, waiting up to `timeout_ms` for something (-1: for ever). 0:
 * nothing came; 1: something did; EPIPE "command closed" once all that was said before is acted on.
 */
int link_step(struct smvm_vm *vm, int timeout_ms, struct err *err);
/*
 * link_step() until *flag, or until `until_us` (monotonic_us(); UINT64_MAX: no limit) with
 * ETIMEDOUT.
 */
int link_await(struct smvm_vm *vm, const bool *flag, uint64_t until_us, struct err *err);
/* Act on what has come in meanwhile, without waiting; EPIPE as above. */
int link_catch_up(struct smvm_vm *vm, struct err *err);
/* Something has happened. */
void link_push(struct smvm_vm *vm, enum smvm_event_kind kind, unsigned serial,
	       const struct reply *r);
void link_close(struct smvm_vm *vm);
/* READY, then HELLO, and whether it knows that. */
int link_greet(struct smvm_vm *vm, int timeout_ms, struct err *err);
/* Take what has happened to request `serial` (0: the oldest of all) out; false: nothing. */
bool link_take(struct smvm_vm *vm, unsigned serial, struct smvm_event *out);
/* `text` as a word of a request: quoted where the dialect has it. EINVAL where it cannot be said.
 */
int link_word(const struct smvm_vm *vm, const char *text, char *out, size_t size, struct err *err);

/* ---- claim.c ---- */

/* A line of the pool's, NUL-terminated. */
int claim_act(struct smvm_vm *vm, const char *line, struct err *err);
/* The machine is this claim's now. EPIPE "command closed" if it is not any more. */
int claim_check(struct smvm_vm *vm, struct err *err);

/* ---- vm.c ---- */

struct smvm_vm *vm_handle(void);
/* A handle of a running machine by its run directory. */
int vm_open_by(const char *name, struct smvm_vm **out, struct err *err);
/* "<dir>/<file>", or ENOTSUP where the directory is not known. */
int vm_file(struct smvm_vm *vm, const char *file, char out[RUNDIR_PATH_MAX], struct err *err);

#endif
