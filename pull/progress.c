#include "pull/progress.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "smfs/base/num.h"

#define PERIOD_NS 100000000L
#define BAR	  24

struct progress {
	const struct progress_counters *c;
	const char *name;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t stop_cond;
	bool stop;
	struct timespec begun;
};

static double seconds_since(const struct timespec *t)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec - t->tv_sec + (now.tv_nsec - t->tv_nsec) / 1e9;
}

static void draw(const struct progress *p)
{
	static const char *const phases[] = {"resolving", "pulling", "merging",
					     "making rootfs.erofs", "storing"};
	uint64_t bytes = p->c->bytes, total = p->c->total;
	unsigned filled = total ? (unsigned)(MIN(bytes, total) * BAR / total) : 0;
	char have[SIZE_STR_MAX], want[SIZE_STR_MAX], rate[SIZE_STR_MAX], bar[BAR + 1], line[512];
	double s = seconds_since(&p->begun);
	struct winsize w = {0};
	int n;

	memset(bar, '-', BAR);
	memset(bar, '#', filled);
	bar[BAR] = '\0';
	if (p->c->phase == PHASE_LAYERS)
		n = snprintf(line, sizeof(line), "%.60s [%s] %s / %s, %s/s, layer %u of %u",
			     p->name, bar, format_size(bytes, have), format_size(total, want),
			     format_size(s > 0 ? (uint64_t)(bytes / s) : 0, rate), p->c->layers,
			     p->c->layers_total);
	else
		n = snprintf(line, sizeof(line), "%.60s %s", p->name, phases[p->c->phase]);
	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col)
		n = MIN(n, w.ws_col - 1);
	fprintf(stderr, "\r%.*s\033[K", n, line);
}

static void *run(void *arg)
{
	struct progress *p = arg;

	pthread_mutex_lock(&p->lock);
	while (!p->stop) {
		struct timespec until;

		draw(p);
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += PERIOD_NS;
		if (until.tv_nsec >= 1000000000L) {
			until.tv_sec++;
			until.tv_nsec -= 1000000000L;
		}
		pthread_cond_timedwait(&p->stop_cond, &p->lock, &until);
	}
	pthread_mutex_unlock(&p->lock);
	fprintf(stderr, "\r\033[K");
	return NULL;
}

struct progress *progress_start(const struct progress_counters *c, const char *name, bool quiet)
{
	struct progress *p;

	if (quiet || !isatty(STDERR_FILENO))
		return NULL;
	p = calloc(1, sizeof(*p));
	if (!p)
		return NULL;
	p->c = c;
	p->name = name;
	clock_gettime(CLOCK_MONOTONIC, &p->begun);
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->stop_cond, NULL);
	if (pthread_create(&p->thread, NULL, run, p) != 0) {
		free(p);
		return NULL;
	}
	return p;
}

void progress_stop(struct progress *p)
{
	if (!p)
		return;
	pthread_mutex_lock(&p->lock);
	p->stop = true;
	pthread_cond_signal(&p->stop_cond);
	pthread_mutex_unlock(&p->lock);
	pthread_join(p->thread, NULL);
	pthread_cond_destroy(&p->stop_cond);
	pthread_mutex_destroy(&p->lock);
	free(p);
}
