/*
 * link.h - a worker's connection to its supervisor: bytes to lines, lines out, time, signals.
 *
 * A thread of its own, so that no request has to wait for the one before to be refused. Memory is
 * bounded: one line in; lines out are written at once or, to a supervisor that does not read, given
 * up after LINK_SEND_MS, which is the end of the session.
 */
#ifndef RUNNER_WORKER_LINK_H
#define RUNNER_WORKER_LINK_H

#include "runner/worker/desk.h"

#define LINK_LINE_MS 60000 /* a line begun */
#define LINK_SEND_MS 60000

struct link {
	struct desk *desk;
	int fd;				 /* the supervisor; taken over */
	int signal_fd;			 /* SIGTERM and the like; taken over */
	const char *vm, *dir, *forwards; /* as of the session */
	bool with_machine, baking;	 /* as of the session, too */
	unsigned ready_ms;
	/*
	 * Ends the process at once, when the machine's thread does not end; does not return. `why`:
	 * of the exit code, if that is not 0.
	 */
	void (*abandon)(void *arg, int exit_code, const struct err *why);
	void *arg;

	/* The link's own. */
	struct session session;
	pthread_t thread;
	bool dead;     /* no more lines out */
	bool hurried;  /* who does not read at once is not waited for */
	bool skipping; /* the rest of a line that was too long */
	size_t len;
	uint64_t line_us; /* when the line in `buf` began */
	char buf[LINE_LEN_MAX + 1];
};

/* `l` zeroed but for its configuration. The session is over when JOB_LEAVE is done. */
int link_start(struct link *l, struct err *err);
/* Joins the thread; returns the exit code, of which *err tells. */
int link_finish(struct link *l, struct err *err);

#endif
