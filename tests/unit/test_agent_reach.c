/*
 * What runs in a guest, reached from outside: readiness, forwarded ports, measured programs, and
 * all of it asked of an agent that is older than the question. The agent's own code serves, on the
 * host.
 */
#include "tests/unit/agent_session.h"
#include "tests/unit/agent_v1.h"

#include "runner/agent/journal.h"
#include "runner/control/forward.h"
#include "runner/proto/agent_reach.h"

#include <netinet/in.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/un.h>

/* ---- readiness ------------------------------------------------------------------------------- */

static int ready(struct fixture *x, char *const *conditions, int timeout_ms, struct err *e)
{
	struct agent *a = begin(x);
	int r = agent_ready(a, conditions, timeout_ms, NULL, e);

	end(x, a);
	return r;
}

static void a_file_that_comes_later(void **state)
{
	struct fixture *x = *state;
	char *want[] = {"agent", "file:/run/up", NULL}, cmd[256];
	struct agent_results *rs = calloc(1, sizeof(*rs));
	struct err e = ERR_INIT;

	snprintf(cmd, sizeof(cmd), "(sleep 0.3; mkdir -p %s/run; touch %s/run/up) &", x->root,
		 x->root);
	assert_int_equal(system(cmd), 0);
	struct agent *a = begin(x);
	assert_int_equal(agent_ready(a, want, MS, rs, &e), 0);
	assert_int_equal(rs->n, 2);
	assert_string_equal(rs->r[1].item, "file:/run/up");
	assert_true(rs->r[1].us >= 100000);
	end(x, a);
	free(rs);
}

static void what_is_missing_is_named(void **state)
{
	char *file[] = {"file:/never", NULL}, *port[] = {"port:1", NULL},
	     *fails[] = {"exec:exit 7", NULL}, *hangs[] = {"exec:sleep 60", NULL},
	     *log[] = {"log:x", NULL};
	struct err e = ERR_INIT;

	assert_int_equal(ready(*state, file, 100, &e), -ETIMEDOUT);
	assert_non_null(strstr(e.msg, "file:/never"));
	assert_int_equal(ready(*state, port, 100, &e), -ETIMEDOUT);
	assert_non_null(strstr(e.msg, "nobody listens"));
	assert_int_equal(ready(*state, fails, 1500, &e), -ETIMEDOUT);
	assert_non_null(strstr(e.msg, "status 7"));
	assert_int_equal(ready(*state, hangs, 100, &e), -ETIMEDOUT);
	assert_non_null(strstr(e.msg, "did not end"));
	assert_int_equal(ready(*state, log, 100, &e), -ENOTSUP);
}

static void nonsense_is_refused_before_it_is_sent(void **state)
{
	static const char *const texts[] = {"",		"port:", "port:0", "port:65536", "port:8o",
					    "file:rel", "log:",	 "exec:",  "pot:80",	 "agent:"};
	enum agent_condition kind;
	struct err e = ERR_INIT;
	const char *arg;

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
		assert_int_equal(agent_condition_parse(texts[i], &kind, &arg, &e), -EINVAL);
}

static int listen_tcp(uint16_t *port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&a, len), 0);
	assert_int_equal(listen(fd, 512), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	*port = ntohs(a.sin_port);
	return fd;
}

static void a_port_and_a_command(void **state)
{
	char port[32], *want[] = {port, "exec:test $BASE = from-boot", NULL};
	struct err e = ERR_INIT;
	uint16_t n;
	int fd = listen_tcp(&n);

	snprintf(port, sizeof(port), "port:%u", n);
	assert_int_equal(ready(*state, want, MS, &e), 0);
	close(fd);
}

static void a_line_of_the_log(void **state)
{
	struct fixture *x = *state;
	char *want[] = {"log:^listening on [0-9]+$", NULL}, *no[] = {"log:^on [0-9]+$", NULL},
	     *broken[] = {"log:[", NULL};
	struct err e = ERR_INIT;
	pid_t pid;
	int tty;

	assert_int_equal(journal_start(&x->g.journal, -1, &tty, &pid, &e), 0);
	assert_int_equal(isatty(tty), 1);
	assert_int_equal(write(tty, "starting\nlistening on 8080\r\nmore", 32), 32);
	assert_int_equal(ready(x, want, MS, &e), 0);
	assert_int_equal(ready(x, no, 100, &e), -ETIMEDOUT);
	assert_int_equal(ready(x, broken, 100, &e), -EINVAL);
	/* Far more than is kept: the line is gone, the next one is found. */
	for (int i = 0; i < 6000; i++)
		assert_int_equal(dprintf(tty, "%0100d\n", i), 101);
	assert_int_equal(ready(x, want, 200, &e), -ETIMEDOUT);
	assert_int_equal(write(tty, "listening on 9\n", 15), 15);
	assert_int_equal(ready(x, want, MS, &e), 0);
	close(tty);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

/* One that nothing would ever come into: its conditions are refused, and not waited for. */
static void a_log_that_cannot_be_kept_is_none(void **state)
{
	struct fixture *x = *state;
	char *want[] = {"log:^listening", NULL};
	struct rlimit limit, none;
	struct err e = ERR_INIT;
	int tty = -1, r;
	pid_t pid;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	none = (struct rlimit){0, limit.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	r = journal_start(&x->g.journal, -1, &tty, &pid, &e);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_int_equal(r, -EMFILE);
	assert_null(x->g.journal);
	assert_int_equal(ready(x, want, MS, &e), -ENOTSUP);
}

static void an_entrypoint_that_failed_is_not_waited_for(void **state)
{
	struct fixture *x = *state;
	char *want[] = {"file:/never", NULL};
	struct err e = ERR_INIT;

	x->g.shared->entry_state = AGENT_ENTRY_EXITED;
	x->g.shared->entry_exit = (struct agent_exit){.kind = AGENT_EXIT_CODE, .value = 3};
	assert_int_equal(ready(x, want, MS, &e), -ECHILD);
	assert_non_null(strstr(e.msg, "status 3"));
}

static void a_peer_that_leaves_ends_the_wait(void **state)
{
	struct fixture *x = *state;
	char *want[] = {"file:/never", NULL};
	const struct agent_ready q = {.condition = want, .timeout_ms = 60000};
	struct writer hello = WRITER_INIT, w = WRITER_INIT;
	int fd = begin_raw(x);

	agent_put_hello(&hello);
	agent_put_ready(&w, &q);
	assert_int_equal(agent_frame_send(fd, AGENT_HELLO, &hello, MS, NULL), 0);
	assert_int_equal(agent_frame_send(fd, AGENT_READY, &w, MS, NULL), 0);
	close(fd);
	ended(x);
	writer_free(&hello);
	writer_free(&w);
}

/* ---- forwarded ports --------------------------------------------------------------------------
 */

/* A VM's vsock.sock: each connection says CONNECT, and is then a session of the agent. */
struct vm {
	char path[100];
	pid_t pid, forwarder;
	uint16_t port;
};

static void vm_serve(struct fixture *x, int listener, bool old)
{
	/* Not what the test listens on: it would go on listening here. */
	close_fds_except(&listener, 1);
	signal(SIGCHLD, SIG_IGN);
	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		char c = 0;

		if (fd < 0)
			_exit(0);
		if (fork() == 0) {
			close(listener);
			while (c != '\n')
				if (recv(fd, &c, 1, 0) != 1)
					_exit(0);
			if (send(fd, "OK 1073741824\n", 14, 0) != 14)
				_exit(1);
			dup2(open("/dev/null", O_WRONLY), STDERR_FILENO);
			if (old)
				v1_run(&(struct v1){.fd = fd});
			else
				session_serve(&x->g, fd);
			_exit(0);
		}
		close(fd);
	}
}

static void vm_begin(struct fixture *x, struct vm *v, const struct agent_target *t, bool old)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	struct forward spec = {.target = *t};
	struct forwarder *f;
	struct err e = ERR_INIT;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(v->path, sizeof(v->path), "%s/vsock.sock", x->root);
	strcpy(a.sun_path, v->path);
	unlink(v->path);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 512), 0);
	v->pid = fork();
	if (v->pid == 0)
		vm_serve(x, fd, old);
	close(fd);
	assert_int_equal(forwarder_open(&spec, 1, &f, &e), 0);
	v->port = forwarder_port(f, 0);
	assert_int_equal(forwarder_start(f, v->path, &v->forwarder, &e), 0);
	forwarder_free(f);
}

static void vm_end(struct vm *v)
{
	kill(v->forwarder, SIGKILL);
	kill(v->pid, SIGKILL);
	waitpid(v->forwarder, NULL, 0);
	waitpid(v->pid, NULL, 0);
}

static int call_port(uint16_t port)
{
	struct sockaddr_in a = {.sin_family = AF_INET,
				.sin_port = htons(port),
				.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	const struct timeval patience = {.tv_sec = 60};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

static size_t read_all(int fd, char *buf, size_t cap)
{
	size_t n = 0;
	ssize_t k;

	while (n < cap && (k = recv(fd, buf + n, cap - n, 0)) > 0)
		n += (size_t)k;
	return n;
}

/* The service: all that comes is read to its end, and only then sent back. */
static pid_t serve_backwards(int listener)
{
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	signal(SIGCHLD, SIG_IGN);
	for (;;) {
		int fd = accept(listener, NULL, NULL);

		if (fork() == 0) {
			char *buf = malloc(32u << 20);
			size_t n = read_all(fd, buf, 32u << 20);

			for (size_t at = 0; at < n;) {
				ssize_t k = send(fd, buf + at, n - at, MSG_NOSIGNAL);

				if (k <= 0)
					_exit(1);
				at += (size_t)k;
			}
			_exit(0);
		}
		close(fd);
	}
}

static void half_closes_pass_and_nothing_is_lost(void **state)
{
	const size_t n = 8u << 20;
	struct agent_target t = {0};
	int listener = listen_tcp(&t.port);
	pid_t service = serve_backwards(listener);
	char *in = malloc(n), *out = malloc(n + 1);
	struct vm v;

	close(listener);
	vm_begin(*state, &v, &t, false);
	for (size_t i = 0; i < n; i++)
		in[i] = (char)(i * 2654435761u >> 13);
	int fd = call_port(v.port);
	for (size_t at = 0; at < n;) {
		ssize_t k = send(fd, in + at, n - at, MSG_NOSIGNAL);

		assert_true(k > 0);
		at += (size_t)k;
	}
	shutdown(fd, SHUT_WR);
	assert_int_equal(read_all(fd, out, n + 1), n);
	assert_memory_equal(in, out, n);
	close(fd);
	vm_end(&v);
	kill(service, SIGKILL);
	waitpid(service, NULL, 0);
	free(in);
	free(out);
}

/* More at once than are served at once: those above it wait their turn. */
static void many_connections(void **state)
{
	enum { N = FORWARD_CONNS + 40 };
	struct agent_target t = {0};
	int listener = listen_tcp(&t.port), fd[N];
	pid_t service = serve_backwards(listener);
	char buf[64], want[64];
	struct vm v;

	close(listener);
	vm_begin(*state, &v, &t, false);
	for (int i = 0; i < N; i++) {
		fd[i] = call_port(v.port);
		snprintf(want, sizeof(want), "number %d", i);
		assert_int_equal(send(fd[i], want, strlen(want), 0), strlen(want));
	}
	for (int i = 0; i < N; i++) {
		shutdown(fd[i], SHUT_WR);
		snprintf(want, sizeof(want), "number %d", i);
		assert_int_equal(read_all(fd[i], buf, sizeof(buf)), strlen(want));
		assert_memory_equal(buf, want, strlen(want));
		close(fd[i]);
	}
	vm_end(&v);
	kill(service, SIGKILL);
	waitpid(service, NULL, 0);
}

static void a_unix_socket_and_who_speaks_first(void **state)
{
	struct fixture *x = *state;
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), s;
	struct agent_target t = {0};
	char buf[16];
	struct vm v;

	snprintf(t.path, sizeof(t.path), "%s/service", x->root);
	strcpy(a.sun_path, t.path);
	assert_int_equal(bind(listener, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(listener, 5), 0);
	vm_begin(x, &v, &t, false);
	int fd = call_port(v.port);
	s = accept(listener, NULL, NULL);
	assert_int_equal(send(s, "220 hello", 9, 0), 9);
	close(s);
	assert_int_equal(read_all(fd, buf, sizeof(buf)), 9);
	assert_memory_equal(buf, "220 hello", 9);
	close(fd);
	close(listener);
	vm_end(&v);
}

static void assert_reset(int fd)
{
	char c;

	assert_int_equal(recv(fd, &c, 1, 0), -1);
	assert_int_equal(errno, ECONNRESET);
	close(fd);
}

static void resets_are_seen_as_such(void **state)
{
	struct agent_target t = {0};
	int listener = listen_tcp(&t.port), fd, s;
	struct vm v;
	char c;

	vm_begin(*state, &v, &t, false);
	/* The service's. */
	fd = call_port(v.port);
	s = accept(listener, NULL, NULL);
	assert_int_equal(send(fd, "x", 1, 0), 1);
	assert_int_equal(recv(s, &c, 1, 0), 1);
	setsockopt(s, SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1}, sizeof(struct linger));
	close(s);
	assert_reset(fd);
	/* The client's. */
	fd = call_port(v.port);
	s = accept(listener, NULL, NULL);
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1},
		   sizeof(struct linger));
	close(fd);
	assert_reset(s);
	/* Nobody there. */
	close(listener);
	assert_reset(call_port(v.port));
	/* The VM gone, with a connection open. */
	vm_end(&v);
	listener = listen_tcp(&t.port);
	vm_begin(*state, &v, &t, false);
	fd = call_port(v.port);
	s = accept(listener, NULL, NULL);
	kill(v.pid, SIGKILL);
	waitpid(v.pid, NULL, 0);
	unlink(v.path);
	assert_reset(call_port(v.port));
	close(s);
	close(fd);
	close(listener);
	vm_end(&v);
}

static void forwards_as_text(void **state)
{
	static const char *const good[][2] = {
		{"8080:80", "127.0.0.1:8080:80"},
		{"0:80", "127.0.0.1:0:80"},
		{"0.0.0.0:1:2", "0.0.0.0:1:2"},
		{"[::1]:1:/run/a:b.sock", "[::1]:1:/run/a:b.sock"},
		{"9:/x", "127.0.0.1:9:/x"},
		{"80", "127.0.0.1:0:80"},
		{"/a:b", "127.0.0.1:0:/a:b"},
	};
	static const char *const bad[] = {
		"",	      "0",     "80:",	    ":80",	"80:0",	   "65536:1",
		"1:65536",    "a:1",   "1.2.3:1:2", "[::1:1:2", "[x]:1:2", "1:rel",
		"host.x:1:2", "1:2:3", "1:/a b",    "1:/a\n",	"1:/\xff"};
	char text[FORWARD_TEXT_MAX];
	struct forward f;
	struct err e = ERR_INIT;

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(forward_parse(good[i][0], &f, &e), 0);
		assert_string_equal(forward_text(&f, f.port, text), good[i][1]);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (forward_parse(bad[i], &f, &e) != -EINVAL)
			fail_msg("%s was taken", bad[i]);
}

/* ---- an agent from before ---------------------------------------------------------------------
 */

static struct agent *old_agent(struct v1 *v)
{
	struct err e = ERR_INIT;
	struct agent *a = NULL;
	int s[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
	*v = (struct v1){.fd = s[1]};
	assert_int_equal(pthread_create(&v->thread, NULL, v1_run, v), 0);
	if (agent_attach(s[0], MS, &a, &e) < 0)
		fail_msg("%s", e.msg);
	return a;
}

static void old_done(struct v1 *v, struct agent *a)
{
	agent_close(a);
	pthread_join(v->thread, NULL);
	close(v->fd);
	assert_false(v->asked_of_later);
}

/* libsmvm asks for the measure without knowing whether there will be one. */
static void an_old_agent_skips_a_measure_that_need_not_be(void **state)
{
	char *argv[] = {"true", NULL};
	const struct agent_exec must = {.argv = argv, .measure = true};
	const struct agent_exec may = {.argv = argv, .measure = true, .measure_or_not = true};
	struct agent_exec_io io = {.in = -1, .out = -1, .err = -1, .signal_fd = -1, .tty_fd = -1};
	struct agent_exit exit;
	struct err e = ERR_INIT;
	struct v1 v;
	struct agent *a = old_agent(&v);

	assert_int_equal(agent_exec_start(a, &must, MS, &e), -ENOTSUP);
	assert_int_equal(agent_exec_start(a, &may, MS, &e), 0);
	assert_int_equal(agent_exec_run(a, &io, &exit, &e), 0);
	assert_int_equal(exit.value, 3);
	assert_int_equal(exit.peak, 0);
	old_done(&v, a);
}

static void an_old_agent_does_what_it_could(void **state)
{
	char *argv[] = {"sh", "-c", "echo out; echo err >&2; exit 3", NULL};
	struct agent_exec x = {.argv = argv};
	struct agent_output o;
	struct err e = ERR_INIT;
	struct agent_info i;
	struct v1 v;
	struct agent *a = old_agent(&v);

	assert_int_equal(agent_version(a), 1);
	assert_int_equal(agent_info(a, &i, MS, &e), 0);
	assert_string_equal(i.agent, "0.1.0");
	if (agent_exec_capture(a, &x, NULL, 0, 4096, MS, &o, &e) < 0)
		fail_msg("%s", e.msg);
	assert_string_equal(o.out, "out\n");
	assert_string_equal(o.err, "err\n");
	assert_int_equal(o.exit.value, 3);
	assert_int_equal(o.exit.peak, 0);
	agent_output_free(&o);
	old_done(&v, a);
}

/* What a runner asks of the agent in an old snapshot before anything else can be. */
static void an_old_agent_takes_part_in_snapshots_and_restores(void **state)
{
	static struct agent_results rs;
	const struct agent_generation gen = {
		.number = 8, .entropy_len = AGENT_ENTROPY_MIN, .wall_ns = AGENT_WALL_NOW};
	const char *const items[] = {"freeze",	 "mailbox",    "entropy",     "clock",
				     "hostname", "machine-id", "hook:10-say", "thaw"};
	struct agent_exit exit;
	struct err e = ERR_INIT;
	struct v1 v;
	struct agent *a = old_agent(&v);

	if (agent_prepare(a, MS, &rs, &e) < 0 || agent_thaw(a, MS, &rs, &e) < 0 ||
	    agent_generation(a, &gen, MS, &rs, &e) < 0)
		fail_msg("%s", e.msg);
	assert_int_equal(rs.n, ARRAY_SIZE(items));
	for (unsigned i = 0; i < rs.n; i++)
		assert_string_equal(rs.r[i].item, items[i]);
	assert_int_equal(rs.r[6].code, 256 + 3);
	assert_string_equal(rs.r[6].detail, "hi");
	if (agent_clock(a, MS, &e) < 0 || agent_stop(a, 10, MS, &e) < 0 ||
	    agent_wait(a, MS, &exit, &e) < 0)
		fail_msg("%s", e.msg);
	assert_int_equal(exit.value, 3);
	old_done(&v, a);
}

static void what_an_old_agent_lacks_is_said(void **state)
{
	char *argv[] = {"true", NULL}, *want[] = {"port:80", NULL}, *any[] = {"agent", NULL};
	struct agent_exec x = {.argv = argv, .measure = true};
	struct err e = ERR_INIT;
	struct v1 v;
	struct agent *a = old_agent(&v);

	assert_int_equal(agent_ready(a, any, MS, NULL, &e), 0);
	assert_int_equal(agent_ready(a, want, MS, NULL, &e), -ENOTSUP);
	assert_non_null(strstr(e.msg, "(version 1) cannot tell when a service is ready"));
	assert_int_equal(agent_exec_start(a, &x, MS, &e), -ENOTSUP);
	assert_non_null(strstr(e.msg, "(version 1) cannot measure"));
	old_done(&v, a);
}

static void ports_of_an_old_agent_are_reset(void **state)
{
	const struct agent_target t = {.port = 80};
	struct vm v;

	vm_begin(*state, &v, &t, true);
	assert_reset(call_port(v.port));
	vm_end(&v);
}

/* A newer runner that meets us, and a peer that is none. */
static void versions_are_settled(void **state)
{
	static const uint8_t newer[] = {0x53, 0x4d, 0x76, 0x61, 9, 0},
			     zero[] = {0x53, 0x4d, 0x76, 0x61, 0, 0};
	struct fixture *x = *state;
	struct agent_frame f = {0};
	struct err e = ERR_INIT;
	uint16_t version;
	int fd = begin_raw(x);

	assert_int_equal(agent_frame_write(fd, AGENT_HELLO, newer, sizeof(newer), MS, &e), 0);
	assert_int_equal(agent_frame_read(fd, &f, MS, &e), 0);
	assert_int_equal(agent_get_hello(&f, &version, &e), 0);
	assert_int_equal(version, AGENT_VERSION);
	close(fd);
	ended(x);
	fd = begin_raw(x);
	assert_int_equal(agent_frame_write(fd, AGENT_HELLO, zero, sizeof(zero), MS, &e), 0);
	assert_int_equal(agent_frame_read(fd, &f, MS, &e), 0);
	assert_int_equal(f.type, AGENT_ERROR);
	close(fd);
	ended(x);
	agent_frame_free(&f);
}

/* ---- measured programs ------------------------------------------------------------------------
 */

static void without_a_memory_controller_it_is_refused(void **state)
{
	char *argv[] = {"true", NULL};
	struct agent_exec x = {.argv = argv, .measure = true};
	struct agent *a = begin(*state);
	struct err e = ERR_INIT;

	assert_int_equal(agent_exec_start(a, &x, MS, &e), -ENOTSUP);
	end(*state, a);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_file_that_comes_later),
		T(what_is_missing_is_named),
		T(nonsense_is_refused_before_it_is_sent),
		T(a_port_and_a_command),
		T(a_line_of_the_log),
		T(a_log_that_cannot_be_kept_is_none),
		T(an_entrypoint_that_failed_is_not_waited_for),
		T(a_peer_that_leaves_ends_the_wait),
		T(half_closes_pass_and_nothing_is_lost),
		T(many_connections),
		T(a_unix_socket_and_who_speaks_first),
		T(resets_are_seen_as_such),
		T(forwards_as_text),
		T(an_old_agent_skips_a_measure_that_need_not_be),
		T(an_old_agent_does_what_it_could),
		T(an_old_agent_takes_part_in_snapshots_and_restores),
		T(what_an_old_agent_lacks_is_said),
		T(ports_of_an_old_agent_are_reset),
		T(versions_are_settled),
		T(without_a_memory_controller_it_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
