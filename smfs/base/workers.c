#include "smfs/base/workers.h"

#include "smfs/base/err.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

struct job {
	worker_fn fn;
	void *arg;
};

struct workers {
	pthread_mutex_t lock;
	pthread_cond_t not_empty, not_full, idle;
	struct job *ring;
	unsigned depth, head, queued, running, threads;
	int stop;
	pthread_t tid[];
};

static void *worker_main(void *p)
{
	struct workers *w = p;

	pthread_mutex_lock(&w->lock);
	for (;;) {
		while (!w->queued && !w->stop)
			pthread_cond_wait(&w->not_empty, &w->lock);
		if (!w->queued)
			break;
		struct job job = w->ring[w->head];
		w->head = (w->head + 1) % w->depth;
		w->queued--;
		w->running++;
		pthread_cond_signal(&w->not_full);
		pthread_mutex_unlock(&w->lock);
		job.fn(job.arg);
		pthread_mutex_lock(&w->lock);
		if (--w->running == 0 && w->queued == 0)
			pthread_cond_broadcast(&w->idle);
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

int workers_new(struct workers **out, unsigned threads, unsigned depth, struct err *err)
{
	sigset_t all, old;
	int r = 0;

	if (!threads) {
		long n = sysconf(_SC_NPROCESSORS_ONLN);

		threads = n > 0 ? (unsigned)n : 1;
	}
	struct workers *w = calloc(1, sizeof(*w) + threads * sizeof(w->tid[0]));
	if (!w)
		return err_set(err, ENOMEM, "start %u threads: out of memory", threads);
	w->ring = calloc(depth, sizeof(*w->ring));
	if (!w->ring) {
		free(w);
		return err_set(err, ENOMEM, "start %u threads: out of memory", threads);
	}
	w->depth = depth;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->not_empty, NULL);
	pthread_cond_init(&w->not_full, NULL);
	pthread_cond_init(&w->idle, NULL);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	for (; w->threads < threads && r == 0; w->threads += r == 0)
		r = pthread_create(&w->tid[w->threads], NULL, worker_main, w);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r != 0) {
		workers_free(w);
		errno = r;
		return err_errno(err, "start worker thread");
	}
	*out = w;
	return 0;
}

unsigned workers_count(const struct workers *w)
{
	return w->threads;
}

void workers_submit(struct workers *w, worker_fn fn, void *arg)
{
	pthread_mutex_lock(&w->lock);
	while (w->queued == w->depth)
		pthread_cond_wait(&w->not_full, &w->lock);
	w->ring[(w->head + w->queued++) % w->depth] = (struct job){fn, arg};
	pthread_cond_signal(&w->not_empty);
	pthread_mutex_unlock(&w->lock);
}

void workers_wait(struct workers *w)
{
	pthread_mutex_lock(&w->lock);
	while (w->queued || w->running)
		pthread_cond_wait(&w->idle, &w->lock);
	pthread_mutex_unlock(&w->lock);
}

void workers_free(struct workers *w)
{
	if (!w)
		return;
	pthread_mutex_lock(&w->lock);
	w->stop = 1;
	pthread_cond_broadcast(&w->not_empty);
	pthread_mutex_unlock(&w->lock);
	for (unsigned i = 0; i < w->threads; i++)
		pthread_join(w->tid[i], NULL);
	pthread_cond_destroy(&w->not_empty);
	pthread_cond_destroy(&w->not_full);
	pthread_cond_destroy(&w->idle);
	pthread_mutex_destroy(&w->lock);
	free(w->ring);
	free(w);
}
