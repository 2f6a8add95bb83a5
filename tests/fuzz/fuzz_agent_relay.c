/*
 * A forwarded stream from a hostile peer: what comes out of the socket is what was in its DATA
 * frames, in order and no more. The first byte says how much the relay is fed before it starts.
 */
#include "runner/proto/relay.h"
#include "smfs/base/num.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What should come out, by a plain reading of the format. Returns the count. */
static size_t expected(const uint8_t *p, size_t n, uint8_t *out)
{
	size_t len = 0;

	while (n >= AGENT_FRAME_HDR) {
		uint32_t k;
		uint16_t type;

		if (agent_header_parse(p, &type, &k, NULL) < 0 || type != AGENT_DATA || k == 0)
			break;
		p += AGENT_FRAME_HDR;
		n -= AGENT_FRAME_HDR;
		k = (uint32_t)MIN((size_t)k, n);
		memcpy(out + len, p, k);
		len += k;
		p += k;
		n -= k;
	}
	return len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int sock[2], conn[2], r = 0;
	uint8_t *want, *got;
	size_t fed, n, len = 0;
	struct relay *x;

	if (size < 1 || size > 100000)
		return 0;
	fed = MIN((size_t)data[0], --size);
	data++;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, sock) < 0 ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, conn) < 0)
		abort();
	x = malloc(sizeof(*x));
	want = malloc(size + 1);
	got = malloc(size + 1);
	n = expected(data, size, want);
	if (send(conn[1], data + fed, size - fed, 0) != (ssize_t)(size - fed))
		abort();
	shutdown(conn[1], SHUT_WR);
	relay_init(x, sock[0], conn[0]);
	relay_feed(x, data, fed);
	for (int i = 0; i < 1000 && r == 0; i++) {
		ssize_t k;

		r = relay_step(x);
		while ((k = recv(sock[1], got + len, size + 1 - len, 0)) > 0)
			len += (size_t)k;
		if (x->done_seen)
			break;
	}
	/* It ended, by DONE or as a reset. */
	if (r == 0 && !x->done_seen)
		abort();
	if (len != n || memcmp(want, got, n) != 0)
		abort();
	for (int i = 0; i < 2; i++) {
		close(sock[i]);
		close(conn[i]);
	}
	free(x);
	free(want);
	free(got);
	return 0;
}
