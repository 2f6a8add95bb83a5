/*
 * peer_lines.h - the other end of a protocol of lines, played by a test: a worker, a pool.
 */
#ifndef TESTS_UNIT_PEER_LINES_H
#define TESTS_UNIT_PEER_LINES_H

#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "runner/api/reply.h"
#include "smfs/base/io.h"

#define MS 60000 /* how long anything may take */

static inline void peer_say(int fd, const char *text)
{
	assert_int_equal(write_full(fd, text, strlen(text)), 0);
}

/* The next line, without its LF; good until the next call. */
static inline const char *peer_hear(int fd)
{
	static char line[REPLY_LINE_MAX + 1];
	size_t n = 0;

	for (;;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};

		assert_int_equal(poll(&p, 1, MS), 1);
		assert_int_equal(read(fd, line + n, 1), 1);
		if (line[n] == '\n')
			break;
		assert_true(++n < sizeof(line));
	}
	line[n] = '\0';
	return line;
}

#endif
