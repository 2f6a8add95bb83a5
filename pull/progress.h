/*
 * progress.h - how far a pull is: counters its threads add to, and the line that shows them.
 */
#ifndef PULL_PROGRESS_H
#define PULL_PROGRESS_H

#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

#include "smfs/base/progress.h"

enum pull_phase { PHASE_RESOLVE, PHASE_LAYERS, PHASE_MERGE, PHASE_EROFS, PHASE_COMMIT };

struct pull_counters {
	_Atomic uint64_t bytes;	 /* downloaded */
	_Atomic uint64_t total;	 /* to download */
	_Atomic uint32_t layers; /* done */
	_Atomic uint32_t layers_total;
	_Atomic enum pull_phase phase;
};

struct pull_line {
	const struct pull_counters *c;
	const char *name;
	struct timespec begun; /* CLOCK_MONOTONIC */
};

/* A progress_draw; `arg` is a struct pull_line. */
void pull_line_draw(void *arg, char line[PROGRESS_LINE_MAX]);

#endif
