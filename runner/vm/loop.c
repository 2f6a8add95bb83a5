#include "runner/vm/loop.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/num.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define BATCH 32

struct loop_watch {
	int fd;
	loop_fn fn;
	void *arg;
	bool dead;
	struct loop_watch *next;
};

struct call {
	void (*fn)(void *);
	void *arg;
	bool done;
	struct call *next;
};

struct loop {
	int epfd, wakefd;
	struct loop_watch *watches;
	/*
	 * Unwatched, and perhaps still named by an event of the batch being handled: freed at its
	 * end. Touched under the guard.
	 */
	struct loop_watch *dead;
	void (*enter)(void *), (*leave)(void *);
	void *guard;

	pthread_mutex_t lock; /* of the rest */
	pthread_cond_t done;
	pthread_t thread;
	bool running, stop;
	bool standin; /* a caller acts for the loop that does not run */
	struct call *calls, **calls_end;
};

int loop_new(struct loop **out, struct err *err)
{
	struct loop *l = calloc(1, sizeof(*l));
	struct epoll_event ev = {.events = EPOLLIN};

	if (!l)
		return err_set(err, ENOMEM, "create I/O loop: out of memory");
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->done, NULL);
	l->calls_end = &l->calls;
	l->epfd = epoll_create1(EPOLL_CLOEXEC);
	l->wakefd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->epfd < 0 || l->wakefd < 0 || epoll_ctl(l->epfd, EPOLL_CTL_ADD, l->wakefd, &ev) < 0) {
		int r = err_errno(err, "create I/O loop");

		loop_free(l);
		return r;
	}
	*out = l;
	return 0;
}

static void free_list(struct loop_watch **list)
{
	while (*list) {
		struct loop_watch *w = *list;

		*list = w->next;
		free(w);
	}
}

void loop_free(struct loop *l)
{
	if (!l)
		return;
	free_list(&l->watches);
	free_list(&l->dead);
	if (l->epfd >= 0)
		close(l->epfd);
	if (l->wakefd >= 0)
		close(l->wakefd);
	pthread_mutex_destroy(&l->lock);
	pthread_cond_destroy(&l->done);
	free(l);
}

int loop_watch(struct loop *l, int fd, uint32_t events, loop_fn fn, void *arg,
	       struct loop_watch **out, struct err *err)
{
	cleanup_free struct loop_watch *w = malloc(sizeof(*w));
	struct epoll_event ev = {.events = events, .data.ptr = w};

	if (!w)
		return err_set(err, ENOMEM, "watch descriptor %d: out of memory", fd);
	*w = (struct loop_watch){.fd = fd, .fn = fn, .arg = arg, .next = l->watches};
	if (epoll_ctl(l->epfd, EPOLL_CTL_ADD, fd, &ev) < 0)
		return err_errno(err, "watch descriptor %d", fd);
	l->watches = w;
	*out = steal_ptr(&w);
	return 0;
}

int loop_modify(struct loop *l, struct loop_watch *w, uint32_t events, struct err *err)
{
	struct epoll_event ev = {.events = events, .data.ptr = w};

	if (epoll_ctl(l->epfd, EPOLL_CTL_MOD, w->fd, &ev) < 0)
		return err_errno(err, "watch descriptor %d for %#x", w->fd, events);
	return 0;
}

void loop_unwatch(struct loop *l, struct loop_watch *w)
{
	struct loop_watch **p = &l->watches;

	if (!w)
		return;
	epoll_ctl(l->epfd, EPOLL_CTL_DEL, w->fd, NULL);
	while (*p != w)
		p = &(*p)->next;
	*p = w->next;
	w->dead = true;
	w->next = l->dead;
	l->dead = w;
}

void loop_set_guard(struct loop *l, void (*enter)(void *), void (*leave)(void *), void *arg)
{
	l->enter = enter;
	l->leave = leave;
	l->guard = arg;
}

static void wake(struct loop *l)
{
	uint64_t one = 1;
	/* Full means already awake. */
	ssize_t ignored = write(l->wakefd, &one, sizeof(one));

	(void)ignored;
}

static void run_calls(struct loop *l)
{
	pthread_mutex_lock(&l->lock);
	while (l->calls) {
		struct call *c = l->calls;

		l->calls = c->next;
		if (!l->calls)
			l->calls_end = &l->calls;
		pthread_mutex_unlock(&l->lock);
		c->fn(c->arg);
		pthread_mutex_lock(&l->lock);
		c->done = true; /* c is on the waiting thread's stack: gone once we unlock */
		pthread_cond_broadcast(&l->done);
	}
	pthread_mutex_unlock(&l->lock);
}

static void guard_enter(struct loop *l)
{
	if (l->enter)
		l->enter(l->guard);
}

static void guard_leave(struct loop *l)
{
	if (l->leave)
		l->leave(l->guard);
}

static bool stopping(struct loop *l)
{
	pthread_mutex_lock(&l->lock);
	bool stop = l->stop;
	pthread_mutex_unlock(&l->lock);
	return stop;
}

static void handle(struct loop *l, const struct epoll_event *ev, int n)
{
	guard_enter(l);
	for (int i = 0; i < n; i++) {
		struct loop_watch *w = ev[i].data.ptr;
		uint64_t ignored;

		if (!w) {
			while (read(l->wakefd, &ignored, sizeof(ignored)) > 0)
				;
			run_calls(l);
		} else if (!w->dead) {
			w->fn(w->arg, ev[i].events);
		}
	}
	free_list(&l->dead);
	guard_leave(l);
}

static void begin(struct loop *l)
{
	guard_enter(l);
	pthread_mutex_lock(&l->lock);
	l->thread = pthread_self();
	l->running = true;
	pthread_mutex_unlock(&l->lock);
	guard_leave(l);
}

/* Nobody may wait for a loop that is gone: from here on calls run where they are made. */
static void end(struct loop *l)
{
	guard_enter(l);
	pthread_mutex_lock(&l->lock);
	while (l->calls) {
		pthread_mutex_unlock(&l->lock);
		run_calls(l);
		pthread_mutex_lock(&l->lock);
	}
	l->running = false;
	pthread_mutex_unlock(&l->lock);
	guard_leave(l);
}

int loop_run(struct loop *l, struct err *err)
{
	struct epoll_event ev[BATCH];
	int r = 0;

	begin(l);
	while (!stopping(l)) {
		int n = epoll_wait(l->epfd, ev, BATCH, -1);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			r = err_errno(err, "wait for events");
			break;
		}
		handle(l, ev, n);
	}
	end(l);
	return r;
}

void loop_stop(struct loop *l)
{
	pthread_mutex_lock(&l->lock);
	l->stop = true;
	pthread_mutex_unlock(&l->lock);
	wake(l);
}

/*
 * No loop runs: this thread is the loop for the length of one call. `running` changes only under
 * the guard; false: it began while we waited for that.
 */
static bool call_here(struct loop *l, void (*fn)(void *), void *arg)
{
	guard_enter(l);
	pthread_mutex_lock(&l->lock);
	bool here = !l->running;
	if (here) {
		l->standin = true;
		l->thread = pthread_self();
	}
	pthread_mutex_unlock(&l->lock);
	if (here) {
		fn(arg);
		pthread_mutex_lock(&l->lock);
		l->standin = false;
		pthread_mutex_unlock(&l->lock);
	}
	guard_leave(l);
	return here;
}

static void call_there(struct loop *l, void (*fn)(void *), void *arg)
{
	struct call c = {.fn = fn, .arg = arg};

	*l->calls_end = &c;
	l->calls_end = &c.next;
	wake(l);
	while (!c.done)
		pthread_cond_wait(&l->done, &l->lock);
}

void loop_call(struct loop *l, void (*fn)(void *), void *arg)
{
	for (;;) {
		pthread_mutex_lock(&l->lock);
		bool own = (l->running || l->standin) && pthread_equal(l->thread, pthread_self());
		bool there = !own && l->running;
		if (there)
			call_there(l, fn, arg);
		pthread_mutex_unlock(&l->lock);
		if (own)
			fn(arg);
		if (own || there || call_here(l, fn, arg))
			return;
	}
}
