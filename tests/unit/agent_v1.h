/*
 * agent_v1.h - what an agent of protocol version 1 said, recorded from one: a snapshot taken then
 * still says it. A connection to it is a thread that plays the answers in order, one for each frame
 * it gets.
 */
#ifndef TESTS_UNIT_AGENT_V1_H
#define TESTS_UNIT_AGENT_V1_H

#include "runner/proto/agent.h"

#include <pthread.h>

static const char v1_hello[] = "0600000001000000534d76610100";
static const char v1_info[] =
	"93000000100000000100080000005ca29e030000000002000800000000000000000000000300010000000004"
	"0001000000000500040000000000000006000400000000000000070001000000000800080000000000000000"
	"000000090010000000000000000000000000000000000000000b0004000000000000000c000f000000362e31"
	"382e34342d66632d763635370e0005000000302e312e30";
/* STARTED, "out\n", "err\n", both ends, and EXIT with status 3. */
static const char v1_exec[] =
	"0400000004000000bf4c000004000000060000006f75740a04000000070000006572720a0000000007000000"
	"0000000006000000110000000a0000000100010000000002000400000003000000";
/* What it makes of a type it does not know, before it closes. */
static const char v1_unknown[] =
	"2e000000020000000100040000004700000002001e0000006167656e74206672616d653a20756e6b6e6f776e"
	"20747970652032302f30";

struct v1 {
	int fd;
	pthread_t thread;
	bool asked_of_later; /* a frame came that version 1 does not have */
};

static inline void v1_say(int fd, const char *hex)
{
	for (; *hex; hex += 2) {
		unsigned b;
		uint8_t byte;

		assert_int_equal(sscanf(hex, "%2x", &b), 1);
		byte = (uint8_t)b;
		if (send(fd, &byte, 1, MSG_NOSIGNAL) != 1)
			return;
	}
}

static inline void *v1_run(void *arg)
{
	struct v1 *v = arg;
	struct agent_frame f = {0};

	while (agent_frame_read(v->fd, &f, 5000, NULL) == 0) {
		if (agent_type_since(f.type) > 1) {
			v->asked_of_later = true;
			v1_say(v->fd, v1_unknown);
			break;
		}
		v1_say(v->fd, f.type == AGENT_HELLO  ? v1_hello
			      : f.type == AGENT_INFO ? v1_info
			      : f.type == AGENT_EXEC ? v1_exec
						     : "");
	}
	agent_frame_free(&f);
	shutdown(v->fd, SHUT_RDWR);
	return NULL;
}

#endif
