/* runner/worker/warm_up.h, of a machine that is no more than its directory, its control socket and
 * an agent of the test's own: what ends the program that runs in it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "runner/control/vmm_internal.h"
#include "runner/guest/agent_client.h"
#include "runner/worker/warm_up.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/unix_socket.h"

#define LONG_MS 30000

static char base[] = "/tmp/test_warm_up.XXXXXX";

struct machine_of_ours {
	struct vmm v;
	struct vm *vm;
	char control[RUNDIR_PATH_MAX], vsock[RUNDIR_PATH_MAX];
	int agent_fd;	/* listens */
	int served_fd;	/* an eventfd: control_serve() has served the last of whom it was to */
	int running_fd; /* an eventfd: the program runs */
	bool ends;	/* the program does, at once */
	unsigned runs;
	pthread_t agent;
};

static int op_served(void *arg, struct control_request *rq, const json_t *body, json_t *reply,
		     struct err *err)
{
	struct machine_of_ours *m = arg;

	return eventfd_write(m->served_fd, 1);
}

static const struct control_op ops[] = {{"served", op_served}, {0}};

/* Sessions, one after the other, until the listener is shut: HELLO, STARTED, and EXIT if it ends.
 */
static void session(struct machine_of_ours *m, int fd)
{
	static const uint8_t pid[4] = {1}, hello[] = {0x53, 0x4d, 0x76, 0x61, 2, 0};
	cleanup_writer struct writer w = WRITER_INIT;
	const struct agent_exit exited = {.kind = AGENT_EXIT_CODE};
	struct agent_frame f = {0};
	char c = 0;

	while (c != '\n')
		if (recv(fd, &c, 1, 0) != 1)
			return;
	(void)!send(fd, "OK 1\n", 5, MSG_NOSIGNAL);
	while (agent_frame_read(fd, &f, LONG_MS, NULL) == 0) {
		if (f.type == AGENT_HELLO)
			agent_frame_write(fd, AGENT_HELLO, hello, sizeof(hello), LONG_MS, NULL);
		if (f.type != AGENT_EXEC)
			continue;
		m->runs++;
		agent_frame_write(fd, AGENT_STARTED, pid, sizeof(pid), LONG_MS, NULL);
		eventfd_write(m->running_fd, 1);
		if (!m->ends)
			continue;
		agent_put_exit(&w, &exited);
		agent_frame_write(fd, AGENT_EXIT, w.p, w.len, LONG_MS, NULL);
	}
	agent_frame_free(&f);
}

static void *agent_main(void *arg)
{
	struct machine_of_ours *m = arg;
	int fd;

	while ((fd = accept4(m->agent_fd, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
		session(m, fd);
		close(fd);
	}
	return NULL;
}

static int begin(void **state)
{
	struct machine_of_ours *m = calloc(1, sizeof(*m));
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	struct err err = ERR_INIT;

	assert_non_null(m);
	m->vm = calloc(1, sizeof(*m->vm));
	assert_non_null(m->vm);
	m->v.machine.vm = m->vm;
	m->v.has_agent = true;
	m->vm->end = VM_RUNNING;
	m->vm->end_fd = eventfd(0, EFD_CLOEXEC);
	m->served_fd = eventfd(0, EFD_CLOEXEC);
	m->running_fd = eventfd(0, EFD_CLOEXEC);
	assert_int_equal(rundir_create("w", &m->v.dir, &err), 0);
	rundir_file(m->v.dir, "control.sock", m->control);
	rundir_file(m->v.dir, "vsock.sock", m->vsock);
	assert_int_equal(control_listen(m->control, ops, m, &m->v.control, &err), 0);
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", m->vsock);
	m->agent_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(m->agent_fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(m->agent_fd, 8), 0);
	assert_int_equal(pthread_create(&m->agent, NULL, agent_main, m), 0);
	*state = m;
	return 0;
}

static int end(void **state)
{
	struct machine_of_ours *m = *state;

	shutdown(m->agent_fd, SHUT_RDWR);
	pthread_join(m->agent, NULL);
	close(m->agent_fd);
	unlink(m->vsock);
	control_free(m->v.control);
	rundir_remove(m->v.dir);
	close(m->vm->end_fd);
	close(m->served_fd);
	close(m->running_fd);
	free(m->vm);
	free(m);
	return 0;
}

static void say(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* A connection that the server has taken, and that has asked nothing yet. */
static int a_connected_client(struct machine_of_ours *m)
{
	struct err err = ERR_INIT;
	int fd = unix_connect(m->control, LONG_MS, &err);
	cleanup_fd int last = unix_connect(m->control, LONG_MS, &err);
	eventfd_t n;

	assert_true(fd >= 0 && last >= 0);
	/* They are taken in the order they came. */
	say(last, "{\"op\": \"served\"}\n");
	assert_int_equal(control_serve(m->v.control, m->served_fd, &err), 0);
	assert_int_equal(eventfd_read(m->served_fd, &n), 0);
	return fd;
}

struct asker {
	struct machine_of_ours *m;
	int fd; /* whom it speaks by; -1: it connects */
};

/* Asks once the program runs. */
static void *ask(void *arg)
{
	struct asker *a = arg;
	eventfd_t n;

	eventfd_read(a->m->running_fd, &n);
	if (a->fd < 0)
		a->fd = unix_connect(a->m->control, LONG_MS, NULL);
	(void)!send(a->fd, "{\"op\": \"served\"}\n", 17, MSG_NOSIGNAL);
	return NULL;
}

static void is_ended_by(struct machine_of_ours *m, int fd)
{
	struct asker a = {.m = m, .fd = fd};
	const int64_t began = monotonic_ms();
	struct err err = ERR_INIT;
	pthread_t thread;
	char c;

	assert_int_equal(pthread_create(&thread, NULL, ask, &a), 0);
	assert_int_equal(warm_up(&m->v, "endless", LONG_MS, -1, &err), -ECANCELED);
	assert_string_equal(err.msg, "another request has come");
	assert_true(monotonic_ms() - began < LONG_MS / 2);
	pthread_join(thread, NULL);
	/* And it is served then. */
	assert_int_equal(control_serve(m->v.control, m->served_fd, &err), 0);
	assert_int_equal(recv(a.fd, &c, 1, 0), 1);
	assert_int_equal(c, '{');
	close(a.fd);
}

static void whoever_connects_and_asks_ends_it(void **state)
{
	is_ended_by(*state, -1);
}

static void whoever_is_connected_and_asks_ends_it(void **state)
{
	is_ended_by(*state, a_connected_client(*state));
}

static void who_is_connected_and_asks_nothing_does_not(void **state)
{
	struct machine_of_ours *m = *state;
	int fd = a_connected_client(m);
	struct err err = ERR_INIT;

	m->ends = true;
	assert_int_equal(warm_up(&m->v, "true", LONG_MS, -1, &err), 0);
	assert_int_equal(m->runs, 2);
	close(fd);
}

static int setup(void **state)
{
	return mkdtemp(base) ? setenv("SMVM_RUN_DIR", base, 1) : -1;
}

static int teardown(void **state)
{
	return rmdir(base);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(whoever_connects_and_asks_ends_it, begin, end),
		cmocka_unit_test_setup_teardown(whoever_is_connected_and_asks_ends_it, begin, end),
		cmocka_unit_test_setup_teardown(who_is_connected_and_asks_nothing_does_not, begin,
						end),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
