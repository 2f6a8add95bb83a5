/*
 * stats.h - what the mount counts, and .smfs/stats: Prometheus text.
 *
 * Telemetry: relaxed atomics that nothing decides from.
 */
#ifndef SMFS_MOUNT_STATS_H
#define SMFS_MOUNT_STATS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum counter {
	COUNT_LOOKUPS,
	COUNT_OPENS,
	COUNT_READS,
	COUNT_READ_BYTES,
	COUNT_READAHEADS,
	COUNT_WRITES,
	COUNT_WRITE_BYTES,
	COUNT_BAD_READS,
	COUNT_ERRORS,
	COUNT_IMPORTS,
	COUNT_IMPORT_FAILURES,
	COUNT_RENAMES,
	COUNT_REMOVALS,
	COUNT_HOT_OPENS,
	COUNT_HOT_REFUSED,
	COUNT_HOT_MADE,
	COUNT_HOT_FAILURES,
	COUNT_HOT_EVICTED,
	COUNTERS
};

struct stats {
	_Atomic uint64_t n[COUNTERS];
};

static inline void stats_add(struct stats *s, enum counter c, uint64_t v)
{
	atomic_fetch_add_explicit(&s->n[c], v, memory_order_relaxed);
}

static inline uint64_t stats_get(const struct stats *s, enum counter c)
{
	return atomic_load_explicit(&s->n[c], memory_order_relaxed);
}

struct smfs_mount;
/* The text of .smfs/stats, allocated; NULL without memory. */
char *stats_text(struct smfs_mount *m, size_t *len);

#endif
