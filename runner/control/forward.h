/*
 * forward.h - ports of the host that lead into a guest.
 *
 *     forward_parse("8080:80", &spec, err);
 *     forwarder_open(&spec, 1, &f, err);           // listens from here on
 *     forwarder_start(f, vsock_path, &pid, err);   // a process of its own, which ends with this
 * one forwarder_free(f);
 *
 * A connection to a listener becomes one to the guest's agent, which connects to the target; bytes
 * then go both ways with each end's half closes and resets. It is made anew for every connection,
 * so that a guest that was restored or reset answers at once. A client whose target cannot be
 * reached, or whose guest is gone, sees a reset.
 *
 * FORWARD_CONNS connections are served at a time, more wait to be accepted. The process that serves
 * has no capabilities and no other system calls than a VM's.
 */
#ifndef RUNNER_CONTROL_FORWARD_H
#define RUNNER_CONTROL_FORWARD_H

#include <sys/types.h>

#include "runner/proto/agent_reach.h"

#define FORWARD_MAX   16 /* listeners of one forwarder */
#define FORWARD_CONNS 128

struct forward {
	char address[64]; /* of the host, a number; "" means 127.0.0.1 */
	uint16_t port;	  /* 0: any free one */
	struct agent_target target;
};

/*
 * [[ADDRESS:]PORT:]TARGET, an IPv6 ADDRESS in brackets, TARGET a port or a socket's absolute path;
 * with TARGET alone PORT is 0.
 */
int forward_parse(const char *text, struct forward *out, struct err *err);
/* The same into list[*n], which then counts one more: FORWARD_MAX at most. */
int forward_add(const char *text, struct forward list[FORWARD_MAX], unsigned *n, struct err *err);
#define FORWARD_TEXT_MAX 192
/* The same again, with `port` for the host's. Returns buf. */
char *forward_text(const struct forward *f, uint16_t port, char buf[FORWARD_TEXT_MAX]);

struct forwarder;

/* Listen on all of them. EADDRINUSE and the like say where. */
int forwarder_open(const struct forward *list, unsigned n, struct forwarder **out, struct err *err);
uint16_t forwarder_port(const struct forwarder *f, unsigned i);
/* "address:port:target" of each, divided by spaces; `cap` bytes at most. Returns buf. */
char *forwarder_text(const struct forwarder *f, char *buf, size_t cap);
/* Serve until `end_fd` is readable. */
int forwarder_run(struct forwarder *f, const char *vsock_path, int end_fd, struct err *err);
/*
 * Serve in a child that is killed when the calling thread ends. It keeps no other descriptor. `pid`
 * may be NULL.
 */
int forwarder_start(struct forwarder *f, const char *vsock_path, pid_t *pid, struct err *err);
/*
 * Serve in a child of its own session until `end_fd` is readable, whatever becomes of the caller,
 * with what it has to say going to the file `log`.
 */
int forwarder_start_until(struct forwarder *f, const char *vsock_path, int end_fd, const char *log,
			  struct err *err);
/* Close the listeners, here. NULL is fine. */
void forwarder_free(struct forwarder *f);

#endif
