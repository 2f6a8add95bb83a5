/*
 * loop.h - the VM's I/O thread: epoll over device, control and timer descriptors.
 *
 * One thread runs loop_run(). Handlers run on it with the VM's device lock held (see vm.h), so
 * device code needs no locks of its own. A handler must not block. Watches are added, changed
 * and removed with that lock held, on whichever thread, or before the loop runs; loop_call() gets
 * another thread's function onto the loop.
 */
#ifndef RUNNER_VM_LOOP_H
#define RUNNER_VM_LOOP_H

#include <stdint.h>

#include "smfs/base/err.h"

struct loop;
struct loop_watch;

/* `events` are EPOLLIN | EPOLLOUT | EPOLLHUP …, as epoll_wait(2) reported them. */
typedef void (*loop_fn)(void *arg, uint32_t events);

int loop_new(struct loop **out, struct err *err);
void loop_free(struct loop *l);

/* Watch `fd` (not owned). The watch is valid until loop_unwatch(); that is safe inside handlers. */
int loop_watch(struct loop *l, int fd, uint32_t events, loop_fn fn, void *arg,
	       struct loop_watch **out, struct err *err);
int loop_modify(struct loop *l, struct loop_watch *w, uint32_t events, struct err *err);
void loop_unwatch(struct loop *l, struct loop_watch *w);

/* Called around every batch of handlers: the device lock. May be NULL. */
void loop_set_guard(struct loop *l, void (*enter)(void *), void (*leave)(void *), void *arg);

/* Runs until loop_stop(). */
int loop_run(struct loop *l, struct err *err);
void loop_stop(struct loop *l); /* any thread */

/*
 * Run fn(arg) on the loop's thread, guarded like a handler, and wait for it. Runs at once when
 * called from that thread, or when no loop runs. Never call it with the guard's lock held.
 */
void loop_call(struct loop *l, void (*fn)(void *), void *arg);

#endif
