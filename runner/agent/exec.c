/*
 * The exec part of a session: one loop over the connection, the program's descriptors and its end.
 *
 * Both directions are buffered with a bound and nothing blocks: a peer that does not read stops the
 * program's output, not the signals to it; a program that does not read stops the peer's input.
 */
#include "runner/agent/session.h"

#include "runner/agent/spawn.h"
#include "runner/proto/tlv.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>

#define OUT_HIGH      (256u << 10) /* bytes for the peer above which the program is not read */
#define IN_HIGH	      (256u << 10) /* bytes for the program above which the peer is not read */
#define TTY_GRACE_US  100000	   /* a terminal kept open by others: silence that ends the drain */
#define TTY_DRAIN_MAX (1u << 20)

/* A queue of bytes: appended at the end, consumed at `off`. */
struct queue {
	struct writer w;
	size_t off;
};

static size_t queued(const struct queue *q)
{
	return q->w.len - q->off;
}

static void consume(struct queue *q, size_t n)
{
	q->off += n;
	if (q->off == q->w.len)
		q->off = q->w.len = 0;
	else if (q->off >= AGENT_DATA_MAX) {
		memmove(q->w.p, q->w.p + q->off, q->w.len - q->off);
		q->w.len -= q->off;
		q->off = 0;
	}
}

struct source {
	int fd; /* -1: closed */
	uint16_t type;
	bool eof_sent;
};

struct exec {
	struct guest *g;
	int conn;
	bool tty;
	pid_t pid;
	int pidfd; /* -1 once the program has been reaped */
	int status;
	bool timed_out;
	uint64_t deadline_us; /* 0: none */
	int in;		      /* the program's stdin, -1: closed */
	bool in_eof;	      /* close `in` when the queue is empty */
	struct source out, err;
	struct queue to_peer, to_program;
	/* The peer's bytes until a whole frame is there. */
	uint8_t rx[AGENT_FRAME_HDR + AGENT_DATA_MAX];
	size_t rx_len;
	uint8_t buf[AGENT_DATA_MAX];
};

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void queue_frame(struct exec *x, uint16_t type, const void *data, size_t len)
{
	uint8_t hdr[AGENT_FRAME_HDR];

	agent_header_put(hdr, type, (uint32_t)len);
	put_bytes(&x->to_peer.w, hdr, sizeof(hdr));
	put_bytes(&x->to_peer.w, data, len);
}

static void source_end(struct exec *x, struct source *s)
{
	if (!s->eof_sent)
		queue_frame(x, s->type, NULL, 0);
	s->eof_sent = true;
	/* With a terminal, input and output are the same descriptor's duplicates. */
	close_fd(&s->fd);
}

/* One read. The count; 0 when there is nothing now; -1 at the end. */
static ssize_t source_read(struct exec *x, struct source *s, size_t max)
{
	ssize_t n = read(s->fd, x->buf, MIN(max, sizeof(x->buf)));

	if (n > 0) {
		queue_frame(x, s->type, x->buf, (size_t)n);
		return n;
	}
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	/* A terminal whose last user is gone reads as EIO. */
	source_end(x, s);
	return -1;
}

static int peer_write(struct exec *x)
{
	while (queued(&x->to_peer)) {
		ssize_t n = send(x->conn, x->to_peer.w.p + x->to_peer.off, queued(&x->to_peer),
				 MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : -ECONNRESET;
		consume(&x->to_peer, (size_t)n);
	}
	return 0;
}

static void program_write(struct exec *x)
{
	while (x->in >= 0 && queued(&x->to_program)) {
		ssize_t n =
			write(x->in, x->to_program.w.p + x->to_program.off, queued(&x->to_program));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0) {
			/* It closed its input: what is left has no reader. */
			close_fd(&x->in);
			break;
		}
		consume(&x->to_program, (size_t)n);
	}
	if (x->in < 0)
		consume(&x->to_program, queued(&x->to_program));
	else if (x->in_eof)
		close_fd(&x->in);
}

static void program_eof(struct exec *x)
{
	struct termios t;
	uint8_t c = 4;

	/* A terminal is not closed by its peer's end of file; the line discipline is told. */
	if (x->tty && x->in >= 0) {
		if (tcgetattr(x->in, &t) == 0)
			c = t.c_cc[VEOF];
		put_u8(&x->to_program.w, c);
	} else {
		x->in_eof = true;
	}
}

static int peer_frame(struct exec *x, uint16_t type, const uint8_t *p, uint32_t len)
{
	struct reader r = reader_of(p, len);
	uint32_t sig;

	switch (type) {
	case AGENT_STDIN:
		if (x->in_eof || x->in < 0)
			return 0;
		if (len)
			put_bytes(&x->to_program.w, p, len);
		else
			program_eof(x);
		program_write(x);
		return 0;
	case AGENT_WINSIZE: {
		struct winsize ws = {.ws_row = get_u16(&r), .ws_col = get_u16(&r)};

		if (!reader_done(&r))
			return -EPROTO;
		if (x->tty && x->in >= 0)
			ioctl(x->in, TIOCSWINSZ, &ws);
		return 0;
	}
	case AGENT_SIGNAL:
		sig = get_u32(&r);
		if (!reader_done(&r) || sig == 0 || sig >= NSIG)
			return -EPROTO;
		if (x->pidfd >= 0)
			kill(-x->pid, (int)sig);
		return 0;
	default:
		return -EPROTO;
	}
}

static int peer_read(struct exec *x)
{
	ssize_t n = recv(x->conn, x->rx + x->rx_len, sizeof(x->rx) - x->rx_len, MSG_DONTWAIT);
	size_t at = 0;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0)
		return -ECONNRESET;
	x->rx_len += (size_t)n;
	while (x->rx_len - at >= AGENT_FRAME_HDR) {
		uint16_t type;
		uint32_t len;
		int r = agent_header_parse(x->rx + at, &type, &len, NULL);

		/* Nothing longer than the buffer is allowed here. */
		if (r < 0 || len > AGENT_DATA_MAX)
			return -EPROTO;
		if (x->rx_len - at < AGENT_FRAME_HDR + len)
			break;
		r = peer_frame(x, type, x->rx + at + AGENT_FRAME_HDR, len);
		if (r < 0)
			return r;
		at += AGENT_FRAME_HDR + len;
	}
	memmove(x->rx, x->rx + at, x->rx_len - at);
	x->rx_len -= at;
	return 0;
}

static void reap(struct exec *x)
{
	pid_t p = waitpid(x->pid, &x->status, WNOHANG);

	if (p == x->pid)
		close_fd(&x->pidfd);
}

static int timeout_of(struct exec *x)
{
	uint64_t now;

	if (!x->deadline_us || x->pidfd < 0)
		return -1;
	now = monotonic_us();
	if (now < x->deadline_us)
		return (int)MIN((x->deadline_us - now) / 1000 + 1, (uint64_t)INT32_MAX);
	x->timed_out = true;
	x->deadline_us = 0;
	kill(-x->pid, SIGKILL);
	return -1;
}

/* Until the program has been reaped. */
static int carry(struct exec *x)
{
	while (x->pidfd >= 0) {
		bool room = queued(&x->to_peer) < OUT_HIGH;
		struct pollfd p[5] = {
			{.fd = x->conn},
			{.fd = x->pidfd, .events = POLLIN},
			{.fd = room ? x->out.fd : -1, .events = POLLIN},
			{.fd = room ? x->err.fd : -1, .events = POLLIN},
			{.fd = queued(&x->to_program) ? x->in : -1, .events = POLLOUT},
		};
		int r = 0, timeout = timeout_of(x);

		if (queued(&x->to_program) < IN_HIGH)
			p[0].events |= POLLIN;
		if (queued(&x->to_peer))
			p[0].events |= POLLOUT;
		if (poll(p, ARRAY_SIZE(p), timeout) < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		if (p[4].revents)
			program_write(x);
		if (p[2].revents)
			source_read(x, &x->out, sizeof(x->buf));
		if (p[3].revents)
			source_read(x, &x->err, sizeof(x->buf));
		if (p[0].revents & POLLIN)
			r = peer_read(x);
		else if (p[0].revents & (POLLERR | POLLHUP))
			r = -ECONNRESET;
		if (r == 0)
			r = peer_write(x);
		if (r == 0 && (x->to_peer.w.failed || x->to_program.w.failed))
			r = -ENOMEM;
		if (r < 0)
			return r;
		if (p[1].revents)
			reap(x);
	}
	return 0;
}

static int flush_peer(struct exec *x, size_t below)
{
	while (queued(&x->to_peer) > below) {
		struct pollfd p = {.fd = x->conn, .events = POLLOUT};

		if (poll(&p, 1, -1) < 0 && errno != EINTR)
			return -errno;
		int r = peer_write(x);
		if (r < 0)
			return r;
		if (p.revents & (POLLERR | POLLHUP))
			return -ECONNRESET;
	}
	return x->to_peer.w.failed ? -ENOMEM : 0;
}

/*
 * What the program wrote before it ended is in the pipe by now; what its background children
 * write later is not waited for, so that a daemon does not hold the session open.
 */
static int drain_pipe(struct exec *x, struct source *s)
{
	int left = 0, r;

	if (s->fd >= 0 && ioctl(s->fd, FIONREAD, &left) < 0)
		left = 0;
	while (s->fd >= 0 && left > 0) {
		ssize_t n = source_read(x, s, (size_t)left);

		if (n <= 0)
			break;
		left -= (int)n;
		r = flush_peer(x, OUT_HIGH);
		if (r < 0)
			return r;
	}
	source_end(x, s);
	return 0;
}

/* A terminal passes bytes on a little later: until its last user is gone, or it falls silent. */
static int drain_tty(struct exec *x, struct source *s)
{
	size_t total = 0;

	while (s->fd >= 0 && total < TTY_DRAIN_MAX) {
		struct pollfd p = {.fd = s->fd, .events = POLLIN};
		ssize_t n;
		int r = poll(&p, 1, TTY_GRACE_US / 1000);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			break;
		n = source_read(x, s, sizeof(x->buf));
		total += n > 0 ? (size_t)n : 0;
		r = flush_peer(x, OUT_HIGH);
		if (r < 0)
			return r;
	}
	source_end(x, s);
	return 0;
}

static int finish(struct exec *x)
{
	cleanup_writer struct writer w = WRITER_INIT;
	struct agent_exit e = {0};
	int r = x->tty ? drain_tty(x, &x->out) : drain_pipe(x, &x->out);

	if (r == 0 && !x->tty)
		r = drain_pipe(x, &x->err);
	if (r < 0)
		return r;
	if (x->timed_out)
		e = (struct agent_exit){AGENT_EXIT_TIMEOUT, SIGKILL};
	else if (WIFSIGNALED(x->status))
		e = (struct agent_exit){AGENT_EXIT_SIGNAL, (uint32_t)WTERMSIG(x->status)};
	else
		e = (struct agent_exit){AGENT_EXIT_CODE, (uint32_t)WEXITSTATUS(x->status)};
	agent_put_exit(&w, &e);
	if (w.failed)
		return -ENOMEM;
	queue_frame(x, AGENT_EXIT, w.p, w.len);
	return flush_peer(x, 0);
}

/* Reads what is there; true at the end of the stream. */
static bool drained(struct exec *x)
{
	ssize_t n = recv(x->conn, x->buf, sizeof(x->buf), MSG_DONTWAIT);

	return n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}

/*
 * EXIT is the connection's last frame. Closing with the peer's bytes unread could cost it that
 * frame, so what still comes is read and dropped until the peer has closed.
 */
static void linger(struct exec *x)
{
	uint64_t end = monotonic_us() + SESSION_REPLY_MS * 1000ull, now;

	while ((now = monotonic_us()) < end) {
		struct pollfd p = {.fd = x->conn, .events = POLLIN};
		int r = poll(&p, 1, (int)((end - now) / 1000 + 1));

		if (r < 0 && errno != EINTR)
			return;
		if (r > 0 && drained(x))
			return;
	}
}

static int nonblock_pipe(int *ours, int *theirs, bool we_read)
{
	int p[2];

	if (pipe2(p, O_CLOEXEC) < 0)
		return -errno;
	*ours = p[we_read ? 0 : 1];
	*theirs = p[we_read ? 1 : 0];
	return fcntl(*ours, F_SETFL, O_NONBLOCK) < 0 ? -errno : 0;
}

/* Opens the pair and gives the program's side to its user, as a login would. */
static int open_tty(struct exec *x, const struct agent_exec *req, const struct creds *c, int *slave,
		    struct err *err)
{
	struct winsize ws = {.ws_row = req->rows, .ws_col = req->cols};
	char name[64];

	x->in = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (x->in < 0)
		return err_errno(err, "open a terminal");
	if (grantpt(x->in) < 0 || unlockpt(x->in) < 0 || ptsname_r(x->in, name, sizeof(name)) != 0)
		return err_errno(err, "set up the terminal");
	ioctl(x->in, TIOCSWINSZ, &ws);
	*slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (*slave < 0)
		return err_errno(err, "open %s", name);
	if (geteuid() == 0 && fchown(*slave, c->uid, (gid_t)-1) < 0)
		return err_errno(err, "give %s to uid %u", name, c->uid);
	x->out.fd = fcntl(x->in, F_DUPFD_CLOEXEC, 10);
	return x->out.fd < 0 ? err_errno(err, "duplicate %s", name) : 0;
}

static int open_pipes(struct exec *x, const struct agent_exec *req, int theirs[3], struct err *err)
{
	int r = nonblock_pipe(&x->out.fd, &theirs[1], true);

	if (r == 0)
		r = nonblock_pipe(&x->err.fd, &theirs[2], true);
	if (r == 0 && req->stdin_open)
		r = nonblock_pipe(&x->in, &theirs[0], false);
	if (r < 0)
		return err_set(err, -r, "open a pipe: %s", strerror(-r));
	if (!req->stdin_open && (theirs[0] = open("/dev/null", O_RDONLY | O_CLOEXEC)) < 0)
		return err_errno(err, "open /dev/null");
	return 0;
}

static int start(struct exec *x, const struct agent_exec *req, struct err *err)
{
	const struct bootconf *conf = x->g->conf;
	const char *user = req->user ? req->user : conf->user;
	const char *cwd = req->cwd ? req->cwd : conf->cwd;
	cleanup_free struct creds *c = calloc(1, sizeof(*c));
	int theirs[3] = {-1, -1, -1}, r;
	struct spawn s = {.argv = req->argv,
			  .cwd = cwd && *cwd ? cwd : "/",
			  .creds = c,
			  .tty = req->tty,
			  .cgroup = x->g->cgroup,
			  .die_with_parent = true};
	char **env = NULL;
	bool frozen;

	guest_lock(x->g);
	frozen = x->g->shared->frozen;
	guest_unlock(x->g);
	if (frozen)
		return err_set(err, EAGAIN, "run %s: the guest is frozen for a snapshot; try later",
			       req->argv[0]);
	r = c ? users_resolve(x->g->root, user, c, err) : err_set(err, ENOMEM, "out of memory");
	if (r == 0 && !(env = spawn_env(conf->env, req->env, c->home, req->tty)))
		r = err_set(err, ENOMEM, "run %s: out of memory", req->argv[0]);
	if (r == 0)
		r = req->tty ? open_tty(x, req, c, &theirs[0], err)
			     : open_pipes(x, req, theirs, err);
	if (r == 0) {
		s.env = env;
		for (int i = 0; i < 3; i++)
			s.fd[i] = req->tty ? theirs[0] : theirs[i];
		r = spawn(&s, &x->pid, err);
	}
	for (int i = 0; i < 3; i++)
		close_fd(&theirs[i]);
	strv_free(env);
	if (r < 0)
		return r;
	x->pidfd = pidfd_open(x->pid, 0);
	if (x->pidfd < 0) {
		r = err_errno(err, "watch %s", req->argv[0]);
		kill(-x->pid, SIGKILL);
		waitpid(x->pid, NULL, 0);
		return r;
	}
	if (req->timeout_ms)
		x->deadline_us = monotonic_us() + (uint64_t)req->timeout_ms * 1000;
	return 0;
}

static void exec_free(struct exec *x)
{
	close_fd(&x->in);
	close_fd(&x->out.fd);
	close_fd(&x->err.fd);
	close_fd(&x->pidfd);
	writer_free(&x->to_peer.w);
	writer_free(&x->to_program.w);
	free(x);
}

static void kill_group(struct exec *x)
{
	kill(-x->pid, SIGKILL);
	while (waitpid(x->pid, NULL, 0) < 0 && errno == EINTR)
		;
}

static struct exec *exec_new(struct guest *g, int fd)
{
	struct exec *x = calloc(1, sizeof(*x));

	if (!x)
		return NULL;
	x->g = g;
	x->conn = fd;
	x->pidfd = x->in = x->out.fd = x->err.fd = -1;
	x->out.type = AGENT_STDOUT;
	x->err.type = AGENT_STDERR;
	return x;
}

int exec_serve(struct guest *g, int fd, const struct agent_frame *f, struct err *err)
{
	struct agent_exec req;
	struct exec *x;
	uint8_t pid[4];
	int r;

	r = agent_get_exec(f, &req, err);
	if (r < 0)
		return r;
	x = exec_new(g, fd);
	if (!x) {
		r = err_set(err, ENOMEM, "run %s: out of memory", req.argv[0]);
	} else {
		x->tty = req.tty;
		r = start(x, &req, err);
	}
	agent_exec_free(&req);
	if (r < 0) {
		if (x)
			exec_free(x);
		return session_refuse(fd, err);
	}
	for (int i = 0; i < 4; i++)
		pid[i] = (uint8_t)((uint32_t)x->pid >> (8 * i));
	queue_frame(x, AGENT_STARTED, pid, sizeof(pid));
	r = carry(x);
	if (r < 0 && x->pidfd >= 0)
		kill_group(x);
	else if (r == 0)
		r = finish(x);
	if (r == 0) {
		linger(x);
		r = -ECONNRESET;
	}
	if (r == -EPROTO)
		err_set(err, EPROTO,
			"exec: a frame that has no place in a session, or is malformed");
	exec_free(x);
	return r;
}
