/* Who waits for whom at a control socket, and for how long: clients that are slow, or too many, and
 * servers that do not answer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "runner/control/control.h"
#include "runner/guest/agent_client.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/io.h"
#include "smfs/base/unix_socket.h"

static char base[] = "/tmp/control-waits.XXXXXX";

static int op_echo(void *arg, struct control_request *rq, const json_t *body, json_t *reply,
		   struct err *err)
{
	json_object_set(reply, "said", json_object_get(body, "say"));
	return 0;
}

static const struct control_op echo[] = {{"echo", op_echo}, {0}};

struct server {
	struct control *c;
	int end_fd;
	pthread_t thread;
	char path[64];
};

static void *serve(void *arg)
{
	struct server *s = arg;

	return (void *)(intptr_t)control_serve(s->c, s->end_fd, NULL);
}

static void server_start(struct server *s, const struct control_op *ops)
{
	struct err err = ERR_INIT;

	snprintf(s->path, sizeof(s->path), "%s/c.sock", base);
	s->end_fd = eventfd(0, EFD_CLOEXEC);
	assert_int_equal(control_listen(s->path, ops, NULL, &s->c, &err), 0);
	assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
}

static void server_stop(struct server *s)
{
	void *r;

	eventfd_write(s->end_fd, 1);
	pthread_join(s->thread, &r);
	assert_null(r);
	control_free(s->c);
	close(s->end_fd);
}

static int connect_raw(const char *path)
{
	/* control_call() cannot send garbage, so speak to the socket directly. */
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
	assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	return fd;
}

/* A byte of an answer now and then, until the caller has had enough of it. */
static void *dribble(void *arg)
{
	const struct timespec pause = {.tv_nsec = 20000000};
	int fd = accept(*(int *)arg, NULL, NULL);

	while (send(fd, " ", 1, MSG_NOSIGNAL) == 1)
		nanosleep(&pause, NULL);
	close(fd);
	return NULL;
}

static void an_answer_that_never_ends_is_not_waited_for(void **state)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	struct err err = ERR_INIT;
	json_t *reply = NULL;
	pthread_t thread;

	snprintf(a.sun_path, sizeof(a.sun_path), "%s/slow.sock", base);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(pthread_create(&thread, NULL, dribble, &fd), 0);
	assert_int_equal(
		control_call(a.sun_path, json_pack("{s:s}", "op", "x"), 300, &reply, NULL, &err),
		-ETIMEDOUT);
	pthread_join(thread, NULL);
	close(fd);
	unlink(a.sun_path);
}

/* Its queue is full: not even connecting takes longer than the caller has. */
static void a_process_that_takes_nobody_is_given_up_in_time(void **state)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	struct err err = ERR_INIT;
	struct agent *agent;
	int queued[8], n = 0, fd;

	snprintf(a.sun_path, sizeof(a.sun_path), "%s/full.sock", base);
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(listener, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(listener, 1), 0);
	while ((fd = unix_connect(a.sun_path, 0, &err)) >= 0) {
		assert_true(n < 8);
		queued[n++] = fd;
	}
	int64_t began = monotonic_ms();
	assert_int_equal(
		control_call(a.sun_path, json_pack("{s:s}", "op", "x"), 300, NULL, NULL, &err),
		-ETIMEDOUT);
	assert_in_range(monotonic_ms() - began, 299, 30000);
	began = monotonic_ms();
	assert_int_equal(agent_connect(a.sun_path, 300, &agent, &err), -ETIMEDOUT);
	assert_in_range(monotonic_ms() - began, 299, 30000);
	while (n)
		close(queued[--n]);
	close(listener);
	unlink(a.sun_path);
}

static int op_much(void *arg, struct control_request *rq, const json_t *body, json_t *reply,
		   struct err *err)
{
	const size_t n = 16 << 20;
	char *text = malloc(n);

	memset(text, 'x', n);
	json_object_set_new(reply, "much", json_stringn(text, n));
	free(text);
	return 0;
}

/* It takes a little of its answer again and again: others wait for it only so long. */
static void who_takes_its_answer_slowly_is_given_up(void **state)
{
	static const struct control_op much[] = {{"much", op_much}, {"echo", op_echo}, {0}};
	const int64_t began = monotonic_ms();
	struct err err = ERR_INIT;
	char *part = malloc(65536);
	struct server s;

	server_start(&s, much);
	int fd = connect_raw(s.path);
	assert_int_equal(write_full(fd, "{\"op\": \"much\"}\n", 15), 0);
	while (read(fd, part, 65536) > 0 && monotonic_ms() - began < 60000)
		poll(NULL, 0, 500);
	assert_true(monotonic_ms() - began < 40000);
	close(fd);
	assert_int_equal(
		control_call(s.path, json_pack("{s:s}", "op", "echo"), 5000, NULL, NULL, &err), 0);
	server_stop(&s);
	free(part);
}

static void on_alarm(int sig)
{
}

static int op_slow(void *arg, struct control_request *rq, const json_t *body, json_t *reply,
		   struct err *err)
{
	poll(NULL, 0, 300);
	json_object_set_new(reply, "said", json_string("done"));
	return 0;
}

/* Of a program that uses the library: children of a fork would be nobody's. */
static void an_answer_is_awaited_whatever_signals_come(void **state)
{
	static const struct control_op slow[] = {{"slow", op_slow}, {0}};
	const struct itimerval often = {.it_interval.tv_usec = 20000, .it_value.tv_usec = 20000};
	const struct sigaction act = {.sa_handler = on_alarm};
	struct err err = ERR_INIT;
	json_t *reply = NULL;
	struct server s;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGALRM);
	/* They are this thread's. */
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	server_start(&s, slow);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	assert_int_equal(sigaction(SIGALRM, &act, NULL), 0);
	assert_int_equal(setitimer(ITIMER_REAL, &often, NULL), 0);
	const int r =
		control_call(s.path, json_pack("{s:s}", "op", "slow"), 20000, &reply, NULL, &err);
	const int late =
		control_call(s.path, json_pack("{s:s}", "op", "slow"), 100, NULL, NULL, &err);
	setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
	assert_int_equal(r, 0);
	assert_string_equal(json_string_value(json_object_get(reply, "said")), "done");
	assert_int_equal(late, -ETIMEDOUT);
	json_decref(reply);
	server_stop(&s);
}

static int64_t cpu_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Without a descriptor for it a client waits in line, which takes nobody's processor. */
static void who_cannot_be_taken_is_taken_later(void **state)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	struct rlimit before, none;
	struct server s;
	char c;

	server_start(&s, echo);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	none = (struct rlimit){.rlim_cur = 3, .rlim_max = before.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", s.path);
	const int r = connect(fd, (struct sockaddr *)&sa, sizeof(sa));
	const int64_t cpu = cpu_ms();
	(void)!send(fd, "{\"op\": \"echo\"}\n", 15, MSG_NOSIGNAL);
	poll(NULL, 0, 500);
	const int64_t took = cpu_ms() - cpu;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	assert_int_equal(r, 0);
	assert_int_equal(read_full(fd, &c, 1), 0);
	assert_int_equal(c, '{');
	assert_true(took < 100);
	close(fd);
	server_stop(&s);
}

static int setup(void **state)
{
	return mkdtemp(base) ? 0 : -1;
}

static int teardown(void **state)
{
	return rmdir(base);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_answer_that_never_ends_is_not_waited_for),
		cmocka_unit_test(a_process_that_takes_nobody_is_given_up_in_time),
		cmocka_unit_test(who_takes_its_answer_slowly_is_given_up),
		cmocka_unit_test(who_cannot_be_taken_is_taken_later),
		cmocka_unit_test(an_answer_is_awaited_whatever_signals_come),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
