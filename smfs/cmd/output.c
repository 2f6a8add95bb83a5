/*
 * output.c - times, JSON, and a progress line.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "smfs/base/num.h"
#include "smfs/cmd/cmd.h"

const char *cmd_time(int64_t ns, char buf[CMD_TIME_MAX])
{
	time_t t = (time_t)(ns / 1000000000);
	struct tm tm;

	if (!localtime_r(&t, &tm) || strftime(buf, CMD_TIME_MAX, "%Y-%m-%d %H:%M:%S", &tm) == 0)
		snprintf(buf, CMD_TIME_MAX, "-");
	return buf;
}

int cmd_print_json(json_t *j)
{
	if (!j) {
		fprintf(stderr, "smfs: print JSON: out of memory\n");
		return EXIT_FAILED;
	}
	json_dumpf(j, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(j);
	return cmd_flush();
}

int cmd_flush(void)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return EXIT_OK;
	fprintf(stderr, "smfs: write to standard output: %s\n", strerror(errno));
	return EXIT_FAILED;
}

/* ---- progress ------------------------------------------------------------------------------- */

struct progress {
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t stopped;
	bool stop, shown;
	const char *what;
	uint64_t total;
	uint64_t (*done)(void *arg);
	void *arg;
};

static void show(struct progress *p)
{
	char done[SIZE_STR_MAX], total[SIZE_STR_MAX];
	uint64_t n = p->done(p->arg);

	format_size(n, done);
	if (p->total)
		fprintf(stderr, "\r\033[K%s: %s of %s (%" PRIu64 " %%)", p->what, done,
			format_size(p->total, total), n * 100 / p->total);
	else
		fprintf(stderr, "\r\033[K%s: %s", p->what, done);
	p->shown = true;
}

static void *tick(void *arg)
{
	struct progress *p = arg;
	struct timespec next;

	clock_gettime(CLOCK_REALTIME, &next);
	next.tv_sec += 1;
	pthread_mutex_lock(&p->lock);
	while (!p->stop) {
		if (pthread_cond_timedwait(&p->stopped, &p->lock, &next) != ETIMEDOUT)
			continue;
		show(p);
		next.tv_nsec += 200000000;
		next.tv_sec += next.tv_nsec / 1000000000;
		next.tv_nsec %= 1000000000;
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

struct progress *progress_start(const struct cmd *c, const char *what, uint64_t total,
				uint64_t (*done)(void *arg), void *arg)
{
	struct progress *p;

	if (c->quiet || !isatty(STDERR_FILENO))
		return NULL;
	p = calloc(1, sizeof(*p));
	if (!p)
		return NULL;
	*p = (struct progress){.what = what, .total = total, .done = done, .arg = arg};
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->stopped, NULL);
	if (pthread_create(&p->thread, NULL, tick, p) != 0) {
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
	if (p->shown)
		fprintf(stderr, "\r\033[K");
	pthread_mutex_destroy(&p->lock);
	pthread_cond_destroy(&p->stopped);
	free(p);
}
