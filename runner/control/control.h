/*
 * control.h - requests to a running VM's process over its control.sock.
 *
 * One JSON object per line in each direction. Request: {"op": "snapshot", ...}. Answer:
 * {"ok": true, ...} or {"ok": false, "code": <errno>, "error": "<one line>"}. A request line is at
 * most 64 KiB, an answer 64 MiB; a client that sends none within 10 s, or does not take its
 * answer within as long, is dropped. The socket is
 * 0600 root; a peer is trusted, but its bytes are still parsed with limits.
 *
 * "console" turns the connection, after its answer, into the raw byte stream of the serial
 * console; the handler takes the descriptor over (control_detach()).
 *
 * The server runs on one thread (the VM process's main thread). A handler may block (a full
 * snapshot does): other clients wait. Or it leaves its answer for later (control_defer()), and a
 * watch on that same thread gives it.
 */
#ifndef RUNNER_CONTROL_CONTROL_H
#define RUNNER_CONTROL_CONTROL_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "smfs/base/err.h"

#define CONTROL_LINE_MAX    65536
#define CONTROL_CLIENTS_MAX 32
/* A thousand children (fork.h), each with the results of as many hooks as there may be. */
#define CONTROL_REPLY_MAX (64u << 20)

struct control;
struct control_request;

/*
 * Handle one request. Return 0 and put answers into `reply` (an object, "ok" is added), or a
 * negative errno with *err filled.
 */
typedef int (*control_handler)(void *arg, struct control_request *rq, const json_t *body,
			       json_t *reply, struct err *err);

struct control_op {
	const char *name;
	control_handler fn;
};

/* Listen on `path`. `ops` ends with {NULL}; it and `arg` outlive the server. */
int control_listen(const char *path, const struct control_op *ops, void *arg, struct control **out,
		   struct err *err);
/* Serve until `end_fd` is readable (checked between requests). */
int control_serve(struct control *c, int end_fd, struct err *err);
/*
 * Those of which one is readable when somebody wants to ask, be it by a new connection or by one
 * that is there: what keeps control_serve() from being called may end. How many; they are the
 * server's, and stay what they are until it is called.
 */
#define CONTROL_FDS_MAX (1 + CONTROL_CLIENTS_MAX)
size_t control_fds(const struct control *c, int fds[CONTROL_FDS_MAX]);
void control_free(struct control *c);

/* Inside a handler: the connection's descriptor becomes the caller's once the answer is sent. */
void control_detach(struct control_request *rq, void (*taken)(void *arg, int fd), void *arg);

/*
 * Inside a handler that will return 0: the answer comes by control_answer() with this number. A
 * client that goes away meanwhile is forgotten, its number then means nobody.
 */
uint64_t control_defer(struct control_request *rq);
/* Give the answer: `r` and *err as a handler would return them, `reply` (stolen, may be NULL). */
void control_answer(struct control *c, uint64_t who, int r, json_t *reply, const struct err *err);

/*
 * Call fn(arg, true) on the serving thread when `fd` is readable, and fn(arg, false) when it has
 * not been for `period_ms` (-1: never). One watch at a time (EBUSY); fd -1 ends it, also inside fn.
 */
int control_watch(struct control *c, int fd, int period_ms, void (*fn)(void *arg, bool readable),
		  void *arg, struct err *err);

/*
 * Client side: send `request` (stolen), wait `timeout_ms` (-1 = for ever) for the answer. *reply is
 * the answer object (decref it) on success; an error answer becomes its code and message in *err.
 * fd_out, when not NULL, gets the connection instead of it being closed (console).
 */
int control_call(const char *path, json_t *request, int timeout_ms, json_t **reply, int *fd_out,
		 struct err *err);

/*
 * Ask the VM in `path`'s directory to end ("stop") and wait until process `pid` is gone, so that
 * its name is free again when this returns. `grace_ms` is what the guest may take; 0 with `force`.
 */
int control_stop(const char *path, pid_t pid, bool force, int grace_ms, struct err *err);

#endif
