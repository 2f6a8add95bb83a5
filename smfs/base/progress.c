#include "smfs/base/progress.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "smfs/base/num.h"

#define PERIOD_MS 200

struct progress {
	progress_draw draw;
	void *arg;
	unsigned delay_ms;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t stopped;
	bool stop;
};

static void add_ms(struct timespec *t, unsigned ms)
{
	t->tv_sec += ms / 1000;
	t->tv_nsec += ms % 1000 * 1000000L;
	if (t->tv_nsec >= 1000000000L) {
		t->tv_nsec -= 1000000000L;
		t->tv_sec++;
	}
}

static void show(struct progress *p)
{
	char line[PROGRESS_LINE_MAX] = "";
	struct winsize w = {0};

	p->draw(p->arg, line);
	int n = (int)strlen(line);
	/* One column less: a line that reaches the last one makes some terminals scroll. */
	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col)
		n = MIN(n, w.ws_col - 1);
	fprintf(stderr, "\r%.*s\033[K", n, line);
}

static void *tick(void *arg)
{
	struct progress *p = arg;
	struct timespec next;
	bool shown = false;

	clock_gettime(CLOCK_MONOTONIC, &next);
	add_ms(&next, p->delay_ms);
	pthread_mutex_lock(&p->lock);
	while (!p->stop) {
		if (pthread_cond_timedwait(&p->stopped, &p->lock, &next) != ETIMEDOUT)
			continue;
		show(p);
		shown = true;
		clock_gettime(CLOCK_MONOTONIC, &next);
		add_ms(&next, PERIOD_MS);
	}
	pthread_mutex_unlock(&p->lock);
	if (shown)
		fprintf(stderr, "\r\033[K");
	return NULL;
}

struct progress *progress_start(bool quiet, unsigned delay_ms, progress_draw draw, void *arg)
{
	pthread_condattr_t attr;
	struct progress *p;

	if (quiet || !isatty(STDERR_FILENO))
		return NULL;
	p = calloc(1, sizeof(*p));
	if (!p)
		return NULL;
	*p = (struct progress){.draw = draw, .arg = arg, .delay_ms = delay_ms};
	pthread_mutex_init(&p->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&p->stopped, &attr);
	pthread_condattr_destroy(&attr);
	if (pthread_create(&p->thread, NULL, tick, p) != 0) {
		pthread_cond_destroy(&p->stopped);
		pthread_mutex_destroy(&p->lock);
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
	pthread_cond_signal(&p->stopped);
	pthread_mutex_unlock(&p->lock);
	pthread_join(p->thread, NULL);
	pthread_cond_destroy(&p->stopped);
	pthread_mutex_destroy(&p->lock);
	free(p);
}
