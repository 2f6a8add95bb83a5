/*
 * session.h - the state machine of a worker's end of the supervisor protocol (doc/protocol.md).
 *
 * Lines and events come in, lines and jobs go out; no socket, no clock, no machine in here. One job
 * is out at a time; what carries it out (jobs.h) answers by events.
 *
 *              | EMPTY            RUNNING          BUSY             WRITING*         LEAVING
 *   -----------+--------------------------------------------------------------------------------
 *   HELLO      | HELLO            HELLO            HELLO            HELLO            -
 *   RESTORE    | job -> BUSY      job -> BUSY      refused          job -> BUSY      -
 *   SNAPSHOT   | ENODATA          job -> BUSY      refused          job -> BUSY      -
 *   .._ASYNC   | ENODATA          job -> BUSY      refused          EBUSY            -
 *   WARM_UP    | ENODATA          job, WARMING     refused          EBUSY            -
 *   QUIT, eof  | leave -> LEAVING leave -> LEAVING LEAVING, later leave              -
 *   no request | complaint        complaint        complaint        complaint        -
 *   tick       |                                   time-out         progress         give up
 *   done       |                                   answer -> RUNNING (or EMPTY), late: SETTLED
 *
 * (*) WRITING is beside EMPTY, RUNNING or BUSY: a snapshot of SNAPSHOT_ASYNC is being written.
 *
 * WARMING is beside RUNNING: any other job ends it, and is told to the machine's thread at once.
 *
 * Without HELLO what the seed has no error for ends the session: a restore that is refused, fails
 * or takes too long, and a complaint. `shut` is set at once and `over`, with exit code 1, after the
 * drain that QUIT has too.
 *
 * One thread calls; the callbacks run within the calls.
 */
#ifndef RUNNER_WORKER_SESSION_H
#define RUNNER_WORKER_SESSION_H

#include "runner/worker/line.h"

enum job_kind { JOB_START, JOB_RESTORE, JOB_SNAPSHOT, JOB_SNAPSHOT_ASYNC, JOB_WARM_UP, JOB_LEAVE };

struct job {
	enum job_kind kind;
	struct request rq;
	uint64_t read_us; /* monotonic_us() when the request was read */
};

enum event_kind {
	EVENT_RESTORED, /* of JOB_RESTORE, and of JOB_START with a snapshot */
	EVENT_BAKED,	/* of JOB_START with an image */
	EVENT_FAILED,	/* of any job */
	EVENT_SAVED,	/* of JOB_SNAPSHOT */
	EVENT_ACCEPTED, /* of JOB_SNAPSHOT_ASYNC: the guest runs again; then one of the next two */
	EVENT_WRITTEN,
	EVENT_UNWRITTEN,
	EVENT_WARMED, /* of JOB_WARM_UP, however it went: `err` */
	EVENT_ENDED,  /* the machine is over, of itself */
	EVENT_LEFT,   /* of JOB_LEAVE */
};

struct phases { /* microseconds, in the order of DONE */
	uint64_t reset_vsock, remap_cow, load_meta, restore_snapshot, ram_copy, gic_restore,
		vcpu_restore, vtimer_offset, mmio_restore, listener_restore;
};

struct event {
	enum event_kind kind;
	uint64_t us; /* what DONE begins with */
	struct phases phases;
	unsigned host_port; /* 0: none */
	uint64_t generation;
	const char *how, *ended; /* static words */
	unsigned hooks, hooks_failed;
	uint64_t bytes_written, capture_us, save_us, pause_us;
	bool diff;
	bool kept;	/* EVENT_FAILED of a restore: the old machine runs on */
	struct err err; /* why; code 0: of EVENT_RESTORED not rebuilt, of EVENT_WARMED done */
};

struct session_ops {
	void (*say)(void *arg, const char *line, size_t n); /* with its LF */
	void (*start)(void *arg, const struct job *job);
	/* Bound of what the guest has changed since EVENT_ACCEPTED. */
	uint64_t (*copied)(void *arg);
};

struct session {
	const struct session_ops *ops;
	void *arg;
	const char *vm, *dir; /* what HELLO tells; borrowed */
	/* Set after session_init(): */
	const char *forwards; /* HELLO tells this too; NULL or "": none */
	bool baking;	      /* JOB_START boots an image, */
	unsigned ready_ms;    /* which may take so long to be ready */

	bool hello;
	bool machine; /* there is one */
	bool busy, expired;
	enum job_kind doing;
	char id[LINE_ID_MAX + 1];
	uint64_t began_us;    /* of what is in flight, */
	unsigned deadline_ms; /* and its supervisor's patience */

	bool writing, unheard; /* unheard: its end is not to be told */
	char writing_id[LINE_ID_MAX + 1];
	uint64_t writing_since_us, progress_us;

	bool warming; /* a program is to be run in the machine, or is running */
	char warm_id[LINE_ID_MAX + 1];

	bool leaving, left_asked, bye;
	char leave_id[LINE_ID_MAX + 1];
	uint64_t leave_us; /* when to give up waiting */

	bool over; /* close the connection and end */
	bool shut; /* close the connection now, the end comes later */
	int exit_code;
	struct err why; /* of exit_code 1 */
};

void session_init(struct session *s, const struct session_ops *ops, void *arg, const char *vm,
		  const char *dir);
/* READY; `start`: with a machine to come (JOB_START goes out). */
void session_begin(struct session *s, bool start, uint64_t now_us);
/* A line without its LF. */
void session_line(struct session *s, const char *p, size_t n, uint64_t now_us);
/* What is no line at all: too long (EMSGSIZE), or never ended (ETIMEDOUT). */
void session_no_line(struct session *s, int code, uint64_t now_us);
/*
 * End of file, a signal, a supervisor that does not read: QUIT without an answer. What is in flight
 * is still answered, to a supervisor that has only ended its own direction.
 */
void session_quit(struct session *s, uint64_t now_us);
void session_event(struct session *s, const struct event *e, uint64_t now_us);
/* When session_tick() is due, 0: never. */
uint64_t session_next_us(const struct session *s);
void session_tick(struct session *s, uint64_t now_us);

#endif
