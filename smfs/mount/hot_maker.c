/* hot_maker.c - the queue of files to materialise, the thread that does, and the opens that wait.
 */
#include "smfs/mount/hot_maker.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "smfs/base/log.h"
#include "smfs/base/num.h"

static int64_t now_seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec;
}

int hot_maker_new(struct hot *hot, struct err *err)
{
	pthread_condattr_t monotonic;

	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	int r = pthread_cond_init(&hot->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	return r ? err_set(err, r, "mount: out of memory") : 0;
}

void hot_maker_free(struct hot *hot)
{
	pthread_cond_destroy(&hot->changed);
}

/* ---- answering ----------------------------------------------------------------------------- */

/* Detached waiters, without the lock: a reply is a system call. */
static void answer(struct hot *hot, struct hot_waiter *list)
{
	while (list) {
		struct hot_waiter *w = list;

		list = w->next;
		pthread_mutex_lock(&hot->lock);
		int id = hot_settle(hot, w->handle);
		pthread_mutex_unlock(&hot->lock);
		ops_answer_open(w->req, w->handle, id);
		free(w);
	}
}

/* With the lock held: those whose time is up. */
static struct hot_waiter *take_expired(struct hot *hot, int64_t now, int64_t *next)
{
	struct hot_waiter *out = NULL;

	*next = INT64_MAX;
	for (size_t i = 0; i < hot->njobs; i++) {
		for (struct hot_waiter **p = &hot->jobs[i].waiters; *p;) {
			struct hot_waiter *w = *p;

			if (w->until > now) {
				*next = MIN(*next, w->until);
				p = &w->next;
				continue;
			}
			*p = w->next;
			w->next = out;
			out = w;
			hot->nwaiters--;
		}
	}
	return out;
}

/* An open waits so long and no longer, whatever the maker is at: an fsync may take its time. */
static void *clock_main(void *arg)
{
	struct hot *hot = arg;
	int64_t next;

	pthread_mutex_lock(&hot->lock);
	while (!hot->stop) {
		struct hot_waiter *late = take_expired(hot, now_seconds(), &next);

		if (late) {
			pthread_mutex_unlock(&hot->lock);
			answer(hot, late);
			pthread_mutex_lock(&hot->lock);
		} else if (next == INT64_MAX) {
			pthread_cond_wait(&hot->changed, &hot->lock);
		} else {
			struct timespec until = {.tv_sec = next};

			pthread_cond_timedwait(&hot->changed, &hot->lock, &until);
		}
	}
	pthread_mutex_unlock(&hot->lock);
	return NULL;
}

/* ---- making -------------------------------------------------------------------------------- */

static bool go_on(void *arg, uint64_t done)
{
	return !atomic_load(&((struct hot *)arg)->stop);
}

static void make(struct hot *hot, struct inode *i)
{
	struct smfs_mount *m = hot->mount;
	struct hot_progress p = {.go_on = go_on, .arg = hot};
	struct err err = ERR_INIT;
	char path[INODE_PATH_MAX];
	int fd = hot_cache_make(hot->cache, m->store, &i->content, &p, &err);

	stats_add(&m->stats, COUNT_HOT_EVICTED, p.evicted);
	pthread_mutex_lock(&hot->lock);
	i->hot->asked = fd < 0;
	i->hot->retry = fd < 0 ? now_seconds() + HOT_RETRY_SECONDS : 0;
	pthread_mutex_unlock(&hot->lock);
	if (fd >= 0) {
		close(fd);
		stats_add(&m->stats, COUNT_HOT_MADE, 1);
		log_info("%s: materialised", inode_path(i, path));
	} else if (fd != -ECANCELED) {
		stats_add(&m->stats, COUNT_HOT_FAILURES, 1);
		log_warn("%s is served cold: %s", inode_path(i, path), err.msg);
	}
}

static void *maker_main(void *arg)
{
	struct hot *hot = arg;

	/* Readers come first: they decompress on the same cores. */
	prctl(PR_SET_NAME, "smfs-maker");
	setpriority(PRIO_PROCESS, (id_t)gettid(), 10);
	pthread_mutex_lock(&hot->lock);
	while (!hot->stop) {
		if (!hot->njobs) {
			pthread_cond_wait(&hot->changed, &hot->lock);
			continue;
		}
		struct inode *i = hot->jobs[0].inode;
		pthread_mutex_unlock(&hot->lock);
		make(hot, i);
		pthread_mutex_lock(&hot->lock);
		struct hot_waiter *waiters = hot->jobs[0].waiters;
		for (const struct hot_waiter *w = waiters; w; w = w->next)
			hot->nwaiters--;
		hot->njobs--;
		memmove(&hot->jobs[0], &hot->jobs[1], hot->njobs * sizeof(hot->jobs[0]));
		pthread_mutex_unlock(&hot->lock);
		answer(hot, waiters);
		node_unref(&hot->mount->nodes, &i->node);
		pthread_mutex_lock(&hot->lock);
	}
	pthread_mutex_unlock(&hot->lock);
	return NULL;
}

/* With every signal blocked: they belong to the command. */
static bool start(pthread_t *t, bool *runs, void *(*fn)(void *), struct hot *hot)
{
	sigset_t all, old;

	if (*runs)
		return true;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int r = pthread_create(t, NULL, fn, hot);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r != 0)
		log_warn("served cold: start a thread: %s", strerror(r));
	*runs = r == 0;
	return *runs;
}

/* ---- asking -------------------------------------------------------------------------------- */

static struct hot_job *job_of(struct hot *hot, const struct inode *i)
{
	for (size_t k = 0; k < hot->njobs; k++)
		if (hot->jobs[k].inode == i)
			return &hot->jobs[k];
	return NULL;
}

/* A failure is not repeated at every open. */
static bool may_try(struct hot_file *f)
{
	if (f->asked && f->retry && now_seconds() >= f->retry) {
		f->asked = false;
		f->retry = 0;
	}
	return !f->asked;
}

bool hot_maker_ask(struct hot *hot, struct inode *i, struct handle *h, fuse_req_t req)
{
	struct hot_job *job = job_of(hot, i);
	struct hot_waiter *w = NULL;

	if (hot->stop || (!job && (hot->njobs == HOT_JOBS || !may_try(i->hot))))
		return false;
	if (!start(&hot->maker, &hot->maker_runs, maker_main, hot))
		return false;
	if (h) {
		if (hot->nwaiters == HOT_WAITERS ||
		    !start(&hot->clock, &hot->clock_runs, clock_main, hot) ||
		    !(w = malloc(sizeof(*w))))
			return false;
	}
	if (!job) {
		job = &hot->jobs[hot->njobs++];
		*job = (struct hot_job){.inode = i};
		node_ref(&hot->mount->nodes, &i->node);
		i->hot->asked = true;
		i->hot->retry = 0;
	}
	if (w) {
		*w = (struct hot_waiter){.handle = h,
					 .req = req,
					 .next = job->waiters,
					 .until = now_seconds() + HOT_WAIT_SECONDS};
		job->waiters = w;
		hot->nwaiters++;
	}
	pthread_cond_broadcast(&hot->changed);
	return true;
}

void hot_stop(struct hot *hot)
{
	if (!hot)
		return;
	pthread_mutex_lock(&hot->lock);
	hot->stop = true;
	pthread_cond_broadcast(&hot->changed);
	pthread_mutex_unlock(&hot->lock);
	if (hot->maker_runs)
		pthread_join(hot->maker, NULL);
	if (hot->clock_runs)
		pthread_join(hot->clock, NULL);
	hot->maker_runs = hot->clock_runs = false;
	while (hot->njobs) {
		struct hot_job *job = &hot->jobs[--hot->njobs];

		answer(hot, job->waiters);
		node_unref(&hot->mount->nodes, &job->inode->node);
	}
	hot->nwaiters = 0;
}
