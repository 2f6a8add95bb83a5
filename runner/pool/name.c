/* name.c - what a pool is found by: its name, its sockets, the lock that makes it the only one. */
#include "runner/pool/pool_priv.h"

#include <ctype.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "runner/control/rundir.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/unix_socket.h"

#define LOCK_US 2000000 /* for what a killed pool had begun to let its name go */

int pool_name_check(const char *name, struct err *err)
{
	const size_t n = strlen(name);

	if (n < 1 || n > POOL_NAME_MAX || !isalnum((unsigned char)name[0]))
		return err_set(err, EINVAL, "pool '%.64s': 1 to %d of A-Z a-z 0-9 _ -", name,
			       POOL_NAME_MAX);
	for (size_t i = 0; i < n; i++)
		if (!isalnum((unsigned char)name[i]) && !strchr("_-", name[i]))
			return err_set(err, EINVAL, "pool '%.64s': 1 to %d of A-Z a-z 0-9 _ -",
				       name, POOL_NAME_MAX);
	return 0;
}

int pool_socket(const char *name, char out[108], struct err *err)
{
	int r = pool_name_check(name, err);

	if (r == 0 && snprintf(out, 100, "%s/pool-%s.sock", rundir_base(), name) >= 100)
		r = err_set(err, ENAMETOOLONG, "pool %s: the run directory's path is too long",
			    name);
	return r;
}

static int listen_on(const char *path, struct err *err)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	cleanup_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	memcpy(a.sun_path, path, strlen(path));
	if (fd < 0)
		return err_errno(err, "create socket");
	if (unlink(path) < 0 && errno != ENOENT)
		return err_errno(err, "remove the old %s", path);
	/* On Linux the mode of the socket becomes that of the file: private from the start. */
	if (fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 ||
	    listen(fd, SOMAXCONN) < 0)
		return err_errno(err, "listen on %s", path);
	return steal_fd(&fd);
}

/* Also by one that takes nobody at the moment. */
static bool is_served(const char *path)
{
	struct err none = ERR_INIT;
	cleanup_fd int fd = unix_connect(path, 0, &none);

	return fd >= 0 || fd == -EAGAIN;
}

/*
 * It is removed by who holds it; so what was locked may be no file any more, and then is nobody's.
 * A worker that a killed pool was about to start holds it until it has begun: with nobody serving,
 * that is waited for.
 */
static int lock_name(struct pool *p, const char *lock, struct err *err)
{
	const uint64_t until = monotonic_us() + LOCK_US;
	struct stat held, there;

	for (;;) {
		cleanup_fd int fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

		if (fd < 0 || fstat(fd, &held) < 0)
			return err_errno(err, "open %s", lock);
		if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
			if (is_served(p->socket) || monotonic_us() >= until)
				return err_set(
					err, EBUSY,
					"pool '%s' is running already; choose another --name",
					p->cfg->name);
			poll(NULL, 0, 10);
			continue;
		}
		if (stat(lock, &there) == 0 && there.st_ino == held.st_ino &&
		    there.st_dev == held.st_dev) {
			p->lock_fd = steal_fd(&fd);
			return 0;
		}
	}
}

int pool_take_name(struct pool *p, struct err *err)
{
	char lock[120];
	int r = rundir_make_base(err);

	if (r == 0)
		r = pool_socket(p->cfg->name, p->socket, err);
	if (r < 0)
		return r;
	snprintf(lock, sizeof(lock), "%s.lock", p->socket);
	r = lock_name(p, lock, err);
	if (r < 0)
		return r;
	snprintf(p->worker_socket, sizeof(p->worker_socket), "%.99s.w", p->socket);
	p->listen_fd = listen_on(p->socket, err);
	p->worker_fd = p->listen_fd < 0 ? -1 : listen_on(p->worker_socket, err);
	return p->worker_fd < 0 ? -err->code : 0;
}

void pool_release_name(struct pool *p)
{
	char lock[120];

	if (p->listen_fd >= 0) {
		unlink(p->socket);
		close(p->listen_fd);
	}
	if (p->worker_fd >= 0) {
		unlink(p->worker_socket);
		close(p->worker_fd);
	}
	if (p->lock_fd >= 0) {
		snprintf(lock, sizeof(lock), "%s.lock", p->socket);
		unlink(lock);
		close(p->lock_fd);
	}
}
