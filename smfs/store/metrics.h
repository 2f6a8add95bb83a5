/*
 * metrics.h - what monitoring wants to know of a store, in one table: `smfs stats` and the mount's
 * .smfs/stats say the same under the same names.
 *
 * Prometheus's text format: HELP and TYPE before each family, names in base units (bytes), those of
 * counters end in _total.
 */
#ifndef SMFS_STORE_METRICS_H
#define SMFS_STORE_METRICS_H

#include <stdio.h>

#include "smfs/store/store.h"

struct metric {
	const char *name, *help; /* without the prefix smfs_ and the suffix _total */
	uint64_t value;
	bool counter;
};

#define STORE_METRICS_MAX 32
size_t store_metrics(const struct smfs_store_stat *st, struct metric out[STORE_METRICS_MAX]);

void metric_print(FILE *f, const struct metric *m);
/* The constant that carries the version as a label. */
void metric_print_build(FILE *f);

#endif
