/*
 * Sessions of smvm-init on the host: the same code that serves vsock in a guest, over a socket
 * pair, against the real client. Identity operations only record what they were asked.
 */
#include "runner/agent/cgroup.h"
#include "runner/agent/control.h"
#include "runner/agent/session.h"
#include "runner/guest/agent_client.h"
#include "runner/proto/mailbox.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"

#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define MS 10000

/* Shared with the sessions, which are processes of their own. */
struct record {
	char log[256];
	uint8_t seed[AGENT_ENTROPY_MAX];
	uint64_t wall_ns;
	char hostname[256], machine_id[64];
	bool fail_clock;
};

struct fixture {
	char root[64];
	char cgroup[128];
	struct record *rec;
	struct bootconf conf;
	struct guest g;
	uint8_t mailbox[MAILBOX_SIZE];
	pid_t session;
	int first; /* an earlier connection, which a later session must not hold open */
};

static struct record *record; /* the operations get no context but the guest */

static int fake_entropy(struct guest *g, const void *seed, size_t len, struct err *err)
{
	memcpy(record->seed, seed, len);
	strcat(record->log, "entropy ");
	return 0;
}

static int fake_clock(struct guest *g, uint64_t wall_ns, struct err *err)
{
	record->wall_ns = wall_ns;
	strcat(record->log, "clock ");
	return record->fail_clock ? err_set(err, EPERM, "set the clock: not today") : 0;
}

static int fake_hostname(struct guest *g, const char *name, struct err *err)
{
	strcpy(record->hostname, name);
	strcat(record->log, "hostname ");
	return 0;
}

static int fake_machine_id(struct guest *g, const char *id, struct err *err)
{
	strcpy(record->machine_id, id);
	strcat(record->log, "machine-id ");
	return 0;
}

static const struct identity_ops fake = {fake_entropy, fake_clock, fake_hostname, fake_machine_id};

static int setup(void **state)
{
	static char *base_env[] = {"BASE=from-boot", "PATH=/usr/bin:/bin", NULL};
	struct fixture *x = calloc(1, sizeof(*x));
	struct err e = ERR_INIT;

	signal(SIGPIPE, SIG_IGN);
	strcpy(x->root, "/tmp/agent-test.XXXXXX");
	assert_non_null(mkdtemp(x->root));
	x->rec = mmap(NULL, sizeof(*x->rec), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	record = x->rec;
	x->conf.env = base_env;
	x->conf.cwd = "/";
	x->g = (struct guest){.conf = &x->conf,
			      .identity = &fake,
			      .root = x->root,
			      .power_wr = -1,
			      .ended_rd = -1};
	assert_int_equal(shared_new(&x->g.shared, &e), 0);
	*state = x;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *x = *state;
	char cmd[128];

	if (x->cgroup[0])
		rmdir(x->cgroup);
	snprintf(cmd, sizeof(cmd), "rm -rf %s", x->root);
	assert_int_equal(system(cmd), 0);
	munmap(x->rec, sizeof(*x->rec));
	munmap(x->g.shared, sizeof(*x->g.shared));
	free(x);
	return 0;
}

/* A session in a child, as process 1 forks it; the peer's end. */
static int begin_raw(struct fixture *x)
{
	int s[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
	x->session = fork();
	assert_true(x->session >= 0);
	if (x->session == 0) {
		close(s[0]);
		if (x->first > 0)
			close(x->first);
		/* What a session logs is the guest's console's. */
		dup2(open("/dev/null", O_WRONLY), STDERR_FILENO);
		session_serve(&x->g, s[1]);
		_exit(0);
	}
	close(s[1]);
	return s[0];
}

static struct agent *begin(struct fixture *x)
{
	struct agent *a = NULL;
	struct err e = ERR_INIT;

	if (agent_attach(begin_raw(x), MS, &a, &e) < 0)
		fail_msg("%s", e.msg);
	return a;
}

/* The session ends by itself once its peer is gone: within five seconds, or the test fails. */
static void ended(struct fixture *x)
{
	for (int i = 0; i < 500; i++) {
		int status;

		if (waitpid(x->session, &status, WNOHANG) == x->session) {
			assert_true(WIFEXITED(status));
			assert_int_equal(WEXITSTATUS(status), 0);
			return;
		}
		poll(NULL, 0, 10);
	}
	kill(x->session, SIGKILL);
	waitpid(x->session, NULL, 0);
	fail_msg("the session did not end");
}

static void end(struct fixture *x, struct agent *a)
{
	agent_close(a);
	ended(x);
}

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

	if (getuid() != 0)
		skip();
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
	struct agent *a = begin(x);
	struct agent_frame f = {0};
	struct agent_exit exit;
	struct err e = ERR_INIT;
	char seen[4096] = "";
	int fd = -1, sent = 0;

	/* The raw connection, to interleave by hand. */
	end(x, a);
	fd = begin_raw(x);
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
	for (int i = 0; alive(a) && i < 200; i++) {
		char path[64], text[128] = "";
		snprintf(path, sizeof(path), "/proc/%d/stat", a);
		int s = open(path, O_RDONLY);
		if (s < 0 || (read(s, text, sizeof(text) - 1) > 0 && strstr(text, ") Z")))
			i = 200;
		if (s >= 0)
			close(s);
		if (i == 199)
			fail_msg("%d lives on", a);
		poll(NULL, 0, 10);
	}
	assert_false(alive(b));
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

/* ---- control ------------------------------------------------------------------------------- */

static void info_tells_the_state(void **state)
{
	struct fixture *x = *state;
	struct mailbox m = {.generation = 5};
	struct agent_info i;
	struct err e = ERR_INIT;

	mailbox_put(x->mailbox, &m);
	x->g.mailbox = x->mailbox;
	x->g.shared->generation = 4;
	x->g.shared->entry_state = AGENT_ENTRY_EXITED;
	x->g.shared->entry_exit = (struct agent_exit){AGENT_EXIT_CODE, 2};
	struct agent *a = begin(x);
	assert_int_equal(agent_info(a, &i, MS, &e), 0);
	assert_int_equal(i.generation, 4);
	assert_int_equal(i.entry_exit.value, 2);
	assert_true(i.mailbox);
	assert_int_equal(i.mailbox_generation, 5);
	assert_true(i.uptime_ms > 0 && i.kernel[0]);
	end(x, a);
}

static const struct agent_result *find(const struct agent_results *rs, const char *item)
{
	for (unsigned i = 0; i < rs->n; i++)
		if (!strcmp(rs->r[i].item, item))
			return &rs->r[i];
	fail_msg("no result for %s", item);
	return NULL;
}

static void write_hook(struct fixture *x, const char *folder, const char *name, const char *body,
		       unsigned mode)
{
	char cmd[256], path[256];
	struct err e = ERR_INIT;

	snprintf(cmd, sizeof(cmd), "mkdir -p %s/etc/smvm/%s", x->root, folder);
	assert_int_equal(system(cmd), 0);
	snprintf(path, sizeof(path), "%s/etc/smvm/%s/%s", x->root, folder, name);
	assert_int_equal(write_file_atomic(AT_FDCWD, path, body, strlen(body), mode, &e), 0);
}

static void a_generation_is_applied_in_order(void **state)
{
	static struct agent_results rs;
	struct fixture *x = *state;
	struct agent_generation gen = {.number = 8,
				       .uuid = {0xab, 0xcd},
				       .entropy = {1, 2, 3},
				       .entropy_len = 32,
				       .hostname = "fork-8",
				       .machine_id = "0123456789abcdef0123456789abcdef"};
	struct mailbox m = {.generation = 7};
	struct err e = ERR_INIT;
	struct agent_info i;
	const char *order[] = {"mailbox",    "entropy",	    "clock",	    "hostname",
			       "machine-id", "hook:10-say", "hook:20-fail", "hook:30-last"};

	mailbox_put(x->mailbox, &m);
	x->g.mailbox = x->mailbox;
	x->rec->fail_clock = true;
	write_hook(x, "post-restore.d", "10-say",
		   "#!/bin/sh\necho gen $SMVM_GENERATION $SMVM_UUID\n", 0755);
	write_hook(x, "post-restore.d", "20-fail", "#!/bin/sh\necho oh no >&2; exit 3\n", 0755);
	write_hook(x, "post-restore.d", "30-last", "#!/bin/sh\nexit 0\n", 0755);
	write_hook(x, "post-restore.d", "40-not-executable", "#!/bin/sh\n", 0644);
	write_hook(x, "post-restore.d", "50-backup~", "#!/bin/sh\n", 0755);
	struct agent *a = begin(x);
	assert_int_equal(agent_generation(a, &gen, MS, &rs, &e), 0);
	assert_int_equal(rs.n, ARRAY_SIZE(order));
	for (size_t k = 0; k < ARRAY_SIZE(order); k++)
		assert_string_equal(rs.r[k].item, order[k]);
	assert_string_equal(x->rec->log, "entropy clock hostname machine-id ");
	assert_int_equal(find(&rs, "mailbox")->code, ESTALE);
	assert_int_equal(find(&rs, "clock")->code, EPERM);
	assert_int_equal(find(&rs, "entropy")->code, 0);
	assert_string_equal(find(&rs, "hook:10-say")->detail,
			    "gen 8 abcd0000-0000-0000-0000-000000000000");
	assert_int_equal(find(&rs, "hook:20-fail")->code, 256 + 3);
	assert_string_equal(find(&rs, "hook:20-fail")->detail, "oh no");
	assert_string_equal(x->rec->hostname, "fork-8");
	assert_memory_equal(x->rec->seed, gen.entropy, 32);
	/* Filled in at the moment of sending. */
	assert_true(x->rec->wall_ns / 1000000000u + 60 > (uint64_t)time(NULL));
	assert_int_equal(agent_info(a, &i, MS, &e), 0);
	assert_int_equal(i.generation, 8);
	assert_int_equal(i.uuid[1], 0xcd);
	end(x, a);
}

static void a_slow_hook_is_killed(void **state)
{
	static struct agent_results rs;
	struct fixture *x = *state;
	struct agent_generation gen = {.number = 1, .entropy_len = 32};
	struct err e = ERR_INIT;

	x->g.hook_ms = 300;
	write_hook(x, "post-restore.d", "slow", "#!/bin/sh\necho begun; sleep 300\n", 0755);
	struct agent *a = begin(x);
	assert_int_equal(agent_generation(a, &gen, 2 * MS, &rs, &e), 0);
	assert_int_equal(find(&rs, "hook:slow")->code, ETIMEDOUT);
	assert_non_null(strstr(find(&rs, "hook:slow")->detail, "begun"));
	end(x, a);
}

static void prepare_without_a_freezer_is_refused(void **state)
{
	struct fixture *x = *state;
	struct agent *a = begin(x);
	struct err e = ERR_INIT;
	struct agent_info i;

	assert_int_equal(agent_prepare(a, MS, NULL, &e), -ENOTSUP);
	assert_int_equal(agent_info(a, &i, MS, &e), 0);
	assert_false(i.frozen);
	end(x, a);
}

static void one_control_request_at_a_time(void **state)
{
	struct fixture *x = *state;
	struct agent *a = begin(x);
	struct err e = ERR_INIT;

	x->g.shared->control = 1;
	assert_int_equal(agent_thaw(a, MS, NULL, &e), -EBUSY);
	control_release_dead(&x->g, 1);
	assert_int_equal(agent_thaw(a, MS, NULL, &e), -ENOTSUP);
	end(x, a);
}

static void the_clock_is_set_on_request(void **state)
{
	struct fixture *x = *state;
	struct agent *a = begin(x);
	struct err e = ERR_INIT;

	assert_int_equal(agent_clock(a, MS, &e), 0);
	assert_true(x->rec->wall_ns / 1000000000u + 60 > (uint64_t)time(NULL));
	x->rec->fail_clock = true;
	assert_int_equal(agent_clock(a, MS, &e), -EPERM);
	assert_non_null(strstr(e.msg, "not today"));
	end(x, a);
}

static void wait_and_stop(void **state)
{
	struct fixture *x = *state;
	struct agent *a = begin(x);
	struct agent_exit exit;
	struct err e = ERR_INIT;
	int ended_pipe[2], power[2];
	uint32_t grace = 0;

	assert_int_equal(agent_wait(a, MS, &exit, &e), -ENOENT);
	assert_int_equal(agent_stop(a, 123, MS, &e), -ENOTSUP);
	end(x, a);
	assert_int_equal(pipe2(ended_pipe, O_CLOEXEC), 0);
	assert_int_equal(pipe2(power, O_CLOEXEC), 0);
	x->g.ended_rd = ended_pipe[0];
	x->g.power_wr = power[1];
	x->g.shared->entry_exit = (struct agent_exit){AGENT_EXIT_CODE, 6};
	a = begin(x);
	/* The session has a copy of the write end, which process 1's children close: end it here.
	 */
	assert_int_equal(write(ended_pipe[1], "", 1), 1);
	assert_int_equal(agent_wait(a, MS, &exit, &e), 0);
	assert_int_equal(exit.value, 6);
	assert_int_equal(agent_stop(a, 123, MS, &e), 0);
	assert_int_equal(read(power[0], &grace, sizeof(grace)), sizeof(grace));
	assert_int_equal(grace, 123);
	end(x, a);
	for (int k = 0; k < 2; k++) {
		close(ended_pipe[k]);
		close(power[k]);
	}
}

/* ---- connecting through vsock.sock ------------------------------------------------------------
 */

static int listen_at(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(a.sun_path, path);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 8), 0);
	return fd;
}

/* The device's side: the guest refuses, loses a connection, and then answers. */
static void play_device(struct fixture *x, int l)
{
	char line[32];
	int fd;

	close(accept(l, NULL, NULL));
	fd = accept(l, NULL, NULL);
	if (read(fd, line, sizeof(line)) != 13 || memcmp(line, "CONNECT 1024\n", 13) != 0 ||
	    write(fd, "OK 7\n", 5) != 5)
		_exit(1);
	close(fd);
	fd = accept(l, NULL, NULL);
	if (read(fd, line, 13) != 13 || write(fd, "OK 8\n", 5) != 5)
		_exit(1);
	session_serve(&x->g, fd);
	_exit(0);
}

static void connecting_waits_for_the_agent(void **state)
{
	struct fixture *x = *state;
	char path[128];
	struct err e = ERR_INIT;
	struct agent_info i;
	struct agent *a;

	snprintf(path, sizeof(path), "%s/vsock.sock", x->root);
	assert_int_equal(agent_connect(path, 50, &a, &e), -ETIMEDOUT);
	assert_non_null(strstr(e.msg, path));
	int l = listen_at(path);
	x->session = fork();
	if (x->session == 0)
		play_device(x, l);
	close(l);
	if (agent_connect(path, MS, &a, &e) < 0)
		fail_msg("%s", e.msg);
	assert_int_equal(agent_info(a, &i, MS, &e), 0);
	end(x, a);
}

/* A guest that takes the connection and never answers, and then is no more. */
static void connecting_ends_with_the_guest(void **state)
{
	struct fixture *x = *state;
	char path[128];
	struct err e = ERR_INIT;
	struct agent *a;
	int gone[2];

	snprintf(path, sizeof(path), "%s/vsock.sock", x->root);
	int l = listen_at(path);
	assert_int_equal(pipe(gone), 0);
	pid_t p = fork();
	if (p == 0) {
		int fd = accept(l, NULL, NULL);
		poll(NULL, 0, 100);
		_exit(write(gone[1], "", 1) != 1 || fd < 0 || pause() == 0);
	}
	assert_int_equal(agent_connect_unless(path, MS, gone[0], &a, &e), -ECANCELED);
	kill(p, SIGKILL);
	waitpid(p, NULL, 0);
	close(gone[0]);
	close(gone[1]);
	close(l);
}

/* ---- the freezer, where this host has one to spare ----------------------------------------- */

/* Finds cgroup2 and makes a group there; false (a skip) where that is not allowed. */
static bool have_cgroup(struct fixture *x)
{
	static const char *const mounts[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};

	for (size_t i = 0; i < ARRAY_SIZE(mounts); i++) {
		char probe[256];

		snprintf(x->cgroup, sizeof(x->cgroup), "%s/smvm-test-%d", mounts[i], getpid());
		snprintf(probe, sizeof(probe), "%s/cgroup.freeze", x->cgroup);
		if (mkdir(x->cgroup, 0755) < 0)
			continue;
		if (access(probe, W_OK) == 0) {
			x->g.cgroup = x->cgroup;
			return true;
		}
		rmdir(x->cgroup);
	}
	x->cgroup[0] = '\0';
	return false;
}

static void frozen_means_frozen(void **state)
{
	static struct agent_results rs;
	struct fixture *x = *state;
	char *argv[] = {"sh", "-c", "while echo tick; do sleep 0.01; done", NULL};
	char *t[] = {"true", NULL};
	struct agent_exec req = {.argv = argv};
	struct agent_generation gen = {.number = 2, .entropy_len = 32};
	struct agent_frame f = {0};
	cleanup_writer struct writer w = WRITER_INIT, hello = WRITER_INIT;
	struct err e = ERR_INIT;
	struct agent_info i;
	pid_t ticker;

	if (!have_cgroup(x)) {
		print_message("# no writable cgroup2 here\n");
		skip();
	}
	int fd = begin_raw(x);
	x->first = fd;
	ticker = x->session;
	agent_put_hello(&hello);
	agent_put_exec(&w, &req);
	assert_int_equal(agent_frame_send(fd, AGENT_HELLO, &hello, MS, &e), 0);
	assert_int_equal(agent_frame_send(fd, AGENT_EXEC, &w, MS, &e), 0);
	do
		assert_int_equal(agent_frame_read(fd, &f, MS, &e), 0);
	while (f.type != AGENT_STDOUT);

	write_hook(x, "pre-snapshot.d", "pre", "#!/bin/sh\nexit 0\n", 0755);
	struct agent *a = begin(x);
	assert_int_equal(agent_prepare(a, MS, &rs, &e), 0);
	assert_string_equal(rs.r[0].item, "hook:pre");
	assert_string_equal(rs.r[1].item, "freeze");
	assert_string_equal(rs.r[2].item, "sync");
	assert_int_equal(agent_prepare(a, MS, &rs, &e), -EALREADY);
	assert_int_equal(agent_exec_start(a, &(struct agent_exec){.argv = t}, MS, &e), -EAGAIN);
	/* What was under way arrives; then nothing. */
	while (agent_frame_read(fd, &f, 200, &e) == 0)
		;
	assert_int_equal(e.code, ETIMEDOUT);
	assert_int_equal(agent_info(a, &i, MS, &e), 0);
	assert_true(i.frozen);
	assert_int_equal(agent_generation(a, &gen, MS, &rs, &e), 0);
	assert_string_equal(rs.r[rs.n - 1].item, "thaw");
	assert_int_equal(agent_frame_read(fd, &f, MS, &e), 0);
	assert_int_equal(f.type, AGENT_STDOUT);
	/* A frozen program still dies with its connection. */
	assert_int_equal(agent_prepare(a, MS, &rs, &e), 0);
	close(fd);
	x->session = ticker;
	ended(x);
	assert_int_equal(agent_thaw(a, MS, &rs, &e), 0);
	agent_close(a);
	assert_true(wait(NULL) > 0);
	agent_frame_free(&f);
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
		T(a_dropped_connection_kills_the_group),
		T(garbage_ends_the_session),
		T(a_broken_session_kills_its_program),
		T(info_tells_the_state),
		T(a_generation_is_applied_in_order),
		T(a_slow_hook_is_killed),
		T(prepare_without_a_freezer_is_refused),
		T(one_control_request_at_a_time),
		T(the_clock_is_set_on_request),
		T(wait_and_stop),
		T(connecting_waits_for_the_agent),
		T(connecting_ends_with_the_guest),
		T(frozen_means_frozen),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
