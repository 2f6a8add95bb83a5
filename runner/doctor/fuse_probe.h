/*
 * fuse_probe.h - what the kernel's FUSE offers, learnt by being a server for a moment.
 *
 * A file system is made of a new /dev/fuse with fsopen(2) but never attached to a directory: the
 * kernel sends its INIT, which says what it can do, and after an answer that agrees to passthrough
 * a backing file can be registered, which is where a stacked or unfit file system is refused.
 */
#ifndef RUNNER_DOCTOR_FUSE_PROBE_H
#define RUNNER_DOCTOR_FUSE_PROBE_H

#include <stdbool.h>
#include <stdint.h>

#include "smfs/base/err.h"

struct fuse_probe {
	uint32_t major, minor; /* of the protocol */
	bool offered;	       /* passthrough */
	bool resend;	       /* requests of a dead server can be asked for again */
	int backing;	       /* of registering one: 0, or a positive errno; -1: not tried */
};

/*
 * `dir` is where the backing file is made, without a name. EPERM: not allowed to mount. May hang
 * with a broken kernel: run it where it can be killed.
 */
int fuse_probe(const char *dir, struct fuse_probe *out, struct err *err);

#endif
