/* The control requests: info, the generation contract, wait, stop; and getting through to an agent
 * at all. */
#include "tests/unit/agent_session.h"

#include "runner/agent/control.h"

#include <sys/prctl.h>
#include <sys/un.h>
#include <time.h>

#define HOOK_MS 5000 /* in place of a hook's usual time */

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
	x->g.shared->entry_exit = (struct agent_exit){.kind = AGENT_EXIT_CODE, .value = 2};
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
				       .wall_ns = AGENT_WALL_NOW,
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

/* The clock policy "freeze". */
static void a_clock_can_be_left_alone(void **state)
{
	static struct agent_results rs;
	struct fixture *x = *state;
	struct agent_generation gen = {.number = 8, .entropy_len = 32, .hostname = "h"};
	struct err e = ERR_INIT;
	struct agent *a = begin(x);

	assert_int_equal(agent_generation(a, &gen, MS, &rs, &e), 0);
	assert_string_equal(x->rec->log, "entropy hostname ");
	end(x, a);
}

static void a_slow_hook_is_killed(void **state)
{
	static struct agent_results rs;
	struct fixture *x = *state;
	struct agent_generation gen = {.number = 1, .entropy_len = 32};
	struct err e = ERR_INIT;

	x->g.hook_ms = HOOK_MS;
	write_hook(x, "post-restore.d", "slow", "#!/bin/sh\necho begun; sleep 300\n", 0755);
	struct agent *a = begin(x);
	assert_int_equal(agent_generation(a, &gen, 2 * MS, &rs, &e), 0);
	assert_int_equal(find(&rs, "hook:slow")->code, ETIMEDOUT);
	assert_non_null(strstr(find(&rs, "hook:slow")->detail, "begun"));
	assert_in_range(find(&rs, "hook:slow")->limit_ms, 1, HOOK_MS);
	end(x, a);
}

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

static pid_t pid_in(const struct fixture *x, const char *file)
{
	char path[128], *text;
	struct err e = ERR_INIT;
	pid_t pid;

	snprintf(path, sizeof(path), "%s/%s", x->root, file);
	assert_int_equal(read_file(AT_FDCWD, path, 64, &text, NULL, &e), 0);
	pid = atoi(text);
	free(text);
	assert_true(pid > 1);
	return pid;
}

static void wait_gone(pid_t pid)
{
	for (int i = 0; i < 6000 && kill(pid, 0) == 0; i++)
		poll(NULL, 0, 10);
	assert_int_equal(kill(pid, 0), -1);
}

/* Nor does what it has started live on, in whatever session that is. */
static void a_slow_hook_is_killed_with_its_children(void **state)
{
	static struct agent_results rs;
	struct fixture *x = *state;
	struct agent_generation gen = {.number = 1, .entropy_len = 32};
	struct err e = ERR_INIT;
	char body[512];

	if (!have_cgroup(x)) {
		print_message("# no writable cgroup2 here\n");
		skip();
	}
	x->g.hook_ms = HOOK_MS;
	snprintf(body, sizeof(body),
		 "#!/bin/sh\nsetsid sh -c 'echo $$ >%s/away; exec sleep 300' &\nsleep 300\n",
		 x->root);
	write_hook(x, "post-restore.d", "10-slow", body, 0755);
	snprintf(body, sizeof(body),
		 "#!/bin/sh\nsetsid sh -c 'echo $$ >%s/stays; exec sleep 300' >/dev/null 2>&1 &\n"
		 "while ! [ -s %s/stays ]; do sleep 0.01; done\n",
		 x->root, x->root);
	write_hook(x, "post-restore.d", "20-service", body, 0755);
	struct agent *a = begin(x);
	assert_int_equal(agent_generation(a, &gen, 2 * MS, &rs, &e), 0);
	assert_int_equal(find(&rs, "hook:10-slow")->code, ETIMEDOUT);
	assert_int_equal(find(&rs, "hook:20-service")->code, 0);
	/* The kill is done before the result is told; the process may take an instant to be gone.
	 */
	wait_gone(pid_in(x, "away"));

	/* What a hook leaves behind in good time lives, as part of the workload. */
	char path[256], *procs, line[32];
	snprintf(path, sizeof(path), "%s/cgroup.procs", x->cgroup);
	assert_int_equal(read_file(AT_FDCWD, path, 65536, &procs, NULL, &e), 0);
	snprintf(line, sizeof(line), "%d\n", (int)pid_in(x, "stays"));
	assert_non_null(strstr(procs, line));
	free(procs);
	assert_int_equal(kill(pid_in(x, "stays"), SIGKILL), 0);
	wait_gone(pid_in(x, "stays"));
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
	x->g.shared->entry_exit = (struct agent_exit){.kind = AGENT_EXIT_CODE, .value = 6};
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
	if (read(fd, line, 13) != 13 || memcmp(line, "CONNECT 1024\n", 13) != 0 ||
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
	/* One that had answered before, and ends over a request. */
	assert_int_equal(read(gone[0], &(char){0}, 1), 1);
	x->session = fork();
	if (x->session == 0) {
		char line[32];
		int fd = accept(l, NULL, NULL);

		if (read(fd, line, 13) != 13 || write(fd, "OK 8\n", 5) != 5)
			_exit(1);
		session_serve(&x->g, fd);
		_exit(0);
	}
	assert_int_equal(agent_connect_unless(path, MS, gone[0], &a, &e), 0);
	assert_int_equal(kill(x->session, SIGSTOP), 0);
	assert_int_equal(write(gone[1], "", 1), 1);
	assert_int_equal(agent_thaw(a, 10 * MS, NULL, &e), -ECANCELED);
	assert_int_equal(kill(x->session, SIGCONT), 0);
	end(x, a);
	close(gone[0]);
	close(gone[1]);
	close(l);
}

/* A guest that has begun its answer, and does not end it, holds nobody who is to give up. */
static void giving_up_needs_no_guest(void **state)
{
	static const uint8_t half[AGENT_FRAME_HDR] = {6, 0, 0, 0, AGENT_HELLO};
	struct fixture *x = *state;
	char path[128];
	struct err e = ERR_INIT;
	struct agent *a;
	int gone[2];

	snprintf(path, sizeof(path), "%s/vsock.sock", x->root);
	int l = listen_at(path);
	assert_int_equal(pipe(gone), 0);
	pid_t guest = fork();
	if (guest == 0) {
		char line[32];

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		int fd = accept(l, NULL, NULL);
		if (read(fd, line, 13) != 13 || write(fd, "OK 7\n", 5) != 5 ||
		    write(fd, half, sizeof(half)) != sizeof(half))
			_exit(1);
		poll(NULL, 0, 100);
		_exit(write(gone[1], "", 1) != 1 || pause() == 0);
	}
	assert_int_equal(agent_connect_unless(path, MS, gone[0], &a, &e), -ECANCELED);
	/* While the rest of the answer was awaited, not once that had taken too long. */
	assert_non_null(strstr(e.msg, "agent connection: given up"));
	kill(guest, SIGKILL);
	waitpid(guest, NULL, 0);
	close(gone[0]);
	close(gone[1]);
	close(l);
}

/* ---- the freezer, where this host has one to spare ----------------------------------------- */

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

/* The peer gives up while a hook still runs: it will not thaw what it does not know to be frozen.
 */
static void an_unheard_prepare_is_taken_back(void **state)
{
	struct fixture *x = *state;
	cleanup_writer struct writer hello = WRITER_INIT;
	struct agent_frame f = {0};
	struct err e = ERR_INIT;
	struct agent_info i;

	if (!have_cgroup(x)) {
		print_message("# no writable cgroup2 here\n");
		skip();
	}
	write_hook(x, "pre-snapshot.d", "slow", "#!/bin/sh\nsleep 0.5\n", 0755);
	int fd = begin_raw(x);
	agent_put_hello(&hello);
	assert_int_equal(agent_frame_send(fd, AGENT_HELLO, &hello, MS, &e), 0);
	assert_int_equal(agent_frame_read(fd, &f, MS, &e), 0);
	assert_int_equal(agent_frame_write(fd, AGENT_PREPARE, NULL, 0, MS, &e), 0);
	close(fd);
	ended(x);
	struct agent *a = begin(x);
	assert_int_equal(agent_info(a, &i, MS, &e), 0);
	assert_false(i.frozen);
	/* And it was not merely skipped: the hook ran, and the next one gets as far. */
	assert_int_equal(agent_prepare(a, MS, NULL, &e), 0);
	assert_int_equal(agent_thaw(a, MS, NULL, &e), 0);
	end(x, a);
	agent_frame_free(&f);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(info_tells_the_state),
		T(a_generation_is_applied_in_order),
		T(a_clock_can_be_left_alone),
		T(a_slow_hook_is_killed),
		T(a_slow_hook_is_killed_with_its_children),
		T(prepare_without_a_freezer_is_refused),
		T(one_control_request_at_a_time),
		T(the_clock_is_set_on_request),
		T(wait_and_stop),
		T(connecting_waits_for_the_agent),
		T(connecting_ends_with_the_guest),
		T(giving_up_needs_no_guest),
		T(frozen_means_frozen),
		T(an_unheard_prepare_is_taken_back),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
