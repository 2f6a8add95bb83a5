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
/* RESULTS of PREPARE: freeze, sync; */
static const char v1_prepare[] =
	"36000000110000000100160000000000000047000000000000000600667265657a6500000100140000000000"
	"0000a758000000000000040073796e630000";
/* of THAW; */
static const char v1_thaw[] =
	"1a00000011000000010014000000000000003d000000000000000400746861770000";
/* of GENERATION: freeze to machine-id, a hook that ended with status 3, thaw; */
static const char v1_generation[] =
	"1d010000110000000100160000000000000010000000000000000600667265657a6500000100440000000000"
	"0000000000000000000007006d61696c626f782d0067656e65726174696f6e203820696e20746865206d6169"
	"6c626f782c203820696e207468652072657175657374010017000000000000000d000000000000000700656e"
	"74726f707900000100150000000000000000000000000000000500636c6f636b000001001800000000000000"
	"01000000000000000800686f73746e616d65000001001a0000000000000000000000000000000a006d616368"
	"696e652d69640000010021000000030100004f640000000000000b00686f6f6b3a31302d736179020068691f"
	"4e0000010014000000000000001b000000000000000400746861770000";
/* of CLOCK; and of STOP, which has none. */
static const char v1_clock[] =
	"1b000000110000000100150000000000000001000000000000000500636c6f636b0000";
static const char v1_stop[] = "0000000011000000";
static const char v1_wait[] = "110000000a0000000100010000000002000400000003000000";
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

static inline const char *v1_answer(uint16_t type)
{
	switch (type) {
	case AGENT_HELLO:
		return v1_hello;
	case AGENT_INFO:
		return v1_info;
	case AGENT_EXEC:
		return v1_exec;
	case AGENT_PREPARE:
		return v1_prepare;
	case AGENT_THAW:
		return v1_thaw;
	case AGENT_GENERATION:
		return v1_generation;
	case AGENT_CLOCK:
		return v1_clock;
	case AGENT_STOP:
		return v1_stop;
	case AGENT_WAIT:
		return v1_wait;
	default:
		return "";
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
		v1_say(v->fd, v1_answer(f.type));
	}
	agent_frame_free(&f);
	shutdown(v->fd, SHUT_RDWR);
	return NULL;
}

#endif
