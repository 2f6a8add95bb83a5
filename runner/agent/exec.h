/*
 * exec.h - one exec session: what its set-up and its loop share. Only exec.c and exec_loop.c.
 *
 * Both directions are buffered with a bound and nothing blocks: a peer that does not read stops the
 * program's output, not the signals to it; a program that does not read stops the peer's input.
 */
#ifndef RUNNER_AGENT_EXEC_H
#define RUNNER_AGENT_EXEC_H

#include <limits.h>

#include "runner/agent/guest.h"

/* A queue of bytes: appended at the end, consumed at `off`. */
struct queue {
	struct writer w;
	size_t off;
};

struct source {
	int fd; /* -1: closed */
	uint16_t type;
	bool eof_sent;
};

struct exec {
	struct guest *g;
	int conn;
	bool tty;
	pid_t pid;
	int pidfd; /* -1 once the program has been reaped */
	int status;
	bool timed_out;
	bool end_awaited;     /* after the end of an output */
	uint64_t answer_us;   /* 0: it is answered that it runs, else by when at the latest */
	size_t answer_len;    /* bytes of that, if nothing else is queued */
	size_t *held;	      /* of the request, still in the socket: see exec_serve() */
	char group[PATH_MAX]; /* the cgroup of its own of a program that is measured, else "" */
	uint64_t deadline_us; /* 0: none */
	int in;		      /* the program's stdin, -1: closed */
	bool in_eof;	      /* close `in` when the queue is empty */
	struct source out, err;
	struct queue to_peer, to_program;
	/* The peer's bytes until a whole frame is there. */
	uint8_t rx[AGENT_FRAME_HDR + AGENT_DATA_MAX];
	size_t rx_len;
	uint8_t buf[AGENT_DATA_MAX];
};

/* The process group and, where it has one, the cgroup. */
void exec_kill(struct exec *x);
/* Until the program has ended and been reaped. Negative: the connection is gone or broken. */
int exec_carry(struct exec *x);
/* After that: the rest of its output, then EXIT. */
int exec_finish(struct exec *x);
/*
 * EXIT is the connection's last frame. Closing with the peer's bytes unread could cost it that
 * frame, so what still comes is read and dropped until the peer has closed.
 */
void exec_linger(struct exec *x);

void exec_queue_frame(struct exec *x, uint16_t type, const void *data, size_t len);
void exec_close(int *fd); /* and -1 */

#endif
