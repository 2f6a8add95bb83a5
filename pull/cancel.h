/*
 * cancel.h - one flag that ends a pull early, seen by every thread and every wait.
 *
 * The descriptor polls readable once cancelled, so waits on sockets include it. Any thread may
 * ask; cancel_now() is called once by whoever handles signals, or by a worker that failed, so that
 * the others do not go on for nothing.
 */
#ifndef PULL_CANCEL_H
#define PULL_CANCEL_H

#include <stdatomic.h>
#include <stdbool.h>

struct err;

struct cancel {
	atomic_bool set;
	int fd; /* eventfd */
};

int cancel_init(struct cancel *c, struct err *err);
void cancel_free(struct cancel *c);
void cancel_now(struct cancel *c);

static inline bool cancelled(struct cancel *c)
{
	return atomic_load_explicit(&c->set, memory_order_relaxed);
}

/* Sleep; -ECANCELED when woken early. */
int cancel_sleep(struct cancel *c, unsigned ms, struct err *err);
int cancel_error(struct err *err);

#endif
