/*
 * reply.h - a line of a worker's, taken apart (doc/protocol.md). Pure: bytes in, a struct out.
 *
 * A worker is a process that a guest may have broken into: its lines are parsed as any input is.
 */
#ifndef RUNNER_API_REPLY_H
#define RUNNER_API_REPLY_H

#include <stdbool.h>
#include <stddef.h>

#include "runner/api/smvm.h"
#include "runner/control/rundir.h"
#include "smfs/base/err.h"

#define REPLY_LINE_MAX 16384 /* without its LF */
#define REPLY_ID_MAX   32
#define REPLY_DIR_MAX  108

enum reply_kind {
	REPLY_OTHER, /* nothing this library wants to know */
	REPLY_READY,
	REPLY_HELLO,
	REPLY_DONE,
	REPLY_SNAPSHOT,	      /* DONE_SNAPSHOT */
	REPLY_SNAPSHOT_ASYNC, /* DONE_SNAPSHOT_ASYNC */
	REPLY_ACCEPTED,
	REPLY_BAKED,
	REPLY_ERR_RESTORE,
	REPLY_ERR_SNAPSHOT,
	REPLY_ERR_BAKE,
	REPLY_ERR_UNKNOWN,
	REPLY_SETTLED,
	REPLY_ENDED,
	REPLY_BYE,
};

struct reply {
	enum reply_kind kind;
	char id[REPLY_ID_MAX + 1]; /* "" without one */
	struct smvm_restored restored;
	struct smvm_snapshotted snapshotted;
	struct err err; /* of errors, of ENDED, and of a SETTLED that is one; code 0 otherwise */
	char vm[REPLY_ID_MAX + 1], dir[REPLY_DIR_MAX], forwards[VM_FORWARDS_MAX]; /* of HELLO */
};

/* `line` without its LF, NUL-terminated; it is written into. EPROTO: it is no worker's. */
int reply_parse(char *line, struct reply *out, struct err *err);

#endif
