/*
 * session.h - one connection, from HELLO to its end, over any stream socket.
 */
#ifndef RUNNER_AGENT_SESSION_H
#define RUNNER_AGENT_SESSION_H

#include "runner/agent/guest.h"

/* A peer that connects must say HELLO within this. */
#define SESSION_HELLO_MS 10000

/*
 * Serve `fd` until the peer goes away. Runs in a process of its own: it ignores SIGPIPE and SIGTERM
 * there. A peer that breaks the protocol gets an ERROR and is dropped.
 */
void session_serve(struct guest *g, int fd);

/*
 * The exec part: start the program of frame `f` and carry its bytes until it has ended. Returns 0
 * when the request was refused (the connection takes another), negative when the connection is
 * over: its session was (ECONNRESET), it is gone, or broken (the program's process group has been
 * killed; EPROTO fills *err). `greet`: our HELLO goes before the answer. *held: bytes of `f` that
 * are still in the socket, taken out behind the answer.
 */
int exec_serve(struct guest *g, int fd, const struct agent_frame *f, bool greet, size_t *held,
	       struct err *err);

/* The same of a forwarded stream. */
int connect_serve(struct guest *g, int fd, const struct agent_frame *f, struct err *err);

/*
 * Wait for what READY asks. EPROTO: malformed; ECONNRESET: the peer went away; anything else is the
 * answer.
 */
int ready_serve(struct guest *g, int fd, const struct agent_frame *f, struct agent_results *rs,
		struct err *err);

/* READ, WRITE, FETCH and PUT. `f` is used for what the peer sends meanwhile. */
int files_serve(struct guest *g, int fd, struct agent_frame *f, struct err *err);

/* Send an ERROR frame with *e. */
int session_refuse(int fd, const struct err *e);
/* Ours. */
int session_hello(int fd, struct err *err);

/* How long a reply may take to be accepted by the peer. */
#define SESSION_REPLY_MS 10000

#endif
