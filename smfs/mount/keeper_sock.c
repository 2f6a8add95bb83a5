#include "smfs/mount/keeper_sock.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "smfs/base/cleanup.h"
#include "smfs/mount/keeper.h"

/* A remount takes as long as the old server needs for what it has taken. */
#define REMOUNT_SECONDS 120
/* For a client to say what it wants: the keeper has other things to do. */
#define REQUEST_SECONDS 2

int keeper_tell(int control, enum keeper_say say, const struct err *err, int fd)
{
	char room[CMSG_SPACE(sizeof(int))] __attribute__((aligned(sizeof(size_t)))) = {0};
	struct keeper_message m;
	struct iovec iov = {&m, sizeof(m)};
	struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1};

	memset(&m, 0, sizeof(m));
	m.say = (uint32_t)say;
	if (err)
		m.err = *err;
	if (fd >= 0) {
		h.msg_control = room;
		h.msg_controllen = sizeof(room);
		struct cmsghdr *c = CMSG_FIRSTHDR(&h);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(fd));
		memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	}
	return sendmsg(control, &h, MSG_NOSIGNAL) == (ssize_t)sizeof(m) ? 0 : -EPIPE;
}

int keeper_hear(int control, struct keeper_message *out, int *fd)
{
	char room[CMSG_SPACE(sizeof(int))] __attribute__((aligned(sizeof(size_t)))) = {0};
	struct iovec iov = {out, sizeof(*out)};
	struct msghdr h = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = fd ? room : NULL,
			   .msg_controllen = fd ? sizeof(room) : 0};
	ssize_t n = recvmsg(control, &h, MSG_CMSG_CLOEXEC);

	if (fd)
		*fd = -1;
	struct cmsghdr *c = n >= 0 && fd ? CMSG_FIRSTHDR(&h) : NULL;
	if (c && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(*fd)))
		memcpy(fd, CMSG_DATA(c), sizeof(*fd));
	if (n != (ssize_t)sizeof(*out))
		return -EPIPE;
	out->err.msg[sizeof(out->err.msg) - 1] = '\0';
	return 0;
}

#define LISTEN_TRIES 250 /* of 20 ms */

static socklen_t address(unsigned minor, struct sockaddr_un *a)
{
	*a = (struct sockaddr_un){.sun_family = AF_UNIX};
	int n = snprintf(a->sun_path + 1, sizeof(a->sun_path) - 1, "smfs-keeper/%u", minor);
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
}

int keeper_listen(unsigned minor, struct err *err)
{
	struct sockaddr_un a;
	socklen_t len = address(minor, &a);
	cleanup_fd int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	/*
	 * The kernel gives a number again as soon as its mount is gone; that one's keeper may be
	 * on its way out still.
	 */
	int r = fd < 0 ? -1 : bind(fd, (struct sockaddr *)&a, len);
	for (int i = 0; r < 0 && fd >= 0 && errno == EADDRINUSE && i < LISTEN_TRIES; i++) {
		nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
		r = bind(fd, (struct sockaddr *)&a, len);
	}
	if (r < 0 || listen(fd, 4) < 0)
		return err_errno(err, "mount: listen for `smfs remount`");
	return steal_fd(&fd);
}

int keeper_accept(int listener, char exe[PATH_MAX])
{
	const struct timeval wait = {.tv_sec = REQUEST_SECONDS};
	cleanup_fd int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	struct ucred who = {.uid = (uid_t)-1};
	socklen_t len = sizeof(who);

	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) < 0 || who.uid != 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)) < 0)
		return -EPERM;
	ssize_t n = recv(fd, exe, PATH_MAX - 1, 0);
	if (n <= 0)
		return -EPIPE;
	exe[n] = '\0';
	return steal_fd(&fd);
}

int keeper_remount(unsigned minor, const char *exe, struct err *err)
{
	const struct timeval wait = {.tv_sec = REMOUNT_SECONDS};
	struct sockaddr_un a;
	socklen_t len = address(minor, &a);
	cleanup_fd int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	struct err answer;

	if (fd < 0)
		return err_errno(err, "remount: socket");
	if (connect(fd, (struct sockaddr *)&a, len) < 0)
		return errno == ECONNREFUSED ? err_set(err, ENOTCONN,
						       "remount: the mount has no keeper; unmount "
						       "and mount again")
					     : err_errno(err, "remount: find the keeper");
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
	if (send(fd, exe, strlen(exe), MSG_NOSIGNAL) < 0)
		return err_errno(err, "remount: ask the keeper");
	if (recv(fd, &answer, sizeof(answer), 0) != (ssize_t)sizeof(answer))
		return err_set(err, EIO, "remount: the keeper did not answer; its log says more");
	answer.msg[sizeof(answer.msg) - 1] = '\0';
	return answer.code ? err_set(err, answer.code, "%s", answer.msg) : 0;
}

/* mountinfo writes space, tab, newline and backslash as \ooo. */
static void unescape(char *s)
{
	static const char digits[] = "01234567";
	char *out = s;

	for (; *s; s++) {
		if (s[0] == '\\' && strspn(s + 1, digits) >= 3) {
			*out++ = (char)((s[1] - '0') * 64 + (s[2] - '0') * 8 + (s[3] - '0'));
			s += 3;
		} else {
			*out++ = *s;
		}
	}
	*out = '\0';
}

int keeper_find(const char *dir, unsigned *minor, struct err *err)
{
	cleanup_file FILE *f = fopen("/proc/self/mountinfo", "re");
	cleanup_free char *line = NULL;
	char type[64] = "";
	size_t cap = 0;

	if (!f)
		return err_errno(err, "open /proc/self/mountinfo");
	/* The last one is on top. */
	while (getline(&line, &cap, f) > 0) {
		char point[PATH_MAX], dev[32];
		const char *dash = strstr(line, " - "), *colon;

		if (!dash || sscanf(line, "%*s %*s %31s %*s %4095s", dev, point) != 2 ||
		    !(colon = strchr(dev, ':')))
			continue;
		unescape(point);
		if (strcmp(point, dir) == 0 && sscanf(dash, " - %63s", type) == 1)
			*minor = (unsigned)strtoul(colon + 1, NULL, 10);
	}
	if (!*type)
		return err_set(err, ENOENT, "%s: nothing is mounted there", dir);
	if (strcmp(type, "fuse.smfs") != 0)
		return err_set(err, EINVAL, "%s: it is a %s, not a mount of smfs", dir, type);
	return 0;
}
