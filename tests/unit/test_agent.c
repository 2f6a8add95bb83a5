/* Exec sessions: streams, terminals, signals, users, and peers that misbehave or go away. */
#include "tests/unit/agent_session.h"

#include <pthread.h>
#include <sys/signalfd.h>

/* Run `sh -c script`. */
static struct agent_output run(struct fixture *x, const char *script, struct agent_exec *opts,
			       const char *input)
{
	char *argv[] = {"sh", "-c", (char *)script, NULL};
	struct agent_exec req = opts ? *opts : (struct agent_exec){0};
	struct agent *a = begin(x);
	struct agent_output o;
	struct err e = ERR_INIT;

	req.argv = argv;
	if (agent_exec_capture(a, &req, input, input ? strlen(input) : 0, 64u << 20, MS, &o, &e) <
	    0)
		fail_msg("%s", e.msg);
	end(x, a);
	return o;
}

/* ---- exec ---------------------------------------------------------------------------------- */

static void streams_are_separate(void **state)
{
	struct agent_output o = run(*state, "echo out; echo err >&2; exit 3", NULL, NULL);

	assert_string_equal(o.out, "out\n");
	assert_string_equal(o.err, "err\n");
	assert_int_equal(o.exit.kind, AGENT_EXIT_CODE);
	assert_int_equal(o.exit.value, 3);
	agent_output_free(&o);
}

static void stdin_reaches_the_program_and_ends(void **state)
{
	struct agent_output o = run(*state, "cat; echo done", NULL, "one\ntwo\n");

	assert_string_equal(o.out, "one\ntwo\ndone\n");
	agent_output_free(&o);
}

static void without_stdin_it_reads_nothing(void **state)
{
	struct agent_output o = run(*state, "cat; readlink /proc/self/fd/0", NULL, NULL);

	assert_string_equal(o.out, "/dev/null\n");
	agent_output_free(&o);
}

static void a_signal_ends_it(void **state)
{
	struct agent_output o = run(*state, "kill -TERM $$", NULL, NULL);

	assert_int_equal(o.exit.kind, AGENT_EXIT_SIGNAL);
	assert_int_equal(agent_exit_status(&o.exit), 128 + SIGTERM);
	agent_output_free(&o);
}

static void a_timeout_kills_the_group(void **state)
{
	struct agent_exec opts = {.timeout_ms = 150};
	struct agent_output o = run(*state, "sleep 60 & sleep 60", &opts, NULL);

	assert_int_equal(o.exit.kind, AGENT_EXIT_TIMEOUT);
	agent_output_free(&o);
}

static void environment_directory_and_user(void **state)
{
	char *env[] = {"MINE=1", "BASE=replaced", NULL};
	struct agent_exec opts = {.env = env, .cwd = "/usr"};
	struct agent_output o =
		run(*state, "echo $MINE $BASE $PATH $HOME; pwd; id -u; umask", &opts, NULL);
	char want[256];

	snprintf(want, sizeof(want), "1 replaced /usr/bin:/bin /root\n/usr\n%d\n0022\n", getuid());
	assert_string_equal(o.out, want);
	agent_output_free(&o);
}

static void a_named_user_with_groups(void **state)
{
	struct fixture *x = *state;
	struct agent_exec opts = {.user = "app"};
	char path[128];
	struct err e = ERR_INIT;
	const char *passwd = "root:x:0:0::/root:/bin/sh\napp:x:1234:1235::/home/app:/bin/false\n";
	const char *group = "wheel:x:7:root\nmedia:x:1300:bob,app\nextra:x:1301:app\n";

	if (getuid() != 0) {
		print_message("# no root user: owners cannot be given away\n");
		skip();
	}
	snprintf(path, sizeof(path), "%s/etc", x->root);
	assert_int_equal(mkdir(path, 0755), 0);
	snprintf(path, sizeof(path), "%s/etc/passwd", x->root);
	assert_int_equal(write_file_atomic(AT_FDCWD, path, passwd, strlen(passwd), 0644, &e), 0);
	snprintf(path, sizeof(path), "%s/etc/group", x->root);
	assert_int_equal(write_file_atomic(AT_FDCWD, path, group, strlen(group), 0644, &e), 0);
	struct agent_output o = run(x, "id -u; id -g; id -G; echo $HOME", &opts, NULL);
	assert_string_equal(o.out, "1234\n1235\n1235 1300 1301\n/home/app\n");
	agent_output_free(&o);
}

static void refused(struct fixture *x, const struct agent_exec *req, int code, const char *word)
{
	struct agent *a = begin(x);
	struct err e = ERR_INIT;
	struct agent_info i;

	assert_int_equal(agent_exec_start(a, req, MS, &e), -code);
	if (!strstr(e.msg, word))
		fail_msg("no \"%s\" in: %s", word, e.msg);
	/* A refusal leaves the connection usable. */
	assert_int_equal(agent_info(a, &i, MS, &e), 0);
	end(x, a);
}

static void refusals_say_why(void **state)
{
	char *none[] = {"no-such-program", NULL}, *dir[] = {"/etc", NULL}, *ok[] = {"true", NULL};

	refused(*state, &(struct agent_exec){.argv = none}, ENOENT, "no-such-program");
	refused(*state, &(struct agent_exec){.argv = dir}, EACCES, "/etc");
	refused(*state, &(struct agent_exec){.argv = ok, .cwd = "/no/where"}, ENOENT, "/no/where");
	refused(*state, &(struct agent_exec){.argv = ok, .user = "nobody-here"}, EINVAL,
		"nobody-here");
	refused(*state, &(struct agent_exec){.argv = ok, .user = "0:no-group"}, EINVAL, "no-group");
}

static void ten_megabytes_arrive_whole(void **state)
{
	struct agent_output o =
		run(*state, "head -c 10485760 /dev/zero | tr '\\0' x; head -c 70000 /dev/zero >&2",
		    NULL, NULL);

	assert_int_equal(o.out_len, 10485760);
	assert_int_equal(o.err_len, 70000);
	for (size_t i = 0; i < o.out_len; i++)
		if (o.out[i] != 'x')
			fail_msg("byte %zu is %d", i, o.out[i]);
	agent_output_free(&o);
}

static void megabytes_both_ways_at_once(void **state)
{
	size_t n = 5u << 20;
	char *in = malloc(n + 1);

	for (size_t i = 0; i < n; i++)
		in[i] = (char)('a' + i % 26);
	in[n] = '\0';
	struct agent_output o = run(*state, "cat", NULL, in);
	assert_int_equal(o.out_len, n);
	assert_memory_equal(o.out, in, n);
	agent_output_free(&o);
	free(in);
}

static void a_background_child_does_not_hold_the_session(void **state)
{
	struct agent_output o = run(*state, "sleep 30 & echo $!", NULL, NULL);

	assert_true(atoi(o.out) > 1);
	kill(atoi(o.out), SIGKILL);
	agent_output_free(&o);
}

static void stdin_to_a_program_that_left_is_dropped(void **state)
{
	size_t n = 1u << 20;
	char *in = malloc(n + 1);

	memset(in, 'z', n);
	in[n] = '\0';
	struct agent_output o = run(*state, "head -c 3; exit 5", NULL, in);
	assert_string_equal(o.out, "zzz");
	assert_int_equal(o.exit.value, 5);
	agent_output_free(&o);
	free(in);
}

static void a_terminal_of_the_right_size(void **state)
{
	struct agent_exec opts = {.tty = true, .rows = 31, .cols = 97};
	struct agent_output o =
		run(*state, "stty size; tty >/dev/null && echo tty $TERM; echo e >&2", &opts, "");

	assert_string_equal(o.out, "31 97\r\ntty xterm\r\ne\r\n");
	assert_string_equal(o.err, "");
	agent_output_free(&o);
}

/* A live session over descriptors, a signal and a new window size. */
static void signals_and_window_size(void **state)
{
	struct fixture *x = *state;
	char *argv[] = {"sh", "-c",
			"trap 'echo usr1; exit 9' USR1; stty size; read a; stty size; "
			"while :; do sleep 0.05; done",
			NULL};
	struct agent_exec req = {
		.argv = argv, .tty = true, .stdin_open = true, .rows = 10, .cols = 20};
	struct agent_frame f = {0};
	struct agent_exit exit;
	struct err e = ERR_INIT;
	char seen[4096] = "";
	int sent = 0;

	/* The raw connection, to interleave by hand. */
	int fd = begin_raw(x);
	cleanup_writer struct writer w = WRITER_INIT, hello = WRITER_INIT;
	agent_put_hello(&hello);
	assert_int_equal(agent_frame_send(fd, AGENT_HELLO, &hello, MS, &e), 0);
	agent_put_exec(&w, &req);
	assert_int_equal(agent_frame_send(fd, AGENT_EXEC, &w, MS, &e), 0);
	for (;;) {
		if (agent_frame_read(fd, &f, MS, &e) < 0)
			fail_msg("%s, after: %s", e.msg, seen);
		if (f.type == AGENT_EXIT)
			break;
		if (f.type == AGENT_STDOUT)
			strncat(seen, (char *)f.data, MIN(f.len, sizeof(seen) - strlen(seen) - 1));
		if (sent == 0 && strstr(seen, "10 20")) {
			assert_int_equal(
				agent_frame_write(fd, AGENT_WINSIZE, "\x32\0\x64\0", 4, MS, &e), 0);
			assert_int_equal(agent_frame_write(fd, AGENT_STDIN, "\n", 1, MS, &e), 0);
			sent++;
		}
		if (sent == 1 && strstr(seen, "50 100")) {
			const uint8_t usr1[4] = {SIGUSR1};
			assert_int_equal(agent_frame_write(fd, AGENT_SIGNAL, usr1, 4, MS, &e), 0);
			sent++;
		}
	}
	assert_int_equal(agent_get_exit(&f, &exit, &e), 0);
	assert_int_equal(exit.kind, AGENT_EXIT_CODE);
	assert_int_equal(exit.value, 9);
	assert_non_null(strstr(seen, "usr1"));
	agent_frame_free(&f);
	close(fd);
	ended(x);
}

static void over_descriptors(void **state)
{
	struct fixture *x = *state;
	char *argv[] = {"sh", "-c", "trap 'echo got hup; exit 4' HUP; cat; sleep 20 & wait", NULL};
	struct agent_exec req = {.argv = argv, .stdin_open = true};
	struct agent *a = begin(x);
	struct agent_exit exit;
	struct err e = ERR_INIT;
	int in[2], out[2];
	sigset_t set;
	char buf[64] = "";

	assert_int_equal(pipe(in), 0);
	assert_int_equal(pipe(out), 0);
	assert_int_equal(write(in[1], "ping\n", 5), 5);
	close(in[1]);
	sigemptyset(&set);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	int sfd = signalfd(-1, &set, SFD_NONBLOCK);
	assert_int_equal(agent_exec_start(a, &req, MS, &e), 0);
	pid_t later = fork();
	if (later == 0) {
		/* When cat has ended the program waits, and only a forwarded signal ends it. */
		struct pollfd p = {.fd = out[0], .events = POLLIN};
		poll(&p, 1, MS);
		poll(NULL, 0, 200);
		kill(getppid(), SIGHUP);
		_exit(0);
	}
	struct agent_exec_io io = {
		.in = in[0], .out = out[1], .err = -1, .signal_fd = sfd, .tty_fd = -1};
	if (agent_exec_run(a, &io, &exit, &e) < 0)
		fail_msg("%s", e.msg);
	waitpid(later, NULL, 0);
	assert_int_equal(exit.value, 4);
	assert_true(read(out[0], buf, sizeof(buf) - 1) > 0);
	assert_string_equal(buf, "ping\ngot hup\n");
	close(in[0]);
	close(out[0]);
	close(out[1]);
	close(sfd);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	end(x, a);
}

/* What a guest does that is not to be believed: STARTED, and then never EXIT. */
struct endless {
	int fd;
	const char *says; /* again and again, or NULL */
};

static void *run_endless(void *arg)
{
	const struct endless *w = arg;
	struct agent_frame f = {0};
	cleanup_writer struct writer hello = WRITER_INIT;
	const uint8_t pid[4] = {1};
	int r = agent_frame_read(w->fd, &f, MS, NULL);

	agent_put_hello(&hello);
	if (r == 0 && (r = agent_frame_send(w->fd, AGENT_HELLO, &hello, MS, NULL)) == 0)
		r = agent_frame_read(w->fd, &f, MS, NULL);
	if (r == 0)
		r = agent_frame_write(w->fd, AGENT_STARTED, pid, sizeof(pid), MS, NULL);
	while (r == 0 && w->says) {
		r = agent_frame_write(w->fd, AGENT_STDOUT, w->says, strlen(w->says), MS, NULL);
		poll(NULL, 0, 1);
	}
	/* Until the client has gone. */
	while (r == 0)
		r = agent_frame_read(w->fd, &f, MS, NULL);
	agent_frame_free(&f);
	return NULL;
}

static void a_guest_that_never_ends_its_program_is_left(void **state)
{
	static const char *const says[] = {NULL, "x"};
	char *argv[] = {"true", NULL};
	struct agent_exec req = {.argv = argv, .timeout_ms = 100};
	const struct agent_exec_io io = {
		.in = -1, .out = -1, .err = -1, .signal_fd = -1, .tty_fd = -1, .late_ms = 200};

	for (int i = 0; i < 2; i++) {
		struct endless w = {.says = says[i]};
		struct agent_exit exit;
		struct err e = ERR_INIT;
		struct agent *a;
		pthread_t thread;
		int s[2];

		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
		w.fd = s[1];
		assert_int_equal(pthread_create(&thread, NULL, run_endless, &w), 0);
		assert_int_equal(agent_attach(s[0], MS, &a, &e), 0);
		assert_int_equal(agent_exec_start(a, &req, MS, &e), 0);
		assert_int_equal(agent_exec_run(a, &io, &exit, &e), -ETIMEDOUT);
		agent_close(a);
		pthread_join(thread, NULL);
		close(s[1]);
	}
}

/* The program has ended in time; what it has said is read later than it had time for. */
static void a_slow_reader_costs_the_guest_no_time(void **state)
{
	struct fixture *x = *state;
	char *argv[] = {"head", "-c", "300000", "/dev/zero", NULL}, buf[4096];
	struct agent_exec req = {.argv = argv, .timeout_ms = 2000};
	struct agent *a = begin(x);
	struct agent_exit exit;
	struct err e = ERR_INIT;
	size_t total = 0;
	int out[2];

	assert_int_equal(pipe(out), 0);
	assert_int_equal(agent_exec_start(a, &req, MS, &e), 0);
	pid_t reader = fork();
	if (reader == 0) {
		close(out[1]);
		poll(NULL, 0, 3500);
		for (ssize_t n; (n = read(out[0], buf, sizeof(buf))) > 0;)
			total += (size_t)n;
		_exit(total == 300000 ? 0 : 1);
	}
	close(out[0]);
	struct agent_exec_io io = {
		.in = -1, .out = out[1], .err = -1, .signal_fd = -1, .tty_fd = -1, .late_ms = 200};
	if (agent_exec_run(a, &io, &exit, &e) < 0)
		fail_msg("%s", e.msg);
	close(out[1]);
	int status;
	assert_int_equal(waitpid(reader, &status, 0), reader);
	assert_int_equal(status, 0);
	end(x, a);
}

static bool alive(pid_t p)
{
	return kill(p, 0) == 0;
}

static void a_dropped_connection_kills_the_group(void **state)
{
	struct fixture *x = *state;
	char *argv[] = {"sh", "-c", "trap '' HUP TERM; sleep 300 & echo $! $$; wait", NULL};
	struct agent_exec req = {.argv = argv};
	int fd = begin_raw(x), a = 0, b = 0;
	struct agent_frame f = {0};
	cleanup_writer struct writer w = WRITER_INIT, hello = WRITER_INIT;
	struct err e = ERR_INIT;

	agent_put_hello(&hello);
	agent_put_exec(&w, &req);
	assert_int_equal(agent_frame_send(fd, AGENT_HELLO, &hello, MS, &e), 0);
	assert_int_equal(agent_frame_send(fd, AGENT_EXEC, &w, MS, &e), 0);
	do
		assert_int_equal(agent_frame_read(fd, &f, MS, &e), 0);
	while (f.type != AGENT_STDOUT);
	f.data[MIN(f.len, AGENT_FRAME_MAX - 1)] = '\0';
	assert_int_equal(sscanf((char *)f.data, "%d %d", &a, &b), 2);
	assert_true(alive(a) && alive(b));
	agent_frame_free(&f);
	close(fd);
	ended(x);
	/* The grandchild has lost its parent and may wait for the host's init to reap it. */
	for (int i = 0; alive(a) && i < 6000; i++) {
		char path[64], text[128] = "";
		snprintf(path, sizeof(path), "/proc/%d/stat", a);
		int s = open(path, O_RDONLY);
		if (s < 0 || (read(s, text, sizeof(text) - 1) > 0 && strstr(text, ") Z")))
			i = 6000;
		if (s >= 0)
			close(s);
		if (i == 5999)
			fail_msg("%d lives on", a);
		poll(NULL, 0, 10);
	}
	assert_false(alive(b));
}

/* HELLO and the first request in one piece: HELLO's answer comes first, whatever the request and
 * its own answer. */
static void a_request_right_behind_hello(void **state)
{
	char *runs[] = {"true", NULL}, *is_not[] = {"/no/such", NULL};
	const struct {
		uint16_t request;
		char **argv;
		uint16_t answer;
	} c[] = {{AGENT_EXEC, runs, AGENT_STARTED},
		 {AGENT_EXEC, is_not, AGENT_ERROR},
		 {AGENT_INFO, NULL, AGENT_INFO_IS},
		 {AGENT_THAW, NULL, AGENT_ERROR}};
	struct fixture *x = *state;

	for (size_t i = 0; i < ARRAY_SIZE(c); i++) {
		const struct agent_exec req = {.argv = c[i].argv};
		cleanup_writer struct writer hello = WRITER_INIT, exec = WRITER_INIT,
					     both = WRITER_INIT;
		struct agent_frame f = {0};
		struct err e = ERR_INIT;
		int fd = begin_raw(x);

		agent_put_hello(&hello);
		if (c[i].argv)
			agent_put_exec(&exec, &req);
		for (int k = 0; k < 2; k++) {
			const struct writer *w = k ? &exec : &hello;
			uint8_t hdr[AGENT_FRAME_HDR];

			agent_header_put(hdr, k ? c[i].request : AGENT_HELLO, (uint32_t)w->len);
			put_bytes(&both, hdr, sizeof(hdr));
			put_bytes(&both, w->p, w->len);
		}
		assert_int_equal(write(fd, both.p, both.len), (ssize_t)both.len);
		assert_int_equal(agent_frame_read(fd, &f, MS, &e), 0);
		assert_int_equal(f.type, AGENT_HELLO);
		assert_int_equal(agent_frame_read(fd, &f, MS, &e), 0);
		assert_int_equal(f.type, c[i].answer);
		close(fd);
		ended(x);
		agent_frame_free(&f);
	}
}

/* ---- hostile peers ------------------------------------------------------------------------- */

static void garbage_ends_the_session(void **state)
{
	static const struct {
		const char *p;
		size_t n;
	} bad[] = {
		{"GET / HTTP/1.1\r\n\r\n", 18},
		{"\xff\xff\xff\xff\x01\x00\x00\x00", 8},	      /* a HELLO of 4 GiB */
		{"\x06\x00\x00\x00\x01\x00\x00\x00SMva\x00\x00", 14}, /* version 0 */
		{"\x00\x00\x00\x00\x0f\x00\x00\x00", 8},	      /* INFO before HELLO */
		{"\x06\x00\x00\x00\x01\x00\x00\x00XXXX\x01\x00", 14}, /* wrong magic */
	};
	struct fixture *x = *state;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		int fd = begin_raw(x);
		struct agent_frame f = {0};
		struct err e = ERR_INIT;

		assert_int_equal(write(fd, bad[i].p, bad[i].n), (ssize_t)bad[i].n);
		assert_int_equal(agent_frame_read(fd, &f, MS, &e), 0);
		assert_int_equal(f.type, AGENT_ERROR);
		assert_int_equal(agent_get_error(&f, &e), -EPROTO);
		ended(x);
		agent_frame_free(&f);
		close(fd);
	}
}

static void a_broken_session_kills_its_program(void **state)
{
	struct fixture *x = *state;
	char *argv[] = {"sleep", "300", NULL};
	struct agent_exec req = {.argv = argv};
	int fd = begin_raw(x);
	struct agent_frame f = {0};
	cleanup_writer struct writer w = WRITER_INIT, hello = WRITER_INIT;
	struct err e = ERR_INIT;
	pid_t pid;

	agent_put_hello(&hello);
	agent_put_exec(&w, &req);
	assert_int_equal(agent_frame_send(fd, AGENT_HELLO, &hello, MS, &e), 0);
	assert_int_equal(agent_frame_send(fd, AGENT_EXEC, &w, MS, &e), 0);
	assert_int_equal(agent_frame_read(fd, &f, MS, &e), 0);
	assert_int_equal(agent_frame_read(fd, &f, MS, &e), 0);
	assert_int_equal(f.type, AGENT_STARTED);
	pid = f.data[0] | f.data[1] << 8 | f.data[2] << 16;
	assert_true(alive(pid));
	/* A second EXEC in a session has no place. */
	assert_int_equal(agent_frame_send(fd, AGENT_EXEC, &w, MS, &e), 0);
	do
		assert_int_equal(agent_frame_read(fd, &f, MS, &e), 0);
	while (f.type != AGENT_ERROR);
	ended(x);
	assert_false(alive(pid));
	agent_frame_free(&f);
	close(fd);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(streams_are_separate),
		T(stdin_reaches_the_program_and_ends),
		T(without_stdin_it_reads_nothing),
		T(a_signal_ends_it),
		T(a_timeout_kills_the_group),
		T(environment_directory_and_user),
		T(a_named_user_with_groups),
		T(refusals_say_why),
		T(ten_megabytes_arrive_whole),
		T(megabytes_both_ways_at_once),
		T(a_background_child_does_not_hold_the_session),
		T(stdin_to_a_program_that_left_is_dropped),
		T(a_terminal_of_the_right_size),
		T(signals_and_window_size),
		T(over_descriptors),
		T(a_guest_that_never_ends_its_program_is_left),
		T(a_slow_reader_costs_the_guest_no_time),
		T(a_dropped_connection_kills_the_group),
		T(a_request_right_behind_hello),
		T(garbage_ends_the_session),
		T(a_broken_session_kills_its_program),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
