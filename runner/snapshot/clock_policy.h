/*
 * clock_policy.h - what a restored or forked guest's wall clock makes of the time in between.
 *
 * The TSC, kvmclock and all that hangs on them (CLOCK_MONOTONIC, timers) go on from their saved
 * values under either: for them, time in a snapshot is no time. doc/snapshot-format.md, Clocks, has
 * it clock by clock.
 */
#ifndef RUNNER_SNAPSHOT_CLOCK_POLICY_H
#define RUNNER_SNAPSHOT_CLOCK_POLICY_H

#include <string.h>

enum clock_policy {
	CLOCK_ADVANCE, /* the wall clock is set to the host's */
	CLOCK_FREEZE,  /* it goes on from where it stopped */
};

static inline const char *clock_policy_name(enum clock_policy p)
{
	return p == CLOCK_FREEZE ? "freeze" : "advance";
}

/* -1: there is no such policy. */
static inline int clock_policy_of(const char *name)
{
	return strcmp(name, "advance") == 0  ? CLOCK_ADVANCE
	       : strcmp(name, "freeze") == 0 ? CLOCK_FREEZE
					     : -1;
}

#endif
