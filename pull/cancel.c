#include "pull/cancel.h"

#include <poll.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "smfs/base/err.h"

int cancel_init(struct cancel *c, struct err *err)
{
	atomic_init(&c->set, false);
	c->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return c->fd < 0 ? err_errno(err, "create an eventfd") : 0;
}

void cancel_free(struct cancel *c)
{
	close(c->fd);
}

void cancel_now(struct cancel *c)
{
	uint64_t one = 1;

	atomic_store(&c->set, true);
	if (write(c->fd, &one, sizeof(one)) < 0) {
		/* The counter is full: it is readable already. */
	}
}

int cancel_error(struct err *err)
{
	return err_set(err, ECANCELED, "interrupted");
}

int cancel_sleep(struct cancel *c, unsigned ms, struct err *err)
{
	struct pollfd p = {.fd = c->fd, .events = POLLIN};
	struct timespec now, end;

	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += ms / 1000;
	end.tv_nsec += (long)(ms % 1000) * 1000000;
	for (;;) {
		long left;

		clock_gettime(CLOCK_MONOTONIC, &now);
		left = (end.tv_sec - now.tv_sec) * 1000 + (end.tv_nsec - now.tv_nsec) / 1000000;
		if (cancelled(c))
			return cancel_error(err);
		if (left <= 0)
			return 0;
		poll(&p, 1, (int)left);
	}
}
