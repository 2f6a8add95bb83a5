#include "smfs/base/unix_socket.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include "smfs/base/cleanup.h"
#include "smfs/base/err.h"

int unix_connect(const char *path, unsigned wait_s, struct err *err)
{
	const struct timeval limit = {.tv_sec = wait_s};
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	const size_t n = strlen(path);
	cleanup_fd int fd = -1;

	if (n >= sizeof(a.sun_path))
		return err_set(err, ENAMETOOLONG, "connect to %s: path too long for a socket",
			       path);
	memcpy(a.sun_path, path, n + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | (wait_s ? 0 : SOCK_NONBLOCK), 0);
	if (fd < 0)
		return err_errno(err, "create socket");
	/* connect(2) keeps to the limit of sends. */
	if (wait_s && setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0)
		return err_errno(err, "set a time limit");
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		return err_errno(err, "connect to %s", path);
	return steal_fd(&fd);
}
