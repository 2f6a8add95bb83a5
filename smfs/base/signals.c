#include "smfs/base/signals.h"

#include <string.h>
#include <sys/signalfd.h>

int signals_open(const int *list, int flags, sigset_t *old, struct err *err)
{
	sigset_t set;
	int fd, r;

	sigemptyset(&set);
	for (; *list; list++)
		sigaddset(&set, *list);
	r = pthread_sigmask(SIG_BLOCK, &set, old);
	if (r)
		return err_set(err, r, "block signals: %s", strerror(r));
	fd = signalfd(-1, &set, SFD_CLOEXEC | flags);
	return fd < 0 ? err_errno(err, "create a descriptor for signals") : fd;
}
