/*
 * clock.h - the monotonic clock as one number. Telling the time of day is each caller's own
 * business.
 */
#ifndef SMFS_BASE_CLOCK_H
#define SMFS_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t monotonic_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static inline uint64_t monotonic_us(void)
{
	return monotonic_ns() / 1000;
}

/* Signed, for deadlines: what is left may be less than nothing. */
static inline int64_t monotonic_ms(void)
{
	return (int64_t)(monotonic_ns() / 1000000);
}

#endif
