/* What a forwarder listens on, and the process it runs in. forward_serve.c is what it does. */
#include "runner/control/forward.h"

#include "runner/control/forward_serve.h"
#include "runner/control/privs.h"
#include "runner/control/sanitizer.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>

/* ---- the text ------------------------------------------------------------------------------ */

/* Lists of forwards are divided by spaces, and shown to people. */
static bool is_word(const char *s)
{
	while (*s > ' ' && *s < 0x7f)
		s++;
	return !*s;
}

static int take_target(const char *text, struct agent_target *t)
{
	uint64_t port;

	*t = (struct agent_target){0};
	if (text[0] == '/' && strlen(text) <= AGENT_SOCKET_PATH_MAX && is_word(text))
		memcpy(t->path, text, strlen(text) + 1);
	else if (parse_u64(text, 1, UINT16_MAX, &port, NULL) == 0)
		t->port = (uint16_t)port;
	else
		return -EINVAL;
	return 0;
}

static bool is_address(const char *s)
{
	struct in6_addr a;

	return inet_pton(AF_INET, s, &a) == 1 || inet_pton(AF_INET6, s, &a) == 1;
}

/* The address in front, if any; what follows it, or NULL. */
static const char *take_address(const char *text, char *out, size_t cap)
{
	const char *end, *next;

	*out = '\0';
	if (text[0] == '[') {
		end = strchr(text++, ']');
		if (!end || end[1] != ':')
			return NULL;
		next = end + 2;
	} else {
		/* PORT:TARGET has one colon before the target's path, ADDRESS:PORT:TARGET two. */
		size_t n = strcspn(text, ":/");

		if (text[n] != ':' || !memchr(text, '.', n))
			return text;
		end = text + n;
		next = end + 1;
	}
	if ((size_t)(end - text) >= cap)
		return NULL;
	memcpy(out, text, (size_t)(end - text));
	out[end - text] = '\0';
	return is_address(out) ? next : NULL;
}

int forward_parse(const char *text, struct forward *f, struct err *err)
{
	const char *rest, *colon;
	uint64_t port = 0;
	char number[8];

	*f = (struct forward){0};
	if (take_target(text, &f->target) == 0)
		return 0;
	rest = take_address(text, f->address, sizeof(f->address));
	colon = rest ? strchr(rest, ':') : NULL;
	if (colon && colon - rest < (ptrdiff_t)sizeof(number)) {
		memcpy(number, rest, (size_t)(colon - rest));
		number[colon - rest] = '\0';
		if (parse_u64(number, 0, UINT16_MAX, &port, NULL) == 0 &&
		    take_target(colon + 1, &f->target) == 0) {
			f->port = (uint16_t)port;
			return 0;
		}
	}
	return err_set(err, EINVAL,
		       "'%.100s' is no forward: [[ADDRESS:]PORT:]TARGET, where PORT is 0 or left "
		       "out for any and TARGET is a port of the guest or a socket's absolute path",
		       text);
}

int forward_add(const char *text, struct forward list[FORWARD_MAX], unsigned *n, struct err *err)
{
	if (*n == FORWARD_MAX)
		return err_set(err, EINVAL, "'%.100s': at most %d ports", text, FORWARD_MAX);
	int r = forward_parse(text, &list[*n], err);
	*n += r == 0;
	return r;
}

char *forward_text(const struct forward *f, uint16_t port, char buf[FORWARD_TEXT_MAX])
{
	const bool v6 = strchr(f->address, ':') != NULL;
	char target[AGENT_SOCKET_PATH_MAX + 1];

	if (f->target.path[0])
		memcpy(target, f->target.path, sizeof(target));
	else
		snprintf(target, sizeof(target), "%u", f->target.port);
	snprintf(buf, FORWARD_TEXT_MAX, "%s%s%s:%u:%s", v6 ? "[" : "",
		 f->address[0] ? f->address : "127.0.0.1", v6 ? "]" : "", port, target);
	return buf;
}

/* ---- listeners ----------------------------------------------------------------------------- */

static int listen_on(const struct forward *f, uint16_t *port, struct err *err)
{
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(f->port)};
	struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(f->port)};
	const char *address = f->address[0] ? f->address : "127.0.0.1";
	const bool is_v6 = inet_pton(AF_INET6, address, &v6.sin6_addr) == 1;
	struct sockaddr *a = is_v6 ? (struct sockaddr *)&v6 : (struct sockaddr *)&v4;
	socklen_t len = is_v6 ? sizeof(v6) : sizeof(v4);
	int one = 1;

	if (!is_v6 && inet_pton(AF_INET, address, &v4.sin_addr) != 1)
		return err_set(err, EINVAL, "forward: %s is no address", address);
	cleanup_fd int fd = socket(a->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_errno(err, "forward: open a socket");
	/* So that the same port can be listened on again at once by the next VM. */
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, a, len) < 0 || listen(fd, SOMAXCONN) < 0)
		return err_errno(err, "forward: listen on %s port %u", address, f->port);
	if (getsockname(fd, a, &len) < 0)
		return err_errno(err, "forward: %s", address);
	*port = ntohs(is_v6 ? v6.sin6_port : v4.sin_port);
	return steal_fd(&fd);
}

int forwarder_open(const struct forward *list, unsigned n, struct forwarder **out, struct err *err)
{
	struct forwarder *f = calloc(1, sizeof(*f));

	if (!f)
		return err_set(err, ENOMEM, "forward: out of memory");
	if (n > FORWARD_MAX) {
		free(f);
		return err_set(err, E2BIG, "forward: at most %d ports", FORWARD_MAX);
	}
	for (unsigned i = 0; i < n; i++) {
		int fd = listen_on(&list[i], &f->port[i], err);

		if (fd < 0) {
			forwarder_free(f);
			return fd;
		}
		f->spec[i] = list[i];
		f->fd[f->n++] = fd;
	}
	*out = f;
	return 0;
}

uint16_t forwarder_port(const struct forwarder *f, unsigned i)
{
	return f->port[i];
}

char *forwarder_text(const struct forwarder *f, char *buf, size_t cap)
{
	char one[FORWARD_TEXT_MAX];
	size_t len = 0;

	buf[0] = '\0';
	for (unsigned i = 0; i < f->n && len < cap; i++)
		len += (size_t)snprintf(buf + len, cap - len, "%s%s", i ? " " : "",
					forward_text(&f->spec[i], f->port[i], one));
	return buf;
}

void forwarder_free(struct forwarder *f)
{
	if (!f)
		return;
	for (unsigned i = 0; i < f->n; i++)
		close(f->fd[i]);
	free(f);
}

/* ---- the process --------------------------------------------------------------------------- */

static _Noreturn void serve(struct forwarder *f, const char *vsock_path, int end_fd)
{
	int keep[FORWARD_MAX + 1];
	struct err err = ERR_INIT;
	int r;

	signal(SIGINT, SIG_IGN); /* a terminal's is for the VM, and this ends with it */
	signal(SIGTERM, SIG_DFL);
	signal(SIGPIPE, SIG_IGN);
	memcpy(keep, f->fd, f->n * sizeof(*keep));
	keep[f->n] = end_fd;
	close_fds_except(keep, f->n + 1);
	r = privs_drop(&err);
	if (r == 0)
		r = forwarder_run(f, vsock_path, end_fd, &err);
	if (r < 0)
		log_err("%s", err.msg);
	sanitizer_end();
	_exit(r < 0 ? EXIT_FAILED : EXIT_OK);
}

/* 0: in the child. */
static pid_t new_process(struct err *err)
{
	fflush(NULL);
	pid_t p = fork();

	return p < 0 ? err_errno(err, "forward: start a process") : p;
}

int forwarder_start(struct forwarder *f, const char *vsock_path, pid_t *pid, struct err *err)
{
	const pid_t parent = getpid(), p = new_process(err);

	if (p == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(EXIT_FAILED);
		serve(f, vsock_path, -1);
	}
	if (p > 0 && pid)
		*pid = p;
	return MIN(p, 0);
}

/* Off the caller's terminal, and off whatever waits for the end of its output. */
static int detach(const char *log)
{
	cleanup_fd int in = open("/dev/null", O_RDONLY | O_CLOEXEC);
	cleanup_fd int out = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	setsid();
	return in < 0 || out < 0 || dup2(in, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0 ||
			       dup2(out, STDERR_FILENO) < 0
		       ? -errno
		       : 0;
}

int forwarder_start_until(struct forwarder *f, const char *vsock_path, int end_fd, const char *log,
			  struct err *err)
{
	const pid_t p = new_process(err);

	if (p == 0) {
		if (detach(log) < 0)
			_exit(EXIT_FAILED);
		serve(f, vsock_path, end_fd);
	}
	return MIN(p, 0);
}
