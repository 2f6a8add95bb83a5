/*
 * workers.h - a small pool of threads over a bounded queue.
 *
 *     workers_new(&w, n, depth, err);
 *     workers_submit(w, fn, arg);   // blocks while `depth` jobs wait: back-pressure, bounded
 * memory workers_wait(w);              // until everything submitted so far has run
 *     workers_free(w);              // waits, then joins
 *
 * Jobs report failure through their own argument. Submitting from inside a job is a deadlock and
 * not allowed. Any thread may submit. Signals are blocked in the workers.
 */
#ifndef SMFS_BASE_WORKERS_H
#define SMFS_BASE_WORKERS_H

struct err;
struct workers;

typedef void (*worker_fn)(void *arg);

/* `threads` 0 = one per online CPU. `depth` >= 1. */
int workers_new(struct workers **out, unsigned threads, unsigned depth, struct err *err);
unsigned workers_count(const struct workers *w);
void workers_submit(struct workers *w, worker_fn fn, void *arg);
void workers_wait(struct workers *w);
void workers_free(struct workers *w);

#endif
