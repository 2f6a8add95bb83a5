#include "smfs/base/unix_socket.h"

#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/err.h"

static int limit_sends(int fd, uint64_t us)
{
	const struct timeval limit = {.tv_sec = (time_t)(us / 1000000),
				      .tv_usec = (suseconds_t)(us % 1000000)};

	return setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
}

/* connect(2) keeps to the limit of sends. A signal ends it, with nothing begun: it goes on. */
static int connect_within(int fd, const struct sockaddr_un *a, uint64_t wait_us)
{
	const uint64_t until = monotonic_us() + wait_us;
	uint64_t now;
	int r = wait_us ? limit_sends(fd, wait_us) : 0;

	if (r == 0)
		r = connect(fd, (const struct sockaddr *)a, sizeof(*a));
	if (r == 0 || errno != EINTR)
		return r;
	while (r < 0 && errno == EINTR) {
		now = monotonic_us();
		if (now >= until) {
			errno = EAGAIN;
			return -1;
		}
		r = limit_sends(fd, until - now);
		if (r == 0)
			r = connect(fd, (const struct sockaddr *)a, sizeof(*a));
	}
	return r < 0 ? r : limit_sends(fd, wait_us);
}

int unix_connect(const char *path, unsigned wait_ms, struct err *err)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	const size_t n = strlen(path);
	cleanup_fd int fd = -1;

	if (n >= sizeof(a.sun_path))
		return err_set(err, ENAMETOOLONG, "connect to %s: path too long for a socket",
			       path);
	memcpy(a.sun_path, path, n + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | (wait_ms ? 0 : SOCK_NONBLOCK), 0);
	if (fd < 0)
		return err_errno(err, "create socket");
	if (connect_within(fd, &a, wait_ms * (uint64_t)1000) < 0)
		return err_errno(err, "connect to %s", path);
	return steal_fd(&fd);
}
