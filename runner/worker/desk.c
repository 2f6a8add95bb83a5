#include "runner/worker/desk.h"

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "smfs/base/log.h"

struct note {
	struct note *next;
	struct event e;
};

static void ring(int fd)
{
	/* Can only fail when the counter is full: then it is readable. */
	(void)!write(fd, &(uint64_t){1}, sizeof(uint64_t));
}

static void hush(int fd)
{
	uint64_t n;

	(void)!read(fd, &n, sizeof(n));
}

int desk_init(struct desk *d, struct err *err)
{
	memset(d, 0, sizeof(*d));
	d->last = &d->first;
	pthread_mutex_init(&d->lock, NULL);
	d->job_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	d->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	d->leave_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return d->job_fd < 0 || d->event_fd < 0 || d->leave_fd < 0
		       ? err_errno(err, "create eventfd")
		       : 0;
}

void desk_fini(struct desk *d)
{
	struct event e;

	while (desk_next_event(d, &e))
		;
	close(d->job_fd);
	close(d->event_fd);
	close(d->leave_fd);
	pthread_mutex_destroy(&d->lock);
}

void desk_give(struct desk *d, const struct job *j)
{
	pthread_mutex_lock(&d->lock);
	d->job = *j;
	d->has_job = true;
	pthread_mutex_unlock(&d->lock);
	ring(d->job_fd);
}

void desk_leave(struct desk *d)
{
	if (!atomic_exchange(&d->leaving, true))
		ring(d->leave_fd);
}

bool desk_take(struct desk *d, struct job *out)
{
	hush(d->job_fd);
	pthread_mutex_lock(&d->lock);
	const bool has = d->has_job;
	if (has)
		*out = d->job;
	d->has_job = false;
	pthread_mutex_unlock(&d->lock);
	return has;
}

void desk_wake(struct desk *d)
{
	ring(d->job_fd);
}

void desk_tell(struct desk *d, const struct event *e)
{
	struct note *n = malloc(sizeof(*n));

	if (!n) {
		/* The session would wait for ever. */
		log_err("worker: out of memory");
		abort();
	}
	*n = (struct note){.e = *e};
	pthread_mutex_lock(&d->lock);
	*d->last = n;
	d->last = &n->next;
	pthread_mutex_unlock(&d->lock);
	ring(d->event_fd);
}

bool desk_next_event(struct desk *d, struct event *out)
{
	pthread_mutex_lock(&d->lock);
	struct note *n = d->first;
	if (n) {
		d->first = n->next;
		if (!d->first)
			d->last = &d->first;
	} else {
		hush(d->event_fd);
	}
	pthread_mutex_unlock(&d->lock);
	if (!n)
		return false;
	*out = n->e;
	free(n);
	return true;
}
