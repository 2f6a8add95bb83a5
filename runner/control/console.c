#include "runner/control/console.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>

#define VIEWERS_MAX 8
#define TAIL_BYTES  1024

struct viewer {
	struct console *console;
	int in, out;
	bool owned, dead; /* dead: its end is closed, gone at its next event */
	struct loop_watch *watch;
};

struct console {
	int log_fd;
	uint64_t log_len;
	struct loop *loop;
	console_input type;
	void *type_arg;
	struct viewer *viewer[VIEWERS_MAX];
};

int console_new(const char *log_path, struct console **out, struct err *err)
{
	struct console *c = calloc(1, sizeof(*c));

	if (!c)
		return err_set(err, ENOMEM, "create console: out of memory");
	c->log_fd = -1;
	if (log_path) {
		c->log_fd = open(log_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		if (c->log_fd < 0) {
			free(c);
			return err_errno(err, "create console log %s", log_path);
		}
	}
	*out = c;
	return 0;
}

void console_bind(struct console *c, struct loop *loop, console_input type, void *arg)
{
	c->loop = loop;
	c->type = type;
	c->type_arg = arg;
}

static void viewer_drop(struct viewer *v)
{
	struct console *c = v->console;

	for (size_t i = 0; i < VIEWERS_MAX; i++)
		if (c->viewer[i] == v)
			c->viewer[i] = NULL;
	if (v->watch)
		loop_unwatch(c->loop, v->watch);
	if (v->owned) {
		if (v->in >= 0)
			close(v->in);
		if (v->out != v->in)
			close(v->out);
	}
	free(v);
}

void console_free(struct console *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < VIEWERS_MAX; i++)
		if (c->viewer[i])
			viewer_drop(c->viewer[i]);
	if (c->log_fd >= 0)
		close(c->log_fd);
	free(c);
}

/* Keep the newer half of a full log, so that a chatty guest cannot fill the host's memory. */
static void log_halve(struct console *c)
{
	size_t half = CONSOLE_LOG_MAX / 2;
	cleanup_free char *buf = malloc(half);

	if (!buf || pread_full(c->log_fd, buf, half, c->log_len - half) < 0 ||
	    ftruncate(c->log_fd, 0) < 0 || pwrite_full(c->log_fd, buf, half, 0) < 0) {
		c->log_len = 0;
		return;
	}
	c->log_len = half;
}

void console_restart(struct console *c)
{
	if (c->log_fd >= 0 && ftruncate(c->log_fd, 0) < 0)
		log_warn("empty the console's log: %m");
	c->log_len = 0;
}

void console_output(void *console, const void *buf, size_t len)
{
	struct console *c = console;

	if (c->log_fd >= 0) {
		if (c->log_len + len > CONSOLE_LOG_MAX)
			log_halve(c);
		if (pwrite_full(c->log_fd, buf, len, c->log_len) == 0)
			c->log_len += len;
	}
	for (size_t i = 0; i < VIEWERS_MAX; i++) {
		struct viewer *v = c->viewer[i];
		struct pollfd p = {.fd = v ? v->out : -1, .events = POLLOUT};

		/* Never block on a viewer: what does not fit now is lost to it, not to the log. */
		if (!v || v->dead || poll(&p, 1, 0) != 1)
			continue;
		if (p.revents & (POLLERR | POLLNVAL) || write(v->out, buf, len) < 0)
			v->dead = errno != EAGAIN && errno != EINTR;
	}
}

/* Standard input is over; what the guest says is still wanted. */
static void end_input(struct viewer *v)
{
	loop_unwatch(v->console->loop, v->watch);
	v->watch = NULL;
	if (v->owned)
		close(v->in);
	v->in = -1;
}

static void viewer_read(void *arg, uint32_t events)
{
	struct viewer *v = arg;
	char buf[512];
	ssize_t n = read(v->in, buf, sizeof(buf));

	if (n > 0)
		v->console->type(v->console->type_arg, buf, n);
	else if (n == 0 && v->out != v->in)
		end_input(v);
	else if (n == 0 || (errno != EAGAIN && errno != EINTR))
		viewer_drop(v);
}

struct attach {
	struct console *c;
	struct viewer v;
};

static void attach(void *arg)
{
	struct attach *a = arg;
	struct viewer *v = malloc(sizeof(*v));
	size_t i = 0;

	while (i < VIEWERS_MAX && a->c->viewer[i])
		i++;
	if (!v || i == VIEWERS_MAX) {
		log_warn("console: no room for another viewer");
		free(v);
		if (a->v.owned) {
			if (a->v.in >= 0)
				close(a->v.in);
			if (a->v.out != a->v.in)
				close(a->v.out);
		}
		return;
	}
	*v = a->v;
	a->c->viewer[i] = v;
	struct err err = ERR_INIT;
	/* A regular file or /dev/null as input cannot be watched and has nothing to type. */
	if (v->in >= 0 &&
	    loop_watch(a->c->loop, v->in, EPOLLIN, viewer_read, v, &v->watch, &err) < 0)
		log_debug("console input not watched: %s", err.msg);
}

void console_attach(struct console *c, int in, int out, bool owned)
{
	struct attach a = {.c = c, .v = {.console = c, .in = in, .out = out, .owned = owned}};

	if (owned && in >= 0)
		fcntl(in, F_SETFL, fcntl(in, F_GETFL) | O_NONBLOCK);
	loop_call(c->loop, attach, &a);
}

void console_last_line(const char *log_path, char *line, size_t max)
{
	char buf[TAIL_BYTES + 1];
	cleanup_fd int fd = open(log_path, O_RDONLY | O_CLOEXEC);
	struct stat st;

	line[0] = '\0';
	if (fd < 0 || fstat(fd, &st) < 0)
		return;
	uint64_t off = st.st_size > TAIL_BYTES ? (uint64_t)st.st_size - TAIL_BYTES : 0;
	ssize_t n = pread_upto(fd, buf, TAIL_BYTES, off);
	while (n > 0 && strchr("\r\n", buf[n - 1]))
		n--;
	buf[n > 0 ? n : 0] = '\0';
	const char *last = strrchr(buf, '\n');
	snprintf(line, max, "%.*s", (int)max - 1, last ? last + 1 : buf);
}
