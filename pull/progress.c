#include "pull/progress.h"

#include <stdio.h>
#include <string.h>

#include "smfs/base/num.h"

#define BAR 24

static double seconds_since(const struct timespec *t)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - t->tv_sec) + (double)(now.tv_nsec - t->tv_nsec) / 1e9;
}

void pull_line_draw(void *arg, char line[PROGRESS_LINE_MAX])
{
	static const char *const phases[] = {"resolving", "pulling", "merging",
					     "making rootfs.erofs", "storing"};
	const struct pull_line *p = arg;
	uint64_t bytes = p->c->bytes, total = p->c->total;
	unsigned filled = total ? (unsigned)(MIN(bytes, total) * BAR / total) : 0;
	char have[SIZE_STR_MAX], want[SIZE_STR_MAX], rate[SIZE_STR_MAX], bar[BAR + 1];
	double s = seconds_since(&p->begun);

	if (p->c->phase != PHASE_LAYERS) {
		snprintf(line, PROGRESS_LINE_MAX, "%.60s %s", p->name, phases[p->c->phase]);
		return;
	}
	memset(bar, '-', BAR);
	memset(bar, '#', filled);
	bar[BAR] = '\0';
	snprintf(line, PROGRESS_LINE_MAX, "%.60s [%s] %s / %s, %s/s, layer %u of %u", p->name, bar,
		 format_size(bytes, have), format_size(total, want),
		 format_size(s > 0 ? (uint64_t)((double)bytes / s) : 0, rate), p->c->layers,
		 p->c->layers_total);
}
