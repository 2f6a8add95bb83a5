/*
 * relay.h - a stream between a socket and an agent connection: forwarded ports, at both ends.
 *
 * On the connection each direction is DATA frames and then DONE. A socket that ends without DONE
 * was reset, so what was cut off never looks whole: relay_reset() passes that on. Each direction
 * holds one frame at most and nothing is read while it waits to be written, so a slow reader holds
 * up its writer and nobody else.
 *
 * Both descriptors are non-blocking sockets, borrowed. One thread at a time.
 */
#ifndef RUNNER_PROTO_RELAY_H
#define RUNNER_PROTO_RELAY_H

#include "runner/proto/agent.h"

struct relay {
	int sock, conn;
	/* From the socket: one frame, its header included. */
	uint8_t out[AGENT_FRAME_HDR + AGENT_DATA_MAX];
	size_t out_at, out_len;
	bool sock_eof, done_sent;
	/* From the connection, any part of frames: `left` bytes of payload are still to come. */
	uint8_t in[AGENT_FRAME_HDR + AGENT_DATA_MAX];
	size_t in_at, in_len;
	uint32_t left;
	bool done_seen, sock_shut;
};

void relay_init(struct relay *r, int sock, int conn);
/* Bytes of the connection that were read before there was a relay: at most sizeof(r->in). */
void relay_feed(struct relay *r, const void *data, size_t len);
/*
 * Carry what can be carried now. 1: both directions have ended and been passed on; 0: poll for
 * relay_wants(); -errno: reset by one side (ECONNRESET) or broken (EPROTO).
 */
int relay_step(struct relay *r);
/* POLLIN and POLLOUT for each; 0: do not poll it at all, it may be at its end. */
short relay_wants_sock(const struct relay *r);
short relay_wants_conn(const struct relay *r);

/* Close a TCP or Unix socket such that its peer sees a reset rather than an end. */
void relay_reset(int sock);

#endif
