/* forward_serve.h - what the two files of the forwarder share; not for others. */
#ifndef RUNNER_CONTROL_FORWARD_SERVE_H
#define RUNNER_CONTROL_FORWARD_SERVE_H

#include "runner/control/forward.h"

struct forwarder {
	unsigned n;
	int fd[FORWARD_MAX];
	uint16_t port[FORWARD_MAX];
	struct forward spec[FORWARD_MAX];
};

#endif
