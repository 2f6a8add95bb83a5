#include "runner/worker/give_up.h"

#include <sys/epoll.h>

#include "runner/control/identity.h"
#include "runner/control/vmm_internal.h"
#include "smfs/base/cleanup.h"

static int watch(int epoll_fd, int fd, struct err *err)
{
	struct epoll_event e = {.events = EPOLLIN};

	if (fd >= 0 && epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0)
		return err_errno(err, "watch for the machine's end");
	return 0;
}

int give_up_new(const struct vmm *v, const int *fds, size_t n, struct err *err)
{
	cleanup_fd int fd = epoll_create1(EPOLL_CLOEXEC);
	int r = fd < 0 ? err_errno(err, "watch for the machine's end")
		       : watch(fd, v->machine.vm->end_fd, err);

	for (size_t i = 0; r == 0 && i < n; i++)
		r = watch(fd, fds[i], err);
	return r < 0 ? r : steal_fd(&fd);
}

int give_up_why(struct vmm *v, const char *what, struct err *err)
{
	const int r = vmm_ended(v, err);

	return r < 0 ? r : err_set(err, ECANCELED, "%s", what);
}
