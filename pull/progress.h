/*
 * progress.h - one line on a terminal that tells how far a pull is; nothing anywhere else.
 *
 * A thread of its own redraws it ten times a second from counters others add to; it is started only
 * when standard error is a terminal.
 */
#ifndef PULL_PROGRESS_H
#define PULL_PROGRESS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct progress;

enum progress_phase { PHASE_RESOLVE, PHASE_LAYERS, PHASE_MERGE, PHASE_EROFS, PHASE_COMMIT };

struct progress_counters {
	_Atomic uint64_t bytes;	 /* downloaded */
	_Atomic uint64_t total;	 /* to download */
	_Atomic uint32_t layers; /* done */
	_Atomic uint32_t layers_total;
	_Atomic enum progress_phase phase;
};

/* NULL when there is no terminal to draw on, or `quiet`; all calls take that. */
struct progress *progress_start(const struct progress_counters *c, const char *name, bool quiet);
/* Clears the line and joins the thread. */
void progress_stop(struct progress *p);

#endif
