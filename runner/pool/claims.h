/*
 * claims.h - the clients of a pool: their connections, and who of them waits for a machine.
 *
 * A client says requests and hears answers, a line each; any number may be on their way, told apart
 * by `id`. One that does not read what it is sent is dropped. Waiting claims are in one queue, the
 * first come at its head; those of a client that has gone leave it.
 */
#ifndef RUNNER_POOL_CLAIMS_H
#define RUNNER_POOL_CLAIMS_H

#include <stdbool.h>
#include <sys/queue.h>

#include "runner/worker/line.h"

#define CLIENTS_MAX 512
#define WAITING_MAX 4096

struct client {
	TAILQ_ENTRY(client) all;
	int fd;
	bool gone; /* to be dropped */
	uint64_t number;
	size_t len;
	char buf[LINE_LEN_MAX + 1];
};

struct waiter {
	TAILQ_ENTRY(waiter) queue;
	struct client *client;
	char id[LINE_ID_MAX + 1];
	bool keep;
	uint64_t since_us, deadline_us;
};

TAILQ_HEAD(clients, client);
TAILQ_HEAD(waiters, waiter);

enum ask { ASK_NONE, ASK_CLAIM, ASK_RELEASE, ASK_STATUS };

struct ask_line {
	enum ask what;
	char id[LINE_ID_MAX + 1];
	unsigned deadline_ms; /* CLAIM; 0: the pool's */
	bool keep, keep_told; /* CLAIM: it outlives the connection */
	uint64_t claim;	      /* RELEASE; 0: by vm */
	char vm[64];
};

/* A line without its LF. As line_parse(): what and id tell whose error it is. */
int ask_parse(const char *p, size_t n, struct ask_line *out, struct err *err);

/* One line, "<word>[ id=..]...". A client that does not take it is gone. */
void client_say(struct client *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void client_error(struct client *c, const char *word, const char *id, int code, const char *text);

#endif
