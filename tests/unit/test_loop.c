/* The I/O loop: handlers, changes from within handlers, calls from other threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "runner/vm/loop.h"

struct chan {
	struct loop *loop;
	int fd[2];
	struct loop_watch *watch;
	unsigned calls;
	struct chan *victim; /* unwatched by the handler */
};

static void chan_open(struct chan *c, struct loop *l)
{
	memset(c, 0, sizeof(*c));
	c->loop = l;
	assert_int_equal(pipe(c->fd), 0);
}

static void chan_close(struct chan *c)
{
	close(c->fd[0]);
	close(c->fd[1]);
}

static void stop_after_reading(void *arg, uint32_t events)
{
	struct chan *c = arg;
	char b;

	assert_true(events & EPOLLIN);
	assert_int_equal(read(c->fd[0], &b, 1), 1);
	c->calls++;
	loop_stop(c->loop);
}

static void a_ready_descriptor_calls_its_handler(void **state)
{
	struct loop *l;
	struct chan c;

	assert_int_equal(loop_new(&l, NULL), 0);
	chan_open(&c, l);
	assert_int_equal(loop_watch(l, c.fd[0], EPOLLIN, stop_after_reading, &c, &c.watch, NULL),
			 0);
	assert_int_equal(write(c.fd[1], "x", 1), 1);
	assert_int_equal(loop_run(l, NULL), 0);
	assert_int_equal(c.calls, 1);
	loop_free(l);
	chan_close(&c);
}

static void unwatch_other_and_self(void *arg, uint32_t events)
{
	struct chan *c = arg;

	c->calls++;
	if (c->victim->watch) {
		loop_unwatch(c->loop, c->victim->watch);
		c->victim->watch = NULL;
	}
	loop_unwatch(c->loop, c->watch);
	c->watch = NULL;
	loop_stop(c->loop);
}

/* Both are ready in one batch: whichever comes first takes the other's watch away. */
static void a_handler_may_unwatch_what_is_about_to_be_called(void **state)
{
	struct loop *l;
	struct chan a, b;

	assert_int_equal(loop_new(&l, NULL), 0);
	chan_open(&a, l);
	chan_open(&b, l);
	a.victim = &b;
	b.victim = &a;
	assert_int_equal(
		loop_watch(l, a.fd[0], EPOLLIN, unwatch_other_and_self, &a, &a.watch, NULL), 0);
	assert_int_equal(
		loop_watch(l, b.fd[0], EPOLLIN, unwatch_other_and_self, &b, &b.watch, NULL), 0);
	assert_int_equal(write(a.fd[1], "x", 1), 1);
	assert_int_equal(write(b.fd[1], "x", 1), 1);
	assert_int_equal(loop_run(l, NULL), 0);
	assert_int_equal(a.calls + b.calls, 1);
	loop_free(l);
	chan_close(&a);
	chan_close(&b);
}

static void a_watch_can_be_silenced_and_woken(void **state)
{
	struct loop *l;
	struct chan quiet, loud;

	assert_int_equal(loop_new(&l, NULL), 0);
	chan_open(&quiet, l);
	chan_open(&loud, l);
	assert_int_equal(
		loop_watch(l, quiet.fd[0], EPOLLIN, stop_after_reading, &quiet, &quiet.watch, NULL),
		0);
	assert_int_equal(
		loop_watch(l, loud.fd[0], EPOLLIN, stop_after_reading, &loud, &loud.watch, NULL),
		0);
	assert_int_equal(loop_modify(l, quiet.watch, 0, NULL), 0);
	assert_int_equal(write(quiet.fd[1], "x", 1), 1);
	assert_int_equal(write(loud.fd[1], "x", 1), 1);
	assert_int_equal(loop_run(l, NULL), 0);
	assert_int_equal(quiet.calls, 0);
	assert_int_equal(loud.calls, 1);
	loop_free(l);
	chan_close(&quiet);
	chan_close(&loud);
}

static void a_bad_descriptor_is_refused(void **state)
{
	struct loop_watch *w;
	struct loop *l;
	struct err err;

	assert_int_equal(loop_new(&l, NULL), 0);
	assert_int_equal(loop_watch(l, -1, EPOLLIN, stop_after_reading, NULL, &w, &err), -EBADF);
	loop_free(l);
}

struct guarded {
	pthread_mutex_t lock;
	struct loop *loop;
	pthread_t ran_on;
	unsigned calls;
	bool held;
};

static void enter(void *arg)
{
	struct guarded *g = arg;

	pthread_mutex_lock(&g->lock);
	g->held = true;
}

static void leave(void *arg)
{
	struct guarded *g = arg;

	g->held = false;
	pthread_mutex_unlock(&g->lock);
}

static void count(void *arg)
{
	struct guarded *g = arg;

	assert_true(g->held);
	g->calls++;
	g->ran_on = pthread_self();
}

static void count_twice(void *arg)
{
	struct guarded *g = arg;

	count(g);
	loop_call(g->loop, count, g); /* on the loop's own thread: at once */
}

static void *run(void *arg)
{
	struct guarded *g = arg;

	assert_int_equal(loop_run(g->loop, NULL), 0);
	return NULL;
}

static void calls_run_on_the_loop_under_the_guard(void **state)
{
	struct guarded g = {.lock = PTHREAD_MUTEX_INITIALIZER};
	pthread_t t;

	assert_int_equal(loop_new(&g.loop, NULL), 0);
	loop_set_guard(g.loop, enter, leave, &g);
	loop_call(g.loop, count, &g); /* no loop yet: here */
	assert_int_equal(g.calls, 1);
	assert_true(pthread_equal(g.ran_on, pthread_self()));
	assert_int_equal(pthread_create(&t, NULL, run, &g), 0);
	for (int i = 0; i < 100; i++)
		loop_call(g.loop, count, &g);
	loop_call(g.loop, count_twice, &g);
	assert_int_equal(g.calls, 103);
	loop_stop(g.loop);
	assert_int_equal(pthread_join(t, NULL), 0);
	loop_call(g.loop, count, &g); /* no loop any more */
	assert_int_equal(g.calls, 104);
	assert_true(pthread_equal(g.ran_on, pthread_self()));
	loop_free(g.loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_ready_descriptor_calls_its_handler),
		cmocka_unit_test(a_handler_may_unwatch_what_is_about_to_be_called),
		cmocka_unit_test(a_watch_can_be_silenced_and_woken),
		cmocka_unit_test(a_bad_descriptor_is_refused),
		cmocka_unit_test(calls_run_on_the_loop_under_the_guard),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
